#!/usr/bin/env bash
# The whole experiment on synthetic corpora with two small encoders, in less than ten minutes on two cores, and its tables:
# bash run-demo.sh [--full [--publish]]. What is finished is skipped, so the same command resumes where it was stopped.
# --full adds what the README's tables come from: three seeds, a grid of λ, task_a by voice alone and by words alone, and the
# rows that are not told the corpus.
# --publish draws its figures into figures/demo/, which git tracks, and not into outputs/demo/figures/.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
source "$repository/utils/shell/interruptible.sh"
if asks_for_help "$@"; then
  show_help SEEDS
  exit 0
fi

full= data=${DEMO_DATA:-${at}data/demo} outputs=${DEMO_OUTPUTS:-${at}outputs/demo}  # elsewhere and in miniature for the tests
size=${DEMO_SIZE:-} figures=${DEMO_FIGURES:-$outputs/figures}
case "$*" in
  "") ;;
  --full) full=yes ;;
  "--full --publish" | "--publish --full") full=yes figures=${DEMO_FIGURES:-${at}figures/demo} ;;
  *) echo "usage: bash run-demo.sh [--full [--publish]]" >&2; exit 2 ;;
esac
make_python

parts=${full:+voice-only words-only}
export SEEDS="${SEEDS:-12${full:+ 13 14}}"
# Two runs side by side, a thread each: small models gain nothing from more.
export OMP_NUM_THREADS=1

# flags_of METHOD MODEL. Sizes and rates were chosen on other corpora, seeds and folds than these; the README says how.
flags_of() {
  case $2 in
    adapter) echo "--lr 4e-3 --num_epochs 12 --adapter_size 48" ;;
    *) echo "--lr 5e-4 --num_epochs 6" ;;
  esac
  [ "$1" != ewc ] || echo "--ewc_lambda 1000"
}

# train SUBFOLDER SCRIPT FLAGS...: one run script on the demonstration's corpora, or on a copy of them in a subfolder.
train() {
  local part=$1 script=$2
  shift 2
  bash "$at"$script --cpu --num_workers 0 --k_fold 5 --batch_size 32 --data_root "$data$part" --output_root "$outputs$part" \
    --text_model "$data/encoders/text" --speech_model "$data/encoders/speech" "$@" </dev/null
}

# Every method on one fold. Lines of the two folds mix, so each says which it is of.
one_fold() {
  local name kind model start script
  export FOLDS=$1
  trap : INT TERM  # the runs hear of it
  {
    trap : INT TERM
    while read -r name kind model start script; do
      train "" "$script" $(flags_of "$name" "$model")
    done <<<"$all"
    for part in $parts; do train /$part run-init.sh $(flags_of task_a fusion); done
    [ -z "$full" ] || SEEDS=12 LAMBDAS="10 100 10000 100000 1000000" train "" run-ewc-lambda.sh $(flags_of finetune fusion)
  } 2>&1 | (
    trap '' INT TERM
    while IFS= read -r line; do printf 'fold %s | %s\n' "$FOLDS" "$line"; done
  )
}

# -P: what lies where the caller is may be called utils too.
make_material() {
  PYTHONPATH=$repository "$PYTHON" -P -m utils.demo "$data" $size "$@"
}
all=$(methods --lines task_a finetune ewc adapter adapter_wo_pretraining joint)
make_material
for part in $parts; do make_material --only ${part%-only}; done
interruptible_together
one_fold 0 & first=$!
one_fold 1 & second=$!
wait $first && first=
wait $second && [ -z "$first" ] || fail "a run of the demonstration failed (see above); the same command resumes from there"
[ -z "$full" ] || bash "${at}run-combine.sh" --cpu --num_workers 0 --data_root "$data" --output_root "$outputs" \
  --text_model "$data/encoders/text" --speech_model "$data/encoders/speech"

echo
"$PYTHON" "${at}evaluate.py" --output_root "$outputs" --folds 0 1 --figures "$figures"
for part in $parts; do
  printf '\n%s: task_a on copies of the corpora\n\n' "$part"
  "$PYTHON" "${at}evaluate.py" --output_root "$outputs/$part" --folds 0 1
done
