"""EleutherAI's evaluation harness through /v1/completions: its accuracies are those that transformers alone gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asked import Truth
from environments import python_of
from observed import Observed, Record, recorded, run
from reference_task import Outcome, Reference, write_tasks

pytestmark = pytest.mark.clients

# Of a sum of two or three log probabilities in float32, whatever else was in the batch.
TOLERANCE = 5e-3


@pytest.fixture(scope="module")
def outcome(demo_model: Path) -> Outcome:
    """What transformers makes of the items."""
    return Reference(demo_model).outcome()


def evaluate(truth: Truth, model: Path, home: Path) -> Observed:
    """Runs the harness on both tasks."""
    tasks = ",".join(write_tasks(home))
    place = f"base_url={truth.asked.base}/v1/completions,model={truth.asked.model},tokenizer={model}"
    # Token ids, as the bundled tokenizer starts every text with a token of its own, which the harness would not count.
    settings = f"{place},tokenized_requests=True,add_bos_token=True,num_concurrent=1,max_retries=1,max_length=2048"
    command = [python_of("lm_eval").parent / "lm-eval", "run", "--model", "local-completions", "--model_args", settings]
    options = [
        "--tasks",
        tasks,
        "--include_path",
        home,
        "--batch_size",
        "3",
        "--output_path",
        home / "out",
        "--log_samples",
    ]
    run([*command, *options], home, HF_HUB_OFFLINE="1")
    (results,) = (json.loads(file.read_text()) for file in (home / "out").rglob("results_*.json"))
    samples = {task: samples_of(home / "out", task) for task in tasks.split(",")}
    features = {"loglikelihood": samples["ribbon_choices"], "generate_until": samples["ribbon_answers"]}
    features |= {"accuracy": results["results"]}
    return Observed("lm-eval", results["lm_eval_version"], {name: {"saw": saw} for name, saw in features.items()})


def samples_of(folder: Path, task: str) -> list[dict[str, Any]]:
    """One record an item, in order."""
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    return sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda sample: sample["doc_id"])


def test_lm_eval(truth: Truth, demo_model: Path, outcome: Outcome, tmp_path: Path, record_property: Record) -> None:
    with recorded(evaluate(truth, demo_model, tmp_path), record_property) as seen:
        choices = [[float(pair[0]) for pair in sample["filtered_resps"]] for sample in seen["loglikelihood"]]
        assert choices == [pytest.approx(row, abs=TOLERANCE) for row in outcome.choices]
        answers = [sample["filtered_resps"][0] for sample in seen["generate_until"]]
        assert answers == outcome.answers
        assert 0 < outcome.choices_right < 1
        assert seen["accuracy"]["ribbon_choices"]["acc,none"] == pytest.approx(outcome.choices_right)
        assert seen["accuracy"]["ribbon_answers"]["exact_match,none"] == pytest.approx(outcome.answers_right)
