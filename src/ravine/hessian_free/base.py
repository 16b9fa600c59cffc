"""What the Hessian-free optimizers share: the model of the loss around a point, and a state that resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias, get_args, get_type_hints

import torch
from torch import Tensor, nn

from ravine.curvature import Curvature, Kind, Linearizer, Objective, StructuralDamping, require_finite
from ravine.errors import UserError
from ravine.fleet.keys import key, seeded
from ravine.hessian_free.cg import Iterate, Solution, Stop, conjugate_gradients
from ravine.schedules.base import Setting, at, require_count, require_number

LOSS_COST = 1 / 3  # in gradients on the same rows: a gradient takes about two more passes
LINEARIZATION_COST = 2 / 3
PRODUCT_COST = 4 / 3  # forward with tangents, and back


@dataclass(frozen=True)
class Step:
    """What a step did.

    loss, gradient_norm: before the step, on the batch, with weight decay. new_loss: after it; None where it was not
    evaluated. ratio: the reduction of the loss on the curvature batch over the predicted one; None where the damping
    is fixed. damping: that of this step; next_damping: of the next. cg_steps, cg_stop: how far conjugate gradients
    came, and why they ended; cg_step: the iterate that was taken. rate: what it was multiplied by, 0 if the step was
    rejected. cost: in gradients on the batch, all passes counted.
    """

    step: int
    loss: float
    new_loss: float | None
    gradient_norm: float
    ratio: float | None
    damping: float
    next_damping: float
    cg_steps: int
    cg_stop: Stop
    cg_step: int
    rate: float
    cost: float


@dataclass(frozen=True)
class Range:
    """Where a hyper-parameter may lie: [low, high), in (low, high) if low_open; whole numbers if `count`."""

    low: float = 0.0
    high: float = float("inf")
    low_open: bool = False
    count: bool = False


NonNegative: TypeAlias = Annotated[Setting, Range()]
Positive: TypeAlias = Annotated[Setting, Range(low_open=True)]
Count: TypeAlias = Annotated[Setting, Range(count=True)]
Factor: TypeAlias = Annotated[Setting, Range(low=1.0)]
Fraction: TypeAlias = Annotated[Setting, Range(high=1.0)]
OpenFraction: TypeAlias = Annotated[Setting, Range(high=1.0, low_open=True)]
Power: TypeAlias = Annotated[Setting, Range(high=2.0)]


def ranges_of(function: Callable[..., Any]) -> dict[str, Range]:
    """The ranges in the annotations of a function, by the names of its arguments."""
    hints = get_type_hints(function, include_extras=True)
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: mark for name, found in marks.items() for mark in found if isinstance(mark, Range)}


class Hood:
    """The neighbourhood of the parameters on a batch: losses near by, the gradient, and the damped curvature."""

    def __init__(
        self, objective: Objective, around: Objective, group: Mapping[str, Any], linearizer: Linearizer
    ) -> None:
        self.objective, self.around = objective, around
        self.origin = objective.point()
        self.decay, self.damping = float(group["weight_decay"]), float(group["damping"])
        self.rows = 0.0  # work done, in gradients of one row
        loss, self.gradient = objective.loss_and_gradient()
        self.loss = float(loss) + self._penalty(self.origin)
        self.gradient.add_(self.origin, alpha=self.decay)
        self.rows += objective.rows
        require_finite(objective, self.gradient, "at the beginning of the step")
        self._curvature = self._linearized(linearizer)

    def _linearized(self, linearizer: Linearizer) -> Curvature:
        """The curvature here; traces that do not give the loss of the model as it now is are dropped."""
        structure = self.damping * linearizer.structural.weight if linearizer.structural else 0.0
        curvature = linearizer.at(self.around, structure)
        here = self.around.loss()
        close = 1e-9 if self.around.dtype == torch.float64 else 1e-4
        if not (curvature.loss - here).abs() <= close * here.abs().clamp(min=close):
            linearizer.forget()
            curvature = linearizer.at(self.around, structure)
        self.around_loss = float(here) + self._penalty(self.origin)
        self.rows += (LOSS_COST + LINEARIZATION_COST) * self.around.rows
        return curvature

    def _penalty(self, point: Tensor) -> float:
        return 0.5 * self.decay * float(point.dot(point)) if self.decay else 0.0

    def damped(self, vector: Tensor) -> Tensor:
        """(G + (damping + weight_decay) I) v, and structural damping."""
        again = 0.0 if len(self.around.parts) == 1 else LINEARIZATION_COST
        self.rows += (PRODUCT_COST + again) * self.around.rows
        return self._curvature(vector).add_(vector, alpha=self.damping + self.decay)

    def preconditioner(self, power: float) -> Tensor | None:
        """(mean g_i^2 + damping + weight_decay)^power, (P,) (Martens 2010, section 4.7); None for power 0."""
        if power == 0:
            return None
        self.rows += self.objective.rows
        squares = self.objective.squared_gradients() + (self.damping + self.decay)
        return squares.clamp_(min=torch.finfo(squares.dtype).tiny ** 0.5).pow_(power)

    def loss_with(self, change: Tensor, *, around: bool = False) -> float:
        """The loss on the batch (on the curvature batch, if `around`) with a change of the parameters (P,)."""
        objective = self.around if around else self.objective
        point = self.origin + change
        objective.move(point)
        self.rows += LOSS_COST * objective.rows
        return float(objective.loss()) + self._penalty(point)

    def predicted(self, iterate: Iterate, rate: float) -> float:
        """The change of the loss that the model predicts for rate * x, without the damping.

        q(x) = g'x + x'Ax/2 is known, so that q(rate x) costs no product. A structural term stays in it.
        """
        slope = float(self.gradient.dot(iterate.x))
        bend = iterate.q - slope - 0.5 * self.damping * float(iterate.x.dot(iterate.x))
        return rate * slope + rate**2 * bend

    def ratio(self, iterate: Iterate, rate: float, loss: float | None = None) -> float:
        """The reduction of the loss on the curvature batch over the predicted one; NaN without a prediction below 0.

        loss: that on the batch with the change, where it is known already.
        """
        known = loss is not None and self.around is self.objective
        value = loss if known else self.loss_with(rate * iterate.x, around=True)
        assert value is not None
        predicted = self.predicted(iterate, rate)
        return (value - self.around_loss) / predicted if predicted < 0 else float("nan")


class CurvatureOptimizer(torch.optim.Optimizer):
    """The frame of a Hessian-free optimizer: checked hyper-parameters, fixed draws, and a state that resumes.

    The state is in torch's places: the hyper-parameters with the present damping, the number of steps and the seed in
    ``param_groups[0]``, the start of the next conjugate gradients as "direction" of each parameter.
    """

    ranges: ClassVar[Mapping[str, Range]]
    """Of the hyper-parameters, which are the arguments of ``__init__`` that have one."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        given: Mapping[str, Any],
        *,
        curvature: Kind,
        structural: StructuralDamping | None,
        micro_batch: int | None,
        seed: int,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise UserError(
                f"{type(self).__name__} needs the model itself, not {type(model).__name__}: give model, loss"
            )
        if curvature not in get_args(Kind):
            raise UserError(f"there is no curvature {curvature!r}: choose from {', '.join(get_args(Kind))}")
        if micro_batch is not None:
            require_count("micro_batch", micro_batch)
        settings: dict[str, Setting] = {name: given[name] for name in self.ranges}
        for name, setting in settings.items():
            self._require(name, setting)
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise UserError("the model has no parameter that requires a gradient, so there is nothing to train")
        self._model, self._loss, self._micro_batch = model, loss, micro_batch
        self._schedules = {name: setting for name, setting in settings.items() if callable(setting)}
        self.linearizer = Linearizer(curvature, structural)  # optimizers of one kind, model and loss may share it
        self._checked = False
        numbers = {name: at(setting, 0) for name, setting in settings.items()}
        super().__init__(trained, {**numbers, "seed": seed, "step": 0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one group that there is: curvature couples all parameters, so that they share all settings."""
        if self.param_groups:
            raise UserError(f"{type(self).__name__} has one group: curvature couples all parameters")
        super().add_param_group(param_group)

    def _require(self, name: str, setting: Setting) -> None:
        limits = self.ranges[name]
        if limits.count and not callable(setting):
            require_count(name, setting)  # type: ignore[arg-type]
        require_number(name, setting, limits.low, limits.high, low_open=limits.low_open)

    def _group(self) -> dict[str, Any]:
        """The group, with the hyper-parameters of this step, checked."""
        group = self.param_groups[0]
        for name, schedule in self._schedules.items():
            group[name] = schedule(group["step"])
        for name in self.ranges:
            self._require(name, group[name])
        return group

    def _hood(self, inputs: Any, targets: Any, around: tuple[Any, Any] | None) -> Hood:
        if targets is None or callable(inputs):
            raise UserError(
                f"{type(self).__name__} evaluates loss and curvature at many points of one batch, so it takes the "
                "batch and no closure: step(inputs, targets)"
            )
        group = self._group()
        objective = self._objective(inputs, targets, "step")
        other = objective if around is None else self._objective(*around, "curvature")
        return Hood(objective, other, group, self.linearizer)

    def _objective(self, inputs: Any, targets: Any, purpose: str) -> Objective:
        group = self.param_groups[0]
        return Objective(
            self._model,
            [(inputs, targets)],
            loss=self._loss,
            micro_batch=self._micro_batch,
            mode="kept",
            seed=key(group["seed"], purpose, group["step"]) >> 1,
            check=not self._began(),
        )

    def _began(self) -> bool:
        """Whether an objective was checked before: four passes over the first batch find wrong losses."""
        before, self._checked = self._checked, True
        return before

    def _solve(
        self, hood: Hood, decay: float, steps: int, *, progress: float, tolerance: float, power: float
    ) -> Solution:
        """Conjugate gradients on the damped model, from the decayed last solution."""
        pieces = [self.state[p].get("direction") for p in self.param_groups[0]["params"]]
        start = None if pieces[0] is None else hood.objective.join(pieces) * decay
        return conjugate_gradients(
            hood.damped,
            -hood.gradient,
            start,
            hood.preconditioner(power),
            steps=steps,
            progress=progress,
            tolerance=tolerance,
        )

    def _finish(self, hood: Hood, change: Tensor | None, direction: Tensor, damping: float) -> None:
        """Take a step (None: stay), keep the start of the next, and what a training pass leaves in the buffers."""
        objective, group = hood.objective, self.param_groups[0]
        objective.move(hood.origin if change is None else hood.origin + change)
        for p, piece in zip(group["params"], objective.split(direction[None]), strict=True):
            self.state[p]["direction"] = piece[0].clone()
        group["damping"] = damping
        group["step"] += 1
        if any(True for _ in self._model.buffers()):
            with torch.no_grad():
                for part in objective.parts:
                    with seeded(part.seed, objective.device):
                        self._model(part.batch[0])
            hood.rows += LOSS_COST * objective.rows
