#!/usr/bin/env bash
# finetune: each corpus's best model fine-tuned on the other, in both orders. Needs run-init.sh.
# ORDER="A B C" bash run-finetune.sh   learns B, then C in one sequence; FOLDS, TASKS and SEEDS select runs as in run-init.sh.
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/sweep.sh"
sweep finetune.py finetune --batch_size 8 --num_epochs 40 "$@"
