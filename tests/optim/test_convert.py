"""Conversion between the forms of momentum in the middle of training: the trajectory stays, to rounding in float64."""

import copy
import doctest
import importlib
from collections.abc import Callable
from itertools import permutations
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ravine.errors import UserError
from ravine.optim import SGD, Adam, Momentum, Nesterov, RuleOptimizer, convert
from ravine.schedules import FORMS, Cosine, Form, Piecewise, Setting, StepDecay, from_dict, to_dict

Kind: TypeAlias = type[Momentum] | type[Nesterov]
PAIRS = list(permutations(FORMS, 2))
every_pair = pytest.mark.parametrize(("source", "target"), PAIRS)
both = pytest.mark.parametrize("kind", [Momentum, Nesterov])
STEPS = 20


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (4,), ())
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def slopes(params: list[Tensor], step: int) -> None:
    """Gradients of quadratics with curvatures up to 1, with noise."""
    generator = torch.Generator().manual_seed(step)
    for param in params:
        curvature = torch.linspace(0, 1, max(param.numel(), 1), dtype=torch.float64).view(param.shape)
        noise = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        param.grad = curvature * param.detach() + noise


def walk(
    optimizer: torch.optim.Optimizer,
    before: Callable[[torch.optim.Optimizer, int], torch.optim.Optimizer] = lambda optimizer, _: optimizer,
) -> Tensor:
    """All parameters after each step; ``before`` each one the optimizer may be changed, or be another one."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    path = []
    for step in range(STEPS):
        optimizer = before(optimizer, step)
        slopes(params, step)
        optimizer.step()
        path.append(torch.cat([param.detach().flatten() for param in params]))
    return torch.stack(path)


def at_step(when: int, form: Form) -> Callable[[torch.optim.Optimizer, int], torch.optim.Optimizer]:
    return lambda optimizer, step: convert(optimizer, form) if step == when else optimizer


def assert_same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-11 * float(right.abs().max()))


def table(numbers: list[float]) -> Setting:
    return Piecewise(tuple(numbers), tuple(range(1, len(numbers))))


rates = st.floats(0.01, 0.3)
# Slowly varying, so that every form stays in its range: momentum below 1.
slow_rates = st.lists(st.floats(0.1, 0.12), min_size=STEPS + 2, max_size=STEPS + 2).map(table)
slow_momenta = st.lists(st.floats(0.5, 0.55), min_size=STEPS + 2, max_size=STEPS + 2).map(table)


@both
@every_pair
@settings(max_examples=10, deadline=None)
@given(lr=rates, momentum=st.floats(0.0, 0.95), decay=st.sampled_from([0.0, 0.1]), when=st.integers(0, STEPS))
def test_numbers(kind: Kind, source: Form, target: Form, lr: float, momentum: float, decay: float, when: int) -> None:
    def make() -> RuleOptimizer:
        return kind(parameters(), lr=lr, momentum=momentum, form=source, weight_decay=decay)

    assert_same(walk(make(), at_step(when, target)), walk(make()))


@every_pair
@settings(max_examples=10, deadline=None)
@given(
    lr=st.one_of(rates, slow_rates), momentum=st.one_of(st.floats(0.0, 0.8), slow_momenta), when=st.integers(0, STEPS)
)
def test_classical_momentum_with_schedules(
    source: Form, target: Form, lr: Setting, momentum: Setting, when: int
) -> None:
    def make() -> RuleOptimizer:
        return Momentum(parameters(), lr=lr, momentum=momentum, form=source)

    assert_same(walk(make(), at_step(when, target)), walk(make()))


@pytest.mark.parametrize(("source", "target"), [("heavy-ball", "ema"), ("ema", "heavy-ball")])
@settings(max_examples=10, deadline=None)
@given(lr=slow_rates, momentum=st.floats(0.0, 0.95), when=st.integers(0, STEPS))
def test_nesterov_with_a_schedule_of_the_learning_rate(
    source: Form, target: Form, lr: Setting, momentum: float, when: int
) -> None:
    def make() -> RuleOptimizer:
        return Nesterov(parameters(), lr=lr, momentum=momentum, form=source)

    assert_same(walk(make(), at_step(when, target)), walk(make()))


@both
@settings(max_examples=20, deadline=None)
@given(
    forms=st.dictionaries(st.integers(0, STEPS), st.sampled_from(FORMS), max_size=6),
    edits=st.dictionaries(st.integers(0, STEPS), st.tuples(rates, st.floats(0.0, 0.95)), max_size=4),
    start=st.sampled_from(FORMS),
)
def test_learning_rate_and_momentum_edited_midway(
    kind: Kind, forms: dict[int, Form], edits: dict[int, tuple[float, float]], start: Form
) -> None:
    # Whoever edits learning rate and momentum of one form does it in that form; between edits any form will do.
    def edited(optimizer: torch.optim.Optimizer, step: int) -> torch.optim.Optimizer:
        if step in edits:
            group = optimizer.param_groups[0]
            group["lr"], group["momentum"] = edits[step]
        return optimizer

    def wandering(optimizer: torch.optim.Optimizer, step: int) -> torch.optim.Optimizer:
        if step in edits:
            optimizer = edited(convert(optimizer, start), step)
        return convert(optimizer, forms[step]) if step in forms else optimizer

    def make() -> RuleOptimizer:
        return kind(parameters(), lr=0.1, momentum=0.9, form=start)

    assert_same(walk(make(), wandering), walk(make(), edited))


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_from_torch(target: Form, nesterov: bool, maximize: bool) -> None:
    def make() -> torch.optim.SGD:
        first, *rest = parameters()
        groups = [{"params": [first], "lr": torch.tensor(0.05)}, {"params": rest, "weight_decay": 0.1}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=nesterov, maximize=maximize)

    new = convert(make(), target)
    assert isinstance(new, Nesterov if nesterov else Momentum)
    assert [group["form"] for group in new.param_groups] == [target, target]
    for when in (0, 7):
        assert_same(walk(make(), at_step(when, target)), walk(make()))


@pytest.mark.parametrize(("source", "target"), [("heavy-ball", "ema"), ("ema", "heavy-ball")])
@both
def test_a_scheduler_of_torch_goes_on(kind: Kind, source: Form, target: Form) -> None:
    def make(optimizer: torch.optim.Optimizer, last: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step, last_epoch=last)

    def trained(when: int) -> Tensor:
        scheduler: list[torch.optim.lr_scheduler.LRScheduler] = []

        def before(optimizer: torch.optim.Optimizer, step: int) -> torch.optim.Optimizer:
            if step == 0:
                scheduler.append(make(optimizer, -1))
            else:
                scheduler[-1].step()
            if step == when:
                optimizer = convert(optimizer, target)
                scheduler.append(make(optimizer, step - 1))
            return optimizer

        return walk(kind(parameters(), lr=0.1, momentum=0.9, form=source), before)

    assert_same(trained(8), trained(-1))


def test_the_stored_state_is_as_derived() -> None:
    optimizer = Momentum(parameters(), lr=0.2, momentum=0.75)
    walk(optimizer)
    for form, factor, lr in (("ema", 0.25, 0.8), ("sutskever", -0.2, 0.2), ("heavy-ball", 1.0, 0.2)):
        new = convert(optimizer, form)  # type: ignore[arg-type]
        assert new.param_groups[0]["lr"] == pytest.approx(lr)
        for param in new.param_groups[0]["params"]:
            old = optimizer.state[param]["momentum_buffer"]
            torch.testing.assert_close(new.state[param]["momentum_buffer"], factor * old)
            assert new.state[param]["momentum_buffer"].data_ptr() != old.data_ptr()


@pytest.mark.parametrize("form", FORMS)
def test_the_stored_point_is_the_look_ahead_of_the_paper(form: Form) -> None:
    # Sutskever et al. 2013, Eq. 3 and 4, for theta; the gradient is that at the look-ahead point.
    lr, mu = 0.1, 0.8
    params = parameters()
    theta, v = [param.detach().clone() for param in params], [torch.zeros_like(param) for param in params]
    optimizer = convert(Nesterov(params, lr=lr, momentum=mu), form)
    for step in range(STEPS):
        slopes(params, step)
        for k, param in enumerate(params):
            assert param.grad is not None
            v[k] = mu * v[k] - lr * param.grad
            theta[k] = theta[k] + v[k]
        optimizer.step()
    group = optimizer.param_groups[0]
    for k, param in enumerate(params):
        buffer = optimizer.state[param]["momentum_buffer"]
        ahead = mu * buffer * (-1.0 if form == "sutskever" else group["lr"])
        torch.testing.assert_close(param.detach() + ahead, theta[k], rtol=1e-12, atol=1e-12)


def test_groups_names_steps_and_late_parameters() -> None:
    first, second, third = parameters()
    named = [("first", first), ("second", second)]
    lr = StepDecay(0.1, 0.5, (3, 6))
    groups = [
        {"params": named, "lr": lr, "momentum": 0.5, "name": "body"},
        {"params": [("third", third)], "lr": 0.2, "form": "ema"},
    ]
    optimizer = Momentum(groups, momentum=0.9)
    for step in range(4):
        slopes([first, third], step)  # the second has no gradient yet
        optimizer.step()
    new = convert(optimizer, "sutskever")
    body, head = new.param_groups
    assert (body["name"], body["param_names"], head["param_names"]) == ("body", ["first", "second"], ["third"])
    assert (body["step"], head["step"], body["lr"], head["lr"]) == (4, 4, 0.05, pytest.approx(0.02))
    assert second not in new.state
    slopes([first, second, third], 4)
    new.step()
    assert second.grad is not None
    assert (new.state[second]["momentum_buffer"] == -0.05 * second.grad).all()


def test_half_precision_keeps_its_state_in_float32() -> None:
    weight = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert convert(optimizer, "ema").state[weight]["momentum_buffer"].dtype == torch.float32


def test_converted_schedules_are_stored() -> None:
    optimizer = Momentum(parameters(), lr=Cosine(0.2, 0.1, 30), momentum=Cosine(0.5, 0.6, 30))
    schedules = convert(optimizer, "ema").param_groups[0]["schedules"]
    for schedule in schedules.values():
        plain = to_dict(schedule)
        assert plain is not None
        assert from_dict(plain) == schedule


def test_a_converted_optimizer_resumes() -> None:
    def make() -> RuleOptimizer:
        momentum = Cosine(0.5, 0.6, 30)
        return convert(Momentum(parameters(), lr=Cosine(0.2, 0.1, 30), momentum=momentum), "ema")

    def resumed(optimizer: torch.optim.Optimizer, step: int) -> torch.optim.Optimizer:
        if step == 9:
            new = Momentum(optimizer.param_groups[0]["params"], form="ema")
            new.load_state_dict(optimizer.state_dict())
            return new
        return optimizer

    assert torch.equal(walk(make(), resumed), walk(make()))


def test_converting_changes_nothing_in_the_old_one() -> None:
    optimizer = Momentum(parameters(), lr=0.1, momentum=0.9)
    walk(optimizer)
    params = [param.detach().clone() for param in optimizer.param_groups[0]["params"]]
    saved = copy.deepcopy(optimizer.state_dict())
    convert(optimizer, "sutskever")
    assert str(optimizer.state_dict()) == str(saved)
    assert all(map(torch.equal, params, optimizer.param_groups[0]["params"]))


def warm(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    walk(optimizer)
    return optimizer


def stopped(form: Form) -> torch.optim.Optimizer:
    optimizer = warm(Momentum(parameters(), lr=0.1, momentum=0.9, form=form))
    optimizer.param_groups[0]["lr"] = 0.0
    return optimizer


def mixed() -> torch.optim.Optimizer:
    first, *rest = parameters()
    groups: list[dict[str, Any]] = [{"params": [first], "nesterov": True}, {"params": rest}]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("make", "form", "words"),
    [
        (lambda: Adam(parameters()), "ema", "Adam has no forms of momentum"),
        (lambda: SGD(parameters()), "ema", "SGD has no forms of momentum"),
        (lambda: torch.optim.SGD(parameters(), lr=0.1, momentum=0.9, dampening=0.1), "ema", "set dampening to 0"),
        (mixed, "ema", "give each kind an optimizer"),
        (lambda: Momentum(parameters()), "polyak", "no form 'polyak'"),
        (lambda: stopped("heavy-ball"), "sutskever", "next step is 0"),
        (lambda: stopped("sutskever"), "heavy-ball", "next step is 0"),
        (lambda: Nesterov(parameters(), momentum=Cosine(0.9, 0.5, 9)), "ema", "only while momentum is constant"),
        (lambda: Nesterov(parameters(), lr=Cosine(0.9, 0.5, 9)), "sutskever", "learning rate and momentum are"),
    ],
)
def test_what_cannot_be_converted(make: Callable[[], torch.optim.Optimizer], form: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        convert(make(), form)


def test_momentum_that_the_target_cannot_have_is_refused_at_its_step() -> None:
    optimizer = convert(Momentum(parameters(), lr=0.1, momentum=Piecewise((0.9, 0.99), (3,)), form="ema"), "heavy-ball")
    with pytest.raises(UserError, match=r"momentum is 9\.9"):
        walk(optimizer)


def test_its_example() -> None:
    module = importlib.import_module("ravine.optim.convert")
    assert doctest.testmod(module).attempted > 2
    assert doctest.testmod(module).failed == 0
