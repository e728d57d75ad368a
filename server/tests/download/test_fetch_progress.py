"""The log lines of a long download."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ribbon_server.download.fetch_progress import said_now_and_then, size_bytes
from ribbon_server.telemetry import LOGGER


class Keeper(logging.Handler):
    """Keeps records, and says when one tells of `wanted` bytes."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.wanted, self.records, self.seen = wanted, [], threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if record.fields["bytes"] == self.wanted:
            self.seen.set()


@pytest.fixture
def keeper(caplog: pytest.LogCaptureFixture) -> Iterator[Keeper]:
    keeper = Keeper(1_500_000)
    LOGGER.addHandler(keeper)
    with caplog.at_level("INFO", logger=LOGGER.name):
        yield keeper
    LOGGER.removeHandler(keeper)


def test_what_has_come_since_is_said_in_bytes_and_milliseconds(tmp_path: Path, keeper: Keeper) -> None:
    (tmp_path / "old").write_bytes(b"x" * 900)
    with said_now_and_then(tmp_path, 4_000_000, every_seconds=0.01):
        (tmp_path / "new.incomplete").write_bytes(b"x" * keeper.wanted)
        assert keeper.seen.wait(60)
    assert keeper.records[-1].getMessage().startswith("fetched 1.5 MB of 4.0 MB in ")
    assert keeper.records[-1].fields["ms"] >= 0


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert size_bytes(tmp_path / "blobs") == 0
