# Sourced: what a signal to a script (Slurm's warning, Ctrl-C) does to the runs that it has started.
RESUMABLE=75  # what a script ends with that a signal has interrupted, as a run does that resumes after a whole epoch

# interruptible COMMAND...: runs it, passes a signal on to it and waits for its end. Returns its code, or RESUMABLE after a signal
# (launchers hide the codes of the processes that they start), to the script or to the command alone.
interruptible() {
  local code=0 process children= child
  "$@" <&0 &
  process=$!
  # Its children too: not every launcher passes on what it is told. TERM also for Ctrl-C, to which a process that was started in
  # the background is deaf until it listens.
  trap 'children+=" $(pgrep -P "$process" || true)"; kill -TERM $process $children 2>/dev/null || true' INT TERM
  wait "$process" || code=$?
  # A signal ends the waiting, not the process.
  while kill -0 "$process" 2>/dev/null; do
    code=0
    wait "$process" || code=$?
  done
  trap - INT TERM
  if [ -z "$children" ]; then
    case $code in 130 | 143) return "$RESUMABLE" ;; *) return "$code" ;; esac
  fi
  for child in $children; do
    while kill -0 "$child" 2>/dev/null; do sleep 0.1; done
  done
  return "$RESUMABLE"
}

# say_interrupted FLAGS...
say_interrupted() {
  case " $* " in
    *" --overwrite "*) echo "interrupted; the same command without --overwrite resumes from here" >&2 ;;
    *) echo "interrupted; the same command resumes from here" >&2 ;;
  esac
}
