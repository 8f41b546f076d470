"""SIGTERM and Ctrl-C: what is being computed is finished and kept before the process leaves."""

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import time

from utils.errors import GoOnLater

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Whoever presses Ctrl-C again does not want to wait; launchers pass one signal on several times at once.
SECONDS_TO_INSIST = 1.0


class Interruption:
    """What is done about SIGTERM and Ctrl-C, within ``with``: they raise GoOnLater, or wait while they are held back.

    ``requested`` says that one came while they were held back.
    """

    def __init__(self):
        self.requested = False
        self._held, self._since, self._before = False, 0.0, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            self._before = {number: signal.signal(number, self._answer) for number in SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held_back(self):
        """Within it a signal only sets ``requested``; Ctrl-C pressed again raises KeyboardInterrupt: nothing more is kept."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _answer(self, number, frame):
        insisted = self.requested and number == signal.SIGINT and time.monotonic() - self._since > SECONDS_TO_INSIST
        if insisted:
            raise KeyboardInterrupt
        if not self._held:
            raise GoOnLater
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
            name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            with contextlib.suppress(OSError):  # whoever read it may be gone
                # Not print: the signal may have come inside one.
                os.write(2, f"\n{name}: this step is finished and kept\n".encode())


# Set as the last thing that the main process does before it ends the processes that read wavs.
_leaving = multiprocessing.Event()
atexit.register(_leaving.set)


def deaf_to_signals():
    """What a process that reads wavs does first: a signal to all processes must not end it while a step is still computed."""
    return functools.partial(_be_deaf, _leaving)


def _be_deaf(leaving, worker):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.is_set() else None)
