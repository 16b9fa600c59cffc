from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ravine import optim
from ravine.monitor.settings import largest, preconditioner, settings

Params = list[Tensor]


def params() -> Params:
    return [torch.ones(3, requires_grad=True)]


MAKE: dict[str, tuple[Callable[[Params], torch.optim.Optimizer], float | None, float]] = {
    "torch sgd": (lambda p: torch.optim.SGD(p, lr=0.1), 20.0, 0.0),
    "torch heavy ball": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 38.0, 0.9),
    "torch dampened": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.9), 380.0, 0.9),
    "torch nesterov": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), 13.5714285714, 0.9),
    "ours sgd": (lambda p: optim.SGD(p, lr=0.1), 20.0, 0.0),
    "ours heavy ball": (lambda p: optim.Momentum(p, lr=0.1, momentum=0.9), 38.0, 0.9),
    "ours ema": (lambda p: optim.Momentum(p, lr=0.1, momentum=0.9, form="ema"), 380.0, 0.9),
    "ours sutskever": (lambda p: optim.Momentum(p, lr=0.1, momentum=0.9, form="sutskever"), 38.0, 0.9),
    "ours nesterov": (lambda p: optim.Nesterov(p, lr=0.1, momentum=0.9), 13.5714285714, 0.9),
    "torch adam": (lambda p: torch.optim.Adam(p, lr=0.1), 380.0, 0.9),
    "torch adamw": (lambda p: torch.optim.AdamW(p, lr=0.1), 380.0, 0.9),
    "ours adam": (lambda p: optim.Adam(p, lr=0.1), 380.0, 0.9),
    "amsgrad": (lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True), None, 0.9),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5), None, 0.5),
    "lbfgs": (lambda p: torch.optim.LBFGS(p, lr=0.1), None, 0.0),
    "aggmo": (lambda p: optim.AggMo(p, lr=0.1), None, 0.0),
    "signum": (lambda p: optim.Signum(p, lr=0.1), None, 0.9),
}


@pytest.mark.parametrize("name", MAKE)
def test_momentum_and_limit_of_every_kind(name: str) -> None:
    make, limit, momentum = MAKE[name]
    optimizer = make(params())
    found = settings(optimizer, largest(optimizer))
    assert found.momentum == momentum
    assert found.limit == (None if limit is None else pytest.approx(limit))
    assert found.memory == (momentum or 0.9)


def test_the_largest_group_stands_for_all() -> None:
    optimizer = torch.optim.SGD([{"params": params(), "lr": 1.0}, {"params": [torch.ones(9)], "lr": 2.0}], lr=0.1)
    assert settings(optimizer, largest(optimizer)).lr == 2.0


def test_lr_of_zero_and_tensors() -> None:
    optimizer = torch.optim.SGD(params(), lr=torch.tensor(0.0), momentum=0.9)
    found = settings(optimizer, largest(optimizer))
    assert (found.lr, found.limit) == (0.0, None)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, optim.Adam])
def test_the_preconditioner_is_what_adam_divides_by(make: type[torch.optim.Optimizer]) -> None:
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    unseen = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = make([w, unseen], lr=0.1, eps=1e-3, betas=(0.0, 0.9), weight_decay=0.0)  # type: ignore[call-arg]
    for scale in (1.0, 2.0):
        w.grad = scale * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        before = w.detach().clone()
        optimizer.step()
    found = preconditioner(optimizer, [w, unseen], settings(optimizer, optimizer.param_groups[0]))
    assert found is not None and w.grad is not None
    torch.testing.assert_close(before - w.detach(), 0.1 * w.grad / found[:3])  # beta1 = 0: the step is lr g / D
    assert found[3:].isinf().all()
    assert len(optimizer.state) == 1  # looking made no state


def test_sgd_has_no_preconditioner() -> None:
    optimizer = torch.optim.SGD(params(), lr=0.1)
    assert preconditioner(optimizer, params(), settings(optimizer, optimizer.param_groups[0])) is None
