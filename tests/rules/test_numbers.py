"""Numbers that are known of the rules: closed forms, hand-worked cases, and measured behaviour that sets them apart."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cases_rules import defaults, fresh, number, random_gradients, tensors, trajectory
from ravine.rules import RULES, AggregatedMomentum, FilteredDescent, Rule, get
from ravine.rules.filters import Gain
from ravine.schedules import ExponentialScale, SutskeverMomentum


def path_of(rule: Rule | str, grads: list[float], **hyper: float) -> list[float]:
    """Where w goes from 0 under the gradients."""
    made = get(rule) if isinstance(rule, str) else rule
    return [w.item() for w in trajectory(made, number(0.0), [number(g) for g in grads], hyper)]


# Forms of momentum.


def test_the_ema_form_is_not_dampening_in_torch() -> None:
    assert path_of("ema-momentum", [1, 2, -1], lr=0.1, momentum=0.9) == pytest.approx([-0.01, -0.039, -0.0551])
    w = number(0.0).requires_grad_()
    damped, path = torch.optim.SGD([w], lr=0.1, momentum=0.9, dampening=0.9), []
    for g in (1.0, 2.0, -1.0):
        w.grad = number(g)
        damped.step()
        path.append(w.item())
    assert path == pytest.approx([-0.1, -0.21, -0.299])


@pytest.mark.parametrize(("rule", "third"), [("momentum", 0.0271), ("sutskever-momentum", 0.181)])
def test_what_a_smaller_learning_rate_does_to_the_velocity(rule: str, third: float) -> None:
    # Constant gradient 1, lr .1 and from step 3 on .01: heavy-ball form shrinks the whole step, Sutskever's does not.
    path = trajectory(
        get(rule), number(0.0), [number(1.0)] * 3, lambda t: {"lr": 0.1 if t < 3 else 0.01, "momentum": 0.9}
    )
    assert (path[1] - path[2]).item() == pytest.approx(third)


@pytest.mark.parametrize("method", ["momentum", "nesterov"])
def test_sutskevers_form_is_heavy_ball_form_at_constant_settings(method: str) -> None:
    start, grads = random_gradients((40,), torch.float64, 50)
    heavy, paper = (trajectory(get(name), start, grads, {"lr": 0.1}) for name in (method, f"sutskever-{method}"))
    torch.testing.assert_close(torch.stack(paper), torch.stack(heavy), rtol=1e-13, atol=1e-13)


def test_sutskevers_nesterov_is_that_of_the_paper_under_any_schedule() -> None:
    # Eq. 3 and 4 on a quadratic of curvatures c, momentum rising and falling, the learning rate changing twice.
    c = torch.tensor([1.0, 3.0, 10.0, 30.0, 60.0, 100.0], dtype=torch.float64)
    rising = SutskeverMomentum(0.99, period=10)
    mu = [rising(t) if t < 150 else 0.9 for t in range(201)]
    lr = [0.01 if t < 60 else 0.004 if t < 120 else 0.006 for t in range(200)]
    theta, velocity = torch.ones_like(c), torch.zeros_like(c)
    stored = {name: torch.ones_like(c) for name in ("sutskever-nesterov", "nesterov")}
    states = {name: fresh(get(name), c) for name in stored}
    for t in range(200):
        velocity = mu[t] * velocity - lr[t] * c * (theta + mu[t] * velocity)
        theta = theta + velocity
        h = tensors({"lr": lr[t], "momentum": mu[t], "next_momentum": mu[t + 1]}, t + 1)
        for name, w in stored.items():
            get(name).update(w, c * w, states[name], h)
        ours = stored["sutskever-nesterov"]
        torch.testing.assert_close(ours, theta + mu[t + 1] * velocity, rtol=0, atol=1e-13)
        if t == 70:  # after a change of both, torch's form has left the paper's iterates
            assert (stored["nesterov"] - ours).abs().max() > 1e-3


def test_early_momentum_lies_between_gradient_descent_and_momentum() -> None:
    start, grads = random_gradients((9,), torch.float64, 20)

    def path(name: str, **hyper: float) -> Tensor:
        return torch.stack(trajectory(get(name), start, grads, {"lr": 0.1, **hyper}))

    torch.testing.assert_close(path("early-momentum", until=0), path("sgd"), rtol=1e-13, atol=1e-13)
    assert torch.equal(path("early-momentum", until=20), path("sutskever-momentum"))
    ended = path("early-momentum", until=7)
    assert torch.equal(ended[:7], path("sutskever-momentum")[:7])
    torch.testing.assert_close(ended[7:], ended[6] - 0.1 * torch.stack(grads[7:]).cumsum(0), rtol=1e-13, atol=1e-13)


# Mixtures.


@pytest.mark.parametrize(("nu", "other"), [(0.0, "sgd"), (0.9, "ema-nesterov"), (1.0, "ema-momentum")])
def test_what_quasi_hyperbolic_momentum_contains(nu: float, other: str) -> None:
    start, grads = random_gradients((9,), torch.float64, 20)
    hyper = {"lr": 0.1, "momentum": 0.9, "nu": nu}
    mixed, plain = (torch.stack(trajectory(get(name), start, grads, hyper)) for name in ("qhm", other))
    torch.testing.assert_close(mixed, plain, rtol=1e-13, atol=1e-13)


def test_one_velocity_of_aggregated_momentum_is_momentum() -> None:
    one = AggregatedMomentum.of(1)
    assert AggregatedMomentum.of(1) is one
    start, grads = random_gradients((9,), torch.float64, 20)
    single = trajectory(one, start, grads, {"lr": 0.1, "beta1": 0.9})
    torch.testing.assert_close(single, trajectory(get("momentum"), start, grads, {"lr": 0.1}), rtol=1e-13, atol=1e-13)
    four = defaults(AggregatedMomentum.of(4))
    assert four == pytest.approx({"lr": 1e-3, "beta1": 0.0, "beta2": 0.9, "beta3": 0.99, "beta4": 0.999})


# One scalar for all parameters.


def on_quartic(rule: str, lr: float) -> float:
    """|w| after 2,000 steps on w^4 / 4 from 10."""
    w, made = number(10.0), get(rule)
    state = fresh(made, w)
    for step in range(2000):
        made.update(w, w**3, state, tensors({"lr": lr, "momentum": 0.9}, step + 1))
    return abs(w.item())


@pytest.mark.parametrize(("lr", "plain"), [(0.001, 0.156), (0.01, 8.32), (0.05, math.inf), (1.0, math.inf)])
def test_normalizing_bears_learning_rates_that_blow_momentum_up(lr: float, plain: float) -> None:
    assert on_quartic("sngm", lr) < lr / (1 - 0.9)  # the length of its longest step
    ended = on_quartic("momentum", lr)
    assert not math.isfinite(ended) if plain == math.inf else ended == pytest.approx(plain, rel=0.01)


def test_the_norm_is_that_of_all_parameters_with_the_weight_decay() -> None:
    w, rule = torch.tensor([3.0, 4.0]), get("sngm")
    rule.update(w, torch.zeros(2), fresh(rule, w), tensors({"lr": 1.0, "momentum": 0.9, "weight_decay": 2.0}, 1))
    torch.testing.assert_close(w, torch.tensor([3.0 - 0.6, 4.0 - 0.8]))


def test_a_zero_gradient_only_ends_what_was_begun() -> None:
    assert path_of("sngm", [0, 2, 0], lr=1.0, momentum=0.5) == pytest.approx([0, -1, -1.5])


def test_a_random_scale_is_what_turns_slopes_into_differences() -> None:
    # E f(x + s d) - f(x) = E <grad f(x + s d), d> for s ~ Exp(1), here with f that has kinks; not so for s = 1.
    rng = np.random.default_rng(0)
    normals, x, d = rng.normal(size=(6, 3)), rng.normal(size=3), rng.normal(size=3)
    scale = ExponentialScale(seed=1)
    points = x + np.array([0.0, 1.0, *(scale(step) for step in range(20_000))])[:, None] * d
    values = np.abs(points @ normals.T).sum(1) - 0.5 * np.abs(points).sum(1)
    slopes = (np.sign(points @ normals.T) @ normals - 0.5 * np.sign(points)) @ d
    gaps = values[2:] - values[0] - slopes[2:]
    assert abs(gaps.mean()) < 4 * gaps.std() / math.sqrt(len(gaps))
    assert abs(values[1] - values[0] - slopes[1]) > 20 * gaps.std() / math.sqrt(len(gaps))


# SGDF: the estimate of the gradient is what a step of lr 1 moves by.


def filter_error(rule: Rule, period: float, noise: float) -> float:
    """The mean squared error of the estimate of a sinusoid with noise."""
    generator = torch.Generator().manual_seed(3)
    phase = 2 * math.pi * torch.rand(1000, generator=generator, dtype=torch.float64)
    w, state, errors = torch.zeros(1000, dtype=torch.float64), None, []
    state = fresh(rule, w)
    hyper = {**defaults(rule), "lr": 1.0}
    for t in range(1, 1501):
        truth = torch.sin(2 * math.pi * t / period + phase)
        seen = truth + noise * torch.randn(1000, generator=generator, dtype=torch.float64)
        before = w.clone()
        rule.update(w, seen, state, tensors(hyper, t))
        if t > 200:
            errors.append((before - w - truth).square().mean().item())
    return float(np.mean(errors))


@pytest.mark.parametrize(("gain", "error"), [("K", 0.389), ("2K", 0.379), ("sqrt(K)", 0.342)])
def test_what_the_filter_makes_of_a_fast_signal_in_noise(gain: Gain, error: float) -> None:
    assert filter_error(FilteredDescent(gain), 30, 1.0) == pytest.approx(error, abs=0.01)


def test_what_the_average_makes_of_a_fast_signal_in_noise() -> None:
    assert filter_error(get("ema-momentum"), 30, 1.0) == pytest.approx(0.411, abs=0.01)


# AdaMomentum.


@pytest.mark.parametrize(
    ("rule", "size", "step"), [("adam", 1.0, 1 / 19), ("adamomentum", 1.0, 0.9982), ("adamomentum", 0.060083, 0.7071)]
)
def test_an_alternating_gradient_is_attenuated_by_adam_only(rule: str, size: float, step: float) -> None:
    path = path_of(rule, [size * (-1) ** t for t in range(3000)], lr=1.0)
    assert abs(path[-1] - path[-2]) == pytest.approx(step, abs=2e-4)


# Decoupled weight decay.


@pytest.mark.parametrize(
    ("rule", "shape", "factor"),
    [
        ("adamw", (3,), 0.99),
        ("lion", (3,), 0.99),
        ("adamp", (3,), 0.99),
        ("adamp", (3, 1), 0.999),  # a zero gradient is orthogonal to everything, so the decay is reduced
        ("sgdp", (3,), 0.9),
        ("sgdp", (1, 3), 0.99),
    ],
)
def test_decoupled_weight_decay_multiplies(rule: str, shape: tuple[int, ...], factor: float) -> None:
    w = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64).view(shape)
    (after,) = trajectory(get(rule), w, [torch.zeros_like(w)], {"lr": 0.1, "weight_decay": 0.1})
    torch.testing.assert_close(after, factor * w, rtol=1e-12, atol=0)


def test_lion_moves_by_the_sign_of_what_it_saw_before_its_average_moves() -> None:
    # m = .01, -.0101, ...: in step 2 the sign is that of .9 .01 - .1 .2 < 0, with the second average it would be of m.
    assert path_of("lion", [1, -0.05, 0.0], lr=1.0, beta1=0.9, beta2=0.99) == pytest.approx([-1, -2, -3])
    assert path_of("lion", [1, -0.2, 0.0], lr=1.0, beta1=0.9, beta2=0.99) == pytest.approx([-1, 0, -1])


# Projection.


def test_the_part_along_the_weights_is_taken_away() -> None:
    # The gradient is orthogonal to each row, the velocity is not.
    w = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)
    grad = torch.tensor([[-4.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    rule, state = get("sgdp"), {"momentum_buffer": torch.full((2, 2), 10.0, dtype=torch.float64)}
    h = {**defaults(rule), "lr": 1.0, "eps": 0.0}
    rule.update(w, grad, state, tensors(h, 1))
    assert state["momentum_buffer"].tolist() == [[5, 12], [10, 9]]
    # rows (.6, .8) and (0, 1): the velocity has 12.6 and 9 along them
    expected = torch.tensor([[3 - (5 - 7.56), 4 - (12 - 10.08)], [-10.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(w, expected)


def test_a_gradient_along_one_row_leaves_the_whole_layer_to_be_looked_at() -> None:
    # Rows are not orthogonal to their gradients, the whole is: 3 * 1 - 3 * 1 = 0.
    w = torch.tensor([[3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    grad = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    rule, state = get("sgdp"), {"momentum_buffer": torch.ones(2, 2, dtype=torch.float64)}
    rule.update(w, grad, state, tensors({**defaults(rule), "lr": 1.0, "eps": 0.0}, 1))
    # velocity .9 + g = ((1.9, .9), (.9, -.1)) has 1.8 / sqrt(2) along w / |w|: .9 is taken off the diagonal
    torch.testing.assert_close(w, torch.tensor([[2.0, -0.9], [-0.9, 4.0]], dtype=torch.float64))


@pytest.mark.parametrize("rule", ["sgdp", "adamp"])
def test_what_is_not_orthogonal_or_has_one_dimension_is_not_projected(rule: str) -> None:
    plain = {"sgdp": "momentum", "adamp": "adam"}[rule]
    for shape in [(6,), (2, 3)]:
        start, grads = random_gradients(shape, torch.float64, 5)
        hyper = {"lr": 0.1, **({"delta": 0.0} if len(shape) > 1 else {})}
        ours, theirs = (trajectory(get(name), start, grads, hyper) for name in (rule, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def growth(rule: str, lr: float, momentum: float) -> float:
    """How much |w|^2 grows in 2,000 steps on -<w, a> / |w| with noise on the unit vector a, d = 100."""
    generator = torch.Generator().manual_seed(1)
    w, a = torch.randn(2, 1, 100, generator=generator, dtype=torch.float64)
    w, a, made = w / w.norm(), a / a.norm(), get(rule)
    state = fresh(made, w)
    for step in range(2000):
        seen = a + torch.randn(1, 100, generator=generator, dtype=torch.float64)
        size = w.norm()
        grad = -(seen - w * (seen * w).sum() / size**2) / size
        made.update(w, grad, state, tensors({**defaults(made), "lr": lr, "momentum": momentum}, step + 1))
    return float(w.norm()) ** 2 - 1


def test_momentum_makes_weights_without_a_scale_long_and_the_projection_does_not() -> None:
    plain = growth("momentum", 1e-3, 0.0)
    assert 19 < growth("momentum", 1e-3, 0.9) / plain < 40
    assert 2.5 < growth("sgdp", 1e-3, 0.9) / plain < 6


def test_rules_in_sutskevers_form_say_what_they_foresee() -> None:
    assert {name: rule.foresees for name, rule in RULES.items() if rule.foresees} == {
        "sutskever-nesterov": ("momentum",)
    }
