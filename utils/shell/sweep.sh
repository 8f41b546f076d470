# Sourced by run-*.sh: one training script over seeds, folds and tasks. Paths in flags are the caller's; where nothing
# is named, corpora and outputs are the repository's.
set -euo pipefail
set -f  # FOLDS and their like hold words, no patterns
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$repository/utils/shell/interruptible.sh"
find_python || [ -n "${DRY_RUN:-}" ] || asks_for_help "$@" || no_python
runs=0 total= arguments=("$@")
[ -z "${RUN_INDEX:-}" ] || trap '[ $? != 0 ] || [ "$runs" -gt "$RUN_INDEX" ] || fail "index $RUN_INDEX, and $0 has $runs runs"' EXIT

# set_steps KIND: what a method of a kind trains, as flags, in order. A sequence's first step is the start's, and so is joint's.
set_steps() {
  local task before=
  steps=()
  if [ -z "${ORDER:-}" ]; then
    for task in ${TASKS:-KEMDy19 KEMDy20}; do steps+=("--task $task"); done
    return
  fi
  for task in $ORDER; do
    case " ${TASKS:-$ORDER} " in *" $task "*)
      case $1 in
        sequence) [ -z "$before" ] || steps+=("--task $task --after$before") ;;
        joint) [ -z "$before" ] || steps+=("--task joint --with$before $task") ;;
        *) steps+=("--task $task") ;;
      esac ;;
    esac
    before+=" $task"
  done
  [ ${#steps[@]} != 0 ] || fail "ORDER=\"$ORDER\"${TASKS:+ TASKS=\"$TASKS\"} leaves nothing to run"
}

# sweep SCRIPT METHOD FLAGS...  Stops at the first run that fails, and says which. Finished runs are skipped, and one that a
# signal interrupts ends the sweep with RESUMABLE.
# DRY_RUN=1 prints the commands, one a line, in a form that a shell takes. RUN_INDEX=3 takes the fourth of them alone.
sweep() {
  local facts= folds= labels=() label kind steps step seed fold task run code needs_labels= variable=EXP_NAME
  local script=$at$1 exp_name=${EXP_NAME:-$2}
  if asks_for_help "$@"; then
    [ "${0##*/}" != run-ewc-lambda.sh ] || variable=LAMBDAS
    show_help FOLDS TASKS ORDER SEEDS $variable TEXT_MODEL SPEECH_MODEL LAUNCH DRY_RUN
    run=${*:3}
    printf '\nflags that %s gets from here, in place of its defaults below: %s\nFurther flags come after these.\n\n' \
      "$1" "${run/ --help/}"
    [ -n "${PYTHON:-}" ] || no_python
    "$PYTHON" "$script" --help
    exit
  fi
  # Counted once, by a dry run of the whole script: runs tell by it how long the sweep will take.
  [ -n "${DRY_RUN:-}${RUN_INDEX:-}$total" ] || total=$(
    DRY_RUN=1 FOUND_PYTHON=$PYTHON bash "$0" ${arguments[@]+"${arguments[@]}"} </dev/null | wc -l
  )
  kind=$(methods "$2")
  kind=${kind%% *}
  [ -n "${ORDER:-}" ] || [ "$kind" != joint ] || local TASKS=joint
  # Each corpus has folds of its own, but in a sequence.
  if [ -z "${ORDER:-}${FOLDS:-}" ] && [[ ${TASKS:-} = *" "* ]] && own_corpora; then
    for task in $TASKS; do TASKS=$task sweep "$@"; done
    return
  fi
  shift 2
  set_steps "$kind"
  # One classifier for all tasks knows the classes of all.
  [ -z "${ORDER:-}" ] || [ "$kind" = alone ] || needs_labels=yes
  if own_corpora && { [ -z "${FOLDS:-}" ] || [ -n "$needs_labels" ]; }; then
    facts=${CORPUS_FACTS-$(about_corpora "$@")}
  fi
  {
    IFS= read -r folds
    while [ -n "$needs_labels" ] && IFS= read -r label; do labels+=("$label"); done
  } <<<"$facts"
  folds=${FOLDS:-${folds:-0 1 2 3 4}}

  for seed in ${SEEDS:-12}; do
    [[ $seed =~ ^(0|[1-9][0-9]*)$ ]] || fail "SEEDS: $seed is not a number as --seed takes it"
    for fold in $folds; do
      for step in "${steps[@]}"; do
        runs=$((runs + 1))
        [ "${RUN_INDEX:-$((runs - 1))}" = $((runs - 1)) ] || continue
        # The default seed has the plain name; others lie beside it.
        run=("$script" $step --num_fold "$fold" --seed "$seed" --experiment "$(flag --exp_name "$exp_name" "$@")"
          --exp_name "$exp_name$([ "$seed" = 12 ] || echo "-seed$seed")" --data_root "${at}data" --output_root "${at}outputs"
          ${TEXT_MODEL:+--text_model "$TEXT_MODEL"} ${SPEECH_MODEL:+--speech_model "$SPEECH_MODEL"}
          ${labels[@]+--labels "${labels[@]}"} "$@")
        if [ -n "${DRY_RUN:-}" ]; then
          printf '%s' "${LAUNCH:-$(printf '%q' "${PYTHON:-python}")}"
          printf ' %q' "${run[@]}"
          echo
          continue
        fi
        [ -z "$total" ] || export SWEEP_RUN="$runs of $((total))"
        code=0
        # LAUNCH is several words, such as "accelerate launch --num_processes 4"; PYTHON may hold a space.
        interruptible ${LAUNCH:-"$PYTHON"} "${run[@]}" || code=$?
        if [ "$code" = "$RESUMABLE" ]; then
          say_interrupted "$@"
          exit "$RESUMABLE"
        elif [ "$code" != 0 ]; then
          fail "stopped at the run that failed: ${LAUNCH:-python}$(printf ' %q' "${run[@]}")"
        fi
      done
    done
  done
}
