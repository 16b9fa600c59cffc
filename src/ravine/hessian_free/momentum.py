"""The momentum-like Hessian-free optimizer (Sutskever, Martens, Dahl and Hinton 2013, section 5 and appendix A.6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ravine.curvature import Kind, StructuralDamping
from ravine.hessian_free.base import (
    Count,
    CurvatureOptimizer,
    Factor,
    Fraction,
    Hood,
    NonNegative,
    Positive,
    Power,
    Range,
    Step,
    ranges_of,
)
from ravine.hessian_free.search import levenberg_marquardt


class MomentumHessianFree(CurvatureOptimizer):
    """A few conjugate-gradient steps from the decayed last direction: a dial from NAG (1 step) to second order.

    With the gradient g and the curvature G on one mini-batch, A = G + (damping + weight_decay) I:

        d <- cg_steps steps of conjugate gradients on A d = -g, from momentum * d
        w <- w + lr * d

    There is no line search, and no backtracking. One step from momentum * d has the residual -(g + momentum A d), which
    on a quadratic is minus the gradient at the look-ahead point w + momentum * d: that is NAG, in Sutskever's form,
    with the learning rate r'r / r'Ar from the curvature. The paper raises momentum from .95 to .999 and lowers lr as
    500 / (t - 4000); both, as every number here, may be a schedule: a function of the step.

    damping_factor: 1 keeps the damping, and saves the loss after the step, which the reduction ratio needs. The
    other settings are those of `HessianFree`. A step to a loss that is not finite is not taken (rate 0), and the next
    starts from zero.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        *,
        lr: Positive = 1.0,
        momentum: Fraction = 0.95,
        cg_steps: Count = 50,
        damping: NonNegative = 1.0,
        damping_factor: Factor = 1.5,
        preconditioner_power: Power = 0.75,
        weight_decay: NonNegative = 0.0,
        curvature: Kind = "gauss-newton",
        structural: StructuralDamping | None = None,
        micro_batch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model,
            loss,
            locals(),
            curvature=curvature,
            structural=structural,
            micro_batch=micro_batch,
            seed=seed,
        )

    ranges: ClassVar[Mapping[str, Range]] = ranges_of(__init__)

    def step(self, inputs: Any = None, targets: Any = None) -> Step:  # type: ignore[override]
        """Take one step on a mini-batch, a row per example in dimension 0 of every tensor."""
        hood = self._hood(inputs, targets, None)
        try:
            return self._step(hood)
        except BaseException:
            hood.objective.move(hood.origin)
            raise

    def _step(self, hood: Hood) -> Step:
        group = self.param_groups[0]
        number, lr, damping, factor = group["step"], group["lr"], group["damping"], group["damping_factor"]
        solution = self._solve(
            hood,
            group["momentum"],
            group["cg_steps"],
            progress=0.0,
            tolerance=0.0,
            power=group["preconditioner_power"],
        )
        last = solution.last
        new_loss, ratio, next_damping = None, None, damping
        taken = bool(last.x.isfinite().all())
        if factor != 1:
            new_loss = hood.loss_with(lr * last.x)
            ratio = hood.ratio(last, lr, new_loss)
            next_damping = levenberg_marquardt(damping, ratio, factor)
            taken = taken and math.isfinite(new_loss)
        direction = last.x if taken else last.x.new_zeros(hood.objective.size)
        self._finish(hood, lr * last.x if taken else None, direction, next_damping)
        return Step(
            step=number,
            loss=hood.loss,
            new_loss=new_loss if taken else None,
            gradient_norm=float(hood.gradient.norm()),
            ratio=ratio,
            damping=damping,
            next_damping=next_damping,
            cg_steps=last.step,
            cg_stop=solution.stop,
            cg_step=last.step,
            rate=lr if taken else 0.0,
            cost=hood.rows / hood.objective.rows,
        )
