# Sourced: forwards signals to a script (Slurm's warning, Ctrl-C) to the runs that it has started.
RESUMABLE=75  # exit code of scripts and runs that were interrupted by a signal and can be resumed

# interruptible COMMAND...: runs it, forwards signals and waits for its end. Returns its code, or RESUMABLE after a signal to
# the script or to the command alone (launchers hide the exit codes of their processes).
interruptible() {
  local code=0 process children= child
  "$@" <&0 &
  process=$!
  # Its children too: not every launcher forwards signals. TERM also for Ctrl-C, since background processes ignore INT until
  # they install a handler.
  trap 'children+=" $(pgrep -P "$process" || true)"; kill -TERM $process $children 2>/dev/null || true' INT TERM
  wait "$process" || code=$?
  # A signal ends the wait, not the process.
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
