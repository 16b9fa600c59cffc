"""The rules against hand-worked steps, torch, independent transcriptions in NumPy and closed forms."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ravine.errors import UserError
from ravine.rules import RULES, WEIGHT_DECAY, Adam, Hyper, Rule, get

NAMES = ("sgd", "momentum", "nesterov", "ema-momentum", "adagrad", "rmsprop", "signsgd", "signum", "adam")
ALL = [*RULES.values(), Adam(bias_correction=False)]
IDS = [*RULES, "adam-uncorrected"]
every_rule = pytest.mark.parametrize("rule", ALL, ids=IDS)


def defaults(rule: Rule) -> dict[str, float]:
    values = {name: hyper.default for name, hyper in rule.hyper.items()}
    return {name: value for name, value in values.items() if value is not None}


def tensors(values: dict[str, float], step: int) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in {**values, "step": step}.items()}


def zeros(rule: Rule, param: Tensor) -> dict[str, Tensor]:
    return {name: torch.zeros_like(param) for name in rule.slots}


def trajectory(
    rule: Rule, param: Tensor, grads: list[Tensor], hyper: Callable[[int], dict[str, float]] | dict[str, float]
) -> list[Tensor]:
    """The parameter after each step; hyper-parameters by the step counted from 1, or constant."""
    param, state, path = param.clone(), zeros(rule, param), []
    for step, grad in enumerate(grads, start=1):
        values = hyper(step) if callable(hyper) else {**defaults(rule), **hyper}
        rule.update(param, grad, state, tensors(values, step))
        path.append(param.clone())
    return path


def random_gradients(shape: tuple[int, ...], dtype: torch.dtype, count: int = 20) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(5)
    draw = [torch.randn(shape, dtype=dtype, generator=generator) for _ in range(count + 1)]
    return draw[0], draw[1:]


# Hand-worked steps.

ROOT = math.sqrt
MOVES = {
    "sgd": [0.1, 0.2, -0.1],
    "momentum": [0.1, 0.29, 0.161],
    "nesterov": [0.19, 0.461, 0.0449],
    "ema-momentum": [0.01, 0.029, 0.0161],
    "adagrad": [0.1, 0.2 / ROOT(5), -0.1 / ROOT(6)],
    "rmsprop": [0.1 / ROOT(0.1), 0.2 / ROOT(0.49), -0.1 / ROOT(0.541)],
    "signsgd": [0.1, 0.1, -0.1],
    "signum": [0.1, 0.1, 0.1],
    "adam": [0.1, 0.029 / 0.19 / ROOT(0.49 / 0.19), 0.0161 / 0.271 / ROOT(0.541 / 0.271)],
    "adam-uncorrected": [0.01 / ROOT(0.1), 0.029 / ROOT(0.49), 0.0161 / ROOT(0.541)],
}
"""What each step takes off w: lr .1, gradients 1, 2, -1, and .9 for every average."""


@pytest.mark.parametrize(("rule", "name"), list(zip(ALL, IDS, strict=True)), ids=IDS)
def test_hand_worked_steps(rule: Rule, name: str) -> None:
    # The velocities are 1, 2.9, 1.61 in heavy-ball form and a tenth of it in EMA form; the squares average to .1, .49
    # and .541, and the bias corrections of Adam are .1, .19 and .271.
    hyper = {**{key: 0.9 for key in ("momentum", "alpha", "beta1", "beta2") if key in rule.hyper}, "lr": 0.1}
    if "eps" in rule.hyper:
        hyper["eps"] = 0.0
    grads = [torch.tensor([g], dtype=torch.float64) for g in (1.0, 2.0, -1.0)]
    path = trajectory(rule, torch.zeros(1, dtype=torch.float64), grads, hyper)
    assert [-w.item() for w in path] == pytest.approx(list(np.cumsum(MOVES[name])), rel=1e-13)


@pytest.mark.parametrize(("name", "after"), [("sgd", 0.99), ("momentum", 0.99), ("adam", 0.9), ("rmsprop", 0.0)])
def test_weight_decay_is_coupled(name: str, after: float) -> None:
    # w = 1, zero gradient, lr .1, decay .1: the decay goes through the rule, so that the size of w does not matter to
    # Adam (a step of lr) nor to RMSProp (a step of 10 lr).
    hyper = {"lr": 0.1, "weight_decay": 0.1}
    path = trajectory(get(name), torch.ones(1, dtype=torch.float64), [torch.zeros(1, dtype=torch.float64)], hyper)
    assert path[0].item() == pytest.approx(after, abs=2e-6)


def test_eps_of_adam_is_added_after_the_bias_correction() -> None:
    # With g = eps the corrected root is eps, so the first step is lr / 2; were it before, the step would be .031 lr.
    g = torch.tensor([1e-8], dtype=torch.float64)
    assert trajectory(Adam(), torch.zeros_like(g), [g], {})[0].item() == pytest.approx(-0.5e-3, rel=1e-12)


def test_the_sign_of_zero_is_zero() -> None:
    w = torch.tensor([3.0, 3.0, 3.0])
    g = torch.tensor([0.0, -2.0, 1e-30])
    for name in ("signsgd", "signum"):
        assert trajectory(get(name), w, [g], {"lr": 1.0})[0].tolist() == [3.0, 4.0, 2.0]


# Against torch and against NumPy, with hyper-parameters that change midway.


def changing(values: dict[str, float]) -> Callable[[int], dict[str, float]]:
    """The learning rate and every fraction change at steps 7 and 13."""
    factor = {"lr": (1.0, 0.3, 2.0), **dict.fromkeys(("momentum", "alpha", "beta1", "beta2"), (1.0, 0.7, 0.95))}
    return lambda step: {
        name: value * factor.get(name, (1.0,) * 3)[(step >= 7) + (step >= 13)] for name, value in values.items()
    }


def torch_twin(name: str, w: Tensor) -> torch.optim.Optimizer:
    match name:
        case "sgd":
            return torch.optim.SGD([w], foreach=False)
        case "momentum" | "nesterov":
            return torch.optim.SGD([w], momentum=0.9, nesterov=name == "nesterov", foreach=False)
        case "adagrad":
            return torch.optim.Adagrad([w], foreach=False)
        case "rmsprop":
            return torch.optim.RMSprop([w], foreach=False)
        case _:
            return torch.optim.Adam([w], foreach=False)


# The largest distance after 20 steps, in roundings of the largest weight: the same arithmetic in another order.
# Measured: .9 for momentum, 4.3 for Nesterov (two terms are added to w one after the other), 1.4 for the rest.
ROUNDINGS = {"sgd": 0, "momentum": 2, "nesterov": 8, "adagrad": 2, "rmsprop": 2, "adam": 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 7, 64, 65, 100_000])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", ROUNDINGS)
def test_equals_torch(name: str, decay: float, size: int, dtype: torch.dtype) -> None:
    rule = get(name)
    start, grads = random_gradients((size,), dtype)
    hyper = changing({**defaults(rule), **({"weight_decay": decay} if decay else {})})
    theirs = start.clone().requires_grad_()
    optimizer = torch_twin(name, theirs)
    for step, grad in enumerate(grads, start=1):
        values = hyper(step)
        if "beta1" in values:
            values["betas"] = (values.pop("beta1"), values.pop("beta2"))  # type: ignore[assignment]
        optimizer.param_groups[0].update(values)
        theirs.grad = grad.clone()
        optimizer.step()
    ours = trajectory(rule, start, grads, hyper)[-1]
    distance = (ours - theirs.detach()).abs().max().item()
    assert distance <= ROUNDINGS[name] * torch.finfo(dtype).eps * start.abs().max().item()


def numpy_steps(
    name: str, w: np.ndarray, grads: list[np.ndarray], hyper: Callable[[int], dict[str, float]]
) -> np.ndarray:
    """The rules as their papers print them, apart from the code under test."""
    a, b = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        h = hyper(t)
        lr = h["lr"]
        match name:
            case "sgd":
                w = w - lr * g
            case "momentum":
                a = h["momentum"] * a + g
                w = w - lr * a
            case "nesterov":
                a = h["momentum"] * a + g
                w = w - lr * (g + h["momentum"] * a)
            case "ema-momentum":
                a = h["momentum"] * a + (1 - h["momentum"]) * g
                w = w - lr * a
            case "adagrad":
                a = a + g**2
                w = w - lr * g / (np.sqrt(a) + h["eps"])
            case "rmsprop":
                a = h["alpha"] * a + (1 - h["alpha"]) * g**2
                w = w - lr * g / (np.sqrt(a) + h["eps"])
            case "signsgd":
                w = w - lr * np.sign(g)
            case "signum":
                a = h["momentum"] * a + (1 - h["momentum"]) * g
                w = w - lr * np.sign(a)
            case _:
                a = h["beta1"] * a + (1 - h["beta1"]) * g
                b = h["beta2"] * b + (1 - h["beta2"]) * g**2
                m, s = (a, b) if name != "adam" else (a / (1 - h["beta1"] ** t), b / (1 - h["beta2"] ** t))
                w = w - lr * m / (np.sqrt(s) + h["eps"])
    return w


@pytest.mark.parametrize(("rule", "name"), list(zip(ALL, IDS, strict=True)), ids=IDS)
def test_equals_a_transcription_in_numpy(rule: Rule, name: str) -> None:
    start, grads = random_gradients((5, 13), torch.float64)
    hyper = changing(defaults(rule))
    expected = numpy_steps(name, start.numpy(), [g.numpy() for g in grads], hyper)
    np.testing.assert_allclose(trajectory(rule, start, grads, hyper)[-1].numpy(), expected, rtol=1e-13, atol=1e-14)


# Closed forms on quadratics.


def on_quadratic(name: str, product: float, momentum: float, steps: int = 4000) -> float:
    """How far from the minimum of w^2 / 2 a run from 1 ends, lr being lr times curvature."""
    rule, w = get(name), torch.ones(1, dtype=torch.float64)
    state = zeros(rule, w)
    hyper = {"lr": product, "momentum": momentum} if name != "sgd" else {"lr": product}
    for step in range(steps):
        rule.update(w, w.clone(), state, tensors(hyper, step + 1))
    return abs(w.item())


LIMITS: dict[str, Callable[[float], float]] = {
    "sgd": lambda mu: 2.0,
    "momentum": lambda mu: 2 + 2 * mu,
    "nesterov": lambda mu: (2 + 2 * mu) / (1 + 2 * mu),
    "ema-momentum": lambda mu: 2 * (1 + mu) / (1 - mu),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_limit_of_stability(name: str, momentum: float) -> None:
    limit = LIMITS[name](momentum)
    assert on_quadratic(name, 0.99 * limit, momentum) < 1e-3
    assert on_quadratic(name, 1.01 * limit, momentum) > 1e3


def test_ema_form_is_heavy_ball_form_at_another_learning_rate() -> None:
    start, grads = random_gradients((40,), torch.float64, 50)
    # The momentum is constant, the learning rate is not.
    heavy = trajectory(get("momentum"), start, grads, lambda t: {"lr": 0.1 / t, "momentum": 0.9})
    ema = trajectory(get("ema-momentum"), start, grads, lambda t: {"lr": 0.1 / t / (1 - 0.9), "momentum": 0.9})
    torch.testing.assert_close(torch.stack(ema), torch.stack(heavy), rtol=1e-13, atol=1e-13)


def test_momentum_zero_is_gradient_descent() -> None:
    start, grads = random_gradients((40,), torch.float32)
    plain = torch.stack(trajectory(get("sgd"), start, grads, {"lr": 0.1}))
    for name in ("momentum", "nesterov", "ema-momentum"):
        assert torch.equal(torch.stack(trajectory(get(name), start, grads, {"lr": 0.1, "momentum": 0.0})), plain)


def test_nesterov_is_that_of_the_paper_seen_from_its_look_ahead_point() -> None:
    # Sutskever et al. 2013, Eq. 3 and 4, on a quadratic with curvatures c; the stored point is theta + mu v.
    c, lr, mu = torch.tensor([1.0, 10.0, 50.0], dtype=torch.float64), 0.02, 0.9
    theta, velocity = torch.ones_like(c), torch.zeros_like(c)
    rule, w = get("nesterov"), torch.ones_like(c)
    state = zeros(rule, w)
    for step in range(1, 101):
        velocity = mu * velocity - lr * c * (theta + mu * velocity)
        theta = theta + velocity
        rule.update(w, c * w, state, tensors({"lr": lr, "momentum": mu}, step))
        torch.testing.assert_close(w, theta + mu * velocity, rtol=0, atol=1e-13)
        torch.testing.assert_close(w + lr * mu * state["momentum_buffer"], theta, rtol=0, atol=1e-13)


# Properties of every rule.


@every_rule
def test_every_hyper_parameter_changes_the_trajectory(rule: Rule) -> None:
    start, grads = random_gradients((8,), torch.float64, 5)
    grads[2] = -grads[2] * 3  # so that no sign is the same throughout
    usual = torch.stack(trajectory(rule, start, grads, {}))
    changed = {"lr": 0.3, "momentum": 0.1, "alpha": 0.5, "beta1": 0.2, "beta2": 0.3, "eps": 0.1, "weight_decay": 0.9}
    assert set(rule.hyper) <= set(changed)
    for name in (*rule.hyper, "weight_decay"):
        assert not torch.allclose(torch.stack(trajectory(rule, start, grads, {name: changed[name]})), usual, rtol=1e-6)


@every_rule
def test_the_gradient_is_only_read(rule: Rule) -> None:
    start, (grad,) = random_gradients((65,), torch.float32, 1)
    kept = grad.clone()
    trajectory(rule, start, [grad], {"weight_decay": 0.1})
    assert torch.equal(grad, kept)


shapes = st.tuples(st.integers(1, 4), st.integers(0, 70))


@every_rule
@settings(max_examples=20, deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**20), wide=st.booleans(), decay=st.booleans())
def test_a_stack_of_runs_is_its_runs(rule: Rule, shape: tuple[int, int], seed: int, wide: bool, decay: bool) -> None:
    # A buffer (runs, P) with one value of each hyper-parameter per run gives bit for bit the runs one by one, whether
    # the hyper-parameters come in the dtype of the parameters or in float64.
    runs, size = shape
    generator = torch.Generator().manual_seed(seed)
    start, *grads = (torch.randn(runs, size, generator=generator) for _ in range(4))
    dtype = torch.float64 if wide else torch.float32
    names = [*rule.hyper, *(["weight_decay"] if decay else [])]
    h = {name: torch.rand(runs, 1, generator=generator, dtype=dtype) for name in names}
    stacked, state = start.clone(), zeros(rule, start)
    single, states = start.clone(), [zeros(rule, row) for row in start]
    for t, grad in enumerate(grads, start=1):
        step = torch.full((runs, 1), float(t), dtype=dtype)
        rule.update(stacked, grad, state, {**h, "step": step})
        for i in range(runs):
            scalars = {name: value[i, 0] for name, value in {**h, "step": step}.items()}
            rule.update(single[i], grad[i], states[i], scalars)
    assert torch.equal(stacked, single)
    for name in rule.slots:
        assert torch.equal(state[name], torch.stack([s[name] for s in states]))


@every_rule
@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 200), block=st.integers(1, 70), seed=st.integers(0, 2**20))
def test_block_by_block_is_the_whole(rule: Rule, size: int, block: int, seed: int) -> None:
    assert rule.elementwise
    generator = torch.Generator().manual_seed(seed)
    start, *grads = (torch.randn(size, generator=generator) for _ in range(4))
    whole = trajectory(rule, start, grads, {"lr": 0.1})[-1]
    cuts = [torch.split(g, block) for g in grads]
    parts = [
        trajectory(rule, part, [cut[i] for cut in cuts], {"lr": 0.1})[-1]
        for i, part in enumerate(torch.split(start, block))
    ]
    assert torch.equal(torch.cat(parts), whole)


@every_rule
def test_one_graph_for_a_stack_of_runs(rule: Rule) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(rule.update, backend=count, fullgraph=True)
    start, grads = random_gradients((3, 10), torch.float32, 6)
    param, plain = start.clone(), start.clone()
    state, plain_state = zeros(rule, start), zeros(rule, start)
    for step, grad in enumerate(grads, start=1):
        values = {**defaults(rule), "lr": 0.1 / step, "step": float(step)}
        h = {name: torch.full((3, 1), value) for name, value in values.items()}
        compiled(param, grad, state, h)
        rule.update(plain, grad, plain_state, h)
    assert len(graphs) == 1
    torch.testing.assert_close(param, plain, rtol=1e-5, atol=1e-6)


# Names and ranges.


def test_names() -> None:
    assert tuple(RULES) == NAMES
    assert all(get(name).name == name for name in NAMES)
    with pytest.raises(UserError, match="did you mean 'nesterov'"):
        get("nestrov")
    with pytest.raises(UserError, match="there are sgd, momentum"):
        get("xyz")


def test_ranges() -> None:
    momentum = get("momentum").hyper["momentum"]
    assert momentum.range == "[0, 1)"
    momentum.check("momentum", 0.0)
    for bad in (-0.1, 1.0, 1.5, math.nan):
        with pytest.raises(UserError, match=r"momentum is .* must lie in \[0, 1\)"):
            momentum.check("momentum", bad)
    half_open = Hyper(None, 0.0, 2.0, low_open=True, high_open=False, meaning="test")
    assert half_open.range == "(0, 2]"
    half_open.check("x", 2.0)
    with pytest.raises(UserError):
        half_open.check("x", 0.0)


@every_rule
def test_defaults_lie_in_their_ranges(rule: Rule) -> None:
    for name, hyper in {**rule.hyper, "weight_decay": WEIGHT_DECAY}.items():
        assert hyper.default is not None
        hyper.check(name, hyper.default)
