import math

import numpy as np
import pytest
from scipy import stats

from ravine.study.power import Variance, critical, decisive_error, detectable, pooled_freedom, seeds_needed


def normal_seeds(distance_to: float, level: float) -> float:
    """Seeds for a standard deviation equal to the margin, by the normal formula."""
    return float((1 / decisive_error(distance_to, 1.0, level)) ** 2)


def test_reference_numbers_of_seeds() -> None:
    assert normal_seeds(2.0, 0.05) == pytest.approx(7.85, abs=0.005)  # (1.960 + 0.842)^2
    assert normal_seeds(0.0, 0.10) == pytest.approx(8.56, abs=0.005)  # two one-sided tests: (1.645 + 1.282)^2
    assert normal_seeds(0.0, 0.05) == pytest.approx((1.95996 + 1.28155) ** 2, rel=1e-4)


def test_seeds_needed_use_students_quantiles() -> None:
    assert seeds_needed(2.0, 1.0, 1.0) == 10  # the classical paired t test: 9.94
    assert seeds_needed(1.1001, 1.0, 1.0) == pytest.approx(7.849 / 0.1001**2, rel=0.005)


def test_seeds_needed_give_the_stated_power() -> None:
    n = seeds_needed(0.5, 0.0, 1.0)
    assert n is not None
    draws = np.random.default_rng(0).normal(0.5, 1, (20_000, n))
    lower = draws.mean(axis=1) - critical(0.05, n - 1) * draws.std(axis=1, ddof=1) / math.sqrt(n)
    assert 0.79 < np.mean(lower > 0) < 0.83


def test_seeds_needed_for_equal_give_the_stated_power() -> None:
    n = seeds_needed(0.0, 0.5, 1.0)
    assert n is not None
    draws = np.random.default_rng(1).normal(0, 1, (20_000, n))
    half = critical(0.05, n - 1) * draws.std(axis=1, ddof=1) / math.sqrt(n)
    assert 0.79 < np.mean(np.abs(draws.mean(axis=1)) + half < 0.5) < 0.83


@pytest.mark.parametrize("difference", [0.91, 1.0, 1.09, -0.95])
def test_no_number_of_seeds_within_a_tenth_of_the_margin(difference: float) -> None:
    assert seeds_needed(difference, 1.0, 1.0) is None


def test_no_number_of_seeds_against_the_noise_of_the_search() -> None:
    assert seeds_needed(2.0, 1.0, 0.1, [Variance(1.0, 2.5)]) is None
    some = seeds_needed(2.0, 1.0, 1.0, [Variance(0.01, 2.5)])
    assert some is not None and some > 10


def test_the_count_is_the_smallest_that_is_enough() -> None:
    for variance in (0.01, 1.0, 17.0, 300.0):
        n = seeds_needed(2.0, 1.0, variance)
        assert n is not None
        enough = [math.sqrt(variance / m) <= decisive_error(2.0, 1.0, freedom=m - 1) for m in (n - 1, n)]
        assert enough == [n == 5, True]


def test_at_margin_zero_only_a_difference_can_be_decided() -> None:
    assert seeds_needed(0.0, 0.0, 1.0) is None
    assert seeds_needed(1.0, 0.0, 1.0) == 10
    assert seeds_needed(0.0, 0.0, 0.0) is None


@pytest.mark.parametrize("n", [5, 20, 200])
def test_detectable_difference_is_found_with_the_stated_power(n: int) -> None:
    difference = detectable(n, 0.3, 0.1)
    shift = (difference - 0.1) / (0.3 / math.sqrt(n))
    assert stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift) == pytest.approx(0.8, abs=1e-6)


def test_more_seeds_or_less_noise_detect_less() -> None:
    assert detectable(40, 0.3, 0.1) < detectable(20, 0.3, 0.1)
    assert detectable(20, 0.2, 0.1) < detectable(20, 0.3, 0.1)
    assert detectable(20, 0.0, 0.1) == 0.1


def test_pooled_degrees_of_freedom() -> None:
    assert pooled_freedom([Variance(2.0, 7.0), Variance(0.0, 3.0)]) == 7
    assert pooled_freedom([Variance(1.0, 4.0), Variance(1.0, 4.0)]) == pytest.approx(8)
    assert pooled_freedom([Variance(0.0, 4.0)]) == math.inf
    welch = stats.ttest_ind([1.0, 2.0, 4.0], [3.0, 9.0, 1.0, 5.0], equal_var=False)
    parts = [Variance(float(np.var(x, ddof=1)) / len(x), len(x) - 1) for x in ([1.0, 2.0, 4.0], [3.0, 9.0, 1.0, 5.0])]
    assert pooled_freedom(parts) == pytest.approx(welch.df)
