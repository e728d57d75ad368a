"""Reads the tensors of a model directory. Knows files and formats, not what the tensors mean."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from ribbon_server.errors import BadSetting, WeightsMismatch
from ribbon_server.models.hf_config import HfConfig, read_json
from ribbon_server.models.model_files import SAFETENSORS, check_complete, tokenizer_files, weight_files, weight_map


class Checkpoint(Protocol):
    """Where weights come from."""

    config: HfConfig
    tokenizer_files: Mapping[str, Path]

    def names(self) -> frozenset[str]:
        """Of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Read from the header; no weight is touched."""
        ...

    def dtype_name(self, name: str) -> str:
        """Element type as safetensors spells it, F32 or BF16, say; read from the header."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored. A view of the file where the format can: of its slices, what is copied is read, and no more."""
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
            WeightsMismatch: A file is absent or no readable safetensors file, or the index contradicts the files.
        """
        self.config = HfConfig(read_json(folder / "config.json"))
        self.tokenizer_files: Mapping[str, Path] = tokenizer_files(folder)
        self._owner = _owners({path: _open(path) for path in _paths(folder)})
        if not (folder / SAFETENSORS.single).exists():
            _check_index(folder / SAFETENSORS.index, frozenset(self._owner))

    def names(self) -> frozenset[str]:
        """Of all tensors in all files."""
        return frozenset(self._owner)

    def shape(self, name: str) -> tuple[int, ...]:
        """From the header."""
        return tuple(self._owner[name].get_slice(name).get_shape())

    def dtype_name(self, name: str) -> str:
        """From the header."""
        dtype: str = self._owner[name].get_slice(name).get_dtype()
        return dtype

    def read(self, name: str) -> torch.Tensor:
        """A view of the file's mapping; its pages are read when they are copied."""
        return self._owner[name].get_tensor(name)


def _open(path: Path) -> TensorFile:
    try:
        file: TensorFile = safe_open(path, framework="pt")
        return file
    except (SafetensorError, OSError) as error:
        raise WeightsMismatch(f"{path} is not a readable safetensors file ({error}); download it again") from error


def _owners(files: Mapping[Path, TensorFile]) -> dict[str, TensorFile]:
    """The file of each tensor."""
    places: dict[str, Path] = {}
    for path, file in files.items():
        for name in file.keys():  # noqa: SIM118 a file is no dict
            if name in places:
                raise WeightsMismatch(
                    f"{name} is in {places[name].name} and in {path.name}; {path.parent} mixes weights of two models"
                )
            places[name] = path
    return {name: files[path] for name, path in places.items()}


def _paths(folder: Path) -> list[Path]:
    """The single file where there is one, else those that the index names."""
    if not (folder / SAFETENSORS.single).exists() and not (folder / SAFETENSORS.index).exists():
        raise BadSetting(
            f"{folder} holds neither {SAFETENSORS.single} nor {SAFETENSORS.index}; give the directory of a model with safetensors weights"
        )
    names = weight_files(folder, SAFETENSORS)
    check_complete(names, [name for name in names if (folder / name).exists()], str(folder))
    return [folder / name for name in names]


def _check_index(index: Path, found: frozenset[str]) -> None:
    absent = sorted(set(weight_map(index)) - found)
    if absent:
        raise WeightsMismatch(
            f"{index} names {absent[0]} and {len(absent) - 1} more tensors that its files do not hold; download them again"
        )
