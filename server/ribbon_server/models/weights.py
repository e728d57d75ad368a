"""The loaded weights of a model or of one layer, taken one by one as the layers that hold them. Knows names, no spec."""

from torch import Tensor

from ribbon_server.distributed.base import Group
from ribbon_server.layers.activation import ActivationLayer, TorchActivation
from ribbon_server.layers.linear import LinearLayer
from ribbon_server.layers.registry import Kernels


class Weights:
    """Weights by our name behind a prefix, each taken once, the kernels that use them, and the ranks that hold the rest."""

    def __init__(self, weights: dict[str, Tensor], kernels: Kernels, group: Group, prefix: str = "") -> None:
        """`weights` is shared: what is taken is gone from it."""
        self._weights = weights
        self._prefix = prefix
        self.kernels = kernels
        self.group = group

    def of_layer(self, index: int) -> "Weights":
        """Those of one layer."""
        return Weights(self._weights, self.kernels, self.group, f"{self._prefix}layers.{index}.")

    def of_encoder(self) -> "Weights":
        """Those of the stack that reads prompts."""
        return Weights(self._weights, self.kernels, self.group, "encoder.")

    def take(self, name: str) -> Tensor:
        """A weight that must be there."""
        return self._weights.pop(self._prefix + name)

    def optional(self, name: str) -> Tensor | None:
        """A weight that some models have."""
        return self._weights.pop(self._prefix + name, None)

    def linear(self, name: str) -> LinearLayer:
        """A linear layer, with the bias of its name where there is one."""
        return self.kernels.linear(self.take(name), self.optional(f"{name}_bias"))

    def partial_linear(self, name: str) -> LinearLayer:
        """A linear layer over the inputs that this rank holds. The ranks' results add up to the whole, so only one adds the bias."""
        bias = self.optional(f"{name}_bias")
        return self.kernels.linear(self.take(name), bias if self.group.rank.index == 0 else None)

    def activation(self, name: str, *, gated: bool) -> ActivationLayer:
        """The native or fused layer where there is one, else plain torch."""
        return self.kernels.silu_mul if gated and name == "silu" else TorchActivation(name, gated=gated)
