"""Runs both sides over some cases and prints the table family × check, then a JSON line. `make parity` runs all of them.

Run: python run.py [PART OF A NAME …]
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from cases import Case, cases  # noqa: E402

TIMEOUT_SECONDS = 1800
Row = dict[str, dict[str, str]]


@dataclass
class Report:
    """What both sides said."""

    rows: dict[str, Row] = field(default_factory=dict)  # case to check to outcome
    no_reference: dict[str, str] = field(default_factory=dict)  # case to reason

    def failures(self, keys: list[str]) -> list[str]:
        """One line for each thing that is wrong with these cases."""
        lines = [f"{key}: no reference: {reason}" for key, reason in self.no_reference.items() if key in keys]
        for key in keys:
            for check, outcome in self.rows.get(key, {}).items():
                lines += [f"{key}: {check}: {outcome['failed']}"] if "failed" in outcome else []
        return lines

    def unmoved_fields(self, keys: list[str]) -> set[str]:
        """Spec fields that can be reset in each of these cases that sets them without anyone noticing."""
        outcomes = [json.loads(self.rows[key]["fields"].get("passed", "{}")) for key in keys if key in self.rows]
        moved = {field for outcome in outcomes for field in outcome.get("moved", ())}
        return {field for outcome in outcomes for field in outcome.get("unmoved", ())} - moved


def compare(chosen: list[Case]) -> Report:
    """The reference's side in one process, ours in another."""
    keys = [case.key for case in chosen]
    with tempfile.TemporaryDirectory() as folder:
        no_reference = _side("reference_side.py", folder, keys)
        rows = _side("our_side.py", folder, [key for key in keys if key not in no_reference])
    return Report(rows, no_reference)


def _side(program: str, folder: str, keys: list[str]) -> dict:
    done = subprocess.run(
        [sys.executable, str(HERE / program), folder, *keys], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(report: Report, chosen: list[Case]) -> str:
    """A line a case, a column a check."""
    checks = list(dict.fromkeys(check for row in report.rows.values() for check in row))
    widths = [max(len(check), 9) for check in checks]
    lines = ["case".ljust(52) + "  ".join(check.ljust(width) for check, width in zip(checks, widths, strict=True))]
    for case in chosen:
        row = report.rows.get(case.key)
        cells = ["no reference"] if row is None else [_cell(row[check]) for check in checks]
        lines.append(
            f"{case.architecture} {case.variant}".ljust(52)
            + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        )
    return "\n".join(lines)


def _cell(outcome: dict[str, str]) -> str:
    if "failed" in outcome:
        return "FAILED"
    measured = outcome["passed"]
    return f"{len(json.loads(measured)['moved'])} fields" if measured.startswith("{") else measured


def main(words: list[str]) -> int:
    """Prints the table; 1 where anything failed."""
    chosen = [case for case in cases() if not words or any(word.lower() in case.key.lower() for word in words)]
    report = compare(chosen)
    print(table(report, chosen))
    failures = report.failures([case.key for case in chosen])
    for architecture in dict.fromkeys(case.architecture for case in chosen):
        unmoved = report.unmoved_fields([case.key for case in chosen if case.architecture == architecture])
        failures += [f"{architecture}: resetting {name} changes nothing" for name in sorted(unmoved)]
    print("\n".join(failures))
    print(json.dumps({"cases": len(chosen), "failures": len(failures), "rows": report.rows}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
