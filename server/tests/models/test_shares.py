"""What each rank loads, against whole tensors; and how much memory loading takes."""

import gc
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TinyModel

from ribbon_server.device import CPU
from ribbon_server.distributed.sharding import ALONE, Place, Rank
from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.checkpoint import SafetensorsCheckpoint
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.loader import RowPlan, load_weights
from ribbon_server.models.names import weight_rows
from ribbon_server.models.registry import family_of


def load(folder: Path, rank: Rank, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    checkpoint = SafetensorsCheckpoint(folder)
    family = family_of(checkpoint.config.architecture)
    return load_weights(family.build(checkpoint.config), family.names, checkpoint, dtype, CPU, Place(ALONE, rank))


def chunk(whole: torch.Tensor, dim: int, rank: Rank) -> torch.Tensor:
    return whole.chunk(rank.world_size, dim)[rank.index]


@pytest.mark.parametrize("rank", [Rank(0, 2), Rank(1, 2)])
def test_two_ranks_hold_halves_by_role(tiny_untied: TinyModel, rank: Rank) -> None:
    theirs = load_file(tiny_untied.folder / "model.safetensors")
    ours = load(tiny_untied.folder, rank)
    layer = "model.layers.1."
    qkv = [chunk(theirs[f"{layer}self_attn.{part}_proj.weight"], 0, rank) for part in "qkv"]
    gate_up = [chunk(theirs[f"{layer}mlp.{part}_proj.weight"], 0, rank) for part in ("gate", "up")]
    expected = {
        "embedding": chunk(theirs["model.embed_tokens.weight"], 0, rank),
        "layers.1.qkv": torch.cat(qkv),
        "layers.1.output": chunk(theirs[f"{layer}self_attn.o_proj.weight"], 1, rank),
        "layers.1.gate_up": torch.cat(gate_up),
        "layers.1.down": chunk(theirs[f"{layer}mlp.down_proj.weight"], 1, rank),
        "layers.1.attention_norm": theirs[f"{layer}input_layernorm.weight"],
        "head": chunk(theirs["lm_head.weight"], 0, rank),
    }
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name
        assert ours[name].is_contiguous()


def test_fewer_key_heads_than_ranks_are_held_by_neighbours(tiny_untied: TinyModel) -> None:
    theirs = load_file(tiny_untied.folder / "model.safetensors")
    for index in range(4):  # four heads of 16 that share two key heads
        query, key, value = load(tiny_untied.folder, Rank(index, 4))["layers.0.qkv"].split(16)
        prefix, shared = "model.layers.0.self_attn.", index // 2 * 16
        assert torch.equal(query, theirs[f"{prefix}q_proj.weight"][index * 16 :][:16])
        assert torch.equal(key, theirs[f"{prefix}k_proj.weight"][shared : shared + 16])
        assert torch.equal(value, theirs[f"{prefix}v_proj.weight"][shared : shared + 16])


def test_an_uneven_vocabulary_ends_in_zeros(tiny_untied: TinyModel) -> None:
    theirs = load_file(tiny_untied.folder / "model.safetensors")["model.embed_tokens.weight"]
    # 160 rows for 3 ranks: 54 each, two of the last are zeros. Heads do not go in three: the embedding is read alone.
    checkpoint = SafetensorsCheckpoint(tiny_untied.folder)
    family = family_of("LlamaForCausalLM")
    row = next(weight_rows(family.build(checkpoint.config), family.names))
    parts = [RowPlan(row, Rank(index, 3)).read(checkpoint, torch.float32, CPU) for index in range(3)]
    assert [len(part) for part in parts] == [54, 54, 54]
    assert torch.equal(torch.cat(parts)[:160], theirs)
    assert not torch.cat(parts)[160:].any()


def test_a_number_of_ranks_that_does_not_fit_is_refused_before_reading(tiny_untied: TinyModel) -> None:
    with pytest.raises(ModelNotSupported, match="4 parts of 64 elements cannot be dealt out to 3 shards"):
        load(tiny_untied.folder, Rank(0, 3))


def test_types_are_converted_while_reading(tiny_untied: TinyModel) -> None:
    whole = load(tiny_untied.folder, Rank(0, 1))
    half = load(tiny_untied.folder, Rank(0, 1), torch.bfloat16)
    assert {weight.dtype for weight in half.values()} == {torch.bfloat16}
    assert all(torch.equal(half[name], whole[name].bfloat16()) for name in whole)


def held_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return sum(int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) for name in ("RssAnon", "RssShmem")) * 1024


def save_wide(tiny: TinyModel, folder: Path) -> None:
    """A model of 108 MB in float32, all zeros, since only its size matters."""
    config = json.loads((tiny.folder / "config.json").read_text())
    config |= {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 8000, "num_hidden_layers": 6}
    (folder / "config.json").write_text(json.dumps(config))
    family = family_of("LlamaForCausalLM")
    sources = [source for row in weight_rows(family.build(HfConfig(config)), family.names) for source in row.sources]
    save_file({source.name: torch.zeros(source.shape) for source in sources}, folder / "model.safetensors")


def test_loading_holds_no_more_than_the_weights_of_the_rank(
    tiny_untied: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_wide(tiny_untied, tmp_path)
    load(tmp_path, Rank(1, 2), torch.bfloat16)  # what torch needs once is no memory of the load
    gc.collect()
    before, peaks, copy = held_bytes(), [], torch.Tensor.copy_

    def copy_and_look(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        result = copy(self, other)
        peaks.append(held_bytes())
        return result

    monkeypatch.setattr(torch.Tensor, "copy_", copy_and_look)
    size = sum(weight.nbytes for weight in load(tmp_path, Rank(1, 2), torch.bfloat16).values())
    assert size > 25e6
    assert max(peaks) - before <= 1.2 * size
