"""What the tests of the rules share: a trajectory of a rule, step by step."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ravine.rules import Rule

Settings = Callable[[int], Mapping[str, float]] | Mapping[str, float]


def defaults(rule: Rule) -> dict[str, float]:
    values = {name: hyper.default for name, hyper in rule.hyper.items()}
    return {name: value for name, value in values.items() if value is not None}


def tensors(values: Mapping[str, float], step: int) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in {**values, "step": step}.items()}


def fresh(rule: Rule, param: Tensor, runs: int = 0) -> dict[str, Tensor]:
    """The state before the first step, for one run or for `runs` of them."""
    shape = (runs, *[1] * (param.dim() - 1)) if runs else ()
    scalars = {name: torch.full(shape, value, dtype=torch.float64) for name, value in rule.scalars.items()}
    return {**{name: torch.zeros_like(param) for name in rule.slots}, **scalars}


def trajectory(rule: Rule, param: Tensor, grads: Sequence[Tensor], hyper: Settings) -> list[Tensor]:
    """The parameter after each step; hyper-parameters by the step counted from 1, or constant."""
    param, state, path = param.clone(), fresh(rule, param), []
    for step, grad in enumerate(grads, start=1):
        values = hyper(step) if callable(hyper) else {**defaults(rule), **hyper}
        rule.update(param, grad, state, tensors(values, step))
        path.append(param.clone())
    return path


def random_gradients(shape: tuple[int, ...], dtype: torch.dtype, count: int = 20) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(5)
    draw = [torch.randn(shape, dtype=dtype, generator=generator) for _ in range(count + 1)]
    return draw[0], draw[1:]


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)
