"""Says how far the loading of weights is: a bar on a terminal, else a log line now and then. Knows bytes and time."""

import logging
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from ribbon_server.telemetry import log, megabytes

LOG_EVERY_SECONDS = 5.0


class LoadProgress:
    """Progress of one load, from its making to `finish`."""

    def __init__(self, num_weights: int, num_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`num_weights` of together `num_bytes` are to come; `clock` gives seconds."""
        self._num_weights = num_weights
        self._num_bytes = num_bytes
        self._done_bytes = 0
        self._clock = clock
        self._started = self._said = clock()
        self._bar = tqdm(
            total=num_bytes, desc="load weights", unit="B", unit_scale=True, disable=not sys.stderr.isatty()
        )

    def advance(self, num_bytes: int) -> None:
        """Another weight of `num_bytes` is there."""
        self._done_bytes += num_bytes
        self._bar.update(num_bytes)
        if self._clock() - self._said >= LOG_EVERY_SECONDS:
            self._said = self._clock()
            self._say(f"read {megabytes(self._done_bytes)} of {megabytes(self._num_bytes)}")

    def finish(self) -> None:
        """All are there."""
        self._bar.close()
        self._say(f"read {self._num_weights} weights, {megabytes(self._done_bytes)}")

    def _say(self, message: str) -> None:
        milliseconds = round((self._clock() - self._started) * 1000)
        log(logging.INFO, f"{message} in {milliseconds} ms", bytes=self._done_bytes, ms=milliseconds)
