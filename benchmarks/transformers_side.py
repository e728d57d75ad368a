"""The same work by transformers, in a process of its own: batched `generate`, or its continuous batching.

Reads a JSON job on stdin: {"model", "way": "generate" | "continuous", "threads", "output_tokens", "waves": [[prompt ids, ...], ...]}.
Prints one JSON line: a list of figures, one a wave. Knows token ids; not servers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
from load.usage import pss_bytes
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria
from transformers.generation import ContinuousBatchingConfig

PAGE_TOKENS = 256
PREFILL_TOKENS = 1024  # budget of one step of continuous batching
WARM_TOKENS = 8

Wave = list[list[int]]
Times = list[list[float]]  # arrival of every token of every request, in seconds of the wave


def measured(wave: Wave, output_tokens: int, times: Times, wall_seconds: float) -> dict[str, float]:
    """Figures of one wave, named as the load generator names them."""
    if any(len(own) != output_tokens for own in times):
        raise RuntimeError(f"output lengths are {[len(own) for own in times]}, wanted {output_tokens}")
    first = [own[0] * 1e3 for own in times]
    each = [(own[-1] - own[0]) / max(1, output_tokens - 1) * 1e3 for own in times]
    return {
        "output_tokens_per_second": len(wave) * output_tokens / wall_seconds,
        "ttft_p50_ms": float(np.percentile(first, 50)),
        "ttft_p99_ms": float(np.percentile(first, 99)),
        "tpot_p50_ms": float(np.percentile(each, 50)),
        "tpot_p99_ms": float(np.percentile(each, 99)),
        "wall_seconds": wall_seconds,
        "pss_bytes": pss_bytes(os.getpid()),
    }


class Clock(StoppingCriteria):
    """Never stops anything; notes when each token was there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def by_generate(model: Any, wave: Wave, output_tokens: int) -> tuple[Times, float]:
    """One static batch with an exact output length. Prompts have one length, so nothing is padded."""
    ids, clock = torch.tensor(wave), Clock()
    begin = time.perf_counter()
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=output_tokens,
        max_new_tokens=output_tokens,
        stopping_criteria=[clock],
        pad_token_id=0,
    )
    wall = time.perf_counter() - begin
    generated = out.shape[1] - ids.shape[1]
    return [[moment - begin for moment in clock.times[:generated]] for _ in wave], wall


def by_continuous_batching(model: Any, wave: Wave, output_tokens: int) -> tuple[Times, float]:
    """All requests handed over at once, cache bounded to what they need. The manager is made and warmed before the clock starts."""
    pages = sum(-(-(len(prompt) + output_tokens) // PAGE_TOKENS) + 1 for prompt in wave)
    settings = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=pages,
        max_batch_tokens=PREFILL_TOKENS,
        max_requests_per_batch=len(wave),
        auto_switch_to_flash=False,
    )
    generation = GenerationConfig(do_sample=False, max_new_tokens=output_tokens, eos_token_id=-1, pad_token_id=0)
    with model.continuous_batching_context_manager(
        generation_config=generation, continuous_batching_config=settings
    ) as manager:
        begin = time.perf_counter()
        manager.add_requests(inputs=wave, max_new_tokens=output_tokens, record_timestamps=True)
        results = []
        while len(results) < len(wave):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                results.append(result)
            elif result is None and not manager.is_running():
                raise RuntimeError("continuous batching stopped by itself")
        wall = time.perf_counter() - begin
    if failed := [result.error for result in results if result.error is not None]:
        raise RuntimeError(f"continuous batching failed: {failed[0]}")
    return [[moment - begin for moment in result.timestamps] for result in results], wall


WAYS = {"generate": by_generate, "continuous": by_continuous_batching}


def main() -> None:
    """Runs the job on stdin."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16).eval()
    way, figures = WAYS[job["way"]], []
    with (
        torch.no_grad()
    ):  # continuous batching writes to its tensors from a thread of its own: inference mode refuses that
        way(model, [job["waves"][0][0][:64]], WARM_TOKENS)
        for wave in job["waves"]:
            times, wall = way(model, wave, job["output_tokens"])
            figures.append(measured(wave, job["output_tokens"], times, wall))
            print(f"transformers {job['way']}: {len(wave)} requests in {wall:.1f} s", file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
