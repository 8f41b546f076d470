#!/usr/bin/env bash
# Tune every method with the same budget: trials of the learning rate, and of the method's own hyperparameter, if any, into
# outputs/METHOD_tuned-trial1/ and so on: bash run-tune.sh [METHOD...] [flags]
# evaluate.py selects by validation score, per fold, and shows the row METHOD_tuned. By default all methods are tuned except
# starting points, which run-init.sh and its like train. One run per GPU at a time (run-grid.sh).
set -euo pipefail
set -f
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
source "$repository/utils/shell/grid.sh"
if asks_for_help "$@"; then
  show_help TRIALS LRS CHOOSE_ON GPUS RUNS_PER_GPU FOLDS TASKS ORDER SEEDS TEXT_MODEL SPEECH_MODEL LAUNCH DRY_RUN
  exit 0
fi
set_names "$@"
shift $(wc -w <<<"$names")
set_devices
check_grid "$@"
set_stages "$@"

# trials FLAGS...: the trials drawn by utils/results/tuning.py, one per line.
trials() {
  PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH} "${PYTHON:-python3}" -P -m utils.results.tuning $names \
    ${TRIALS:+--number "$TRIALS"} ${LRS:+--rates $LRS} "$@"
}

# stage KINDS TASKS FLAGS...: the commands of the trials in $lines of all methods of some kinds, and an empty line.
stage() {
  local name kind number seed task tasks flags
  while read -r name kind number seed task flags; do
    tasks=$2
    if [ "${task:--}" != - ]; then
      case " ${tasks:-$task} " in *" $task "*) tasks=$task ;; *) continue ;; esac
    fi
    case " $1 " in *" $kind "*)
      [ "$seed" != - ] || seed=${SEEDS:-}
      SEEDS=$seed TASKS=$tasks EXP_NAME=${name}_tuned-trial$number DRY_RUN=1 bash "$at"run.sh "$name" "${@:3}" \
        --trial_of "${name}_tuned" $flags </dev/null || exit ;;
    esac
  done <<<"$lines"
  echo
}

failed=
lines=$(trials)
commands=$(FOLDS=${CHOOSE_ON:-${FOLDS:-}} commands "$@")
make_runs "$commands" "$@" || failed=yes
if [ -n "${CHOOSE_ON:-}" ]; then
  outputs=$(flag --output_root "${at}outputs" "$@")
  lines=$(trials --choose_on $CHOOSE_ON --seeds ${SEEDS:-12} ${ORDER:+--order $ORDER} --output_root "$outputs")
  commands=$(commands "$@")
  make_runs "$commands" "$@" || failed=yes
fi
[ -z "$failed" ] || some_failed
