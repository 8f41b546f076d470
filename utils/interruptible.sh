# Sourced: what a signal to a script (Slurm's warning, Ctrl-C) does to the runs that it has started.
GO_ON_LATER=75  # what a training script leaves with when a signal has cut it off

# interruptible COMMAND...: runs it, passes a signal on to it and waits until it has kept what it has. Returns its code, or
# GO_ON_LATER after a signal (launchers hide the codes of the processes that they start).
interruptible() {
  local code=0 signalled= process
  "$@" <&0 &
  process=$!
  trap 'signalled=yes; kill -TERM "$process" 2>/dev/null || true' TERM
  # What runs in the background is deaf to Ctrl-C until it listens by itself.
  trap 'signalled=yes; kill -INT "$process" 2>/dev/null || true' INT
  wait "$process" || code=$?
  # A signal ends the waiting, not the process.
  while kill -0 "$process" 2>/dev/null; do
    code=0
    wait "$process" || code=$?
  done
  trap - TERM INT
  [ -z "$signalled" ] || code=$GO_ON_LATER
  return "$code"
}

# For scripts that have started several at once: a signal goes to all of them, and the script waits.
interruptible_together() {
  trap 'trap "" INT TERM; kill -TERM 0; wait; echo "interrupted: the same command goes on from here" >&2; exit "$GO_ON_LATER"' \
    INT TERM
}
