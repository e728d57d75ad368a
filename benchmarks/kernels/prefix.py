"""Times how a slot comes to show another storage's prefix, by its length: the map and the copied tail, then the first reads.

PYTHONPATH=server:benchmarks .venv/bin/python -m kernels.prefix [--rounds 30]
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from kernels.region_ops import apply, prepared

from ribbon_server import _native
from ribbon_server.kv.ribbons import OpKind

STRIDES = {"bundled model, bf16": 3_072, "120 M, bf16": 12_288}
LENGTHS = (65, 1_025, 4_001, 32_001)  # odd, so that the last page is partial and its part is copied
DONOR, READER = 1, 2


def microseconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin) / 1e3


def read_every_page(address: int, size: int, page: int) -> int:
    """Reads one byte a page, so that each is faulted in."""
    return int(np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))[::page].sum())


def share_row(name: str, stride: int, tokens: int, rounds: int) -> dict[str, object]:
    """Median microseconds of showing `tokens` tokens, and of reading them for the first and the second time."""
    region = _native.Region(num_slots=4, num_storages=4, slot_tokens=tokens + 1, stride_bytes=stride, num_pages=1 << 22)
    apply(region, (OpKind.OPEN, DONOR, DONOR, 0), (OpKind.GROW, DONOR, 0, tokens))
    ctypes.memset(region.address + DONOR * region.slot_bytes, 1, tokens * stride)
    place = region.address + READER * region.slot_bytes
    shares, firsts, seconds = [], [], []
    for _ in range(rounds):
        apply(region, (OpKind.OPEN, READER, READER, 0))
        shares.append(microseconds(prepared(region, (OpKind.SHARE, READER, DONOR, tokens))))
        firsts.append(microseconds(lambda: read_every_page(place, tokens * stride, region.page_bytes)))
        seconds.append(microseconds(lambda: read_every_page(place, tokens * stride, region.page_bytes)))
        apply(region, (OpKind.CLOSE, READER, 0, 0))
    pages = tokens * stride // region.page_bytes
    first, second = median(firsts), median(seconds)
    return {
        "model": name,
        "tokens": tokens,
        "share_us": median(shares),
        "first_read_us": first,
        "second_read_us": second,
        "fault_us_per_page": (first - second) / pages,
    }


def region_figures(rounds: int = 30) -> list[dict[str, object]]:
    """One row a stride and length."""
    return [share_row(name, stride, tokens, rounds) for name, stride in STRIDES.items() for tokens in LENGTHS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rows = region_figures(parser.parse_args().rounds)
    print("".join(f"{name:>20}" for name in rows[0]))
    for row in rows:
        print(
            "".join(
                f"{value if isinstance(value, (str, int)) else round(float(value), 2)!s:>20}" for value in row.values()
            )
        )
    print(json.dumps({"share": rows}))


if __name__ == "__main__":
    main()
