"""Top-k, top-p, min-p and typical on a device: which tokens of each row stay. Bounds are found by bisection over the bits of the
scores, never by sorting the vocabulary; what ties with the last token kept is kept, as in the native filters.
"""

import torch
from torch import Tensor

BITS = 32
LEAST, MOST = -(2**31), 2**31 - 1


def top_k(scores: Tensor, k: Tensor) -> Tensor:
    """scores float32 [rows, vocab], k int64 [rows] (0: off): the same scores, -inf where a token is out."""
    wanted = torch.where(k == 0, scores.shape[1], k)
    key = ordered(scores)
    return _keep(scores, key >= heaviest(key, torch.ones_like(scores), wanted.double())[:, None])


def top_p(scores: Tensor, p: Tensor) -> Tensor:
    """p float32 [rows] (1: off): the fewest of the highest that weigh at least p."""
    key, weights = ordered(scores), scores.softmax(-1)
    total = weights.sum(-1, dtype=torch.float64)
    bound = heaviest(key, weights, p.double() * total)
    return _keep(scores, (key >= bound[:, None]) | (p >= 1)[:, None])


def min_p(scores: Tensor, p: Tensor) -> Tensor:
    """p float32 [rows] (0: off): no token less probable than p times the most probable."""
    bound = scores.amax(-1) + p.log()  # log 0 is -inf, below everything
    return _keep(scores, scores >= bound[:, None])


def typical(scores: Tensor, p: Tensor) -> Tensor:
    """p float32 [rows] (1: off): those closest to the expected information that weigh at least p. arXiv 2202.00666"""
    surprise = -scores.log_softmax(-1)
    weights = surprise.neg().exp()
    entropy = torch.where(weights > 0, weights * surprise, 0.0).sum(-1, keepdim=True)
    key = ordered(-(surprise - entropy).abs())
    total = weights.sum(-1, dtype=torch.float64)
    bound = heaviest(key, weights, p.double() * total)
    return _keep(scores, (key >= bound[:, None]) | (p >= 1)[:, None])


def ordered(values: Tensor) -> Tensor:
    """int32 keys in the order of the float32 values."""
    bits = (values + 0.0).view(torch.int32)  # -0 becomes +0
    return torch.where(bits < 0, bits ^ MOST, bits)


def heaviest(key: Tensor, weights: Tensor, target: Tensor) -> Tensor:
    """The highest bound int32 [rows] such that the tokens with key >= bound weigh at least `target` float64 [rows]; the least
    number there is where even all of them do not."""
    low = torch.full_like(target, LEAST, dtype=torch.int64)
    high = torch.full_like(low, MOST)
    for _ in range(BITS):
        middle = (low + high + 1) >> 1
        above = torch.where(key >= middle.to(torch.int32)[:, None], weights, 0.0).sum(-1, dtype=torch.float64)
        enough = above >= target
        low = torch.where(enough, middle, low)
        high = torch.where(enough, high, middle - 1)
    return low.to(torch.int32)


def _keep(scores: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, scores, float("-inf"))
