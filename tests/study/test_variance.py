import numpy as np
import pytest
from numpy.typing import NDArray

from ravine.study.tuning_curve import expected_best
from ravine.study.variance import study_variance

Floats = NDArray[np.float64]

PAIR = ("a", "b")


def tables(configurations: float, seeds: float, shape: tuple[int, int] = (32, 16)) -> dict[str, Floats]:
    """Scores with an effect of the configuration and one of (method, seed)."""
    generator = np.random.default_rng(0)
    return {
        name: configurations * generator.normal(size=(shape[0], 1)) + seeds * generator.normal(size=(1, shape[1]))
        for name in PAIR
    }


def test_without_seed_noise_the_expected_score_is_the_expected_best() -> None:
    test = tables(1.0, 0.0)
    found = study_variance(test, test, [PAIR], draws=2000, splits=2)
    for name in PAIR:
        assert found.expected[name] == pytest.approx(expected_best(test[name][:, 0]), abs=0.08)
    assert found.tuning_share[PAIR][:16] == pytest.approx(1, abs=1e-9)
    assert found.seed_share[PAIR] == pytest.approx(0, abs=1e-9)


def test_without_differences_between_configurations_only_seeds_vary() -> None:
    test = tables(0.0, 1.0)
    found = study_variance(test, test, [PAIR])
    assert found.seed_share[PAIR] == pytest.approx(1, abs=1e-9)
    assert found.tuning_share[PAIR] == pytest.approx(0, abs=1e-9)


def test_identical_configurations_show_no_advantage_of_selection() -> None:
    noise = np.random.default_rng(1).normal(size=(64, 40))
    found = study_variance({"a": noise, "b": noise}, {"a": noise, "b": noise}, [PAIR], draws=60, splits=60)
    assert abs(found.expected["a"][-1] - noise.mean()) < 0.1  # on the tuning half the best of 64 stands at about +.5


def test_the_better_method_wins() -> None:
    test = tables(0.1, 0.1)
    test["a"] = test["a"] + 5
    found = study_variance(test, test, [PAIR, ("b", "a")])
    assert (found.wins[PAIR] == 1).all()
    assert (found.wins[("b", "a")] == 0).all()


def test_equal_tables_tie_at_half_and_nothing_is_nan() -> None:
    test = {name: np.full((4, 6), 0.5) for name in PAIR}
    found = study_variance(test, test, [PAIR])
    assert (found.wins[PAIR] == 0.5).all()
    for shares in (found.tuning_share, found.seed_share):
        assert (shares[PAIR] == 0).all()
    assert found.interval["a"].tolist() == [[0.5] * 4] * 2


def test_the_key_fixes_the_draws() -> None:
    test = tables(1.0, 1.0)
    first, again, other = (study_variance(test, test, [PAIR], key=key).wins[PAIR] for key in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_budgets_go_as_far_as_the_method_with_fewest_configurations() -> None:
    test = tables(1.0, 1.0)
    test["b"] = test["b"][:5]
    assert study_variance(test, test, [PAIR]).wins[PAIR].shape == (5,)


def test_methods_must_share_their_seeds() -> None:
    test = tables(1.0, 1.0)
    test["b"] = test["b"][:, :5]
    with pytest.raises(ValueError, match="same seeds"):
        study_variance(test, test, [PAIR])
