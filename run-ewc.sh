#!/usr/bin/env bash
# ewc: like finetune, with the penalty of elastic weight consolidation. Needs run-init.sh.
# FOLDS="0 1" bash run-ewc.sh --ewc_lambda 500   runs two folds with another λ.
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/sweep.sh"
sweep ewc.py ewc --batch_size 8 --num_epochs 40 --ewc_lambda 5000 --fisher_batch_size 10 "$@"
