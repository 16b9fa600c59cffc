"""The NumPy references against numbers that were known before them: from papers and authors, or worked out by hand."""

import numpy as np
import pytest

from golden.references import REFERENCES, Array, Hyper, new_state, step


def walk(name: str, gradients: list[float], h: Hyper, start: float = 0.0) -> list[float]:
    """The parameter after each step, for one number."""
    params, passed = [np.array(start)], []
    states = new_state(params)
    for t, g in enumerate(gradients, start=1):
        params = step(REFERENCES[name], params, [np.array(g)], states, {**h, "step": t})
        passed.append(float(params[0]))
    return passed


def test_momentum_by_hand() -> None:
    h = {"lr": 0.1, "momentum": 0.9, "next_momentum": 0.9}
    assert walk("momentum", [1, 2, -1], h) == pytest.approx([-0.1, -0.39, -0.551])
    assert walk("ema-momentum", [1, 2, -1], h) == pytest.approx([-0.01, -0.039, -0.0551])
    assert walk("nesterov", [1, 2, -1], h) == pytest.approx([-0.19, -0.651, -0.6959])
    assert walk("ema-nesterov", [1, 2, -1], h) == pytest.approx([-0.019, -0.0651, -0.06959])
    assert walk("sutskever-nesterov", [1, 2, -1], h) == pytest.approx([-0.19, -0.651, -0.6959])


def test_what_a_new_learning_rate_does_to_the_velocity() -> None:
    # Gradient 1, momentum .9, lr .1, and .01 at the third step, which is then .0271 in one form and .181 in the other.
    for name, expected in {"momentum": 0.0271, "sutskever-momentum": 0.181}.items():
        params = [np.zeros(())]
        states = new_state(params)
        for lr in (0.1, 0.1, 0.01):
            before = params
            params = step(REFERENCES[name], params, [np.ones(())], states, {"lr": lr, "momentum": 0.9})
        assert before[0] - params[0] == pytest.approx(expected)


@pytest.mark.parametrize(("name", "expected"), [("sgd", 0.99), ("adam", 0.9), ("adamw", 0.99)])
def test_weight_decay_at_no_gradient(name: str, expected: float) -> None:
    h = {"lr": 0.1, "weight_decay": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}
    assert walk(name, [0.0], h, start=1.0) == pytest.approx([expected], rel=1e-6)


def test_first_steps_of_the_adaptive_rules() -> None:
    h = {"lr": 0.1, "alpha": 0.99, "betas": (0.9, 0.999), "eps": 1e-8}
    assert walk("rmsprop", [1.0], h) == pytest.approx([-1.0], rel=1e-6)  # ten learning rates
    assert walk("adagrad", [1.0], h) == pytest.approx([-0.1], rel=1e-6)
    assert walk("adam", [1e-8], h) == pytest.approx([-0.05], rel=1e-6)  # eps comes after the bias correction


@pytest.mark.parametrize(("size", "expected"), [(1.0, 0.9982), (0.060083, 0.7071)])
def test_adamomentum_undoes_what_the_average_takes_from_an_alternating_gradient(size: float, expected: float) -> None:
    # |step| -> lr a G / sqrt(a^2 G^2 + eps / (1 - b2)), a = (1 - b1) / (1 + b1), where Adam's is a lr.
    h = {"lr": 1.0, "betas": (0.9, 0.999), "eps": 1e-8}
    gradients = [size * (-1) ** t for t in range(8_000)]
    for name, length in {"adamomentum": expected, "adam": 1 / 19}.items():
        *_, before, last = walk(name, gradients, h)
        assert abs(last - before) == pytest.approx(length, abs=1e-4)


@pytest.mark.parametrize(("gain", "power", "error"), [(1.0, 1.0, 0.061), (2.0, 1.0, 0.079), (1.0, 0.5, 0.103)])
def test_sgdf_as_an_estimator_of_a_slow_signal(gain: float, power: float, error: float) -> None:
    # Mean squared errors of the filtered gradient where the raw one has 1: a sinusoid of period 3000 and unit noise.
    generator = np.random.default_rng(0)
    phase = generator.uniform(0, 2 * np.pi, 300)
    h = {"lr": 1.0, "betas": (0.9, 0.999), "eps": 1e-8, "gain": gain, "power": power}
    params, errors = [np.zeros(300)], []
    states = new_state(params)
    for t in range(1, 1501):
        signal = np.sin(2 * np.pi * t / 3000 + phase)
        noisy = signal + generator.standard_normal(300)
        moved = step(REFERENCES["sgdf"], params, [noisy], states, {**h, "step": t})
        errors.append(np.mean((params[0] - moved[0] - signal) ** 2))
        params = moved
    assert np.mean(errors[200:]) == pytest.approx(error, abs=0.003)


@pytest.mark.parametrize(("lr", "expected"), [(0.02, 0.0392), (0.05, 0.0655), (1.0, 0.766)])
def test_sngm_does_not_blow_up_on_a_quartic(lr: float, expected: float) -> None:
    # w^4 / 4 from 10, 2,000 steps; momentum without normalization overflows in 11, 7 and 6 steps at these rates.
    w: Array = np.array(10.0)
    states = new_state([w])
    for _ in range(2000):
        (w,) = step(REFERENCES["sngm"], [w], [w**3], states, {"lr": lr, "momentum": 0.9})
    assert abs(float(w)) == pytest.approx(expected, rel=0.01)


def test_early_momentum_is_momentum_and_then_descent() -> None:
    gradients, h = [1.0, -2.0, 0.5, 3.0, 1.0], {"lr": 0.1, "momentum": 0.9, "until": 3}
    early, heavy = walk("early-momentum", gradients, h), walk("momentum", gradients, h)
    assert early[:3] == pytest.approx(heavy[:3])
    assert np.diff(early)[2:] == pytest.approx([-0.3, -0.1])


def test_signs_of_nothing() -> None:
    h = {"lr": 0.1, "momentum": 0.9, "betas": (0.9, 0.99)}
    for name in ("signsgd", "signum", "lion"):
        assert walk(name, [0.0, 0.0], h, start=1.0) == [1.0, 1.0]


def test_projections() -> None:
    # Orthogonal to all rows: by rows. Orthogonal to the whole alone: by the layer. Neither: none.
    h = {"lr": 1.0, "momentum": 0.5, "nesterov": False, "eps": 1e-8, "delta": 0.1, "wd_ratio": 0.1, "step": 1}
    w = np.array([[2.0, 0.0], [0.0, 3.0]])
    for g, velocity, expected in (
        ([[0.0, 1.0], [4.0, 0.0]], [[1.0, 1.0], [4.0, 1.0]], [[0.0, 1.0], [4.0, 0.0]]),
        ([[3.0, 0.0], [0.0, -2.0]], [[3.0, 0.0], [0.0, -2.0]], [[3.0, 0.0], [0.0, -2.0]]),
        ([[3.0, 0.0], [0.0, -2.0]], [[5.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, -2.0]]),
        ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]),
    ):
        (state,) = new_state([w])
        state["momentum_buffer"] = (np.array(velocity) - np.array(g)) / h["momentum"]
        (moved,) = step(REFERENCES["sgdp"], [w], [np.array(g)], [state], h)
        np.testing.assert_allclose(w - moved, expected, atol=1e-7)
