# Sourced by the run scripts: the repository's path, a Python environment that satisfies requirements.txt, found or created, the
# methods, and --help.
repository=$(CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Prefix for the repository's files in commands, which run in the caller's folder: paths in flags are relative to that.
at=$repository/
[ ! "$PWD" -ef "$repository" ] || at=

fail() {
  echo "error: $*" >&2
  exit 1
}

# run_or_print COMMAND...: runs it; with DRY_RUN=1 prints it, quoted for a shell.
run_or_print() {
  [ -n "${DRY_RUN:-}" ] || { "$@"; return; }
  [ "$1" != exec ] || shift
  local line
  printf -v line ' %q' "$@"
  echo "${line:1}"
}

# Sets PYTHON: the active environment, else .venv, else the system's Python; fails if none satisfies requirements.txt.
find_python() {
  local candidate
  [ -z "${FOUND_PYTHON:-}" ] || { PYTHON=$FOUND_PYTHON; return 0; }
  for candidate in ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} ${CONDA_PREFIX:+"$CONDA_PREFIX/bin/python"} \
    "$repository/.venv/bin/python" python3; do
    if "$candidate" "$repository/utils/shell/requirements.py" >/dev/null 2>&1; then
      PYTHON=$("$candidate" -c 'import sys; print(sys.executable)')
      # For the commands installed with it: accelerate, torchrun.
      PATH="$(dirname "$PYTHON"):$PATH"
      return
    fi
  done
  return 1
}

# The error of scripts that need a Python environment but do not create one.
no_python() {
  fail "no Python here satisfies requirements.txt: 'pip install -r ${at}requirements.txt' in your environment, or" \
    "'bash ${at}install.sh', which creates one in .venv"
}

# Like find_python, but creates .venv and installs requirements.lock into it if none is suitable; with DRY_RUN=1 prints the
# commands.
make_python() {
  find_python && return
  local base venv=$repository/.venv
  local suits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'
  for base in python3 python3.14 python3.13 python3.12 python3.11 python ""; do
    [ -z "$base" ] || ! "$base" -c "$suits" 2>/dev/null || break
  done
  [ -n "$base" ] || fail "Python 3.11 to 3.14 is needed, and none was found on PATH"
  [ -n "${DRY_RUN:-}" ] || echo "installing requirements.lock into .venv (about 5 GB, once)"
  # A .venv whose Python is missing or too old is replaced; an interrupted installation is resumed.
  "$venv/bin/python" -c "$suits" 2>/dev/null || run_or_print "$base" -m venv --clear "$venv" ||
    fail "$base cannot create .venv (see above); on Debian and Ubuntu 'apt install python3-venv' may help"
  run_or_print "$venv/bin/python" -m pip install --disable-pip-version-check -r "$repository/requirements.lock" ||
    fail "requirements.lock could not be installed into .venv (see above); the same command resumes the installation;" \
      "'${at}.venv/bin/python -m pip install -r ${at}requirements.txt' installs without the lock and its hashes"
  [ -z "${DRY_RUN:-}" ] || { printf 'PATH=%q:$PATH\n' "$venv/bin"; return; }
  find_python || fail ".venv lacks $("$venv/bin/python" "$repository/utils/shell/requirements.py" 2>&1)"
}

# methods NAME: its kind, run script, script and flags, quoted. methods --lines [NAME...]: methods (default: all) and their
# starting points, one per line: name, kind, model, starting point or -, run script. methods --list: the script of each.
# Kinds are start (a model with the classes of all tasks), alone, sequence and joint. Python 3.8 suffices, as on a login node.
methods() {
  (CDPATH= cd -- "$repository" && PYTHONPATH=. "${PYTHON:-python3}" -m utils.methods "$@")
}

# later TASK...: all but the first.
later() {
  [ $# = 0 ] || shift
  echo "$*"
}

# flag NAME DEFAULT FLAGS...: the value of NAME in FLAGS.
flag() {
  local name=$1 value=$2
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      "$name") value=${2:-} ;;
      "$name"=*) value=${1#*=} ;;
    esac
    shift
  done
  printf '%s\n' "$value"
}

# own_corpora: succeeds if ORDER or TASKS names a corpus other than KEMDy.
own_corpora() {
  local name
  for name in ${ORDER:-${TASKS:-}}; do
    case $name in KEMDy19 | KEMDy20 | joint) ;; *) return 0 ;; esac
  done
  return 1
}

# about_corpora FLAGS...: folds of the corpora in ORDER or TASKS, then their labels, one per line.
about_corpora() {
  [ -n "${PYTHON:-}" ] || no_python
  PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -P -m utils.data.corpus \
    --data_root "$(flag --data_root "${at}data" "$@")" ${ORDER:-$TASKS}
}

# check_grid FLAGS...: refuses flags that only make sense for a single method.
check_grid() {
  local name=$(flag --exp_name "${EXP_NAME:-}" "$@")
  [ -z "$name" ] || fail "EXP_NAME=$name would put all methods into one folder: omit it"
  [ -z "${ORDER:-}" ] || [ -n "$(later $ORDER)" ] || fail "ORDER=$ORDER: a sequence has two corpora or more"
}

# asks_for_help FLAGS...
asks_for_help() {
  case " $* " in *" -h "* | *" --help "*) ;; *) return 1 ;; esac
}

# show_help VARIABLE...: the script's leading comment, and a line for each variable that it uses.
show_help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  [ $# != 0 ] || return 0
  printf '\nvariables, set before the command (%s=... bash %s):\n' "$1" "$0"
  local variable
  for variable in "$@"; do
    printf '  %-13s ' "$variable"
    case $variable in
      FOLDS) echo 'fold numbers (default: 0 1 2 3 4; 0 for a corpus with given splits)' ;;
      TASKS) echo 'corpora to train on; with ORDER, only the steps on these (default: KEMDy19 KEMDy20, or all of ORDER)' ;;
      ORDER) echo 'one sequence of corpora, such as "A B C", of which every step is run' ;;
      SEEDS) echo 'seeds (default: 12); experiments of other seeds are named NAME-seed13 and so on' ;;
      EXP_NAME) echo "name of the experiment, a folder under --output_root (default: the method's)" ;;
      TEXT_MODEL) echo 'text encoder, a hub name or a folder' ;;
      SPEECH_MODEL) echo 'speech encoder, a hub name or a folder' ;;
      LAMBDAS) echo 'values of λ (default: 5 50 500 5000 50000 500000), on fold 0 unless FOLDS is set' ;;
      METHODS) echo 'methods to run, including their starting points (default: all)' ;;
      TRIALS) echo 'trials per method (default: 8)' ;;
      LRS) echo 'learning rates to try, at least as many (default: 1e-6 3e-6 1e-5 2e-5 3e-5 5e-5 1e-4 3e-4)' ;;
      CHOOSE_ON) echo 'run the trials only on these folds, then the best on all FOLDS (default: all trials on all FOLDS)' ;;
      HALVES) echo 'runs per method, each on another random half (default: 16)' ;;
      GPUS) echo 'number of GPUs (default: all, or those in CUDA_VISIBLE_DEVICES)' ;;
      RUNS_PER_GPU) echo 'concurrent runs per GPU (default: 1); batches of 8 do not fill a large one' ;;
      LAUNCH) echo 'launcher to use instead of python, such as "accelerate launch --num_processes 4"' ;;
      DRY_RUN) echo '1 prints the commands without running them' ;;
    esac
  done
}
