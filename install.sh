#!/usr/bin/env bash
# Create the Python environment: requirements.lock into .venv, about 5 GB on Linux: bash install.sh
# An active virtual or conda environment that satisfies requirements.txt is used as is, and so is such a .venv.
# To install without the lock, or with another PyTorch build (CPU only, another CUDA), use pip in .venv instead of this script:
# docs/cluster.md has the commands.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/utils/shell/environment.sh"
if asks_for_help "$@"; then
  show_help DRY_RUN
  exit 0
fi
[ $# = 0 ] || { echo "usage: bash install.sh" >&2; exit 2; }
make_python
[ -n "${DRY_RUN:-}" ] || echo "$PYTHON satisfies requirements.txt"
