"""What stands in for attention inside transformers' own model code: first a recorder of what each layer asks, then our kernels.

Knows transformers' two interfaces, attention functions and masks; no model's class. https://huggingface.co/docs/transformers/attention_interface
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from ribbon_server.errors import ModelNotSupported
from ribbon_server.layers.attention.base import AttentionLayer, ForwardContext

RUN, RECORD = "ribbon", "ribbon_record"  # names of our attention functions; only the second is given masks
HOOK = "ribbon"  # the attribute of every module that a model is made of
OPTIONS = {
    "position_ids",
    "cache_position",
    "s_aux",
}  # tensors that layers may hand over beside queries, keys and values
FULL, NEITHER = 0, -1  # instead of a window's size
SEEN_POSITIONS = 2**20  # how far masks are looked at, and the longest context of a bridged model


@dataclass(frozen=True)
class LayerCall:
    """What one layer asks of attention."""

    num_heads: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    scale: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None  # [heads]

    @property
    def head_dim(self) -> int:
        """Keys and values are kept in the size of the larger ones."""
        return max(self.key_dim, self.value_dim)


@dataclass
class Recorder:
    """The calls of one forward pass, by module, in order."""

    calls: dict[torch.nn.Module, LayerCall] = field(default_factory=dict)

    def take(self, module: torch.nn.Module, call: LayerCall) -> None:
        """Notes a call.

        Raises:
            ModelNotSupported: It is the module's second one.
        """
        if module in self.calls:
            raise ModelNotSupported("a layer of it attends twice in one pass")
        self.calls[module] = call


@dataclass
class Step:
    """The batch that a model's layers work on now."""

    context: ForwardContext | None = None


@dataclass(frozen=True)
class BridgedLayer:
    """One layer's kernel, and what it needs of a call."""

    kernel: AttentionLayer
    call: LayerCall
    step: Step

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[1, heads, tokens, dim] each, to [1, tokens, heads, value_dim]; stores the step's keys and values."""
        context = self.step.context
        if context is None:
            raise AssertionError("attention outside of a step")
        size = self.call.head_dim
        joined = torch.cat([F.pad(part[0], (0, size - part.shape[-1])) for part in (query, key, value)])
        qkv = joined.transpose(0, 1).flatten(1)  # [tokens, (heads + 2 * kv_heads) * head_dim]
        turned, attended = (qkv.new_empty((len(qkv), self.call.num_heads * size)) for _ in range(2))
        self.kernel(qkv, context, turned, attended)
        return attended.unflatten(1, (-1, size))[None, ..., : self.call.value_dim]


def run(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """transformers' attention function over ribbons."""
    layer: BridgedLayer = getattr(module, HOOK)
    return layer.attend(query, key, value), None


def record(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention function that only notes what it is asked.

    Raises:
        ModelNotSupported: No kernel of ours can do it.
    """
    unknown = {name for name, option in options.items() if isinstance(option, Tensor)} - OPTIONS
    if unknown:
        raise ModelNotSupported(f"its attention takes `{min(unknown)}`")
    scale = options.get("scaling")
    call = LayerCall(
        num_heads=query.shape[1],
        num_kv_heads=key.shape[1],
        key_dim=query.shape[3],
        value_dim=value.shape[3],
        scale=float(query.shape[3] ** -0.5 if scale is None else scale),
        window=_window_of(attention_mask),
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    recorder: Recorder = getattr(module, HOOK)
    recorder.take(module, call)
    return query.new_zeros((1, query.shape[2], query.shape[1], value.shape[3])), None


def _window_of(mask: Any) -> int | None:
    """What `mark` said of the layer's mask."""
    if not isinstance(mask, Tensor) or mask.shape != (1, 1, 1, 1) or mask.dtype != torch.int64:
        raise ModelNotSupported("it makes attention masks of its own")
    window = int(mask)
    if window == NEITHER:
        raise ModelNotSupported("it has attention masks that are neither causal nor a sliding window")
    return window or None


def mark(*, mask_function: Callable[..., Tensor], device: torch.device, **_: Any) -> Tensor:
    """transformers' mask function: int64 [1, 1, 1, 1], the size of the window, FULL, or NEITHER."""
    key = torch.arange(SEEN_POSITIONS, device=device)
    last = key[-1]
    nothing = torch.zeros_like(last)
    width = int(mask_function(nothing, nothing, last, key).sum())
    window = FULL if width == SEEN_POSITIONS else width
    for query in (last, last // 2, last // 3):
        seen = (key <= query) & (key > query - (window or SEEN_POSITIONS))
        if not torch.equal(mask_function(nothing, nothing, query, key).broadcast_to(seen.shape), seen):
            window = NEITHER
    return torch.tensor(window, device=device).view(1, 1, 1, 1)


def register() -> None:
    """Makes both functions known to transformers; once is enough, and again does no harm."""
    AttentionInterface.register(RUN, run)
    AttentionInterface.register(RECORD, record)
    AttentionMaskInterface.register(RECORD, mark)
