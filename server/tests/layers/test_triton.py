"""Our Triton kernels against plain attention in float64, in Triton's interpreter where there is no device."""

import numpy as np
import pytest
import torch

from ribbon_server.layers.attention.base import PLAIN, AttentionShape, ScoreRule
from ribbon_server.layers.attention.ragged import RaggedBatch
from ribbon_server.layers.attention.selftest import check_rope_store
from ribbon_server.layers.attention.triton import TileShape, takes, triton_attention, triton_rope_store

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROWS = [(3, 1, 70), (1, 9, 64), (4, 1, 1), (2, 33, 33), (5, 3, 40)]  # slot, run, length: both kinds of runs, mixed
SLOTS, SLOT_TOKENS = 6, 80
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2.5e-2}


def stage(shape: AttentionShape, dtype: torch.dtype) -> tuple[RaggedBatch, torch.Tensor, torch.Tensor]:
    """The batch, its query, and the middle layer's kv of a region in which everything else is NaN."""
    generator = torch.Generator().manual_seed(3)
    whole = torch.full((SLOTS, SLOT_TOKENS, 3, 2, shape.num_kv_heads, shape.head_dim), float("nan"))
    kv = whole[:, :, 1]
    for slot, _, length in ROWS:
        kv[slot, :length] = torch.randn(kv[slot, :length].shape, generator=generator)
    slots, runs, lengths = (np.array(column, np.uint32) for column in zip(*ROWS, strict=True))
    starts = np.concatenate(([0], np.cumsum(runs))).astype(np.uint32)
    query = torch.randn((int(starts[-1]), shape.num_heads * shape.head_dim), generator=generator)
    return RaggedBatch(slots, starts, lengths, DEVICE), query.to(dtype).to(DEVICE), whole.to(dtype).to(DEVICE)[:, :, 1]


def expected(shape: AttentionShape, rule: ScoreRule, query: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    """Row by row and head by head, float64, each step as its paper says it."""
    query = query.view(len(query), shape.num_heads, shape.head_dim).double().cpu()
    output = torch.empty_like(query)
    begin = 0
    for slot, run, length in ROWS:
        for index in range(run):
            own = length - run + index
            first = 0 if shape.window is None else max(0, own - shape.window + 1)
            seen = kv[slot, first : own + 1].double().cpu()
            for head in range(shape.num_heads):
                kv_head = head // (shape.num_heads // shape.num_kv_heads)
                scores = seen[:, 0, kv_head] @ query[begin + index, head] * shape.scale
                if rule.softcap is not None:
                    scores = rule.softcap * torch.tanh(scores / rule.softcap)
                if rule.slopes is not None:
                    scores = scores + rule.slopes[head].double().cpu() * torch.arange(first, own + 1)
                sink = [] if rule.sinks is None else [rule.sinks[head].double().cpu()[None]]
                weights = torch.cat([scores, *sink]).softmax(0)[: len(scores)]
                output[begin + index, head] = weights @ seen[:, 1, kv_head]
        begin += run
    return output.flatten(1)


CASES = {
    "grouped heads": (AttentionShape(8, 2, 64, 0.125, 0, 0), PLAIN),
    "a head of its own each": (AttentionShape(3, 3, 32, 0.2, 0, 0), PLAIN),
    "three heads a group, odd size": (AttentionShape(6, 2, 40, 0.2, 0, 0), PLAIN),
    "one kv head": (AttentionShape(5, 1, 16, 0.3, 0, 0), PLAIN),
    "window": (AttentionShape(4, 2, 16, 0.25, 0, 0, window=13), PLAIN),
    "window of one": (AttentionShape(4, 2, 16, 0.25, 0, 0, window=1), PLAIN),
    "softcap": (AttentionShape(4, 2, 16, 0.5, 0, 0), ScoreRule(softcap=2.0)),
    "sinks": (
        AttentionShape(4, 2, 16, 0.25, 0, 0),
        ScoreRule(sinks=torch.tensor([0.0, 2.0, -3.0, 5.0], device=DEVICE)),
    ),
    "everything": (
        AttentionShape(4, 2, 24, 0.5, 0, 0, window=40),
        ScoreRule(softcap=5.0, sinks=torch.tensor([1.0, 0.0, -1.0, 2.0], device=DEVICE)),
    ),
    "slopes": (
        AttentionShape(4, 2, 16, 0.5, 0, 0, window=40),
        ScoreRule(slopes=torch.tensor([0.5, 0.1, 0.02, 0.3], device=DEVICE)),
    ),
    "largest head": (AttentionShape(2, 1, 512, 0.05, 0, 0), PLAIN),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_ragged_attention_is_plain_attention(name: str, dtype: torch.dtype) -> None:
    shape, rule = CASES[name]
    batch, query, kv = stage(shape, dtype)
    output = torch.full_like(query, float("nan"))
    triton_attention(shape, rule, batch, kv, query, output)
    error = (output.cpu().double() - expected(shape, rule, query, kv)).abs().max()
    assert float(error) < TOLERANCE[dtype]  # NaN is not


def test_softcap_sinks_slopes_and_window_change_the_result() -> None:
    """Else the cases above could pass without them."""
    plain = AttentionShape(4, 2, 16, 0.5, 0, 0)
    batch, query, kv = stage(plain, torch.float32)
    results = []
    for shape, rule in (
        (plain, PLAIN),
        (plain, ScoreRule(softcap=2.0)),
        (plain, ScoreRule(sinks=torch.ones(4, device=DEVICE))),
        (plain, ScoreRule(slopes=torch.full((4,), 0.1, device=DEVICE))),
        (AttentionShape(4, 2, 16, 0.5, 0, 0, window=13), PLAIN),
    ):
        output = torch.empty_like(query)
        triton_attention(shape, rule, batch, kv, query, output)
        results.append(output)
    assert all(float((other - results[0]).abs().max()) > 0.05 for other in results[1:])


def test_there_are_two_tile_sizes_whatever_the_runs() -> None:
    shape = AttentionShape(32, 8, 128, 1.0, 0, 0)
    assert len({TileShape.of(shape, run, torch.bfloat16) for run in range(1, 3000)}) == 2


def test_tiles_fit_a_multiprocessor() -> None:
    for dim, dtype in ((16, torch.bfloat16), (128, torch.bfloat16), (256, torch.float32), (512, torch.float32)):
        tile = TileShape.of(AttentionShape(32, 8, dim, 1.0, 0, 0), 1000, dtype)
        assert tile.tokens * tile.group * tile.dim <= 16384
        assert tile.keys >= 16
        assert 2 * tile.keys * tile.dim * dtype.itemsize <= 2**16
    assert not takes(AttentionShape(1, 1, 513, 1.0, 0, 0))


INTERPRETED_FOR_SECONDS = pytest.mark.slow
ROPE_STORES = [
    pytest.param(AttentionShape(8, 2, 64, 1.0, 0, 0), torch.bfloat16),
    pytest.param(AttentionShape(8, 2, 64, 1.0, 0, 0), torch.float32, marks=INTERPRETED_FOR_SECONDS),
    pytest.param(AttentionShape(3, 3, 40, 1.0, 0, 1), torch.float32, marks=INTERPRETED_FOR_SECONDS),
    pytest.param(AttentionShape(3, 3, 40, 1.0, 0, 1), torch.float16, marks=INTERPRETED_FOR_SECONDS),
]


@pytest.mark.parametrize(("shape", "dtype"), ROPE_STORES)
def test_rope_and_store_in_one_launch_is_that_of_torch(shape: AttentionShape, dtype: torch.dtype) -> None:
    result = check_rope_store(triton_rope_store, shape, dtype, DEVICE)
    assert result.passed, result


@INTERPRETED_FOR_SECONDS
def test_the_check_of_the_store_sees_a_token_in_the_wrong_place() -> None:
    def late(qkv, kv, context, shape, query) -> None:
        triton_rope_store(qkv, kv[:, 1:], context, shape, query)

    assert not check_rope_store(late, CASES["grouped heads"][0], torch.float32, DEVICE).passed
