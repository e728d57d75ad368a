"""Figures that a passing test shows too: the margin cases it met, the seconds a recovery took. Printed at the end of the run."""

from __future__ import annotations

shown: list[str] = []


def show(line: str) -> None:
    """Keeps a line for the end of the run."""
    shown.append(line)
