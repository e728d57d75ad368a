"""Reads the tensors of a model directory. Knows files and formats, not what the tensors mean."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from ribbon_server.errors import BadSetting, WeightsMismatch
from ribbon_server.models.hf_config import HfConfig, read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Checkpoint(Protocol):
    """Where weights come from."""

    config: HfConfig

    def names(self) -> frozenset[str]:
        """Of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Read from the header; no weight is touched."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored, mapped from the file where the format can."""
        ...


class TensorFile(Protocol):
    """What `safe_open` gives."""

    def keys(self) -> Iterable[str]:
        """Names of its tensors."""
        ...

    def get_slice(self, name: str) -> Any:
        """A tensor's header."""
        ...

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor, mapped."""
        ...


class SafetensorsCheckpoint:
    """Memory-mapped safetensors: one file, or several with an index."""

    def __init__(self, folder: Path) -> None:
        """Opens every header of `folder`.

        Raises:
            BadSetting: config.json or the weights are not there.
            WeightsMismatch: A file is no readable safetensors file, or the index contradicts the files.
        """
        self.config = HfConfig(read_json(folder / "config.json"))
        self._files = {path: _open(path) for path in _weight_files(folder)}
        self._owner = {name: file for file in self._files.values() for name in file.keys()}  # noqa: SIM118
        if (folder / INDEX).exists() and not (folder / SINGLE).exists():
            _check_index(folder / INDEX, frozenset(self._owner))

    def names(self) -> frozenset[str]:
        """Of all tensors in all files."""
        return frozenset(self._owner)

    def shape(self, name: str) -> tuple[int, ...]:
        """From the header."""
        return tuple(self._owner[name].get_slice(name).get_shape())

    def dtype_names(self) -> frozenset[str]:
        """Element types of all tensors, as safetensors spells them: F32, BF16 …"""
        return frozenset(self._owner[name].get_slice(name).get_dtype() for name in self._owner)

    def read(self, name: str) -> torch.Tensor:
        """Maps the tensor; pages are read when it is copied."""
        return self._owner[name].get_tensor(name)


def _open(path: Path) -> TensorFile:
    try:
        file: TensorFile = safe_open(path, framework="pt")
        return file
    except (SafetensorError, OSError) as error:
        raise WeightsMismatch(f"{path} is not a readable safetensors file ({error}); download it again") from error


def _weight_files(folder: Path) -> Iterable[Path]:
    """The single file where there is one, else those that the index names."""
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        raise BadSetting(
            f"{folder} holds neither {SINGLE} nor {INDEX}; give the directory of a model with safetensors weights"
        )
    return [folder / name for name in sorted(set(_weight_map(folder / INDEX).values()))]


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_plain_name(name) for name in weight_map.values()):
        raise WeightsMismatch(f"{index} has no `weight_map` of file names; download it again")
    return weight_map


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name != "" and Path(name).name == name


def _check_index(index: Path, found: frozenset[str]) -> None:
    absent = sorted(set(_weight_map(index)) - found)
    if absent:
        raise WeightsMismatch(
            f"{index} names {absent[0]} and {len(absent) - 1} more tensors that its files do not hold; download them again"
        )
