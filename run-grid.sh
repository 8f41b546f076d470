#!/usr/bin/env bash
# Every run of the paper's table on one machine with several GPUs, a run on each at a time: GPUS=4 bash run-grid.sh [flags]
# FOLDS, SEEDS, TEXT_MODEL and SPEECH_MODEL choose as in the run scripts, whose commands these are; what is finished is skipped.
set -euo pipefail
CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")"
gpus=${GPUS:-$(nvidia-smi -L 2>/dev/null | wc -l)}
if [ "$gpus" -lt 1 ]; then
  echo "error: no GPU found; GPUS=1 runs one run at a time all the same (with --cpu if there is none)" >&2
  exit 1
fi

flags=("$@")
# stage SCRIPT...: all runs of some scripts; xargs gives each the number of a slot that is free, as its device.
stage() {
  local script
  for script in "$@"; do
    DRY_RUN=1 bash "$script" "${flags[@]}"
  done | xargs -r -d '\n' -P "$gpus" --process-slot-var=CUDA_VISIBLE_DEVICES -I{} bash -c '{}'
}

failed=
# finetune and ewc start from task_a. What fails is said, and the rest goes on.
stage run-init.sh || failed=yes
stage run-finetune.sh run-ewc.sh run-adapter.sh run-adapter-wo-pretraining.sh run-joint.sh || failed=yes
if [ -n "$failed" ]; then
  echo "error: a run failed (see above); the same command does what is left" >&2
  exit 1
fi
