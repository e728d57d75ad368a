"""A model directory's config.json and generation_config.json, with typed access. Knows field names, not their meaning."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ribbon_server.errors import BadSetting, ModelNotSupported


class HfConfig:
    """A JSON object whose fields are read with a type; a wrong or missing one names itself."""

    def __init__(self, fields: Mapping[str, Any], where: str = "config.json") -> None:
        """Keeps `fields`; `where` names them in messages."""
        self._fields = fields
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self._wrong(name, value, "a whole number above 0")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise self._wrong(name, value, "a number above 0")
        return float(value)

    def whole(self, name: str, default: int) -> int:
        """A whole number from 0 up."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(name, value, "a whole number from 0 up")
        return value

    def optional(self, name: str) -> float | None:
        """A finite number above 0; None where the field is absent or null."""
        return self.number(name) if name in self else None

    def flag(self, name: str, *, default: bool) -> bool:
        """true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def switch(self, name: str, *, default: bool) -> bool:
        """true or false, which some files say as a number: 0 is false."""
        value = self._value(name, default)
        return (
            self.whole(name, 0) > 0
            if isinstance(value, int) and not isinstance(value, bool)
            else self.flag(name, default=default)
        )

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def section(self, name: str) -> "HfConfig | None":
        """A nested object; None where it is absent or null."""
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return HfConfig(value, f"{self._where}: {name}")

    def part(self, name: str) -> "HfConfig":
        """The object of one part of a model, under the whole one's class name; the whole where it has no such part."""
        section = self.section(name)
        if section is None:
            return self
        return HfConfig({**section._fields, "architectures": self._fields.get("architectures")}, section._where)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty where absent."""
        value = self._fields.get(name)
        texts = [] if value is None else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self._wrong(name, value, "a list of strings")
        return tuple(texts)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        value = self._value(name, None)
        if not isinstance(value, list) or not all(_is_number(number) for number in value):
            raise self._wrong(name, value, "a list of numbers")
        return tuple(float(number) for number in value)

    def name_of(self, *names: str) -> str:
        """The first of several names of one field that is there, else the first."""
        return next((name for name in names if name in self), names[0])

    def refuse(self, name: str, wanted: str) -> ModelNotSupported:
        """The error for a field whose value no spec can say."""
        return self._wrong(name, self._fields.get(name), wanted)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them; empty where absent."""
        value = self._fields.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
            raise self._wrong(name, value, "a token id or a list of token ids")
        return tuple(ids)

    @property
    def architecture(self) -> str:
        """The class name that picks the family."""
        names = self._fields.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise self._wrong("architectures", names, "a list with a class name, as `transformers` writes it")
        return names[0]

    def _value(self, name: str, default: object) -> Any:
        value = self._fields.get(name)
        value = default if value is None else value
        if value is None:
            raise ModelNotSupported(f"{self._where}: `{name}` is missing")
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> ModelNotSupported:
        return ModelNotSupported(f"{self._where}: `{name}` is {value!r}; it must be {wanted}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        BadSetting: The file is absent, unreadable or no JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadSetting(f"{path} cannot be read ({error}); give the directory of a complete model") from error
    if not isinstance(value, dict):
        raise BadSetting(f"{path} holds no JSON object; give the directory of a complete model")
    return value


def generation_config(folder: Path) -> HfConfig:
    """generation_config.json; empty where there is none."""
    path = folder / "generation_config.json"
    return HfConfig(read_json(path) if path.exists() else {}, path.name)


def eos_token_ids(folder: Path, config: HfConfig) -> tuple[int, ...]:
    """Tokens that end a sequence: generation_config.json's where it names them, else config.json's."""
    return generation_config(folder).token_ids("eos_token_id") or config.token_ids("eos_token_id")


def start_token_id(folder: Path, config: HfConfig, vocab_size: int) -> int:
    """The first token of a decoder behind an encoder: generation_config.json's where it names one, else config.json's, else the
    padding token, with which such models were trained.

    Raises:
        ModelNotSupported: There is none, or it is outside the vocabulary.
    """
    name = "decoder_start_token_id"
    found = generation_config(folder).token_ids(name) or config.token_ids(name) or config.token_ids("pad_token_id")
    if len(found) != 1 or found[0] >= vocab_size:
        raise ModelNotSupported(
            f"config.json: `{name}` is {list(found)}; it must be one token id below the vocabulary's {vocab_size}"
        )
    return found[0]
