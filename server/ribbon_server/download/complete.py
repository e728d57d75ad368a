"""Makes a model directory complete: converts what is there in another form, refuses what is missing. Knows file names."""

import os
from pathlib import Path

from ribbon_server.errors import BadSetting
from ribbon_server.models.model_files import (
    PYTORCH,
    SAFETENSORS,
    SLOW_VOCABULARIES,
    TOKENIZER,
    check_complete,
    weight_files,
    weight_format,
)

NEEDED = ("config.json", TOKENIZER)


def complete(folder: Path) -> Path:
    """`folder` itself, with config.json, safetensors weights and tokenizer.json in it.

    Raises:
        BadSetting: Something is missing that nothing else there can be made into, or cannot be read.
        ModelNotSupported: The tokenizer cannot be converted.
        WeightsMismatch: The weights are incomplete, unreadable or unsafe.
    """
    if not (folder / "config.json").is_file():
        raise BadSetting(f"{folder} lacks config.json; give the directory of a complete model")
    _complete_weights(folder)
    _complete_tokenizer(folder)
    unreadable = [name for name in NEEDED if not os.access(folder / name, os.R_OK)]
    if unreadable:
        raise BadSetting(f"{folder / unreadable[0]} cannot be read; check its permissions")
    return folder


def _complete_weights(folder: Path) -> None:
    present = {path.name for path in folder.iterdir()}
    kind = weight_format(present)
    if kind is None:
        raise BadSetting(
            f"{folder} lacks weights: {SAFETENSORS.single} or {SAFETENSORS.index} (or {PYTORCH.single}, which is converted)"
        )
    names = weight_files(folder, kind)
    check_complete(names, present, str(folder))
    if kind is PYTORCH:
        # Here, since it imports torch.
        from ribbon_server.download.pytorch_weights import convert

        convert(folder, names)


def _complete_tokenizer(folder: Path) -> None:
    if (folder / TOKENIZER).is_file():
        return
    if not any((folder / name).is_file() for name in SLOW_VOCABULARIES):
        raise BadSetting(
            f"{folder} lacks {TOKENIZER}, and a vocabulary to make it from ({', '.join(SLOW_VOCABULARIES)})"
        )
    # Here, since it imports transformers.
    from ribbon_server.download.slow_tokenizer import convert

    convert(folder)
