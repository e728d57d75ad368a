"""From a batch to what its rows want of the model: logits of those that sample, scores of prompt tokens. Samples nothing.

No logits cross chunks: the last token of a prefill chunk scores the next known one (design section 2, rule o).
"""

import numpy as np
from torch import Tensor

from ribbon_server.device import upload
from ribbon_server.engine.batch import Batch, ScoredTokens
from ribbon_server.layers.attention.base import ForwardContext
from ribbon_server.models.decoder import CausalModel
from ribbon_server.sampling.prompt_scores import TokenScores, joined, score_tokens

SCORED_LOGITS = 2**24  # of prompt tokens at a time: 64 MiB, whatever the length of the chunk


def forward(
    decoder: CausalModel, batch: Batch, context: ForwardContext, vocab_size: int
) -> tuple[Tensor | None, TokenScores | None]:
    """Logits float32 [sampled, vocab], None where no row samples, and scores of the prompt tokens that are wanted."""
    token_ids, positions, sampled = batch.inputs(decoder.device)
    if batch.scored is None:
        return decoder.forward(token_ids, positions, context, sampled), None
    wanted = np.union1d(batch.sampled, batch.scored.flat)
    states = decoder.states(token_ids, positions, context, upload(wanted, decoder.device))
    if states is None:
        raise AssertionError("wanted is not empty")
    logits = _logits(decoder, states, np.searchsorted(wanted, batch.sampled)) if batch.sampled.size else None
    at = np.searchsorted(wanted, batch.scored.flat)
    return logits, _scores(decoder, states, _blocks(len(at), vocab_size), (at, batch.scored))


def _logits(decoder: CausalModel, states: Tensor, at: np.ndarray) -> Tensor:
    return decoder.logits(states.index_select(0, upload(at, states.device)))


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
            score_tokens(_logits(decoder, states, at[block]), scored.token_ids[block], scored.num_top[block])
            for block in blocks
        ]
    )
