#!/usr/bin/env bash
# Run the tests; on the first call, install the requirements into .venv. Further flags go to pytest.
set -euo pipefail
CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")"
source utils/shell/environment.sh
if asks_for_help "$@"; then
  show_help DRY_RUN
  exit 0
fi
make_python
run_or_print exec "${PYTHON:-python}" -m pytest tests "$@"
