"""What a server's KV memory holds: by its own metrics, and by what the kernel says of the file behind it. Knows pages; not requests."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from load.metrics_text import metric

STATES = ("live", "shared", "cached", "free")
MEMFD = "/memfd:ribbon-kv"


@dataclass(frozen=True)
class KvSample:
    """One look. Pages by state as the router counts them; `resident_bytes` as the kernel does."""

    live: int
    shared: int
    cached: int
    free: int
    page_bytes: int
    waste: float
    resident_bytes: int

    @property
    def accounted_bytes(self) -> int:
        """Bytes of all pages that the router counts as held."""
        return (self.live + self.shared + self.cached) * self.page_bytes

    @property
    def disagreement(self) -> float:
        """Difference between router and kernel as a share of what the kernel says."""
        return abs(self.accounted_bytes - self.resident_bytes) / max(1, self.resident_bytes)


class KvFile:
    """The files behind a shard's regions, read through /proc."""

    def __init__(self, shard_pid: int) -> None:
        self._files = [entry for entry in Path(f"/proc/{shard_pid}/fd").iterdir() if _is_region(entry)]

    def resident_bytes(self) -> int:
        """Physical bytes that the kernel holds for them."""
        return sum(os.stat(file).st_blocks * 512 for file in self._files)


def _is_region(entry: Path) -> bool:
    with contextlib.suppress(OSError):
        return str(entry.readlink()).startswith(MEMFD)
    return False


def read_kv(text: str, resident_bytes: int) -> KvSample:
    """The sample in a metrics text. Raises KeyError when a figure is not exported."""
    pages = {state: int(metric(text, "ribbon_kv_pages", f'state="{state}"')) for state in STATES}
    waste = metric(text, "ribbon_kv_waste_ratio")
    return KvSample(
        **pages, page_bytes=int(metric(text, "ribbon_kv_page_bytes")), waste=waste, resident_bytes=resident_bytes
    )


def stride_bytes(model: Path, bytes_per_value: int = 2) -> int:
    """Bytes from one token to the next in a ribbon of a Llama-shaped model (design §3)."""
    config = json.loads((model / "config.json").read_text())
    heads = config.get("num_key_value_heads", config["num_attention_heads"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return -(-config["num_hidden_layers"] * 2 * heads * head_dim * bytes_per_value // 64) * 64
