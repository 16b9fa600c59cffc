"""Small float64 problems for the tests of the Hessian-free optimizers."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ravine.hessian_free import HessianFree, MomentumHessianFree, Step

Made = tuple[nn.Module, HessianFree | MomentumHessianFree]


class Quadratic(nn.Module):
    """Rows x -> x w; with `half_square` the loss has the Hessian X'X / rows in w."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().mean()


def quadratic(eigenvalues: Tensor, seed: int = 0) -> tuple[Quadratic, Tensor, Tensor, Tensor]:
    """(model at zero, inputs, targets, minimizer) with these eigenvalues of the Hessian, in a random frame."""
    size = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    frame = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    minimizer = torch.randn(size, generator=generator, dtype=torch.float64)
    x = (size * eigenvalues).sqrt()[:, None] * frame.T
    return Quadratic(size), x, x @ minimizer, minimizer


def data(rows: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0).long()


def restless() -> nn.Sequential:
    """A net with dropout and BatchNorm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3)).double()


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(
    kind: type[HessianFree] | type[MomentumHessianFree], model: nn.Module, steps: int = 4, **settings: Any
) -> tuple[Tensor, list[Step]]:
    """The weights after some steps on `data`, with the results."""
    model = copy.deepcopy(model)
    optimizer = kind(model, F.cross_entropy, **settings)
    results = [optimizer.step(*data()) for _ in range(steps)]
    return weights(model), results
