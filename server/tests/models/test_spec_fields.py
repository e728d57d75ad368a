"""Every field of a spec that Llama sets is used: resetting it breaks parity."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import Driver, save_tiny

from ribbon_server.config import InjectedFaults, KvMemory
from ribbon_server.engine.limits import WarmupWish
from ribbon_server.engine.shard import warm_up
from ribbon_server.layers.registry import native_kernels
from ribbon_server.models.assemble import assemble
from ribbon_server.models.checkpoint import SafetensorsCheckpoint
from ribbon_server.models.loader import load_weights
from ribbon_server.models.open import Model
from ribbon_server.models.registry import family_of
from ribbon_server.models.spec import LinearRope, Norm, UnscaledRope

PROMPT = np.random.default_rng(9).integers(3, 160, 40).tolist()
TOLERANCE = 2e-4


def in_layers(spec, change):
    return replace(spec, layers=tuple(change(layer) for layer in spec.layers))


def in_attention(spec, **fields):
    return in_layers(spec, lambda layer: replace(layer, attention=replace(layer.attention, **fields)))


def in_rope(spec, **fields):
    return in_attention(spec, rope=replace(spec.layers[0].attention.rope, **fields))


RESETS = {
    "attention_norm": lambda spec: in_layers(spec, lambda layer: replace(layer, attention_norm=Norm.rms(0.5))),
    "feed_forward_norm": lambda spec: in_layers(spec, lambda layer: replace(layer, feed_forward_norm=Norm.rms(0.5))),
    "final_norm": lambda spec: replace(spec, final_norm=Norm.rms(0.5)),
    "rope base": lambda spec: in_rope(spec, base=500.0),
    "rope scaling": lambda spec: in_rope(spec, scaling=UnscaledRope()),
    "rope factor": lambda spec: in_rope(spec, scaling=LinearRope(3.0)),
    "scale": lambda spec: in_attention(spec, scale=1.0),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    scaling = {"rope_type": "linear", "rope_theta": 9000.0, "factor": 2.0}
    return save_tiny(tmp_path_factory.mktemp("spec"), rope_parameters=scaling, attention_bias=True)


def difference(model, change) -> float:
    """Largest difference of a changed spec's logits from transformers', after the prompt."""
    checkpoint = SafetensorsCheckpoint(model.folder)
    family = family_of("LlamaForCausalLM")
    spec = family.build(checkpoint.config)
    decoder = assemble(change(spec), load_weights(spec, family.names, checkpoint, torch.float32), native_kernels())
    wish = WarmupWish(max_batch_prefill_tokens=64, max_total_tokens=100, max_concurrent_requests=2)
    driver = Driver(warm_up(Model(spec, decoder, None, ()), wish, KvMemory(num_bytes=2**22), InjectedFaults()).engine)
    seen = []
    forward = decoder.forward
    decoder.forward = lambda *arguments: seen.append(forward(*arguments)) or seen[-1]
    driver.seat(1, PROMPT, room=10)
    driver.step({1: len(PROMPT)})
    return float((seen[-1][0] - model.logits(PROMPT)[-1]).abs().max())


def test_the_spec_as_it_is_built_matches(model) -> None:
    assert difference(model, lambda spec: spec) < TOLERANCE * 5


@pytest.mark.parametrize("field", RESETS)
def test_resetting_a_field_breaks_parity(model, field: str) -> None:
    assert difference(model, RESETS[field]) > 20 * TOLERANCE
