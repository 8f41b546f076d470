#!/usr/bin/env bash
# Submit every run of every method to Slurm, as job arrays: bash slurm/submit.sh [options of sbatch] [-- flags]
# Variables choose as for the run scripts. Paths in flags are relative to where it is called; logs go to the repository's outputs/.
# Python 3.8 is all that it needs; with corpora of your own and without FOLDS it is what requirements.txt asks for.
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
  # Of corpora of one's own the folds are known by now, and the labels' turn comes in the job.
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

# In an order, an array a step, since the second waits for the first task alone. Without one, index by index: the run on one corpus
# waits for the start on the other, hence the tasks in the other order.
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
