"""Accuracy during training: would greedy decoding give exactly the expected answer?

One forward over prompt and answer decides it, since greedy decoding reproduces an answer exactly
if each of its tokens is the most likely one after the ones before. Stories need real decoding.
"""

import torch
from corpus import held_out_items, prompt_text
from model import DemoModel
from processes import Share
from skills import SKILLS, Skill
from skills.item import Item
from tokenizer import END
from tokenizers import Tokenizer

Encoded = tuple[list[int], int]  # ids of prompt and answer, number of answer tokens


def encode(tokenizer: Tokenizer, item: Item) -> Encoded:
    """Ids of prompt and answer, and how many belong to the answer with its end."""
    prompt = tokenizer.encode(prompt_text(item), add_special_tokens=False).ids
    answer = tokenizer.encode(item.answer + END, add_special_tokens=False).ids
    return prompt + answer, len(answer)


@torch.no_grad()
def count_right(model: DemoModel, encoded: list[Encoded]) -> int:
    """How many answers greedy decoding reproduces exactly."""
    longest = max(len(ids) for ids, _ in encoded)
    batch = torch.zeros(len(encoded), longest, dtype=torch.long)
    for row, (ids, _) in zip(batch, encoded, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    states = model(batch)
    right = 0
    for row, state, (ids, size) in zip(batch, states, encoded, strict=True):
        picked = model.logits(state[len(ids) - size - 1 : len(ids) - 1]).argmax(-1)
        right += bool((picked == row[len(ids) - size : len(ids)]).all())
    return right


def measure(model: DemoModel, tokenizer: Tokenizer, skill: Skill, count: int, share: Share) -> float:
    """This process's part of the accuracy: parts of all processes add up to the accuracy."""
    items = held_out_items(skill, count)[share.rank :: share.world_size]
    encoded = sorted((encode(tokenizer, item) for item in items), key=lambda pair: len(pair[0]))
    batch = max(1, min(32, 8192 // len(encoded[-1][0])))
    parts = (encoded[start : start + batch] for start in range(0, len(encoded), batch))
    return sum(count_right(model, part) for part in parts) / count


def measured_skills() -> tuple[Skill, ...]:
    """Skills whose answers are fixed by their questions."""
    return tuple(skill for skill in SKILLS if skill.name != "story")
