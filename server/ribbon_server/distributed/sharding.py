"""Which layers and which part of each weight a rank holds. Pure arithmetic: knows neither tensors nor processes."""

from dataclasses import dataclass

from ribbon_server.errors import BadSetting, ModelNotSupported


@dataclass(frozen=True)
class Rank:
    """One of the shards that hold a model together; counts from 0."""

    index: int
    world_size: int

    def __post_init__(self) -> None:
        """Refuses a place that does not exist."""
        if not 0 <= self.index < self.world_size:
            raise BadSetting(f"rank {self.index} of {self.world_size} does not exist; ranks count from 0")

    @property
    def is_first(self) -> bool:
        """Nobody is before it."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Nobody is behind it."""
        return self.index == self.world_size - 1


ALONE = Rank(0, 1)


@dataclass(frozen=True)
class Place:
    """Where one of all ranks stands."""

    stage: Rank  # of the pipeline, in the order of the forward pass
    tensor: Rank  # among those that hold the stage together


WHOLE = Place(ALONE, ALONE)


def place_of(rank: Rank, num_stages: int) -> Place:
    """The ranks of a stage are neighbours, and the last stage's come first, so that rank 0 is always the one that samples.

    Raises:
        BadSetting: The ranks do not make so many equal stages.
    """
    if num_stages < 1 or rank.world_size % num_stages != 0:
        raise BadSetting(
            f"`--pipeline-parallel-size` is {num_stages}; it has to divide the number of ranks, {rank.world_size}"
        )
    num_ranks = rank.world_size // num_stages
    behind, index = divmod(rank.index, num_ranks)
    return Place(Rank(num_stages - 1 - behind, num_stages), Rank(index, num_ranks))


def stage_layers(num_layers: int, stage: Rank) -> range:
    """The consecutive layers of a stage. No stage has more than one layer more than another; none has fewer than the last, which
    has the head."""
    begin, end = (-(-num_layers * bound // stage.world_size) for bound in (stage.index, stage.index + 1))
    return range(begin, end)


@dataclass(frozen=True)
class Units:
    """Equal parts of a dimension that no rank may split, such as heads. Where `shared`, as key and value heads are, more
    ranks than parts hold the same one with their neighbours."""

    count: int
    shared: bool = False


@dataclass(frozen=True)
class Cut:
    """Elements [begin, end) of a dimension, then `padding` zeros."""

    begin: int
    end: int
    padding: int = 0

    @property
    def size(self) -> int:
        """Elements that the rank holds, the padding included."""
        return self.end - self.begin + self.padding


def even_cut(size: int, units: Units, rank: Rank) -> Cut:
    """The rank's share of a dimension of `size` elements.

    Raises:
        ModelNotSupported: The units cannot be dealt out evenly.
    """
    ranks, count = rank.world_size, units.count
    if size % count == 0 and count % ranks == 0:
        share = size // ranks
        return Cut(rank.index * share, (rank.index + 1) * share)
    if size % count == 0 and units.shared and ranks % count == 0:
        begin = rank.index // (ranks // count) * (size // count)
        return Cut(begin, begin + size // count)
    raise ModelNotSupported(
        f"{count} parts of {size} elements cannot be dealt out to {ranks} shards; use another number"
    )


def vocab_cut(size: int, rank: Rank) -> Cut:
    """The rank's rows of a vocabulary: all ranks hold equally many, the last ones zeros where it does not come out even."""
    share = -(-size // rank.world_size)
    begin, end = (min(bound * share, size) for bound in (rank.index, rank.index + 1))
    return Cut(begin, end, share - (end - begin))
