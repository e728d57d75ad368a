"""What a step does to sequences: ends, failures, cancellations, refusals, and memory operations."""

import numpy as np
import pytest
import torch
from tiny import Driver, TinyModel, make_engine

from ribbon_server.config import InjectedFaults
from ribbon_server.engine.step import RefusedAdmission, RowStatus, Wanted
from ribbon_server.errors import KvMemoryLost
from ribbon_server.kv.ribbons import OpKind

PROMPT = [5, 9, 77, 31, 8, 44, 101, 12]
OTHER = [60, 61, 62]


@pytest.fixture
def driver(tiny_untied: TinyModel) -> Driver:
    return Driver(make_engine(tiny_untied.folder))


def statuses(outcome) -> list[RowStatus]:
    return [RowStatus(value) for value in outcome.status]


def snapshot(driver: Driver, slot: int) -> tuple:
    """Everything that must not change when a step fails."""
    sequences = driver.engine.sequences
    known = int(sequences.state.known[slot])
    return (
        int(sequences.length[slot]),
        known,
        sequences.state.history[slot, :known].tolist(),
        bool(sequences.is_ended[slot]),
    )


class BrokenDecoder:
    """Fails or spoils the forward passes of chosen steps."""

    def __init__(self, driver: Driver, spoil) -> None:
        self._forward = driver.engine.decoder.forward
        self._spoil = spoil
        driver.engine.decoder.forward = self

    def __call__(self, *arguments):
        return self._spoil(self._forward(*arguments))


def fail_once(driver: Driver) -> None:
    """The next forward pass raises after its work is done."""

    def spoil(_logits):
        driver.engine.decoder.forward = broken._forward
        raise RuntimeError("the device is on fire")

    broken = BrokenDecoder(driver, spoil)


def test_greedy_tokens_are_those_of_transformers(driver: Driver, tiny_untied: TinyModel) -> None:
    made = driver.generate(1, PROMPT, 12)
    for index, token in enumerate(made):
        row = tiny_untied.logits(PROMPT + made[:index])[-1]
        assert float(row[token]) >= float(row.max()) - 1e-3


def test_the_logprob_is_that_of_the_reference(driver: Driver, tiny_untied: TinyModel) -> None:
    driver.seat(1, PROMPT, top_tokens=3)
    outcome = driver.step({1: len(PROMPT)})
    expected = torch.log_softmax(tiny_untied.logits(PROMPT)[-1], -1)
    assert outcome.logprob[0] == pytest.approx(float(expected[int(outcome.token_id[0])]), abs=1e-3)
    assert outcome.top_count.tolist() == [3]
    assert outcome.top_token_id.tolist() == expected.topk(3).indices.tolist()
    assert outcome.top_logprob == pytest.approx(expected.topk(3).values.numpy(), abs=1e-3)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_give_the_tokens_of_a_whole_prompt(driver: Driver, chunk: int) -> None:
    params = {"greedy": 0, "seed": 17, "temperature": 0.8}
    assert driver.generate(1, PROMPT, 10, chunk=chunk, **params) == driver.generate(2, PROMPT, 10, **params)


def test_a_chunk_is_fed_and_says_nothing(driver: Driver) -> None:
    driver.seat(1, PROMPT)
    outcome = driver.step({1: 5})
    assert statuses(outcome) == [RowStatus.FED]
    assert outcome.token_id.tolist() == [0]
    assert int(driver.engine.sequences.length[1]) == 5


def test_a_batch_gives_each_sequence_the_tokens_it_gets_alone(driver: Driver) -> None:
    prompts = {slot: PROMPT[: slot + 1] for slot in range(1, 7)}
    params = {slot: {"greedy": slot % 2, "seed": slot, "top_p": 0.9} for slot in prompts}
    alone = {slot: driver.generate(slot, prompt, 8, **params[slot]) for slot, prompt in prompts.items()}
    for slot, prompt in prompts.items():
        driver.seat(slot, prompt, **params[slot])
    together = [driver.step({slot: len(prompt) for slot, prompt in prompts.items()})]
    together += [driver.step(dict.fromkeys(prompts, 1)) for _ in range(7)]
    assert {slot: [int(step.token_id[row]) for step in together] for row, slot in enumerate(prompts)} == alone


def test_a_resumed_sequence_continues_as_if_nothing_had_happened(driver: Driver) -> None:
    params = {"greedy": 0, "seed": 3, "repetition_penalty": 1.3, "presence_penalty": 0.7, "prompt": len(PROMPT)}
    whole = driver.generate(1, PROMPT, 12, **params)
    resumed = driver.generate(2, PROMPT + whole[:5], 7, **params)
    assert whole[5:] == resumed


def test_a_stop_token_ends_the_sequence_in_the_shard(driver: Driver) -> None:
    first, second = driver.generate(1, PROMPT, 2)
    driver.seat(1, PROMPT, stops=[second, 5])
    assert statuses(driver.step({1: len(PROMPT)})) == [
        RowStatus.SAMPLED if first not in (second, 5) else RowStatus.STOPPED
    ]
    outcome = driver.step({1: 1})
    assert statuses(outcome) == [RowStatus.STOPPED]
    assert outcome.token_id.tolist() == [second]
    before = snapshot(driver, 1)
    assert statuses(driver.step({1: 1})) == [RowStatus.ENDED]
    assert snapshot(driver, 1) == before


def test_min_tokens_keeps_stop_tokens_away(driver: Driver) -> None:
    first = driver.generate(1, PROMPT, 1)[0]
    driver.seat(1, PROMPT, stops=[first], min_tokens=2)
    made = [driver.step({1: len(PROMPT)}), driver.step({1: 1})]
    assert [statuses(outcome) for outcome in made] == [[RowStatus.SAMPLED]] * 2
    assert first not in [int(outcome.token_id[0]) for outcome in made]


def test_a_failed_step_leaves_state_and_cancels_the_plan_behind_it(driver: Driver) -> None:
    undisturbed = driver.generate(3, PROMPT, 4)
    driver.seat(1, PROMPT)
    driver.seat(2, OTHER)
    made = [int(driver.step({1: len(PROMPT), 2: len(OTHER)}).token_id[0])]
    before = snapshot(driver, 1), snapshot(driver, 2)
    fail_once(driver)
    failed, behind = driver.step({1: 1}), driver.step({1: 1, 2: 1})
    assert "the device is on fire" in failed.failure
    assert statuses(failed) == [RowStatus.FAILED]
    assert statuses(behind) == [RowStatus.CANCELLED, RowStatus.SAMPLED]
    assert behind.failure == ""
    assert (snapshot(driver, 1), snapshot(driver, 2)[0]) == (before[0], before[1][0] + 1)
    made += [int(driver.step({1: 1}).token_id[0]) for _ in range(3)]
    assert made == undisturbed


def test_a_readmitted_sequence_is_not_cancelled(driver: Driver) -> None:
    driver.seat(1, PROMPT)
    fail_once(driver)
    assert driver.step({1: len(PROMPT)}).failure
    seat = driver.open(1, PROMPT)
    seat["ops"] = [(OpKind.CLOSE, 1, 0, 0), *seat["ops"]]
    assert statuses(driver.step({1: len(PROMPT)}, **seat)) == [RowStatus.SAMPLED]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_without_finite_logits_fails_alone(driver: Driver, value: float) -> None:
    alone = driver.generate(3, OTHER, 1)

    def spoil(logits):
        logits[0, 7] = value
        return logits

    driver.seat(1, PROMPT)
    driver.seat(2, OTHER)
    before = snapshot(driver, 1)
    BrokenDecoder(driver, spoil)
    outcome = driver.step({1: len(PROMPT), 2: len(OTHER)})
    assert statuses(outcome) == [RowStatus.FAILED, RowStatus.SAMPLED]
    assert outcome.failure == ""
    assert [row for row, _ in outcome.errors] == [0]
    assert "not finite" in outcome.errors[0][1]
    assert outcome.token_id.tolist() == [0, alone[0]]
    assert snapshot(driver, 1) == before


BAD_ROWS = {
    "slot 0": ({0: 1}, {}, "slot is 0; this shard has slots 1 to"),
    "slot out of range": ({999: 1}, {"wanted": [Wanted.SAMPLE, Wanted.SAMPLE]}, "slot is 999"),
    "no sequence": ({3: 1}, {}, "slot 3 has no sequence"),
    "no tokens": ({1: 0}, {}, "count 0"),
    "more than known": ({1: 9}, {}, "has fed 0 of 8 known tokens; count 9"),
    "samples too early": ({1: 3}, {"wanted": [Wanted.SAMPLE, Wanted.SAMPLE]}, "has fed 0 of 8"),
    "never samples": ({1: 8}, {"wanted": [Wanted.NONE, Wanted.SAMPLE]}, "has fed 0 of 8"),
    "unknown wish": ({1: 3}, {"wanted": [9, Wanted.SAMPLE]}, "wanted 9"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_cannot_be_fails_alone(driver: Driver, name: str) -> None:
    work, parts, message = BAD_ROWS[name]
    driver.seat(1, PROMPT)
    driver.seat(2, OTHER)
    outcome = driver.step({**work, 2: len(OTHER)}, **parts)
    assert statuses(outcome) == [RowStatus.FAILED, RowStatus.SAMPLED]
    assert outcome.failure == ""
    assert message in outcome.errors[0][1]


def test_a_slot_that_stands_twice_fails_in_both_rows(driver: Driver) -> None:
    driver.seat(1, PROMPT)
    plan = driver.plan({1: 8})
    twice = type(plan)(
        plan.step_id, (), plan.ops, np.array([1, 1], np.uint32), np.array([8, 8], np.uint32), np.array([1, 1], np.uint8)
    )
    outcome = driver.engine.step(twice)
    assert statuses(outcome) == [RowStatus.FAILED] * 2
    assert "stands in 2 rows" in outcome.errors[0][1]


def test_a_row_never_writes_where_nothing_is_mapped(driver: Driver) -> None:
    driver.seat(1, PROMPT, room=-3)
    outcome = driver.step({1: len(PROMPT)})
    assert statuses(outcome) == [RowStatus.FAILED]
    assert "slot 1 may hold 5 tokens" in outcome.errors[0][1]


BAD_ADMISSIONS = {
    "empty": ({"tokens": []}, "history has 0 tokens"),
    "too long": ({"tokens": [5] * 300}, "history has 300 tokens; a slot takes 1 to 256"),
    "outside the vocabulary": ({"tokens": [5, 160]}, "token id 160 is outside the vocabulary of 160"),
    "prompt longer than history": ({"tokens": [5], "prompt": 2}, "prompt_tokens is 2"),
    "bias outside the vocabulary": ({"tokens": [5], "bias": {4000: 1.0}}, "bias token id 4000"),
}


@pytest.mark.parametrize("name", BAD_ADMISSIONS)
def test_an_admission_that_cannot_be_fails_alone(driver: Driver, name: str) -> None:
    arguments, message = BAD_ADMISSIONS[name]
    driver.seat(2, OTHER)
    seat = driver.open(1, arguments.pop("tokens"), room=1, **arguments)
    seat["ops"] = []
    outcome = driver.step({1: 1, 2: len(OTHER)}, **seat)
    assert statuses(outcome) == [RowStatus.FAILED, RowStatus.SAMPLED]
    assert message in outcome.errors[0][1]


def test_an_unreadable_admission_fails_with_its_reason(driver: Driver) -> None:
    outcome = driver.step({1: 1}, admitted=[RefusedAdmission(1, "`top_p` is 7.0")], wanted=[Wanted.SAMPLE])
    assert outcome.errors == [(0, "`top_p` is 7.0")]


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ((77, 5, 0, 3), "operation 0 (unknown kind): 77 is no kind"),
        ((OpKind.GROW, 500, 0, 3), "operation 0 (grow): slot 500: slots to be used are 1 to"),
        ((OpKind.CLOSE, 500, 0, 0), "slot 500"),
        ((OpKind.GROW, 5, 0, 3), "slot 5 is not open"),
        ((OpKind.GROW, 5, 0, 100_000), "100000"),
        ((OpKind.DROP, 0, 7, 0), "storage 7 is free"),
    ],
)
def test_an_operation_that_cannot_be_fails_the_step_by_name(driver: Driver, op, message: str) -> None:
    driver.seat(1, PROMPT)
    before = snapshot(driver, 1)
    outcome = driver.step({1: len(PROMPT)}, ops=[op])
    assert statuses(outcome) == [RowStatus.FAILED]
    assert message in outcome.failure
    assert snapshot(driver, 1) == before
    driver.step()
    assert statuses(driver.step({1: len(PROMPT)})) == [RowStatus.SAMPLED]


def test_a_slot_that_lost_an_operation_is_dead_until_it_is_closed(driver: Driver) -> None:
    """What the router does: it closes every slot of a failed step, and may have sent one more plan before it knows."""
    expected = driver.generate(3, PROMPT, 2)
    driver.seat(2, OTHER)
    driver.engine.ribbons.resize_pool(0)
    seat = driver.open(1, PROMPT)
    failed = driver.step({1: len(PROMPT), 2: len(OTHER)}, **seat)
    driver.engine.ribbons.resize_pool(1000)
    behind = driver.step({1: len(PROMPT)}, ops=[(OpKind.GROW, 1, 0, 40)], wanted=[Wanted.SAMPLE])
    assert (statuses(failed), failed.is_out_of_pages) == ([RowStatus.FAILED] * 2, True)
    assert (statuses(behind), behind.failure, behind.is_out_of_pages) == ([RowStatus.CANCELLED], "", False)
    forgotten = driver.step({1: len(PROMPT)}, wanted=[Wanted.SAMPLE])
    assert "was refused a ribbon operation" in forgotten.errors[0][1]
    driver.close(1, 2)
    assert driver.engine.ribbons.pages_used == 0
    assert driver.generate(1, PROMPT, 2) == expected


def test_closing_what_a_failed_plan_would_have_opened_is_harmless(driver: Driver) -> None:
    outcome = driver.step({}, ops=[(OpKind.OPEN, 1, 0, 0), (OpKind.GROW, 1, 0, 5)])
    assert "operation 0 (open): storage 0" in outcome.failure
    driver.close(1)
    driver.close(1)
    assert driver.generate(1, PROMPT, 1)


def test_a_memory_call_that_fails_ends_the_stream_not_the_step(driver: Driver, monkeypatch) -> None:
    def refuse(_ops) -> None:
        raise KvMemoryLost("ribbon operation 0 (grow): populating pages")

    driver.seat(1, PROMPT)
    monkeypatch.setattr(driver.engine.ribbons, "apply", refuse)
    with pytest.raises(KvMemoryLost):
        driver.step({1: len(PROMPT)}, ops=[(OpKind.GROW, 1, 0, 90)])


def test_allocations_fail_when_a_test_asks_for_it(tiny_untied: TinyModel) -> None:
    faults = InjectedFaults(allocation_failure_rate=0.5, allocation_failure_seed=3)
    driver = Driver(make_engine(tiny_untied.folder, faults=faults))
    failures = []
    for _ in range(40):
        failures.append(driver.step({1: len(PROMPT)}, **driver.open(1, PROMPT)).failure)
        assert driver.step({}, ops=[(OpKind.CLOSE, 1, 0, 0)]).failure == ""
        assert driver.engine.ribbons.pages_used == 0
    assert {failure.split(":")[0] for failure in failures} == {"", "OutOfPages"}
    assert 8 <= sum(bool(failure) for failure in failures) <= 32


def test_closing_every_slot_gives_every_page_back(driver: Driver) -> None:
    region = driver.engine.ribbons
    slots = range(1, driver.engine.ribbons.limits.num_slots)
    for slot in slots:
        driver.seat(slot, PROMPT, room=248)
        driver.step({slot: len(PROMPT)})
    assert region.pages_used > len(slots)
    driver.close(*slots)
    assert region.pages_used == 0
    assert region.resident_bytes == 0


def test_an_exhausted_pool_fails_the_step_and_spares_the_others(tiny_untied: TinyModel) -> None:
    driver = Driver(make_engine(tiny_untied.folder, kv_bytes=64 * 4096))
    driver.seat(1, PROMPT, room=200)
    outcome = driver.step({2: 3}, **driver.open(2, OTHER, room=200))
    assert statuses(outcome) == [RowStatus.FAILED]
    assert "OutOfPages" in outcome.failure
    assert statuses(driver.step({1: len(PROMPT)})) == [RowStatus.SAMPLED]


def test_a_cached_storage_is_shown_without_feeding_it_again(driver: Driver) -> None:
    expected = driver.generate(4, PROMPT, 3)
    driver.seat(1, PROMPT)
    driver.step({1: len(PROMPT)})
    assert not driver.step({}, ops=[(OpKind.CLOSE, 1, 0, 1)]).failure  # keeps the storage
    admitted = driver.open(2, PROMPT)["admitted"]
    shown = [(OpKind.OPEN, 2, 1, 6), (OpKind.GROW, 2, 0, 64)]
    made = [driver.step({2: 2}, admitted=admitted, ops=shown, wanted=[Wanted.SAMPLE])] + [
        driver.step({2: 1}) for _ in range(2)
    ]
    assert [outcome.failure or outcome.errors for outcome in made] == [[], [], []]
    assert [int(outcome.token_id[0]) for outcome in made] == expected


def test_reset_gives_every_page_back(driver: Driver) -> None:
    driver.seat(1, PROMPT)
    driver.step({1: len(PROMPT)})
    driver.engine.reset()
    assert driver.engine.ribbons.pages_used == 0
    assert "no sequence" in driver.step({1: 1}, wanted=[Wanted.SAMPLE]).errors[0][1]
