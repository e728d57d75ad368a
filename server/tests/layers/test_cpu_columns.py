"""The columns that the native kernel reads by address are what it takes them for."""

from dataclasses import replace

import pytest
import torch

from ribbon_server.layers.attention.base import AttentionShape, ScoreRule
from ribbon_server.layers.attention.cpu import NativeAttention

HEADS = 4
SHAPE = AttentionShape(num_heads=HEADS, num_kv_heads=2, head_dim=16, scale=1.0, kv_offset=0, rotary=0)
GOOD = torch.ones(HEADS)


@pytest.mark.parametrize("name", ["slopes", "sinks"])
@pytest.mark.parametrize(
    ("column", "found"),
    [
        (torch.ones(HEADS - 1), r"\[3\] of torch.float32"),
        (torch.ones(HEADS, 1), r"\[4, 1\]"),
        (GOOD.double(), "torch.float64"),
        (GOOD.bfloat16(), "torch.bfloat16"),
        (torch.ones(2 * HEADS)[::2], "gaps"),
    ],
)
def test_another_column_is_refused_by_name(name: str, column: torch.Tensor, found: str) -> None:
    shape = replace(SHAPE, rule=ScoreRule(**{name: column}))
    with pytest.raises(AssertionError, match=f"`{name}`.*{found}"):
        NativeAttention(shape)


def test_a_number_for_each_head_is_taken() -> None:
    NativeAttention(replace(SHAPE, rule=ScoreRule(slopes=GOOD, sinks=GOOD)))
