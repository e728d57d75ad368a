"""Noise against golden vectors, and sampling against a plain float64 statement of the rules."""

import json
from pathlib import Path

import numpy as np
import pytest

from ribbon_server import _native

GOLDEN = json.loads(Path(__file__).with_name("philox_golden.json").read_text())
DEFAULTS = {
    "greedy": (np.uint8, 0),
    "temperature": (np.float32, 1.0),
    "top_k": (np.uint32, 0),
    "top_p": (np.float32, 1.0),
    "min_p": (np.float32, 0.0),
    "typical_p": (np.float32, 1.0),
    "seed": (np.uint64, 1),
    "position": (np.uint32, 0),
    "choice": (np.uint32, 0),
    "num_top": (np.uint32, 0),
}


def sample(
    logits: np.ndarray, max_top: int = 8, status: np.ndarray | None = None, **given: object
) -> dict[str, np.ndarray]:
    """Parameters not given have their defaults; scalars hold for all rows. The logits are copied: the call changes its own."""
    rows = len(logits)
    columns = {
        name: np.ascontiguousarray(np.broadcast_to(given.pop(name, default), rows)).astype(kind)
        for name, (kind, default) in DEFAULTS.items()
    }
    assert not given
    outputs = {
        "token_id": np.full(rows, 99, np.uint32),
        "logprob": np.full(rows, np.nan, np.float32),
        "top_token_id": np.zeros((rows, max_top), np.uint32),
        "top_logprob": np.zeros((rows, max_top), np.float32),
        "top_count": np.full(rows, 99, np.uint32),
    }
    _native.sample(logits=np.array(logits, np.float32), **columns, **outputs, status=status)
    return outputs


def noise(seed: int, position: int, choice: int, tokens: np.ndarray) -> np.ndarray:
    output = np.zeros(len(tokens), np.float32)
    _native.gumbel_noise(seed, position, choice, tokens.astype(np.uint32), output)
    return output


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def filtered(scores: np.ndarray, top_k: int, top_p: float, min_p: float, typical_p: float) -> np.ndarray:
    """Scores in float64 with dropped tokens at -inf, by sorting."""
    scores = scores.astype(np.float64)
    if 0 < top_k < len(scores):
        scores = np.where(scores < np.sort(scores)[-top_k], -np.inf, scores)
    if top_p < 1:
        probs = softmax(scores)
        order = np.argsort(scores)
        dropped = np.cumsum(probs[order]) <= 1 - top_p
        dropped[-1] = False
        scores[order[dropped]] = -np.inf
    if min_p > 0:
        probs = softmax(scores)
        scores = np.where(probs < min_p * probs.max(), -np.inf, scores)
    if typical_p < 1:
        probs = softmax(scores)
        surprise = -np.log(np.where(probs > 0, probs, 1))
        distance = np.where(probs > 0, abs(surprise - (probs * surprise).sum()), np.inf)
        order = np.argsort(distance)
        last = min(int((np.cumsum(probs[order]) < typical_p).sum()), len(order) - 1)
        scores = np.where(distance > distance[order[last]], -np.inf, scores)
    return scores


@pytest.mark.usefixtures("features")
def test_noise_equals_the_golden_vectors() -> None:
    for row in GOLDEN["gumbel"]:
        ours = noise(row["seed"], row["position"], row["choice"], np.array([row["token"]]))[0]
        assert ours == pytest.approx(row["noise"], rel=2e-6, abs=2e-6)


def test_noise_stays_within_its_bounds() -> None:
    values = noise(5, 6, 7, np.arange(1_000_000))
    assert -2.82 < values.min() < -2
    assert 11 < values.max() < 16.65
    assert abs(values.mean() - 0.5772) < 0.005


SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 5.0},
    {"top_k": 1},
    {"top_k": 40},
    {"top_p": 0.9},
    {"top_p": 0.01},
    {"min_p": 0.1},
    {"typical_p": 0.5},
    {"typical_p": 0.95, "top_k": 50},
    {"temperature": 0.7, "top_k": 100, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.9},
]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("vocab", [7, 1000, 32_000])
@pytest.mark.usefixtures("features")
def test_filters_noise_and_logprob(setting: dict[str, float], vocab: int) -> None:
    generator = np.random.default_rng(vocab)
    logits = (generator.standard_normal((24, vocab)) * 3).astype(np.float32)
    seeds, positions = generator.integers(0, 2**63, 24), generator.integers(0, 5000, 24)
    ours = sample(logits, seed=seeds, position=positions, choice=3, **setting)
    temperature = np.float32(setting.get("temperature", 1.0))
    limits = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0} | setting
    limits.pop("temperature", None)
    margin = 0
    for row in range(24):
        kept = filtered(logits[row] / temperature, **limits)
        noisy = kept + noise(int(seeds[row]), int(positions[row]), 3, np.arange(vocab))
        token = int(ours["token_id"][row])
        if token != noisy.argmax() or abs(ours["logprob"][row] - np.log(softmax(kept)[token])) > 1e-4:
            margin += 1
    assert margin <= 1


def test_samples_follow_the_distribution() -> None:
    logits = np.array([0.0, 1.0, 2.0, -1.0, 0.5], np.float32)
    count = 40_000
    ours = sample(np.tile(logits, (count, 1)), position=np.arange(count), seed=11)
    expected = softmax(logits.astype(np.float64)) * count
    seen = np.bincount(ours["token_id"], minlength=5)
    assert (((seen - expected) ** 2) / expected).sum() < 20.5  # chi-square, 4 degrees of freedom, p = 4e-4


@pytest.mark.usefixtures("features")
def test_greedy_ignores_filters_and_breaks_ties_low() -> None:
    logits = np.zeros((2, 1000), np.float32)
    logits[0, [17, 400, 401]] = 5.0
    logits[1, 999] = 1.0
    ours = sample(logits, greedy=1, temperature=0.0, top_k=1, num_top=[1, 2], max_top=5)
    assert ours["token_id"].tolist() == [17, 999]
    assert ours["top_count"].tolist() == [3, 5]
    assert ours["top_token_id"][0, :3].tolist() == [17, 400, 401]
    assert ours["top_token_id"][1].tolist() == [999, 0, 1, 2, 3]
    np.testing.assert_allclose(
        ours["logprob"], np.log([softmax(row.astype(np.float64)).max() for row in logits]), rtol=1e-5
    )


def test_top_tokens_are_of_the_filtered_scores() -> None:
    logits = np.array([[3.0, 2.0, 1.0, 0.0]], np.float32)
    ours = sample(logits, top_k=2, num_top=4)
    assert ours["top_count"][0] == 2
    np.testing.assert_allclose(ours["top_logprob"][0, :2], np.log(softmax(np.array([3.0, 2.0]))), rtol=1e-5)


@pytest.mark.usefixtures("features")
def test_a_row_does_not_depend_on_its_batch_or_threads() -> None:
    logits = np.random.default_rng(1).standard_normal((9, 32_000)).astype(np.float32)
    together = sample(logits, position=np.arange(9), top_p=0.9, num_top=3)
    for row in range(9):
        alone = sample(logits[row : row + 1], position=row, top_p=0.9, num_top=3)
        for name, values in together.items():
            assert np.array_equal(values[row], alone[name][0]), name


@pytest.mark.usefixtures("features")
def test_a_faulty_row_is_named_and_hurts_nobody() -> None:
    logits = np.random.default_rng(1).standard_normal((5, 100)).astype(np.float32)
    fine = sample(logits)
    logits[1, 50], logits[2, 3], logits[3] = np.nan, np.inf, -np.inf
    temperature = [1, 1, 1, 1, 0]
    status = np.full(5, 9, np.uint8)
    ours = sample(logits, temperature=temperature, status=status)
    assert status.tolist() == [0, 1, 2, 3, 4]
    assert ours["token_id"][0] == fine["token_id"][0]
    assert ours["logprob"][0] == fine["logprob"][0]
    with pytest.raises(ValueError, match="row 1: a logit is NaN"):
        sample(logits)


def test_disallowed_tokens_are_never_picked() -> None:
    logits = np.full((200, 64), -np.inf, np.float32)
    logits[:, 5] = 0
    logits[:, 9] = 0
    ours = sample(logits, position=np.arange(200), num_top=8)
    assert set(ours["token_id"].tolist()) == {5, 9}
    assert ours["top_count"].tolist() == [2] * 200


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="logits"):
        sample(np.zeros(3, np.float32))
