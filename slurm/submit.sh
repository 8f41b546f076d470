#!/usr/bin/env bash
# Submit every run of every method to Slurm, as job arrays: bash slurm/submit.sh [options of sbatch] [-- flags]
# Variables select runs as for the run scripts. Paths in flags are relative to the current folder; logs go to the repository's
# outputs/. It needs only Python 3.8; for your own corpora without FOLDS, an environment that satisfies requirements.txt.
set -euo pipefail
set -f
source "$(dirname "${BASH_SOURCE[0]}")/../utils/shell/environment.sh"
if asks_for_help "$@"; then
  show_help METHODS FOLDS ORDER SEEDS TEXT_MODEL SPEECH_MODEL DRY_RUN
  exit 0
fi

check_grid "$@"
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  options+=("$1")
  shift
done
[ $# -gt 0 ] && shift
flags=("$@")
all=$(methods --lines ${METHODS:-})
unset TASKS
if [ -z "${FOLDS:-}" ] && own_corpora; then
  find_python || no_python
  FOLDS=$(about_corpora "$@")
fi
export FOLDS=${FOLDS:-0 1 2 3 4}
FOLDS=${FOLDS%%$'\n'*}
[ -n "${DRY_RUN:-}" ] || mkdir -p "${at}outputs"  # for the logs
[ -n "${DRY_RUN:-}" ] || command -v sbatch >/dev/null ||
  fail "there is no sbatch here; DRY_RUN=1 prints the commands, ${at}run-grid.sh runs the grid on this machine"

# submit NAME TASKS DEPENDENCY SCRIPT...: one array; prints its job id. Array index i is run i of the script's.
submit() {
  local name=$1 dependency=$3 runs
  export TASKS=$2
  shift 3
  # The folds of own corpora are known by now; their labels are determined in the job.
  runs=$(CORPUS_FACTS=$FOLDS DRY_RUN=1 bash "$at$1" "${@:2}" ${flags[@]+"${flags[@]}"} </dev/null | wc -l) || exit
  local command=(sbatch --parsable --export=ALL --job-name="$name" --array="0-$((runs - 1))"
    --output="${at}outputs/slurm-%x-%A_%a.log" ${dependency:+--dependency="aftercorr:${dependency%%;*}"}
    ${options[@]+"${options[@]}"} "${at}slurm/run.sbatch" "$at$1" "${@:2}" ${flags[@]+"${flags[@]}"})
  if [ -n "${DRY_RUN:-}" ]; then
    printf '%s=%q ' ORDER "${ORDER:-}" TASKS "$TASKS" FOLDS "$FOLDS" SEEDS "${SEEDS:-12}" \
      TEXT_MODEL "${TEXT_MODEL:-}" SPEECH_MODEL "${SPEECH_MODEL:-}" >&2
    printf '%q ' "${command[@]}" >&2
    echo >&2
    echo "<$name${ORDER:+-$TASKS}>"
  else
    "${command[@]}" </dev/null
  fi
}

# With ORDER, one array per step, since the second only waits for the first task. Without, index by index: the run on one corpus
# waits for the start on the other, hence the reversed order of the tasks.
starts=("") steps=("KEMDy20 KEMDy19")
[ -z "${ORDER:-}" ] || starts=($ORDER) steps=($(later $ORDER))
while read -r name kind model start script; do
  case $kind in
    start)
      first=
      for task in "${starts[@]}"; do
        before=$(submit "$name" "$task" "" $script)
        first=${first:-$before}
      done
      printf -v "first_$name" %s "$first"
      ;;
    sequence)
      before=first_$start
      before=${!before}
      for task in "${steps[@]}"; do before=$(submit "$name" "$task" "$before" $script); done
      ;;
    *) submit "$name" "" "" $script >/dev/null ;;
  esac
done <<<"$all"
