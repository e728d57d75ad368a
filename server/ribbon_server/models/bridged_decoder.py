"""A causal model of transformers over ribbons: one ragged batch is one flat sequence to it, and attention alone knows better."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ribbon_server.distributed.single import SINGLE
from ribbon_server.kv.layout import KvLayout
from ribbon_server.layers.attention.base import ForwardContext
from ribbon_server.layers.registry import Kernels
from ribbon_server.layers.rotary import RotaryTable
from ribbon_server.models.assemble_attention import RotaryRecipe, attention_layer, group_layouts, group_places
from ribbon_server.models.bridged_attention import HOOK, RECORD, RUN, BridgedLayer, LayerCall, Recorder, Step
from ribbon_server.models.spec import Grouped
from ribbon_server.models.weights import Weights


class BridgedDecoder:
    """Token ids to logits, by transformers' own model code. What `models/decoder.py` calls states are logits here already."""

    def __init__(self, model: torch.nn.Module, calls: dict[torch.nn.Module, LayerCall], kernels: Kernels) -> None:
        """Gives every layer the kernel for what it asked; `prepare` must run before the first step."""
        embedding = model.get_input_embeddings().weight
        self.dtype = embedding.dtype
        self.device = embedding.device
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self._model = model
        self._step = Step()
        self._sizes = list(dict.fromkeys(call.head_dim for call in calls.values()))
        self._rotary: list[RotaryTable] = []
        self.kv_layouts: Sequence[KvLayout] = self._attach(calls, kernels, embedding)
        model.set_attn_implementation(RUN)

    def _attach(self, calls: dict[torch.nn.Module, LayerCall], kernels: Kernels, like: Tensor) -> list[KvLayout]:
        attentions = [grouped(call) for call in calls.values()]
        layouts = group_layouts(attentions, like)
        places = group_places(attentions, layouts)
        for (module, call), attention, place in zip(calls.items(), attentions, places, strict=True):
            sinks = {} if call.sinks is None else {"sinks": call.sinks}
            kernel = attention_layer(
                attention, place, self._sizes.index(call.head_dim), Weights(sinks, kernels, SINGLE)
            )
            setattr(module, HOOK, BridgedLayer(kernel, call, self._step))
        return layouts

    def prepare(self, max_positions: int) -> None:
        """Makes tables that turn nothing, for sequences of up to `max_positions` tokens: the model has turned already."""
        self._rotary = [RotaryRecipe(None, size)(max_positions, self.device) for size in self._sizes]

    def forward(self, token_ids: Tensor, positions: Tensor, context: ForwardContext, sampled: Tensor) -> Tensor | None:
        """As Decoder.forward."""
        return self.states(token_ids, positions, context, sampled)

    def states(self, token_ids: Tensor, positions: Tensor, context: ForwardContext, wanted: Tensor) -> Tensor | None:
        """Float32 logits [rows, vocab] of the flat indices `wanted`; None where there are none."""
        context.rotations = [table.at(positions) for table in self._rotary]
        self._step.context = context
        kept = wanted if len(wanted) else torch.zeros_like(token_ids[:1])
        result = self._model(
            input_ids=token_ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=kept
        )
        self._step.context = None
        return result.logits[0].float() if len(wanted) else None

    def logits(self, states: Tensor) -> Tensor:
        """What `states` gave."""
        return states


def grouped(call: LayerCall) -> Grouped:
    """A layer's call in words of a spec."""
    return Grouped(
        num_heads=call.num_heads,
        num_kv_heads=call.num_kv_heads,
        head_dim=call.head_dim,
        scale=call.scale,
        rope=None,
        qkv_bias=False,
        output_bias=False,
        window=call.window,
        softcap=call.softcap,
        sinks=call.sinks is not None,
    )


@torch.inference_mode()
def recorded_calls(model: torch.nn.Module) -> dict[torch.nn.Module, LayerCall]:
    """What each layer asks of attention, in the order of the forward pass, of two made-up tokens.

    Raises:
        ModelNotSupported: No kernel of ours can do it.
    """
    recorder = Recorder()
    for module in model.modules():
        setattr(module, HOOK, recorder)
    model.set_attn_implementation(RECORD)
    tokens = torch.zeros((1, 2), dtype=torch.int64, device=model.get_input_embeddings().weight.device)
    positions = torch.arange(2, device=tokens.device)[None]
    model(input_ids=tokens, position_ids=positions, use_cache=False, logits_to_keep=1)
    return recorder.calls
