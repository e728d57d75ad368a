"""A family is known in its own file alone: no other code of the shard, and none of scheduler, wire or launcher, names one.

Not searched: tests and docs; router/text and router/http, whose chat templates and tool formats have names that models share.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ribbon_server.models.registry import families

ROOT = Path(__file__).parents[3]
ROOMS = (
    "server/ribbon_server",
    "server/native/src",
    "router/core",
    "router/scheduler/src",
    "router/shards",
    "launcher/src",
)
SUPPORT = {"tests.rs", "testing.rs"}  # stage for tests


def words() -> set[str]:
    """What architectures and modules of families are called."""
    return {family.module for family in families().values()} | {name.lower() for name in families()}


def sources() -> Iterator[Path]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            inside = path.relative_to(ROOT).parts
            is_test = "tests" in inside or path.name in SUPPORT
            if (
                path.suffix in {".py", ".pyi", ".rs"}
                and not is_test
                and "families" not in inside
                and "pb" not in inside
            ):
                yield path


def named(text: str) -> list[str]:
    """Lines that name a family."""
    pattern = re.compile(rf"\b({'|'.join(sorted(words(), key=len, reverse=True))})\b", re.IGNORECASE)
    return [line.strip() for line in text.splitlines() if pattern.search(line)]


def test_no_code_outside_its_file_names_a_family() -> None:
    found = {str(path.relative_to(ROOT)): lines for path in sources() if (lines := named(path.read_text()))}
    assert found == {}


def test_every_room_is_searched() -> None:
    searched = {str(path.relative_to(ROOT)) for path in sources()}
    for room in ROOMS:
        assert any(path.startswith(room) for path in searched), room
    assert len(searched) > 150


@pytest.mark.parametrize("line", ["if architecture == 'QWEN2ForCausalLM':", "# as Falcon does it", 'kind = "gpt_oss"'])
def test_a_name_would_be_found(line: str) -> None:
    assert named(line) == [line]
