"""Scorers tell right from wrong, and the report says which skills fall short."""

import json
from random import Random

import pytest
from evaluate import Score, batched, report, score, table
from skills import EVALUATED, Skill
from skills.item import Item
from skills.talk import is_same_story, story


class Parrot:
    """Answers every item with one rule."""

    def __init__(self, right: bool) -> None:
        self.right = right

    def answers(self, items: list[Item]) -> list[str]:
        return [item.answer if self.right else "no idea" for item in items]


@pytest.mark.parametrize("skill", EVALUATED, ids=lambda skill: skill.name)
def test_right_answers_score_all_and_wrong_ones_none(skill: Skill) -> None:
    assert score(Parrot(True), skill, 5).accuracy == 1.0  # type: ignore[arg-type]
    assert score(Parrot(False), skill, 5).accuracy == 0.0  # type: ignore[arg-type]


def test_a_story_about_another_hero_is_wrong() -> None:
    told = story(Random(1)).answer
    assert is_same_story(told, told)
    assert is_same_story(told, told.replace("They were happy", "They were happy"))
    hero = told.split(" named ")[1].split(".")[0]
    assert not is_same_story(told, told.replace(hero, "Nobody"))
    assert not is_same_story(told, told[:-10])


def test_near_misses_are_wrong() -> None:
    sums = next(skill for skill in EVALUATED if skill.name == "sum below 100")
    assert sums.is_right("17 + 25 = 42", "17 + 25 = 42")
    assert not sums.is_right("17 + 25 = 42", "17 + 25 = 43")
    assert not sums.is_right("17 + 25 = 42", "17 + 25 = 42 42")


def test_report_names_the_skills_below_their_bar() -> None:
    scores = [Score("sort", 5, 10, 0.6), Score("repeat", 10, 10, 0.9), Score("story", 0, 10, None)]
    assert json.loads(report(scores, "weights"))["short"] == ["sort"]
    assert table(scores).count("SHORT") == 1


def test_batches_hold_every_item_once() -> None:
    items = [EVALUATED[0].draw(Random(seed), held_out=True) for seed in range(70)]
    flat = [item for part in batched(items) for item in part]
    assert sorted(map(repr, flat)) == sorted(map(repr, items))
