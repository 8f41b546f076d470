#!/usr/bin/env bash
# Every run of every method on one machine with several GPUs, one run per GPU at a time: GPUS=4 bash run-grid.sh [flags]
# Variables select runs as in the run scripts; flags go to all of them. Finished runs are skipped.
set -euo pipefail
set -f
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
source "$repository/utils/shell/grid.sh"
if asks_for_help "$@"; then
  show_help GPUS RUNS_PER_GPU METHODS FOLDS ORDER SEEDS TEXT_MODEL SPEECH_MODEL LAUNCH DRY_RUN
  exit 0
fi
set_devices
check_grid "$@"
[ -z "${ORDER:-}" ] || TASKS=  # each step needs those before it
set_stages "$@"
all=$(methods --lines ${METHODS:-})

# stage KINDS TASKS FLAGS...: the commands of all methods of some kinds, and an empty line.
stage() {
  local name kind model start script
  while read -r name kind model start script; do
    case " $1 " in *" $kind "*) TASKS=$2 DRY_RUN=1 bash "$at"$script "${@:3}" </dev/null || exit ;; esac
  done <<<"$all"
  echo
}

commands=$(commands "$@")
make_runs "$commands" "$@" || some_failed
