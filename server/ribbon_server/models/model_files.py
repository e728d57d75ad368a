"""Which files of a model directory hold weights and tokenizer. Knows names and indexes; opens no weights, imports no torch."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ribbon_server.errors import WeightsMismatch
from ribbon_server.models.hf_config import read_json

TOKENIZER = "tokenizer.json"
# What slow tokenizers keep their vocabulary in; any one of them may be enough.
SLOW_VOCABULARIES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "vocab.json",
    "vocab.txt",
)
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    *SLOW_VOCABULARIES,
)


@dataclass(frozen=True)
class WeightFormat:
    """How a kind of checkpoint names its files."""

    single: str
    index: str


SAFETENSORS = WeightFormat("model.safetensors", "model.safetensors.index.json")
PYTORCH = WeightFormat("pytorch_model.bin", "pytorch_model.bin.index.json")
FORMATS = (SAFETENSORS, PYTORCH)  # the first one present is taken


def weight_format(present: Collection[str]) -> WeightFormat | None:
    """The format among files of these names; None without weights."""
    return next((kind for kind in FORMATS if kind.single in present or kind.index in present), None)


def weight_files(folder: Path, kind: WeightFormat) -> list[str]:
    """Names of the files with weights: the single one where it is, else those that the index in `folder` names.

    Raises:
        WeightsMismatch: The index is none.
    """
    if (folder / kind.single).exists() or not (folder / kind.index).exists():
        return [kind.single]
    return sorted(set(weight_map(folder / kind.index).values()))


def weight_map(index: Path) -> Mapping[str, str]:
    """File name by tensor name, as an index says it.

    Raises:
        BadSetting: The index cannot be read.
        WeightsMismatch: It has no `weight_map`, or names a file outside its directory.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(_is_plain_name(name) for name in names.values()):
        raise WeightsMismatch(f"{index} has no `weight_map` of file names; download it again")
    return names


def check_complete(names: Collection[str], present: Collection[str], where: str) -> None:
    """Refuses weights with a file missing.

    Raises:
        WeightsMismatch: Names the first one, and how many more.
    """
    absent = sorted(set(names) - set(present))
    if absent:
        more = f" and {len(absent) - 1} more files" if len(absent) > 1 else ""
        raise WeightsMismatch(f"{where} lacks {absent[0]}{more}, named by its index of weights; download it again")


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The files in `folder` that make its tokenizer, by name."""
    return {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name != "" and Path(name).name == name
