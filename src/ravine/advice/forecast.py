"""What a method should reach in a budget of steps: the noisy quadratic model, on measured spectra.

The loss around a point is taken as a quadratic with gradient noise (Zhang et al. 2019, "Which algorithmic choices
matter at which batch sizes?"). Its modes are not assumed: Lanczos quadrature from the gradient says how much of the
gradient lies at which curvature, Lanczos quadrature from its noise the same of the noise. The expected loss after T
steps is then exact, for every learning rate and momentum:

    sum over modes of  h/2 (mean_T^2 + variance_T),   mean_T = (M^T x_0)_w,   variance_T = sum_(k<T) s^2 (M^k q)_w^2

with the step x' = M x + q e of x = (w, v). In it theory needs no rule of thumb: where curvature limits the step within
the budget, the best momentum is far better than the best plain step; where noise does, both stop at the same floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from ravine.measure import stability_limit

MOMENTA = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
SHARES = torch.logspace(-4, 0, 61, dtype=torch.float64) * 0.95  # of the largest stable learning rate
CAREFUL = 0.25
"""Of the largest stable learning rate: the most that momentum is told to take.

The quadratic hardly cares: from far below that on, all its steep modes shrink by sqrt(b) a step. But nets sharpen as
they learn. Plain SGD then settles at the edge by itself; heavy momentum near it diverged, on the small autoencoder and
the sine of `benchmarks/advice.py`.
"""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Where a squared length lies among the curvatures: `weights` (m,), summing to it, at `curvatures` (m,) >= 0."""

    curvatures: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False)
class Landscape:
    """What the forecast needs of a point of training.

    loss: of training, minus the smallest that is possible (0 unless known). floor: how much the loss on validation rows
    lies above it, which no training step takes away. signal: |G|^2 over curvatures. noise: the squared length of the
    noise of one batch's gradient. sharpness: the largest curvature.
    """

    loss: float
    floor: float
    signal: Spectrum
    noise: Spectrum
    sharpness: float


@dataclass(frozen=True)
class Forecast:
    """The best setting of a method in the model, in heavy-ball form, and the loss that it reaches."""

    lr: float
    momentum: float
    nesterov: bool
    loss: float

    @property
    def effective_lr(self) -> float:
        """lr / (1 - momentum), which compares across momenta."""
        return self.lr / (1 - self.momentum)


def best(
    at: Landscape, steps: int, momenta: tuple[float, ...], *, nesterov: bool = False, share: float = 1.0
) -> Forecast:
    """The setting with the lowest expected loss after `steps` steps, among learning rates up to `share` of the edge."""
    found: list[Forecast] = []
    for momentum in momenta:
        edge = share * stability_limit(1.0, momentum, nesterov=nesterov) / at.sharpness
        losses = expected_loss(at, steps, SHARES * edge, momentum, nesterov=nesterov)
        k = int(losses.argmin())
        found.append(Forecast(float(SHARES[k] * edge), momentum, nesterov, float(losses[k])))
    return min(found, key=lambda one: one.loss)


def expected_loss(at: Landscape, steps: int, lr: Tensor, momentum: float, *, nesterov: bool = False) -> Tensor:
    """The expected loss after `steps` steps from rest, for learning rates (k,) in heavy-ball form: (k,)."""
    damping = damping_of(at.signal, at.loss)
    h = at.signal.curvatures + damping
    start = at.signal.weights / h.square()  # squared distances to the minimum
    reducible = float((h * start).sum()) / 2
    moved = powers(*_mode(h, lr, momentum, nesterov), steps)[0]
    mean = (h * start / 2 * moved[..., 0, 0].square()).sum(1)
    h = at.noise.curvatures + damping
    energy = powers(*_mode(h, lr, momentum, nesterov), steps)[1]
    variance = (h / 2 * at.noise.weights * energy[..., 0, 0]).sum(1)
    total = max(at.loss - reducible, 0.0) + at.floor + mean + variance
    return torch.where(total.isfinite(), total, torch.inf)


def damping_of(signal: Spectrum, loss: float) -> float:
    """The curvature to add to all modes so that the quadratic's minimum is not below zero loss; 0 if it is not.

    The model takes the gradient's flat directions for endless slopes: |G|^2 / (2 h) there exceeds the loss there is.
    The damping that leaves exactly the loss bounds the condition number to what the loss can have.
    """

    def excess(damping: float) -> float:
        return float((signal.weights / (signal.curvatures + damping)).sum()) / 2 - loss

    total = float(signal.weights.sum())
    smallest = 1e-12 * float(signal.curvatures.max()) + 1e-300
    if total == 0 or loss <= 0 or excess(smallest) <= 0:
        return smallest
    return float(brentq(excess, smallest, total / loss, xtol=1e-15, rtol=1e-10))


def powers(step: Tensor, push: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(M^count, sum over k < count of M^k q q' (M^k)') for M (..., 2, 2) and q q' (..., 2, 2), by doubling."""
    power = torch.eye(2, dtype=step.dtype).expand_as(step)
    energy = torch.zeros_like(push)
    for bit in bin(count)[2:]:
        energy = energy + power @ energy @ power.mT
        power = power @ power
        if bit == "1":
            energy = push + step @ energy @ step.mT
            power = step @ power
    return power, energy


def _mode(h: Tensor, lr: Tensor, momentum: float, nesterov: bool) -> tuple[Tensor, Tensor]:
    """M and q q' of x = (w, v) for curvatures h (m,) and learning rates (k,): (k, m, 2, 2) each."""
    rate, curve = lr[:, None].expand(-1, len(h)), h.expand(len(lr), -1)
    along = rate * (1 + momentum) if nesterov else rate  # how far w moves with a gradient of this step
    kept = rate * momentum * (momentum if nesterov else 1)  # and with the old velocity
    ones = torch.ones_like(rate)
    top = torch.stack([1 - along * curve, -kept], -1)
    bottom = torch.stack([curve, momentum * ones], -1)
    push = torch.stack([-along, ones], -1)
    return torch.stack([top, bottom], -2), push[..., :, None] * push[..., None, :]
