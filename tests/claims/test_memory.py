"""Fractional noise, R/S and correlations against known values, and the claim at a size of seconds."""

import math
from pathlib import Path

import pytest
import torch

from ravine.claims import memory, reproduce
from ravine.claims.memory import Scale

SMALL = Scale(32, 8, 40, 10, 3)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.7])
def test_fractional_noise_has_its_covariances(exponent: float) -> None:
    noise = memory.fractional_noise(exponent, 64, 20_000, torch.Generator().manual_seed(0))
    assert float(noise.square().mean()) == pytest.approx(1.0, abs=0.01)
    for lag in (1, 5):
        expected = ((lag + 1) ** (2 * exponent) - 2 * lag ** (2 * exponent) + (lag - 1) ** (2 * exponent)) / 2
        assert float((noise[:, lag:] * noise[:, :-lag]).mean()) == pytest.approx(expected, abs=0.01)


def test_rescaled_ranges_by_hand() -> None:
    """+1 and -1 by turns: R = 1, S = 1 in every even window; a steady climb: sums of deviations by arithmetic."""
    turns = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(10)
    assert memory.rescaled_ranges(turns).tolist() == [1.0]
    climb = torch.arange(20, dtype=torch.float64)
    deviations = [k - 4.5 for k in range(10)]
    sums = [sum(deviations[: k + 1]) for k in range(10)]
    expected = (max(sums) - min(sums)) / math.sqrt(sum(d * d for d in deviations) / 10)
    assert memory.rescaled_ranges(climb).tolist() == pytest.approx([expected])


def test_windows_and_the_exponent_of_a_random_walk() -> None:
    assert memory.windows(128) == [10, 18, 32, 56]
    walk = torch.randn(40, 4_096, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    assert float(memory.hurst(walk).mean()) == pytest.approx(1.0, abs=0.03)


def test_correlation_of_an_autoregression() -> None:
    """Lag k has 0.5^k."""
    drive = torch.randn(50, 4_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    series = [drive[:, 0]]
    for step in range(1, 4_000):
        series.append(0.5 * series[-1] + drive[:, step])
    found = memory.correlation(torch.stack(series, 1)).mean()
    assert float(found) == pytest.approx(sum(0.5**lag for lag in range(1, 17)) / 16, abs=0.005)


def test_the_noise_of_an_epoch_at_fixed_weights_sums_to_zero() -> None:
    noise = memory.gradient_noise(SMALL, range(2), moving=False, in_epochs=True)
    assert noise.shape == (2, 10, 40)
    assert float(noise[..., :4].sum(-1).abs().max()) < 1e-6
    drawn = memory.gradient_noise(SMALL, range(2), moving=False, in_epochs=False)
    assert float(drawn[..., :4].sum(-1).abs().max()) > 1e-4


def test_epochs_see_every_row_once() -> None:
    seen = memory.epochs(SMALL, range(2))
    assert seen.shape == (40, 2, 8)
    assert sorted(seen[4:8, 1].flatten().tolist()) == list(range(32))


def test_the_claim_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SCALES", {"quick": Scale(32, 8, 128, 10, 3)})
    (result,) = reproduce(["noise-memory"], out=tmp_path)
    assert len(result["findings"]) == 7
    assert [len(table["rows"]) for table in result["tables"]] == [3, 4]
