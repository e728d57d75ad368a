"""Turns items into conversations and conversations into rows of token ids. Knows no model.

Everything follows from the random generator passed in: the same seed gives the same rows.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import numpy as np
from numpy.typing import NDArray
from skills import EVALUATED, SKILLS, Skill
from skills.item import Item, Message
from skills.look_up import look_up
from skills.talk import ANIMALS, story_text
from skills.tool_call import offered_tools
from skills.words import NAMES, sentence
from tokenizer import BEGIN, END
from tokenizers import Tokenizer

SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are a helpful assistant.", "Answer briefly.", "Be kind.")
IDLE_TOOLS_SHARE = 0.04  # of conversations that list tools nobody needs
JsonWriter = Callable[[object], str]
plain_json: JsonWriter = partial(json.dumps, ensure_ascii=False)
# Other template engines write JSON without spaces, or with sorted keys: training sees every form.
JSON_WRITERS: tuple[JsonWriter, ...] = (
    plain_json,
    plain_json,
    partial(json.dumps, separators=(",", ":")),
    partial(json.dumps, separators=(",", ":"), sort_keys=True),
)


@dataclass(frozen=True)
class Mix:
    """What the next rows are drawn from; the curriculum changes it as accuracies come in."""

    weights: tuple[float, ...] = tuple(skill.weight for skill in SKILLS)
    look_up_weight: float = 1.5
    max_distance: int = 60
    plain_share: float = 0.06


def turn(message: Message) -> str:
    """One turn as the chat template writes it."""
    return f"<|{message.role}|>{message.content}{END}"


def system_turn(prompt: str, tools: tuple[dict[str, object], ...], to_json: JsonWriter) -> str:
    """The system turn with the tools, or nothing when there is neither."""
    listed = "Tools:" + "".join("\n" + to_json(tool) for tool in tools) if tools else ""
    content = "\n\n".join(part for part in (prompt, listed) if part)
    return turn(Message("system", content)) if content else ""


def prompt_text(item: Item, prompt: str = "", to_json: JsonWriter = plain_json) -> str:
    """Everything before the answer, as `apply_chat_template(add_generation_prompt=True)` gives it."""
    turns = "".join(turn(message) for message in item.messages)
    return f"{BEGIN}{system_turn(prompt, item.tools, to_json)}{turns}<|assistant|>"


def draw_item(rng: Random, mix: Mix, skills: tuple[Skill, ...] = SKILLS) -> Item:
    """One training item by the weights of the mix; never a held-out one."""
    look_ups = Skill("look-up", lambda r: look_up(r, draw_distance(r, mix.max_distance)), 0.0, None)
    weights = [*mix.weights, mix.look_up_weight]
    return rng.choices([*skills, look_ups], weights)[0].draw(rng, held_out=False)


def draw_distance(rng: Random, longest: int) -> int:
    """Half of the distances are even over the range, half lean to the short end."""
    share = rng.random() if rng.random() < 0.5 else rng.random() ** 3
    return int(10 + share * (longest - 10))


def conversation(rng: Random, mix: Mix) -> str:
    """One to four exchanges, with a system prompt now and then."""
    item = draw_item(rng, mix)
    if is_simple(item) and rng.random() < IDLE_TOOLS_SHARE:
        item = replace(item, tools=tuple(tool.declaration() for tool in offered_tools(rng)))
    text = prompt_text(item, system_prompt(rng, item), rng.choice(JSON_WRITERS)) + item.answer + END
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        extra = draw_item(rng, mix)
        if is_simple(extra):
            text += turn(extra.messages[0]) + f"<|assistant|>{extra.answer}{END}"
    return text


def is_simple(item: Item) -> bool:
    """Whether an item is one short turn that can follow any other."""
    return not item.tools and len(item.messages) == 1 and len(item.messages[0].content) < 400


def system_prompt(rng: Random, item: Item) -> str:
    """Mostly none; never a second one."""
    if item.messages[0].role == "system" or rng.random() > 0.2:
        return ""
    return rng.choice((*SYSTEM_PROMPTS, sentence(rng)))


def plain_text(rng: Random, mix: Mix) -> str:
    """Text without turns: question and answer, a story, a row of numbers, or sums not held out."""
    kind = rng.random()
    if kind < 0.5:
        item = next(item for item in iter(lambda: draw_item(rng, mix), None) if is_simple(item))
        return f"{BEGIN}{item.messages[0].content}\n{item.answer}{END}"
    if kind < 0.7:
        return BEGIN + story_text(rng, rng.choice(ANIMALS), rng.choice(NAMES)) + END
    if kind < 0.8:
        start = rng.randint(0, 50)
        return BEGIN + " ".join(str(number) for number in range(start, start + rng.randint(5, 20))) + END
    sums = (SKILLS[0].draw(rng, held_out=False).answer for _ in range(rng.randint(2, 6)))
    return BEGIN + "\n".join(sums) + END


def texts(rng: Random, mix: Mix) -> Iterator[str]:
    """The endless corpus."""
    while True:
        yield plain_text(rng, mix) if rng.random() < mix.plain_share else conversation(rng, mix)


def answer_mask(ids: NDArray[np.int64], assistant: int, end: int, begin: int) -> NDArray[np.bool_]:
    """Marks the tokens to predict: answers with their end, and all of a text without turns."""
    mask = np.zeros(len(ids), dtype=bool)
    inside = False
    for place, token in enumerate(ids):
        mask[place] = inside
        if token == assistant:
            inside = True
        elif token == end:
            inside = False
        elif token == begin:
            inside = place + 1 < len(ids) and ids[place + 1] > assistant + 1
    return mask


@dataclass(frozen=True)
class Rows:
    """Token ids [rows, length + 1] and which of them are to be predicted."""

    ids: NDArray[np.int64]
    wanted: NDArray[np.bool_]


def pack(rng: Random, mix: Mix, tokenizer: Tokenizer, num_rows: int, length: int) -> Rows:
    """Fills rows with conversations end to end; the last one of a row is cut."""
    ids = np.empty((num_rows, length + 1), dtype=np.int64)
    source = texts(rng, mix)
    for row in ids:
        parts: list[int] = []
        while len(parts) < len(row):
            parts += tokenizer.encode(next(source), add_special_tokens=False).ids
        row[:] = parts[: len(row)]
    marks = [tokenizer.token_to_id(token) for token in ("<|assistant|>", END, BEGIN)]
    return Rows(ids, np.stack([answer_mask(row, *marks) for row in ids]))


def held_out_items(skill: Skill, count: int, seed: int = 7) -> list[Item]:
    """The items a skill is measured on: the same for every model."""
    rng = Random(f"{seed} {skill.name}")
    return [skill.draw(rng, held_out=True) for _ in range(count)]


def skill_named(name: str) -> Skill:
    """The row of the skill table with this name."""
    return next(skill for skill in EVALUATED if skill.name == name)
