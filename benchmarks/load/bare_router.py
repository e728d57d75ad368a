"""A router of its own in front of the instant shard, without a launcher, always taken down. Knows processes and the launcher's lines; not requests."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from load.served import DEMO_MODEL, ROOT, NotServingError

TARGET = ROOT / "target"
ROUTER, SHARD = TARGET / "dist" / "ribbon-router", TARGET / "release" / "examples" / "instant_shard"
READY_SECONDS, STOP_SECONDS = 30.0, 20.0


class BareRouter:
    """Use it as a context manager; `address` is where it listens, `router` and `shard` are its processes."""

    def __init__(self, token_ids: Sequence[int], *flags: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ribbon-bare-"))
        self.address = ("127.0.0.1", 0)
        self._tokens, self._flags = [str(token) for token in token_ids], flags
        self._link, self._theirs = socket.socketpair()
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def shard(self) -> psutil.Process:
        """The shard's process."""
        return psutil.Process(self._processes[0].pid)

    @property
    def router(self) -> psutil.Process:
        """The router's process."""
        return psutil.Process(self._processes[1].pid)

    def __enter__(self) -> BareRouter:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        shard_socket = self.directory / "shard"
        self._spawn([str(SHARD), str(shard_socket), *self._tokens])
        self._wait(shard_socket.exists)
        place = ["--model-path", str(DEMO_MODEL), "--model-id", "demo", "--hostname", "127.0.0.1", "--port", "0"]
        self._spawn([str(ROUTER), *place, "--log-level", "warn", *self._flags], stdin=self._theirs)
        self._theirs.close()
        self._say({"type": "shards", "generation": 1, "uris": [f"unix://{shard_socket}"]})
        self.address = ("127.0.0.1", self._ready_port())

    def _spawn(self, command: list[str], stdin: socket.socket | int = subprocess.DEVNULL) -> None:
        with (self.directory / "log").open("ab") as log:
            self._processes.append(subprocess.Popen(command, stdin=stdin, stdout=log, stderr=log))

    def _wait(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not holds():
            self._check(deadline)
            time.sleep(0.02)

    def _check(self, deadline: float) -> None:
        """Raises NotServingError when a process ended or the time is over."""
        if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
            raise NotServingError((self.directory / "log").read_text(errors="replace")[-4000:])

    def _say(self, message: dict[str, object]) -> None:
        self._link.sendall(json.dumps(message).encode() + b"\n")

    def _ready_port(self) -> int:
        deadline = time.monotonic() + READY_SECONDS
        heard = b""
        while b'"ready"' not in heard or not heard.endswith(b"\n"):
            self._check(deadline)
            if select.select([self._link], [], [], 0.2)[0]:
                heard += self._link.recv(4096)
        messages = [json.loads(line) for line in heard.splitlines()]
        return int(next(message["port"] for message in messages if message["type"] == "ready"))

    def _stop(self) -> None:
        """Asks the router to end, and ends both."""
        if len(self._processes) > 1 and self._processes[1].poll() is None:
            self._say({"type": "stop"})
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[1].wait(STOP_SECONDS)
        for process in self._processes:
            process.kill()
            process.wait()
        self._link.close()
        self._theirs.close()
