"""Cuts: together the ranks hold everything once, heads stay whole, and what cannot be dealt out is refused."""

import pytest

from ribbon_server.distributed.sharding import Cut, Rank, Units, even_cut, vocab_cut
from ribbon_server.errors import BadSetting, ModelNotSupported


@pytest.mark.parametrize(("size", "units", "ranks"), [(12, 12, 4), (96, 6, 3), (64, 8, 8), (10, 10, 1)])
def test_even_cuts_join_to_the_whole_at_unit_bounds(size: int, units: int, ranks: int) -> None:
    cuts = [even_cut(size, Units(units), Rank(index, ranks)) for index in range(ranks)]
    assert [cut.begin for cut in cuts] == [0, *(cut.end for cut in cuts[:-1])]
    assert cuts[-1].end == size
    assert all(cut.begin % (size // units) == 0 and cut.padding == 0 for cut in cuts)


def test_shared_units_are_held_by_neighbours() -> None:
    cuts = [even_cut(32, Units(2, shared=True), Rank(index, 4)) for index in range(4)]
    assert cuts == [Cut(0, 16), Cut(0, 16), Cut(16, 32), Cut(16, 32)]


@pytest.mark.parametrize(
    ("size", "units", "ranks"),
    [(32, Units(2), 4), (30, Units(5), 2), (30, Units(5, shared=True), 2), (32, Units(2, shared=True), 3)],
)
def test_what_cannot_be_dealt_out_is_refused(size: int, units: Units, ranks: int) -> None:
    with pytest.raises(ModelNotSupported, match=f"{units.count} parts of {size} elements .* {ranks} shards"):
        even_cut(size, units, Rank(0, ranks))


def test_a_vocabulary_is_padded_to_equal_shares() -> None:
    assert [vocab_cut(10, Rank(index, 4)) for index in range(4)] == [Cut(0, 3), Cut(3, 6), Cut(6, 9), Cut(9, 10, 2)]
    assert [vocab_cut(2, Rank(index, 3)) for index in range(3)] == [Cut(0, 1), Cut(1, 2), Cut(2, 2, 1)]
    assert vocab_cut(7, Rank(0, 1)) == Cut(0, 7)


@pytest.mark.parametrize(("index", "ranks"), [(1, 1), (-1, 2), (0, 0)])
def test_a_rank_that_does_not_exist_is_refused(index: int, ranks: int) -> None:
    with pytest.raises(BadSetting, match=f"rank {index} of {ranks}"):
        Rank(index, ranks)
