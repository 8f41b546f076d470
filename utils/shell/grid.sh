# Sourced by scripts that make many runs on one machine, one run per device at a time: run-grid.sh and its like.
source "$repository/utils/shell/interruptible.sh"

# Search once, not in every script.
find_python || [ -n "${DRY_RUN:-}" ] || asks_for_help "$@" || no_python
export FOUND_PYTHON=${PYTHON:-}

# set_devices: sets devices from GPUS and CUDA_VISIBLE_DEVICES (on a shared machine: the free ones), each RUNS_PER_GPU times.
# A dry run needs none, and prints on stderr the effect of RUNS_PER_GPU on the available ones.
set_devices() {
  local gpus i per_gpu=${RUNS_PER_GPU:-1} named
  devices=()
  [ -z "${DRY_RUN:-}" ] || [ -n "${RUNS_PER_GPU:-}" ] || return 0
  [[ $per_gpu =~ ^[1-9][0-9]?$ ]] || fail "RUNS_PER_GPU=$per_gpu is not a number of runs"
  IFS=, read -ra devices <<<"${CUDA_VISIBLE_DEVICES:-}"
  gpus=${GPUS:-${#devices[@]}}
  [ -n "${GPUS:-}" ] || [ "$gpus" != 0 ] || gpus=$({ nvidia-smi -L 2>/dev/null || true; } | wc -l | tr -d ' ')
  [[ $gpus =~ ^[0-9]{1,4}$ ]] || fail "GPUS=$gpus is not a number of GPUs"
  [ "$gpus" -ge 1 ] || [ -z "${DRY_RUN:-}" ] || return 0
  [ "$gpus" -ge 1 ] || fail "no GPU found; GPUS=1 makes one run at a time anyway (with --cpu if there is no GPU)"
  [ ${#devices[@]} != 0 ] || for ((i = 0; i < gpus; i++)); do devices+=("$i"); done
  [ "$gpus" -le ${#devices[@]} ] || fail "GPUS=$gpus, and CUDA_VISIBLE_DEVICES names ${#devices[@]}"
  devices=("${devices[@]:0:gpus}") named="${devices[*]:0:gpus}"
  for ((i = 1; i < per_gpu; i++)); do devices+=("${devices[@]:0:gpus}"); done
  [ -z "${DRY_RUN:-}" ] || echo "${#devices[@]} runs at a time, $per_gpu on each of the GPUs $named" >&2
}

# set_names WORDS...: sets names, the words before the first flag. The caller shifts them away.
set_names() {
  names=
  while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do
    names+=" $1"
    shift
  done
}

# set_stages FLAGS...: sets stages, the TASKS of sequences that can run in parallel. With ORDER each step waits for the last.
set_stages() {
  local task
  stages=("${TASKS:-}")
  [ -n "${ORDER:-}" ] || return 0
  stages=()
  for task in $(later $ORDER); do
    case " ${TASKS:-$ORDER} " in *" $task "*) stages+=("$task") ;; esac
  done
  if own_corpora; then
    CORPUS_FACTS=$(about_corpora "$@")  # once, not in every script
    export CORPUS_FACTS
  fi
}

# commands FLAGS...: the commands of all runs, using the caller's 'stage KINDS TASKS FLAGS...'.
commands() {
  local task
  # Sequences start from other methods' models of the first task.
  stage "start alone joint" "${TASKS:-}" "$@"
  for task in ${stages[@]+"${stages[@]}"}; do stage sequence "$task" "$@"; done
}

# make_runs COMMANDS FLAGS...: runs the lines of a dry run; those after an empty line wait for all before it. DRY_RUN=1 prints
# them. After a failure, which is reported, the rest still runs, unless a signal was the reason. Returns 1 if a run failed.
make_runs() {
  local code=0
  if [ -n "${DRY_RUN:-}" ]; then
    sed '/^$/d' <<<"$1" || true  # the reader may close the pipe (| head)
    return
  fi
  interruptible "$PYTHON" -I "$repository/utils/shell/slots.py" "${devices[@]}" <<<"$1" || code=$?
  if [ "$code" = "$RESUMABLE" ]; then
    say_interrupted "${@:2}"
    exit "$RESUMABLE"
  fi
  return "$code"
}

some_failed() {
  fail "a run failed (see above); the same command runs what is left"
}
