"""A prefix that is shared gives the tokens of one that is computed, wherever it ends."""

import numpy as np
import pytest
from tiny import Driver, TinyModel, make_engine, save_tiny

from ribbon_server.kv.ribbons import OpKind

PROMPT = np.random.default_rng(8).integers(3, 160, 120).tolist()
SAMPLINGS = {
    "greedy": {},
    "seeded": {"greedy": 0, "seed": 11, "temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.1},
}


@pytest.fixture
def driver(tiny_untied: TinyModel) -> Driver:
    return Driver(make_engine(tiny_untied.folder))


def keep(driver: Driver, slot: int, tokens: list[int], storage: int) -> None:
    """Computes `tokens` into a storage and keeps it."""
    ops = [(OpKind.OPEN, slot, storage, 0), (OpKind.GROW, slot, 0, len(tokens))]
    outcome = driver.step({slot: len(tokens)}, admitted=driver.open(slot, tokens)["admitted"], ops=ops)
    assert (outcome.failure, outcome.errors) == ("", [])
    outcome = driver.step({}, ops=[(OpKind.CLOSE, slot, 0, 1), (OpKind.TRUNCATE, 0, storage, len(tokens))])
    assert outcome.failure == ""


def behind(driver: Driver, spans: list[tuple[int, int]], tokens: list[int], count: int, **params) -> list[int]:
    """Slot 2's next `count` tokens behind the shared spans of (storage, end), oldest owner first."""
    seat = driver.open(2, tokens, **params)
    shares = [(OpKind.SHARE, 2, storage, end) for storage, end in spans]
    seat["ops"] = [(OpKind.OPEN, 2, 20, 0), *shares, (OpKind.GROW, 2, 0, len(tokens) + count)]
    made: list[int] = []
    outcome = driver.step({2: len(tokens) - spans[-1][1]}, wanted=[1], **seat)
    while True:
        assert (outcome.failure, outcome.errors) == ("", [])
        made.append(int(outcome.token_id[0]))
        if len(made) == count:
            break
        outcome = driver.step({2: 1})
    driver.close(2)
    return made


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("end", [1, 10, 11, 32, 63, 64, 99, 119])
def test_a_hit_gives_the_tokens_of_no_hit(driver: Driver, end: int, sampling: str) -> None:
    params = SAMPLINGS[sampling]
    expected = driver.generate(1, PROMPT, 8, **params)
    keep(driver, 3, [*PROMPT[:110], 7, 8, 9] if end < 110 else PROMPT, storage=9)
    assert int(driver.engine.ribbons.pages_used) > 0
    assert behind(driver, [(9, end)], PROMPT, 8, **params) == expected
    driver.step({}, ops=[(OpKind.DROP, 0, 9, 0)])
    assert driver.engine.ribbons.resident_bytes == 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_chain_of_owners_gives_the_tokens_of_no_hit(driver: Driver, sampling: str) -> None:
    params = SAMPLINGS[sampling]
    expected = driver.generate(1, PROMPT, 8, **params)
    keep(driver, 3, PROMPT[:31], storage=9)
    for storage, spans, end in ((10, [(9, 31)], 50), (11, [(9, 31), (10, 50)], 97)):
        seat = driver.open(4, PROMPT[:end])
        shares = [(OpKind.SHARE, 4, owner, last) for owner, last in spans]
        seat["ops"] = [(OpKind.OPEN, 4, storage, 0), *shares, (OpKind.GROW, 4, 0, end)]
        outcome = driver.step({4: end - spans[-1][1]}, wanted=[1], **seat)
        assert (outcome.failure, outcome.errors) == ("", [])
        assert driver.step({}, ops=[(OpKind.CLOSE, 4, 0, 1)]).failure == ""
    assert behind(driver, [(9, 31), (10, 50), (11, 97)], PROMPT, 8, **params) == expected
    # The last owner goes on where it was cut, behind its own prefix.
    seat = driver.open(5, PROMPT, **params)
    seat["ops"] = [
        (OpKind.OPEN, 5, 11, 90),
        (OpKind.SHARE, 5, 9, 31),
        (OpKind.SHARE, 5, 10, 50),
        (OpKind.GROW, 5, 0, 128),
    ]
    first = driver.step({5: len(PROMPT) - 90}, wanted=[1], **seat)
    assert (first.failure, first.errors) == ("", [])
    made = [int(first.token_id[0])] + [int(driver.step({5: 1}).token_id[0]) for _ in range(7)]
    assert made == expected


def test_a_running_prefill_is_shared_while_it_goes_on(driver: Driver) -> None:
    expected = driver.generate(1, PROMPT, 6)
    driver.seat(1, PROMPT)
    driver.step({1: 70})
    assert behind(driver, [(1, 70)], PROMPT, 6) == expected
    outcome = driver.step({1: len(PROMPT) - 70})
    made = [int(outcome.token_id[0])] + [int(driver.step({1: 1}).token_id[0]) for _ in range(5)]
    assert made == expected


def test_a_windowed_group_serves_a_hit_from_a_storage_without_its_front(tmp_path) -> None:
    """The window's last tokens before the hit are all it needs."""
    driver = Driver(make_engine(save_tiny(tmp_path, "MinistralForCausalLM").folder))
    windows = [group.layout.window for group in driver.engine.ribbons.groups]
    assert windows == [24, None]
    expected = driver.generate(1, PROMPT, 8)
    driver.seat(3, PROMPT[:110])
    driver.step({3: 110})
    assert not driver.step({}, ops=[(OpKind.TRIM_FRONT, 3, 0, 70, 0), (OpKind.CLOSE, 3, 0, 1)]).failure
    seat = driver.open(2, PROMPT)
    seat["ops"] = [
        (OpKind.OPEN, 2, 5, 0),
        (OpKind.TRIM_FRONT, 2, 0, 72, 0),
        (OpKind.SHARE, 2, 3, 100),
        (OpKind.GROW, 2, 0, 128),
    ]
    outcome = driver.step({2: 20}, wanted=[1], **seat)
    assert (outcome.failure, outcome.errors) == ("", [])
    made = [int(outcome.token_id[0])] + [int(driver.step({2: 1}).token_id[0]) for _ in range(7)]
    assert made == expected
