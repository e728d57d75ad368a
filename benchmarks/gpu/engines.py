"""Warm engines for the stages: a tiny model from disk, or a large shape with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from settings import Settings
from torch import Tensor

from ribbon_server.config import DType, InjectedFaults, KvMemory
from ribbon_server.distributed.base import World
from ribbon_server.distributed.single import SINGLE
from ribbon_server.engine.engine import Engine
from ribbon_server.engine.limits import WarmupWish
from ribbon_server.engine.shard import warm_up
from ribbon_server.layers.registry import Kernels
from ribbon_server.models.assemble import assemble
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.names import weight_rows
from ribbon_server.models.open import Model, open_model
from ribbon_server.models.registry import family_of
from ribbon_server.sampling.device_sampler import pick_on_device

STEP_TOKENS = 64

LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}


def engine_from(
    folder: Path, dtype: DType, settings: Settings, kernels: Kernels | None = None, world: World = SINGLE
) -> Engine:
    """The model in `folder`, or a rank's share of it, in slots of 512 tokens, with the device's kernels and sampler where no others
    are given."""
    model = open_model(folder, dtype, kernels or settings.kernels(), settings.device, world)
    budget = 8 if settings.tiny else STEP_TOKENS
    wish = WarmupWish(max_batch_prefill_tokens=budget, max_total_tokens=512, max_concurrent_requests=16)
    engine = warm_up(model, wish, KvMemory(num_bytes=2**29), InjectedFaults()).engine
    if kernels is None and world.rank.world_size == 1:
        engine.pick = pick_on_device
    return engine


def random_engine(fields: Mapping[str, object], wish: WarmupWish, kv_bytes: int, settings: Settings) -> Engine:
    """A Llama of the shape in `fields` with random bfloat16 weights made on the device."""
    family = family_of("LlamaForCausalLM")
    spec = family.build(HfConfig({"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, **fields}))
    torch.manual_seed(0)
    weights = dict(_random_weights(weight_rows(spec, family.names), settings.device))
    model = Model(spec, assemble(spec, weights, settings.kernels()), DType.BFLOAT16, ())
    engine = warm_up(model, wish, KvMemory(num_bytes=kv_bytes), InjectedFaults()).engine
    engine.pick = pick_on_device
    return engine


def _random_weights(rows: Iterator, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Norms of one, matrices small enough that activations stay near one."""
    for row in rows:
        weight = torch.empty(row.shape, dtype=torch.bfloat16, device=device)
        yield row.name, weight.fill_(1.0) if weight.dim() == 1 else weight.normal_(0.0, row.shape[-1] ** -0.5)
