#!/usr/bin/env bash
# joint: the whole fusion model on both corpora at once, the tables' upper bound; with ORDER, on the first two of these corpora,
# on the first three, and so on.
# FOLDS and SEEDS select runs, and further flags go to the script, as in run-init.sh.
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/sweep.sh"
sweep continual_learning_init.py joint --batch_size 8 --num_epochs 40 "$@"
