"""When to leave: the launcher's end of stdin, or SIGTERM, at any moment of the process's life. Imports nothing slow."""

import os
import signal
import sys
import threading
import time

GRACE_SECONDS = 1.0  # for the step that runs when the end is asked for
BACKSTOP_SECONDS = 3 * GRACE_SECONDS  # also where a load or a hung step never looks


class Lifeline:
    """Watches from the moment it is made; the process is gone soon after `leave` is set, whatever it was doing."""

    def __init__(self) -> None:
        """Takes SIGTERM over, and SIGINT away: a Ctrl-C reaches the whole process group, and the launcher drains first."""
        self.leave = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self.leave.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for watch in (self._watch_stdin, self._backstop):
            threading.Thread(target=watch, name=watch.__name__, daemon=True).start()

    def _watch_stdin(self) -> None:
        """The launcher holds the other end; its end is ours."""
        while os.read(sys.stdin.fileno(), 4096):
            pass
        self.leave.set()

    def _backstop(self) -> None:
        self.leave.wait()
        time.sleep(BACKSTOP_SECONDS)
        leave_now()


def leave_now() -> None:
    """Ends the process with 0, without waiting for threads that wait for others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
