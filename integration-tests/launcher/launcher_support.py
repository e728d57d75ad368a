"""A launcher process under test."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BINARIES = REPOSITORY / "target" / "debug"
READY = re.compile(r"ready on (http://\S+) in \d+ ms \((.*)\)")


class Launcher:
    """One launcher process. Its output is read all the time, so that it can never block on it."""

    def __init__(self, program, arguments, environment):
        self.process = subprocess.Popen(
            [program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip())

    @property
    def output(self):
        return "\n".join(self.lines)

    def wait_for(self, pattern, seconds=60):
        """The match of `pattern` in the output; fails when the launcher ends or the time is over before it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            if ended:
                self._reader.join(timeout=5)
            match = re.search(pattern, self.output)
            if match:
                return match
            if ended:
                break
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} is not in the output (exit code {self.process.poll()}):\n{self.output}")

    def ready(self, seconds=120):
        """Waits until it serves; the URL. A host of 0.0.0.0 is reached through the loopback address."""
        return self.wait_for(READY, seconds).group(1).replace("0.0.0.0", "127.0.0.1")

    def exit_code(self, seconds=60):
        code = self.process.wait(timeout=seconds)
        self._reader.join(timeout=5)
        return code

    def signal(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def descendants(self):
        """Pids of everything it started that still lives, by a mark in the environment that children inherit."""
        return processes_marked(self.mark)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=10)


def processes_marked(mark):
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"RIBBON_TEST_MARK={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds=60):
    """Waits for a condition; its last value."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def base_environment():
    """Ours, without settings of the machine that flags would read."""
    dropped = {"HOSTNAME", "PORT", "MODEL_ID", "REVISION", "DTYPE", "LOG_LEVEL"}
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    return environment | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
