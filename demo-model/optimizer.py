"""Muon for matrices, AdamW for the rest. https://kellerjordan.github.io/posts/muon/ , https://arxiv.org/abs/2502.16982

Equally shaped matrices are orthogonalised together, as one batched product.
"""

from dataclasses import dataclass

import torch
from processes import Share
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
ADAM_RMS = 0.2  # the update size that lets one rate fit both optimizers, arXiv 2502.16982 §2.2


@dataclass(frozen=True)
class Rates:
    """Peak learning rates and what goes with them."""

    matrices: float = 6e-3
    others: float = 2e-3
    momentum: float = 0.95
    weight_decay: float = 0.05


def orthogonalize(matrices: Tensor) -> Tensor:
    """Drives all singular values of [n, rows <= columns] matrices towards one, in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = torch.bmm(x, x.mT)
        x = a * x + torch.bmm(b * square + c * torch.bmm(square, square), x)
    return x


def wide(matrix: Tensor) -> Tensor:
    """The matrix or its transpose, whichever has at least as many columns as rows."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


class Muon:
    """Momentum with orthogonalised steps, over groups of equally shaped matrices."""

    def __init__(self, matrices: list[nn.Parameter], rates: Rates, share: Share) -> None:
        self.rates, self.share = rates, share
        self.groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for matrix in matrices:
            self.groups.setdefault(tuple(wide(matrix).shape), []).append(matrix)
        self.momenta = {key: torch.zeros(len(group), *key) for key, group in self.groups.items()}

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Moves every matrix by `scale` times the peak rate."""
        rate = self.rates.matrices * scale
        for key, group in self.groups.items():
            gradients = torch.stack([wide(matrix.grad) for matrix in group if matrix.grad is not None])
            momentum = self.momenta[key].lerp_(gradients, 1 - self.rates.momentum)
            directions = self.directions(gradients.lerp(momentum, self.rates.momentum))
            updates = directions * (rate * ADAM_RMS * max(key) ** 0.5)
            for matrix, update in zip(group, updates, strict=True):
                matrix.mul_(1 - rate * self.rates.weight_decay)
                wide(matrix).sub_(update)

    def directions(self, matrices: Tensor) -> Tensor:
        """Orthogonalises a group; each process does a part, the sum brings the parts together."""
        mine = slice(self.share.rank, None, self.share.world_size)
        parts = torch.zeros_like(matrices, dtype=torch.bfloat16)
        parts[mine] = orthogonalize(matrices[mine])
        return self.share.sum_over_all(parts).float()


class Optimizer:
    """Both optimizers over one model; state goes in and out as named tensors."""

    def __init__(self, model: nn.Module, rates: Rates, share: Share) -> None:
        named = dict(model.named_parameters())
        self.matrices = [p for name, p in named.items() if p.ndim == 2 and name != "embedding"]
        self.others = [p for name, p in named.items() if p.ndim == 1 or name == "embedding"]
        self.rates = rates
        self.muon = Muon(self.matrices, rates, share)
        self.adam = torch.optim.AdamW(self.others, lr=rates.others, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, scale: float) -> None:
        """One update at `scale` times the peak rates; clears the gradients."""
        self.adam.param_groups[0]["lr"] = self.rates.others * scale
        self.adam.step()
        self.muon.step(scale)
        for parameter in [*self.matrices, *self.others]:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Everything a restart needs."""
        tensors = {f"muon.{index}": momentum for index, momentum in enumerate(self.muon.momenta.values())}
        for index, entry in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value.clone() for name, value in entry.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for index, momentum in enumerate(self.muon.momenta.values()):
            momentum.copy_(tensors[f"muon.{index}"])
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, index, *field = name.split(".")
            if kind == "adam":
                entries.setdefault(int(index), {})[field[0]] = value
        self.adam.load_state_dict(self.adam.state_dict() | {"state": entries})
