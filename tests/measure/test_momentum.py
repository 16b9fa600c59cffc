import math

import numpy as np
import pytest
import torch

from cases_measure import assert_unbiased
from ravine import measure
from ravine.errors import UserError


def velocities(gradients: np.ndarray, momentum: float) -> np.ndarray:
    """v of gradients (steps, d), in heavy-ball form."""
    v, out = np.zeros(gradients.shape[1]), []
    for g in gradients:
        v = momentum * v + g
        out.append(v)
    return np.array(out)


def norms(gradients: np.ndarray, momentum: float, skip: int) -> tuple[list[float], list[float]]:
    v = velocities(gradients, momentum)
    return np.linalg.norm(v[skip:], axis=1).tolist(), np.linalg.norm(gradients[skip:], axis=1).tolist()


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.95])
def test_the_gain_of_agreement_noise_and_flips(momentum: float) -> None:
    agree, noise, flips = measure.gains(momentum)
    rng = np.random.default_rng(0)
    skip, steps = 400, 6000
    same = np.ones((steps, 3))
    assert measure.momentum_gain(*norms(same, momentum, skip), momentum).value == pytest.approx(agree, rel=1e-6)
    signs = same * (-1) ** np.arange(steps)[:, None]
    assert measure.momentum_gain(*norms(signs, momentum, skip), momentum).value == pytest.approx(flips, rel=1e-6)
    found = measure.momentum_gain(*norms(rng.standard_normal((steps, 3)), momentum, skip), momentum)
    assert abs(found.value - noise) < 4 * found.error < 0.2 * noise


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.9])
def test_the_share_of_the_signal_is_unbiased_within_its_error(share: float) -> None:
    """Gradients G + e with |G|^2 / E|g|^2 = share."""
    rng = np.random.default_rng(1)
    signal = np.sqrt(share / 8) * np.ones(8)
    found = []
    for _ in range(200):
        gradients = signal + np.sqrt((1 - share) / 8) * rng.standard_normal((900, 8))
        found.append(measure.signal_share(measure.momentum_gain(*norms(gradients, 0.9, 100), 0.9), 0.9))
    largest = 3.0 if share > 0.5 else 1.25  # where the gradients agree the error is stated too large
    assert_unbiased([one.value for one in found], [one.error for one in found], share, largest)


def test_flips_give_a_negative_share_and_ema_form_is_the_same() -> None:
    signs = np.ones((500, 2)) * (-1) ** np.arange(500)[:, None]
    v, g = norms(signs, 0.9, 100)
    gain = measure.momentum_gain(v, g, 0.9)
    assert measure.signal_share(gain, 0.9).value == pytest.approx(-1 / 19, rel=1e-4)
    ema = measure.momentum_gain([0.1 * one for one in v], g, 0.9, form="ema")
    assert (ema.value, ema.error) == pytest.approx((gain.value, gain.error))


def test_cosine() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    assert measure.cosine(one, other) == pytest.approx(-math.sqrt(0.5))
    assert math.isnan(measure.cosine(one, torch.zeros(2)))


@pytest.mark.parametrize(("nesterov", "momentum", "step"), [(False, 0.81, 0.5), (False, 0.95, 0.02), (True, 0.9, 0.3)])
def test_the_oscillation_of_a_mode_without_noise_is_exact(nesterov: bool, momentum: float, step: float) -> None:
    truth = measure.mode(step, 1.0, momentum, nesterov=nesterov)
    w = [1.0, 0.7]
    for _ in range(30):
        w.append(truth.trace * w[-1] - truth.determinant * w[-2])
    found = measure.oscillation([3.0 + 2.0 * one for one in w])
    assert found.period.value == pytest.approx(truth.period, rel=1e-9)
    assert found.modulus.value == pytest.approx(truth.modulus, rel=1e-9)


def test_period_and_modulus_in_noise_are_unbiased_within_their_errors() -> None:
    truth = measure.mode(0.5, 1.0, 0.81)
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((200, 4100))
    w = np.zeros((200, 4100))
    for t in range(2, 4100):
        w[:, t] = truth.trace * w[:, t - 1] - truth.determinant * w[:, t - 2] + noise[:, t]
    found = [measure.oscillation(row[100:].tolist()) for row in w]
    assert_unbiased([one.period.value for one in found], [one.period.error for one in found], truth.period)
    assert_unbiased([one.modulus.value for one in found], [one.modulus.error for one in found], truth.modulus)


def test_a_mode_that_does_not_oscillate_has_no_period() -> None:
    rng = np.random.default_rng(3)
    w = np.zeros(3000)
    for t in range(2, 3000):
        w[t] = 0.9 * w[t - 1] + rng.standard_normal()
    found = measure.oscillation(w.tolist())
    assert found.modulus.value == pytest.approx(0.9, abs=0.05)
    assert not found.mode.oscillates or found.modulus.value < 0.3


def test_stability_margins_fall_to_0_at_the_limit() -> None:
    for momentum, nesterov, form in ((0.0, False, "heavy-ball"), (0.9, True, "heavy-ball"), (0.9, False, "ema")):
        limit = measure.stability_limit(0.1, momentum, nesterov=nesterov, form=form)  # type: ignore[arg-type]
        at = {"lr": 0.1, "momentum": momentum, "nesterov": nesterov, "form": form}
        assert measure.stability_margin(0.25 * limit, **at) == pytest.approx(0.75)  # type: ignore[arg-type]
        assert measure.stability_margin(limit - 1, weight_decay=1, **at) == pytest.approx(0)  # type: ignore[arg-type]


def test_the_growth_of_a_norm_is_unbiased_within_its_error() -> None:
    rng = np.random.default_rng(4)
    found = [measure.norm_growth(np.exp(np.cumsum(rng.normal(0.01, 0.1, 60))).tolist()) for _ in range(200)]
    assert_unbiased([one.value for one in found], [one.error for one in found], 0.02)


def test_a_scale_invariant_weight_grows_by_the_square_of_its_updates() -> None:
    """An update orthogonal to w: |w + u|^2 = |w|^2 + |u|^2."""
    w, lengths = torch.tensor([1.0, 0.0], dtype=torch.float64), []
    for _ in range(20):
        lengths.append(float(w.norm()))
        w = w + 0.1 * torch.tensor([-w[1], w[0]], dtype=torch.float64)
    found = measure.norm_growth(lengths)
    assert found.value == pytest.approx(math.log(1.01))
    assert found.error < 1e-12


def test_wrong_use_gets_a_sentence() -> None:
    for ask, sentence in (
        (lambda: measure.momentum_gain([1.0], [], 0.9), "as many norms"),
        (lambda: measure.momentum_gain([math.nan], [1.0], 0.9), "not finite"),
        (lambda: measure.momentum_gain([0.0], [0.0], 0.9), "all gradients are zero"),
        (lambda: measure.momentum_gain([1.0], [1.0], 1.0), r"must lie in \[0, 1\)"),
        (lambda: measure.signal_share(measure.mean([1.0]), 0.0), "without momentum"),
        (lambda: measure.oscillation([1.0] * 20), "8 finite positions that move"),
        (lambda: measure.oscillation([0.5**k for k in range(20)]), "no oscillation"),
        (lambda: measure.norm_growth([1.0, 0.0]), "above zero"),
    ):
        with pytest.raises(UserError, match=sentence):
            ask()


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_the_gain_of_noise_is_unbiased_within_its_error(momentum: float) -> None:
    rng = np.random.default_rng(2)
    found = [measure.momentum_gain(*norms(rng.standard_normal((900, 8)), momentum, 100), momentum) for _ in range(200)]
    assert_unbiased([one.value for one in found], [one.error for one in found], measure.gains(momentum)[1])


def test_positions_that_flip_exactly_have_period_two() -> None:
    found = measure.oscillation([3.0 + (-0.9) ** k for k in range(30)])
    assert (found.period.value, found.modulus.value) == pytest.approx((2.0, 0.9))
    generator = np.random.default_rng(0)
    noisy = measure.oscillation([3.0 + (-0.9) ** k + 1e-6 * generator.standard_normal() for k in range(30)])
    assert noisy.period.value == 2.0
    assert noisy.modulus.value == pytest.approx(0.9, abs=0.01)
