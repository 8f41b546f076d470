# Sourced by the run scripts: where the repository is, and a Python that has what requirements.txt asks for, found or made.
repository=$(CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# In front of the repository's files in commands, which run where the caller is: paths in flags are the caller's.
at=$repository/
[ ! "$PWD" -ef "$repository" ] || at=

# Sets PYTHON. The active environment if it will do, else .venv, else the system's Python; fails if none has what is asked for.
find_python() {
  local candidate
  for candidate in ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} ${CONDA_PREFIX:+"$CONDA_PREFIX/bin/python"} \
    "$repository/.venv/bin/python" python3; do
    if command -v "$candidate" >/dev/null && "$candidate" "$repository/utils/shell/requirements.py" >/dev/null 2>&1; then
      PYTHON=$("$candidate" -c 'import sys; print(sys.executable)')
      # For what is installed beside it: accelerate, torchrun.
      PATH="$(dirname "$PYTHON"):$PATH"
      return
    fi
  done
  return 1
}

# What a script says that needs a Python and makes none.
no_python() {
  echo "error: no Python here has what requirements.txt asks for: 'pip install -r ${at}requirements.txt' in your environment, or" \
    "'bash ${at}run-tests.sh', which makes one in .venv" >&2
  exit 1
}

suits() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null
}

# The same, but makes .venv and installs requirements.txt into it where nothing will do.
make_python() {
  find_python && return
  local candidate base= venv=$repository/.venv
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if suits "$candidate"; then
      base=$candidate
      break
    fi
  done
  if [ -z "$base" ]; then
    echo "error: Python 3.11 to 3.14 is needed, and none was found on PATH" >&2
    return 1
  fi
  echo "installing requirements.txt into .venv (about 5 GB, once)"
  # A .venv whose Python is gone or too old is made anew; one whose installation was cut off goes on.
  if ! suits "$venv/bin/python" && ! "$base" -m venv --clear "$venv"; then
    echo "error: $base cannot make .venv (see above); on Debian and Ubuntu 'apt install python3-venv' may be missing" >&2
    return 1
  fi
  if ! "$venv/bin/python" -m pip install --disable-pip-version-check -r "$repository/requirements.txt"; then
    echo "error: requirements.txt could not be installed into .venv (see above); the same command goes on from there" >&2
    return 1
  fi
  find_python && return
  echo "error: .venv lacks $("$venv/bin/python" "$repository/utils/shell/requirements.py")" >&2
  return 1
}
