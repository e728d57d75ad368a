"""The image's health check: asks the router where it really listens, and says no where there is none."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from load.served import ROOT, Served, free_port

CHECK = ROOT / "deploy" / "healthcheck.py"


def check(processes: Path) -> int:
    """Exit code of the check over a directory like /proc."""
    return subprocess.run([sys.executable, str(CHECK), str(processes)], check=False, timeout=60).returncode


def add(processes: Path, pid: int, words: list[bytes]) -> None:
    """A process as /proc shows it."""
    (processes / str(pid)).mkdir()
    (processes / str(pid) / "cmdline").write_bytes(b"".join(word + b"\0" for word in words))


def test_a_router_is_found_by_its_own_command_line(tiny_server: Served, tmp_path: Path) -> None:
    add(tmp_path, 1, [b"ribbon-launcher", b"--port", b"1"])
    assert check(tmp_path) == 1, "no router yet"
    add(tmp_path, 17, [word.encode() for word in tiny_server.router().cmdline()])
    assert check(tmp_path) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_router_that_does_not_answer_is_unhealthy(tmp_path: Path, host: str) -> None:
    add(tmp_path, 9, [b"/bin/ribbon-router", f"--hostname={host}".encode(), f"--port={free_port()}".encode()])
    assert check(tmp_path) == 1


class _Unhealthy(BaseHTTPRequestHandler):
    """Answers 503."""

    def do_GET(self) -> None:
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_a_server_that_makes_no_steps_is_unhealthy(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Unhealthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            port = f"--port={server.server_port}".encode()
            add(tmp_path, 9, [b"/bin/ribbon-router", b"--hostname=0.0.0.0", port])
            assert check(tmp_path) == 1
        finally:
            server.shutdown()
            thread.join()
