#!/usr/bin/env bash
# finetune: each corpus's best model fine-tuned on the other, in both orders. Needs run-init.sh.
# FOLDS, TASKS and SEEDS choose a part, and further flags go to the script, as in run-init.sh.
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/sweep.sh"
sweep finetune.py finetune --batch_size 8 --num_epochs 40 "$@"
