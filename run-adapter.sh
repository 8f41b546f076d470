#!/usr/bin/env bash
# adapter: each corpus's own adapters over frozen pretrained encoders.
# FOLDS, TASKS and SEEDS select runs, and further flags go to the script, as in run-init.sh.
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/sweep.sh"
sweep adapter.py adapter --batch_size 8 --num_epochs 40 "$@"
