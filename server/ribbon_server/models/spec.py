"""A model as frozen records: one `LayerSpec` per layer, variants as sum types. Knows no family, checkpoint or device."""

from dataclasses import dataclass
from enum import Enum


class NormKind(Enum):
    """How activations are normalised."""

    RMS = "rms"


class Activation(Enum):
    """The nonlinearity of a feed-forward part."""

    SILU = "silu"


class Residual(Enum):
    """Where a block's norms stand: x + part(norm(x))."""

    PRE_NORM = "pre_norm"


@dataclass(frozen=True)
class Norm:
    """A norm over the last dimension."""

    kind: NormKind
    eps: float

    @staticmethod
    def rms(eps: float) -> "Norm":
        """x / sqrt(mean(x^2) + eps). https://arxiv.org/abs/1910.07467"""
        return Norm(NormKind.RMS, eps)


@dataclass(frozen=True)
class UnscaledRope:
    """Frequencies as in https://arxiv.org/abs/2104.09864."""


@dataclass(frozen=True)
class LinearRope:
    """Every frequency divided by `factor`. https://arxiv.org/abs/2306.15595"""

    factor: float


@dataclass(frozen=True)
class Llama3Rope:
    """Low frequencies divided by `factor`, high ones kept, smooth between. Llama 3.1 model card, `rope_scaling`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


RopeScaling = UnscaledRope | LinearRope | Llama3Rope


@dataclass(frozen=True)
class Rope:
    """Rotary positions, rotate-half form, over the first `dim` elements of a head."""

    base: float
    dim: int
    scaling: RopeScaling


@dataclass(frozen=True)
class Grouped:
    """Multi-head attention whose query heads share key-value heads in groups. https://arxiv.org/abs/2305.13245"""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope
    qkv_bias: bool
    output_bias: bool
    window: int | None = None  # tokens a query sees, its own included; None: all up to its own

    @property
    def qkv_dims(self) -> tuple[int, int, int]:
        """Rows of the query, key and value projections."""
        return self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim, self.num_kv_heads * self.head_dim


Attention = Grouped  # Latent joins when a family needs it


@dataclass(frozen=True)
class Dense:
    """down(activation(gate(x)) * up(x)). https://arxiv.org/abs/2002.05202"""

    intermediate: int
    activation: Activation
    bias: bool


FeedForward = Dense  # Experts joins when a family needs it


@dataclass(frozen=True)
class LayerSpec:
    """One decoder block."""

    attention_norm: Norm
    attention: Attention
    feed_forward_norm: Norm
    feed_forward: FeedForward
    residual: Residual


@dataclass(frozen=True)
class ModelSpec:
    """A causal decoder."""

    architecture: str
    vocab_size: int
    hidden: int
    max_positions: int
    layers: tuple[LayerSpec, ...]
    final_norm: Norm
    tied_embeddings: bool
