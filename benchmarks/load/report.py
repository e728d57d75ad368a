"""Tables, verdicts, result files and the log of measurements. Knows records of figures; not how they were measured."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from load.claims import HEADINGS, Claim, verdicts

Record = dict[str, Any]
BENCHMARKS = Path(__file__).resolve().parent.parent
RESULTS = BENCHMARKS / "results"
LOG = BENCHMARKS / "LOG.md"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers with three digits that count."""
    cells = [[shown(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(headings), *cells]) for column in range(len(headings))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in [headings, *cells]
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def shown(value: object) -> str:
    """A value as the tables show it."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> Record:
    """Where a result was measured."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0], "commit": commit}


def save(record: Record, name: str, story: str) -> Path:
    """Writes the result file and appends `story` to the log."""
    now = datetime.datetime.now(datetime.UTC)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d-%H%M%S}-{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    with LOG.open("a") as log:
        log.write(f"\n## {now:%Y-%m-%d %H:%M} {name}\n\n{story}\n\nResult: `results/{path.name}`.\n")
    return path


def finish(record: Record, text: str, *, save_it: bool, claims: Sequence[Claim] = ()) -> None:
    """Ends a measuring program: its tables, what holds of its claims, where wanted its files, and as the last line the record.

    Exits with 1 where a claim is missed. Without claims it says that there are none.
    """
    judged = table(HEADINGS, [claim.row() for claim in claims]) if claims else "No bound is claimed for these figures."
    text = f"{text}\n\n{judged}"
    record |= verdicts(claims)
    print(text)
    if save_it:
        place = record["machine"]
        where = (
            f"{place['cpu']}, {place['cores']} cores, load {place['load_before']:.1f} before, commit {place['commit']}."
        )
        save(record, str(record["name"]), f"{where} {record.get('warning', '')}\n\n{text}")
    print(last_line(record))
    if not record.get("holds", True):
        sys.exit(1)


def last_line(record: Record) -> str:
    """The one JSON object that ends every measuring program's output."""
    return json.dumps(record, separators=(",", ":"))
