"""Requests of exact length, sent in a closed loop and checked, and the figures of their answers. Knows texts and answers; not processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np
from model_tokenizer import Prompts
from tqdm import tqdm

from load.client import Answer, OnToken, completions_stream, generate_stream
from load.closed_loop import closed_loop


@dataclass(frozen=True)
class Workload:
    """What is sent. Lengths in tokens; `shared_prefix` tokens of every prompt are the same; `distinct` false sends one prompt."""

    prompt_tokens: int
    output_tokens: int
    concurrency: int
    requests: int
    shared_prefix: int = 0
    distinct: bool = True
    route: str = "generate_stream"  # or "completions"


@dataclass(frozen=True)
class Item:
    """One greedy request of exact length; `prompt_tokens` is what its text must count for the server."""

    text: str
    prompt_tokens: int
    output_tokens: int
    route: str = "generate_stream"


class WrongAnswerError(RuntimeError):
    """An answer is not what was asked for: its figures would mean nothing."""


def make_prompts(prompts: Prompts, workload: Workload) -> list[str]:
    """One text a request, each of exactly `prompt_tokens` tokens."""
    prefix = prompts.text(workload.shared_prefix) if workload.shared_prefix else ""
    if not workload.distinct:
        return [prompts.text(workload.prompt_tokens, prefix)] * workload.requests
    return [prompts.text(workload.prompt_tokens, prefix) for _ in range(workload.requests)]


async def run(base: str, workload: Workload, texts: list[str]) -> tuple[list[Answer], float]:
    """Sends everything; answers in the order they ended, and the wall seconds of it all. Raises WrongAnswerError."""
    items = [Item(text, workload.prompt_tokens, workload.output_tokens, workload.route) for text in texts]
    return await run_items(base, items, workload.concurrency)


async def run_items(
    base: str, items: Sequence[Item], clients: int, watcher: Callable[[Item], OnToken] | None = None
) -> tuple[list[Answer], float]:
    """Sends every item; answers in the order they ended, and the wall seconds of it all. Raises WrongAnswerError.

    `watcher` gives a request's callback for its tokens.
    """
    answers: list[Answer] = []
    with tqdm(total=len(items), desc=f"{clients} at a time", unit="request", leave=False, mininterval=1.0) as bar:

        async def serve(client: aiohttp.ClientSession, item: Item) -> None:
            answer = await send(client, base, item, watcher(item) if watcher else None)
            check(answer, item)
            answers.append(answer)
            bar.update()

        wall = await closed_loop(clients, items, serve)
    return answers, wall


async def send(client: aiohttp.ClientSession, base: str, item: Item, on_token: OnToken | None = None) -> Answer:
    """One greedy request of exact output length."""
    if item.route == "completions":
        body = {
            "model": "tgi",
            "prompt": item.text,
            "max_tokens": item.output_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
        }
        return await completions_stream(client, base, body, on_token)
    parameters = {"max_new_tokens": item.output_tokens, "ignore_eos": True, "details": True}
    return await generate_stream(client, base, {"inputs": item.text, "parameters": parameters}, on_token)


def check(answer: Answer, item: Item) -> None:
    """Raises WrongAnswerError unless lengths are exactly those asked for."""
    if answer.error is not None or answer.status != 200:
        raise WrongAnswerError(f"status {answer.status}: {answer.error}")
    found = (answer.input_length, answer.num_generated, answer.finish_reason)
    wanted = (item.prompt_tokens, item.output_tokens, "length")
    if found != wanted:
        raise WrongAnswerError(f"prompt tokens, output tokens, finish reason are {found}, wanted {wanted}")
    if item.route == "generate_stream" and answer.indices != list(range(1, item.output_tokens + 1)):
        raise WrongAnswerError(f"token indices have a gap or a repeat: {answer.indices}")


def figures(answers: list[Answer], wall_seconds: float) -> dict[str, float]:
    """The measurement, flat: rates per wall second, times in milliseconds."""
    first = [answer.first_token_seconds * 1e3 for answer in answers]
    each = [answer.seconds_per_token * 1e3 for answer in answers]
    return {
        "output_tokens_per_second": sum(answer.num_generated or 0 for answer in answers) / wall_seconds,
        "requests_per_second": len(answers) / wall_seconds,
        "ttft_p50_ms": float(np.percentile(first, 50)),
        "ttft_p99_ms": float(np.percentile(first, 99)),
        "tpot_p50_ms": float(np.percentile(each, 50)),
        "tpot_p99_ms": float(np.percentile(each, 99)),
        "wall_seconds": wall_seconds,
    }
