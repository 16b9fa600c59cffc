"""What the tests of the optimizers share: all of them as one table, parameters, gradients, torch's twins."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ravine.optim import OF_RULE, RuleOptimizer
from ravine.rules import Rule

Make = Callable[..., RuleOptimizer]

TWINS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params, **kw: torch.optim.SGD(params, **kw),
    "momentum": lambda params, **kw: torch.optim.SGD(params, **{"momentum": 0.9, **kw}),
    "nesterov": lambda params, **kw: torch.optim.SGD(params, **{"momentum": 0.9, **kw}, nesterov=True),
    "adagrad": lambda params, **kw: torch.optim.Adagrad(params, **kw),
    "rmsprop": lambda params, **kw: torch.optim.RMSprop(params, **kw),
    "adam": lambda params, **kw: torch.optim.Adam(params, **kw),
    "adamw": lambda params, **kw: torch.optim.AdamW(params, **kw),
    "nadam": lambda params, **kw: torch.optim.NAdam(params, **kw),
}
"""Torch's optimizer of each rule that it has."""

FLOAT64 = {"nadam": 1e-6}
"""How far from torch's float64 steps ours may be, where it is more than rounding: torch keeps mu_product in float32."""

every = pytest.mark.parametrize("make", OF_RULE.values(), ids=OF_RULE)
twins = pytest.mark.parametrize(("make", "twin"), [(OF_RULE[name], TWINS[name]) for name in TWINS], ids=TWINS)

SHARED = ("sngm", "random-scaling")  # whose parameters share a scalar: the norm of all, the scale of the group's step
APART = {name: make for name, make in OF_RULE.items() if name not in SHARED}
apart = pytest.mark.parametrize("make", APART.values(), ids=APART)

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (0,), (2, 0)]


def parameters(
    seed: int = 0, dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] = SHAPES
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def give_gradients(params: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def run(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: range) -> None:
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


def copy_into(params: list[Tensor], others: list[Tensor]) -> None:
    """Give ``others`` the values of ``params``."""
    for param, other in zip(params, others, strict=True):
        other.data.copy_(param)


def assert_same(left: list[Tensor], right: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def assert_near(left: list[Tensor], right: list[Tensor], near: float = 1e-6) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=near, atol=near)


def rule_of(optimizer: RuleOptimizer) -> Rule:
    return optimizer.rule_of(optimizer.param_groups[0])


def keys(optimizer: RuleOptimizer) -> list[str]:
    """The hyper-parameters as group keys."""
    names = [name for name in optimizer.hyper(optimizer.param_groups[0]) if not name.startswith("beta")]
    return [*names, *(["betas"] if "betas" in optimizer.defaults else [])]


def through_bytes(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded
