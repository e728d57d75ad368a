"""A model as frozen records: one `LayerSpec` per layer, variants as sum types. Knows no family, checkpoint or device."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any


class NormKind(Enum):
    """How activations are normalised."""

    RMS = "rms"
    LAYER = "layer"


@dataclass(frozen=True)
class Norm:
    """A norm over the last dimension."""

    kind: NormKind
    eps: float
    offset: float = 0.0  # added to the stored weight
    bias: bool = False
    weighted: bool = True

    @staticmethod
    def rms(eps: float, *, offset: float = 0.0) -> "Norm":
        """x / sqrt(mean(x^2) + eps) * (weight + offset). https://arxiv.org/abs/1910.07467"""
        return Norm(NormKind.RMS, eps, offset=offset)

    @staticmethod
    def layer(eps: float, *, bias: bool = True) -> "Norm":
        """(x - mean) / sqrt(variance + eps) * weight + bias. https://arxiv.org/abs/1607.06450"""
        return Norm(NormKind.LAYER, eps, bias=bias)


class Activation(Enum):
    """The nonlinearity of a feed-forward part."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"  # the approximation by tanh
    RELU = "relu"
    RELU_SQUARED = "relu_squared"


class Residual(Enum):
    """What the two parts of a block see and where their results go."""

    SEQUENTIAL = "sequential"  # x += attention(x), then x += feed_forward(x)
    PARALLEL = "parallel"  # x += attention(x) + feed_forward(x); one norm serves both where the second is absent
    NORM_AFTER_SUM = "norm_after_sum"  # x = norm(x + part(x)), as in https://arxiv.org/abs/1706.03762


@dataclass(frozen=True)
class UnscaledRope:
    """Frequencies as in https://arxiv.org/abs/2104.09864."""


@dataclass(frozen=True)
class LinearRope:
    """Every frequency divided by `factor`. https://arxiv.org/abs/2306.15595"""

    factor: float


@dataclass(frozen=True)
class DynamicRope:
    """A base that grows with the server's longest sequence, once that is above the original context (NTK-aware scaling)."""

    factor: float
    original_max_positions: int


@dataclass(frozen=True)
class Llama3Rope:
    """Low frequencies divided by `factor`, high ones kept, smooth between: `rope_type` llama3."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True)
class YarnRope:
    """Divides by `factor` what turns less than `beta_slow` times in the original context, keeps what turns more than
    `beta_fast` times, and multiplies cosines and sines by `gain`. https://arxiv.org/abs/2309.00071"""

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_positions: int
    gain: float
    truncate: bool = True  # bounds of the blend at whole frequencies


@dataclass(frozen=True)
class LongRope:
    """A divisor for each frequency: one list for servers within the original context, another above it.
    https://arxiv.org/abs/2402.13753"""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_max_positions: int
    short_gain: float
    long_gain: float


RopeScaling = UnscaledRope | LinearRope | DynamicRope | Llama3Rope | YarnRope | LongRope


@dataclass(frozen=True)
class Rope:
    """Rotary positions over the first `dim` elements of a head."""

    base: float
    dim: int
    scaling: RopeScaling = UnscaledRope()
    interleaved: bool = False  # pairs are (2i, 2i + 1) instead of (i, i + dim / 2)


@dataclass(frozen=True)
class Alibi:
    """A penalty that grows with distance, steeper for some heads. https://arxiv.org/abs/2108.12409"""

    max_bias: float = 8.0  # the steepest slope is 2^-(max_bias / heads)
    scale: float = 1.0  # of all slopes


class NormScope(Enum):
    """What one norm of queries or keys runs over."""

    HEAD = "head"  # each head, one weight for all
    EACH_HEAD = "each_head"  # each head with a weight of its own
    ALL_HEADS = "all_heads"  # all heads together


@dataclass(frozen=True)
class QkNorm:
    """A norm on queries and one on keys, before they are turned. https://arxiv.org/abs/2302.05442"""

    norm: Norm
    scope: NormScope = NormScope.HEAD


@dataclass(frozen=True)
class Temperature:
    """Queries at position p are multiplied by 1 + weight * ln(1 + floor((p + 1) / every)). https://arxiv.org/abs/2501.19399"""

    weight: float
    every: int


@dataclass(frozen=True)
class Grouped:
    """Multi-head attention whose query heads share key-value heads in groups. https://arxiv.org/abs/2305.13245"""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    qkv_bias: bool
    output_bias: bool
    window: int | None = None  # tokens a query sees, its own included; None: all up to its own
    chunk: int | None = None  # positions lie in chunks of so many, and a query sees none of another than its own
    alibi: Alibi | None = None
    softcap: float | None = None  # scores become softcap * tanh(scores / softcap). https://arxiv.org/abs/2408.00118
    qk_norm: QkNorm | None = None
    clip: float | None = None  # queries, keys and values are cut to [-clip, clip]
    temperature: Temperature | None = None
    sinks: bool = False  # a learned score without a value joins each head's softmax. https://arxiv.org/abs/2508.10925

    @property
    def reach(self) -> int | None:
        """Tokens that its layer must keep, a query's own included; None: all."""
        return self.window if self.chunk is None else min(self.chunk, self.window or self.chunk)

    @property
    def turned_dim(self) -> int:
        """Elements of what its rotary table turns: a whole head."""
        return self.head_dim

    @property
    def qkv_dims(self) -> tuple[int, int, int]:
        """Rows of the query, key and value projections."""
        return self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim, self.num_kv_heads * self.head_dim


@dataclass(frozen=True)
class Latent:
    """Attention whose keys and values come, head by head, from one short vector a token, the latent; it is what a token keeps,
    beside one key with positions that all heads share. https://arxiv.org/abs/2405.04434, section 2.1"""

    num_heads: int
    rank: int  # elements of the latent
    query_rank: int | None  # of a vector that queries come from; None: they come from the hidden state
    plain_dim: int  # of each query and key, without positions
    value_dim: int
    rope: Rope  # of further elements of queries, and of the shared key
    scale: float
    norm: Norm  # of the latent, and of the vector of queries
    bias: bool = False  # of what maps from the hidden state to these vectors, and of the way back

    @property
    def num_kv_heads(self) -> int:
        """What a token keeps serves all heads."""
        return 1

    @property
    def head_dim(self) -> int:
        """Of what a token keeps, the shared key first; queries are mapped into its space."""
        return self.rope.dim + self.rank

    @property
    def reach(self) -> int | None:
        """All tokens are kept."""
        return None

    @property
    def turned_dim(self) -> int:
        """Elements of what its rotary table turns: the shared key."""
        return self.rope.dim


Attention = Grouped | Latent


@dataclass(frozen=True)
class Dense:
    """down(activation(gate(x)) * up(x)), https://arxiv.org/abs/2002.05202; not gated: down(activation(up(x)))."""

    intermediate: int
    activation: Activation
    bias: bool
    gated: bool = True

    @property
    def up_dims(self) -> tuple[int, ...]:
        """Rows of the projections up, the gate first."""
        return (self.intermediate,) * (2 if self.gated else 1)


class RouterScore(Enum):
    """How a router's numbers become scores."""

    SOFTMAX = "softmax"  # over all experts
    SIGMOID = "sigmoid"  # of each expert by itself
    SPARSE_MIXER = (
        "sparse_mixer"  # one expert after the other, among those near the best. https://arxiv.org/abs/2409.12136
    )


@dataclass(frozen=True)
class ExpertGroups:
    """Only experts of the best groups can be chosen. https://arxiv.org/abs/2412.19437, section 2.1.2"""

    count: int
    chosen: int
    counted: int  # best experts of a group whose scores make its own


@dataclass(frozen=True)
class Router:
    """Which experts a token sees, and how much each of them counts."""

    top_k: int
    score: RouterScore = RouterScore.SOFTMAX
    is_renormalized: bool = False  # the chosen ones' weights sum to one
    bias: bool = False
    correction: bool = False  # a learned number for each expert that takes part in the choice alone
    groups: ExpertGroups | None = None
    scale: float = 1.0
    scales_input: bool = False  # what the chosen experts see is weighted, not what they say
    tolerance: float = 0.0  # of the sparse mixer: relative distance from the best within which experts count


@dataclass(frozen=True)
class ClampedGate:
    """The gate becomes g * sigmoid(slope * g), and gate and up are cut at `limit` before. https://arxiv.org/abs/2508.10925"""

    slope: float
    limit: float


@dataclass(frozen=True)
class Experts:
    """Gated parts of which each token sees a few. https://arxiv.org/abs/2101.03961"""

    num_experts: int
    intermediate: int
    activation: Activation | ClampedGate
    router: Router
    bias: bool = False
    shared: Dense | None = None  # seen by every token
    shared_gate: bool = False  # how much the shared part counts is learned


FeedForward = Dense | Experts


@dataclass(frozen=True)
class LayerSpec:
    """One decoder block. Norms stand in front of a part, behind it, or both; absent ones are None."""

    attention_norm: Norm | None
    attention: Attention
    feed_forward_norm: Norm | None
    feed_forward: FeedForward
    residual: Residual = Residual.SEQUENTIAL
    attention_output_norm: Norm | None = None
    feed_forward_output_norm: Norm | None = None
    residual_multiplier: float = 1.0  # of what each part adds
    cross_norm: Norm | None = None
    cross: Grouped | None = None  # attention to what an encoder made of the prompt, behind the layer's own


@dataclass(frozen=True)
class LearnedPositions:
    """A table of positions added to the embeddings, whose first `offset` rows stand for no position."""

    offset: int = 0


@dataclass(frozen=True)
class Embedding:
    """What happens to a token before the first block."""

    scale: float = 1.0
    positions: LearnedPositions | None = None
    norm: Norm | None = None
    width: int | None = None  # of the embedding, where linear maps to and from the hidden width stand beside it


@dataclass(frozen=True)
class Head:
    """What happens to the last hidden state behind the final norm."""

    scale: float = 1.0
    softcap: float | None = None
    bias: bool = False
    unit_rows: bool = False  # every row of its weight is divided by its length


@dataclass(frozen=True)
class RelativeBias:
    """A learned number for each head and bucket of distances joins the scores of a whole stack. Half of the buckets are a distance
    each, the others grow with its logarithm up to `max_distance`. https://arxiv.org/abs/1910.10683, section 2.1"""

    buckets: int
    max_distance: int


@dataclass(frozen=True)
class Encoder:
    """What reads a whole prompt before a decoder says its first token: each token sees all others."""

    layers: tuple[LayerSpec, ...]
    final_norm: Norm | None
    relative_bias: RelativeBias | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A causal decoder, behind an encoder where there is one."""

    architecture: str
    vocab_size: int
    hidden: int
    max_positions: int
    layers: tuple[LayerSpec, ...]
    final_norm: Norm | None
    tied_embeddings: bool
    embedding: Embedding = Embedding()
    head: Head = Head()
    relative_bias: RelativeBias | None = None
    encoder: Encoder | None = None

    def with_layers(self, **fields: Any) -> "ModelSpec":
        """Every layer with some fields of LayerSpec changed."""
        return replace(self, layers=tuple(replace(layer, **fields) for layer in self.layers))

    def with_attention(self, **fields: Any) -> "ModelSpec":
        """Every layer with some fields of its attention changed."""
        return self.with_each_attention([fields] * len(self.layers))

    def with_each_attention(self, fields: Iterable[Mapping[str, Any]]) -> "ModelSpec":
        """Each layer with fields of its own changed in its attention."""
        pairs = zip(self.layers, fields, strict=True)
        return replace(
            self, layers=tuple(replace(layer, attention=replace(layer.attention, **own)) for layer, own in pairs)
        )

    def with_feed_forward(self, **fields: Any) -> "ModelSpec":
        """Every layer with some fields of its feed-forward part changed."""
        layers = (replace(layer, feed_forward=replace(layer.feed_forward, **fields)) for layer in self.layers)
        return replace(self, layers=tuple(layers))
