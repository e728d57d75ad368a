"""Models whose layers see a window, through the whole path: their own tokens, in memory that does not grow with the text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from asking import Ask, Serve, all_at_once, as_run, eos_ids, one_by_one
from figures import show
from load.client import Answer
from load.metrics_text import metric, total
from load.usage import wait_released
from margin import Reference
from model_tokenizer import Prompts

WINDOW, BUDGET = 64, 64
LONG_TOKENS, SHARED_TOKENS, SHORT_OUTPUT = 1_200, 400, 40
WINDOWED, FULL = "sliding_attention", "full_attention"
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
MINISTRAL = {
    "architectures": ["MinistralForCausalLM"],
    "model_type": "ministral",
    "layer_types": [WINDOWED, FULL],
}
# A layer of the tiny model keeps 256 bytes of a token: 16 tokens a page. Its window keeps at most window + 256 tokens and those
# of two steps: 28 pages and one. All tokens of the long stream are 83 pages a layer.
KEPT_PAGES, ALL_PAGES = 29, 83
CASES = {"mistral": (MISTRAL, 100, 2 * KEPT_PAGES), "ministral": (MINISTRAL, 130, KEPT_PAGES + ALL_PAGES)}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> tuple[Path, int, int]:
    """A model with windows, the pages of a pool that could not hold all its tokens, and the most that one stream may own."""
    changes, pool, most = CASES[request.param]
    return windowed(tiny_model, tmp_path / request.param, changes), pool, most


def windowed(model: Path, target: Path, changes: dict[str, Any]) -> Path:
    """The same weights under another architecture."""
    shutil.copytree(model, target)
    config = json.loads((model / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "sliding_window": WINDOW, **changes}))
    return target


def test_a_window_moves_on_for_ever_in_the_same_memory(case: tuple[Path, int, int], serve: Serve) -> None:
    model, pool, most = case
    flags = ("--dtype", "float32", "--max-batch-prefill-tokens", str(BUDGET), "--kv-memory", str(pool * 4096))
    served = serve(model, *flags, "--max-total-tokens", "1400", "--max-concurrent-requests", "8")
    prompts, owned = Prompts(model, seed=5), []

    def look(answer: Answer) -> None:
        if len(answer.token_ids) % 200 == 0:
            owned.append(metric(served.get("/metrics"), "ribbon_kv_pages", 'state="live"'))

    long = [Ask(prompts.text(120), LONG_TOKENS, stops_at_eos=False)]
    front = prompts.text(SHARED_TOKENS)
    short = [Ask(front + prompts.text(20), SHORT_OUTPUT, stops_at_eos=False) for _ in range(4)]
    again = [Ask(ask.text, 2 * SHORT_OUTPUT, stops_at_eos=False) for ask in short]
    asks = long + short + short + again
    answers = all_at_once(served.base, long, look) + all_at_once(served.base, short)
    answers += one_by_one(served.base, short) + all_at_once(served.base, again)

    wait_released(served)
    text = served.get("/metrics")
    hits, preempted = (total(text, f"ribbon_{name}_total") for name in ("prefix_hit_tokens", "preemptions"))
    name = model.name
    show(
        f"{name}: {max(owned):.0f} of {pool} pages owned, {hits:.0f} prompt tokens shared, {preempted:.0f} preemptions"
    )
    assert len(owned) == LONG_TOKENS // 200
    assert max(owned) <= most
    assert hits >= SHARED_TOKENS
    runs = [as_run(ask, answer, prompts, eos_ids(model), name) for ask, answer in zip(asks, answers, strict=True)]
    Reference(model).judge(runs).check(name)
