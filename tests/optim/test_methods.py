"""Each optimizer steps as its rule does, and as torch's where torch has the rule; its own options and defaults."""

import doctest
import functools
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ravine.optim
from cases_optim import (
    FLOAT64,
    Make,
    apart,
    assert_same,
    every,
    give_gradients,
    keys,
    parameters,
    rule_of,
    run,
    twins,
)
from cases_rules import fresh
from ravine.errors import UserError
from ravine.optim import (
    OF_RULE,
    SGD,
    SGDF,
    SNGM,
    Adam,
    AdamW,
    AggMo,
    Momentum,
    Nesterov,
    RandomScaling,
    batches,
    for_rule,
)
from ravine.rules import RULES
from ravine.schedules import ExponentialScale, SutskeverMomentum


@apart
def test_a_step_is_the_rule(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        batches, "kernel_of", lambda rule, numel=0: None
    )  # test_kernels.py has what torch's are equal to
    params, copies = parameters(), [p.detach().clone() for p in parameters()]
    optimizer = make(params, lr=0.1, weight_decay=0.01)
    rule, read = rule_of(optimizer), optimizer.read(optimizer.param_groups[0])
    states = [fresh(rule, p) for p in copies]
    for step in range(1, 11):
        give_gradients(params, step)
        optimizer.step()
        h = {name: torch.tensor(value, dtype=torch.float64) for name, value in {**read, "step": step}.items()}
        for param, copied, state in zip(params, copies, states, strict=True):
            assert param.grad is not None
            rule.update(copied, param.grad, state, h)
    assert_same(params, copies)


@twins
def test_equals_torch_while_groups_are_edited(make: Make, twin: Make, request: pytest.FixtureRequest) -> None:
    # Learning rate and momentum change midway; maximize and the weight decay are on.
    ours, theirs = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    options = {"lr": 0.1, "weight_decay": 0.02, "maximize": True}
    pairs = [(make(ours, **options), ours), (twin(theirs, **options), theirs)]
    for step in range(20):
        for optimizer, params in pairs:
            group = optimizer.param_groups[0]
            if step in (7, 13):
                group["lr"] *= 0.5
                if group.get("momentum"):
                    group["momentum"] = 1 - step / 20
                if "betas" in group:
                    group["betas"] = (1 - step / 20, 0.9)
            run(optimizer, params, range(step, step + 1))
    near = FLOAT64.get(request.node.callspec.id, 1e-14)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=near, atol=near)


@every
def test_every_argument_changes_the_trajectory(make: Make) -> None:
    def ends(**options: Any) -> Tensor:
        params = parameters(shapes=[(3, 3)])
        run(make(params, **options), params, range(5))
        return params[0].detach()

    arguments = set(inspect.signature(make).parameters) - {"params"}
    projects = {"delta": 3.0, "weight_decay": 0.1} if "delta" in arguments else {}
    usual = ends(**projects)
    changed = {
        "lr": 0.3, "momentum": 0.2, "alpha": 0.5, "eps": 0.5, "weight_decay": 0.9, "nu": 0.2, "until": 2.0,
        "scale": 3.0, "momentum_decay": 5.0, "delta": 0.01, "wd_ratio": 0.7, "gain": "2K", "nesterov": True,
        "maximize": True, "bias_correction": False, "form": "ema" if "sutskever" in str(make) else "sutskever",
    }  # fmt: skip
    trials: list[dict[str, Any]] = [{name: changed[name]} for name in arguments - {"betas"}]
    if "betas" in arguments:
        betas = make(parameters()).defaults["betas"]
        trials += [{"betas": (*betas[:k], 0.2, *betas[k + 1 :])} for k in range(len(betas))]
    for options in trials:
        if "form" in options:
            options = {**options, "lr": lambda step: 0.1 / (step + 1)}  # under which all forms differ
            assert not torch.allclose(ends(**options), ends(lr=options["lr"]), rtol=1e-5, atol=1e-7)
        assert not torch.allclose(ends(**{**projects, **options}), usual, rtol=1e-5, atol=1e-7), options


@pytest.mark.parametrize("rule", RULES)
def test_the_optimizer_of_every_rule(rule: str) -> None:
    values = {name: hyper.default for name, hyper in RULES[rule].hyper.items()}
    optimizer = for_rule(rule, parameters(), {**values, "weight_decay": 0.5})  # type: ignore[dict-item]
    assert rule_of(optimizer) is optimizer.rule_of(optimizer.param_groups[0])
    assert rule_of(optimizer).name == rule
    assert optimizer.read(optimizer.param_groups[0]) == {**values, "weight_decay": 0.5}


@every
def test_defaults_are_those_of_the_rule(make: Make) -> None:
    optimizer = make(parameters())
    expected = {name: hyper.default for name, hyper in optimizer.hyper(optimizer.param_groups[0]).items()}
    if isinstance(optimizer, AdamW):
        expected["weight_decay"] = 0.01  # as torch
    if isinstance(optimizer, RandomScaling):
        expected["scale"] = ExponentialScale(seed=0)(0)
    assert optimizer.read(optimizer.param_groups[0]) == pytest.approx(expected, rel=1e-15)


@twins
def test_defaults_are_those_of_torch(make: Make, twin: Make) -> None:
    optimizer, theirs = make(parameters()), twin(parameters())
    for name in keys(optimizer):
        assert optimizer.defaults[name] == theirs.defaults[name]


def test_one_norm_for_all_parameters_of_all_groups() -> None:
    params = [*parameters(1), *parameters(2, torch.float64), *parameters(3, torch.bfloat16)]
    copies = [p.detach().clone().double() for p in params]
    groups: list[dict[str, Any]] = [{"params": params[:7]}, {"params": params[7:], "lr": 0.2, "weight_decay": 0.5}]
    optimizer = SNGM(groups, momentum=0.0)
    give_gradients(params, 0)
    grads = [p.grad.double() + (0 if k < 7 else 0.5) * copies[k] for k, p in enumerate(params) if p.grad is not None]
    norm = torch.cat([grad.flatten() for grad in grads]).norm()
    optimizer.step()
    for k, (param, copied, grad) in enumerate(zip(params, copies, grads, strict=True)):
        expected = (copied - (0.1 if k < 7 else 0.2) * grad / norm).to(param.dtype)
        torch.testing.assert_close(param.detach(), expected, rtol=1e-6, atol=1e-6 if k < 10 else 1e-2)


def test_a_random_scale_is_a_function_of_the_step() -> None:
    params, copies = parameters(shapes=[(3,), (4,)]), parameters(shapes=[(3,), (4,)])
    scale = ExponentialScale(seed=4)
    optimizer, plain = RandomScaling(params, lr=0.1, momentum=0.0, scale=scale), SGD(copies, lr=0.1)
    for step in range(4):
        plain.param_groups[0]["lr"] = 0.1 * scale(step)
        run(plain, copies, range(step, step + 1))
        run(optimizer, params, range(step, step + 1))
        assert optimizer.param_groups[0]["scale"] == scale(step)
    for a, b in zip(params, copies, strict=True):
        torch.testing.assert_close(a, b)


def test_nesterov_in_sutskevers_form_sees_the_next_momentum_of_its_schedule() -> None:
    (param,), mu = parameters(shapes=[(4,)], dtype=torch.float64), SutskeverMomentum(0.99, period=3)
    theta, velocity = param.detach().clone(), torch.zeros(4, dtype=torch.float64)
    optimizer = Nesterov([param], lr=0.1, momentum=mu, form="sutskever")
    for t in range(20):
        param.grad = (theta + mu(t) * velocity) * 3  # the gradient of 1.5 w^2 at the look-ahead point
        velocity = mu(t) * velocity - 0.1 * param.grad
        theta = theta + velocity
        optimizer.step()
        torch.testing.assert_close(param.detach(), theta + mu(t + 1) * velocity, rtol=0, atol=1e-14)
        assert optimizer.param_groups[0]["momentum"] == mu(t)


def test_any_number_of_velocities_in_any_group() -> None:
    first, second, alone = parameters(1), parameters(2), parameters(2)
    groups: list[dict[str, Any]] = [{"params": first}, {"params": second, "betas": (0.5,)}]
    one = AggMo(groups, lr=0.1)
    two = Momentum(alone, lr=0.1, momentum=0.5)
    run(one, [*first], range(3))
    for step in range(3):
        give_gradients(alone, step)
        for a, b in zip(alone, second, strict=True):
            b.grad = a.grad
        one.step()
        two.step()
    for a, b in zip(second, alone, strict=True):
        torch.testing.assert_close(a, b)
    assert sorted(one.state[first[0]]) == ["momentum_buffer_1", "momentum_buffer_2", "momentum_buffer_3"]
    assert sorted(one.state[second[0]]) == ["momentum_buffer_1"]
    with pytest.raises(UserError, match=r"betas is \(\): give at least one number"):
        AggMo(parameters(), betas=())


def test_a_form_or_gain_that_does_not_exist_raises() -> None:
    wrong: list[tuple[Make, dict[str, Any], str]] = [
        (Momentum, {"form": "Ema"}, "no form 'Ema' of momentum: did you mean 'ema'"),
        (Nesterov, {"form": "polyak"}, "there are heavy-ball, ema, sutskever"),
        (SGDF, {"gain": "root"}, "no gain 'root': there are K, 2K, sqrt"),
    ]
    for make, options, sentence in wrong:
        with pytest.raises(UserError, match=sentence):
            make(parameters(), **options)
    optimizer = Momentum(parameters())
    optimizer.param_groups[0]["form"] = "ema"
    with pytest.raises(UserError, match="changed from momentum to ema-momentum"):
        optimizer.step()


def test_adam_without_bias_correction() -> None:
    params, copies = parameters(), [p.detach().clone() for p in parameters()]
    run(Adam(params, lr=0.1, betas=(0.5, 0.6), bias_correction=False), params, range(1))
    for copied, param in zip(copies, params, strict=True):
        grad = param.grad
        assert grad is not None
        torch.testing.assert_close(param.detach(), copied - 0.1 * 0.5 * grad / ((0.4 * grad**2).sqrt() + 1e-8))


def test_the_example_runs() -> None:
    assert doctest.testmod(ravine.optim).attempted > 5
    assert doctest.testmod(ravine.optim).failed == 0


def test_the_page_has_every_optimizer_with_its_defaults() -> None:
    page = (Path(__file__).parents[2] / "docs/optimizers.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", page, re.MULTILINE))
    classes = {make.func if isinstance(make, functools.partial) else make for make in OF_RULE.values()}
    assert rows.keys() == {one.__name__ for one in classes}
    for one in classes:
        optimizer = one(parameters())
        group = optimizer.param_groups[0]
        usual = {name: group[name] for name in inspect.signature(one).parameters if name not in ("params", "maximize")}
        if "scale" in usual:
            usual["scale"] = group["schedules"]["scale"]
        if not usual["weight_decay"]:
            del usual["weight_decay"]
        stated = dict(re.findall(r"`(\w+)=([^`]+)`", rows[one.__name__].split("|")[2]))
        assert stated.keys() == usual.keys()
        for name, text in stated.items():
            assert text == str(usual[name]).replace("200.0", "200").replace("(0.0, ", "(0, ")
