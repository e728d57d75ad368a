"""The most likely tokens of each row, in torch on any device. Ties at the last place extend a list; equals stand by their ids."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ribbon_server.sampling.device_filters import ordered

LOW_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class TopTokens:
    """Lists side by side, each row's real entries first."""

    count: Tensor  # int32 [rows]
    token_id: Tensor  # int32 [rows, listed]
    logprob: Tensor  # float32 [rows, listed]


def top_tokens(scores: Tensor, log_total: Tensor, wanted: Tensor, max_top: int) -> TopTokens:
    """The `wanted` int64 [rows] highest of scores float32 [rows, vocab], whose log-sum-exp is log_total [rows]; at most `max_top`."""
    vocab_size = scores.shape[1]
    ids = torch.arange(vocab_size, device=scores.device)
    key = (ordered(scores).to(torch.int64) << 32) | (LOW_WORD - ids)
    best = key.topk(min(max_top, vocab_size), dim=1).indices
    top = scores.gather(1, best)
    last = top.gather(1, (wanted.clamp(max=vocab_size) - 1).clamp(min=0)[:, None])
    listed = (top >= last) & (top > float("-inf")) & (wanted > 0)[:, None]
    return TopTokens(listed.sum(dim=1).int(), best.int(), top - log_total[:, None])
