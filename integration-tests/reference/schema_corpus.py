"""JSON schemas to constrain texts with: some by hand, the others drawn by a generator. All are small enough to be finished.

Knows what Ribbon promises to enforce; no server.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = Any

SHORT_TEXT = {"type": "string", "maxLength": 8}
NODE = {
    "type": "object",
    "properties": {"v": {"enum": [1, 2]}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}},
}
CLOSED = {"additionalProperties": False}


def obj(required: list[str] | None = None, /, **properties: Schema) -> Schema:
    """A closed object; all properties are required unless named."""
    wanted = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": wanted, **CLOSED}


def tagged(tag: str, **properties: Schema) -> Schema:
    return obj(kind={"const": tag}, **properties)


def numbers() -> list[Schema]:
    """Every way to bound a number."""
    return [
        {"type": "integer", "minimum": 0, "maximum": 9},
        {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 3},
        {"type": "integer", "minimum": -120, "maximum": -7},
        {"type": "integer", "minimum": 0, "maximum": 1000, "multipleOf": 5},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "number", "minimum": -0.5, "exclusiveMaximum": 0.25},
        {"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.25},
        {"type": ["integer", "null"], "minimum": 5, "maximum": 7},
        {"const": 42},
        {"const": -1.5},
        {"enum": [1, 2.5, -3]},
    ]


def strings() -> list[Schema]:
    """Lengths, patterns, formats, quotes."""
    formats = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
    return [
        SHORT_TEXT,
        {"type": "string", "minLength": 3, "maxLength": 3},
        {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"},
        {"type": "string", "pattern": "^a.{2}z$", "maxLength": 9},
        {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,3}){3}$"},
        {"type": "string", "pattern": "^(yes|no|ja|nein)$"},
        {"const": 'quote " and backslash \\ and / and\ttab'},
        {"enum": ["", "é", "日本", "a b", '"']},
        {"type": "string", "pattern": '^[^"\\\\]{0,5}$'},
        *({"type": "string", "format": name, "maxLength": 60} for name in formats),
    ]


def arrays() -> list[Schema]:
    """Lengths, prefixes, nesting."""
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    return [
        {"type": "array", "items": digit, "maxItems": 4},
        {"type": "array", "items": digit, "minItems": 2, "maxItems": 2},
        {"type": "array", "prefixItems": [{"type": "boolean"}, digit], "items": False},
        {"type": "array", "prefixItems": [{"type": "boolean"}, digit], "items": False, "minItems": 2},
        {"type": "array", "prefixItems": [{"type": "null"}], "items": digit, "minItems": 1, "maxItems": 3},
        {"type": "array", "items": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}, "maxItems": 2},
        {"type": "array", "maxItems": 0},
        {"const": [1, [2], {"a": None}]},
        {"type": "array", "items": {"anyOf": [digit, {"type": "null"}]}, "minItems": 1, "maxItems": 3},
    ]


def objects() -> list[Schema]:
    """Required and optional, patterns, additional ones, nesting."""
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    return [
        obj(a=digit, b={"type": "boolean"}),
        obj(["a"], a=digit, b={"type": "boolean"}, c={"type": "null"}),
        obj([], a=digit, b=digit),
        obj(inner=obj(x=digit, y=digit), flag={"type": "boolean"}),
        {"type": "object", "patternProperties": {"^x[0-9]$": digit}, "maxProperties": 2, **CLOSED},
        {"type": "object", "additionalProperties": digit, "maxProperties": 2},
        {
            "type": "object",
            "properties": {"a": digit},
            "required": ["a"],
            "additionalProperties": {"type": "null"},
            "maxProperties": 1,
        },
        obj(**{f"field {number}": digit for number in range(12)}),
        obj([], **{f"f{number}": {"type": "boolean"} for number in range(15)}),
        obj(**{'quo"te': digit, "sla\\sh": digit, "é": digit}),
        {"type": "object", "maxProperties": 0},
        {"const": {"a": {"b": [1]}}},
        {
            "type": "object",
            "properties": {"a": {"type": "boolean"}},
            "required": ["a"],
            "deprecated": True,
            "title": "t",
            **CLOSED,
        },
        {
            "type": "object",
            "properties": {"a": {"type": "boolean", "default": True}, "b": False},
            "required": ["a"],
            **CLOSED,
        },
    ]


def combinations() -> list[Schema]:
    """anyOf, oneOf, allOf, references, recursion."""
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    pets = {"Cat": tagged("cat", lives=digit), "Dog": tagged("dog", good={"type": "boolean"})}
    tree = obj(["v"], v=digit, kids={"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 1})
    return [
        {"anyOf": [digit, {"type": "null"}, SHORT_TEXT]},
        {"oneOf": [{"type": "boolean"}, digit, obj(a=digit)]},
        {
            "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
            "$defs": pets,
            "discriminator": {"propertyName": "kind"},
        },
        {
            "type": "array",
            "items": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]},
            "maxItems": 2,
            "$defs": pets,
        },
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
        {
            "allOf": [
                {"type": "object", "properties": {"a": digit}, "required": ["a"]},
                {"properties": {"b": digit}, "required": ["b"]},
            ],
            "maxProperties": 2,
        },
        {"allOf": [{"enum": [1, 2, 3]}, {"enum": [3, 2, 4]}]},
        {"$ref": "#/$defs/t", "$defs": {"t": tree}},
        {"$ref": "#/definitions/d", "definitions": {"d": digit}, "$schema": "http://json-schema.org/draft-07/schema#"},
        {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}], "$defs": {"n": {**NODE, "required": ["v"], **CLOSED}}},
        {"type": ["string", "integer", "boolean"], "maxLength": 4, "minimum": 1, "maximum": 3},
        {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "string", "pattern": "^x{5}$"}]},
        {"anyOf": [obj(a=digit), obj(b=digit, c={"type": "null"})]},
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/d"}},
            "required": ["a"],
            "$defs": {"d": digit},
            **CLOSED,
        },
        {
            "type": "array",
            "items": [{"type": "boolean"}, digit],
            "additionalItems": False,
            "minItems": 2,
            "$schema": "http://json-schema.org/draft-07/schema#",
        },
        {"not": False, "type": "boolean"},
        {"uniqueItems": False, "type": "array", "items": digit, "maxItems": 2},
    ]


def by_hand() -> list[Schema]:
    """All that were written one by one."""
    return [*numbers(), *strings(), *arrays(), *objects(), *combinations()]


class Generator:
    """Draws schemas of bounded depth, each finished within some hundred bytes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def schema(self, depth: int = 3) -> Schema:
        """A schema; deeper ones are objects, arrays and alternatives."""
        leaves: list[Callable[[], Schema]] = [self._integer, self._number, self._string, self._enum, self._plain]
        inner: list[Callable[[int], Schema]] = [self._object, self._array, self._alternatives]
        if depth == 0 or self._random.random() < 0.25:
            return self._random.choice(leaves)()
        return self._random.choice(inner)(depth - 1)

    def _plain(self) -> Schema:
        return {"type": self._random.choice(["null", "boolean"])}

    def _integer(self) -> Schema:
        low = self._random.randint(-500, 500)
        schema = {"type": "integer", "minimum": low, "maximum": low + self._random.randint(0, 2_000)}
        if self._random.random() < 0.3:
            schema |= {"maximum": low + 50, "multipleOf": self._random.choice([2, 3, 5, 7])}
        return schema

    def _number(self) -> Schema:
        low = round(self._random.uniform(-20, 20), self._random.randint(0, 3))
        return {"type": "number", "minimum": low, "exclusiveMaximum": round(low + self._random.uniform(0.5, 30), 2)}

    def _string(self) -> Schema:
        least = self._random.randint(0, 3)
        schema: Schema = {"type": "string", "minLength": least, "maxLength": least + self._random.randint(0, 6)}
        if self._random.random() < 0.5:
            pattern = "".join(self._random.choices(["[a-f]", r"\d", "x?", "(ab|cd)", "[^a-z]", "é", "-"], k=3))
            return {"type": "string", "pattern": f"^{pattern}$"}
        return schema

    def _enum(self) -> Schema:
        values = [None, True, -1, 2.5, "a", "b c", 'd"', [], [1], {}, {"k": "v"}]
        return {"enum": self._random.sample(values, self._random.randint(1, 5))}

    def _object(self, depth: int) -> Schema:
        names = self._random.sample(["id", "name", "x y", "ü", "a/b", "k'", "z_9"], self._random.randint(1, 4))
        properties = {name: self.schema(depth) for name in names}
        required = [name for name in names if self._random.random() < 0.7]
        schema: Schema = {"type": "object", "properties": properties, "required": required, **CLOSED}
        if self._random.random() < 0.15:
            schema |= {"additionalProperties": {"type": "boolean"}, "required": names, "maxProperties": len(names) + 1}
        return schema

    def _array(self, depth: int) -> Schema:
        least = self._random.randint(0, 2)
        return {
            "type": "array",
            "items": self.schema(depth),
            "minItems": least,
            "maxItems": least + self._random.randint(0, 2),
        }

    def _alternatives(self, depth: int) -> Schema:
        options = [self.schema(depth) for _ in range(self._random.randint(2, 3))]
        return {"anyOf": options} if self._random.random() < 0.7 else {"anyOf": options, "description": "one of them"}


def drawn(number: int) -> list[Schema]:
    """The first so many of the generator, the same each time."""
    return [Generator(seed).schema() for seed in range(number)]
