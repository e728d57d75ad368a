"""The table of families, filled by `@family`. Knows no family by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules

from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.names import NameTable
from ribbon_server.models.spec import ModelSpec

Builder = Callable[[HfConfig], ModelSpec]


@dataclass(frozen=True)
class TinyConfig:
    """A configuration small enough for tests: Hugging Face fields over the architecture's defaults."""

    fields: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """How one architecture becomes a spec."""

    architecture: str
    build: Builder
    names: NameTable
    tiny: TinyConfig


FAMILIES: dict[str, Family] = {}


def family(architecture: str, *, names: NameTable, tiny: TinyConfig) -> Callable[[Builder], Builder]:
    """Registers a builder for the Hugging Face class `architecture`."""

    def register(build: Builder) -> Builder:
        FAMILIES[architecture] = Family(architecture, build, names, tiny)
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
        raise ModelNotSupported(
            f"architecture `{architecture}` is not supported; this server has: {', '.join(sorted(known))}"
        )
    return known[architecture]
