# Sourced by run-*.sh: one training script over seeds, folds and both tasks. Paths in flags are the caller's; where nothing
# is named, corpora and outputs are the repository's.
set -euo pipefail
set -f  # FOLDS and their like hold words, no patterns
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$repository/utils/shell/interruptible.sh"
find_python || [ -n "${DRY_RUN:-}" ] || no_python

# sweep SCRIPT EXP_NAME FLAGS...  Stops at the first run that fails, and says which. Finished runs are skipped, and one that a
# signal interrupts ends the sweep with RESUMABLE.
# DRY_RUN=1 prints the commands, one a line, in a form that a shell takes.
sweep() {
  local script=$at$1 exp_name=${EXP_NAME:-$2} seed fold task run code
  shift 2
  for seed in ${SEEDS:-12}; do
    [[ $seed =~ ^(0|[1-9][0-9]*)$ ]] || { echo "error: SEEDS: $seed is not a number as --seed takes it" >&2 && exit 1; }
    for fold in ${FOLDS:-0 1 2 3 4}; do
      for task in ${TASKS:-KEMDy19 KEMDy20}; do
        # The default seed has the plain name; others lie beside it.
        run=("$script" --task "$task" --num_fold "$fold" --seed "$seed" --exp_name "$exp_name$([ "$seed" = 12 ] || echo "-seed$seed")"
          --data_root "${at}data" --output_root "${at}outputs"
          ${TEXT_MODEL:+--text_model "$TEXT_MODEL"} ${SPEECH_MODEL:+--speech_model "$SPEECH_MODEL"} "$@")
        if [ -n "${DRY_RUN:-}" ]; then
          printf '%s' "${LAUNCH:-$(printf '%q' "${PYTHON:-python}")}"
          printf ' %q' "${run[@]}"
          echo
          continue
        fi
        # LAUNCH is several words, such as "accelerate launch --num_processes 4"; PYTHON may hold a space.
        code=0
        interruptible ${LAUNCH:-"$PYTHON"} "${run[@]}" || code=$?
        if [ "$code" = "$RESUMABLE" ]; then
          say_interrupted "$@"
          exit "$RESUMABLE"
        elif [ "$code" != 0 ]; then
          echo "error: stopped at the run that failed: ${LAUNCH:-python}$(printf ' %q' "${run[@]}")" >&2
          exit 1
        fi
      done
    done
  done
}
