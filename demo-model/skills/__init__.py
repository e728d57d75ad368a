"""The table of skills: how to make an item, how to score it, what share of training it gets."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from skills.extraction import extraction
from skills.item import Item, is_held_out
from skills.look_up import look_up
from skills.numbers import count_up, difference, large_sum, small_sum
from skills.talk import chat, is_same_story, story, unknown
from skills.tool_call import tool_call, tool_result
from skills.word_lists import count_words, repeat, reverse, sort


def is_equal(expected: str, answer: str) -> bool:
    """Exact match, the score of every skill but stories."""
    return answer.strip() == expected


@dataclass(frozen=True)
class Skill:
    """One row: `weight` is its share of training items, `bar` the accuracy aimed at (None: none)."""

    name: str
    make: Callable[[Random], Item]
    weight: float
    bar: float | None
    is_right: Callable[[str, str], bool] = is_equal

    def draw(self, rng: Random, *, held_out: bool) -> Item:
        """Makes items until one lies on the wanted side of the held-out rule; no key, no rule."""
        item = self.make(rng)
        while item.key and is_held_out(item.key) != held_out:
            item = self.make(rng)
        return item


SKILLS = (
    Skill("sum below 100", small_sum, 4.0, 0.8),
    Skill("sum above 100", large_sum, 1.0, None),
    Skill("difference", difference, 1.2, None),
    Skill("count up", count_up, 0.5, None),
    Skill("count words", count_words, 1.0, 0.9),
    Skill("repeat", repeat, 1.5, 0.9),
    Skill("reverse", reverse, 1.5, 0.6),
    Skill("sort", sort, 3.5, 0.6),
    Skill("extraction", extraction, 2.0, 0.9),
    Skill("tool call", tool_call, 1.5, 0.9),
    Skill("tool result", tool_result, 0.3, None),
    Skill("chat", chat, 0.6, None),
    Skill("unknown", unknown, 0.3, None),
    Skill("story", story, 0.3, None, is_same_story),
)
LOOK_UP_BARS = {30: None, 150: 0.8, 500: None, 1000: 0.6, 4000: None}
LOOK_UPS = tuple(
    Skill(f"look-up {distance}", partial(look_up, distance=distance), 0.0, bar)
    for distance, bar in LOOK_UP_BARS.items()
)
EVALUATED = SKILLS + LOOK_UPS
