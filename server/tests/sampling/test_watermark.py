"""The watermark against torch's own permutation, and against transformers' implementation of the paper: processor and detector."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, WatermarkDetector, WatermarkingConfig
from transformers.generation.logits_process import WatermarkLogitsProcessor

from ribbon_server import _native
from ribbon_server.sampling.params import SamplingParams, parameters
from ribbon_server.sampling.processors.watermark import Watermark
from ribbon_server.sampling.sampler import pick, process
from ribbon_server.sampling.state import SamplingState

HASH_KEY = 15_485_863


def green_lists(last_tokens: list[int], sizes: list[int], vocab: int) -> np.ndarray:
    green = np.full((len(last_tokens), vocab), 7, np.uint8)
    _native.mark_green(np.array(last_tokens, np.uint32), np.array(sizes, np.uint32), green)
    return green


@pytest.mark.parametrize("vocab", [1, 2, 1000, 50_257, 152_064])
def test_green_lists_are_those_of_torch(vocab: int) -> None:
    last_tokens = [0, 1, 277, 2**18 + 5, 2**31 - 1]
    sizes = [vocab // 2, vocab, 0, vocab // 4, vocab // 2]
    green = green_lists(last_tokens, sizes, vocab)
    for row, (token, size) in enumerate(zip(last_tokens, sizes, strict=True)):
        permutation = torch.randperm(vocab, generator=torch.Generator().manual_seed(HASH_KEY * token))
        expected = np.zeros(vocab, np.uint8)
        expected[permutation[:size].numpy()] = 1
        assert np.array_equal(green[row], expected), token


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="size has shape"):
        green_lists([1, 2], [3], 10)


def seated(histories: list[list[int]], given: list[dict]) -> tuple[SamplingState, np.ndarray]:
    state = SamplingState(len(histories) + 1, 400)
    for slot, (history, params) in enumerate(zip(histories, given, strict=True), 1):
        state.put(slot, np.array(history), 1, SamplingParams(parameters(**params)))
    return state, np.arange(1, len(histories) + 1)


@pytest.mark.parametrize(("gamma", "delta"), [(0.5, 2.0), (0.25, 4.5)])
def test_scores_are_those_of_transformers(gamma: float, delta: float) -> None:
    vocab, histories = 300, [[3, 8, 1], [5], [7, 299]]
    logits = torch.randn((3, vocab), generator=torch.Generator().manual_seed(4))
    marked = {"watermark_gamma": gamma, "watermark_delta": delta}
    state, slots = seated(histories, [marked, {}, marked])
    theirs = WatermarkLogitsProcessor(vocab, "cpu", greenlist_ratio=gamma, bias=delta, hashing_key=HASH_KEY)
    expected = logits.clone()
    for row in (0, 2):
        expected[row] = theirs(torch.tensor([histories[row]]), logits[row : row + 1].clone())[0]
    ours = logits.clone()
    process(ours, state.rows(slots))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert (expected[0] != logits[0]).any()


def test_it_comes_before_every_penalty() -> None:
    """A repeated green token with a negative score: bonus first, then the penalty's own rule for its sign."""
    vocab = 50
    token = int(np.flatnonzero(green_lists([9], [25], vocab)[0])[0])
    params = {"watermark_gamma": 0.5, "watermark_delta": 2.0, "repetition_penalty": 4.0}
    state, slots = seated([[token, 9]], [params])
    logits = torch.full((1, vocab), -1.0)
    process(logits, state.rows(slots))
    assert logits[0, token] == pytest.approx((-1.0 + 2.0) / 4.0)


def test_neighbours_without_a_mark_are_not_touched() -> None:
    state, slots = seated([[1], [1]], [{"watermark_gamma": 0.5, "watermark_delta": 9.0}, {}])
    assert Watermark().is_active(state.rows(slots)).tolist() == [True, False]


@pytest.mark.parametrize("marked", [True, False])
def test_the_published_detector_finds_the_mark(marked: bool) -> None:
    vocab, length = 600, 120
    given = {"greedy": 0, "seed": 3, **({"watermark_gamma": 0.5, "watermark_delta": 2.0} if marked else {})}
    state, slots = seated([[17]], [given])
    generator = torch.Generator().manual_seed(8)
    for _ in range(length):
        picks = pick(torch.randn((1, vocab), generator=generator), state.rows(slots))
        state.history[1, state.known[1]] = picks.token_id[0]
        state.known[1] += 1
    config = AutoConfig.for_model("llama", vocab_size=vocab, bos_token_id=1)
    watermark = WatermarkingConfig(greenlist_ratio=0.5, bias=2.0, hashing_key=HASH_KEY)
    detector = WatermarkDetector(config, "cpu", watermark)
    text = torch.tensor(state.history[1, : length + 1][None].astype(np.int64))
    assert bool(detector(text, z_threshold=4.0)[0]) is marked
