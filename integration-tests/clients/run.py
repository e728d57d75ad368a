"""Runs the clients' tests and prints the table client × version × outcome × features, then a JSON line. `make test-clients` runs all.

Run: python run.py [OPTIONS OF PYTEST …]. Without options the table must be the one of docs/reference/clients.md.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs" / "reference" / "clients.md"


@dataclass
class Table:
    """A row for each client that a test recorded."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for each phase of each test; a test that records no client has no row unless it fails."""
        told: dict[str, Any] = dict(report.user_properties)
        if report.failed or (report.when == "call" and "client" in told):
            name, version = told.get("client", report.nodeid.split("::")[-1]), told.get("version", "?")
            row = {"client": name, "version": version, "ok": report.passed, "features": told.get("features", [])}
            self.rows.append(row)

    def lines(self) -> list[str]:
        """A line a client, in order, as the page has them."""
        told = [
            (row["client"], row["version"], "yes" if row["ok"] else "NO", ", ".join(row["features"]))
            for row in self.rows
        ]
        return [f"| {' | '.join(cells)} |" for cells in sorted(told)]


def listed() -> list[str]:
    """The page's lines."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [line for line in lines if not line.startswith(("| client |", "| --- |"))]


def main() -> int:
    """Exit status: pytest's, or 1 where the page says something else."""
    table, options = Table(), sys.argv[1:]
    code = int(pytest.main([str(HERE), "-q", "-m", "clients", *options], plugins=[table]))
    lines = table.lines()
    print("\n| client | version | ok | features |\n| --- | --- | --- | --- |", *lines, sep="\n")
    if not options and lines != listed():
        print(f"\n{PAGE.name} lists something else")
        code = code or 1
    print(json.dumps({"clients": table.rows, "ok": code == 0}))
    return code


if __name__ == "__main__":
    sys.exit(main())
