"""What the process says: JSON log records on stderr, machine events on stdout. Knows no model and no request."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("ribbon_server")


class JsonFormatter(logging.Formatter):
    """One JSON object a record: timestamp, level, message, target, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": {"WARNING": "WARN", "CRITICAL": "ERROR"}.get(record.levelname, record.levelname),
            "message": record.getMessage(),
            "target": record.name,
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(level: str) -> None:
    """Sends the log to stderr as JSON lines, from `level` up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    LOGGER.setLevel(level)


def log(level: int, message: str, **fields: object) -> None:
    """Logs `message` with named fields."""
    LOGGER.log(level, message, extra={"fields": fields})


def megabytes(num_bytes: int) -> str:
    """A size as messages show it."""
    return f"{num_bytes / 1e6:,.1f} MB"


def emit_event(event: str, **fields: object) -> None:
    """Tells the launcher: one JSON line on stdout."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Times a slow part of the start and tells the launcher its milliseconds."""
    started = time.monotonic()
    yield
    milliseconds = round((time.monotonic() - started) * 1000)
    emit_event("phase", phase=name, ms=milliseconds)
    log(logging.INFO, f"{name} took {milliseconds} ms", phase=name, ms=milliseconds)
