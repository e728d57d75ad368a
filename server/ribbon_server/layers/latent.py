"""Both linear ends of latent attention. https://arxiv.org/abs/2405.04434, section 2.1. Knows shapes, not where tokens are kept.

A token keeps [turned key | latent], which serves every head as key and as value: queries are mapped into the latent's space before
they attend, and what they bring back is mapped from there, so that no key or value of a head is ever made.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ribbon_server.layers.linear import LinearLayer


@dataclass(frozen=True)
class LatentQueries:
    """Hidden states to the queries of all heads, each with what the token keeps behind them."""

    query: Callable[[Tensor], Tensor]  # [tokens, hidden] to [tokens, heads * (turned + plain)], what is turned first
    kept: LinearLayer  # [tokens, hidden] to [tokens, turned + rank]
    norm: Callable[[Tensor], Tensor]  # of latents [tokens, rank]
    key_up: Tensor  # [heads, plain, rank]

    def __call__(self, normed: Tensor) -> Tensor:
        """[tokens, hidden] to [tokens, (heads + 1) * (turned + rank)]."""
        heads, _, rank = self.key_up.shape
        queries, kept = self.query(normed).unflatten(1, (heads, -1)), self.kept(normed)
        turned = kept.shape[1] - rank
        joined = kept.new_empty((len(normed), heads + 1, turned + rank))
        joined[:, :heads, :turned] = queries[..., :turned]
        joined[:, :heads, turned:] = torch.bmm(queries[..., turned:].transpose(0, 1), self.key_up).transpose(0, 1)
        joined[:, heads, :turned] = kept[:, :turned]
        joined[:, heads, turned:] = self.norm(kept[:, turned:])
        return joined.flatten(1)


@dataclass(frozen=True)
class LatentOutput:
    """What every head brings back, to hidden states."""

    value_up: Tensor  # [heads, rank, value_dim]
    output: LinearLayer  # [tokens, heads * value_dim] to [tokens, hidden]

    def __call__(self, attended: Tensor) -> Tensor:
        """[tokens, heads * (turned + rank)] to [tokens, hidden]; what turned says nothing as a value."""
        heads, rank, _ = self.value_up.shape
        latents = attended.unflatten(1, (heads, -1))[..., -rank:]
        values = torch.bmm(latents.transpose(0, 1), self.value_up)
        return self.output(values.transpose(0, 1).flatten(1))
