"""Builds the feed-forward part of one layer: dense, or a router with its experts. Knows a spec and its weights, no file."""

from ribbon_server.layers.mlp import DenseFeedForward, FeedForwardLayer
from ribbon_server.layers.moe import (
    ExpertsFeedForward,
    ExpertWeights,
    Groups,
    SharedPart,
    SparseMixer,
    TopRouter,
    clamped_gate,
    plain_gate,
)
from ribbon_server.models.spec import ClampedGate, Dense, Experts, FeedForward, Router, RouterScore
from ribbon_server.models.weights import Weights


def feed_forward(part: FeedForward, weights: Weights) -> FeedForwardLayer:
    """The layer for either kind."""
    return dense(part, weights) if isinstance(part, Dense) else experts(part, weights)


def dense(part: Dense, weights: Weights, prefix: str = "") -> DenseFeedForward:
    """Two linear layers around an activation."""
    return DenseFeedForward(
        gate_up=weights.linear(f"{prefix}gate_up"),
        activation=weights.activation(part.activation.value, gated=part.gated),
        down=weights.partial_linear(f"{prefix}down"),
        intermediate=part.intermediate,
    )


def experts(part: Experts, weights: Weights) -> ExpertsFeedForward:
    """A router, its experts, and what they share."""
    shared = None
    if part.shared is not None:
        shared = SharedPart(dense(part.shared, weights, "shared_"), weights.optional("shared_gate"))
    gate = part.activation
    gated = clamped_gate(gate.slope, gate.limit) if isinstance(gate, ClampedGate) else plain_gate(gate.value)
    own, first = expert_weights(part, weights), weights.group.rank.index * part.num_experts
    return ExpertsFeedForward(own, router(part.router), gated, shared, part.router.scales_input, first)


def expert_weights(part: Experts, weights: Weights) -> ExpertWeights:
    """With a dimension for the rank's own experts; the router knows all of them."""
    count = (part.num_experts, -1)
    gate_up_bias, down_bias = (weights.optional(f"experts_{name}_bias") for name in ("gate_up", "down"))
    return ExpertWeights(
        router=weights.take("router"),
        router_bias=weights.optional("router_bias"),
        correction=weights.optional("router_correction"),
        gate_up=weights.take("experts_gate_up").unflatten(0, count),
        gate_up_bias=None if gate_up_bias is None else gate_up_bias.unflatten(0, count),
        down=weights.take("experts_down").unflatten(0, count),
        down_bias=None if down_bias is None else down_bias.unflatten(0, count),
    )


def router(part: Router) -> TopRouter | SparseMixer:
    """What picks experts."""
    if part.score is RouterScore.SPARSE_MIXER:
        return SparseMixer(part.top_k, part.tolerance)
    groups = None if part.groups is None else Groups(part.groups.count, part.groups.chosen, part.groups.counted)
    is_sigmoid = part.score is RouterScore.SIGMOID
    return TopRouter(part.top_k, is_sigmoid, part.is_renormalized, part.scale, groups)
