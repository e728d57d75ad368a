"""Converts PyTorch checkpoints to safetensors, once, where the model is fetched: the processes that serve never see a pickle.
Only numbers are unpickled; a file that wants to run code is refused."""

import json
import logging
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ribbon_server.download.written import whole_file
from ribbon_server.errors import WeightsMismatch
from ribbon_server.models.model_files import PYTORCH, SAFETENSORS
from ribbon_server.telemetry import log


def convert(folder: Path, names: Sequence[str]) -> None:
    """Writes the tensors of the files `names` in `folder` as safetensors beside them, file by file, the index last.

    Raises:
        BadSetting: The directory takes no file.
        WeightsMismatch: A file is unreadable, holds something else than tensors, or wants to run code.
    """
    is_single = list(names) == [PYTORCH.single]
    weight_map: dict[str, str] = {}
    for name in names:
        started = time.monotonic()
        target = SAFETENSORS.single if is_single else safetensors_name(name)
        tensors = read_pickled(folder / name)
        with whole_file(folder / target) as partial:
            save_file(unshared(tensors), partial, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, target)
        milliseconds = round((time.monotonic() - started) * 1000)
        log(logging.INFO, f"converted {name} to {target} in {milliseconds} ms", ms=milliseconds)
    if not is_single:
        with whole_file(folder / SAFETENSORS.index) as partial:
            partial.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def safetensors_name(name: str) -> str:
    """Of a shard: pytorch_model-00001-of-00002.bin becomes model-00001-of-00002.safetensors."""
    return Path(name).with_suffix(".safetensors").name.removeprefix("pytorch_")


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, mapped where its format allows.

    Raises:
        WeightsMismatch: It is unreadable, holds something else, or wants to run code.
    """
    try:
        found = torch.load(  # noqa: TID251 numbers alone, see above
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # a foreign file may break the reader in any way
        raise WeightsMismatch(
            f"{path} is refused: it is damaged, or holds more than plain tensors ({_first_line(error)}); "
            "only safetensors and plain PyTorch weights are read"
        ) from error
    odd = [name for name, value in found.items() if not _is_plain(value)] if isinstance(found, dict) else ["it"]
    if odd:
        raise WeightsMismatch(f"{path}: {odd[0]} is no dense tensor; only plain PyTorch weights are read")
    return found


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, contiguous, none sharing memory with another, as safetensors wants them."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone(memory_format=torch.contiguous_format) if storage in seen else tensor.contiguous()
        seen.add(storage)
    return own


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
