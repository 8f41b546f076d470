#!/usr/bin/env bash
# The whole experiment on synthetic corpora with two small encoders, in less than ten minutes on two cores, and its tables:
# bash run-demo.sh [--full [--publish] | --tune]. What is finished is skipped, so the same command resumes where it was stopped.
# --full makes what the README's tables come from, in about two hours: all five folds, every method of utils/methods.py, a grid
# of λ, task_a by voice alone and by words alone, and the rows that combine models.
# --tune makes and prints the trials by which rates and sizes were chosen, on corpora of another seed, in about two hours.
# --publish draws its figures into figures/demo/, which git tracks, and not into outputs/demo/figures/.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
if asks_for_help "$@"; then
  show_help SEEDS
  exit 0
fi

full= tune= names= data=${DEMO_DATA:-${at}data/demo} outputs=${DEMO_OUTPUTS:-${at}outputs/demo}  # elsewhere and in miniature for the tests
size=${DEMO_SIZE:-} figures=${DEMO_FIGURES:-$outputs/figures}
export FOLDS="0 1 2 3 4"
case "$*" in
  "") names="task_a finetune ewc adapter adapter_wo_pretraining joint" FOLDS="0 1" ;;
  --full) full=yes ;;
  "--full --publish" | "--publish --full") full=yes figures=${DEMO_FIGURES:-${at}figures/demo} ;;
  --tune) tune=yes FOLDS=0 data+=/tuning outputs+=/tuning size+=" --seed 101" ;;
  *) echo "usage: bash run-demo.sh [--full [--publish] | --tune]" >&2; exit 2 ;;
esac
make_python
source "$repository/utils/shell/grid.sh"
# Two runs side by side, a thread each: small models gain nothing from more.
devices=(0 1)
export OMP_NUM_THREADS=1

# flags_of METHOD
flags_of() {
  case $1 in
    adapter*) echo "--lr 4e-3 --num_epochs 12 --adapter_size 48" ;;
    lora | linear) echo "--lr 4e-3 --num_epochs 12" ;;
    ewc) echo "--lr 5e-4 --num_epochs 6 --ewc_lambda 1000" ;;
    er | derpp) echo "--lr 5e-4 --num_epochs 6 --buffer_size 50" ;;
    *) echo "--lr 5e-4 --num_epochs 6" ;;
  esac
}

# runs PART SCRIPT FLAGS...: the commands of a run script, on the demonstration's corpora or on a copy of them in a subfolder.
runs() {
  local part=$1
  shift
  DRY_RUN=1 bash "$at"$1 "${@:2}" --cpu --num_workers 0 --k_fold 5 --batch_size 32 --data_root "$data$part" \
    --output_root "$outputs$part" --text_model "$data/encoders/text" --speech_model "$data/encoders/speech" </dev/null
}

# commands: those of everything, and an empty line where what follows starts from what is before it.
commands() {
  local kinds part name kind model start script
  for kinds in "start alone joint" sequence; do
    while read -r name kind model start script; do
      case " $kinds " in *" $kind "*) ;; *) continue ;; esac
      [ "$name" != ewc_online ] || continue  # with two tasks it is ewc
      [ -z "$tune" ] || [ "$kind" = start ] || continue
      runs "" "$script" $(flags_of "$name")
    done <<<"$all"
    if [ -n "$full" ] && [ "$kinds" != sequence ]; then
      for part in voice-only words-only; do runs /$part run-init.sh $(flags_of task_a); done
    elif [ -n "$full" ]; then
      EXP_NAME=ewc_tuned runs "" run-ewc.sh $(flags_of ewc_tuned)
      FOLDS="0 1" LAMBDAS="10 100 10000 100000 1000000" runs "" run-ewc-lambda.sh $(flags_of ewc)
    fi
    echo
  done
  [ -n "$tune" ] || return 0
  export TRIALS=8 LRS="1e-4 2e-4 5e-4 1e-3 2e-3 4e-3 8e-3 2e-2"
  while read -r name kind model start script; do
    case $name in task_a* | joint | ewc_online) ;; *) runs "" "run-tune.sh $name" $(flags_of "$name") ;; esac
  done <<<"$all"
}

# -P: what lies where the caller is may be called utils too.
make_material() {
  PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -P -m utils.demo "$data" $size "$@"
}
all=$(methods --lines $names)
make_material
[ -z "$full" ] || for part in voice words; do make_material --only $part; done
commands=$(commands)
make_runs "$commands" || some_failed
[ -z "$full" ] || bash "${at}run-combine.sh" --cpu --num_workers 0 --data_root "$data" --output_root "$outputs" \
  --text_model "$data/encoders/text" --speech_model "$data/encoders/speech"

echo
if [ -n "$tune" ]; then
  exec "$PYTHON" "${at}evaluate.py" --output_root "$outputs" --tables tuning
fi
"$PYTHON" "${at}evaluate.py" --output_root "$outputs" --folds $FOLDS --figures "$figures" ${full:+--all}
if [ -n "$full" ]; then
  for part in voice-only words-only; do
    printf '\n%s: task_a on copies of the corpora\n\n' "$part"
    "$PYTHON" "${at}evaluate.py" --output_root "$outputs/$part" --folds $FOLDS --settings task_a
  done
fi
