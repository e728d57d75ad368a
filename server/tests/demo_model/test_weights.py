"""The bundled weights have the stated shape, and transformers loads them."""

import json
from pathlib import Path

import torch
from export import export, hf_tensors
from model import DemoModel, Shape
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaForCausalLM

MAX_WEIGHT_BYTES = 12_000_000


def test_weights_have_the_stated_shape(weights: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(weights)
    assert isinstance(model, LlamaForCausalLM)
    assert model.dtype == torch.bfloat16
    assert 3_000_000 <= model.num_parameters() <= 6_000_000
    assert model.config.tie_word_embeddings
    assert model.config.rope_parameters["rope_type"] == "default"
    shape = Shape()
    assert model.config.vocab_size == shape.vocab_size
    assert model.config.max_position_embeddings == shape.max_positions


def test_whole_folder_fits_its_limit(weights: Path) -> None:
    assert sum(path.stat().st_size for path in weights.iterdir()) < MAX_WEIGHT_BYTES


def test_generation_ends_at_the_end_of_a_turn(weights: Path) -> None:
    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    config = json.loads((weights / "generation_config.json").read_text())
    assert config["eos_token_id"] == tokenizer.token_to_id("<|end|>")


def test_an_exported_model_gives_the_logits_of_ours(weights: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = Shape(num_layers=2, hidden_size=64, mlp_size=96)
    ours = DemoModel(shape)
    export(ours, Tokenizer.from_file(str(weights / "tokenizer.json")), tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, shape.vocab_size, (2, 40))
    with torch.no_grad():
        expected = theirs(ids).logits
        found = ours.logits(ours(ids))
    assert (expected - found).abs().max() < 0.05 * expected.abs().max()


def test_export_writes_every_parameter_once(weights: Path) -> None:
    assert hf_tensors(DemoModel(Shape())).keys() == load_file(weights / "model.safetensors").keys()
