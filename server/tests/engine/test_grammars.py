"""Constrained sequences in the engine: what they sample follows their grammar, alone, beside others, replayed, and after failed steps."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from parity.rank_threads import on_ranks
from tiny import EOS, Driver, TinyModel, make_engine, regex, save_tiny, write_byte_tokenizer

from ribbon_server.distributed.base import World
from ribbon_server.engine.step import RowStatus
from ribbon_server.sampling.grammars import Grammar

VOCAB = 300
THINK = 290
PROMPT = [65, 66, 67]
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "on": {"type": "boolean"}},
    "required": ["x", "on"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


def byte_token(byte: int) -> int:
    """Bytes lie behind the special tokens."""
    return byte + 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Its tokens are the bytes."""
    folder = tmp_path_factory.mktemp("bytes")
    write_byte_tokenizer(folder, byte_token(0), byte_token(255))
    return save_tiny(folder, vocab_size=VOCAB)


@pytest.fixture
def driver(model: TinyModel) -> Driver:
    return Driver(make_engine(model.folder, concurrent=16))


def point() -> Grammar:
    source = json.dumps(POINT)
    return Grammar("json_schema", source, hashlib.sha256(source.encode()).digest())


def text_of(tokens: list[int]) -> str:
    return bytes(token - 10 for token in tokens if token != EOS).decode()


def run(driver: Driver, slot: int, tokens: list[int], *, limit: int = 60, chunk: int = 100, **params) -> list[int]:
    """Generates until the end token, the prompt fed in chunks."""
    driver.seat(slot, tokens, room=limit + 1, stops=[EOS], **params)
    made: list[int] = []
    while len(made) < limit and EOS not in made:
        left = int(driver.engine.sequences.state.known[slot] - driver.engine.sequences.length[slot])
        outcome = driver.step({slot: min(chunk, left)})
        assert outcome.failure == "", outcome.failure
        assert not outcome.errors, outcome.errors
        if outcome.status[0] in (RowStatus.SAMPLED, RowStatus.STOPPED):
            made.append(int(outcome.token_id[0]))
    driver.close(slot)
    return made


SAMPLED = {"greedy": 0, "temperature": 1.5}


@pytest.mark.parametrize("seed", range(5))
def test_a_sampled_text_follows_its_schema(driver: Driver, seed: int) -> None:
    made = run(driver, 1, PROMPT, grammar=point(), seed=seed, **SAMPLED)
    assert made[-1] == EOS
    value = json.loads(text_of(made))
    assert list(value) == ["x", "on"]
    assert 0 <= value["x"] <= 99


@pytest.mark.parametrize("num_stages", [1, 2])
def test_the_rank_that_samples_alone_asks_the_grammar(model: TinyModel, num_stages: int) -> None:
    def made(world: World) -> tuple[list[int], int]:
        driver, calls = Driver(make_engine(model.folder, concurrent=16, world=world)), []
        state = driver.engine.sequences.state
        begin = state.begin_masks
        state.begin_masks = lambda slots: calls.append(begin(slots))
        return run(driver, 1, PROMPT, grammar=regex("[ab]{3}c"), seed=4, **SAMPLED), len(calls)

    (first, asked), (second, asked_there) = on_ranks(2, made, num_stages)
    assert re.fullmatch("[ab]{3}c", text_of(first))
    assert second == first
    assert asked == len(first)
    assert asked_there == 0


def test_filters_penalties_bias_and_min_tokens_do_not_break_it(driver: Driver) -> None:
    loud = {byte_token(ord("z")): 90.0, EOS: -90.0}
    params = {"top_k": 3, "top_p": 0.5, "repetition_penalty": 2.0, "presence_penalty": 2.0, "top_tokens": 4}
    for min_tokens in (0, 50):
        made = run(
            driver, 1, PROMPT, grammar=regex("[ab]{3}c"), bias=loud, min_tokens=min_tokens, seed=4, **SAMPLED, **params
        )
        assert re.fullmatch("[ab]{3}c", text_of(made))
        assert made[-1] == EOS


def test_min_tokens_holds_while_the_grammar_allows_more(driver: Driver) -> None:
    made = run(driver, 1, PROMPT, grammar=regex("a*"), min_tokens=9, bias={EOS: 50.0})
    assert text_of(made) == "a" * 9


def test_chunks_replays_and_neighbours_change_nothing(driver: Driver) -> None:
    whole = run(driver, 1, PROMPT * 4, grammar=point(), seed=1, **SAMPLED)
    assert run(driver, 1, PROMPT * 4, grammar=point(), seed=1, chunk=5, **SAMPLED) == whole
    for cut in (1, 4, len(whole) - 1):
        history = PROMPT * 4 + whole[:cut]
        rest = run(driver, 2, history, prompt=len(PROMPT * 4), grammar=point(), seed=1, **SAMPLED)
        assert whole[:cut] + rest == whole
    for slot in range(2, 8):
        driver.seat(slot, PROMPT, room=64, grammar=regex("[x-z]{80}") if slot % 2 else None, stops=[EOS])
    driver.step(dict.fromkeys(range(2, 8), len(PROMPT)))
    driver.seat(1, PROMPT * 4, room=64, grammar=point(), seed=1, stops=[EOS], **SAMPLED)
    made: list[int] = []
    while EOS not in made:
        count = 1 if made else len(PROMPT * 4)
        outcome = driver.step({1: count, **dict.fromkeys(range(2, 8), 1)})
        made.append(int(outcome.token_id[0]))
        constrained = [
            int(token) for slot, token in zip(outcome.slot, outcome.token_id, strict=True) if slot in (3, 5, 7)
        ]
        assert set(text_of(constrained)) <= set("xyz")
    assert made == whole


def fail(*_inputs: object) -> None:
    raise RuntimeError("on purpose")


def test_a_failed_step_leaves_the_grammar_where_it_was(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(driver, 1, PROMPT, grammar=point(), seed=2, **SAMPLED)
    driver.seat(1, PROMPT, room=64, grammar=point(), seed=2, stops=[EOS], **SAMPLED)
    made = [int(driver.step({1: len(PROMPT)}).token_id[0])]
    with monkeypatch.context() as broken:
        broken.setattr(driver.engine.decoder, "forward", fail)
        assert driver.step({1: 1}).failure
    assert driver.step({1: 1}).status.tolist() == [RowStatus.CANCELLED]
    while EOS not in made:
        made.append(int(driver.step({1: 1}).token_id[0]))
    assert made == whole


def test_a_grammar_may_start_behind_a_token(driver: Driver) -> None:
    later = replace(regex("ok"), start_after=THINK)
    made = run(driver, 1, PROMPT, grammar=later, bias={THINK: 40.0, EOS: 90.0})
    begin = made.index(THINK) + 1
    assert text_of(made[begin:]) == "ok"


def test_a_grammar_that_cannot_be_compiled_fails_its_row_alone(driver: Driver) -> None:
    driver.seat(1, PROMPT, grammar=regex("a("))
    driver.seat(2, PROMPT)
    driver.seat(3, [*PROMPT, byte_token(ord("x"))], prompt=len(PROMPT), grammar=regex("a"))
    outcome = driver.step({1: 3, 2: 3, 3: 4})
    assert outcome.failure == ""
    assert outcome.status.tolist() == [RowStatus.FAILED, RowStatus.SAMPLED, RowStatus.FAILED]
    messages = dict(outcome.errors)
    assert "unclosed" in messages[0]
    assert "do not follow" in messages[2]
    driver.close(1, 2, 3)
    assert text_of(run(driver, 1, PROMPT, grammar=regex("abc"))) == "abc"


def test_a_row_that_no_token_is_left_to_fails_alone(driver: Driver) -> None:
    driver.seat(1, PROMPT, grammar=regex("a"), bias={byte_token(ord("a")): -3e38})
    driver.seat(2, PROMPT)
    decoder = driver.engine.decoder.forward
    driver.engine.decoder.forward = lambda *inputs: decoder(*inputs) - 3e38
    outcome = driver.step({1: 3, 2: 3})
    assert outcome.status.tolist() == [RowStatus.FAILED, RowStatus.SAMPLED]
    assert "no token is allowed" in outcome.errors[0][1]


def test_a_model_without_tokenizer_refuses_grammars_by_name(tiny_untied: TinyModel) -> None:
    driver = Driver(make_engine(tiny_untied.folder))
    driver.seat(1, PROMPT, grammar=regex("a"))
    outcome = driver.step({1: 3})
    assert outcome.status.tolist() == [RowStatus.FAILED]
    assert "tokenizer.json" in outcome.errors[0][1]


def test_a_closed_slot_takes_a_free_sequence(driver: Driver) -> None:
    driver.seat(1, PROMPT, grammar=regex("a"))
    driver.step({1: 3})
    driver.close(1)
    assert not driver.engine.sequences.state.grammars.has.any()
    driver.seat(1, PROMPT, bias={THINK: 90.0})
    assert driver.step({1: 3}).token_id.tolist() == [THINK]


def test_masks_are_applied_on_a_device_as_on_the_cpu(driver: Driver) -> None:
    import torch

    from ribbon_server.sampling.grammars import unpacked

    state = driver.engine.sequences.state
    driver.seat(1, PROMPT, grammar=regex("[a-f]"), stops=[EOS])
    slots = np.array([1])
    state.begin_masks(slots)
    logits = torch.zeros(1, VOCAB)
    state.grammars.apply(logits, slots)
    words = np.zeros((1, (VOCAB + 31) // 32), np.uint32)
    state.grammars._native.masks(slots.astype(np.uint32), words)
    allowed = unpacked(torch.from_numpy(words.view(np.int32)), VOCAB)
    assert allowed.sum() == 6
    assert torch.equal(allowed, logits == 0)
