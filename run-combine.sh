#!/usr/bin/env bash
# Task-agnostic rows (routed, averaged and merged models) from finished runs of adapter, task_a and finetune, without training.
# FOLDS="0 1" SEEDS="12 13" bash run-combine.sh   selects runs (default: all); flags go to utils/results/combine.py.
set -euo pipefail
set -f
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
if asks_for_help "$@"; then
  show_help DRY_RUN
  unset DRY_RUN
fi
find_python || [ -n "${DRY_RUN:-}" ] || no_python
run_or_print exec env PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python}" -P -m utils.results.combine \
  --output_root "${at}outputs" ${FOLDS:+--folds $FOLDS} ${SEEDS:+--seeds $SEEDS} "$@"
