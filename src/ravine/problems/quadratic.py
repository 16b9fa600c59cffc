"""Problems with known answers: quadratics of any spectrum, with gradient noise of a stated covariance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ravine.errors import UserError
from ravine.problems.problem import Problem

NOISE_ROWS = 4096
_NOISE_KEY = 0


class Quadratic(nn.Module):
    """f(x; z) = 1/2 x' diag(h) x + mean over rows of z_i' x, with x the parameter and h the curvatures, both (d,).

    Its gradient is diag(h) x + the mean of the rows z (batch, d).
    """

    curvature: Tensor

    def __init__(self, curvature: Tensor, start: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start.clone())
        self.register_buffer("curvature", curvature)

    def forward(self, z: Tensor) -> Tensor:
        return (self.curvature * self.x.square()).sum() / 2 + (z.mean(0) * self.x).sum()


def quadratic(
    spectrum: Sequence[float] | Tensor | None = None,
    noise: float | Sequence[float] | Tensor = 0.01,
    start: Sequence[float] | Tensor | None = None,
    batch_size: int = 16,
    steps: int = 1000,
    name: str = "quadratic",
) -> Problem:
    """A quadratic bowl with gradient noise: every rate, stability limit and stationary variance has a closed form.

    The loss on a batch of rows z_i is 1/2 x' diag(h) x + mean_i z_i' x, in float64. The rows are a fixed table of 4,096
    Gaussian draws, whitened so that their mean is 0 and their covariance C is the stated one up to rounding. Batches
    are drawn with replacement, so that the gradient's noise has covariance C / batch_size exactly; the loss over all
    rows, which is what validation and test report, is the noise-free one.

    spectrum: curvatures h (d,), each at least 0; without it 10 from 0.01 to 1 (condition number 100).
    noise: covariance C of one row's gradient: a variance, d variances, or a (d, d) matrix; 0 is the deterministic
        problem with full batches (batch_size is then without effect).
    start: the first x (d,), the same for every seed; ones without it.

    Raises UserError when a shape does not fit or C is not symmetric and positive semi-definite.
    """
    h = torch.logspace(-2, 0, 10, dtype=torch.float64) if spectrum is None else _vector("spectrum", spectrum)
    if (h < 0).any():
        raise UserError("quadratic: spectrum= holds curvatures, each at least 0")
    x = torch.ones_like(h) if start is None else _vector("start", start)
    if x.shape != h.shape:
        raise UserError(f"quadratic: start= has {len(x)} entries and the spectrum has {len(h)}; give one for each")
    rows = _rows(noise, len(h))
    return Problem(
        name=name,
        model=lambda: Quadratic(h, x),
        batch_loss=lambda model, z: model(z),
        train=rows,
        validation=rows,
        test=rows,
        batch_size=batch_size,
        steps=steps,
        dtype=torch.float64,
        sampling="with-replacement",
    )


def ravine() -> Problem:
    """The two-variable ravine that momentum was made for: curvatures 1 and 100, no noise.

    f(x) = (x_1^2 + 100 x_2^2) / 2 from the point (10, 1), where both directions add the same to the loss.
    """
    return quadratic(spectrum=(1.0, 100.0), noise=0.0, start=(10.0, 1.0), steps=100, name="ravine")


def _vector(name: str, values: Sequence[float] | Tensor) -> Tensor:
    vector = torch.as_tensor(values, dtype=torch.float64)
    if vector.ndim != 1 or len(vector) == 0 or not vector.isfinite().all():
        raise UserError(f"quadratic: {name}= must be a list of finite numbers, not {values!r}")
    return vector


def _rows(noise: float | Sequence[float] | Tensor, size: int) -> Tensor:
    """Rows with mean 0 and this covariance (divided by the number of rows), both to rounding; one zero row for none."""
    given = torch.as_tensor(noise, dtype=torch.float64)
    if given.ndim > 2 or any(length != size for length in given.shape) or not given.isfinite().all():
        raise UserError(f"quadratic: noise= must be a number, {size} variances or a {size} x {size} matrix")
    if not given.any():
        return torch.zeros(1, size, dtype=torch.float64)
    if size >= NOISE_ROWS:
        raise UserError(f"quadratic: noise needs a dimension below {NOISE_ROWS}, not {size}")
    covariance = given if given.ndim == 2 else torch.diag(given.expand(size))
    values, vectors = torch.linalg.eigh(covariance)
    if not torch.allclose(covariance, covariance.T, rtol=1e-12) or values[0] < -1e-12 * values.abs().max():
        raise UserError("quadratic: noise= is a covariance; it must be symmetric and positive semi-definite")
    draws = torch.randn(NOISE_ROWS, size, dtype=torch.float64, generator=torch.Generator().manual_seed(_NOISE_KEY))
    centred = draws - draws.mean(0)
    factor = torch.linalg.cholesky(centred.T @ centred / NOISE_ROWS)
    white = torch.linalg.solve_triangular(factor, centred.T, upper=False).T
    rows: Tensor = white @ (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return rows - rows.mean(0)
