"""The corpus is deterministic, and keeps held-out items out."""

from itertools import islice
from pathlib import Path
from random import Random

import pytest
from corpus import Mix, held_out_items, pack, prompt_text, texts
from skills import EVALUATED, SKILLS, Skill
from skills.item import is_held_out
from skills.numbers import sum_key
from tokenizers import Tokenizer

with_key = pytest.mark.parametrize(
    "skill", [s for s in EVALUATED if s.name not in ("chat", "unknown")], ids=lambda skill: skill.name
)


def test_same_seed_gives_the_same_texts() -> None:
    first, second = (list(islice(texts(Random(3), Mix()), 200)) for _ in range(2))
    assert first == second
    assert first != list(islice(texts(Random(4), Mix()), 200))


@with_key
def test_training_draws_never_meet_a_held_out_key(skill: Skill) -> None:
    rng = Random(5)
    assert not any(is_held_out(skill.draw(rng, held_out=False).key) for _ in range(100))
    assert all(is_held_out(item.key) for item in held_out_items(skill, 20))


def test_no_training_text_contains_a_held_out_sum() -> None:
    held_out = {item.answer for skill in SKILLS[:2] for item in held_out_items(skill, 300)}
    corpus = "\n".join(islice(texts(Random(6), Mix(plain_share=0.3)), 3000))
    assert not [answer for answer in held_out if f">{answer}<" in corpus or f"\n{answer}\n" in corpus]


def test_both_orders_of_a_sum_are_held_out_together() -> None:
    assert sum_key(17, 25) == sum_key(25, 17)


@pytest.mark.parametrize("distance", [150, 1000, 4000])
def test_a_look_up_lies_about_its_distance_back(weights: Path, distance: int) -> None:
    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    skill = next(s for s in EVALUATED if s.name == f"look-up {distance}")
    sizes = [len(tokenizer.encode(prompt_text(item)).ids) for item in held_out_items(skill, 20)]
    assert 0.95 * distance < sum(sizes) / len(sizes) < 1.1 * distance + 60
    assert max(sizes) < 4090


def test_packed_rows_want_answers_and_their_ends_only(weights: Path) -> None:
    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    rows = pack(
        Random(7), Mix(weights=(1.0, *[0.0] * (len(SKILLS) - 1)), look_up_weight=0, plain_share=0), tokenizer, 1, 256
    )
    wanted = tokenizer.decode(rows.ids[0][rows.wanted[0]].tolist(), skip_special_tokens=False)
    for answer in wanted.split("<|end|>")[:-1]:
        first, second, total = (int(part) for part in answer.replace("+", "=").split("="))
        assert first + second == total
