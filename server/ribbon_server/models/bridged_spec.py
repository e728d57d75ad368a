"""What a bridged model says of itself. Knows no transformers, so that it costs nothing to import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BridgedSpec:
    """What a bridged model says of itself."""

    architecture: str
    vocab_size: int
    max_positions: int
