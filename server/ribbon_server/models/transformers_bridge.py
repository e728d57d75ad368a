"""Models without a family of ours, by transformers' own model code. Refuses, with the reason, what ribbons cannot keep for it."""

import inspect
from pathlib import Path
from typing import Any

import torch
import transformers

from ribbon_server.errors import ModelNotSupported, ShardError
from ribbon_server.layers.registry import Kernels
from ribbon_server.models.bridged_attention import SEEN_POSITIONS, register
from ribbon_server.models.bridged_check import check_batches
from ribbon_server.models.bridged_decoder import BridgedDecoder, recorded_calls
from ribbon_server.models.bridged_spec import BridgedSpec
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.loader import refuse_names

ATTENDING = {"full_attention", "sliding_attention"}  # kinds of layers that keep keys and values, and nothing else
UNSTEADY = {"dynamic", "longrope"}  # kinds of rotary positions that follow the longest sequence of a batch
NEEDED = {"position_ids", "logits_to_keep"}


def bridged_model(
    folder: Path, config: HfConfig, dtype: torch.dtype, kernels: Kernels, device: torch.device
) -> tuple[BridgedSpec, BridgedDecoder]:
    """Loads the model in `folder` and has its layers attend over ribbons.

    Raises:
        ModelNotSupported: transformers has no such class, or it keeps something else than keys and values of a causal decoder.
        WeightsMismatch: A tensor is missing, left over or of another shape.
    """
    model_class = checked_class(config.architecture, config)
    try:
        model = load(model_class, folder, dtype).to(device)
        own = model.config.get_text_config()
        max_positions = min(own.max_position_embeddings, SEEN_POSITIONS)
        spec = BridgedSpec(config.architecture, own.vocab_size, max_positions)
        return spec, bridged(model, kernels, own)
    except ShardError:
        raise
    except Exception as error:
        raise ModelNotSupported(f"its code fails with {error!r}") from error


def bridged(model: Any, kernels: Kernels, own: Any) -> BridgedDecoder:
    """The decoder, checked; `own` is the configuration of its text part.

    Raises:
        ModelNotSupported: Layers do not attend as ours do, or do more than that.
    """
    register()
    calls = recorded_calls(model)
    if len(calls) != own.num_hidden_layers:
        raise ModelNotSupported(
            f"{len(calls)} of its {own.num_hidden_layers} layers attend through transformers' interface; what the others keep is unknown"
        )
    decoder = BridgedDecoder(model, calls, kernels)
    check_batches(model, decoder, own.vocab_size)
    return decoder


def checked_class(architecture: str, config: HfConfig) -> Any:
    """transformers' class, of which nothing is known yet to be in the way.

    Raises:
        ModelNotSupported: Something is, and the message says what.
    """
    model_class = getattr(transformers, architecture, None)
    if model_class is None or not isinstance(getattr(model_class, "config_class", None), type):
        remote = "auto_map" in config
        raise ModelNotSupported(
            "it needs remote code, which is never run" if remote else "transformers has no such class"
        )
    lacking = NEEDED - set(inspect.signature(model_class.forward).parameters)
    reasons = {
        "it is no causal language model": not architecture.endswith(("ForCausalLM", "LMHeadModel")),
        "it is an encoder-decoder": config.flag("is_encoder_decoder", default=False),
        "its weights are quantized": config.section("quantization_config") is not None,
        **layer_reasons(config),
        "it keeps a state instead of keys and values": model_class._is_stateful,
        "its attention cannot be replaced": not model_class._can_set_attn_implementation(),
        f"its forward pass takes no `{', '.join(sorted(lacking))}`": bool(lacking),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ModelNotSupported(reason)
    return model_class


def layer_reasons(config: HfConfig) -> dict[str, bool]:
    """What configurations say of layers that keep something else, and of positions that depend on a batch."""
    others = set(config.texts("layer_types")) - ATTENDING
    section = config.section("rope_parameters") or config.section("rope_scaling")
    kind = "default" if section is None else section.text("rope_type", section.text("type", "default"))
    return {
        f"it has layers of kind {', '.join(sorted(others))}": bool(others),
        f"its rotary positions ({kind}) change with the longest sequence of a batch": kind in UNSTEADY,
    }


def load(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    """The model with its weights, from `folder` alone.

    Raises:
        WeightsMismatch: A tensor is missing, left over or of another shape.
    """
    model, told = model_class.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="eager",
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are told, and refused below
    )
    refuse_names("lacks", set(told["missing_keys"]))
    refuse_names("has, and the model does not use,", set(told["unexpected_keys"]))
    refuse_names("has in another shape than config.json says", {str(key) for key, *_ in told["mismatched_keys"]})
    return model.eval().requires_grad_(False)
