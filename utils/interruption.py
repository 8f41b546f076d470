"""SIGTERM and Ctrl-C: what is being computed is finished and kept before the process leaves."""

import os
import signal
import threading
import time
from contextlib import contextmanager

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

    @contextmanager
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
            # Not print: the signal may have come inside one.
            os.write(2, f"\n{name}: this step is finished and kept\n".encode())


def leave_signals_to_the_main_process(worker=None):
    """For processes that read wavs: in a group of their own a signal to the whole group does not end them before the step."""
    os.setpgid(0, 0)
