import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ravine.study.targets import Target, TimeContrast, contrast_times, ladder, times

Floats = NDArray[np.float64]

STEPS = (10, 20, 30, 40)


def rising(*at: float) -> Floats:
    """Curves that jump from 0 to 1 at the given steps; inf for never."""
    return np.array([[float(step >= a) for step in STEPS] for a in at])


def contrast(method: Floats, versus: Floats) -> TimeContrast:
    (found,) = contrast_times(("a", method), ("b", versus), STEPS, [Target(1.0, 1.0)])
    return found


def test_ladder_is_the_progress_of_the_median_run() -> None:
    curves = np.array([[0.1, 0.5, 0.9, 0.8], [0.1, 0.5, 0.7, 0.6], [0.3, 0.2, 0.1, 0.8]])
    targets = ladder(curves)
    assert [target.share for target in targets] == [0.25, 0.5, 0.75, 0.9, 1.0]
    assert [target.score for target in targets] == pytest.approx(
        [0.1 + share * 0.7 for share in (0.25, 0.5, 0.75, 0.9, 1)]
    )
    assert targets[-1].score == 0.8


def test_half_of_the_tuning_runs_reach_the_highest_target() -> None:
    curves = np.random.default_rng(0).normal(size=(9, 50)).cumsum(axis=1)
    assert np.isfinite(times(curves, range(1, 51), ladder(curves)[-1].score)).mean() > 0.5


def test_time_is_the_first_evaluation_at_the_target() -> None:
    curves = [[0.2, 0.6, 0.4, 0.7], [0.1, 0.1, 0.1, 0.1], [0.6, 0.1, 0.1, 0.1]]
    assert times(curves, STEPS, 0.6).tolist() == [20, math.inf, 10]


def test_hand_worked_contrast() -> None:
    found = contrast(rising(10, 10, 20, 10), rising(20, 40, 40, math.inf))
    assert found.restricted_mean == (12.5, 35)
    assert found.saved == pytest.approx(22.5)
    assert found.speedup == pytest.approx((2 * 4 * 2 * 4) ** 0.25)
    assert found.ert == (12.5, 140 / 3)
    assert (found.reached, found.both_missed, found.note) == ((4, 3), 0, None)
    half = 3.182446 * np.std([10, 30, 20, 30], ddof=1) / 2
    assert found.saved_interval == pytest.approx((22.5 - half, 22.5 + half), rel=1e-6)


def test_a_pair_that_misses_twice_is_no_tie() -> None:
    method, versus = rising(10, 20, math.inf), rising(30, 40, math.inf)
    found = contrast(method, versus)
    assert (found.both_missed, found.saved) == (1, 20)  # not 40 / 3
    assert found.restricted_mean == pytest.approx((70 / 3, 110 / 3))


def test_a_method_that_never_reaches_the_target_ranks_last() -> None:
    found = contrast(rising(*[math.inf] * 6), rising(10, 20, 30, 10, 20, 30))
    assert found.saved == -20
    assert found.speedup is not None and found.speedup < 1
    assert found.reached == (0, 6)
    assert found.ert == (None, 20)
    assert found.note is None


def test_undecided_if_over_half_of_both_miss() -> None:
    found = contrast(rising(10, 20, *[math.inf] * 4), rising(30, *[math.inf] * 5))
    assert found.note is not None and found.note.startswith("undecided")
    assert [found.saved, found.saved_interval, found.speedup, found.speedup_interval] == [None] * 4
    assert contrast(rising(10, 20, 10, *[math.inf] * 3), rising(30, *[math.inf] * 5)).note is None


def test_equal_methods_differ_by_zero_on_average_though_pairs_are_left_out() -> None:
    generator = np.random.default_rng(1)

    def draw() -> Floats:
        return rising(*np.where(generator.random(12) < 0.4, math.inf, generator.choice(STEPS, 12)))

    found = [contrast(draw(), draw()) for _ in range(600)]
    saved = [c.saved for c in found if c.saved is not None and c.saved_interval is not None]
    assert abs(np.mean(saved)) < 4 * np.std(saved) / math.sqrt(len(saved))
    covered = [c.saved_interval[0] <= 0 <= c.saved_interval[1] for c in found if c.saved_interval is not None]
    assert 0.92 < np.mean(covered) <= 1


def test_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        contrast_times(("a", [[1.0]]), ("b", [[1.0]]), (0,), [Target(1.0, 1.0)])
