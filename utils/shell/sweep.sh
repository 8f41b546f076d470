# Sourced by run-*.sh: one training script over seeds, folds and tasks. Paths in flags are relative to the caller's folder; by
# default corpora and outputs are the repository's.
set -euo pipefail
set -f  # FOLDS etc. are word lists, not patterns
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$repository/utils/shell/interruptible.sh"
find_python || [ -n "${DRY_RUN:-}" ] || asks_for_help "$@" || no_python
runs=0 total= arguments=("$@")
[ -z "${RUN_INDEX:-}" ] || trap '[ $? != 0 ] || [ "$runs" -gt "$RUN_INDEX" ] || fail "index $RUN_INDEX, and $0 has $runs runs"' EXIT

# set_steps KIND: sets steps, the flags of a method's runs, in order. The first step of a sequence or joint is the start's run.
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

# sweep SCRIPT METHOD FLAGS...  Stops at the first run that fails, and prints it. Finished runs are skipped; if a signal
# interrupts a run, the sweep ends with RESUMABLE.
# DRY_RUN=1 prints the commands, one per line, quoted for a shell. RUN_INDEX=3 runs only the fourth.
sweep() {
  local facts= folds= labels=() label kind steps step seed fold task run code needs_labels= variable=EXP_NAME
  local script=$at$1 exp_name=${EXP_NAME:-$2}
  if asks_for_help "$@"; then
    [ "${0##*/}" != run-ewc-lambda.sh ] || variable=LAMBDAS
    show_help FOLDS TASKS ORDER SEEDS $variable TEXT_MODEL SPEECH_MODEL LAUNCH DRY_RUN
    run=${*:3}
    printf '\nflags that %s gets from here, instead of its defaults below: %s\nFurther flags come after these.\n\n' \
      "$1" "${run/ --help/}"
    [ -n "${PYTHON:-}" ] || no_python
    "$PYTHON" "$script" --help
    exit
  fi
  # Counted once, by a dry run of the whole script, for the runs' estimate of the remaining time.
  [ -n "${DRY_RUN:-}${RUN_INDEX:-}$total" ] || total=$(
    DRY_RUN=1 FOUND_PYTHON=$PYTHON bash "$0" ${arguments[@]+"${arguments[@]}"} </dev/null | wc -l
  )
  kind=$(methods "$2")
  kind=${kind%% *}
  [ -n "${ORDER:-}" ] || [ "$kind" != joint ] || local TASKS=joint
  # Each corpus has its own folds, except in a sequence.
  if [ -z "${ORDER:-}${FOLDS:-}" ] && [[ ${TASKS:-} = *" "* ]] && own_corpora; then
    for task in $TASKS; do TASKS=$task sweep "$@"; done
    return
  fi
  shift 2
  set_steps "$kind"
  # A classifier for all tasks needs the classes of all.
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
    [[ $seed =~ ^(0|[1-9][0-9]*)$ ]] || fail "SEEDS: $seed is not a valid --seed"
    for fold in $folds; do
      for step in "${steps[@]}"; do
        runs=$((runs + 1))
        [ "${RUN_INDEX:-$((runs - 1))}" = $((runs - 1)) ] || continue
        # The default seed has the plain name; others get a suffix.
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
        # LAUNCH is several words, such as "accelerate launch --num_processes 4"; PYTHON may contain a space.
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
