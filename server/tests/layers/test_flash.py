"""The flash path on the CPU: the operator's real signature, its arguments, and the self-test that guards it."""

import numpy as np
import pytest
import torch
from layers.flash_twin import FlashTwin

from ribbon_server.layers.attention.base import AttentionShape
from ribbon_server.layers.attention.flash import aten_operator, takes
from ribbon_server.layers.attention.places import flat_tokens
from ribbon_server.layers.attention.ragged import RaggedBatch
from ribbon_server.layers.attention.selftest import ROWS, check_flash

CPU = torch.device("cpu")
SHAPES = [
    AttentionShape(8, 2, 64, 0.125, 0, 0),
    AttentionShape(4, 4, 32, 0.2, 0, 0),
    AttentionShape(6, 2, 16, 0.3, 0, 0, window=37),
]


def batch(rows: list[tuple[int, int, int]]) -> RaggedBatch:
    slots, runs, lengths = (np.array(column, np.uint32) for column in zip(*rows, strict=True))
    return RaggedBatch(slots, np.concatenate(([0], np.cumsum(runs))).astype(np.uint32), lengths, CPU)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_self_test_passes_what_flash_is_documented_to_do(shape, dtype) -> None:
    twin = FlashTwin()
    result = check_flash(twin, shape, dtype, CPU)
    assert result.passed, result
    decodes = sum(run == 1 for _, run, _ in ROWS)
    assert [(rows, causal) for rows, _, causal in twin.calls] == [(decodes, False), (len(ROWS) - decodes, True)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_self_test_fails_an_operator_that_is_off_by_one_key(shape) -> None:
    assert not check_flash(FlashTwin(wrong=True), shape, torch.bfloat16, CPU).passed


def test_the_self_test_fails_an_operator_that_reads_past_the_end() -> None:
    def greedy(query, key, value, starts, firsts, max_q, max_k, dropout, causal, debug, **options):  # noqa: ARG001
        return (query * value.float().sum().to(query.dtype),)  # the slots' unused tokens are NaN

    result = check_flash(greedy, SHAPES[0], torch.bfloat16, CPU)
    assert not result.passed
    assert result.largest_error == float("inf")


def test_the_operator_of_this_torch_takes_our_arguments() -> None:
    names = [argument.name for argument in aten_operator()._schema.arguments]
    positional = ["query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal"]
    assert names[:10] == [*positional, "return_debug_mask"]
    assert {"scale", "window_size_left", "window_size_right", "seqused_k"} <= set(names[10:])
    needed = [argument.name for argument in aten_operator()._schema.arguments[10:] if not argument.has_default_value()]
    assert needed == []


def test_flash_takes_16_bit_heads_of_up_to_256() -> None:
    assert takes(SHAPES[0], torch.bfloat16)
    assert not takes(SHAPES[0], torch.float32)
    assert not takes(AttentionShape(4, 4, 20, 1.0, 0, 0), torch.bfloat16)
    assert not takes(AttentionShape(4, 4, 264, 1.0, 0, 0), torch.bfloat16)


def test_slots_that_are_no_whole_tokens_apart_are_refused_by_name() -> None:
    kv = torch.empty(10_000).as_strided((3, 4, 2, 2, 8), (150, 32, 16, 8, 1))
    with pytest.raises(ValueError, match="150 elements apart"):
        flat_tokens(kv)


def test_a_region_of_more_tokens_than_an_int32_counts_is_refused_by_name() -> None:
    kv = torch.empty(0, device="meta").as_strided((2**15, 2**16, 2, 1, 8), (2**20, 16, 8, 8, 1))
    with pytest.raises(ValueError, match="max-concurrent-requests"):
        flat_tokens(kv)


def test_groups_part_decodes_from_longer_runs_and_give_their_rows_back_in_place() -> None:
    ragged = batch([(3, 1, 10), (1, 4, 9), (2, 1, 5), (5, 2, 2)])
    decodes, longer = ragged.groups
    flat = torch.arange(8)
    assert decodes.of(flat).tolist() == [0, 5]
    assert longer.of(flat).tolist() == [1, 2, 3, 4, 6, 7]
    assert longer.starts.tolist() == [0, 4, 6]
    assert (longer.longest_run, longer.longest_length) == (4, 9)
    longer.write(flat, torch.full((6,), -1))
    assert flat.tolist() == [0, -1, -1, -1, -1, 5, -1, -1]
    assert decodes.first_tokens(100).tolist()[:2] == [300, 200]


def test_groups_that_lie_side_by_side_are_views() -> None:
    decodes, longer = batch([(3, 1, 10), (2, 1, 5), (1, 4, 9)]).groups
    flat = torch.zeros(6)
    decodes.of(flat).fill_(1)
    longer.of(flat).fill_(2)
    assert flat.tolist() == [1, 1, 2, 2, 2, 2]


def test_every_token_knows_its_slot_and_position() -> None:
    slots, positions = batch([(3, 1, 10), (1, 4, 9)]).token_places
    assert slots.tolist() == [3, 1, 1, 1, 1]
    assert positions.tolist() == [9, 5, 6, 7, 8]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8])
def test_every_column_begins_where_triton_need_not_compile_anew(rows: int) -> None:
    ragged = batch([(slot + 1, 3, 9) for slot in range(rows)])
    columns = [*ragged.token_places, ragged.groups[0].starts, ragged.groups[0].slots, ragged.groups[0].lengths]
    first = columns[0].data_ptr()
    assert all((column.data_ptr() - first) % 16 == 0 for column in columns[:2])
    assert all((column.data_ptr() - columns[2].data_ptr()) % 16 == 0 for column in columns[2:])


def test_tiles_cut_runs_with_the_longest_rows_first() -> None:
    (_, longer) = batch([(3, 1, 10), (1, 4, 9), (2, 5, 50)]).groups
    assert longer.tiles(2).tolist() == [[1, 0], [1, 2], [1, 4], [0, 0], [0, 2]]
