"""Which rows the next step trains on, by step and curriculum. Knows ids and rows; not models."""

from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from corpus import Rows, pack
from curriculum import SHORT_DISTANCE, Curriculum
from tokenizer import END, SPECIAL_TOKENS
from tokenizers import Tokenizer

COPY, SHORT, LONG, FULL = 128, 256, 1024, 4096
ROW_COUNTS = {COPY: 8, SHORT: 8, LONG: 2, FULL: 1}  # per process and step
LONG_EVERY = 4
COPY_EVERY = 8


@dataclass(frozen=True)
class Plan:
    """What kind of rows, and how long."""

    kind: Literal["copy", "skills"]
    length: int


def plan(curriculum: Curriculum, step: int, first_full_step: int) -> Plan:
    """Copying until it works, then skills; every few steps long rows; at the end, full ones."""
    if curriculum.copying:
        return Plan("copy", COPY)
    if step >= first_full_step and step % 2 == 0:
        return Plan("skills", FULL)
    if curriculum.max_distance > SHORT_DISTANCE and step % LONG_EVERY == 0:
        return Plan("skills", LONG)
    if curriculum.accuracies.get("repeat", 0.0) < 0.8 and step % COPY_EVERY == 1:
        return Plan("copy", COPY)
    return Plan("skills", SHORT)


def draw(rng: Random, plan: Plan, curriculum: Curriculum, tokenizer: Tokenizer) -> Rows:
    """The rows of a plan."""
    count = ROW_COUNTS[plan.length]
    if plan.kind == "copy":
        return copy_rows(rng, curriculum, tokenizer, count)
    if plan.length == SHORT:
        return pack(rng, curriculum.mix(longest=SHORT_DISTANCE), tokenizer, count, SHORT)
    if plan.length == LONG:
        return pack(rng, curriculum.long_mix(curriculum.max_distance), tokenizer, count, LONG)
    return pack(rng, curriculum.full_mix(), tokenizer, count, FULL)


def copy_rows(rng: Random, curriculum: Curriculum, tokenizer: Tokenizer, count: int) -> Rows:
    """Rows of random ids said twice, from a vocabulary that grows as copying succeeds."""
    ids = list(range(len(SPECIAL_TOKENS), curriculum.vocab_size))
    Random(0).shuffle(ids)
    marks = [tokenizer.token_to_id(token) for token in ("<|user|>", END, "<|assistant|>")]
    rows = [copy_row(rng, ids[: curriculum.copy_ids], marks) for _ in range(count)]
    return Rows(np.array([row for row, _ in rows]), np.array([wanted for _, wanted in rows]))


def copy_row(rng: Random, ids: list[int], marks: list[int]) -> tuple[list[int], list[bool]]:
    """One row of exchanges: 3 to 14 ids asked, the same ids answered."""
    user, end, assistant = marks
    row: list[int] = []
    wanted: list[bool] = []
    while len(row) <= COPY:
        text = rng.choices(ids, k=rng.randint(3, 14))
        row += [user, *text, end, assistant, *text, end]
        wanted += [False] * (len(text) + 3) + [True] * (len(text) + 1)
    return row[: COPY + 1], wanted[: COPY + 1]
