"""Rotary positions: frequencies and the table of their angles. https://arxiv.org/abs/2104.09864"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrequencyBands:
    """Where Llama 3.1's scaling begins and ends, in turns over the original context."""

    factor: float
    low: float
    high: float
    original_positions: int


def frequencies(base: float, dim: int) -> Tensor:
    """base^(-2i/dim) for i < dim/2, float32 [dim / 2]."""
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def banded(unscaled: Tensor, bands: FrequencyBands) -> Tensor:
    """Divides low frequencies by the factor, keeps high ones, blends between. Llama 3.1 model card, `rope_scaling`."""
    turns = bands.original_positions * unscaled / (2 * math.pi)
    keep = ((turns - bands.low) / (bands.high - bands.low)).clamp(0.0, 1.0)
    return keep * unscaled + (1.0 - keep) * unscaled / bands.factor


class RotaryTable:
    """Cosines and sines of every position below `max_positions`, float32 [max_positions, dim / 2]."""

    def __init__(self, freqs: Tensor, max_positions: int) -> None:
        """Computes the table once, where `freqs` lies."""
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float32, device=freqs.device), freqs)
        self.cos = angles.cos()
        self.sin = angles.sin()

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
