"""The GPU check: one command for a bare machine with a CUDA device. `docs/gpu-check.md` says what each stage tells.

    python benchmarks/gpu/check.py [--stage NAME ...] [--device cuda:0] [--tiny]

Each stage runs in a process of its own, so that an error of the device ends that stage alone, and writes gpu-NAME.json to $OUT or
benchmarks/results/ at once. The last line is one JSON object with every stage's summary.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings import CannotRun, Settings, results_folder, settings_for

TAIL = 2000  # characters of a failure that are kept
REASON = 500
FAILED, NOTHING_RAN = 1, 2


@dataclass(frozen=True)
class Stage:
    """A row of the table."""

    tells: str
    seconds: int  # it is ended after so many


# Most telling first.
STAGES = {
    "selftest": Stage("the attention call does over ribbons what we use it for", 240),
    "correctness": Stage("the shard's logits and tokens are those of transformers", 420),
    "ranks": Stage("ranks with a device each are one model", 420),
    "mapping": Stage("what creating, mapping, aliasing and unmapping pages costs", 240),
    "bands": Stage("what interleaved layers cost in attention", 480),
    "prefix": Stage("from which length on showing a prefix beats copying it", 240),
    "roofline": Stage("how near a decode step of the 8B shape comes to the memory", 480),
}

Record = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Runs the stages asked for; 0 where some ran and none failed."""
    options = parse(arguments)
    folder = results_folder()
    if options.here:
        write(folder, options.stage[0], run_here(options.stage[0], options.device, tiny=options.tiny))
        return 0
    records = {name: run_apart(name, options, folder) for name in options.stage or STAGES}
    summaries = {
        name: {"status": record["status"], **record.get("figures", {}).get("summary", {}), **_reason(record)}
        for name, record in records.items()
    }
    print(json.dumps({"gpu_check": summaries}))
    found = {record["status"] for record in records.values()}
    return FAILED if "failed" in found else 0 if "ran" in found else NOTHING_RAN


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="may be repeated; all by default")
    parser.add_argument("--device", help="cuda by default; cpu tries the code, not the speed")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the code")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here and len(options.stage or ()) != 1:
        parser.error("--here needs exactly one --stage")
    return options


def run_apart(name: str, options: argparse.Namespace, folder: Path) -> Record:
    """One stage in a process of its own, bounded in time."""
    print(f"{name}: {STAGES[name].tells} (at most {STAGES[name].seconds} s)", flush=True)
    path = result_path(folder, name)
    path.unlink(missing_ok=True)
    words = [sys.executable, str(Path(__file__).resolve()), "--here", "--stage", name]
    words += ["--device", options.device] if options.device else []
    words += ["--tiny"] if options.tiny else []
    reason = f"it took more than {STAGES[name].seconds} s"
    try:
        done = subprocess.run(words, timeout=STAGES[name].seconds, stderr=subprocess.PIPE, text=True)
        reason = f"its process ended with code {done.returncode}: {done.stderr[-TAIL:]}"
    except subprocess.TimeoutExpired:
        pass
    if not path.exists():
        write(folder, name, {"stage": name, "status": "failed", "reason": reason})
    record: Record = json.loads(path.read_text())
    print(
        f"{name}: {record['status']} {json.dumps(record.get('figures', {}).get('summary', _reason(record)))}",
        flush=True,
    )
    return record


def run_here(name: str, device: str | None, *, tiny: bool) -> Record:
    """One stage in this process, on the device named."""
    try:
        settings = settings_for(device, tiny=tiny)
    except ValueError as error:
        return {"stage": name, "status": "cannot run", "reason": str(error)}
    return run_with(name, settings)


def run_with(name: str, settings: Settings) -> Record:
    """One stage: its figures, or why there are none."""
    started = time.perf_counter()
    record: Record = {"stage": name, "tells": STAGES[name].tells, "machine": machine(settings), "tiny": settings.tiny}
    try:
        stage = importlib.import_module(f"stages.{name}")
        record |= {"status": "ran", "figures": stage.run(settings)}
    except CannotRun as error:
        record |= {"status": "cannot run", "reason": str(error)}
    except Exception as error:  # noqa: BLE001  a stage's failure is its result
        lines = traceback.format_exc()
        record |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:REASON], "traceback": lines[:TAIL]}
    return record | {"seconds": round(time.perf_counter() - started, 1)}


def machine(settings: Settings) -> Record:
    """What the figures were measured on."""
    import torch
    import triton

    facts: Record = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    if settings.on_cuda:
        properties = torch.cuda.get_device_properties(settings.device)
        facts |= {"device": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        facts |= {"multiprocessors": properties.multi_processor_count}
    else:
        facts["device"] = "cpu"
    return facts


def write(folder: Path, name: str, record: Record) -> None:
    """One file a stage, whole or not at all."""
    path = result_path(folder, name)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


def result_path(folder: Path, name: str) -> Path:
    """Where a stage's record lies."""
    return folder / f"gpu-{name}.json"


def _reason(record: Record) -> Record:
    return {"reason": record["reason"]} if "reason" in record else {}


if __name__ == "__main__":
    sys.exit(main())
