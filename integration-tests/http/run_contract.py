"""Runs the tables of the HTTP contract and ends with what they found: a line a test, then one JSON object. `make contract`.

Knows pytest's reports; not the rules.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "benchmarks"))

from load.report import last_line, table  # noqa: E402

TESTS = ("test_contract.py", "test_bad_input.py")
OUTCOMES = ("passed", "failed", "skipped")


class Tally:
    """How the cases of each test ended."""

    def __init__(self) -> None:
        self.ends: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts a case once: where it was run, or where it could not be."""
        if report.when == "call" or report.outcome != "passed":
            _, _, test = report.location
            self.ends[test.split("[")[0]][report.outcome] += 1

    def total(self, outcome: str) -> int:
        """Cases of all tests."""
        return sum(ends[outcome] for ends in self.ends.values())


def main() -> int:
    """pytest's exit code."""
    tally = Tally()
    code = int(pytest.main([*(str(HERE / name) for name in TESTS), "-q", "-rA"], plugins=[tally]))
    print(table(["test", *OUTCOMES], [[test, *(ends[name] for name in OUTCOMES)] for test, ends in tally.ends.items()]))
    figures = {"name": "contract"} | {name: tally.total(name) for name in OUTCOMES} | {"holds": code == 0}
    print(last_line(figures))
    return code


if __name__ == "__main__":
    sys.exit(main())
