"""The decoder against transformers, in float32: whole, in chunks, one by one and in a batch."""

import numpy as np
import pytest
import torch
from tiny import Driver, TinyModel, make_engine, save_tiny

from ribbon_server.config import DType
from ribbon_server.layers.registry import REFERENCE

TOLERANCE = 2e-4  # of logits with a spread of several units, float32
PROMPT = np.random.default_rng(5).integers(3, 160, 90).tolist()


class Recorder:
    """Keeps the logits of every step of an engine's decoder."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.logits: list[torch.Tensor] = []
        self._forward = engine.decoder.forward
        engine.decoder.forward = self

    def __call__(self, *arguments):
        logits = self._forward(*arguments)
        if logits is not None:
            self.logits.append(logits.clone())
        return logits


def feed(driver: Driver, tokens: list[int], chunk: int) -> torch.Tensor:
    """Logits after every `chunk` tokens of one sequence, teacher-forced: [chunks, vocab]."""
    recorder = Recorder(driver.engine)
    for begin in range(0, len(tokens), chunk):
        # The history ends with this chunk, so that its last token asks for logits; what was fed before stays fed.
        end = min(begin + chunk, len(tokens))
        if begin == 0:
            driver.seat(1, tokens[:end], room=len(tokens))
        state = driver.engine.sequences.state
        state.history[1, :end], state.known[1] = tokens[:end], end
        outcome = driver.step({1: end - begin})
        assert outcome.failure == ""
        assert not outcome.errors
    driver.close(1)
    driver.engine.decoder.forward = recorder._forward
    return torch.cat(recorder.logits)


@pytest.mark.parametrize("kernels", [None, REFERENCE], ids=["native", "reference"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 90])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_chunk_size_gives_the_logits_of_transformers(tied, chunk, kernels, tiny_tied, tiny_untied) -> None:
    model: TinyModel = tiny_tied if tied else tiny_untied
    logits = feed(Driver(make_engine(model.folder, kernels=kernels)), PROMPT, chunk)
    expected = model.logits(PROMPT)[[min(end, len(PROMPT)) - 1 for end in range(chunk, len(PROMPT) + chunk, chunk)]]
    assert float(expected.std()) > 0.5  # logits that say something
    torch.testing.assert_close(logits, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_sequence_in_a_batch_gives_the_logits_it_gives_alone(tiny_untied) -> None:
    driver = Driver(make_engine(tiny_untied.folder))
    prompts = {slot: PROMPT[slot : 3 * slot + 4] for slot in range(1, 9)}
    recorder = Recorder(driver.engine)
    for slot, prompt in prompts.items():
        driver.seat(slot, prompt)
    driver.step({slot: len(prompt) for slot, prompt in prompts.items()})
    expected = torch.stack([tiny_untied.logits(prompt)[-1] for prompt in prompts.values()])
    torch.testing.assert_close(recorder.logits[-1], expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("rope", ["linear", "llama3"])
def test_scaled_rotary_positions_match_transformers(tmp_path, rope) -> None:
    scaling = {"rope_type": rope, "rope_theta": 5000.0, "factor": 4.0}
    if rope == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    model = save_tiny(tmp_path, rope_parameters=scaling)
    logits = feed(Driver(make_engine(model.folder)), PROMPT, 45)
    torch.testing.assert_close(logits, model.logits(PROMPT)[[44, 89]], rtol=TOLERANCE, atol=TOLERANCE)


def test_a_head_size_without_native_kernel_matches_transformers(tmp_path) -> None:
    model = save_tiny(tmp_path, head_dim=10)
    logits = feed(Driver(make_engine(model.folder)), PROMPT, 45)
    torch.testing.assert_close(logits, model.logits(PROMPT)[[44, 89]], rtol=TOLERANCE, atol=TOLERANCE)


def test_projection_biases_match_transformers(tmp_path) -> None:
    model = save_tiny(tmp_path, attention_bias=True, mlp_bias=True)
    logits = feed(Driver(make_engine(model.folder)), PROMPT, 45)
    torch.testing.assert_close(logits, model.logits(PROMPT)[[44, 89]], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kernels", [None, REFERENCE], ids=["native", "reference"])
def test_bfloat16_stays_near_float32(tiny_untied, kernels) -> None:
    logits = feed(Driver(make_engine(tiny_untied.folder, dtype=DType.BFLOAT16, kernels=kernels)), PROMPT, 30)
    expected = tiny_untied.logits(PROMPT)[[29, 59, 89]]
    assert float((logits - expected).abs().mean()) < 0.05 * float(expected.std())
