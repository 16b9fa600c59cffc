"""A run of a Hessian-free optimizer in the time of first-order ones: a step of theirs is one gradient on a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ravine.curvature import Linearizer
from ravine.fleet.keys import key
from ravine.fleet.single import Alone
from ravine.fleet.task import Task
from ravine.hessian_free import HessianFree, MomentumHessianFree, Step
from ravine.rules.base import Hyper, fraction
from ravine.schedules import Setting
from ravine.schedules.base import at

Optimizer: TypeAlias = HessianFree | MomentumHessianFree


@dataclass(frozen=True)
class SecondOrderMethod:
    """An optimizer with its hyper-parameters as a study writes them; `lr` is 1 / damping at the start.

    The reason for that name: under large damping a step is -gradient / damping, so it is what a learning rate is to
    gradient descent, and is searched like one. The rule of Levenberg and Marquardt may move it from there.
    """

    optimizer: type[Optimizer]
    hyper: Mapping[str, Hyper]


_SHARED = {
    "lr": Hyper(1.0, 0.0, float("inf"), low_open=True, meaning="inverse of the damping at the start"),
    "cg_steps": Hyper(20.0, 1.0, float("inf"), meaning="largest number of steps of conjugate gradients"),
    "preconditioner_power": Hyper(0.75, 0.0, 2.0, meaning="power of the preconditioner"),
    "step_size": Hyper(1.0, 0.0, float("inf"), low_open=True, meaning="rate of a step, the first of a line search"),
}


def _factor(default: float) -> Hyper:
    return Hyper(default, 1.0, float("inf"), meaning="factor by which the damping rises and falls")


_START = "share of the last direction from which conjugate gradients start"

SECOND_ORDER: Mapping[str, SecondOrderMethod] = {
    "hessian-free": SecondOrderMethod(
        HessianFree, {**_SHARED, "damping_factor": _factor(1.5), "cg_decay": fraction(0.95, _START)}
    ),
    # Its damping stays: on the mini-batch that made it a short step is always as good as its model says, so that the
    # rule of Levenberg and Marquardt takes the damping to 0.
    "momentum-hessian-free": SecondOrderMethod(
        MomentumHessianFree, {**_SHARED, "damping_factor": _factor(1.0), "momentum": fraction(0.95, _START)}
    ),
}
"""The optimizers by their names in a study."""


@lru_cache(maxsize=1)
def _linearizer(task: Task) -> Linearizer:
    """What all runs of a task share: tracing a product takes as long as ten steps."""
    return Linearizer()


class SecondOrder(Alone):
    """A fleet of one Hessian-free run; the same questions and answers as `Single`.

    A step of the optimizer costs many gradients, on the batch of the step at which it began. Nobody sees it before the
    steps that it costs have passed: until then an evaluation is one of the point before.
    """

    def __init__(self, task: Task, name: str, seed: int, hyper: Mapping[str, Setting]) -> None:
        super().__init__(task, seed)
        problem = task.problem
        assert problem.loss is not None  # which declarations check
        settings: dict[str, Any] = dict(hyper)
        settings["damping"], settings["lr"] = 1 / at(hyper["lr"], 0), settings.pop("step_size")
        settings["cg_steps"] = int(at(hyper["cg_steps"], 0))
        self._optimizer: Optimizer = SECOND_ORDER[name].optimizer(
            self._loss.model,
            problem.loss,
            weight_decay=problem.weight_decay,
            seed=key(task.study_seed, "draws", seed, 0) >> 1,
            **settings,
        )
        self._optimizer.linearizer = _linearizer(task)
        self._now, self._due = 0.0, 0.0  # in gradients on a batch: what has passed, and what is spent
        self._last = torch.zeros(1)  # the loss at the beginning of the last step
        self._before = self._point()

    def step(self, step: int) -> Tensor:
        """What a first-order method would take one gradient for; the last known training loss, shape (1,)."""
        self._loss.train()
        while self._due <= step:  # paid for, so it shows; and the next begins
            self._before = self._point()
            inputs, targets = self._batch(step)
            taken: Step = self._optimizer.step(inputs, targets)
            self._due += taken.cost
            self._last = torch.tensor([taken.loss], dtype=torch.float64)
        self._now = step + 1.0
        return self._last

    def evaluate(self, split: str) -> Tensor:
        """As `Single.evaluate`, at the last point that is paid for."""
        if self._due <= self._now:
            return super().evaluate(split)
        ahead = self._point()
        self._move(self._before)
        try:
            return super().evaluate(split)
        finally:
            self._move(ahead)

    def _point(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self._model_state().items()}

    def _move(self, point: Mapping[str, Tensor]) -> None:
        for name, tensor in self._model_state().items():
            tensor.copy_(point[name])

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, for a checkpoint."""
        saved = self._optimizer.state_dict()
        (group,) = saved["param_groups"]
        return {
            **self._point(),
            **{f"before.{name}": value for name, value in self._before.items()},
            **{f"slot.{k}": slots["direction"] for k, slots in saved["state"].items()},
            "damping": torch.tensor(group["damping"], dtype=torch.float64),
            "step": torch.tensor(group["step"]),
            "clock": torch.tensor([self._now, self._due], dtype=torch.float64),
            "last": self._last,
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._move(state)
        self._before = {name: state[f"before.{name}"] for name in self._before}
        saved = self._optimizer.state_dict()
        slots = {int(name[5:]): {"direction": value} for name, value in state.items() if name.startswith("slot.")}
        (group,) = saved["param_groups"]
        group |= {"damping": state["damping"].item(), "step": int(state["step"])}
        self._optimizer.load_state_dict({**saved, "state": slots})
        self._now, self._due = state["clock"].tolist()
        self._last = state["last"]

    def seconds_per_gradient(self, steps: int = 3) -> float:
        """Seconds that this optimizer takes for what it counts as one gradient, over some steps after the first.

        The first traces the curvature, which all runs of a task share.
        """
        self._optimizer.step(*self._batch(0))
        began, cost = time.perf_counter(), 0.0
        for number in range(1, 1 + steps):
            cost += self._optimizer.step(*self._batch(number)).cost
        return (time.perf_counter() - began) / cost
