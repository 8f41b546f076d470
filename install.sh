#!/usr/bin/env bash
# Make the Python environment and nothing else: requirements.lock into .venv, about 5 GB on Linux: bash install.sh
# An active virtual or conda environment that has what requirements.txt asks for is used as it is, and so is such a .venv.
# Without the lock, or for a PyTorch build of your own choice (CPU only, another CUDA), fill .venv with pip; then nothing is
# left to do here: docs/cluster.md has the commands.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
if asks_for_help "$@"; then
  show_help DRY_RUN
  exit 0
fi
[ $# = 0 ] || { echo "usage: bash install.sh" >&2; exit 2; }
make_python
[ -n "${DRY_RUN:-}" ] || echo "$PYTHON has what requirements.txt asks for"
