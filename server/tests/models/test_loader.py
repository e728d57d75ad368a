"""Loading: what is read, and every way a model directory is refused before a weight is touched."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import Driver, TinyModel, make_engine

from ribbon_server.config import DType
from ribbon_server.errors import BadSetting, ModelNotSupported, WeightsMismatch
from ribbon_server.layers.registry import REFERENCE
from ribbon_server.models.checkpoint import SafetensorsCheckpoint
from ribbon_server.models.load_progress import LoadProgress
from ribbon_server.models.loader import load_weights
from ribbon_server.models.open import choose_dtype, open_model
from ribbon_server.models.registry import family_of

PROMPT = [5, 9, 77, 31, 8]


def spoil_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def spoil_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_weights_survive_the_way_from_disk(tiny_untied: TinyModel) -> None:
    checkpoint = SafetensorsCheckpoint(tiny_untied.folder)
    family = family_of("LlamaForCausalLM")
    weights = load_weights(family.build(checkpoint.config), family.names, checkpoint, torch.float32)
    theirs = tiny_untied.reference.state_dict()
    assert torch.equal(weights["embedding"], theirs["model.embed_tokens.weight"])
    names = [f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv"]
    assert torch.equal(weights["layers.1.qkv"], torch.cat([theirs[name] for name in names]))
    loaded = sum(weight.numel() for weight in weights.values())
    assert loaded == sum(parameter.numel() for parameter in tiny_untied.reference.parameters())


def test_a_sharded_checkpoint_gives_the_same_tokens(tiny_untied: TinyModel, model_copy: Path) -> None:
    tensors = load_file(model_copy / "model.safetensors")
    (model_copy / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, model_copy / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    alone, sharded = (Driver(make_engine(folder)).generate(1, PROMPT, 8) for folder in (tiny_untied.folder, model_copy))
    assert alone == sharded


def test_an_index_that_names_an_absent_tensor_is_refused(model_copy: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "a.safetensors")
    names = {**dict.fromkeys(load_file(model_copy / "a.safetensors"), "a.safetensors"), "model.extra": "a.safetensors"}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(WeightsMismatch, match=r"names model\.extra"):
        SafetensorsCheckpoint(model_copy)


@pytest.mark.parametrize("file", ["../a.safetensors", "", 7])
def test_an_index_that_leaves_its_directory_is_refused(model_copy: Path, file: object) -> None:
    (model_copy / "model.safetensors").unlink()
    (model_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": file}}))
    with pytest.raises(WeightsMismatch, match="weight_map"):
        SafetensorsCheckpoint(model_copy)


def test_an_index_whose_file_is_missing_is_refused(model_copy: Path) -> None:
    (model_copy / "model.safetensors").unlink()
    weight_map = {"x": "a.safetensors", "y": "b.safetensors"}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsMismatch, match=r"lacks a\.safetensors and 1 more"):
        SafetensorsCheckpoint(model_copy)


def test_a_tensor_in_two_files_is_refused(model_copy: Path) -> None:
    (model_copy / "model.safetensors").unlink()
    for file in "ab":
        save_file({"x": torch.zeros(2)}, model_copy / f"{file}.safetensors")
    weight_map = {"x": "a.safetensors", "y": "b.safetensors"}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsMismatch, match=r"x is in a\.safetensors and in b\.safetensors"):
        SafetensorsCheckpoint(model_copy)


def test_code_beside_the_weights_is_never_imported(model_copy: Path) -> None:
    mark = model_copy / "sprung"
    (model_copy / "modeling_own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    spoil_config(model_copy, auto_map={"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"})
    open_model(model_copy, None, REFERENCE)
    assert not mark.exists()


def test_nothing_is_read_before_all_is_checked(model_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_weights(model_copy, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(160, 48).char()}))
    monkeypatch.setattr(SafetensorsCheckpoint, "read", lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(WeightsMismatch, match=r"lm_head\.weight has type I8; quantized"):
        open_model(model_copy, None, REFERENCE)


def test_progress_is_said_in_bytes_and_milliseconds(caplog: pytest.LogCaptureFixture) -> None:
    seconds = iter([0.0, 1.0, 7.0, 7.0, 7.5, 8.0, 9.0])
    with caplog.at_level("INFO", logger="ribbon_server"):
        progress = LoadProgress(3, 6_000_000, clock=lambda: next(seconds))
        for _ in range(3):
            progress.advance(2_000_000)
        progress.finish()
    assert [record.getMessage() for record in caplog.records] == [
        "read 4.0 MB of 6.0 MB in 7500 ms",
        "read 3 weights, 6.0 MB in 9000 ms",
    ]
    assert [record.fields["ms"] for record in caplog.records] == [7500, 9000]


def test_a_missing_tensor_is_named(model_copy: Path) -> None:
    spoil_weights(model_copy, lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))
    with pytest.raises(WeightsMismatch, match=r"lacks model\.layers\.2\.mlp\.up_proj\.weight"):
        open_model(model_copy, None, REFERENCE)


def test_a_left_over_tensor_is_named(model_copy: Path) -> None:
    spoil_weights(model_copy, lambda tensors: tensors.update({"model.surprise": torch.zeros(1)}))
    with pytest.raises(WeightsMismatch, match=r"model\.surprise"):
        open_model(model_copy, None, REFERENCE)


def test_old_rotary_buffers_and_the_copy_of_a_tied_head_are_no_surprise(tiny_tied: TinyModel, tmp_path: Path) -> None:
    for file in tiny_tied.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8), "lm_head.weight": torch.zeros(160, 48)}
    spoil_weights(tmp_path, lambda tensors: tensors.update(extra))
    assert open_model(tmp_path, None, REFERENCE).spec.tied_embeddings


def test_a_wrong_shape_says_both_shapes(model_copy: Path) -> None:
    spoil_weights(model_copy, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(47)}))
    with pytest.raises(WeightsMismatch, match=r"model\.norm\.weight has shape \[47\].*\[48\]"):
        open_model(model_copy, None, REFERENCE)


def test_quantized_weights_are_refused(model_copy: Path) -> None:
    spoil_weights(model_copy, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(48, dtype=torch.int8)}))
    with pytest.raises(WeightsMismatch, match="quantized weights are not supported"):
        open_model(model_copy, None, REFERENCE)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\xff" * 64, b'{"broken'], ids=["empty", "text", "binary", "json"]
)
def test_a_corrupt_file_is_refused(model_copy: Path, content: bytes) -> None:
    (model_copy / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsMismatch, match="not a readable safetensors file"):
        open_model(model_copy, None, REFERENCE)


def test_a_truncated_file_is_refused(model_copy: Path) -> None:
    path = model_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsMismatch, match="not a readable safetensors file"):
        open_model(model_copy, None, REFERENCE)


def test_a_directory_without_weights_or_config_is_refused(model_copy: Path) -> None:
    (model_copy / "model.safetensors").unlink()
    with pytest.raises(BadSetting, match=r"holds neither model\.safetensors"):
        open_model(model_copy, None, REFERENCE)
    (model_copy / "config.json").unlink()
    with pytest.raises(BadSetting, match=r"config\.json cannot be read"):
        open_model(model_copy, None, REFERENCE)
    with pytest.raises(BadSetting, match="does not exist"):
        open_model(model_copy / "nowhere", None, REFERENCE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["BertModel"]}, "`BertModel` is not supported; this server has: "),
        ({"architectures": None}, "`architectures` is None"),
        ({"hidden_size": "many"}, "`hidden_size` is 'many'"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` is 0"),
        ({"head_dim": 15}, "`head_dim` is 15"),
        ({"hidden_act": "tanh"}, "`hidden_act` is 'tanh'"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1.0}}, "rope type `spiral` is not supported"),
        ({"rms_norm_eps": -1.0}, "`rms_norm_eps` is -1.0"),
        ({"tie_word_embeddings": "yes"}, "`tie_word_embeddings` is 'yes'"),
    ],
)
def test_a_configuration_that_cannot_be_built_says_why(
    model_copy: Path, fields: dict[str, object], message: str
) -> None:
    spoil_config(model_copy, **fields)
    with pytest.raises(ModelNotSupported) as caught:
        open_model(model_copy, None, REFERENCE)
    assert message in str(caught.value)


def test_older_files_say_their_rotary_base_outside(model_copy: Path, tiny_untied: TinyModel) -> None:
    config = json.loads((model_copy / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    (model_copy / "config.json").write_text(json.dumps({**config, "rope_theta": theta, "rope_scaling": None}))
    new, old = (open_model(folder, None, REFERENCE).spec for folder in (tiny_untied.folder, model_copy))
    assert new == old
    assert new.layers[0].attention.rope.base == theta


@pytest.mark.parametrize(
    ("wanted", "stored", "fast", "chosen"),
    [
        (None, {"BF16"}, True, DType.BFLOAT16),
        (None, {"BF16"}, False, DType.FLOAT32),
        (None, {"F16"}, True, DType.BFLOAT16),
        (None, {"F32"}, True, DType.FLOAT32),
        (DType.FLOAT16, {"F32"}, True, DType.BFLOAT16),
        (DType.FLOAT32, {"BF16"}, True, DType.FLOAT32),
        (DType.BFLOAT16, {"F32"}, False, DType.BFLOAT16),
    ],
)
def test_the_dtype_follows_the_checkpoint_and_the_cpu(wanted, stored, fast, chosen) -> None:
    assert choose_dtype(wanted, frozenset(stored), bfloat16_is_fast=fast) is chosen


def test_eos_tokens_come_from_the_generation_config_first(model_copy: Path) -> None:
    assert open_model(model_copy, None, REFERENCE).eos_token_ids == (2,)
    (model_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    assert open_model(model_copy, None, REFERENCE).eos_token_ids == (7, 8)
