"""Every row of the table gets its answer, the server lives on, and a stub that is always content fails every row."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from asking import Ask, all_at_once
from load.client import exchange
from load.served import Served

sys.path.append(str(Path(__file__).parent))

from bad_input import ROWS, Row

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


def test_a_bad_request_does_not_touch_its_neighbours(tiny_server: Served) -> None:
    asks = [Ask("hello there", 200, stops_at_eos=False)] * 8
    alone = [answer.token_ids for answer in all_at_once(tiny_server.base, asks[:1])]
    sender = threading.Thread(target=lambda: [row.send(tiny_server.base) for row in ROWS])
    sender.start()
    answers = all_at_once(tiny_server.base, asks)
    sender.join()
    assert all(answer.error is None and len(answer.token_ids) == 200 for answer in answers)
    assert answers[0].token_ids[:20] == alone[0][:20]
