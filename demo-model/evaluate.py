"""Measures a model folder: greedy answers to held-out items, scored skill by skill.

Loads the Hugging Face layout through transformers, like any user would. Prints a table and, as
the last line, one JSON object.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from corpus import held_out_items
from skills import EVALUATED, Skill
from skills.item import Item
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 12_000
MAX_ANSWER_TOKENS = 120
REPORT_SEED = 2024  # training measures itself on other held-out items


@dataclass(frozen=True)
class Score:
    """How one skill did."""

    skill: str
    right: int
    items: int
    bar: float | None

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / self.items

    @property
    def verdict(self) -> str:
        """Whether the aim was met; empty without an aim."""
        if self.bar is None:
            return ""
        return "ok" if self.accuracy >= self.bar else "SHORT"


class Subject:
    """A loaded model that answers items."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def prompt(self, item: Item) -> str:
        """The item as the model's own chat template writes it."""
        messages = [{"role": message.role, "content": message.content} for message in item.messages]
        tools = list(item.tools) or None
        return self.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)

    @torch.inference_mode()
    def answers(self, items: list[Item]) -> list[str]:
        """Greedy answers to a batch of items."""
        prompts = [self.prompt(item) for item in items]
        batch = self.tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        longest = batch["input_ids"].shape[1]
        room = min(MAX_ANSWER_TOKENS, self.model.config.max_position_embeddings - longest)
        output = self.model.generate(**batch, max_new_tokens=room, do_sample=False)
        return self.tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)


def batched(items: list[Item]) -> list[list[Item]]:
    """Cuts items, shortest first, into batches of about BATCH_TOKENS."""
    items = sorted(items, key=lambda item: len(item.messages[0].content))
    size = max(1, min(32, BATCH_TOKENS * 4 // len(items[-1].messages[0].content)))
    return [items[start : start + size] for start in range(0, len(items), size)]


def score(subject: Subject, skill: Skill, count: int) -> Score:
    """Measures one skill on `count` held-out items."""
    right = 0
    for items in batched(held_out_items(skill, count, REPORT_SEED)):
        for item, answer in zip(items, subject.answers(items), strict=True):
            right += skill.is_right(item.answer, answer)
    return Score(skill.name, right, count, skill.bar)


def table(scores: list[Score]) -> str:
    """The scores for people."""
    lines = [f"{'skill':<16}{'accuracy':>9}{'aim':>7}{'items':>7}"]
    for row in scores:
        aim = f"{row.bar:.0%}" if row.bar else "-"
        lines.append(f"{row.skill:<16}{row.accuracy:>9.1%}{aim:>7}{row.items:>7}  {row.verdict}".rstrip())
    return "\n".join(lines)


def report(scores: list[Score], model: str) -> str:
    """The scores for programs: one line of JSON."""
    skills = {row.skill: {"accuracy": round(row.accuracy, 4), "items": row.items, "aim": row.bar} for row in scores}
    short = [row.skill for row in scores if row.verdict == "SHORT"]
    return json.dumps({"benchmark": "demo-eval", "model": model, "skills": skills, "short": short})


def main() -> None:
    """Measures every skill of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=Path(__file__).parent / "weights")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--long-items", type=int, default=40, help="items of the look-up 4,000 tokens back")
    args = parser.parse_args()
    subject = Subject(args.model)
    counts = {"look-up 4000": args.long_items}
    bar = tqdm(EVALUATED, leave=False)
    scores = [score(subject, skill, min(counts.get(skill.name, args.items), args.items)) for skill in bar]
    print(table(scores))
    print(report(scores, args.model.name))


if __name__ == "__main__":
    main()
