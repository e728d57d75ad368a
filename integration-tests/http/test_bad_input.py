"""Every row of the table gets its answer, the server lives on, and a stub that is always content fails every row."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from asking import all_at_once, as_run, eos_ids, half_seeded
from bad_input import ROWS, Row
from load.client import exchange
from load.served import Served
from margin import Reference
from model_tokenizer import Prompts

NEIGHBOURS = 8
NEIGHBOUR_TOKENS = 200
GOOD = {"inputs": "hello", "parameters": {"max_new_tokens": 4}}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_request_gets_the_contracts_answer(tiny_server: Served, row: Row) -> None:
    complaint = row.complaint(row.send(tiny_server.base))
    assert complaint is None, complaint


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_row_passes_on_a_server_that_accepts_everything(stub: str, row: Row) -> None:
    assert row.complaint(row.send(stub)) is not None


def test_the_server_serves_after_all_of_them(tiny_server: Served) -> None:
    expected = exchange(tiny_server.base, "POST", "/generate", GOOD).json()
    for row in ROWS:
        row.send(tiny_server.base)
    assert exchange(tiny_server.base, "POST", "/generate", GOOD).json() == expected
    assert tiny_server.status("/health") == 200


def test_bad_requests_do_not_touch_their_neighbours(tiny_server: Served, tiny_model: Path) -> None:
    prompts, streams_ended = Prompts(tiny_model, seed=6), threading.Event()
    asks, rounds = half_seeded(prompts, 3, NEIGHBOURS, NEIGHBOUR_TOKENS), []

    def disturb() -> None:
        while not streams_ended.is_set():
            for row in ROWS:
                row.send(tiny_server.base)
            rounds.append(len(ROWS))

    sender = threading.Thread(target=disturb)
    sender.start()
    try:
        answers = all_at_once(tiny_server.base, asks)
    finally:
        streams_ended.set()
        sender.join()
    assert rounds, "the bad requests did not all get an answer"
    runs = [
        as_run(ask, answer, prompts, eos_ids(tiny_model), f"neighbour {number}")
        for number, (ask, answer) in enumerate(zip(asks, answers, strict=True))
    ]
    Reference(tiny_model).judge(runs).check("beside bad requests")
