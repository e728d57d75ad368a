"""Reads the Prometheus text format. Knows samples; not what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator

SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")


def samples(text: str) -> Iterator[tuple[str, str, float]]:
    """Name, label text and value of every sample."""
    for line in text.splitlines():
        if match := SAMPLE.match(line):
            yield match[1], match[2] or "", float(match[3])


def metric(text: str, name: str, labels: str = "") -> float:
    """One sample's value. Raises KeyError when it is not there."""
    for found, found_labels, value in samples(text):
        if found == name and labels in found_labels:
            return value
    raise KeyError(f"metric {name}{{{labels}}} is not exported")


def total(text: str, name: str) -> float:
    """Sum of a metric over its labels; 0 when it was never counted."""
    return sum(value for found, _, value in samples(text) if found == name)
