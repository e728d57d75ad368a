"""Checkpoints as safetensors files with a JSON state in their header. Knows no model."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Any]


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: State) -> None:
    """Replaces the file in one move, so that a crash leaves the old or the new one."""
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"state": json.dumps(state)})
    partial.replace(path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], State]:
    """The tensors and the state of a checkpoint."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
    return load_file(path), json.loads(header["state"])
