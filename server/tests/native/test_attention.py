"""Rope, store and attention of ragged batches against float64 numpy, at every instruction set."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from native.ribbon_ops import CLOSE, GROW, OPEN, SHARE, TRIM_FRONT, apply

from ribbon_server import _native

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 2e-5, "bfloat16": 1.2e-2}
PLAIN = {"softcap": None, "slopes": 0, "sinks": 0, "chunk": None}


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    dim: int
    dtype: str = "float32"
    layers: int = 2
    vectors: int = 2
    turned: int | None = None  # numbers of a head; None: all

    @property
    def layer_numbers(self) -> int:
        return self.vectors * self.kv_heads * self.dim

    @property
    def stride(self) -> int:
        size = DTYPES[self.dtype].itemsize
        return -(-self.layers * self.layer_numbers * size // 64) * 64

    def layer(self, index: int) -> dict[str, object]:
        names = {"num_heads": self.heads, "num_kv_heads": self.kv_heads, "head_dim": self.dim, "dtype": self.dtype}
        return {"kv_offset": index * self.layer_numbers * DTYPES[self.dtype].itemsize, "vectors": self.vectors, **names}


@dataclass(frozen=True)
class Rule:
    """What a layer does to scores; see `ScoreRule`."""

    softcap: float | None = None
    slopes: tuple[float, ...] = ()
    sinks: tuple[float, ...] = ()
    chunk: int | None = None

    def columns(self) -> dict[str, torch.Tensor]:
        return {"slopes": torch.tensor(self.slopes), "sinks": torch.tensor(self.sinks)}

    def bent(self, scores: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """scores [heads, queries, keys]"""
        if self.softcap is not None:
            scores = np.tanh(scores / self.softcap) * self.softcap
        return scores + np.array(self.slopes)[:, None, None] * distance if self.slopes else scores

    def weights(self, scores: np.ndarray) -> np.ndarray:
        """Softmax over the keys and the head's sink."""
        if self.sinks:
            sinks = np.broadcast_to(np.array(self.sinks)[:, None, None], (*scores.shape[:2], 1))
            scores = np.concatenate([scores, sinks], axis=-1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return weights[..., :-1] if self.sinks else weights


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """x [tokens, heads, dim]; cos and sin [tokens, turned / 2]"""
    half = cos.shape[1]
    first, second, rest = np.split(x, [half, 2 * half], axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


class Session:
    """A region and, beside it, every slot's keys and values in float64, as they were stored."""

    def __init__(
        self, shape: Shape, slot_tokens: int = 1500, slots: int = 8, window: int | None = None, rule: Rule = Rule()
    ) -> None:
        self.shape = shape
        self.rule = rule
        self.window = window
        self.generators = [torch.Generator().manual_seed(slot) for slot in range(slots)]
        self.region = _native.Region(
            num_slots=slots,
            num_storages=2 * slots,
            slot_tokens=slot_tokens,
            stride_bytes=shape.stride,
            num_pages=1 << 20,
        )
        self.keys: dict[int, np.ndarray] = {}
        self.values: dict[int, np.ndarray] = {}

    def open(self, slot: int) -> None:
        apply(self.region, (OPEN, slot, slot, 0))
        empty = np.zeros((0, self.shape.kv_heads, self.shape.dim))
        self.keys[slot], self.values[slot] = empty, empty

    def random(self, feeds: dict[int, int], width: int) -> torch.Tensor:
        """Each slot draws its own rows, so that they are the same in every batch."""
        return torch.cat([torch.randn(count, width, generator=self.generators[slot]) for slot, count in feeds.items()])

    def step(self, feeds: dict[int, int], layer: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Feeds random tokens; returns ours and the reference's attention output [tokens, heads, dim]."""
        shape, total = self.shape, sum(feeds.values())
        lengths = [len(self.keys[slot]) + count for slot, count in feeds.items()]
        apply(self.region, *((GROW, slot, 0, end) for slot, end in zip(feeds, lengths, strict=True)))
        starts = np.cumsum([0, *feeds.values()]).astype(np.uint32)
        runs = _native.Runs(
            self.region, np.array(list(feeds), np.uint32), starts, np.array(lengths, np.uint32), self.window
        )
        qkv = self.random(feeds, (shape.heads + shape.vectors * shape.kv_heads) * shape.dim).to(DTYPES[shape.dtype])
        turned = shape.turned or shape.dim
        angles = self.random(feeds, turned // 2) * 6
        cos, sin = angles.cos(), angles.sin()
        query = torch.empty(total, shape.heads, shape.dim, dtype=qkv.dtype)
        output = torch.full_like(query, float("nan"))
        place = shape.layer(layer)
        runs.rope_store(
            qkv=qkv.data_ptr(),
            query_out=query.data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            turned=turned,
            **place,
        )
        columns = self.rule.columns()
        scores = {"softcap": self.rule.softcap, "chunk": self.rule.chunk}
        scores |= {name: column.data_ptr() if len(column) else 0 for name, column in columns.items()}
        runs.attention(query=query.data_ptr(), output=output.data_ptr(), scale=shape.dim**-0.5, **place, **scores)
        expected_query = self.remember(feeds, qkv, cos.double().numpy(), sin.double().numpy())
        np.testing.assert_allclose(query.double().numpy(), expected_query, atol=2e-2 if "b" in shape.dtype else 1e-5)
        return output.double().numpy(), self.reference(feeds, query.double().numpy())

    def remember(self, feeds: dict[int, int], qkv: torch.Tensor, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        shape, dtype = self.shape, DTYPES[self.shape.dtype]
        rows = qkv.double().numpy().reshape(len(qkv), -1, shape.dim)
        query, key, value = np.split(rows, [shape.heads, shape.heads + shape.kv_heads], axis=1)
        key = torch.from_numpy(rotate(key, cos, sin)).float().to(dtype).double().numpy()
        value = value if shape.vectors == 2 else key
        begin = 0
        for slot, count in feeds.items():
            self.keys[slot] = np.concatenate([self.keys[slot], key[begin : begin + count]])
            self.values[slot] = np.concatenate([self.values[slot], value[begin : begin + count]])
            begin += count
        return rotate(query, cos, sin)

    def reference(self, feeds: dict[int, int], query: np.ndarray) -> np.ndarray:
        """Causal attention in float64; query [tokens, heads, dim]."""
        outputs, begin = [], 0
        group = self.shape.heads // self.shape.kv_heads
        for slot, count in feeds.items():
            keys, values = (np.repeat(x[slot], group, axis=1) for x in (self.keys, self.values))
            scores = np.einsum("qhd,khd->hqk", query[begin : begin + count], keys) * self.shape.dim**-0.5
            own = np.arange(len(keys) - count, len(keys))[:, None]
            token = np.arange(len(keys))[None]
            hidden = (token > own) | (token <= own - (self.window or len(keys)))
            if self.rule.chunk is not None:
                hidden |= token // self.rule.chunk != own // self.rule.chunk
            scores = np.where(hidden[None], -np.inf, self.rule.bent(scores, token - own))
            outputs.append(np.einsum("hqk,khd->qhd", self.rule.weights(scores), values))
            begin += count
        return np.concatenate(outputs)

    def check(self, feeds: dict[int, int]) -> None:
        ours, expected = self.step(feeds)
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE[self.shape.dtype], rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [1, 2, 3, 4, 8])
@pytest.mark.usefixtures("features")
def test_ragged_batch_mixes_decodes_and_chunks(dtype: str, group: int) -> None:
    session = Session(Shape(heads=2 * group, kv_heads=2, dim=64, dtype=dtype))
    for slot in range(1, 6):
        session.open(slot)
    session.check({1: 1, 2: 7, 3: 130, 4: 64, 5: 16})
    session.check({1: 1, 2: 1, 3: 1, 5: 97})
    session.check({5: 3, 4: 1, 1: 33, 3: 2})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [16, 32, 48, 64, 80, 96, 112, 128, 192, 256])
@pytest.mark.usefixtures("features")
def test_head_sizes(dtype: str, dim: int) -> None:
    session = Session(Shape(heads=6, kv_heads=2, dim=dim, dtype=dtype))
    for slot in (1, 2, 3):
        session.open(slot)
    session.check({1: 40, 2: 1, 3: 17})
    session.check({1: 1, 2: 1, 3: 20})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("features")
def test_long_sequences_are_cut_and_added_up(dtype: str) -> None:
    session = Session(Shape(heads=4, kv_heads=2, dim=64, dtype=dtype))
    session.open(1)
    session.open(2)
    session.check({1: 1023, 2: 511})
    for _ in range(3):
        session.check({1: 1, 2: 1})
    session.check({1: 200, 2: 1})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [1, 2, 15, 64, 100, 600])
@pytest.mark.usefixtures("features")
def test_a_query_sees_its_window_and_no_token_before(dtype: str, window: int) -> None:
    session = Session(Shape(heads=6, kv_heads=2, dim=64, dtype=dtype), window=window)
    for slot in (1, 2, 3):
        session.open(slot)
    session.check({1: 1, 2: 7, 3: 300})
    session.check({1: 130, 2: 1, 3: 1})
    session.check({1: 1, 2: 65, 3: 1})
    session.check({1: 1, 2: 1, 3: 400})
    session.check({1: 1, 2: 1, 3: 1})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [5, 70])
@pytest.mark.usefixtures("features")
def test_what_lies_before_the_window_may_be_given_up(dtype: str, window: int) -> None:
    """Stale or punched keys before the window change nothing, and memory stays flat."""
    session = Session(Shape(heads=4, kv_heads=2, dim=64, dtype=dtype), window=window)
    session.open(1)
    pages = []
    for count in (200, 1, 1, 33, 1, 150, 1, 1):
        session.check({1: count})
        apply(session.region, (TRIM_FRONT, 1, 0, len(session.keys[1]) + 1 - window))
        pages.append(session.region.pages_used)
        assert session.region.resident_bytes == 4096 * session.region.pages_used
    assert max(pages) <= (window - 1) * session.shape.stride // 4096 + 2


def test_a_window_that_reaches_into_what_was_given_up_is_refused() -> None:
    session = Session(Shape(heads=2, kv_heads=1, dim=16), window=8)
    session.open(1)
    session.check({1: 20})
    apply(session.region, (TRIM_FRONT, 1, 0, 14), (GROW, 1, 0, 21))
    columns = np.array([1], np.uint32), np.array([0, 1], np.uint32), np.array([21], np.uint32)
    with pytest.raises(ValueError, match="slot 1 has given up its first 14 tokens, its window reaches back to 13"):
        _native.Runs(session.region, *columns, 8)
    with pytest.raises(ValueError, match="reaches back to 0"):
        _native.Runs(session.region, *columns)
    _native.Runs(session.region, *columns, 7)
    with pytest.raises(ValueError, match="window is 0"):
        _native.Runs(session.region, *columns, 0)


RULES = {
    "softcap": Rule(softcap=1.5),
    "slopes": Rule(slopes=(0.5, 0.25, 0.125, 0.0625, 0.03, 0.015)),
    "sinks": Rule(sinks=(3.0, -1.0, 0.0, 6.0, 2.0, -4.0)),
    "chunks": Rule(chunk=90),
    "all": Rule(softcap=2.0, slopes=(0.1,) * 6, sinks=(2.0, -2.0) * 3, chunk=200),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.usefixtures("features")
def test_rules_for_scores(dtype: str, name: str) -> None:
    session = Session(Shape(heads=6, kv_heads=2, dim=64, dtype=dtype), rule=RULES[name])
    for slot in (1, 2, 3):
        session.open(slot)
    session.check({1: 1, 2: 7, 3: 620})
    session.check({1: 130, 2: 1, 3: 1})
    session.check({1: 1, 2: 65, 3: 140})
    session.check({1: 1, 2: 1, 3: 1})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("features")
def test_rules_for_scores_within_a_window(dtype: str) -> None:
    session = Session(Shape(heads=6, kv_heads=2, dim=32, dtype=dtype), window=70, rule=RULES["all"])
    session.open(1)
    for count in (150, 1, 40, 1):
        session.check({1: count})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [32, 272, 576])
@pytest.mark.usefixtures("features")
def test_one_vector_that_is_key_and_value(dtype: str, dim: int) -> None:
    session = Session(Shape(heads=16, kv_heads=1, dim=dim, dtype=dtype, vectors=1, turned=24), slot_tokens=700)
    for slot in (1, 2):
        session.open(slot)
    session.check({1: 530, 2: 3})
    session.check({1: 1, 2: 20})
    session.check({1: 1, 2: 1})


@pytest.mark.usefixtures("features")
def test_many_query_heads_on_one_key_head() -> None:
    session = Session(Shape(heads=40, kv_heads=1, dim=32, dtype="bfloat16"))
    session.open(1)
    session.check({1: 9})
    session.check({1: 1})


@pytest.mark.usefixtures("features")
def test_a_decode_does_not_depend_on_its_batch() -> None:
    """Bit for bit: the cut into pieces depends on the sequence alone."""
    alone, batched = (Session(Shape(heads=6, kv_heads=2, dim=64)) for _ in range(2))
    for session in (alone, batched):
        session.open(1)
        session.open(2)
        session.step({1: 700})
    assert np.array_equal(alone.step({1: 1})[0], batched.step({2: 20, 1: 1})[0][20:])


def test_threads_do_not_change_the_result() -> None:
    outputs = []
    before = _native.num_threads()
    for threads in (1, 2, 5):
        _native.set_num_threads(threads)
        session = Session(Shape(heads=6, kv_heads=2, dim=64, dtype="bfloat16"))
        session.open(1)
        session.open(2)
        session.step({1: 600, 2: 3})
        outputs.append(session.step({1: 1, 2: 65})[0])
    _native.set_num_threads(before)
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2])


@pytest.mark.parametrize("end", [5, 64, 100])
@pytest.mark.usefixtures("features")
def test_shared_prefix_is_attended(end: int) -> None:
    session = Session(Shape(heads=6, kv_heads=2, dim=80, dtype="bfloat16"))
    session.open(1)
    session.check({1: 130})
    apply(session.region, (OPEN, 2, 2, 0), (SHARE, 2, 1, end))
    session.keys[2], session.values[2] = session.keys[1][:end], session.values[1][:end]
    # Layer 1 alone was written, so it alone can be compared.
    session.check({1: 1, 2: 1})
    apply(session.region, (CLOSE, 1, 0, 1))
    session.check({2: 20})


def test_stale_runs_are_refused() -> None:
    session = Session(Shape(heads=2, kv_heads=1, dim=16))
    session.open(1)
    session.check({1: 3})
    columns = np.array([1], np.uint32), np.array([0, 1], np.uint32), np.array([3], np.uint32)
    runs = _native.Runs(session.region, *columns)
    apply(session.region, (CLOSE, 1, 0, 0))
    query = torch.zeros(1, 2, 16)
    with pytest.raises(ValueError, match="slot 1 is not open"):
        runs.attention(query=query.data_ptr(), output=query.data_ptr(), scale=1.0, **PLAIN, **session.shape.layer(0))


@pytest.mark.parametrize(
    ("slots", "starts", "lengths", "message"),
    [
        ([1], [0, 5], [4], "row 0"),
        ([1], [0, 1], [5], "holds 4 tokens, not 5"),
        ([1, 1], [0, 1, 2], [4, 4], "appears twice"),
        ([2], [0, 1], [1], "not open"),
        ([0], [0, 1], [1], "slot 0"),
        ([1], [1, 2], [1], "begin with 0"),
        ([1], [0, 0], [1], "row 0"),
    ],
)
def test_runs_that_cannot_be_are_refused(slots: list[int], starts: list[int], lengths: list[int], message: str) -> None:
    session = Session(Shape(heads=2, kv_heads=1, dim=16))
    apply(session.region, (OPEN, 1, 1, 0), (GROW, 1, 0, 4))
    with pytest.raises(ValueError, match=message):
        _native.Runs(session.region, *(np.array(x, np.uint32) for x in (slots, starts, lengths)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 24}, "head_dim"),
        ({"head_dim": 592}, "head_dim"),
        ({"vectors": 3}, "vectors"),
        ({"chunk": 0}, "chunk"),
        ({"softcap": 0.0}, "softcap"),
        ({"num_heads": 5}, "num_heads"),
        ({"num_kv_heads": 0}, "num_heads"),
        ({"kv_offset": 4096}, "kv_offset"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_shapes_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    session = Session(Shape(heads=4, kv_heads=2, dim=64))
    session.open(1)
    apply(session.region, (GROW, 1, 0, 1))
    runs = _native.Runs(session.region, *(np.array(x, np.uint32) for x in ([1], [0, 1], [1])))
    query = torch.zeros(4096)
    with pytest.raises(ValueError, match=message):
        runs.attention(
            query=query.data_ptr(), output=query.data_ptr(), scale=1.0, **{**PLAIN, **session.shape.layer(0), **change}
        )
