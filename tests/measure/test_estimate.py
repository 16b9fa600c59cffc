import math

import numpy as np
import pytest
from scipy import stats

from cases_measure import assert_unbiased
from ravine import measure
from ravine.errors import UserError


def test_intervals_are_students() -> None:
    draws = [1.0, 2.0, 4.0, 8.0]
    found = measure.mean(draws)
    low, high = stats.t.interval(0.9, 3, loc=np.mean(draws), scale=stats.sem(draws))
    assert found.interval(0.9) == pytest.approx((low, high))
    assert measure.Estimate(2.0, 1.0).interval() == pytest.approx((2 - 1.959964, 2 + 1.959964))
    assert str(measure.Estimate(1.23456, 0.0123, 9)) == "1.235 ± 0.012"


def test_one_draw_has_no_error() -> None:
    assert math.isnan(measure.mean([3.0]).error)
    assert math.isnan(measure.ratio_of_means([3.0], [2.0]).error)


def test_the_ratio_of_means_is_unbiased_within_its_error_where_the_mean_of_ratios_is_not() -> None:
    rng = np.random.default_rng(0)
    b = rng.gamma(4.0, 0.5, (200, 400))  # mean 2
    a = 0.5 * b + rng.gamma(2.0, 1.0, (200, 400))  # mean 3
    found = [measure.ratio_of_means(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)]
    assert_unbiased([one.value for one in found], [one.error for one in found], 1.5)
    assert (a / b).mean() > 1.7


def test_wrong_use_gets_a_sentence() -> None:
    with pytest.raises(UserError, match="at least one draw"):
        measure.mean([])
    with pytest.raises(UserError, match="as many numerators"):
        measure.ratio_of_means([1.0], [1.0, 2.0])
    assert measure.ratio_of_means([1.0, 1.0], [1.0, -1.0]).value == math.inf
