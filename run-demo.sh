#!/usr/bin/env bash
# The whole experiment on synthetic corpora with two small encoders, in less than ten minutes on two cores, and its tables.
# What is finished is skipped, so the same command resumes where it was stopped.
# --full: what the README's tables come from: three seeds, a grid of λ, and task_a by voice alone and by words alone.
set -euo pipefail

full=
case "${1:-}" in
  "") ;;
  --full) full=yes ;;
  *) echo "usage: bash run-demo.sh [--full]" >&2; exit 2 ;;
esac
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
source "$repository/utils/shell/interruptible.sh"
make_python

export SEEDS="${SEEDS:-12${full:+ 13 14}}"
# Elsewhere and in miniature for the tests.
data=${DEMO_DATA:-${at}data/demo} outputs=${DEMO_OUTPUTS:-${at}outputs/demo} figures=${DEMO_FIGURES:-${at}figures/demo}
size=${DEMO_SIZE:-}
# Two runs side by side, a thread each: small models gain nothing from more.
export OMP_NUM_THREADS=1

# Sizes and rates were chosen on other corpora, seeds and folds than these; the README says how.
whole="--lr 5e-4 --num_epochs 6"
adapters="--lr 4e-3 --num_epochs 12 --adapter_size 48"

# train SCRIPT SUBFOLDER FLAGS...: one run script on the demonstration's corpora, or on a copy of them in a subfolder.
train() {
  local script=$1 part=$2
  shift 2
  bash "$at$script" --cpu --num_workers 0 --k_fold 5 --batch_size 32 --data_root "$data$part" --output_root "$outputs$part" \
    --text_model "$data/encoders/text" --speech_model "$data/encoders/speech" "$@"
}

# The five settings and the upper bound on one fold. Lines of the two folds mix, so each says which it is of.
one_fold() {
  export FOLDS=$1
  trap : INT TERM  # the runs hear of it
  {
    trap : INT TERM
    train run-init.sh "" $whole
    train run-finetune.sh "" $whole
    train run-ewc.sh "" $whole --ewc_lambda 1000
    train run-adapter.sh "" $adapters
    train run-adapter-wo-pretraining.sh "" $adapters
    train run-joint.sh "" $whole
    if [ -n "$full" ]; then
      SEEDS=12 LAMBDAS="10 100 10000 100000 1000000" train run-ewc-lambda.sh "" $whole
      train run-init.sh /voice-only $whole
      train run-init.sh /words-only $whole
    fi
  } 2>&1 | (
    trap '' INT TERM
    while IFS= read -r line; do printf 'fold %s | %s\n' "$FOLDS" "$line"; done
  )
}

# -P: what lies where the caller is may be called utils too.
make_material() {
  PYTHONPATH=$repository "$PYTHON" -P -m utils.demo "$data" $size "$@"
}
make_material
if [ -n "$full" ]; then
  make_material --only voice
  make_material --only words
fi
interruptible_together
one_fold 0 & first=$!
one_fold 1 & second=$!
failed=
wait $first || failed=yes
wait $second || failed=yes
if [ -n "$failed" ]; then
  echo "error: a run of the demonstration failed (see above); the same command resumes from there" >&2
  exit 1
fi

echo
"$PYTHON" "${at}evaluate.py" --output_root "$outputs" --folds 0 1 --figures "$figures"
if [ -n "$full" ]; then
  for part in voice-only words-only; do
    printf '\n%s: task_a on copies of the corpora\n\n' "$part"
    "$PYTHON" "${at}evaluate.py" --output_root "$outputs/$part" --folds 0 1
  done
fi
