"""Attention whose queries grow with their position, so that long contexts stay sharp. https://arxiv.org/abs/2501.19399"""

from dataclasses import dataclass

from torch import Tensor

from ribbon_server.layers.attention.base import AttentionLayer, AttentionShape, ForwardContext


@dataclass(frozen=True)
class TemperedAttention:
    """Multiplies queries at position p by 1 + weight * ln(1 + floor((p + 1) / every)), then attends."""

    kernel: AttentionLayer
    shape: AttentionShape
    weight: float
    every: int

    def __call__(self, qkv: Tensor, context: ForwardContext, query: Tensor, output: Tensor) -> None:
        """See AttentionLayer; changes the queries in `qkv`."""
        _, positions = context.ragged.token_places
        factor = 1.0 + self.weight * ((positions + 1) // self.every).float().log1p()
        queries = qkv[:, : self.shape.num_heads * self.shape.head_dim]
        queries.copy_(queries * factor[:, None])
        self.kernel(qkv, context, query, output)
