#!/usr/bin/env bash
# Rows that are not told the corpus, from finished runs of adapter, task_a and finetune; nothing is trained.
# FOLDS="0 1" SEEDS="12 13" bash run-combine.sh   does a part (default: all that were run); flags go to utils/results/combine.py.
set -euo pipefail
set -f
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
! asks_for_help "$@" || show_help
find_python || no_python
PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH} exec "$PYTHON" -P -m utils.results.combine --output_root "${at}outputs" \
  ${FOLDS:+--folds $FOLDS} ${SEEDS:+--seeds $SEEDS} "$@"
