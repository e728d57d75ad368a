"""The table of families, filled by `@family`. Knows no family by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules

from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.names import NameTable
from ribbon_server.models.spec import ModelSpec

Builder = Callable[[HfConfig], ModelSpec]
Fields = Mapping[str, object]


@dataclass(frozen=True)
class TinyConfig:
    """A configuration small enough for tests: Hugging Face fields over the architecture's defaults."""

    fields: Fields = field(default_factory=dict)
    variants: Mapping[str, Fields] = field(
        default_factory=dict
    )  # by name: fields over `fields` that excite something else


@dataclass(frozen=True)
class Family:
    """How one architecture becomes a spec."""

    architecture: str
    build: Builder
    names: NameTable
    tiny: TinyConfig
    module: str  # of `families/`
    alias_of: str | None = None  # another name of the same class in older checkpoints


FAMILIES: dict[str, Family] = {}


def family(architecture: str, *aliases: str, names: NameTable, tiny: TinyConfig) -> Callable[[Builder], Builder]:
    """Registers a builder for the Hugging Face class `architecture`, which older checkpoints may call by `aliases`."""

    def register(build: Builder) -> Builder:
        module = build.__module__.rpartition(".")[2]
        FAMILIES[architecture] = Family(architecture, build, names, tiny, module)
        for alias in aliases:
            FAMILIES[alias] = Family(alias, build, names, tiny, module, alias_of=architecture)
        return build

    return register


def families() -> dict[str, Family]:
    """Every family, by architecture; imports the modules of `families/` on first use."""
    package = import_module("ribbon_server.models.families")
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return FAMILIES


def family_of(architecture: str) -> Family:
    """The family of a class name.

    Raises:
        ModelNotSupported: None is registered for it; names those that are.
    """
    known = families()
    if architecture not in known:
        raise ModelNotSupported(unknown_family(architecture))
    return known[architecture]


def unknown_family(architecture: str) -> str:
    """What there is instead."""
    return f"architecture `{architecture}` is not supported; this server has: {', '.join(sorted(families()))}"
