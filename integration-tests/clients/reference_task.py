"""A tiny evaluation task, and what transformers alone makes of it. Knows the bundled model; not the server, not lm-eval."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PAIRS = (
    (45, 17),
    (83, 26),
    (61, 58),
    (94, 35),
    (72, 49),
    (57, 8),
    (90, 41),
    (38, 19),
    (66, 27),
    (75, 36),
    (51, 24),
    (87, 69),
)
MAX_NEW_TOKENS = 24

# The bundled model is right on two of three differences, so that neither task is won by answering everything.
CHOICES_TASK = """\
task: ribbon_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: started
doc_to_choice: choices
doc_to_target: right
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""
ANSWERS_TASK = """\
task: ribbon_answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{until: ["never said"], do_sample: false, temperature: 0, max_gen_toks: {tokens}}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""


def items() -> list[dict[str, Any]]:
    """Differences: the question in the model's own turns, the answer, and three ways to end it."""
    listed = []
    for first, second in PAIRS:
        question = f"<|user|>What is {first} - {second}?<|end|><|assistant|>"
        result = first - second
        choices = [str(result + 10), str(result), str(result - 1)]
        start = f"{first} - {second} = "
        words = {"question": question, "answer": f"{start}{result}", "started": question + start}
        listed.append({**words, "choices": choices, "right": 1})
    return listed


def write_tasks(folder: Path) -> list[str]:
    """Writes the items and both tasks, and returns the tasks' names."""
    lines = folder / "items.jsonl"
    lines.write_text("".join(json.dumps(item) + "\n" for item in items()))
    (folder / "choices.yaml").write_text(CHOICES_TASK.format(items=lines))
    (folder / "answers.yaml").write_text(ANSWERS_TASK.format(items=lines, tokens=MAX_NEW_TOKENS))
    return ["ribbon_choices", "ribbon_answers"]


@dataclass(frozen=True)
class Outcome:
    """Log probabilities of each item's choices, the answers, and the shares that are right."""

    choices: list[list[float]]
    answers: list[str]

    @property
    def choices_right(self) -> float:
        """Accuracy of the choices."""
        hits = [
            max(range(len(row)), key=row.__getitem__) == item["right"]
            for row, item in zip(self.choices, items(), strict=True)
        ]
        return sum(hits) / len(hits)

    @property
    def answers_right(self) -> float:
        """Share of answers that are exact."""
        hits = [text == item["answer"] for text, item in zip(self.answers, items(), strict=True)]
        return sum(hits) / len(hits)


class Reference:
    """The model as transformers runs it, in float32."""

    def __init__(self, model: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def outcome(self) -> Outcome:
        """Of all items."""
        choices = [[self.score(item["started"], choice) for choice in item["choices"]] for item in items()]
        return Outcome(choices, [self.answer(item["question"]) for item in items()])

    @torch.inference_mode()
    def score(self, text: str, ending: str) -> float:
        """Log probability of the ending's tokens behind the text."""
        begin, whole = (self.tokenizer(words)["input_ids"] for words in (text, text + ending))
        assert whole[: len(begin)] == begin, "the ending changes the text's tokens"
        scores = torch.log_softmax(self.model(torch.tensor([whole])).logits[0], dim=-1)
        return sum(float(scores[place - 1, whole[place]]) for place in range(len(begin), len(whole)))

    @torch.inference_mode()
    def answer(self, text: str) -> str:
        """Greedy text behind the text."""
        prompt = self.tokenizer(text, return_tensors="pt")
        tokens = self.model.generate(**prompt, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        return self.tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
