#!/usr/bin/env bash
# One method over folds, seeds and tasks, with the published batch size and epochs: bash run.sh METHOD [flags]
# FOLDS, TASKS, ORDER and SEEDS select runs, and further flags go to the method's script: bash run.sh METHOD --help.
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/sweep.sh"
case "${1:--h}" in -*)
  show_help FOLDS TASKS ORDER SEEDS EXP_NAME TEXT_MODEL SPEECH_MODEL LAUNCH DRY_RUN
  printf '\nmethods:\n'
  methods --list
  exit
  ;;
esac
words=$(methods "$1")
eval "words=($words)"
# Some methods have their own run script.
[ "${words[1]}" = "run.sh $1" ] || exec bash "$at${words[1]}" "${@:2}"
sweep "${words[2]}" "$1" --batch_size 8 --num_epochs 40 "${words[@]:3}" "${@:2}"
