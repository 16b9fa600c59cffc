import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases_measure import assert_unbiased, objective
from ravine import measure
from ravine.errors import UserError
from ravine.measure.estimate import Estimate
from ravine.measure.noise import NoiseScale

GRADIENT = torch.linspace(-1, 1, 12, dtype=torch.float64)
SPREAD = torch.linspace(0.2, 1.5, 12, dtype=torch.float64)
SIGNAL, NOISE = float(GRADIENT.square().sum()), float(SPREAD.square().sum())


class Linear(nn.Module):
    """A loss w' z whose per-example gradients are the rows z themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(12, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.w).mean()


def drawn(rows: int, seed: int, heavy: bool = False) -> measure.Objective:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, 12, generator=generator, dtype=torch.float64)
    if heavy:  # exponential: skewed, variance 1
        noise = -torch.rand(rows, 12, generator=generator, dtype=torch.float64).log() - 1
    return of(GRADIENT + SPREAD * noise)


def of(rows: Tensor) -> measure.Objective:
    return measure.Objective(Linear(), [rows], batch_loss=lambda model, z: model(z), check=False)


@pytest.mark.parametrize(("small", "heavy"), [(1, False), (1, True), (64, False)])
def test_both_parts_are_unbiased_within_their_errors(small: int, heavy: bool) -> None:
    found = [measure.noise_scale(drawn(512, seed, heavy), small) for seed in range(200)]
    parts = [one.squared_norm for one in found], [one.trace for one in found]
    for estimates, truth in zip(parts, (SIGNAL, NOISE), strict=True):
        assert_unbiased([one.value for one in estimates], [one.error for one in estimates], truth)


def test_the_ratio_and_the_coherence_are_unbiased_within_their_errors() -> None:
    """To first order: a ratio of means of 4,096 rows has a bias far below its error."""
    found = [measure.noise_scale(drawn(4096, seed), 1) for seed in range(200)]
    ratios, shares = [one.ratio for one in found], [one.coherence for one in found]
    assert_unbiased([one.value for one in ratios], [one.error for one in ratios], NOISE / SIGNAL)
    assert_unbiased([one.value for one in shares], [one.error for one in shares], SIGNAL / (SIGNAL + NOISE))


def test_pooling_is_the_ratio_of_means_and_not_the_mean_of_ratios() -> None:
    found = [measure.noise_scale(drawn(12, seed), 1) for seed in range(1000)]
    truth = NOISE / SIGNAL
    whole = measure.pooled(found)
    assert abs(whole.ratio.value - truth) < 4 * whole.ratio.error < 0.1 * truth
    ratios = torch.tensor([one.trace.value / one.squared_norm.value for one in found])
    assert ratios.mean() - truth > 4 * ratios.std() / 1000**0.5
    assert whole.rows == 12000
    alpha = whole.coherence
    assert alpha.value == pytest.approx(1 / (1 + whole.ratio.value))
    assert abs(alpha.value - 1 / (1 + truth)) < 4 * alpha.error < 0.04


def test_the_errors_of_the_pooled_ratio_cover() -> None:
    inside = 0
    for repeat in range(100):
        whole = measure.pooled([measure.noise_scale(drawn(64, 1000 * repeat + k), 1) for k in range(8)])
        low, high = whole.ratio.interval()
        inside += low < NOISE / SIGNAL < high
    assert inside >= 88


def test_the_pair_and_the_examples_are_the_textbook_formulas() -> None:
    z = GRADIENT + SPREAD * torch.randn(24, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    single = measure.noise_scale(of(z), 1)
    assert single.trace.value == pytest.approx(float(z.var(0).sum()))
    assert single.squared_norm.value == pytest.approx(float(z.mean(0).square().sum() - z.var(0).sum() / 24))
    assert single.sample_coherence is not None
    assert single.sample_coherence.value == pytest.approx(
        24 * float(z.mean(0).square().sum() / z.square().sum(1).mean())
    )
    pair = measure.noise_scale(of(z), 6)
    small, big = float(z.view(4, 6, 12).mean(1).square().sum(1).mean()), float(z.mean(0).square().sum())
    assert pair.squared_norm.value == pytest.approx((24 * big - 6 * small) / 18)
    assert pair.trace.value == pytest.approx((small - big) / (1 / 6 - 1 / 24))


def test_the_coherence_of_a_sample_is_unbiased_within_its_error() -> None:
    """m |mean g|^2 / mean |g_i|^2 has the mean (E |sum g|^2) / (m E |g|^2) to first order in 1 / m."""
    found = [measure.noise_scale(drawn(512, seed), 1).sample_coherence for seed in range(200)]
    known = [one for one in found if one is not None]
    assert_unbiased([one.value for one in known], [one.error for one in known], 1 + 511 * SIGNAL / (SIGNAL + NOISE))
    same = measure.noise_scale(of(GRADIENT.expand(10, 12)), 1).sample_coherence
    assert same is not None and same.value == pytest.approx(10)


def test_rows_drawn_without_replacement_from_a_finite_population() -> None:
    population = torch.randn(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = measure.noise_scale(of(population), 1, population=40)
    assert whole.squared_norm.value == pytest.approx(float(population.mean(0).square().sum()))
    found = []
    for seed in range(200):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:20]
        found.append(measure.noise_scale(of(population[order]), 2, population=40).squared_norm.value)
    values = torch.tensor(found)
    truth = float(population.mean(0).square().sum())
    assert abs(values.mean() - truth) < 4 * values.std() / 200**0.5


@pytest.mark.parametrize("rows", [200, 360])
def test_the_error_knows_how_much_of_the_population_was_seen(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    population = GRADIENT + SPREAD * torch.randn(400, 12, generator=generator, dtype=torch.float64)
    truth = float(population.mean(0).square().sum())
    found = []
    for seed in range(200):
        order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))[:rows]
        found.append(measure.noise_scale(of(population[order]), 1, population=400).squared_norm)
    assert_unbiased([one.value for one in found], [one.error for one in found], truth)
    assert measure.noise_scale(of(population), 1, population=400).squared_norm.error == pytest.approx(0, abs=1e-9)


def test_gradients_of_a_net_by_vmap_are_those_of_single_rows() -> None:
    found = measure.noise_scale(objective(micro_batch=20), 1)
    rows = torch.stack([g for _, g in objective().resized(1).gradients()])
    assert found.rows == 48
    assert found.trace.value == pytest.approx(float(rows.var(0).sum()))


def test_noise_that_hides_the_gradient_is_said_and_not_clamped() -> None:
    generator = torch.Generator().manual_seed(2)
    pure = [
        measure.noise_scale(of(torch.randn(64, 12, generator=generator, dtype=torch.float64)), 4) for _ in range(40)
    ]
    assert any(one.squared_norm.value < 0 for one in pure)
    whole = measure.pooled(pure)
    assert whole.hidden
    assert whole.at_least > 100
    assert str(whole).startswith("noise dominates: B_simple is above")
    assert not measure.noise_scale(drawn(512, 0), 1).hidden
    assert math.isinf(NoiseScale(Estimate(-1, 0.1, 9), Estimate(1, 0.1, 9), Estimate(-1, 1, 9), 9).at_least)


def test_search_direction_noise_and_smoothing() -> None:
    """d = G + e with E |e|^2 known; the degree of smoothing is lr times its root."""
    values, errors = [], []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        d = GRADIENT + SPREAD * torch.randn(40, 12, generator=generator, dtype=torch.float64)
        found = measure.search_direction_noise(list(d), GRADIENT)
        values.append(found.value)
        errors.append(found.error)
    assert_unbiased(values, errors, NOISE)
    radii = [measure.smoothing(0.1, Estimate(v, e, 40)) for v, e in zip(values, errors, strict=True)]
    assert_unbiased([one.value for one in radii], [one.error for one in radii], 0.1 * math.sqrt(NOISE))
    smooth = measure.smoothing(0.1, Estimate(4.0, 0.4, 10))
    assert (smooth.value, smooth.error) == pytest.approx((0.2, 0.01))


def test_wrong_use_gets_a_sentence() -> None:
    with pytest.raises(UserError, match="a batch of one example has none"):
        measure.noise_scale(drawn(1, 0), 1)
    with pytest.raises(UserError, match="at least two groups"):
        measure.noise_scale(drawn(16, 0))
    with pytest.raises(UserError, match="no batch of the objective has 32 rows"):
        measure.noise_scale(drawn(16, 0), 32)
    with pytest.raises(UserError, match="equal size, not 10 and 6"):
        measure.noise_scale(
            measure.Objective(Linear(), drawn(16, 0).parts[0].batch.split(10), batch_loss=lambda m, z: m(z))
        )
    bad = drawn(16, 0).parts[0].batch.clone()
    bad[9] = math.nan
    with pytest.raises(UserError, match="gradient of 'w' is not finite in group 2"):
        measure.noise_scale(of(bad), 4)
    sequences = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
    recurrent = nn.LSTM(4, 3, batch_first=True)
    told = measure.Objective(recurrent, [sequences], batch_loss=lambda model, z: model(z)[0].square().mean())
    with pytest.raises(UserError, match=r"single rows cannot be taken together .*: take groups, small=2 or more"):
        measure.noise_scale(told, 1)
    assert measure.noise_scale(told, 2).trace.value > 0
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixed = measure.Objective(model, [(x, torch.arange(12) % 3)], loss=F.cross_entropy)
    with pytest.raises(UserError, match="BatchNorm in train mode mixes"):
        measure.noise_scale(mixed, 1)
    assert measure.noise_scale(mixed, 4).trace.value > 0
