"""The token that a decoder behind an encoder begins with, and what such a model says of itself on the wire."""

import json

import pytest
from tiny import save_tiny

from ribbon_server.errors import ModelNotSupported
from ribbon_server.layers.registry import native_kernels
from ribbon_server.models.hf_config import HfConfig, start_token_id
from ribbon_server.models.open import open_model
from ribbon_server.pb import shard_pb2 as pb
from ribbon_server.service.wire import describe

NAME = "decoder_start_token_id"


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({NAME: 7}, {NAME: 8, "pad_token_id": 9}, 7),
        ({}, {NAME: 8, "pad_token_id": 9}, 8),
        ({NAME: None}, {NAME: None, "pad_token_id": 0}, 0),
    ],
)
def test_the_generation_config_comes_first_and_the_padding_token_last(tmp_path, generation, config, expected) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert start_token_id(tmp_path, HfConfig(config), vocab_size=10) == expected


@pytest.mark.parametrize(("config", "found"), [({}, "[]"), ({NAME: 10}, "[10]"), ({NAME: [1, 2]}, "[1, 2]")])
def test_none_several_or_one_that_does_not_exist_is_refused_by_name(tmp_path, config, found) -> None:
    with pytest.raises(ModelNotSupported, match=f"`{NAME}` is {found}".replace("[", r"\[")):
        start_token_id(tmp_path, HfConfig(config), vocab_size=10)


def test_the_shard_says_that_prompts_are_whole(tmp_path, tiny_untied) -> None:
    folder = save_tiny(tmp_path, "T5ForConditionalGeneration", decoder_start_token_id=5).folder
    said = describe(open_model(folder, None, native_kernels()), None)
    assert (said.prompt_runs, said.start_token_id) == (pb.PROMPT_RUNS_WHOLE, 5)
    assert "prompt_logprobs" not in said.abilities
    causal = describe(open_model(tiny_untied.folder, None, native_kernels()), None)
    assert causal.prompt_runs == pb.PROMPT_RUNS_CAUSAL
    assert not causal.HasField("start_token_id")
    assert "prompt_logprobs" in causal.abilities
