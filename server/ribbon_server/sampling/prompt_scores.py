"""What the model thinks of tokens that are known already: log-softmax of the raw logits. Knows rows; not prompts, not chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ribbon_server.device import upload
from ribbon_server.sampling.sampler import listed_room
from ribbon_server.sampling.top_tokens import top_tokens


@dataclass(frozen=True)
class TokenScores:
    """Of known tokens, one behind the other."""

    logprob: np.ndarray  # float32 [tokens]
    is_valid: np.ndarray  # bool [tokens]: false where the logits were no numbers
    top_count: np.ndarray  # uint8 [tokens]
    top_token_id: np.ndarray  # uint32, flattened
    top_logprob: np.ndarray  # float32, flattened


def score_tokens(logits: Tensor, token_ids: np.ndarray, num_top: np.ndarray) -> TokenScores:
    """Scores token_ids int64 [rows] by logits float32 [rows, vocab], with the `num_top` [rows] likeliest beside each."""
    log_total = logits.logsumexp(dim=1)
    at = upload(token_ids, logits.device)
    logprob = logits.gather(1, at[:, None])[:, 0] - log_total
    table = torch.stack((logprob, log_total), dim=1).cpu().numpy()
    count, ids, logprobs = _tops(logits, log_total, num_top)
    return TokenScores(table[:, 0], np.isfinite(table[:, 1]), count, ids, logprobs)


def _tops(logits: Tensor, log_total: Tensor, num_top: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts [rows], and ids and logprobs flattened."""
    wanted, max_top = listed_room(num_top)
    if not wanted.any():
        return np.zeros(len(num_top), np.uint8), np.zeros(0, np.uint32), np.zeros(0, np.float32)
    top = top_tokens(logits, log_total, upload(wanted.astype(np.int64), logits.device), max_top)
    count = top.count.cpu().numpy()
    listed = np.arange(top.token_id.shape[1]) < count[:, None]
    ids, logprobs = top.token_id.cpu().numpy().astype(np.uint32), top.logprob.cpu().numpy()
    return count.astype(np.uint8), ids[listed], logprobs[listed]


def joined(parts: Sequence[TokenScores]) -> TokenScores:
    """One behind the other."""
    return TokenScores(
        logprob=np.concatenate([part.logprob for part in parts]),
        is_valid=np.concatenate([part.is_valid for part in parts]),
        top_count=np.concatenate([part.top_count for part in parts]),
        top_token_id=np.concatenate([part.top_token_id for part in parts]),
        top_logprob=np.concatenate([part.top_logprob for part in parts]),
    )
