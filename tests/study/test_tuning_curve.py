from itertools import combinations

import numpy as np
import pytest

from ravine.study.tuning_curve import expected_best


@pytest.mark.parametrize("trials", [1, 2, 9])
def test_is_the_mean_best_of_all_subsets(trials: int) -> None:
    scores = np.random.default_rng(0).normal(size=trials)
    brute = [np.mean([max(subset) for subset in combinations(scores, k)]) for k in range(1, trials + 1)]
    assert expected_best(scores) == pytest.approx(brute, rel=1e-12)


def test_runs_from_mean_to_maximum_and_never_falls() -> None:
    scores = np.random.default_rng(1).normal(size=512)
    curve = expected_best(scores)
    assert curve[0] == pytest.approx(scores.mean())
    assert curve[-1] == pytest.approx(scores.max())
    assert (np.diff(curve) > 0).all()


def test_the_plug_in_is_lower() -> None:
    scores = np.sort(np.random.default_rng(2).normal(size=9))
    i = np.arange(1, 10)
    for k in (3, 5):
        assert scores @ ((i / 9) ** k - ((i - 1) / 9) ** k) < expected_best(scores)[k - 1]


def test_equal_scores_stay_what_they_are() -> None:
    assert expected_best(np.full(64, 0.7)) == pytest.approx(np.full(64, 0.7), rel=1e-12)
