#!/usr/bin/env bash
# Every run of every method on one machine with several GPUs, a run on each at a time: GPUS=4 bash run-grid.sh [flags]
# Variables choose as in the run scripts, whose commands these are; flags go to all of them. What is finished is skipped.
set -euo pipefail
set -f
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
source "$repository/utils/shell/interruptible.sh"
if asks_for_help "$@"; then
  show_help GPUS FOLDS ORDER SEEDS TEXT_MODEL SPEECH_MODEL LAUNCH DRY_RUN
  exit 0
fi
find_python || [ -n "${DRY_RUN:-}" ] || no_python

# On a shared machine the free devices are named.
IFS=, read -ra devices <<<"${CUDA_VISIBLE_DEVICES:-}"
gpus=${GPUS:-${#devices[@]}}
[ -n "${GPUS:-}" ] || [ "$gpus" != 0 ] || gpus=$({ nvidia-smi -L 2>/dev/null || true; } | wc -l | tr -d ' ')
[ -z "${DRY_RUN:-}" ] || gpus=1
[[ $gpus =~ ^[0-9]{1,4}$ ]] || fail "GPUS=$gpus is not a number of GPUs"
[ "$gpus" -ge 1 ] || fail "no GPU found; GPUS=1 runs one run at a time all the same (with --cpu if there is none)"
[ ${#devices[@]} != 0 ] || for ((i = 0; i < gpus; i++)); do devices+=("$i"); done
[ "$gpus" -le ${#devices[@]} ] || fail "GPUS=$gpus, and CUDA_VISIBLE_DEVICES names ${#devices[@]}"
check_grid
export DEVICES="${devices[*]}"

flags=("$@")
all=$(methods)
if [ -n "${ORDER:-}" ]; then
  TASKS=  # the stages' own
  if own_corpora; then
    CORPUS_FACTS=$(about_corpora "$@")  # once, and not for every script
    export CORPUS_FACTS
  fi
fi
# What xargs runs: SLOT is the number of a free slot, hence of a device; 255 tells it to start no other, since a signal came.
of_slot='trap : INT TERM; devices=($DEVICES); export CUDA_VISIBLE_DEVICES=${devices[SLOT]}'
# What xargs ignores its children ignore too, until told otherwise ('env --default-signal' is missing on RHEL 8).
listening='import os, signal as s, sys; s.signal(s.SIGINT, s.SIG_DFL); s.signal(s.SIGTERM, s.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])'
judged="case \$? in $RESUMABLE | 130 | 143) exit 255 ;; *) exit 1 ;; esac"
# stage KINDS [TASKS]: all runs of the methods of some kinds. After a signal it waits for those that are ending.
stage() {
  local name kind model start command
  trap : INT TERM
  while read -r name kind model start command; do
    case " $1 " in *" $kind "*)
      TASKS=${2:-${TASKS:-}} DRY_RUN=1 bash "$at"$command ${flags[@]+"${flags[@]}"} </dev/null ;;
    esac
  done <<<"$all" | if [ -n "${DRY_RUN:-}" ]; then cat; else (
    trap '' INT TERM
    xargs -r -d '\n' -P "$gpus" --process-slot-var=SLOT -I{} "$PYTHON" -I -c "$listening" \
      bash -c "$of_slot; {} || $judged"
  ); fi
}

# What fails is said, and the rest is run, unless a signal is the reason (124 is what xargs makes of 255).
failed=
judge() {
  failed=yes
  if [ "$1" = 124 ]; then
    say_interrupted ${flags[@]+"${flags[@]}"}
    exit "$RESUMABLE"
  fi
}

interruptible_together
stage "start alone joint" & wait $! || judge $?
# What learns in a sequence starts from the first task's model, and with ORDER from the step before.
steps=("${TASKS:-}")
[ -z "${ORDER:-}" ] || steps=($(later $ORDER))
for task in "${steps[@]}"; do
  stage sequence "$task" & wait $! || judge $?
done
[ -z "$failed" ] || fail "a run failed (see above); the same command does what is left"
