#!/usr/bin/env bash
# Every run of the paper's table on one machine with several GPUs, a run on each at a time: GPUS=4 bash run-grid.sh [flags]
# FOLDS, SEEDS, TEXT_MODEL and SPEECH_MODEL choose as in the run scripts, whose commands these are; what is finished is skipped.
set -euo pipefail
CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")"
source utils/interruptible.sh
gpus=${GPUS:-$(nvidia-smi -L 2>/dev/null | wc -l)}
if [ "$gpus" -lt 1 ]; then
  echo "error: no GPU found; GPUS=1 runs one run at a time all the same (with --cpu if there is none)" >&2
  exit 1
fi

flags=("$@")
# stage SCRIPT...: all runs of some scripts; xargs gives each the number of a slot that is free, as its device. It starts no other
# once a run has been cut off by a signal (255 tells it so), and waits for those that are keeping what they have.
stage() {
  local script
  trap : INT TERM
  for script in "$@"; do
    DRY_RUN=1 bash "$script" "${flags[@]}"
  done | (
    trap '' INT TERM
    xargs -r -d '\n' -P "$gpus" --process-slot-var=CUDA_VISIBLE_DEVICES -I{} env --default-signal=INT,TERM \
      bash -c "trap : INT TERM; {} || { code=\$?; case \$code in $GO_ON_LATER | 130 | 143) exit 255 ;; *) exit \$code ;; esac; }"
  )
}

# What fails is said, and the rest goes on, unless a signal is the reason (124 is what xargs makes of 255).
failed=
judge() {
  failed=yes
  if [ "$1" = 124 ]; then
    say_go_on_later "${flags[@]}"
    exit "$GO_ON_LATER"
  fi
}

interruptible_together
# finetune and ewc start from task_a.
stage run-init.sh & wait $! || judge $?
stage run-finetune.sh run-ewc.sh run-adapter.sh run-adapter-wo-pretraining.sh run-joint.sh & wait $! || judge $?
if [ -n "$failed" ]; then
  echo "error: a run failed (see above); the same command does what is left" >&2
  exit 1
fi
