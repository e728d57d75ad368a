"""PyTorch checkpoints: converted to the same numbers, and never a way to run code."""

import json
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import TinyModel

from ribbon_server.download import pytorch_weights
from ribbon_server.download.complete import complete
from ribbon_server.errors import BadSetting, WeightsMismatch
from ribbon_server.layers.registry import REFERENCE
from ribbon_server.models.open import open_model


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def bin_copy(model_copy: Path) -> Path:
    """The tiny model with PyTorch weights in two files and an index; the head shares memory with a norm's neighbour."""
    (model_copy / "tokenizer.json").write_text("{}")
    tensors = load_file(model_copy / "model.safetensors")
    (model_copy / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in files.items():
        torch.save(OrderedDict((name, tensors[name]) for name in part), model_copy / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (model_copy / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return model_copy


def test_sharded_weights_are_converted_and_load(bin_copy: Path, tiny_untied: TinyModel) -> None:
    complete(bin_copy)
    theirs = load_file(tiny_untied.folder / "model.safetensors")
    index = json.loads((bin_copy / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == theirs.keys()
    for name, file in index.items():
        with safe_open(bin_copy / file, framework="pt") as tensors:
            assert torch.equal(tensors.get_tensor(name), theirs[name])
    assert open_model(bin_copy, None, REFERENCE).spec == open_model(tiny_untied.folder, None, REFERENCE).spec


def test_what_is_converted_is_not_converted_again(bin_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(bin_copy)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled again"))
    complete(bin_copy)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_shared_and_strided_tensors_keep_their_values(tmp_path: Path, zipped: bool) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "same": whole, "part": whole[1:], "turned": whole.t(), "count": torch.tensor(7)}
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    pytorch_weights.convert(tmp_path, ["pytorch_model.bin"])
    converted = load_file(tmp_path / "model.safetensors")
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in tensors.items())


def test_a_trap_is_refused_and_never_sprung(tmp_path: Path) -> None:
    mark, file = tmp_path / "sprung", tmp_path / "pytorch_model.bin"
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists(), "the trap does not work"
    mark.unlink()
    plain = pickle.dumps({"a": Trap(mark)})
    for write in (
        lambda: torch.save({"a": torch.ones(1), "b": Trap(mark)}, file),
        lambda: torch.save({"a": Trap(mark)}, file, _use_new_zipfile_serialization=False),
        lambda: file.write_bytes(plain),
    ):
        write()
        with pytest.raises(WeightsMismatch, match=r"pytorch_model\.bin is refused"):
            pytorch_weights.convert(tmp_path, [file.name])
        assert not mark.exists()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(1), "epoch": 3}, "epoch is no dense tensor"),
        ([torch.ones(1)], "it is no dense tensor"),
        ({"a": torch.ones(2).to_sparse()}, "a is no dense tensor"),
    ],
)
def test_what_is_no_plain_tensor_is_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsMismatch, match=message):
        pytorch_weights.convert(tmp_path, ["pytorch_model.bin"])


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(WeightsMismatch, match="it is damaged"):
        pytorch_weights.convert(tmp_path, ["pytorch_model.bin"])


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_tensors: object, path: Path, _metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(pytorch_weights, "save_file", half)
    with pytest.raises(BadSetting, match=r"model\.safetensors cannot be written .*No space left"):
        pytorch_weights.convert(tmp_path, ["pytorch_model.bin"])
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]


def test_an_index_whose_file_is_missing_is_refused(bin_copy: Path) -> None:
    (bin_copy / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(WeightsMismatch, match=r"lacks pytorch_model-00002-of-00002\.bin"):
        complete(bin_copy)
