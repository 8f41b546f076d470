#!/usr/bin/env bash
# Every run of the paper's table on one machine with several GPUs, a run on each at a time: GPUS=4 bash run-grid.sh [flags]
# FOLDS, SEEDS, TEXT_MODEL and SPEECH_MODEL choose as in the run scripts, whose commands these are; what is finished is skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
source "$repository/utils/shell/interruptible.sh"
find_python || [ -n "${DRY_RUN:-}" ] || no_python
fail() {
  echo "error: $*" >&2
  exit 1
}

# Whoever shares the machine names the devices that are free.
IFS=, read -ra devices <<<"${CUDA_VISIBLE_DEVICES:-}"
gpus=${GPUS:-${#devices[@]}}
[ -n "${GPUS:-}" ] || [ "$gpus" != 0 ] || gpus=$({ nvidia-smi -L 2>/dev/null || true; } | wc -l | tr -d ' ')
[ -z "${DRY_RUN:-}" ] || gpus=1
[[ $gpus =~ ^[0-9]{1,4}$ ]] || fail "GPUS=$gpus is not a number of GPUs"
[ "$gpus" -ge 1 ] || fail "no GPU found; GPUS=1 runs one run at a time all the same (with --cpu if there is none)"
[ ${#devices[@]} != 0 ] || for ((i = 0; i < gpus; i++)); do devices+=("$i"); done
[ "$gpus" -le ${#devices[@]} ] || fail "GPUS=$gpus, and CUDA_VISIBLE_DEVICES names ${#devices[@]}"
[ -z "${EXP_NAME:-}" ] || fail "EXP_NAME=$EXP_NAME would put all settings into one folder: unset it"
export DEVICES="${devices[*]}"

flags=("$@")
# What xargs runs: SLOT is the number of a free slot, hence of a device; 255 tells it to start no other, since a signal came.
of_slot='trap : INT TERM; devices=($DEVICES); export CUDA_VISIBLE_DEVICES=${devices[SLOT]}'
# What xargs ignores its children ignore too, until told otherwise ('env --default-signal' is missing on RHEL 8).
listening='import os, signal as s, sys; s.signal(s.SIGINT, s.SIG_DFL); s.signal(s.SIGTERM, s.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])'
judged="case \$? in $RESUMABLE | 130 | 143) exit 255 ;; *) exit 1 ;; esac"
# stage SCRIPT...: all runs of some scripts. After a signal it waits for those that are ending.
stage() {
  local script
  trap : INT TERM
  for script in "$@"; do
    DRY_RUN=1 bash "$at$script" ${flags[@]+"${flags[@]}"}
  done | if [ -n "${DRY_RUN:-}" ]; then cat; else (
    trap '' INT TERM
    xargs -r -d '\n' -P "$gpus" --process-slot-var=SLOT -I{} "$PYTHON" -I -c "$listening" \
      bash -c "$of_slot; {} || $judged"
  ); fi
}

# What fails is said, and the rest goes on, unless a signal is the reason (124 is what xargs makes of 255).
failed=
judge() {
  failed=yes
  if [ "$1" = 124 ]; then
    say_interrupted ${flags[@]+"${flags[@]}"}
    exit "$RESUMABLE"
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
