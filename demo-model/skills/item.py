"""One question with its answer, and the rule that keeps held-out items out of training."""

import zlib
from dataclasses import dataclass, field

HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Message:
    """One turn; role is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True)
class Item:
    """Turns that end before an answer. `key` names the content that must not be met in training."""

    messages: tuple[Message, ...]
    answer: str
    key: str
    tools: tuple[dict[str, object], ...] = field(default=(), hash=False)


def ask(question: str, answer: str, key: str) -> Item:
    """An item of one user turn."""
    return Item((Message("user", question),), answer, key)


def is_held_out(key: str) -> bool:
    """Puts every tenth key aside, by its checksum: the same on every machine and in every run."""
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0
