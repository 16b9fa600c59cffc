"""The rules against hand-worked steps, torch, independent transcriptions in NumPy and closed forms."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases_rules import defaults, fresh, random_gradients, tensors, trajectory
from ravine.errors import UserError
from ravine.rules import RULES, SGDP, WEIGHT_DECAY, Adam, AdamP, FilteredDescent, Hyper, Rule, get

VARIANTS: dict[str, Rule] = {
    "adam-uncorrected": Adam(bias_correction=False),
    "sgdf-K": FilteredDescent("K"),
    "sgdf-2K": FilteredDescent("2K"),
    "sgdp-nesterov": SGDP(nesterov=True),
    "adamp-nesterov": AdamP(nesterov=True),
}
ALL = [*RULES.values(), *VARIANTS.values()]
IDS = [*RULES, *VARIANTS]
every_rule = pytest.mark.parametrize("rule", ALL, ids=IDS)


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
    "ema-nesterov": [0.019, 0.0461, 0.00449],
    "sutskever-momentum": [0.1, 0.29, 0.161],
    "sutskever-nesterov": [0.19, 0.461, 0.0449],
    "early-momentum": [0.1, 0.29, -0.1],  # until step 2
    "qhm": [0.055, 0.1145, -0.04195],  # nu .5
    "aggmo": [0.1, 0.74 / 3, 0.086 / 3],  # velocities 1, 2, -1; 1, 2.5, .25; 1, 2.9, 1.61
    "sngm": [0.1, 0.19, 0.071],  # unit gradients 1, 1, -1
    "random-scaling": [0.02, 0.058, 0.0322],  # scale 2
    "sgdp": [0.1, 0.29, 0.161],
    "sgdp-nesterov": [0.19, 0.461, 0.0449],
    "lion": [0.1, 0.1, 0.1],
    "adamomentum": [1.0, 0.029 / 0.19 / ROOT(0.00931 / 0.19), 0.0161 / 0.271 / ROOT(0.0109711 / 0.271)],
}
"""What each step takes off w: lr .1, gradients 1, 2, -1, and .9 for every average."""
MOVES |= {name: MOVES["adam"] for name in ("adamw", "adamp")}
MOVES["adamp-nesterov"] = [0.019 / 0.1, 0.0461 / 0.19 / ROOT(0.49 / 0.19), 0.00449 / 0.271 / ROOT(0.541 / 0.271)]
MOVES["nadam"] = [  # momentum .45 throughout
    0.1 * (0.45 * m / (1 - 0.45 ** (t + 1)) + 0.55 * g / (1 - 0.45**t)) / ROOT(s)
    for t, m, g, s in ((1, 0.1, 1, 1), (2, 0.29, 2, 0.49 / 0.19), (3, 0.161, -1, 0.541 / 0.271))
]


def filtered(gain: Callable[[float], float]) -> list[float]:
    """SGDF: averages .1, .29, .161; mean squared deviations .081, .36531, .4635711; variance of the average."""
    moves = []
    for t, g, m, s in ((1, 1, 0.1, 0.081), (2, 2, 0.29, 0.36531), (3, -1, 0.161, 0.4635711)):
        mean, of_mean = m / (1 - 0.9**t), s * 0.1 * (1 + 0.9**t) / 1.9
        moves.append(0.1 * (mean + gain(of_mean / (of_mean + (g - mean) ** 2)) * (g - mean)))
    return moves


MOVES |= {"sgdf": filtered(ROOT), "sgdf-K": filtered(lambda k: k), "sgdf-2K": filtered(lambda k: 2 * k)}
SPECIAL: dict[str, dict[str, float]] = {
    "early-momentum": {"until": 2.0},
    "qhm": {"nu": 0.5},
    "aggmo": {"beta1": 0.0, "beta2": 0.5, "beta3": 0.9},
    "random-scaling": {"scale": 2.0},
    "nadam": {"momentum_decay": 0.0},
    "adamomentum": {"eps": 1e-30},
}


@pytest.mark.parametrize(("rule", "name"), list(zip(ALL, IDS, strict=True)), ids=IDS)
def test_hand_worked_steps(rule: Rule, name: str) -> None:
    # The velocities are 1, 2.9, 1.61 in heavy-ball form and a tenth of it in EMA form; the squares average to .1, .49
    # and .541, and the bias corrections of Adam are .1, .19 and .271.
    hyper = {**{key: 0.9 for key in ("momentum", "alpha", "beta1", "beta2") if key in rule.hyper}, "lr": 0.1}
    if "eps" in rule.hyper:
        hyper["eps"] = 0.0
    hyper |= SPECIAL.get(name, {})
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
    shares = ("momentum", "alpha", "beta1", "beta2", "beta3", "nu", "scale")
    factor = {"lr": (1.0, 0.3, 2.0), "momentum_decay": (1.0, 9.0, 0.5), **dict.fromkeys(shares, (1.0, 0.7, 0.95))}
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
        case "nadam":
            return torch.optim.NAdam([w], foreach=False)
        case "adamw":
            return torch.optim.AdamW([w], foreach=False)
        case _:
            return torch.optim.Adam([w], foreach=False)


@pytest.fixture
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


# The largest distance after 20 steps, in roundings of the largest weight: the same arithmetic in another order.
# Measured: .9 for momentum, 4.3 for Nesterov (two terms are added to w one after the other), 1.4 for the rest.
ROUNDINGS = {"sgd": 0, "momentum": 2, "nesterov": 8, "adagrad": 2, "rmsprop": 2, "adam": 2, "adamw": 2, "nadam": 8}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 65, 10_000])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", ROUNDINGS)
@pytest.mark.usefixtures("default_dtype")
def test_equals_torch(name: str, decay: float, size: int, dtype: torch.dtype) -> None:
    rule = get(name)
    start, grads = random_gradients((size,), dtype)
    hyper = changing({**defaults(rule), **({"weight_decay": decay} if decay else {})})
    theirs = start.clone().requires_grad_()
    optimizer = torch_twin(name, theirs)
    torch.set_default_dtype(torch.float64)  # in which torch then keeps the mu_product of NAdam, as we do
    for step, grad in enumerate(grads, start=1):
        values = hyper(step)
        if "beta1" in values:
            values["betas"] = (values.pop("beta1"), values.pop("beta2"))  # type: ignore[assignment]
        optimizer.param_groups[0].update({**values, "weight_decay": decay})
        theirs.grad = grad.clone()
        optimizer.step()
    ours = trajectory(rule, start, grads, hyper)[-1]
    distance = (ours - theirs.detach()).abs().max().item()
    assert distance <= ROUNDINGS[name] * torch.finfo(dtype).eps * start.abs().max().item()


def without_part_along(w: np.ndarray, g: np.ndarray, step: np.ndarray, h: dict[str, float]) -> np.ndarray:
    """The projection of AdamP: rows first, then the whole."""
    for shape in (w.shape, (1, w.size)):
        rows, slopes, moves = (x.reshape(shape) for x in (w, g, step))
        units = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + h["eps"])
        cosines = np.abs((units * slopes).sum(1)) / np.linalg.norm(slopes, axis=1)
        if cosines.max() < h["delta"] / math.sqrt(shape[1]):
            projected: np.ndarray = moves - units * (units * moves).sum(1, keepdims=True)
            return projected.reshape(w.shape)
    return step


def numpy_steps(
    name: str, w: np.ndarray, grads: list[np.ndarray], hyper: Callable[[int], dict[str, float]]
) -> np.ndarray:
    """The rules as their papers print them, apart from the code under test."""
    a, b, c, product, norm = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w), 1.0, np.linalg.norm
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
            case "ema-nesterov":
                a = h["momentum"] * a + (1 - h["momentum"]) * g
                w = w - lr * ((1 - h["momentum"]) * g + h["momentum"] * a)
            case "sutskever-momentum":
                a = h["momentum"] * a - lr * g
                w = w + a
            case "sutskever-nesterov":
                theta, a = w - h["momentum"] * a, h["momentum"] * a - lr * g
                w = theta + a + hyper(t + 1)["momentum"] * a
            case "early-momentum":
                a = (h["momentum"] if t <= h["until"] else 0) * a - lr * g
                w = w + a
            case "qhm":
                a = h["momentum"] * a + (1 - h["momentum"]) * g
                w = w - lr * ((1 - h["nu"]) * g + h["nu"] * a)
            case "aggmo":
                a, b, c = h["beta1"] * a + g, h["beta2"] * b + g, h["beta3"] * c + g
                w = w - lr / 3 * (a + b + c)
            case "sngm":
                a = h["momentum"] * a + g / norm(g)
                w = w - lr * a
            case "random-scaling":
                a = h["momentum"] * a + (1 - h["momentum"]) * g
                w = w - h["scale"] * lr * a
            case "sgdf" | "sgdf-K" | "sgdf-2K":
                b1, b2 = h["beta1"], h["beta2"]
                a = b1 * a + (1 - b1) * g
                b = b2 * b + (1 - b2) * (g - a) ** 2
                m, s = a / (1 - b1**t), b * (1 - b1) * (1 - b1 ** (2 * t)) / ((1 + b1) * (1 - b2**t))
                k = s / (s + (g - m) ** 2 + h["eps"])
                w = w - lr * (m + {"sgdf": k**0.5, "sgdf-K": k, "sgdf-2K": 2 * k}[name] * (g - m))
            case "lion":
                step = np.sign(h["beta1"] * a + (1 - h["beta1"]) * g)
                a = h["beta2"] * a + (1 - h["beta2"]) * g
                w = w - lr * step
            case "nadam":
                b1, b2, grow = h["beta1"], h["beta2"], h["momentum_decay"]
                a, b = b1 * a + (1 - b1) * g, b2 * b + (1 - b2) * g**2
                now, coming = (b1 * (1 - 0.5 * 0.96 ** (i * grow)) for i in (t, t + 1))
                product *= now
                m = coming * a / (1 - product * coming) + (1 - now) * g / (1 - product)
                w = w - lr * m / (np.sqrt(b / (1 - b2**t)) + h["eps"])
            case "adamomentum":
                a = h["beta1"] * a + (1 - h["beta1"]) * g
                b = h["beta2"] * b + (1 - h["beta2"]) * a**2 + h["eps"]
                w = w - lr * (a / (1 - h["beta1"] ** t)) / np.sqrt(b / (1 - h["beta2"] ** t))
            case "sgdp" | "sgdp-nesterov":
                a = h["momentum"] * a + g
                w = w - lr * without_part_along(w, g, g + h["momentum"] * a if "nesterov" in name else a, h)
            case "adamp" | "adamp-nesterov":
                a = h["beta1"] * a + (1 - h["beta1"]) * g
                b = h["beta2"] * b + (1 - h["beta2"]) * g**2
                m = h["beta1"] * a + (1 - h["beta1"]) * g if "nesterov" in name else a
                step = m / (1 - h["beta1"] ** t) / (np.sqrt(b / (1 - h["beta2"] ** t)) + h["eps"])
                w = w - lr * without_part_along(w, g, step, h)
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
                m, s = (a, b) if name == "adam-uncorrected" else (a / (1 - h["beta1"] ** t), b / (1 - h["beta2"] ** t))
                w = w - lr * m / (np.sqrt(s) + h["eps"])
    return w


@pytest.mark.parametrize(("rule", "name"), list(zip(ALL, IDS, strict=True)), ids=IDS)
def test_equals_a_transcription_in_numpy(rule: Rule, name: str) -> None:
    start, grads = random_gradients((5, 13), torch.float64)
    hyper = changing(defaults(rule))
    ahead = hyper if not rule.foresees else lambda t: {**hyper(t), "next_momentum": hyper(t + 1)["momentum"]}
    expected = numpy_steps(name, start.numpy(), [g.numpy() for g in grads], hyper)
    np.testing.assert_allclose(trajectory(rule, start, grads, ahead)[-1].numpy(), expected, rtol=1e-13, atol=1e-14)


# Closed forms on quadratics.


def on_quadratic(name: str, product: float, momentum: float, steps: int = 4000) -> float:
    """How far from the minimum of w^2 / 2 a run from 1 ends, lr being lr times curvature."""
    rule, w = get(name), torch.ones(1, dtype=torch.float64)
    state = fresh(rule, w)
    hyper = {"lr": product, "momentum": momentum} if name != "sgd" else {"lr": product}
    for step in range(steps):
        rule.update(w, w.clone(), state, tensors(hyper, step + 1))
    return abs(w.item())


LIMITS: dict[str, Callable[[float], float]] = {
    "sgd": lambda mu: 2.0,
    "momentum": lambda mu: 2 + 2 * mu,
    "nesterov": lambda mu: (2 + 2 * mu) / (1 + 2 * mu),
    "ema-momentum": lambda mu: 2 * (1 + mu) / (1 - mu),
    "sutskever-momentum": lambda mu: 2 + 2 * mu,
    "sutskever-nesterov": lambda mu: (2 + 2 * mu) / (1 + 2 * mu),
    "ema-nesterov": lambda mu: (2 + 2 * mu) / (1 + 2 * mu) / (1 - mu),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_limit_of_stability(name: str, momentum: float) -> None:
    limit = LIMITS[name](momentum)
    assert on_quadratic(name, 0.99 * limit, momentum) < 1e-3
    assert on_quadratic(name, 1.01 * limit, momentum) > 1e3


@pytest.mark.parametrize("method", ["momentum", "nesterov"])
def test_ema_form_is_heavy_ball_form_at_another_learning_rate(method: str) -> None:
    start, grads = random_gradients((40,), torch.float64, 50)
    # The momentum is constant, the learning rate is not.
    heavy = trajectory(get(method), start, grads, lambda t: {"lr": 0.1 / t, "momentum": 0.9})
    ema = trajectory(get(f"ema-{method}"), start, grads, lambda t: {"lr": 0.1 / t / (1 - 0.9), "momentum": 0.9})
    torch.testing.assert_close(torch.stack(ema), torch.stack(heavy), rtol=1e-13, atol=1e-13)


def test_momentum_zero_is_gradient_descent() -> None:
    start, grads = random_gradients((40,), torch.float32)
    plain = torch.stack(trajectory(get("sgd"), start, grads, {"lr": 0.1}))
    for name in ("momentum", "nesterov", "ema-momentum", "ema-nesterov", "sutskever-nesterov"):
        assert torch.equal(torch.stack(trajectory(get(name), start, grads, {"lr": 0.1, "momentum": 0.0})), plain)
    for name in ("sutskever-momentum", "early-momentum", "qhm"):
        path = torch.stack(trajectory(get(name), start, grads, {"lr": 0.1, "momentum": 0.0}))
        torch.testing.assert_close(path, plain, rtol=1e-6, atol=1e-6)


def test_nesterov_is_that_of_the_paper_seen_from_its_look_ahead_point() -> None:
    # Sutskever et al. 2013, Eq. 3 and 4, on a quadratic with curvatures c; the stored point is theta + mu v.
    c, lr, mu = torch.tensor([1.0, 10.0, 50.0], dtype=torch.float64), 0.02, 0.9
    theta, velocity = torch.ones_like(c), torch.zeros_like(c)
    rule, w = get("nesterov"), torch.ones_like(c)
    state = fresh(rule, w)
    for step in range(1, 101):
        velocity = mu * velocity - lr * c * (theta + mu * velocity)
        theta = theta + velocity
        rule.update(w, c * w, state, tensors({"lr": lr, "momentum": mu}, step))
        torch.testing.assert_close(w, theta + mu * velocity, rtol=0, atol=1e-13)
        torch.testing.assert_close(w + lr * mu * state["momentum_buffer"], theta, rtol=0, atol=1e-13)


# Properties of every rule.


@every_rule
def test_every_hyper_parameter_changes_the_trajectory(rule: Rule) -> None:
    start, grads = random_gradients((3, 8), torch.float64, 5)
    grads[2] = -grads[2] * 3  # so that no sign is the same throughout
    usual = {"delta": 3.0, "weight_decay": 0.1} if "delta" in rule.hyper else {}  # else nothing is projected
    path = torch.stack(trajectory(rule, start, grads, usual))
    changed = {
        "lr": 0.3, "momentum": 0.1, "alpha": 0.5, "beta1": 0.2, "beta2": 0.3, "beta3": 0.1, "eps": 0.1, "nu": 0.2,
        "until": 2.0, "scale": 3.0, "momentum_decay": 5.0, "delta": 0.01, "wd_ratio": 0.7, "weight_decay": 0.9,
    }  # fmt: skip
    assert set(rule.hyper) <= set(changed)
    for name in (*rule.hyper, "weight_decay"):
        other = torch.stack(trajectory(rule, start, grads, {**usual, name: changed[name]}))
        assert not torch.allclose(other, path, rtol=1e-6), name


@every_rule
def test_the_gradient_is_only_read(rule: Rule) -> None:
    start, (grad,) = random_gradients((65,), torch.float32, 1)
    kept = grad.clone()
    trajectory(rule, start, [grad], {"weight_decay": 0.1})
    assert torch.equal(grad, kept)


shapes = st.tuples(st.integers(1, 4), st.integers(0, 70))


@every_rule
@settings(max_examples=8, deadline=None)
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
    stacked, state = start.clone(), fresh(rule, start, runs)
    single, states = start.clone(), [fresh(rule, row) for row in start]
    for t, grad in enumerate(grads, start=1):
        step = torch.full((runs, 1), float(t), dtype=dtype)
        rule.update(stacked, grad, state, {**h, "step": step})
        for i in range(runs):
            scalars = {name: value[i, 0] for name, value in {**h, "step": step}.items()}
            rule.update(single[i], grad[i], states[i], scalars)
    assert torch.equal(stacked, single)
    for name in rule.slots:
        assert torch.equal(state[name], torch.stack([s[name] for s in states]))
    for name in rule.scalars:
        assert torch.equal(state[name].flatten(), torch.stack([s[name] for s in states]))


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.elementwise and not rule.normed])
@settings(max_examples=8, deadline=None)
@given(size=st.integers(1, 200), block=st.integers(1, 70), seed=st.integers(0, 2**20))
def test_block_by_block_is_the_whole(name: str, size: int, block: int, seed: int) -> None:
    rule = get(name)
    generator = torch.Generator().manual_seed(seed)
    start, *grads = (torch.randn(size, generator=generator) for _ in range(4))
    whole = trajectory(rule, start, grads, {"lr": 0.1})[-1]
    cuts = [torch.split(g, block) for g in grads]
    parts = [
        trajectory(rule, part, [cut[i] for cut in cuts], {"lr": 0.1})[-1]
        for i, part in enumerate(torch.split(start, block))
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.elementwise])
def test_an_elementwise_rule_adds_without_looking_at_the_parameter(name: str) -> None:
    param, grads = random_gradients((7,), torch.float64)
    there, from_zero = (trajectory(get(name), start, grads, {}) for start in (param, torch.zeros_like(param)))
    for a, b in zip(there, from_zero, strict=True):
        torch.testing.assert_close(a, param + b, rtol=1e-12, atol=1e-12)


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
    state, plain_state = fresh(rule, start, 3), fresh(rule, start, 3)
    for step, grad in enumerate(grads, start=1):
        values = {**defaults(rule), "lr": 0.1 / step, "step": float(step)}
        h = {name: torch.full((3, 1), value) for name, value in values.items()}
        compiled(param, grad, state, h)
        rule.update(plain, grad, plain_state, h)
    assert len(graphs) == 1
    torch.testing.assert_close(param, plain, rtol=1e-5, atol=1e-6)


# Names and ranges.


def test_names() -> None:
    assert len(RULES) == 24
    assert all(get(name).name == name for name in RULES)
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
    assert get("momentum").weight_decay is WEIGHT_DECAY
    for name, hyper in {**rule.hyper, "weight_decay": rule.weight_decay}.items():
        assert hyper.default is not None
        hyper.check(name, hyper.default)
