#!/usr/bin/env bash
# task_a: the whole fusion model on each corpus alone, with the published batch size and epochs. Needed by finetune and ewc.
# FOLDS="0 1" TASKS=KEMDy19 SEEDS="12 13" bash run-init.sh --lr 2e-5   selects runs; further flags go to the script.
# ORDER="A B C" bash run-init.sh   trains on each corpus of a sequence, with the classes of all of them.
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/sweep.sh"
sweep continual_learning_init.py task_a --batch_size 8 --num_epochs 40 "$@"
