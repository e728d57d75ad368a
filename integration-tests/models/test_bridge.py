"""A model that only transformers has code for, through the whole path: batched, on ribbons, and `/info` says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from asking import Ask, Serve, all_at_once, as_run, eos_ids
from margin import Reference
from model_tokenizer import Prompts

# Llama's tensors, but other rotary positions.
HELIUM = {"architectures": ["HeliumForCausalLM"], "model_type": "helium"}


def test_a_bridged_model_is_served_as_any_other(tiny_model: Path, tmp_path: Path, serve: Serve) -> None:
    model = tmp_path / "helium"
    shutil.copytree(tiny_model, model)
    config = json.loads((tiny_model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **HELIUM}))
    served = serve(model, "--dtype", "float32", "--max-batch-prefill-tokens", "64")
    assert json.loads(served.get("/info"))["model_code"] == "transformers"

    prompts = Prompts(model, seed=9)
    asks = [Ask(prompts.text(10 + 17 * row), 12 + row, stops_at_eos=False) for row in range(8)]
    answers = all_at_once(served.base, asks)
    runs = [as_run(ask, answer, prompts, eos_ids(model), "bridge") for ask, answer in zip(asks, answers, strict=True)]
    Reference(model).judge(runs).check("bridge")
