"""What there is to compare: every registered family, in every variant of its tiny configuration."""

import re
from dataclasses import dataclass

from ribbon_server.models.registry import families

BASE = "base"


@dataclass(frozen=True)
class Case:
    """One architecture in one variant."""

    architecture: str
    variant: str
    module: str  # of models/families

    @property
    def key(self) -> str:
        """As folders and reports name it."""
        return re.sub(r"[^A-Za-z0-9]+", "-", f"{self.architecture} {self.variant}")

    @property
    def fields(self) -> dict[str, object]:
        """Of the Hugging Face configuration."""
        tiny = families()[self.architecture].tiny
        return {**tiny.fields, **tiny.variants.get(self.variant, {})}


def cases() -> list[Case]:
    """All of them; other names of a class have no row of their own."""
    found = []
    for family in families().values():
        if family.alias_of is None:
            variants = (BASE, *family.tiny.variants)
            found += [Case(family.architecture, variant, family.module) for variant in variants]
    return found
