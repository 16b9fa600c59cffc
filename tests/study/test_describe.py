import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ravine.study.describe import describe


def test_sign_flip_p_is_the_share_of_all_sign_patterns() -> None:
    differences = np.random.default_rng(0).normal(0.5, 1, 8)
    means = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=8)]
    expected = np.mean(np.array(means) >= abs(differences.sum()) - 1e-12)
    assert describe(differences).p_sign_flip == pytest.approx(expected)


def test_shift_is_the_median_of_walsh_averages() -> None:
    assert describe(np.array([1.0, 2.0, 10.0])).shift == np.median([1, 1.5, 5.5, 2, 6, 10])


def test_ties_count_half_and_the_interval_is_wilsons() -> None:
    found = describe(np.array([1.0, 0.0, 0.0, -1.0, 2.0, 3.0]))
    assert found.chance_better == pytest.approx(4 / 6)
    wilson = stats.binomtest(4, 6).proportion_ci(method="wilson")
    assert found.chance_better_interval == pytest.approx((wilson.low, wilson.high))


def test_bootstrap_from_30_seeds_on_and_another_key_changes_its_draws() -> None:
    differences = np.random.default_rng(1).normal(0.2, 1, 40)
    first, again, other = describe(differences), describe(differences), describe(differences, key=1)
    assert first == again
    assert first.bootstrap is not None and other.bootstrap is not None
    assert first.bootstrap != other.bootstrap
    student = stats.ttest_1samp(differences, 0).confidence_interval()
    for found in (first.bootstrap, other.bootstrap):
        assert found == pytest.approx((student.low, student.high), abs=0.05)
    assert describe(differences[:29]).bootstrap is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, -0.1]) | st.floats(-10, 10), min_size=2, max_size=33))
def test_every_number_is_finite(values: list[float]) -> None:
    found = describe(np.array(values))
    numbers = [found.shift, found.chance_better, *found.chance_better_interval, found.p_sign_flip]
    assert all(math.isfinite(number) for number in [*numbers, *(found.bootstrap or ())])
    assert 0 <= found.chance_better_interval[0] <= found.chance_better <= found.chance_better_interval[1] <= 1
