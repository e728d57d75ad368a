"""Models without a family of ours: transformers' own code over ribbons says what it says of a sequence alone, or is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from models.test_loader import spoil_config
from models.test_windows import feed
from safetensors.torch import load_file, save_file
from tiny import Driver, TinyModel, make_engine

from ribbon_server.config import DType
from ribbon_server.distributed.sharding import ALONE, Rank
from ribbon_server.errors import ModelNotSupported, WeightsMismatch
from ribbon_server.layers.registry import REFERENCE
from ribbon_server.models.open import open_model
from ribbon_server.models.registry import families
from ribbon_server.service.wire import describe

PROMPT = np.random.default_rng(6).integers(3, 160, 90).tolist()
SIZES = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FULL, WINDOWED = "full_attention", "sliding_attention"
LATENT = {"q_lora_rank": 28, "kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 12}
BRIDGED: dict[str, dict[str, object]] = {
    "Olmo3ForCausalLM": {"sliding_window": 24, "layer_types": [WINDOWED, FULL, WINDOWED]},
    "OlmoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2, "hidden_size": 64},
    "VaultGemmaForCausalLM": {"sliding_window": 24, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 20},
    "MiniCPM3ForCausalLM": {**LATENT, "num_key_value_heads": 4, "head_dim": 20},
}
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
ENCODED = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
ENCODED |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 2}
REFUSED = {
    "MambaForCausalLM": ({"state_size": 8}, "it keeps a state instead of keys and values"),
    "Qwen3NextForCausalLM": (LINEAR, "it has layers of kind linear_attention"),
    "BartForConditionalGeneration": (ENCODED, "it is no causal language model"),
    "BertModel": ({}, "it is no causal language model"),
}


def save(folder: Path, architecture: str, fields: dict[str, object]) -> TinyModel:
    """A random model of a class that no family has."""
    assert architecture not in families()
    build = getattr(transformers, architecture)
    torch.manual_seed(11)
    config = build.config_class(**{**SIZES, **fields})
    config._attn_implementation = "eager"
    model = build(config).float().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.2)
    model.tie_weights()
    model.save_pretrained(folder)
    return TinyModel(folder, model)


@pytest.fixture(scope="module", params=BRIDGED)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return save(tmp_path_factory.mktemp("bridged"), request.param, BRIDGED[request.param])


@pytest.fixture(scope="module")
def driver(model: TinyModel) -> Driver:
    return Driver(make_engine(model.folder))


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, of the spread."""
    return float((found - expected).abs().max() / expected.std())


@pytest.mark.parametrize("chunk", [1, 7, 90])
def test_every_chunk_size_gives_the_logits_of_the_class_itself(driver: Driver, model: TinyModel, chunk: int) -> None:
    expected = model.logits(PROMPT)
    ends = [min(begin + chunk, len(PROMPT)) - 1 for begin in range(0, len(PROMPT), chunk)]
    assert far(feed(driver, PROMPT, chunk), expected[ends]) < 2e-4


def test_sequences_in_one_batch_are_each_as_if_alone(driver: Driver, model: TinyModel) -> None:
    seen: list[torch.Tensor] = []
    forward = driver.engine.decoder.forward
    driver.engine.decoder.forward = lambda *arguments: seen.append(forward(*arguments)) or seen[-1]
    other = PROMPT[::-1][:40]
    driver.seat(1, PROMPT, room=4)
    driver.seat(2, other, room=4)
    first = driver.step({1: len(PROMPT), 2: len(other)})
    second = driver.step({2: 1, 1: 1})
    driver.engine.decoder.forward = forward
    driver.close(1)
    driver.close(2)
    tokens = dict(zip(first.slot.tolist(), first.token_id.tolist(), strict=True))
    assert [second.failure, second.errors] == ["", []]
    longer, shorter = [*PROMPT, tokens[1]], [*other, tokens[2]]
    assert far(seen[0], torch.stack((model.logits(PROMPT)[-1], model.logits(other)[-1]))) < 2e-4
    assert far(seen[1], torch.stack((model.logits(shorter)[-1], model.logits(longer)[-1]))) < 2e-4


def test_the_description_says_that_it_is_bridged(model: TinyModel) -> None:
    opened = open_model(model.folder, DType.FLOAT32, REFERENCE)
    description = describe(opened, None)
    assert "bridge" in description.abilities
    assert description.architecture == opened.spec.architecture
    assert opened.decoder.num_parameters == sum(parameter.numel() for parameter in model.reference.parameters())


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    model = save(tmp_path, "Olmo3ForCausalLM", BRIDGED["Olmo3ForCausalLM"])
    logits = feed(Driver(make_engine(tmp_path, dtype=DType.BFLOAT16)), PROMPT, 30)
    expected = model.logits(PROMPT)[[29, 59, 89]]
    assert float((logits - expected).abs().mean()) < 0.08 * float(expected.std())


def test_windows_become_groups_of_their_own(tmp_path: Path) -> None:
    folder = save(tmp_path, "Olmo3ForCausalLM", BRIDGED["Olmo3ForCausalLM"]).folder
    layouts = open_model(folder, DType.FLOAT32, REFERENCE).decoder.kv_layouts
    assert [(layout.window, len(layout.layers)) for layout in layouts] == [(24, 2), (None, 1)]


@pytest.mark.parametrize("architecture", REFUSED)
def test_what_keeps_something_else_is_refused_with_the_reason(tmp_path: Path, architecture: str) -> None:
    fields, reason = REFUSED[architecture]
    build = getattr(transformers, architecture)
    config = build.config_class(**{**SIZES, **fields})
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": [architecture]}))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelNotSupported, match=f"`{architecture}` is not supported; this server has: .*{reason}"):
        open_model(tmp_path, None, REFERENCE)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"architectures": ["OwnForCausalLM"]}, "transformers has no such class"),
        ({"architectures": ["OwnForCausalLM"], "auto_map": {"AutoModel": "own.Own"}}, "it needs remote code"),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1.0}},
            r"positions \(dynamic\) change",
        ),
        ({"max_position_embeddings": "many"}, "its code fails with"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(tmp_path: Path, fields: dict, reason: str) -> None:
    save(tmp_path, "OlmoeForCausalLM", BRIDGED["OlmoeForCausalLM"])
    spoil_config(tmp_path, **fields)
    with pytest.raises(ModelNotSupported, match=reason):
        open_model(tmp_path, None, REFERENCE)


def test_several_ranks_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "OlmoeForCausalLM", BRIDGED["OlmoeForCausalLM"])
    with pytest.raises(ModelNotSupported, match="it is not dealt out; use `--num-shard` 1"):
        open_model(tmp_path, None, REFERENCE, world=SimpleNamespace(rank=Rank(0, 2), stage=ALONE))
    with pytest.raises(ModelNotSupported, match="it is not cut into stages; use `--pipeline-parallel-size` 1"):
        open_model(tmp_path, None, REFERENCE, world=SimpleNamespace(rank=Rank(0, 2), stage=Rank(1, 2)))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    save(tmp_path, "OlmoeForCausalLM", BRIDGED["OlmoeForCausalLM"])
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsMismatch, match=r"lacks model\.norm\.weight"):
        open_model(tmp_path, None, REFERENCE)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save(tmp_path, "OlmoeForCausalLM", BRIDGED["OlmoeForCausalLM"])
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = torch.zeros(7)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsMismatch, match=r"has in another shape than config\.json says model\.norm\.weight"):
        open_model(tmp_path, None, REFERENCE)


def test_code_beside_the_weights_is_never_imported(tmp_path: Path) -> None:
    save(tmp_path, "OlmoeForCausalLM", BRIDGED["OlmoeForCausalLM"])
    mark = tmp_path / "sprung"
    (tmp_path / "modeling_own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    spoil_config(tmp_path, auto_map={"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"})
    assert open_model(tmp_path, None, REFERENCE).is_bridged
    assert not mark.exists()


def test_neighbours_that_leak_into_each_other_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at the start can fail: a class that mixes each token's output with that of the one in front of it."""
    save(tmp_path, "OlmoeForCausalLM", BRIDGED["OlmoeForCausalLM"])
    norm = transformers.models.olmoe.modeling_olmoe.OlmoeRMSNorm
    forward = norm.forward
    monkeypatch.setattr(norm, "forward", lambda self, x: forward(self, x + 0.3 * x.roll(1, dims=1)))
    with pytest.raises(ModelNotSupported, match="its answers to a batch are not those to each sequence alone"):
        open_model(tmp_path, None, REFERENCE)
