"""Where other people's clients live: environments made from the pins here, kept in `.clients/` until the pins change. Knows no server."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KEPT = ROOT / ".clients"
UV = ROOT / ".venv" / "bin" / "uv"
INSTALL_SECONDS = 1200


class NotInstalledError(RuntimeError):
    """An environment could not be made; the message is what the installer said last."""


def python_of(name: str) -> Path:
    """The interpreter of the environment of `pins/<name>.txt`, which is made first where it is missing. Raises NotInstalledError."""
    pins = HERE / "pins" / f"{name}.txt"

    def install(folder: Path) -> None:
        _run([UV, "venv", "--quiet", "--python", sys.executable, folder])
        _run([UV, "pip", "install", "--quiet", "--no-deps", "--python", folder / "bin" / "python", "-r", pins])

    return _kept(name, [pins], install) / "bin" / "python"


def node_folder() -> Path:
    """A folder with the packages of `node/package-lock.json`. Raises NotInstalledError."""
    pins = [HERE / "node" / file for file in ("package.json", "package-lock.json", ".npmrc")]

    def install(folder: Path) -> None:
        folder.mkdir()
        for file in pins:
            shutil.copy(file, folder)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], folder)

    return _kept("node", pins, install)


def _kept(name: str, pins: Sequence[Path], install: Callable[[Path], None]) -> Path:
    """The environment's folder. Its name says which pins it was made from; others of the same name are removed."""
    said = b"".join([sys.version.encode(), *(file.read_bytes() for file in pins)])
    folder = KEPT / f"{name}-{hashlib.sha256(said).hexdigest()[:12]}"
    ready = folder / ".ready"
    with _alone():
        if not ready.exists():
            for old in KEPT.glob(f"{name}-*"):
                shutil.rmtree(old)
            install(folder)
            ready.touch()
    return folder


@contextmanager
def _alone() -> Iterator[None]:
    """One installation at a time, whoever runs the tests."""
    KEPT.mkdir(exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str | Path], folder: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode != 0:
        raise NotInstalledError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
