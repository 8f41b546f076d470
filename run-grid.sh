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

all=$(methods)
if [ -n "${ORDER:-}" ]; then
  TASKS=  # the stages' own
  if own_corpora; then
    CORPUS_FACTS=$(about_corpora "$@")  # once, and not for every script
    export CORPUS_FACTS
  fi
fi
# stage KINDS [TASKS]: the commands of all methods of some kinds. Then an empty line: what follows waits for them.
stage() {
  local tasks=${2:-${TASKS:-}} name kind model command
  while read -r name kind model command; do
    case " $1 " in *" $kind "*) TASKS=$tasks DRY_RUN=1 bash "$at"$command "${@:3}" </dev/null || exit ;; esac
  done <<<"$all"
  echo
}
commands() {
  local task steps=("${TASKS:-}")
  stage "start alone joint" "" "$@"
  # What learns in a sequence starts from the first task's model, and with ORDER from the step before.
  [ -z "${ORDER:-}" ] || steps=($(later $ORDER))
  for task in "${steps[@]}"; do stage sequence "$task" "$@"; done
}
commands=$(commands "$@")
if [ -n "${DRY_RUN:-}" ]; then
  sed '/^$/d' <<<"$commands"
  exit
fi
code=0
interruptible "$PYTHON" -I "$repository/utils/shell/slots.py" "${devices[@]:0:gpus}" <<<"$commands" || code=$?
case $code in
  0) ;;
  "$RESUMABLE") say_interrupted "$@"; exit "$RESUMABLE" ;;
  *) fail "a run failed (see above); the same command does what is left" ;;
esac
