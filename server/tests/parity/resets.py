"""Takes back, one at a time, every field that a spec sets: what parity must notice. Knows records, no family.

A field counts as set where it differs from its record's default, or where the record has none for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any

from ribbon_server.models.spec import Activation, ModelSpec

# Sizes: another number does not fit the checkpoint's shapes, and max_positions is a limit.
SIZES = {
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "vocab_size",
    "hidden",
    "max_positions",
    "intermediate",
    "architecture",
}
SIZES |= {"width", "num_experts", "rank", "query_rank", "plain_dim", "value_dim"}
STACKS = ("layers", "encoder.layers")  # layer by layer


@dataclass(frozen=True)
class Reset:
    """A spec with one field taken back, wherever a layer sets it."""

    field: str
    spec: ModelSpec


def resets(spec: ModelSpec) -> Iterator[Reset]:
    """One for each field that any layer or the model sets."""
    paths: dict[str, None] = {}
    for layer in dict.fromkeys(spec.layers):
        paths.update(dict.fromkeys(f"layers.{path}" for path in _paths(layer)))
    outer = replace(spec, layers=())
    paths.update(dict.fromkeys(path for path in _paths(outer) if path not in STACKS))
    for path in paths:
        if path.startswith("layers."):
            yield Reset(path, _layers_changed(spec, path.removeprefix("layers.")))
        else:
            yield Reset(path, _changed(spec, path.split(".")))
    encoder = spec.encoder
    if encoder is not None:
        for path in dict.fromkeys(path for layer in dict.fromkeys(encoder.layers) for path in _paths(layer)):
            yield Reset(f"encoder.layers.{path}", replace(spec, encoder=_layers_changed(encoder, path)))


def _layers_changed(stack: Any, path: str) -> Any:
    """A model or an encoder whose every layer has the field taken back."""
    return replace(stack, layers=tuple(_changed(layer, path.split(".")) for layer in stack.layers))


def _paths(record: Any) -> Iterator[str]:
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name in SIZES or value is None or not _is_set(field, value):
            continue
        if is_dataclass(value):
            if _default(field) is None or not fields(value):
                yield field.name
            yield from (f"{field.name}.{inner}" for inner in _paths(value))
        elif value != () and value is not False:
            yield field.name


def _is_set(field: Field[Any], value: Any) -> bool:
    return _default(field) is MISSING or value != _default(field)


def _default(field: Field[Any]) -> Any:
    return field.default


def _changed(record: Any, path: list[str]) -> Any:
    """The record with the field at `path` taken back; as it is where it does not set it."""
    name, *rest = path
    if not is_dataclass(record) or not hasattr(record, name) or getattr(record, name) is None:
        return record
    value = getattr(record, name)
    field = next(field for field in fields(record) if field.name == name)
    if rest:
        return replace(record, **{name: _changed(value, rest)})
    return replace(record, **{name: _taken_back(field, value)})


def _taken_back(field: Field[Any], value: Any) -> Any:
    """The default where the value is another, else something that no configuration means."""
    if field.name in NAMED:
        return NAMED[field.name](value)
    if _default(field) is not MISSING and value != _default(field):
        return _default(field)
    for kind, change in OTHER.items():
        if isinstance(value, kind):
            return change(value)
    raise TypeError(f"no rule takes back a {type(value).__name__} in `{field.name}`; add one to OTHER")


def _next_member(value: Enum) -> Enum:
    members = list(type(value))
    return members[(members.index(value) + 1) % len(members)]


def _far_activation(value: Activation) -> Activation:
    """The others are so near to each other that a tiny model cannot tell."""
    return Activation.SILU if value is Activation.RELU_SQUARED else Activation.RELU_SQUARED


NAMED: dict[str, Callable[[Any], Any]] = {
    "eps": lambda _: 0.5,
    "dim": lambda value: value // 2,
    "activation": _far_activation,
}
OTHER: dict[type, Callable[[Any], Any]] = {
    bool: lambda value: not value,
    Enum: _next_member,
    int: lambda value: value * 2,
    float: lambda value: value * 1.5,
    tuple: lambda value: tuple(number * 1.5 for number in value),
}
