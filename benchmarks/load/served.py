"""A real launcher on a free port of this machine, always taken down. Knows processes and the health route; not requests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO_MODEL = ROOT / "demo-model" / "weights"
POLL_SECONDS = 0.05
STOP_SECONDS = 60.0
SHOWN_LOG_LINES = 60

# Settings of the surroundings that would change what is measured or tested.
WITHHELD = (
    "PORT",
    "HOSTNAME",
    "MODEL_ID",
    "REVISION",
    "DTYPE",
    "KV_MEMORY",
    "STEP_LOG",
    "STEP_TIMEOUT",
    "OMP_NUM_THREADS",
    "JSON_OUTPUT",
    "PREFIX_CACHING",
    "REQUEST_TIMEOUT",
    "DRAIN_GRACE",
    "NUM_SHARD",
)


class NotServingError(RuntimeError):
    """The launcher ended or did not become healthy in time; the message carries the tail of its log."""


def launcher_binary(build: str) -> Path:
    """The launcher of a build (`release` or `debug`); the router lies next to it."""
    return ROOT / "target" / build / "ribbon-launcher"


def available_binary() -> Path:
    """The launcher to measure: the release build, else with a warning the debug one. Raises FileNotFoundError."""
    if (release := launcher_binary("release")).exists():
        return release
    if (debug := launcher_binary("debug")).exists():
        print("measuring debug binaries: `make build-release` was not run", file=sys.stderr)
        return debug
    raise FileNotFoundError(f"{release} is missing: run `make build-release`")


def free_port() -> int:
    """A port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """One server. Use it as a context manager; `base` is its URL, `directory` holds its log and step log, and stays where the end was not clean."""

    def __init__(
        self,
        model: Path | None,
        *flags: str,
        binary: Path,
        healthy_seconds: float = 120.0,
        env: dict[str, str] | None = None,
    ) -> None:
        self.model, self.flags, self.binary, self.healthy_seconds = model, flags, binary, healthy_seconds
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.directory = Path(tempfile.mkdtemp(prefix="ribbon-served-"))
        self.log_file = self.directory / "log"
        self.step_log = self.directory / "steps.jsonl"
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.startup_seconds = 0.0

    def __enter__(self) -> Served:
        self.start()
        try:
            self.startup_seconds = self.wait_healthy(self.healthy_seconds)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def command(self) -> list[str]:
        """The launcher's command line."""
        model = ["--model-id", str(self.model)] if self.model else []
        place = ["--hostname", "127.0.0.1", "--port", str(self.port), "--step-log", str(self.step_log), "--json-output"]
        return [str(self.binary), *model, *place, *self.flags]

    def start(self) -> None:
        """Starts the launcher in a session of its own; returns at once."""
        surroundings = {name: value for name, value in os.environ.items() if name not in WITHHELD}
        surroundings["PATH"] = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{surroundings.get('PATH', '')}"
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env=surroundings | self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def launcher(self) -> subprocess.Popen[bytes]:
        """The launcher's process."""
        assert self._process is not None, "start() was not called"
        return self._process

    def wait_healthy(self, seconds: float) -> float:
        """Waits for 200 on /health and returns how long that took. Raises NotServingError."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            if self.launcher.poll() is not None:
                raise NotServingError(
                    f"the launcher ended with exit code {self.launcher.returncode}\n{self.log_tail()}"
                )
            if self.status("/health") == 200:
                return time.monotonic() - begin
            time.sleep(POLL_SECONDS)
        raise NotServingError(f"not healthy after {seconds:g} s\n{self.log_tail()}")

    def status(self, path: str, timeout: float = 5.0) -> int:
        """HTTP status of a GET; 0 when nothing answers."""
        try:
            with urllib.request.urlopen(self.base + path, timeout=timeout) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def get(self, path: str, timeout: float = 5.0) -> str:
        """Body of a GET. Raises when the status is not 200."""
        with urllib.request.urlopen(self.base + path, timeout=timeout) as answer:
            return str(answer.read().decode())

    def log_tail(self) -> str:
        """The last lines of all processes' logs."""
        lines = self.log_file.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:]
        return "\n".join([f"--- last lines of {self.log_file}", *lines])

    def router(self) -> psutil.Process:
        """The router's process."""
        return self._child("ribbon-router")

    def shard(self, rank: int = 0) -> psutil.Process:
        """A shard's process, after a restart the new one. Raises NotServingError while there is none."""
        return self._child("serve", f"--rank={rank}")

    def _child(self, *words: str) -> psutil.Process:
        for child in psutil.Process(self.launcher.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if set(words) <= {Path(part).name for part in child.cmdline()}:
                    return child
        raise NotServingError(f"the launcher has no child that runs `{' '.join(words)}`\n{self.log_tail()}")

    def stop(self) -> int | None:
        """Drains as Ctrl-C does, kills what is left, and returns the launcher's exit code (None when it had to be killed)."""
        if self._process is None:
            return None
        family = self._family()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # SIGTERM would wait for late requests first
        code: int | None
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            code = None
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if code == 0:
            shutil.rmtree(self.directory, ignore_errors=True)
        return code

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.launcher.pid).children(recursive=True)
        except psutil.Error:
            return []
