"""The closed loop: so many clients, each sending its next request when its last one ended. Knows texts and answers; not processes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import numpy as np
from model_tokenizer import Prompts

from load.client import Answer, completions_stream, generate_stream, session


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
    waiting = list(reversed(texts))
    answers: list[Answer] = []
    async with session() as client:

        async def worker() -> None:
            while waiting:
                answer = await send(client, base, workload, waiting.pop())
                check(answer, workload)
                answers.append(answer)

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(workload.concurrency):
                group.create_task(worker())
        return answers, time.perf_counter() - begin


async def send(client: aiohttp.ClientSession, base: str, workload: Workload, text: str) -> Answer:
    """One greedy request of exact output length."""
    if workload.route == "completions":
        body = {
            "model": "tgi",
            "prompt": text,
            "max_tokens": workload.output_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
        }
        return await completions_stream(client, base, body)
    parameters = {"max_new_tokens": workload.output_tokens, "ignore_eos": True, "details": True}
    return await generate_stream(client, base, {"inputs": text, "parameters": parameters})


def check(answer: Answer, workload: Workload) -> None:
    """Raises WrongAnswerError unless lengths are exactly those asked for."""
    if answer.error is not None or answer.status != 200:
        raise WrongAnswerError(f"status {answer.status}: {answer.error}")
    found = (answer.input_length, answer.num_generated, answer.finish_reason)
    wanted = (workload.prompt_tokens, workload.output_tokens, "length")
    if found != wanted:
        raise WrongAnswerError(f"prompt tokens, output tokens, finish reason are {found}, wanted {wanted}")
    if workload.route == "generate_stream" and answer.indices != list(range(1, workload.output_tokens + 1)):
        raise WrongAnswerError(f"token indices have a gap or a repeat: {answer.indices}")


def figures(answers: list[Answer], wall_seconds: float, workload: Workload) -> dict[str, float]:
    """The measurement, flat: rates per wall second, times in milliseconds."""
    first = [answer.first_token_seconds * 1e3 for answer in answers]
    each = [answer.seconds_per_token * 1e3 for answer in answers]
    return {
        "output_tokens_per_second": len(answers) * workload.output_tokens / wall_seconds,
        "requests_per_second": len(answers) / wall_seconds,
        "ttft_p50_ms": float(np.percentile(first, 50)),
        "ttft_p99_ms": float(np.percentile(first, 99)),
        "tpot_p50_ms": float(np.percentile(each, 50)),
        "tpot_p99_ms": float(np.percentile(each, 99)),
        "wall_seconds": wall_seconds,
    }
