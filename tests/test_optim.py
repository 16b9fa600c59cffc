"""The drop-in optimizers against torch's contract, each test over the whole table."""

import copy
import doctest
import functools
import inspect
import io
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ravine.optim
from cases_rules import fresh
from ravine.errors import UserError
from ravine.optim import (
    OF_RULE,
    SGD,
    SGDF,
    SNGM,
    AdaGrad,
    Adam,
    AdamW,
    AggMo,
    Momentum,
    Nesterov,
    RandomScaling,
    RMSProp,
    RuleOptimizer,
    for_rule,
)
from ravine.optim import arithmetic as machinery
from ravine.rules import RULES, Rule, get
from ravine.schedules import Cosine, ExponentialScale, SutskeverMomentum

Make = Callable[..., RuleOptimizer]

TABLE: dict[str, Make] = dict(OF_RULE)
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
every = pytest.mark.parametrize("make", TABLE.values(), ids=TABLE)
SHARED = ("sngm", "random-scaling")  # whose parameters share a scalar: the norm of all, the scale of the group's step
apart = pytest.mark.parametrize(("name", "make"), [(n, make) for n, make in TABLE.items() if n not in SHARED])
FLOAT64 = {"nadam": 1e-6}  # torch keeps its mu_product in float32
twins = pytest.mark.parametrize(("make", "twin"), [(TABLE[name], TWINS[name]) for name in TWINS], ids=TWINS)
SHAPES = [(3, 4), (5,), (), (0,), (2, 0)]


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32, shapes: Any = SHAPES) -> list[Tensor]:
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


def assert_same(left: list[Tensor], right: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def keys(optimizer: RuleOptimizer) -> list[str]:
    """The hyper-parameters as group keys."""
    names = [name for name in optimizer.hyper(optimizer.param_groups[0]) if not name.startswith("beta")]
    return [*names, *(["betas"] if "betas" in optimizer.defaults else [])]


def rule_of(optimizer: RuleOptimizer) -> Rule:
    return optimizer.rule_of(optimizer.param_groups[0])


def through_bytes(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


# The equation.


@apart
def test_a_step_is_the_rule(name: str, make: Make) -> None:
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


@pytest.mark.parametrize("rule", RULES)
def test_the_optimizer_of_every_rule(rule: str) -> None:
    values = {name: hyper.default for name, hyper in RULES[rule].hyper.items()}
    optimizer = for_rule(rule, parameters(), {**values, "weight_decay": 0.5})  # type: ignore[dict-item]
    assert rule_of(optimizer) is optimizer.rule_of(optimizer.param_groups[0])
    assert rule_of(optimizer).name == rule
    assert optimizer.read(optimizer.param_groups[0]) == {**values, "weight_decay": 0.5}


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


def test_adam_without_bias_correction() -> None:
    params, copies = parameters(), [p.detach().clone() for p in parameters()]
    run(Adam(params, lr=0.1, betas=(0.5, 0.6), bias_correction=False), params, range(1))
    for copied, param in zip(copies, params, strict=True):
        grad = param.grad
        assert grad is not None
        torch.testing.assert_close(param.detach(), copied - 0.1 * 0.5 * grad / ((0.4 * grad**2).sqrt() + 1e-8))


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


# Sizes, layouts and dtypes.


@every
@pytest.mark.parametrize("beyond", [-1, 0, 1, 7])
def test_block_by_block_is_the_whole(make: Make, beyond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machinery, "BLOCK", 64)
    cut, whole = parameters(shapes=[(128 + beyond,)]), parameters(shapes=[(128 + beyond,)])
    run(make(cut, weight_decay=0.1), cut, range(5))
    monkeypatch.setattr(machinery, "BLOCK", 10**9)
    run(make(whole, weight_decay=0.1), whole, range(5))
    assert_same(cut, whole)


def test_blocks_are_cut_from_contiguous_tensors_only() -> None:
    def may_cut(param: Tensor) -> bool:
        return machinery.may_cut(get("momentum"), (param, param, {"momentum_buffer": param}))

    block = torch.zeros(3, machinery.BLOCK)
    assert may_cut(block)
    assert not may_cut(block.t())
    assert [point.numel() for point, _, _ in machinery.cut((block, block, {}))] == [machinery.BLOCK] * 3


@every
def test_strided_parameters_and_gradients(make: Make) -> None:
    straight = parameters(shapes=[(6, 10)])
    turned = [straight[0].detach().t().contiguous().t().requires_grad_()]
    assert not turned[0].is_contiguous()
    one, two = make(straight), make(turned)
    for step in range(5):
        give_gradients(straight, step)
        grad = straight[0].grad
        assert grad is not None
        turned[0].grad = grad.clone()  # laid out unlike its parameter
        one.step()
        two.step()
    torch.testing.assert_close(straight[0], turned[0], rtol=1e-6, atol=1e-6)  # norms are summed in another order


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [7, 64, 65])
def test_half_precision_parameters_have_single_precision_state(make: Make, dtype: torch.dtype, size: int) -> None:
    # Each step is the step of a float32 twin, whose parameter is then rounded.
    params = parameters(dtype=dtype, shapes=[(size,)])
    shadow = [params[0].detach().float().requires_grad_()]
    optimizer, twin = make(params, lr=0.1), make(shadow, lr=0.1)
    for step in range(5):
        give_gradients(params, step)
        grad = params[0].grad
        assert grad is not None
        shadow[0].grad = grad.float()
        optimizer.step()
        twin.step()
        shadow[0].data.copy_(shadow[0].to(dtype))
        assert torch.equal(params[0].float(), shadow[0])
    assert all(optimizer.state[params[0]][name].dtype == torch.float32 for name in rule_of(optimizer).slots)


@pytest.mark.parametrize("make", [make for name, make in TABLE.items() if name != "sngm"])
def test_mixed_dtypes_and_groups_are_stepped_as_if_alone(make: Make) -> None:
    def make_params() -> list[Tensor]:
        return [*parameters(1), *parameters(2, torch.float64), *parameters(3, torch.bfloat16)]

    together, alone = make_params(), make_params()
    half = len(together) // 2
    groups = [{"params": together[:half]}, {"params": together[half:], "lr": 0.3, "weight_decay": 0.1}]
    run(make(groups, lr=0.1), together, range(5))
    first, second = make(alone[:half], lr=0.1), make(alone[half:], lr=0.3, weight_decay=0.1)
    for step in range(5):
        give_gradients(alone, step)
        first.step()
        second.step()
    assert_same(together, alone)


# Gradients.


@every
def test_the_gradient_is_only_read(make: Make) -> None:
    params = parameters()
    optimizer = make(params, weight_decay=0.1, maximize=True)
    give_gradients(params, 0)
    before = [p.grad for p in params]
    kept = [g.clone() for g in before if g is not None]
    optimizer.step()
    assert all(p.grad is g for p, g in zip(params, before, strict=True))
    assert_same([p.grad for p in params if p.grad is not None], kept)


@apart
def test_late_missing_and_frozen_gradients(name: str, make: Make) -> None:
    early, late, never = parameters(shapes=[(4,), (4,), (4,)])
    alone = late.detach().clone().requires_grad_()
    start = never.detach().clone()
    optimizer, twin = make([early, late, never], lr=0.1), make([alone], lr=0.1)
    for step in range(8):
        give_gradients([early, late, alone], step)
        alone.grad = late.grad
        if step < 3 or step == 5:
            late.grad = None
        else:
            twin.step()
        optimizer.step()
    assert torch.equal(late, alone)
    assert torch.equal(never, start)
    assert never not in optimizer.state


@every
def test_a_closure_runs_with_grad_and_its_loss_comes_back(make: Make) -> None:
    (param,) = parameters(shapes=[(3,)])
    optimizer = make([param])
    start = param.detach().clone()

    def closure() -> float:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    assert optimizer.step(closure) == pytest.approx((start**2).sum().item())
    assert not torch.equal(param, start)
    give_gradients([param], 0)
    assert optimizer.step() is None


@every
@pytest.mark.parametrize("bad", [0, 2])
def test_a_skipped_step_leaves_everything_alone(make: Make, bad: int) -> None:
    params, twins = parameters(shapes=[(9,)]), parameters(shapes=[(9,)])
    optimizer, twin = make(params, lr=0.1), make(twins, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(5):
        weights = torch.randn(9, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = (params[0] * weights).sum() * (math.inf if step == bad else 1.0)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        if step != bad:
            twins[0].grad = weights
            twin.step()
    assert_same(params, twins)
    for name, value in optimizer.state[params[0]].items():
        assert torch.equal(value, twin.state[twins[0]][name])


# Names and ranges.


@every
def test_misspelt_names_raise(make: Make) -> None:
    optimizer = make(parameters())
    with pytest.raises(TypeError, match="momentun"):
        make(parameters(), momentun=0.9)
    for name in keys(optimizer):
        wrong = name[:-1] + "q"
        with pytest.raises(UserError, match=f"'{wrong}'"):
            make([{"params": parameters(), wrong: 0.5}])
        with pytest.raises(UserError, match=f"'{wrong}'"):
            optimizer.add_param_group({"params": parameters(1), wrong: 0.5})
        assert len(optimizer.param_groups) == 1


def test_a_misspelt_name_is_answered_by_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Momentum has no option 'momentun' for a group: did you mean 'momentum'\?"):
        Momentum([{"params": parameters(), "momentun": 0.5}])
    optimizer = Momentum(parameters())
    optimizer.param_groups[0]["momentun"] = 0.5
    with pytest.raises(UserError, match="'momentun', which was added to a group: did you mean 'momentum'"):
        optimizer.step()
    del optimizer.param_groups[0]["momentun"]
    optimizer.param_groups[0]["a key of some scheduler"] = 0.5
    optimizer.step()


WRONG: list[tuple[str, Any, str]] = [
    ("lr", -0.1, r"lr is -0.1, and must lie in \[0, inf\)"),
    ("lr", math.nan, "lr is nan"),
    ("lr", math.inf, "lr is inf"),
    ("lr", "fast", "lr is 'fast': give a number"),
    ("lr", True, "lr is True"),
    ("lr", torch.ones(2), "lr is tensor"),
    ("momentum", 1.5, r"momentum is 1.5, and must lie in \[0, 1\)"),
    ("momentum", lambda step: 1.0, r"momentum is 1, and must lie in \[0, 1\)"),
    ("betas", (0.9, 1.0), r"beta2 is 1, and must lie in \[0, 1\)"),
    ("betas", 0.9, r"betas is 0.9: give \(beta1, beta2\)"),
    ("alpha", -0.5, r"alpha is -0.5, and must lie in \[0, 1\)"),
    ("eps", -1e-8, r"eps is -1e-08, and must lie in [\[(]0, inf\)"),
    ("weight_decay", -1.0, r"weight_decay is -1, and must lie in \[0, inf\)"),
]


@every
@pytest.mark.parametrize(("name", "value", "sentence"), WRONG)
def test_values_are_checked_in_the_constructor_and_in_edited_groups(
    make: Make, name: str, value: Any, sentence: str
) -> None:
    params = parameters()
    optimizer = make(params)
    if name not in keys(optimizer):
        return
    with pytest.raises(UserError, match=sentence):
        make(parameters(), **{name: value})
    with pytest.raises(UserError, match=sentence):
        optimizer.add_param_group({"params": parameters(1), name: value})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0][name] = value
    start = [p.detach().clone() for p in params]
    give_gradients(params, 0)
    with pytest.raises(UserError, match=sentence):
        optimizer.step()
    assert_same(params, start)


@every
def test_integer_and_complex_parameters_raise(make: Make) -> None:
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(UserError, match="real numbers"):
            make([torch.zeros(3, dtype=dtype)])


# Schedules.


@every
def test_every_hyper_parameter_takes_a_schedule(make: Make) -> None:
    schedule = Cosine(0.5, 0.1, 6)
    for name in keys(make(parameters())):
        if name in rule_of(make(parameters())).foresees:
            continue  # an edited value is not known a step ahead
        ours, edited = parameters(), parameters()
        rest = make(parameters()).defaults["betas"][1:] if name == "betas" else ()
        value: Any = (schedule, *rest) if name == "betas" else schedule
        optimizer, twin = make(ours, **{name: value}), make(edited, **({"scale": 1.0} if name == "scale" else {}))
        for step in range(8):
            number = schedule(step)
            twin.param_groups[0][name] = (number, *rest) if name == "betas" else number
            run(twin, edited, range(step, step + 1))
            run(optimizer, ours, range(step, step + 1))
            assert optimizer.param_groups[0][name] == twin.param_groups[0][name]
        assert_same(ours, edited)


def test_a_group_takes_a_schedule_later_and_gives_it_up() -> None:
    params = parameters()
    optimizer = Adam(params, betas=(0.9, Cosine(0.9, 0.5, 4)))
    run(optimizer, params, range(3))
    group = optimizer.param_groups[0]
    assert group["betas"] == (0.9, Cosine(0.9, 0.5, 4)(2))
    group["lr"] = Cosine(1.0, 0.0, 10)  # counts the steps of its group, not from now
    run(optimizer, params, range(3, 4))
    assert group["lr"] == Cosine(1.0, 0.0, 10)(3)
    group["lr"] = 0.1
    with pytest.raises(UserError, match=r"lr was set to 0\.1 in a group where a schedule gives it"):
        optimizer.step()
    del group["schedules"]["lr"]
    run(optimizer, params, range(4, 5))
    assert group["lr"] == 0.1


def test_schedules_go_on_from_a_checkpoint() -> None:
    def make(params: list[Tensor]) -> Nesterov:
        return Nesterov(params, lr=Cosine(0.1, 0.0, 10), momentum=SutskeverMomentum(0.9, period=2))

    ours, resumed = parameters(), parameters()
    optimizer = make(ours)
    run(optimizer, ours, range(4))
    fresh = make(resumed)
    fresh.load_state_dict(through_bytes(optimizer.state_dict()))
    for a, b in zip(ours, resumed, strict=True):
        b.data.copy_(a)
    assert fresh.param_groups[0]["momentum"] == optimizer.param_groups[0]["momentum"] == 0.75
    run(optimizer, ours, range(4, 8))
    run(fresh, resumed, range(4, 8))
    assert_same(ours, resumed)


# Torch's schedulers.


def moves_momentum(optimizer: torch.optim.Optimizer) -> bool:
    return bool({"momentum", "betas"} & optimizer.defaults.keys())


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]] = {
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 0.1, total_steps=30, cycle_momentum=moves_momentum(o)
    ),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(
        o, 0.01, 0.1, step_size_up=5, cycle_momentum=moves_momentum(o)
    ),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
}


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
@every
def test_schedulers_of_torch(
    make: Make, schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
) -> None:
    # The values that the scheduler writes are those that are used: the twin has them written by hand.
    driven, edited = parameters(), parameters()
    optimizer, twin = make(driven), make(edited)
    scheduler = schedule(optimizer)
    seen = set()
    for step in range(20):
        group = {name: optimizer.param_groups[0][name] for name in keys(optimizer) if name != "scale"}
        seen.add(tuple(group.values()))
        twin.param_groups[0].update(group)
        run(optimizer, driven, range(step, step + 1))
        run(twin, edited, range(step, step + 1))
        scheduler.step()
    assert len(seen) > 5
    assert_same(driven, edited)


@pytest.mark.parametrize(
    "make", [TABLE[name] for name in ("momentum", "nesterov", "ema-momentum", "signum", "lion", "adam")]
)
def test_one_cycle_moves_the_momentum(make: Make) -> None:
    params = parameters()
    optimizer = make(params)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    momenta = []
    for step in range(10):
        group = optimizer.param_groups[0]
        momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
        run(optimizer, params, range(step, step + 1))
        if step < 9:
            scheduler.step()
    assert (momenta[0], min(momenta), momenta[-1]) == pytest.approx((0.95, 0.85, 0.95), abs=2e-3)


# Checkpoints and copies.


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_resuming_is_going_on(make: Make, dtype: torch.dtype) -> None:
    ours, resumed = parameters(dtype=dtype), parameters(dtype=dtype)
    optimizer = make(ours, lr=0.1)
    run(optimizer, ours, range(4))
    fresh = make(resumed, lr=0.7)
    fresh.load_state_dict(through_bytes(optimizer.state_dict()))
    for a, b in zip(ours, resumed, strict=True):
        b.data.copy_(a)
        for name, value in optimizer.state[a].items():
            assert torch.equal(fresh.state[b][name], value)
            assert fresh.state[b][name].dtype == value.dtype
    run(optimizer, ours, range(4, 8))
    run(fresh, resumed, range(4, 8))
    assert_same(ours, resumed)


@every
def test_a_load_shares_nothing(make: Make) -> None:
    ours, theirs = parameters(), parameters()
    optimizer, other = make(ours), make(theirs)
    run(optimizer, ours, range(3))
    other.load_state_dict(optimizer.state_dict())
    saved = through_bytes(optimizer.state_dict())
    run(other, theirs, range(3))
    for index, state in saved["state"].items():
        for name, value in state.items():
            assert torch.equal(optimizer.state[ours[index]][name], value)


def test_names_of_the_state() -> None:
    expected = {
        "sgd": [], "adagrad": ["sum"], "rmsprop": ["square_avg"], "signsgd": [], "lion": ["exp_avg"],
        "early-momentum": ["momentum_buffer", "step"], "sgdf": ["exp_avg", "exp_var", "step"],
        "aggmo": ["momentum_buffer_1", "momentum_buffer_2", "momentum_buffer_3"],
        "nadam": ["exp_avg", "exp_avg_sq", "mu_product", "step"],
        **{name: ["exp_avg", "exp_avg_sq", "step"] for name in ("adam", "adamw", "adamomentum", "adamp")},
    }  # fmt: skip
    for name, make in TABLE.items():
        params = parameters()
        optimizer = make(params)
        run(optimizer, params, range(1))
        assert sorted(optimizer.state[params[0]]) == expected.get(name, ["momentum_buffer"])


@twins
def test_loads_the_state_of_torch(make: Make, twin: Make, request: pytest.FixtureRequest) -> None:
    theirs, ours = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    before = twin(theirs, lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(before, lambda step: 0.5)  # leaves initial_lr in the group
    run(before, theirs, range(4))
    optimizer = make(ours)
    optimizer.load_state_dict(through_bytes(before.state_dict()))
    for a, b in zip(theirs, ours, strict=True):
        b.data.copy_(a)
    assert optimizer.param_groups[0]["lr"] == 0.05
    run(before, theirs, range(4, 8))
    run(optimizer, ours, range(4, 8))
    near = FLOAT64.get(request.node.callspec.id, 1e-14)
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=near, atol=near)


def test_the_state_of_another_rule_is_refused() -> None:
    def saved(make: Callable[..., torch.optim.Optimizer], **options: Any) -> dict[str, Any]:
        params = parameters()
        optimizer = make(params, **options)
        run(optimizer, params, range(1))
        return optimizer.state_dict()

    ema = functools.partial(Momentum, form="ema")
    refused: list[tuple[RuleOptimizer, dict[str, Any], str]] = [
        (Nesterov(parameters()), saved(Momentum), "of the rule 'momentum', and Nesterov has 'nesterov'"),
        (ema(parameters()), saved(torch.optim.SGD, momentum=0.9), "torch has no optimizer with the same rule"),
        (ema(parameters()), saved(Momentum), "of the rule 'momentum', and Momentum has 'ema-momentum'"),
        (Adam(parameters()), saved(torch.optim.AdamW), "decoupled_weight_decay=True"),
        (AdamW(parameters()), saved(torch.optim.Adam), "decoupled_weight_decay=False"),
        (Momentum(parameters()), saved(torch.optim.SGD, momentum=0.9, nesterov=True), "nesterov=True"),
        (Nesterov(parameters()), saved(torch.optim.SGD, momentum=0.9), "nesterov=False"),
        (Momentum(parameters()), saved(torch.optim.SGD, momentum=0.9, dampening=0.5), "dampening=0.5"),
        (Adam(parameters()), saved(torch.optim.Adam, amsgrad=True), "amsgrad=True"),
        (AdaGrad(parameters()), saved(torch.optim.Adagrad, lr_decay=0.1), "lr_decay=0.1"),
        (RMSProp(parameters()), saved(torch.optim.Adagrad), "without 'alpha'"),
        (Momentum(parameters(shapes=SHAPES[::-1])), saved(Momentum), r"parameter 0 has shape \(3, 4\)"),
    ]
    for optimizer, state, sentence in refused:
        with pytest.raises(UserError, match=sentence):
            optimizer.load_state_dict(state)
        assert not optimizer.state


def test_hooks_may_rewrite_what_is_loaded() -> None:
    params = parameters()
    optimizer = Momentum(params)
    run(optimizer, params, range(2))

    def double(_: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        state = {i: {"momentum_buffer": 2 * s["momentum_buffer"]} for i, s in saved["state"].items()}
        return {**saved, "state": state}

    others = parameters()
    fresh = Momentum(others)
    fresh.register_load_state_dict_pre_hook(double)
    fresh.load_state_dict(optimizer.state_dict())
    assert torch.equal(fresh.state[others[0]]["momentum_buffer"], 2 * optimizer.state[params[0]]["momentum_buffer"])


@every
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_alike(make: Make, copied: Callable[[Any], Any]) -> None:
    params = parameters()
    optimizer = make(params, lr=Cosine(0.1, 0.01, 8))
    run(optimizer, params, range(3))
    twin, twins = copied((optimizer, params))
    run(optimizer, params, range(3, 6))
    run(twin, twins, range(3, 6))
    assert_same(params, twins)
    assert twin.param_groups[0]["params"][0] is twins[0]


@apart
def test_a_group_added_midway(name: str, make: Make) -> None:
    first, second, alone = parameters(1), parameters(2), parameters(2)
    optimizer, twin = make(first), make(alone, lr=0.2)
    run(optimizer, first, range(3))
    group = {"params": second, "lr": 0.2}
    optimizer.add_param_group(group)
    assert set(group) == {"params", "lr"}  # the caller's dictionary is the caller's
    run(optimizer, second, range(3))
    run(twin, alone, range(3))
    assert_same(second, alone)


# The compiled step.


@every
def test_a_compiled_step_is_exactly_one_graph(make: Make) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    shapes = [(3, 4), (5,), ()]
    compiled, eager = parameters(shapes=shapes), parameters(shapes=shapes)
    pairs = [(make(compiled, weight_decay=0.01), compiled), (make(eager, weight_decay=0.01), eager)]
    scheduled = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)) for o, _ in pairs]
    step_of = [torch.compile(pairs[0][0].step, backend=count), pairs[1][0].step]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on what it traces
        for step in range(24):
            for (optimizer, params), do, scheduler in zip(pairs, step_of, scheduled, strict=True):
                group = optimizer.param_groups[0]
                if "momentum" in group:
                    group["momentum"] = 0.9 - 0.02 * step
                if "betas" in group:
                    group["betas"] = tuple(0.99 - 0.01 * step * k for k in range(len(group["betas"])))
                give_gradients(params, step)
                do()
                scheduler.step()
    assert len(graphs) == 1
    for a, b in zip(compiled, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_example_runs() -> None:
    assert doctest.testmod(ravine.optim).attempted > 5
    assert doctest.testmod(ravine.optim).failed == 0
