"""How long a 2 GB random Llama takes to load, and how much memory, beside a plain read of its files.

    python benchmarks/loading.py [--laps 3] [--model DIRECTORY]

Every lap measures all ways in turn, each in a process of its own, with the files in the page cache and without. Peaks are RssAnon +
RssShmem above what the process held before, looked at every 2 ms from outside. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from statistics import median
from typing import Any

import load_child
from load import report
from load.claims import Claim
from models import make_model

LOOK_EVERY_SECONDS = 0.002
COLD, WARM = "cold", "warm"

Record = dict[str, Any]


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--model", type=Path, help="another model directory (default: the 1b shape, made on first use)")
    parser.add_argument("--no-save", action="store_true", help="leave results/ and LOG.md alone")
    arguments = parser.parse_args()
    model = arguments.model or make_model("1b")
    laps = [
        {(way, cache): measured(way, model, cache) for cache in (WARM, COLD) for way in load_child.WAYS}
        for _ in range(arguments.laps)
    ]
    rows = [summary(way, cache, [lap[way, cache] for lap in laps], laps) for way, cache in laps[0]]
    record: Record = {"name": "loading", "machine": report.machine(), "rows": rows}
    peak = max(row["peak_ratio"] for row in rows if row["way"] in load_child.LOADS)
    claims = [Claim("largest peak of memory ÷ bytes of the weights", peak)]
    report.finish(record, tables(rows), save_it=not arguments.no_save, claims=claims)


def measured(way: str, model: Path, cache: str) -> Record:
    """One run: seconds, peak of memory above the start in bytes, and the bytes of what was loaded."""
    files = sorted(model.glob("*.safetensors"))
    for file in files:
        set_cache(file, cache)
    command = [sys.executable, load_child.__file__, way, str(model)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before = held_bytes(child.pid)
        with Peak(child.pid) as peak:
            child.stdin.write("go\n")
            result = json.loads(child.stdout.readline())
        child.stdin.close()
    return {**result, "peak_bytes": peak.num_bytes - before}


class Peak:
    """The most memory that a process held while this was entered, and at its end."""

    def __init__(self, pid: int) -> None:
        self.num_bytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.num_bytes = max(self.num_bytes, held_bytes(self._pid))

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_SECONDS):
            self.num_bytes = max(self.num_bytes, held_bytes(self._pid))


def set_cache(file: Path, cache: str) -> None:
    """Brings a file into the page cache or drops it from there."""
    with file.open("rb", buffering=0) as stream:
        if cache == COLD:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return
        buffer = bytearray(load_child.BLOCK_BYTES)
        while stream.readinto(buffer):
            pass


def held_bytes(pid: int) -> int:
    """Memory that is the process's own or shared and in no file; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status)
    return sum(map(int, found)) * 1024


def summary(way: str, cache: str, runs: list[Record], laps: list[dict[tuple[str, str], Record]]) -> Record:
    """Medians of all laps; the ratio is that of each lap's own plain read."""
    size = runs[0]["bytes"]
    ratios = [run["seconds"] / lap[load_child.PLAIN, cache]["seconds"] for run, lap in zip(runs, laps, strict=True)]
    return {
        "way": way,
        "cache": cache,
        "megabytes": size / 1e6,
        "seconds": median(run["seconds"] for run in runs),
        "times_plain_read": median(ratios),
        "peak_ratio": max(run["peak_bytes"] for run in runs) / size,
    }


def tables(rows: list[Record]) -> str:
    """One line a way."""
    headings = ["way", "page cache", "MB", "seconds", "times the plain read", "peak / bytes of the weights"]
    return report.table(headings, [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
