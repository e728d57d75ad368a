"""What the benchmarks claim: figures beside their bounds, and which of them hold. The one place for the bounds; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# What TGI's router takes on a machine with two cores.
TGI_ROUTER = {
    "cpu_ms_per_1000_tokens": 10.0,
    "cpu_ms_per_request_512": 1.0,
    "ttft_floor_p50_ms": 44.0,
    "memory_mb": 690.0,
}
# name: (relation, bound)
BOUNDS: dict[str, tuple[str, float]] = {
    # make bench: the 120 M model, bf16, prompt 512, output 128
    "1 client: times the better way of transformers": ("≥", 1.3),
    "8 clients: times continuous batching of transformers": ("≥", 3.0),
    "8 clients: times batched generate of transformers": ("≥", 1.3),
    "32 clients: share of the 344 tokens/s that were the peers' GEMM limit": ("≥", 0.55),
    "32 clients: idle share of a step": ("<", 0.03),
    "largest KV waste of the bench": ("<", 0.02),
    "memory of all processes, GB": ("<", 1.5),
    # make bench-stall
    "largest gap ÷ median chunk step": ("≤", 2.0),
    "median chunk step ÷ median decode step": ("≤", 5.0),
    # make bench-memory
    "largest KV waste": ("<", 0.01),
    # make bench-prefix
    "shared: share of the possible hits": ("≥", 0.95),
    "shared: times the speed without the cache": ("≥", 3.0),
    "chats: share of the possible hits": ("≥", 0.95),
    "chats: times the speed without the cache": ("≥", 3.0),
    "showing a prefix, µs": ("<", 100.0),
    # make bench-overload
    "overload: share of the run in capacity": ("≥", 0.9),
    "wrong tokens": ("≤", 0.0),
    "margin cases beyond the allowed": ("≤", 0.0),
    # make bench-queue
    "429 in a full house, p50 ms": ("<", 5.0),
    "same tenant: TTFT p50 ÷ (2 idle + a chunk)": ("≤", 1.0),
    "other tenant: TTFT p50 ÷ (2 idle + a chunk)": ("≤", 1.0),
    # make bench-loading
    "largest peak of memory ÷ bytes of the weights": ("≤", 1.2),
    # make bench-router
    "router: cpu_ms_per_1000_tokens": ("≤", TGI_ROUTER["cpu_ms_per_1000_tokens"] / 3),
    "router: cpu_ms_per_request_512": ("≤", TGI_ROUTER["cpu_ms_per_request_512"] / 2),
    "router: ttft_floor_p50_ms": ("≤", TGI_ROUTER["ttft_floor_p50_ms"] / 2),
    "router: memory_mb": ("≤", 150.0),
    # make bench-grammar
    "mask p50, µs": ("<", 50.0),
    "constrained step ÷ free step": ("≤", 1.05),
}


@dataclass(frozen=True)
class Claim:
    """A measured figure and the name of its bound."""

    name: str
    found: float

    @property
    def relation(self) -> str:
        """What the figure must be to the bound."""
        return BOUNDS[self.name][0]

    @property
    def bound(self) -> float:
        """What it is held to."""
        return BOUNDS[self.name][1]

    @property
    def holds(self) -> bool:
        """Whether it does; no number (NaN) never does."""
        if self.relation == "≥":
            return self.found >= self.bound
        return self.found <= self.bound if self.relation == "≤" else self.found < self.bound

    def row(self) -> list[object]:
        """As the table shows it."""
        return [self.name, self.found, f"{self.relation} {self.bound:g}", "holds" if self.holds else "misses"]


HEADINGS = ("claim", "found", "bound", "verdict")


def verdicts(claims: Sequence[Claim]) -> dict[str, Any]:
    """What a record says of its claims: each, and whether all hold. Nothing where there are none."""
    if not claims:
        return {}
    listed = [{"name": one.name, "found": one.found, "bound": one.bound, "holds": one.holds} for one in claims]
    return {"claims": listed, "holds": all(one.holds for one in claims)}
