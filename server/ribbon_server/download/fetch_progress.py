"""Says now and then how much of a model is there while it is fetched. Looks at file sizes; knows no Hub."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ribbon_server.telemetry import log, megabytes

EVERY_SECONDS = 10.0


@contextmanager
def said_now_and_then(folder: Path, expected_bytes: int, every_seconds: float = EVERY_SECONDS) -> Iterator[None]:
    """Logs how many of `expected_bytes` have come into `folder` since this was entered, until it is left."""
    started, before = time.monotonic(), size_bytes(folder)
    ended = threading.Event()

    def say() -> None:
        while not ended.wait(every_seconds):
            come = size_bytes(folder) - before
            milliseconds = round((time.monotonic() - started) * 1000)
            message = f"fetched {megabytes(come)} of {megabytes(expected_bytes)} in {milliseconds} ms"
            log(logging.INFO, message, bytes=come, ms=milliseconds)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def size_bytes(folder: Path) -> int:
    """Of all files directly in `folder`; 0 where there is none. Files may come and go meanwhile."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
