#!/usr/bin/env bash
# adapter_wo_pretraining: the same adapters over frozen, randomly initialized encoders.
# FOLDS, TASKS and SEEDS select runs, and further flags go to the script, as in run-init.sh.
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/sweep.sh"
sweep adapter.py adapter_wo_pretraining --without_pretraining --batch_size 8 --num_epochs 40 "$@"
