"""Both ends of a decoder: token ids to the residual stream, and the last hidden state to logits. Knows rows, no sequence."""

from dataclasses import dataclass

from torch import Tensor

from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.norm import NormLayer
from ribbon_server.layers.shares import OwnRows


@dataclass(frozen=True)
class PositionTable:
    """Learned positions; that of token t is row t + offset."""

    weight: Tensor  # [positions, hidden]
    offset: int


@dataclass(frozen=True)
class TokenEmbedding:
    """A row of the table for each token, and what some models do to it."""

    weight: Tensor  # [vocab, width], or the rank's own rows of it
    scale: float = 1.0
    norm: NormLayer | None = None
    up: LinearLayer | None = None  # from width to hidden
    positions: PositionTable | None = None
    own_rows: OwnRows | None = None  # None: all of them

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Both int64 [tokens], to [tokens, hidden]."""
        own_rows = self.own_rows
        stream = (
            self.weight.index_select(0, token_ids) if own_rows is None else own_rows.look_up(self.weight, token_ids)
        )
        if self.scale != 1.0:
            stream.mul_(stream.new_tensor(self.scale))  # rounded to the type, as it was when the weights were trained
        if self.up is not None:
            stream = self.up(stream)
        if self.positions is not None:
            stream.add_(self.positions.weight.index_select(0, positions + self.positions.offset))
        if self.norm is not None:
            self.norm(stream.clone(), None, stream)
        return stream


@dataclass(frozen=True)
class LogitsHead:
    """Linear, then float32, a factor and a softcap."""

    linear: LinearLayer
    down: LinearLayer | None = None  # from hidden to width
    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, normed: Tensor) -> Tensor:
        """[rows, hidden] to float32 [rows, vocab]."""
        logits = self.linear(normed if self.down is None else self.down(normed)).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh_().mul_(self.softcap)
        return logits
