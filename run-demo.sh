#!/usr/bin/env bash
# The whole experiment on synthetic corpora with two small encoders, in about ten minutes on two cores, and its tables:
# bash run-demo.sh [--full | --tune | --leakage] [--publish]. Finished runs are skipped, so the same command resumes.
# --full reproduces the README's tables, in about two hours: all five folds, every method of utils/methods.py, a grid of λ,
# task_a with speech only and with text only, and the rows that combine models.
# --tune runs and prints the trials that selected learning rates and sizes, on corpora of another seed, in about two hours.
# --leakage runs what the leak report needs (a second seed, random halves, adapters with DP-SGD, with other samplers and without
# one session), and reports on these and on the runs of --full, in about two hours.
# --publish, with --full or --leakage, draws into figures/demo/, which git tracks, instead of under outputs/demo/.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
if asks_for_help "$@"; then
  show_help SEEDS DRY_RUN
  exit 0
fi

mode=${1:-} names=
# The tests use other places and sizes.
data=${DEMO_DATA:-${at}data/demo} outputs=${DEMO_OUTPUTS:-${at}outputs/demo} size=${DEMO_SIZE:-}
figures=${DEMO_FIGURES:-$outputs/figures}
export FOLDS="0 1 2 3 4"
case "$*" in
  "") names="task_a finetune ewc adapter adapter_wo_pretraining joint" FOLDS="0 1" ;;
  --full | --leakage) ;;
  "--full --publish" | "--leakage --publish") figures=${DEMO_FIGURES:-${at}figures/demo} ;;
  --tune) FOLDS=0 data+=/tuning outputs+=/tuning size+=" --seed 101" ;;
  *) echo "usage: bash run-demo.sh [--full | --tune | --leakage] [--publish]" >&2; exit 2 ;;
esac
make_python
source "$repository/utils/shell/grid.sh"
python=${PYTHON:-python}
# Two runs in parallel with one thread each: small models do not benefit from more.
devices=(0 1)
export OMP_NUM_THREADS=1

# flags_of METHOD: the flags shared by all its trials and, without --tune, then those of the best trial.
flags_of() {
  case $1 in
    adapter*) echo "--lr 4e-3 --num_epochs 12 --adapter_size 48" ;;
    lora | linear) echo "--lr 4e-3 --num_epochs 12" ;;
    ewc) echo "--lr 5e-4 --num_epochs 6 --ewc_lambda 1000" ;;
    er | derpp) echo "--lr 5e-4 --num_epochs 6 --buffer_size 50" ;;
    *) echo "--lr 5e-4 --num_epochs 6" ;;
  esac
  [ "$mode" != --tune ] || return 0
  case $1 in
    finetune | finetune_frozen_speech) echo "--lr 2e-3" ;;
    ewc) echo "--lr 2e-3 --ewc_lambda 5000" ;;  # the published λ, at the rate of finetune
    ewc_tuned) echo "--ewc_lambda 100000" ;;
    mas) echo "--lr 2e-3 --ewc_lambda 0.02" ;;
    lwf) echo "--lr 1e-3 --lwf_weight 0.3" ;;
    er) echo "--lr 2e-4 --replay_weight 0.5" ;;
    derpp) echo "--der_alpha 0.5" ;;
    adapter) echo "--lr 8e-3 --adapter_size 32" ;;
    adapter_shared) echo "--lr 8e-3 --adapter_size 32" ;;
    adapter_wo_pretraining) echo "--lr 2e-3 --adapter_size 128" ;;
    lora) echo "--lr 8e-3 --lora_rank 16" ;;
    linear) echo "--lr 2e-2" ;;
  esac
}

# runs PART SCRIPT FLAGS...: the commands of a run script, on the demonstration's corpora or on a copy of them in a subfolder.
runs() {
  local part=$1 script=$2
  shift 2
  DRY_RUN=1 RUNS_PER_GPU= bash "$at"$script --cpu --num_workers 0 --k_fold 5 --batch_size 32 \
    --data_root "$data$part" --output_root "$outputs$part" --text_model "$data/encoders/text" \
    --speech_model "$data/encoders/speech" "$@" </dev/null
}

# study: the commands of all methods, with an empty line where later runs depend on earlier ones.
study() {
  local kinds part name kind model start script
  for kinds in "start alone joint" sequence; do
    while read -r name kind model start script; do
      case " $kinds " in *" $kind "*) ;; *) continue ;; esac
      [ "$name" != ewc_online ] || continue  # equals ewc for two tasks
      [ "$mode" != --tune ] || [ "$kind" = start ] || continue
      runs "" "$script" $(flags_of "$name")
    done <<<"$all"
    if [ "$mode $kinds" = "--full sequence" ]; then
      EXP_NAME=ewc_tuned runs "" run-ewc.sh $(flags_of ewc_tuned)
      FOLDS="0 1" LAMBDAS="10 100 1000 10000 100000 1000000" runs "" run-ewc-lambda.sh $(flags_of ewc)
    elif [ "$mode" = --full ]; then
      for part in voice-only words-only; do runs /$part run-init.sh $(flags_of task_a); done
    fi
    echo
  done
}

trials() {
  local name kind model start script
  export TRIALS=8 LRS="1e-4 2e-4 5e-4 1e-3 2e-3 4e-3 8e-3 2e-2"
  while read -r name kind model start script; do
    case $name in task_a* | joint | ewc_online) ;; *) runs "" "run-tune.sh $name" $(flags_of "$name") ;; esac
  done <<<"$all"
}

# leaks: adapters, then task_a, then finetune, which starts from it; each with a second seed, and 16 times on random halves.
leaks() {
  local name half epsilon
  for name in adapter task_a finetune; do
    SEEDS="12 13" runs "" "run.sh $name" $(flags_of $name)
    for half in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
      FOLDS=0 runs "" "run.sh $name" $(flags_of $name) --train_half $half
    done
    [ $name = finetune ] || echo
    [ $name = adapter ] || continue
    EXP_NAME=adapter_weighted_loss runs "" "run.sh adapter" $(flags_of adapter) --sampler weighted_loss
    EXP_NAME=adapter_capped runs "" "run.sh adapter" $(flags_of adapter) --sampler capped --cap 2
    EXP_NAME=adapter_withdrawn runs "" "run.sh adapter" $(flags_of adapter) --withdraw KEMDy19/1 KEMDy20/1
    for epsilon in 1 3 8; do
      EXP_NAME=adapter_eps$epsilon runs "" "run.sh adapter" $(flags_of adapter) --epsilon $epsilon --batch_size 128
    done
  done
}

# -P: the caller's folder may contain another utils.
make_material() {
  run_or_print env PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" "$python" -P -m utils.demo "$data" $size "$@"
}
all=$(methods --lines $names)
make_material
[ "$mode" != --full ] || for part in voice words; do make_material --only $part; done
case $mode in
  --tune) commands=$(study; trials) ;;
  --leakage) commands=$(leaks) ;;
  *) commands=$(study) ;;
esac
make_runs "$commands" || some_failed

[ -n "${DRY_RUN:-}" ] || echo
case $mode in
  --tune) run_or_print exec "$python" "${at}evaluate.py" --output_root "$outputs" --tables tuning ;;
  --leakage)
    run_or_print "$python" "${at}leakage.py" --output_root "$outputs" --cpu --num_workers 0 --controls
    [ "$figures" != "${at}figures/demo" ] ||
      run_or_print cp "$outputs"/leakage/{plane,plane_utterance,roc,samplers}.png "$figures" ;;
  --full)
    bash "${at}run-combine.sh" --cpu --num_workers 0 --data_root "$data" --output_root "$outputs" \
      --text_model "$data/encoders/text" --speech_model "$data/encoders/speech"
    run_or_print "$python" "${at}evaluate.py" --output_root "$outputs" --folds $FOLDS --figures "$figures" --all
    for part in voice-only words-only; do
      [ -n "${DRY_RUN:-}" ] || printf '\n%s: task_a on copies of the corpora\n\n' "$part"
      run_or_print "$python" "${at}evaluate.py" --output_root "$outputs/$part" --folds $FOLDS --settings task_a
    done ;;
  *) run_or_print "$python" "${at}evaluate.py" --output_root "$outputs" --folds $FOLDS --figures "$figures" ;;
esac
