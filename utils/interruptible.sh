# Sourced: what a signal to a script (Slurm's warning, Ctrl-C) does to the runs that it has started.
GO_ON_LATER=75  # what a training script leaves with when a signal has cut it off

# interruptible COMMAND...: runs it, passes a signal on to it and waits until it has kept what it has. Returns its code, or
# GO_ON_LATER after a signal (launchers hide the codes of the processes that they start).
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
  [ -n "$children" ] || return "$code"
  for child in $children; do
    while kill -0 "$child" 2>/dev/null; do sleep 0.1; done
  done
  return "$GO_ON_LATER"
}

# What to say of it: the flags of the command tell whether it goes on.
say_go_on_later() {
  case " $* " in
    *" --overwrite "*) echo "stopped by a signal; the same command without --overwrite goes on from here" >&2 ;;
    *) echo "stopped by a signal; the same command goes on from here" >&2 ;;
  esac
}

# For scripts that have started several at once: a signal goes to all of them, and the script waits.
interruptible_together() {
  trap 'trap "" INT TERM; kill -TERM 0; wait; say_go_on_later "$@"; exit "$GO_ON_LATER"' INT TERM
}
