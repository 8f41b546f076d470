#!/usr/bin/env bash
# Submit every run of the grid to Slurm, as job arrays of the run scripts: bash slurm/submit.sh [options of sbatch] [-- flags]
# Paths in flags are relative to where it is called; logs go to the repository's outputs/.
# FOLDS, SEEDS, TEXT_MODEL and SPEECH_MODEL choose as for the run scripts; DRY_RUN=1 prints the sbatch commands instead.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../utils/shell/environment.sh"

if [ -n "${EXP_NAME:-}" ]; then
  echo "error: EXP_NAME=$EXP_NAME would put all settings into one folder: unset it" >&2
  exit 1
fi
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  options+=("$1")
  shift
done
[ $# -gt 0 ] && shift
export FOLDS=${FOLDS:-0 1 2 3 4}
read -ra folds <<<"$FOLDS"
mkdir -p "${at}outputs"  # for the logs
if [ -z "${DRY_RUN:-}" ] && ! command -v sbatch >/dev/null; then
  echo "error: there is no sbatch here; DRY_RUN=1 prints the commands, ${at}run-grid.sh runs the grid on this machine" >&2
  exit 1
fi

# submit SCRIPT TASKS DEPENDENCY FLAGS...: prints the array's job id.
submit() {
  local script=$1 dependency=$3
  export TASKS=$2
  read -ra tasks <<<"$TASKS"
  shift 3
  local command=(sbatch --parsable --export=ALL --job-name="${script%.sh}" --array="0-$((${#folds[@]} * ${#tasks[@]} - 1))"
    --output="${at}outputs/slurm-%x-%A_%a.log" ${dependency:+--dependency="$dependency"} ${options[@]+"${options[@]}"}
    "${at}slurm/run.sbatch" "$at$script" "$@")
  if [ -n "${DRY_RUN:-}" ]; then
    printf 'TASKS=%q FOLDS=%q SEEDS=%q ' "$TASKS" "$FOLDS" "$SEEDS" >&2
    printf '%q ' "${command[@]}" >&2
    echo >&2
    echo "<${script%.sh}>"
  else
    "${command[@]}"
  fi
}

for seed in ${SEEDS:-12}; do
  export SEEDS=$seed
  first=$(submit run-init.sh "KEMDy19 KEMDy20" "" "$@")
  # Index by index: the run on one corpus waits for task_a on the other, hence the tasks in the other order.
  submit run-finetune.sh "KEMDy20 KEMDy19" "aftercorr:${first%%;*}" "$@" >/dev/null
  submit run-ewc.sh "KEMDy20 KEMDy19" "aftercorr:${first%%;*}" "$@" >/dev/null
  for script in run-adapter.sh run-adapter-wo-pretraining.sh; do
    submit "$script" "KEMDy19 KEMDy20" "" "$@" >/dev/null
  done
  submit run-joint.sh joint "" "$@" >/dev/null
done
