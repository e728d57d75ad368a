"""Experts of every way in which checkpoints keep them: what is read, and which of them a rank holds."""

from pathlib import Path

import pytest
import torch

from ribbon_server.device import CPU
from ribbon_server.distributed.sharding import ALONE, Place, Rank
from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.hf_config import HfConfig
from ribbon_server.models.loader import load_weights
from ribbon_server.models.names import weight_rows
from ribbon_server.models.registry import family_of

FAMILIES = (
    "MixtralForCausalLM",  # tensors for each expert
    "Qwen2MoeForCausalLM",  # and shared ones beside them
    "DbrxForCausalLM",  # all experts below each other, one of the matrices transposed
    "GptOssForCausalLM",  # three dimensions, transposed, gate and up in turn
)


class MadeUp:
    """A checkpoint of random tensors that a spec asks for."""

    tokenizer_files: dict[str, Path] = {}  # noqa: RUF012

    def __init__(self, architecture: str) -> None:
        self.family = family_of(architecture)
        fields = {"norm_topk_prob": True, **self.family.tiny.fields, "architectures": [architecture]}
        self.config = HfConfig(fields)
        self.spec = self.family.build(self.config)
        generator = torch.Generator().manual_seed(4)
        sources = [source for row in weight_rows(self.spec, self.family.names) for source in row.sources]
        self.tensors = {source.name: torch.randn(source.shape, generator=generator) for source in sources}

    def names(self) -> frozenset[str]:
        return frozenset(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype_name(self, _name: str) -> str:
        return "F32"

    def read(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def load(self, rank: Rank) -> dict[str, torch.Tensor]:
        return load_weights(self.spec, self.family.names, self, torch.float32, CPU, Place(ALONE, rank))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_two_ranks_hold_half_of_the_experts_each(architecture: str) -> None:
    checkpoint = MadeUp(architecture)
    whole = checkpoint.load(ALONE)
    parts = [checkpoint.load(Rank(index, 2)) for index in range(2)]
    names = [name for name in whole if ".experts_" in name]
    assert names
    for name in names:
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
        assert len(parts[0][name]) == len(whole[name]) // 2


def test_the_gate_stands_before_up_whatever_the_checkpoint_does() -> None:
    turns = MadeUp("GptOssForCausalLM")
    stored = turns.tensors["model.layers.1.mlp.experts.gate_up_proj"]  # [experts, hidden, 2 * intermediate]
    ours = turns.load(ALONE)["layers.1.experts_gate_up"].unflatten(0, (4, -1))
    inner = stored.shape[2] // 2
    assert torch.equal(ours[3, :inner], stored[3, :, 0::2].T)
    assert torch.equal(ours[3, inner:], stored[3, :, 1::2].T)
    joined = MadeUp("DbrxForCausalLM")
    gate, down = (joined.tensors[f"transformer.blocks.2.ffn.experts.mlp.{name}"] for name in ("w1", "w2"))
    ours = joined.load(ALONE)
    assert torch.equal(ours["layers.2.experts_gate_up"].unflatten(0, (4, 2, -1))[1, 0], gate[40:80])
    assert torch.equal(ours["layers.2.experts_down"].unflatten(0, (4, -1))[1], down[40:80].T)


def test_experts_that_cannot_be_dealt_out_are_refused() -> None:
    with pytest.raises(ModelNotSupported, match="cannot be dealt out to 3 shards"):
        MadeUp("MixtralForCausalLM").load(Rank(0, 3))
