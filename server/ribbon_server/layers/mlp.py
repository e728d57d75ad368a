"""The dense feed-forward part, and what some models do to a linear layer's result. Knows shapes, no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ribbon_server.layers.activation import ActivationLayer
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.norm import NormLayer


class FeedForwardLayer(Protocol):
    """What follows attention in a block."""

    def __call__(self, normed: Tensor, activated: Tensor, /) -> Tensor:
        """normed [tokens, hidden] to [tokens, hidden]; activated is scratch, wide enough for the widest layer."""
        ...


@dataclass(frozen=True)
class DenseFeedForward:
    """down(activation(gate_up(x)))."""

    gate_up: LinearLayer
    activation: ActivationLayer
    down: LinearLayer
    intermediate: int

    def __call__(self, normed: Tensor, activated: Tensor) -> Tensor:
        """See FeedForwardLayer."""
        inner = activated if activated.shape[1] == self.intermediate else narrow(activated, self.intermediate)
        self.activation(self.gate_up(normed), inner)
        return self.down(inner)


def narrow(buffer: Tensor, width: int) -> Tensor:
    """Memory of `buffer` as contiguous rows of a smaller width."""
    return buffer.view(-1)[: len(buffer) * width].view(len(buffer), width)


Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Changed:
    """A layer whose result is changed: clipped, normed, multiplied."""

    layer: Callable[..., Tensor]
    changes: Sequence[Change]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """As the layer takes them."""
        result = self.layer(*inputs)
        for change in self.changes:
            result = change(result)
        return result


def clip(limit: float) -> Change:
    """Cuts to [-limit, limit], in place."""
    return lambda x: x.clamp_(-limit, limit)


def multiply(factor: float) -> Change:
    """In place."""
    return lambda x: x.mul_(factor)


def normalize(norm: NormLayer) -> Change:
    """Norms rows [tokens, hidden]."""

    def change(x: Tensor) -> Tensor:
        output = torch.empty_like(x)
        norm(x, None, output)
        return output

    return change


@dataclass(frozen=True)
class HeadNorm:
    """Norms some columns of the joined projection in place: those of the query heads, or of the key heads."""

    norm: Callable[
        [Tensor], Tensor
    ]  # over [tokens, heads, head_dim], or [tokens, heads * head_dim] where all are normed together
    first: int
    heads: int
    head_dim: int
    is_joint: bool

    def __call__(self, qkv: Tensor) -> Tensor:
        """qkv [tokens, (heads + 2 * kv_heads) * head_dim]."""
        part = qkv[:, self.first : self.first + self.heads * self.head_dim]
        part.copy_(self.norm(part if self.is_joint else part.unflatten(1, (self.heads, self.head_dim))).view_as(part))
        return qkv
