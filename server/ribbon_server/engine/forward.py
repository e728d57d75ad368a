"""From a batch to what its rows want of the model: logits of those that sample, scores and states of prompt tokens. Samples nothing.

No logits cross chunks: the last token of a prefill chunk scores the next known one (design section 2, rule o).
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ribbon_server.device import upload
from ribbon_server.engine.batch import Batch, ScoredTokens
from ribbon_server.engine.pooling import pool
from ribbon_server.layers.attention.base import ForwardContext
from ribbon_server.models.decoder import CausalModel
from ribbon_server.sampling.prompt_scores import TokenScores, joined, score_tokens

SCORED_LOGITS = 2**24  # of prompt tokens at a time: 64 MiB, whatever the length of the chunk


@dataclass(frozen=True)
class Yield:
    """What a forward pass gave; None where no row wants it, or a later stage of the pipeline has it."""

    logits: Tensor | None = None  # float32 [sampled, vocab]
    scores: TokenScores | None = None  # of the prompt tokens that are wanted
    sums: Tensor | None = None  # float32 [pooling, hidden], of the final states of this step's tokens


def forward(decoder: CausalModel, batch: Batch, context: ForwardContext, vocab_size: int) -> Yield:
    """Runs the batch."""
    token_ids, positions, sampled = batch.inputs(decoder.device)
    scored, pooled = batch.scored, batch.pooled
    if scored is None and pooled is None:
        return Yield(decoder.forward(token_ids, positions, context, sampled))
    parts = [batch.sampled, *(part.flat for part in (scored, pooled) if part is not None)]
    wanted = np.unique(np.concatenate(parts))
    states = decoder.states(token_ids, positions, context, upload(wanted, decoder.device))
    if states is None:
        return Yield()
    logits = scores = sums = None
    if batch.sampled.size:
        logits = decoder.logits(_at(states, np.searchsorted(wanted, batch.sampled)))
    if scored is not None:
        at = np.searchsorted(wanted, scored.flat)
        scores = _scores(decoder, states, _blocks(len(at), vocab_size), (at, scored))
    if pooled is not None:
        sums = pool(_at(states, np.searchsorted(wanted, pooled.flat)), pooled)
    return Yield(logits, scores, sums)


def _at(states: Tensor, at: np.ndarray) -> Tensor:
    return states.index_select(0, upload(at, states.device))


def _blocks(count: int, vocab_size: int) -> list[slice]:
    rows = max(1, SCORED_LOGITS // vocab_size)
    return [slice(begin, begin + rows) for begin in range(0, count, rows)]


def _scores(
    decoder: CausalModel, states: Tensor, blocks: list[slice], wanted: tuple[np.ndarray, ScoredTokens]
) -> TokenScores:
    """`wanted` says by which of the states which tokens are scored."""
    at, scored = wanted
    return joined(
        [
            score_tokens(decoder.logits(_at(states, at[block])), scored.token_ids[block], scored.num_top[block])
            for block in blocks
        ]
    )
