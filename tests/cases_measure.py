"""Small float64 problems for the tests of measurement, with their dense Hessian and per-example gradients."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ravine.curvature import Objective, Operator

ROWS = 48


def data(rows: int = ROWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def objective(make: Callable[[], nn.Module] = dense, rows: int = ROWS, **options: object) -> Objective:
    return Objective(make(), [data(rows)], loss=F.cross_entropy, **options)  # type: ignore[arg-type]


@functools.cache
def dense_hessian() -> Tensor:
    """The Hessian of `objective()`, by torch's own dense transform."""
    model, (x, y) = dense(), data()
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    start = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(flat: Tensor) -> Tensor:
        pieces = torch.split(flat, [shape.numel() for shape in shapes])
        tensors = {n: piece.view(shape) for n, piece, shape in zip(names, pieces, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, tensors, (x,)), y)

    result: Tensor = torch.autograd.functional.hessian(loss, start)  # type: ignore[no-untyped-call]
    return result


def operator(matrix: Tensor) -> Operator:
    """A dense symmetric matrix as an operator."""
    return Operator(lambda vectors: vectors @ matrix, len(matrix), matrix.dtype, matrix.device)


def symmetric(eigenvalues: Sequence[float] | Tensor, seed: int = 0) -> Tensor:
    """A dense symmetric matrix with these eigenvalues."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    frame = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    matrix: Tensor = (frame * values) @ frame.T
    return matrix


def assert_unbiased(values: Sequence[float], errors: Sequence[float], truth: float, largest: float = 1.25) -> None:
    """The mean of repeats is the truth within 4 of its standard errors; the stated errors are as large as the spread.

    With a fixed number of repeats and fixed seeds: nothing stops at the first success. largest: how many times the
    spread the stated errors may be.
    """
    draws, stated = torch.tensor(values, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64)
    spread = draws.std()
    assert len(draws) == 200
    z = (draws.mean() - truth) / (spread / len(draws) ** 0.5)
    assert abs(z) < 4, f"z = {z:.2f}: mean {draws.mean():.6g}, truth {truth:.6g}"
    ratio = stated.square().mean().sqrt() / spread
    assert 0.8 < ratio < largest, f"stated errors are {ratio:.2f} times the spread"
