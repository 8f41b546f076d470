"""Run shell commands on several devices, one at a time on each: slots.py DEVICE... <commands, one a line

A command gets its device in CUDA_VISIBLE_DEVICES, and its output lines are prefixed with its number. Commands after an empty
line wait for all before it. If one fails, the others still run, and the exit code is 1. After SIGTERM, SIGINT or SIGHUP, or an
interrupted command, no other is started, running ones get SIGTERM, and the exit code is 75 once they have ended.
Needs only the standard library of Python 3.8.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque

RESUMABLE = 75
INTERRUPTED = (RESUMABLE, 130, 143, -signal.SIGINT, -signal.SIGTERM)
# Blocked and waited for instead of handled, so that none is lost just before a wait or while a command is started.
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
# Prefixes a command's lines with its number; inherits the blocked signals.
NUMBERED = ["bash", "-c", 'while IFS= read -r line || [ -n "$line" ]; do printf "%s | %s\\n" "$0" "$line"; done']
# The time left is estimated from the latest commands only, since skipped ones take no time.
LATEST = 10


def print_progress(done, total, seconds, slots):
    """Print how many commands are done, and the estimated time left, from the seconds of the latest ones."""
    left = sum(seconds) / len(seconds) * (total - done) / slots
    time_left = f"{left / 60:.0f} min" if left < 6000 else f"{left / 3600:.0f} h"
    about = f", about {time_left} left" if done < total else ""
    print(f"{done} of {total} runs are done{about}", file=sys.stderr, flush=True)


def main(devices):
    signals = {number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}  # nohup
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for number in signals:  # commands would inherit signals that a background shell ignores
        signal.signal(number, lambda *_: None)

    def in_a_group_of_its_own():
        os.setpgrp()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    lines, free, running, code = deque(sys.stdin.read().splitlines()), list(devices), {}, 0
    total, number, seconds = sum(map(bool, lines)), 0, deque(maxlen=LATEST)
    while lines or running:
        if lines and lines[0] and free:
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": free[0]}
            command = ["bash", "-c", lines.popleft()]
            number += 1
            printer = subprocess.Popen([*NUMBERED, str(number)], stdin=subprocess.PIPE)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=printer.stdin,
                stderr=subprocess.STDOUT,
                env=environment,
                preexec_fn=in_a_group_of_its_own,
            )
            printer.stdin.close()
            running[process] = free.pop(0), printer, time.monotonic()
            continue
        if not running:  # an empty line, and all before it is done
            lines.popleft()
            continue
        stop = signal.sigwait(signals) != signal.SIGCHLD
        for process in [process for process in running if process.poll() is not None]:
            device, printer, started = running.pop(process)
            printer.wait()
            free.append(device)
            if process.returncode in INTERRUPTED:
                stop = True
                continue
            seconds.append(time.monotonic() - started)
            print_progress(number - len(running), total, seconds, len(devices))
            if process.returncode:
                print(f"failed with exit code {process.returncode}: {process.args[-1]}", file=sys.stderr, flush=True)
                code = code or 1
        if stop and code != RESUMABLE:
            code = RESUMABLE
            lines.clear()
            for process in running:
                os.killpg(process.pid, signal.SIGTERM)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
