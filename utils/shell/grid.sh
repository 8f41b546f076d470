# Sourced by what makes many runs on the devices of one machine, a run on each at a time: run-grid.sh and its like.
source "$repository/utils/shell/interruptible.sh"

# Looked for once, and not for every script.
find_python || [ -n "${DRY_RUN:-}" ] || asks_for_help "$@" || no_python
export FOUND_PYTHON=${PYTHON:-}

# set_devices: devices, those that GPUS and CUDA_VISIBLE_DEVICES name, each RUNS_PER_GPU times. On a shared machine the free ones
# are named. A dry run needs none, and tells on stderr what RUNS_PER_GPU would do on those that are there.
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
  [ "$gpus" -ge 1 ] || fail "no GPU found; GPUS=1 runs one run at a time all the same (with --cpu if there is none)"
  [ ${#devices[@]} != 0 ] || for ((i = 0; i < gpus; i++)); do devices+=("$i"); done
  [ "$gpus" -le ${#devices[@]} ] || fail "GPUS=$gpus, and CUDA_VISIBLE_DEVICES names ${#devices[@]}"
  devices=("${devices[@]:0:gpus}") named="${devices[*]:0:gpus}"
  for ((i = 1; i < per_gpu; i++)); do devices+=("${devices[@]:0:gpus}"); done
  [ -z "${DRY_RUN:-}" ] || echo "${#devices[@]} runs at a time, $per_gpu on each of the GPUs $named" >&2
}

# set_names WORDS...: names, the words before the first flag. The caller shifts them away.
set_names() {
  names=
  while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do
    names+=" $1"
    shift
  done
}

# set_stages FLAGS...: stages, the TASKS of sequences that can be learned at the same time. With ORDER a step waits for the one before.
set_stages() {
  local task
  stages=("${TASKS:-}")
  [ -n "${ORDER:-}" ] || return 0
  stages=()
  for task in $(later $ORDER); do
    case " ${TASKS:-$ORDER} " in *" $task "*) stages+=("$task") ;; esac
  done
  if own_corpora; then
    CORPUS_FACTS=$(about_corpora "$@")  # once, and not for every script
    export CORPUS_FACTS
  fi
}

# commands FLAGS...: those of all runs, by the caller's 'stage KINDS TASKS FLAGS...'.
commands() {
  local task
  # What learns in a sequence starts from what others have learned of the first task.
  stage "start alone joint" "${TASKS:-}" "$@"
  for task in ${stages[@]+"${stages[@]}"}; do stage sequence "$task" "$@"; done
}

# make_runs COMMANDS FLAGS...: makes the runs of a dry run's lines; those after an empty line wait for all before it. DRY_RUN=1
# prints them. What fails is said, and the rest is run, unless a signal is the reason. Returns 1 if a run failed.
make_runs() {
  local code=0
  if [ -n "${DRY_RUN:-}" ]; then
    sed '/^$/d' <<<"$1" || true  # the reader has seen enough (| head)
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
  fail "a run failed (see above); the same command does what is left"
}
