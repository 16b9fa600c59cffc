"""Hessian-free optimization (Martens 2010; Martens and Sutskever 2011, 2012)."""

from __future__ import annotations

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
    OpenFraction,
    Positive,
    Power,
    Range,
    Step,
    ranges_of,
)
from ravine.hessian_free.search import backtrack, levenberg_marquardt, line_search


class HessianFree(CurvatureOptimizer):
    """Minimizes ``loss(model(inputs), targets) + weight_decay |w|^2 / 2`` by truncated Newton steps.

    With the gradient g on the batch and the curvature G on the curvature batch, a step

    1. runs conjugate gradients on (G + (damping + weight_decay) I) d = -g, preconditioned by M = (mean g_i^2 +
       damping + weight_decay)^preconditioner_power, from cg_decay times their last iterate of the step before, until
       progress over k = max(10, i/10) steps is below k * cg_progress, relatively, or the residual below cg_tolerance,
       or the curvature is not positive, or cg_steps are done;
    2. goes back over saved iterates while the loss on the batch improves;
    3. compares the reduction of the loss on the curvature batch with that of the undamped model: below 1/4 the damping
       is multiplied by damping_factor, above 3/4 divided;
    4. takes the first rate lr * shrink^j with loss <= old loss + armijo * rate * g'd; none of 60: no step, and the next
       conjugate gradients start from zero.

    model: its parameters that require gradients are trained. loss: (outputs, targets) -> the mean over the rows.
    curvature: "gauss-newton", "hessian" or "empirical-fisher". structural: damping of hidden states. micro_batch: rows
    evaluated at once, which bounds the memory; BatchNorm then sees so many. seed: of draws in the model and of signs
    in the preconditioner; within a step all passes see the same draws, and BatchNorm's statistics move once, at its
    end. Every number may be a schedule, a function of the step; the damping's then replaces the rule of point 3.

    ``step(inputs, targets)`` returns a `Step`. ``state_dict`` resumes exactly, beside that of the model. Raises
    UserError in a sentence where the loss, the batch or a setting is wrong, or a gradient not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        *,
        damping: NonNegative = 1.0,
        damping_factor: Factor = 1.5,
        cg_steps: Count = 250,
        cg_progress: NonNegative = 5e-4,
        cg_tolerance: NonNegative = 0.0,
        cg_decay: Fraction = 0.95,
        preconditioner_power: Power = 0.75,
        weight_decay: NonNegative = 0.0,
        lr: Positive = 1.0,
        armijo: Fraction = 0.01,
        shrink: OpenFraction = 0.8,
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

    def step(  # type: ignore[override]  # a batch in place of a closure
        self, inputs: Any = None, targets: Any = None, *, curvature: tuple[Any, Any] | None = None
    ) -> Step:
        """Take one step on a batch, a row per example in dimension 0 of every tensor.

        curvature: (inputs, targets) of a smaller batch for the curvature; the whole batch if None.
        """
        hood = self._hood(inputs, targets, curvature)
        try:
            return self._step(hood)
        except BaseException:
            hood.objective.move(hood.origin)  # a step that was broken off was not taken
            raise

    def _step(self, hood: Hood) -> Step:
        group = self.param_groups[0]
        number, damping = group["step"], group["damping"]
        solution = self._solve(
            hood,
            group["cg_decay"],
            group["cg_steps"],
            progress=group["cg_progress"],
            tolerance=group["cg_tolerance"],
            power=group["preconditioner_power"],
        )
        chosen, lowest = backtrack(solution.iterates, hood.loss_with)
        lr = group["lr"]
        known = {1.0: lowest}
        ratio = hood.ratio(chosen, lr, known.get(lr))
        next_damping = levenberg_marquardt(damping, ratio, group["damping_factor"])
        rate, new_loss = line_search(
            lambda rate: known[rate] if rate in known else hood.loss_with(rate * chosen.x),
            hood.loss,
            float(hood.gradient.dot(chosen.x)),
            first=lr,
            shrink=group["shrink"],
            armijo=group["armijo"],
        )
        taken = rate > 0
        direction = solution.last.x if taken else solution.last.x.new_zeros(hood.objective.size)
        self._finish(hood, rate * chosen.x if taken else None, direction, next_damping)
        return Step(
            step=number,
            loss=hood.loss,
            new_loss=new_loss,
            gradient_norm=float(hood.gradient.norm()),
            ratio=ratio,
            damping=damping,
            next_damping=next_damping,
            cg_steps=solution.last.step,
            cg_stop=solution.stop,
            cg_step=chosen.step,
            rate=rate,
            cost=hood.rows / hood.objective.rows,
        )
