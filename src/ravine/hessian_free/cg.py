"""Preconditioned conjugate gradients for A x = b, with what Hessian-free optimization asks of them (Martens 2010)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Stop: TypeAlias = Literal["progress", "residual", "negative curvature", "steps", "not finite"]
"""Why the iteration ended: little relative progress, a small residual, p'Ap <= 0, all steps done, an overflow."""


@dataclass(frozen=True)
class Iterate:
    """x after `step` steps, and q(x) = x'Ax/2 - b'x there."""

    step: int
    x: Tensor
    q: float


@dataclass(frozen=True)
class Solution:
    """The iterates that were saved, the last one always, in order."""

    iterates: list[Iterate]
    stop: Stop

    @property
    def last(self) -> Iterate:
        """The last iterate."""
        return self.iterates[-1]


def spaced(step: int) -> bool:
    """Martens' spacing of saved iterates: the steps ceil(5 * 1.3^j), j = 0, 1, ... (2010, section 4.6)."""
    if step < 5:
        return False
    j = math.floor(math.log(step / 5) / math.log(1.3))
    return step in {math.ceil(5 * 1.3**k) for k in (j - 1, j, j + 1) if k >= 0}


def progress_window(step: int) -> int:
    """k = max(10, ceil(step / 10)): over how many steps progress is judged (2010, section 4.4)."""
    return max(10, -(-step // 10))


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    start: Tensor | None = None,
    preconditioner: Tensor | None = None,
    *,
    steps: int,
    progress: float = 0.0,
    tolerance: float = 0.0,
    save: Callable[[int], bool] = spaced,
) -> Solution:
    """Minimizes q(x) = x'Ax/2 - b'x for a symmetric A given by its products, from `start` (zeros).

    b, start: (P,). preconditioner: the diagonal M (P,), above zero, like A: the iteration runs on M^-1/2 A M^-1/2.
    It ends at step i, with

    - "progress": q_i < 0, q_(i-k) < 0 and (q_i - q_(i-k)) / q_i < k * progress, k = `progress_window(i)` < i;
    - "residual": |b - A x| <= tolerance |b|, so that tolerance 0 asks for an exact solution;
    - "negative curvature": a direction p with p'Ap <= 0, which is not taken;
    - "steps": after `steps` steps; "not finite": a product overflowed, and the last good iterate is the result.

    save: which steps' iterates are kept beside the last.
    """
    x = torch.zeros_like(b) if start is None else start.clone()
    r = b.clone() if start is None else b - product(x)
    z = r if preconditioner is None else r / preconditioner
    p = z.clone()
    rz, enough = float(r.dot(z)), tolerance * float(b.norm())
    values = [-0.5 * float(x.dot(b + r))]
    saved: list[Iterate] = []
    stop: Stop = "steps"
    for step in range(1, steps + 1):
        if float(r.norm()) <= enough or rz == 0:
            stop = "residual"
            break
        image = product(p)
        bend = float(p.dot(image))
        if not (math.isfinite(bend) and math.isfinite(rz)):
            stop = "not finite"
            break
        if bend <= 0:
            stop = "negative curvature"
            break
        rate = rz / bend
        x.add_(p, alpha=rate)
        r.sub_(image, alpha=rate)
        values.append(-0.5 * float(x.dot(b + r)))
        z = r if preconditioner is None else r / preconditioner
        before, rz = rz, float(r.dot(z))
        p.mul_(rz / before).add_(z)
        if save(step):
            saved.append(Iterate(step, x.clone(), values[-1]))
        k = progress_window(step)
        below = step > k and max(values[-1], values[-1 - k]) < 0
        if progress and below and 1 - values[-1 - k] / values[-1] < k * progress:
            stop = "progress"
            break
    done = len(values) - 1
    if not saved or saved[-1].step != done:
        saved.append(Iterate(done, x, values[-1]))
    return Solution(saved, stop)
