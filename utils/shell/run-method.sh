#!/usr/bin/env bash
# A method that has no run script of its own, with the published batch size and epochs: run-method.sh NAME [flags]
# NAME is one of utils/methods.py; FOLDS, TASKS, ORDER and SEEDS choose a part, and further flags go to its script.
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"
case "${1:--h}" in -h | --help)
  show_help FOLDS TASKS ORDER SEEDS EXP_NAME TEXT_MODEL SPEECH_MODEL LAUNCH DRY_RUN
  printf '\nmethods, each with a --help of its own: %s\n' "$(methods | cut -d ' ' -f 1 | tr '\n' ' ')"
  exit 0
  ;;
esac
words=$(methods "$1")
eval "words=($words)"
sweep "${words[1]}" "$1" --batch_size 8 --num_epochs 40 "${words[@]:2}" "${@:2}"
