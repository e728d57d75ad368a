"""Experts: a router that picks a few for each token, and the parts themselves. Knows tensors, no model.

Work in Python grows with the experts that a step touches, not with its rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ribbon_server.layers.activation import FUNCTIONS
from ribbon_server.layers.mlp import FeedForwardLayer

Choice = tuple[Tensor, Tensor]  # weights float32 and experts int64, [tokens, top_k] each


@dataclass(frozen=True)
class Groups:
    """Experts lie in equal groups, of which the best few are open."""

    count: int
    chosen: int
    counted: int


@dataclass(frozen=True)
class TopRouter:
    """Scores every expert and takes the best."""

    top_k: int
    is_sigmoid: bool
    is_renormalized: bool
    scale: float
    groups: Groups | None = None

    def __call__(self, logits: Tensor, correction: Tensor | None) -> Choice:
        """logits float32 [tokens, experts]; correction [experts] takes part in the choice, not in the weights."""
        scores = logits.sigmoid() if self.is_sigmoid else logits.softmax(-1)
        ranked = scores if correction is None else scores + correction.float()
        if self.groups is not None:
            ranked = in_best_groups(ranked, self.groups)
        experts = ranked.topk(self.top_k, dim=-1).indices
        weights = scores.gather(-1, experts)
        if self.is_renormalized:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.scale, experts


def in_best_groups(ranked: Tensor, groups: Groups) -> Tensor:
    """Scores outside the best groups become those that nobody takes. https://arxiv.org/abs/2412.19437, section 2.1.2"""
    by_group = ranked.unflatten(-1, (groups.count, -1))  # [tokens, groups, experts of a group]
    best = by_group.topk(groups.counted, dim=-1).values.sum(-1).topk(groups.chosen, dim=-1).indices
    is_open = torch.zeros(by_group.shape[:2], dtype=torch.bool, device=ranked.device).scatter_(1, best, value=True)
    return by_group.masked_fill(~is_open[..., None], float("-inf")).flatten(1)


@dataclass(frozen=True)
class SparseMixer:
    """Takes the best expert, then the best of the rest; each counts by a softmax over those near it.
    https://arxiv.org/abs/2409.12136"""

    top_k: int
    tolerance: float

    def __call__(self, logits: Tensor, _correction: Tensor | None) -> Choice:
        """logits float32 [tokens, experts]."""
        left, weights, experts = logits, [], []
        for _ in range(self.top_k):
            best, expert = left.max(-1, keepdim=True)
            distance = (best - logits) / torch.maximum(logits.abs(), best)
            near = left.masked_fill(distance > 2 * self.tolerance, float("-inf"))
            weights.append(near.softmax(-1).gather(-1, expert))
            experts.append(expert)
            left = left.scatter(-1, expert, float("-inf"))
        return torch.cat(weights, -1), torch.cat(experts, -1)


GatedFunction = Callable[[Tensor, Tensor], Tensor]  # of gate and up


def plain_gate(name: str) -> GatedFunction:
    """activation(gate) * up, one of FUNCTIONS."""
    function = FUNCTIONS[name]
    return lambda gate, up: function(gate) * up


def clamped_gate(slope: float, limit: float) -> GatedFunction:
    """gate * sigmoid(slope * gate) * (up + 1), both cut at the limit before. https://arxiv.org/abs/2508.10925"""

    def apply(gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return gate * torch.sigmoid(slope * gate) * (up + 1)

    return apply


@dataclass(frozen=True)
class ExpertWeights:
    """Of the experts of a rank, which are all of them where it is alone, and of a router that knows all."""

    router: Tensor  # [experts, hidden]
    router_bias: Tensor | None  # [experts]
    correction: Tensor | None  # [experts]
    gate_up: Tensor  # [own, 2 * intermediate, hidden], the gate first
    gate_up_bias: Tensor | None  # [own, 2 * intermediate]
    down: Tensor  # [own, hidden, intermediate]
    down_bias: Tensor | None  # [own, hidden]


@dataclass(frozen=True)
class SharedPart:
    """What every token sees, and what says how much it counts."""

    layer: FeedForwardLayer
    gate: Tensor | None  # [1, hidden]

    def __call__(self, normed: Tensor, activated: Tensor) -> Tensor:
        """See FeedForwardLayer."""
        result = self.layer(normed, activated)
        return result if self.gate is None else result.mul_(F.linear(normed, self.gate).sigmoid())


@dataclass(frozen=True)
class ExpertsFeedForward:
    """Each token through its experts, expert by expert."""

    weights: ExpertWeights
    route: Callable[[Tensor, Tensor | None], Choice]
    gated: GatedFunction
    shared: SharedPart | None
    scales_input: bool = False  # an expert's weight is on what it sees, not on what it says
    first: int = 0  # of the rank's own experts; what others hold is missing in the result

    def __call__(self, normed: Tensor, activated: Tensor) -> Tensor:
        """See FeedForwardLayer."""
        own = self.weights
        counted, experts = self.route(F.linear(normed, own.router, own.router_bias).float(), own.correction)
        output = torch.zeros_like(normed) if self.shared is None else self.shared(normed, activated)
        order = experts.flatten().argsort(stable=True)
        counts = experts.flatten().bincount(minlength=len(own.router)).tolist()
        tokens, counted = order // experts.shape[1], counted.flatten()[order, None].to(normed.dtype)
        begin = sum(counts[: self.first])
        for expert, count in enumerate(counts[self.first : self.first + len(own.gate_up)]):
            if count:
                rows = slice(begin, begin + count)
                output.index_add_(0, tokens[rows], self._weighted(expert, normed[tokens[rows]], counted[rows]))
                begin += count
        return output

    def _weighted(self, expert: int, x: Tensor, weight: Tensor) -> Tensor:
        """x [rows, hidden] as the expert counts it; weight [rows, 1]."""
        return self._expert(expert, x * weight) if self.scales_input else self._expert(expert, x) * weight

    def _expert(self, expert: int, x: Tensor) -> Tensor:
        own = self.weights
        bias = (None, None) if own.gate_up_bias is None or own.down_bias is None else (own.gate_up_bias, own.down_bias)
        first, second = (None if vector is None else vector[expert] for vector in bias)
        gate, up = F.linear(x, own.gate_up[expert], first).chunk(2, dim=-1)
        return F.linear(self.gated(gate, up), own.down[expert], second)
