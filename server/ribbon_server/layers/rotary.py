"""Rotary positions: frequencies, their scalings and the table of their angles. https://arxiv.org/abs/2104.09864

Heads are turned in the rotate-half form over all of their elements: element i with element i + head_dim / 2. Other forms are the
same after `head_order` has put the elements of every query and key head in another order, and what must not turn has frequency 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrequencyBands:
    """Where the blend of a `llama3` scaling begins and ends, in turns over the original context."""

    factor: float
    low: float
    high: float
    original_positions: int


@dataclass(frozen=True)
class YarnBands:
    """Where YaRN's blend begins and ends, in turns over the original context."""

    factor: float
    fast: float
    slow: float
    original_positions: int
    truncate: bool


@dataclass(frozen=True)
class Angles:
    """How fast each pair of elements turns, float32 [pairs], and what its cosine and sine are multiplied by."""

    frequencies: Tensor
    gain: float = 1.0


def frequencies(base: float, dim: int) -> Tensor:
    """base^(-2i/dim) for i < dim/2, float32 [dim / 2]."""
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def banded(unscaled: Tensor, bands: FrequencyBands) -> Tensor:
    """Divides low frequencies by the factor, keeps high ones, blends between: `rope_type` llama3."""
    turns = bands.original_positions * unscaled / (2 * math.pi)
    keep = ((turns - bands.low) / (bands.high - bands.low)).clamp(0.0, 1.0)
    return keep * unscaled + (1.0 - keep) * unscaled / bands.factor


def yarn(base: float, dim: int, bands: YarnBands) -> Tensor:
    """Blends between kept and divided frequencies by their index. https://arxiv.org/abs/2309.00071, section 3.2"""
    unscaled = frequencies(base, dim)
    fast, slow = (_index_of(turns, base, dim, bands.original_positions) for turns in (bands.fast, bands.slow))
    if bands.truncate:
        fast, slow = math.floor(fast), math.ceil(slow)
    fast, slow = max(fast, 0), min(slow, dim - 1)
    width = slow - fast or 0.001  # no blend: one step
    divided = ((torch.arange(dim // 2, dtype=torch.float32) - fast) / width).clamp(0.0, 1.0)
    return unscaled * (1.0 - divided) + unscaled / bands.factor * divided


def _index_of(turns: float, base: float, dim: int, positions: int) -> float:
    """Which frequency makes so many turns over `positions`."""
    return dim * math.log(positions / (turns * 2 * math.pi)) / (2 * math.log(base))


def grown_base(base: float, dim: int, stretch: float) -> float:
    """The base whose lowest frequency is `stretch` times slower, and whose highest is the same (NTK-aware scaling)."""
    return base * stretch ** (dim / (dim - 2))


def divided(base: float, dim: int, factors: Sequence[float]) -> Tensor:
    """Each frequency by its own factor. https://arxiv.org/abs/2402.13753"""
    return frequencies(base, dim) / torch.tensor(factors, dtype=torch.float32)


def head_order(head_dim: int, dim: int, *, interleaved: bool) -> Tensor:
    """The elements of a head, int64 [head_dim], in the order that turns the first `dim` of them in the rotate-half form."""
    half, rest = dim // 2, torch.arange(dim, head_dim)
    turned = torch.arange(dim).view(half, 2).T if interleaved else torch.arange(dim).view(2, half)
    middle = head_dim // 2 - half
    return torch.cat((turned[0], rest[:middle], turned[1], rest[middle:]))


class RotaryTable:
    """Cosines and sines of every position below `max_positions`, float32 [max_positions, head_dim / 2]."""

    def __init__(self, angles: Angles, head_dim: int, max_positions: int, device: torch.device) -> None:
        """Computes the table once, on `device`."""
        freqs = angles.frequencies.to(device)
        turned = torch.outer(torch.arange(max_positions, dtype=torch.float32, device=device), freqs)
        size = (max_positions, head_dim // 2)
        self.cos, self.sin = turned.new_ones(size), turned.new_zeros(size)
        self.cos[:, : len(freqs)] = turned.cos() * angles.gain
        self.sin[:, : len(freqs)] = turned.sin() * angles.gain

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rows for `positions` int64 [tokens], contiguous."""
        return self.cos.index_select(0, positions), self.sin.index_select(0, positions)


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [tokens, heads, head_dim] by angles [tokens, dim / 2], in float32; elements behind dim stay."""
    half = cos.shape[-1]
    x32 = x.float()
    first, second, rest = x32[..., :half], x32[..., half : 2 * half], x32[..., 2 * half :]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1).to(x.dtype)
