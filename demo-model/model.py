"""The Llama block in plain torch, fast to train on a CPU. Knows tensors; not text, not files.

Letters: B rows, T positions, D hidden size, H heads, G KV heads, K head size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """What decides the parameter count: 4.95 M with the defaults."""

    vocab_size: int = 2048
    hidden_size: int = 256
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    mlp_size: int = 704
    max_positions: int = 4096
    rope_theta: float = 50_000.0
    norm_eps: float = 1e-5


def rope_tables(shape: Shape, num_positions: int) -> tuple[Tensor, Tensor]:
    """Returns cos and sin, each [num_positions, K], in the half-split layout of Llama."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    frequencies = shape.rope_theta**-exponents
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float64), frequencies)
    doubled = torch.cat([angles, angles], dim=-1)
    return doubled.cos().float(), doubled.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary positions to x [B, heads, T, K]."""
    low, high = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-high, low], dim=-1) * sin).to(x.dtype)


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attends with query [B, H, T, K] to key, value [B, G, T, K]; returns [B, H, T, K].

    Plain matrix products: on AMX cores they beat the fused kernel's backward pass three to one.
    """
    rows, heads, length, size = query.shape
    groups = key.shape[1]
    flat = (rows * groups, heads // groups * length)
    scores = torch.bmm(query.reshape(*flat, size), key.reshape(-1, length, size).transpose(1, 2))
    scores = scores.view(rows * groups, -1, length, length).float() * size**-0.5
    hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).to(value.dtype)
    mixed = torch.bmm(weights.view(*flat, length), value.reshape(-1, length, size))
    return mixed.view(rows, heads, length, size)


class RmsNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


class Layer(nn.Module):
    """One pre-norm block: grouped-query attention, then a gated MLP."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        hidden, kv_size = shape.hidden_size, shape.num_kv_heads * shape.head_dim
        self.input_norm = RmsNorm(hidden, shape.norm_eps)
        self.q = matrix(shape.num_heads * shape.head_dim, hidden)
        self.k = matrix(kv_size, hidden)
        self.v = matrix(kv_size, hidden)
        self.o = matrix(hidden, shape.num_heads * shape.head_dim, gain=0.5)
        self.mlp_norm = RmsNorm(hidden, shape.norm_eps)
        self.gate = matrix(shape.mlp_size, hidden)
        self.up = matrix(shape.mlp_size, hidden)
        self.down = matrix(hidden, shape.mlp_size, gain=0.5)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attend(self.input_norm(x), cos, sin)
        return x + self.feed(self.mlp_norm(x))

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape
        groups, size = self.shape.num_kv_heads, self.shape.head_dim
        fused = F.linear(x, torch.cat([self.q, self.k, self.v]).to(x.dtype))
        heads = fused.view(rows, length, -1, size).transpose(1, 2)  # [B, H + 2G, T, K]
        query, key, value = heads.split([self.shape.num_heads, groups, groups], dim=1)
        mixed = causal_attention(rotate(query, cos, sin), rotate(key, cos, sin), value)
        return F.linear(mixed.transpose(1, 2).flatten(2), self.o.to(x.dtype))

    def feed(self, x: Tensor) -> Tensor:
        fused = F.linear(x, torch.cat([self.gate, self.up]).to(x.dtype))
        gate, up = fused.chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, self.down.to(x.dtype))


class DemoModel(nn.Module):
    """Float32 master weights, bfloat16 arithmetic; the head is the embedding, transposed."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocab_size, shape.hidden_size) * 0.08)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.final_norm = RmsNorm(shape.hidden_size, shape.norm_eps)
        cos, sin = rope_tables(shape, shape.max_positions)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Maps ids [B, T] to normed states [B, T, D] in bfloat16."""
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        x = F.embedding(ids, self.embedding).bfloat16()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.final_norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Maps states [N, D] to float32 logits [N, vocabulary]."""
        return F.linear(states, self.embedding.to(states.dtype)).float()


def matrix(rows: int, columns: int, gain: float = 1.0) -> nn.Parameter:
    """A projection with entries of standard deviation gain / sqrt(fan-in)."""
    return nn.Parameter(torch.randn(rows, columns) * gain * columns**-0.5)
