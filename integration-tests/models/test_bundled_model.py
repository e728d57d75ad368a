"""Real questions to the bundled model through the whole path: right answers, streamed token by token."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from figures import show
from load.client import events, exchange, session
from load.served import Served

ITEMS = 12
SEED = 77
SKILLS = ("repeat", "extraction", "count words", "sum below 100")  # all have an aim of 80 % or more in demo-eval
MAJORITY = 0.5

sys.path.append(str(Path(__file__).resolve().parents[2] / "demo-model"))


def questions(skill_name: str) -> list[tuple[list[dict[str, str]], str]]:
    """Chat messages and right answers of items that training never saw."""
    from corpus import held_out_items
    from skills import EVALUATED

    skill = next(skill for skill in EVALUATED if skill.name == skill_name)
    items = held_out_items(skill, ITEMS, SEED)
    return [([{"role": turn.role, "content": turn.content} for turn in item.messages], item.answer) for item in items]


async def answer(base: str, messages: list[dict[str, str]]) -> list[str]:
    """The pieces of a streamed greedy chat answer."""
    body = {"model": "tgi", "messages": messages, "temperature": 0.0, "max_tokens": 120, "stream": True}
    async with session() as client, client.post(f"{base}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        chunks = [chunk async for chunk in events(response)]
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    return [piece for chunk in chunks if (piece := chunk["choices"][0]["delta"].get("content"))]


@pytest.mark.parametrize("skill", SKILLS)
def test_most_answers_are_right_and_come_in_pieces(demo_server: Served, skill: str) -> None:
    right = 0
    for messages, expected in questions(skill):
        pieces = asyncio.run(answer(demo_server.base, messages))
        right += "".join(pieces).strip() == expected
        assert len(pieces) > 1 or " " not in expected, f"{expected!r} came in one piece: {pieces}"
    show(f"{skill}: {right} of {ITEMS} right")
    assert right > MAJORITY * ITEMS


def test_streamed_and_whole_answers_are_the_same(demo_server: Served) -> None:
    messages, _ = questions("repeat")[0]
    body = {"model": "tgi", "messages": messages, "temperature": 0.0, "max_tokens": 120}
    whole = exchange(demo_server.base, "POST", "/v1/chat/completions", body).json()
    assert "".join(asyncio.run(answer(demo_server.base, messages))) == whole["choices"][0]["message"]["content"]
