"""What one stage of a pipeline holds of a model, and how the residual stream comes to it and goes on. Knows numbers, names and
ranks; no weight and no layer's inside.
"""

from collections.abc import Iterable
from typing import NoReturn

from torch import Tensor

from ribbon_server.distributed.base import World
from ribbon_server.distributed.sharding import Rank, stage_layers
from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.names import WeightRow
from ribbon_server.models.pieces import outer_pieces
from ribbon_server.models.spec import ModelSpec


def check_stages(spec: ModelSpec, num_stages: int) -> None:
    """Whether the model can be cut into so many stages.

    Raises:
        ModelNotSupported: It cannot.
    """
    if num_stages > 1 and spec.encoder is not None:
        raise ModelNotSupported("an encoder-decoder is not cut into stages; use `--pipeline-parallel-size` 1")
    if num_stages > len(spec.layers):
        raise ModelNotSupported(
            f"this model has {len(spec.layers)} layers, `--pipeline-parallel-size` is {num_stages}; use at most one stage a layer"
        )


def held_rows(rows: Iterable[WeightRow], spec: ModelSpec, stage: Rank) -> list[WeightRow]:
    """Those of the stage: its layers', what is before all layers in the first one, what is behind them in the last. An embedding
    that is tied to the head is in both."""
    if stage.world_size == 1:
        return list(rows)
    before, after = outer_pieces(spec)
    outer = set(before if stage.is_first else ()) | set(after if stage.is_last else ())
    if stage.is_last and spec.tied_embeddings:
        outer.add("embedding")
    layers = tuple(f"layers.{index}." for index in stage_layers(len(spec.layers), stage))
    return [row for row in rows if row.name in outer or row.name.startswith(layers)]


class FromStage:
    """Stands where the first stage has its embedding: the residual stream as the stage before left it."""

    def __init__(self, world: World, hidden: int, like: Tensor) -> None:
        """The stream is `hidden` wide, of the type and on the device of `like`."""
        self._world = world
        self._hidden = hidden
        self._like = like

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        """[tokens, hidden]. Raises RankLost."""
        stream = self._like.new_empty((len(token_ids), self._hidden))
        self._world.receive(stream)
        return stream


class ToStage:
    """Stands where the last stage has its head: the next stage goes on with the residual stream."""

    def __init__(self, world: World) -> None:
        """The stream goes to this rank's counterpart."""
        self._world = world

    def states(self, stream: Tensor, delta: Tensor | None, wanted: Tensor) -> None:  # noqa: ARG002
        """None of them are made here. Raises RankLost."""
        self._world.send(stream if delta is None else stream.add_(delta))

    def logits(self, states: Tensor) -> NoReturn:  # noqa: ARG002
        """Nor are these."""
        raise AssertionError("the last stage has the head")
