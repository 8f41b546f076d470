#!/usr/bin/env bash
# What a model leaks about single utterances: runs that train on random halves of the training split, and the leak report on
# these and all other runs: bash run-leakage.sh [METHOD...] [flags]
# By default adapter, then finetune with its starting point task_a, HALVES runs of each on fold 0. Flags go to every method's
# script; for different rates use one command per method. Finished runs are skipped. One run per GPU at a time (run-grid.sh).
set -euo pipefail
set -f
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
source "$repository/utils/shell/grid.sh"
if asks_for_help "$@"; then
  show_help HALVES GPUS RUNS_PER_GPU FOLDS TASKS ORDER SEEDS TEXT_MODEL SPEECH_MODEL LAUNCH DRY_RUN
  exit 0
fi
set_names "$@"
shift $(wc -w <<<"$names")
names=${names:- adapter finetune} halves=${HALVES:-16}
[[ $halves =~ ^[1-9][0-9]{0,3}$ ]] || fail "HALVES=$halves is not a number of runs"
export FOLDS=${FOLDS:-0}
set_devices
check_grid "$@"
[ -z "${ORDER:-}" ] || TASKS=  # each step needs those before it
set_stages "$@"
lines=$(methods --lines $names)
# In the order named, then further methods that they start from.
all=$({ for name in $names; do grep "^$name " <<<"$lines"; done; echo "$lines"; } | awk '!seen[$0]++')

# stage KINDS TASKS FLAGS...: the commands of all methods of some kinds, and an empty line. Methods that were not named are
# starting points, needed for every task.
stage() {
  local name kind model start script half tasks
  while read -r name kind model start script; do
    case " $1 " in *" $kind "*) ;; *) continue ;; esac
    case " $names " in *" $name "*) tasks=$2 ;; *) tasks= ;; esac
    for ((half = 1; half <= halves; half++)); do
      TASKS=$tasks DRY_RUN=1 bash "$at"$script "${@:3}" --train_half "$half" </dev/null || exit
    done
  done <<<"$all"
  echo
}

commands=$(commands "$@")
make_runs "$commands" "$@" || some_failed
report=("${at}leakage.py" --output_root "$(flag --output_root "${at}outputs" "$@")")
case " $* " in *" --cpu "*) report+=(--cpu) ;; esac
run_or_print exec "${PYTHON:-python}" "${report[@]}"
