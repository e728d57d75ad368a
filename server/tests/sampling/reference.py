"""The whole choice of a token in plain NumPy, in float64 where it can: straight from the rules, no speed."""

import numpy as np

from ribbon_server.sampling.random import gumbel


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max()
    return shifted - np.log(np.exp(shifted).sum())


def keep_top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Ties at the k-th place are kept."""
    return scores if k == 0 or k >= len(scores) else np.where(scores >= np.sort(scores)[-k], scores, -np.inf)


def keep_top_p(scores: np.ndarray, p: float) -> np.ndarray:
    """The smallest set of likeliest tokens whose mass reaches p."""
    if p >= 1:
        return scores
    order = np.argsort(-scores, kind="stable")
    mass = np.cumsum(np.exp(log_softmax(scores))[order])
    kept = order[: int(np.searchsorted(mass, p)) + 1]
    return np.where(np.isin(np.arange(len(scores)), kept), scores, -np.inf)


def keep_min_p(scores: np.ndarray, p: float) -> np.ndarray:
    return scores if p == 0 else np.where(scores >= scores.max() + np.log(p), scores, -np.inf)


def keep_typical(scores: np.ndarray, p: float) -> np.ndarray:
    """The tokens whose surprise is nearest to the entropy, up to mass p. https://arxiv.org/abs/2202.00666"""
    if p >= 1:
        return scores
    logprobs = log_softmax(scores)
    probabilities = np.exp(logprobs)
    entropy = -np.sum(np.where(probabilities > 0, probabilities * np.where(probabilities > 0, logprobs, 0), 0))
    order = np.argsort(np.abs(-logprobs - entropy), kind="stable")
    kept = order[: int(np.searchsorted(np.cumsum(probabilities[order]), p)) + 1]
    return np.where(np.isin(np.arange(len(scores)), kept), scores, -np.inf)


def pick(logits: np.ndarray, position: int, params) -> tuple[int, float, np.ndarray]:
    """Token id, its logprob, and the filtered log-softmax of one row."""
    scores = logits.astype(np.float64)
    if params["greedy"]:
        logprobs = log_softmax(scores)
        token = int(np.argmax(scores))
        return token, float(logprobs[token]), logprobs
    scores = scores / float(params["temperature"])
    scores = keep_top_k(scores, int(params["top_k"]))
    scores = keep_top_p(scores, float(params["top_p"]))
    scores = keep_min_p(scores, float(params["min_p"]))
    scores = keep_typical(scores, float(params["typical_p"]))
    logprobs = log_softmax(scores)
    noise = gumbel(int(params["seed"]), position, int(params["choice"]), np.arange(len(scores)))
    token = int(np.argmax(scores + noise))
    return token, float(logprobs[token]), logprobs
