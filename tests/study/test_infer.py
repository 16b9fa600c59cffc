import math
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from ravine.study import infer
from ravine.study.infer import CHANCES, Contrast, Finalists, contrasts

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]

NOISES: dict[str, Noise] = {
    "gaussian": lambda g, shape: g.normal(size=shape),
    "t3": lambda g, shape: g.standard_t(3, size=shape),
    "binomial": lambda g, shape: (g.binomial(360, 0.96, shape) - g.binomial(360, 0.96, shape)).astype(np.float64),
}


def given_setting(scores: Floats) -> Finalists:
    """A setting that was not searched."""
    return Finalists(np.atleast_2d(scores), np.ones(1), np.zeros(np.atleast_2d(scores).shape, dtype=bool))


def searched(scores: Floats, trials: int = 64) -> Finalists:
    k = len(scores)
    return Finalists(scores, np.array(CHANCES[:k]), np.zeros(scores.shape, dtype=bool), trials)


def one(method: Finalists, versus: Finalists, margin: float = 0.0) -> Contrast:
    (contrast,) = contrasts({"a": method, "b": versus}, [("a", "b")], margin)
    return contrast


def paired(differences: Floats, margin: float = 0.0) -> Contrast:
    """The contrast of two given settings whose paired differences are these."""
    return one(given_setting(differences), given_setting(np.zeros(len(differences))), margin)


def diverging(runs: int, scores: Floats, which: int = 0) -> Finalists:
    """A searched method with one finalist that diverged on so many seeds."""
    diverged = np.zeros(scores.shape, dtype=bool)
    diverged[which, :runs] = True
    return replace(searched(scores), diverged=diverged)


def flat(level: float, n: int = 20, jitter: float = 0.0) -> Floats:
    return np.full((4, n), level) + jitter * np.random.default_rng(0).normal(size=(4, n))


# --- one contrast -----------------------------------------------------------------------------------------------------


def test_given_settings_have_students_interval_and_p_value() -> None:
    differences = np.random.default_rng(1).normal(0.4, 1, 20)
    contrast = paired(differences)
    expected = stats.ttest_1samp(differences, 0)
    interval = expected.confidence_interval(0.95)
    for found in (contrast.interval, contrast.interval_unadjusted, contrast.interval_given_settings):
        assert found == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert contrast.p_adjusted == contrast.p_unadjusted == pytest.approx(expected.pvalue, rel=1e-12)


def test_variance_of_a_searched_method_by_hand() -> None:
    # Finalists at .90, .80, .80, .80 whose seeds all move together: tau^2 = .5 * .5 * .1^2, nothing to take off.
    scores = np.array([[0.9], [0.8], [0.8], [0.8]]) + np.linspace(-0.01, 0.01, 11)
    contrast = one(searched(scores), given_setting(np.zeros(11)))
    seeds = np.linspace(-0.01, 0.01, 11).var(ddof=1) / 11
    assert contrast.difference == pytest.approx(0.85)
    assert contrast.difference_given_settings == pytest.approx(0.9)
    assert contrast.standard_error == pytest.approx(math.sqrt(seeds + 0.0025))
    assert contrast.search_share == pytest.approx(0.0025 / (seeds + 0.0025))


def test_spread_of_equal_finalists_is_the_noise_of_the_seeds_and_is_taken_off() -> None:
    generator = np.random.default_rng(2)
    spreads = [searched(generator.normal(size=(4, 20))).search_variance.value for _ in range(2000)]
    raw = (1 - sum(w * w for w in CHANCES)) / 20  # tr(M) / n: what it would be without the correction
    assert np.mean(spreads) < 0.5 * raw
    assert np.median(spreads) < 0.2 * raw


def test_degrees_of_freedom_of_the_search_are_those_of_its_quadratic_form() -> None:
    weights = np.array(CHANCES)
    form = np.diag(weights) - np.outer(weights, weights)
    means = np.random.default_rng(3).normal(size=(200_000, 4))
    draws = ((means @ form) * means).sum(axis=1)
    freedom = searched(np.random.default_rng(4).normal(size=(4, 9))).search_variance.freedom
    assert freedom == pytest.approx(2 * draws.mean() ** 2 / draws.var(), rel=0.02)


@pytest.mark.parametrize("difference", [0.0, 0.03, -0.2])
def test_equal_differences_have_a_point_for_an_interval(difference: float) -> None:
    contrast = one(searched(flat(0.5 + difference)), searched(flat(0.5)), margin=0.02)
    exact = (0.5 + difference) - 0.5
    assert contrast.interval == contrast.interval_unadjusted == contrast.interval_given_settings == (exact, exact)
    assert contrast.p_adjusted == (1.0 if difference == 0 else 0.0)
    assert contrast.verdict == {0.0: "equal", 0.03: "pays", -0.2: "hurts"}[difference]


def test_swapping_the_methods_mirrors_everything() -> None:
    generator = np.random.default_rng(5)
    a, b = (searched(generator.normal(size=(4, 20)) + shift) for shift in (3.0, 0.0))
    there, back = one(a, b, 0.1), one(b, a, 0.1)
    assert (there.verdict, back.verdict) == ("pays", "hurts")
    assert there.difference == pytest.approx(-back.difference)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert there.p_adjusted == pytest.approx(back.p_adjusted)


def test_permuting_the_seeds_of_one_method_widens_the_interval() -> None:
    generator = np.random.default_rng(6)
    seeds = generator.normal(size=20)
    a, b = (searched(seeds + 0.1 * generator.normal(size=(4, 20))) for _ in range(2))
    shuffled = searched(a.scores[:, generator.permutation(20)])
    assert one(shuffled, b).standard_error > 3 * one(a, b).standard_error


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.05, "pays"), (-0.05, "hurts"), (0.0, "equal"), (0.01, "undecided")]
)
def test_verdicts_by_the_place_of_the_interval(difference: float, verdict: str) -> None:
    contrast = one(searched(flat(difference, jitter=0.001)), searched(flat(0.0)), margin=0.01)
    assert contrast.verdict == verdict


def test_who_diverges_on_more_seeds_neither_pays_nor_is_equal() -> None:
    better, worse = flat(0.9), flat(0.8)
    contrast = one(diverging(2, better), diverging(1, worse), 0.01)
    assert (contrast.verdict, contrast.diverged) == ("undecided", (2, 1))
    assert "2 of its evaluation runs diverged, against 1" in (contrast.note or "")
    assert one(diverging(1, better), diverging(1, worse), 0.01).verdict == "pays"
    assert one(diverging(0, better), diverging(1, worse), 0.01).verdict == "pays"
    assert one(diverging(1, worse), diverging(0, better), 0.01).verdict == "hurts"
    assert one(diverging(0, worse), diverging(1, better), 0.01).verdict == "undecided"
    assert one(diverging(1, worse), diverging(0, worse), 0.01).verdict == "undecided"


def test_divergence_of_other_finalists_than_the_winner_is_not_counted() -> None:
    assert one(diverging(2, flat(0.9), which=3), searched(flat(0.8)), 0.01).verdict == "pays"


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (searched(flat(0.9), trials=15), "15 trials"),
        (searched(flat(0.9, n=4)), "4 evaluation seeds"),
        (searched(flat(0.9)[:1]), "one finalist"),
    ],
)
def test_too_little_gives_an_interval_and_no_verdict(method: Finalists, words: str) -> None:
    contrast = one(method, searched(flat(0.5, n=method.scores.shape[1])), 0.01)
    assert contrast.verdict == "undecided"
    assert words in (contrast.note or "")
    assert contrast.seeds_needed is None
    assert contrast.interval[0] > 0.3


def test_given_settings_need_no_trials() -> None:
    assert one(given_setting(flat(0.9)[:1]), given_setting(flat(0.8)[:1]), 0.01).verdict == "pays"


def test_undecided_says_how_many_seeds_would_do_and_decided_does_not() -> None:
    differences = np.random.default_rng(7).normal(size=20)
    differences = 0.02 * (differences - differences.mean()) / differences.std(ddof=1)
    undecided = paired(differences + 0.015, 0.01)
    assert undecided.verdict == "undecided"
    assert undecided.seeds_needed == pytest.approx(7.85 * 0.02**2 / 0.005**2, rel=0.03)
    assert paired(differences + 0.05, 0.01).seeds_needed is None
    assert "margin itself" in (paired(differences + 0.0105, 0.01).note or "")


def test_seeds_cannot_mend_the_noise_of_the_search() -> None:
    scores = flat(0.9, jitter=1e-4) + np.array([[0.0], [-0.05], [0.05], [-0.03]])
    contrast = one(searched(scores), searched(flat(0.87)), 0.01)
    assert (contrast.verdict, contrast.seeds_needed) == ("undecided", None)
    assert "more trials can" in (contrast.note or "")


# --- the family -------------------------------------------------------------------------------------------------------

PAIRS = [("b", "a"), ("c", "a"), ("d", "a"), ("d", "c")]


def family(seed: int, n: int = 20) -> dict[str, Finalists]:
    generator = np.random.default_rng(seed)
    seeds = generator.normal(size=n)
    return {name: searched(seeds + 0.3 * generator.normal(size=(4, n))) for name in "abcd"}


def test_adding_a_method_changes_no_difference_and_no_unadjusted_interval() -> None:
    methods = family(0)
    alone, among = contrasts(methods, PAIRS[:1], 0.1)[0], contrasts(methods, PAIRS, 0.1)[0]
    changed = {"interval", "p_adjusted", "verdict", "seeds_needed", "note"}
    before, after = asdict(alone), asdict(among)
    assert {name: before[name] for name in before if name not in changed} == {
        name: after[name] for name in after if name not in changed
    }
    assert among.interval[0] < alone.interval[0] < alone.interval[1] < among.interval[1]


def test_the_key_changes_the_draws_and_the_intervals_by_less_than_a_thousandth() -> None:
    methods = family(1)
    first, again, other = (contrasts(methods, PAIRS, 0.1, key=key) for key in (0, 0, 1))
    assert first == again
    assert first != other
    for a, b in zip(first, other, strict=True):
        assert a.interval == pytest.approx(b.interval, abs=1e-3 * a.standard_error)
        assert a.p_adjusted == pytest.approx(b.p_adjusted, abs=1e-4)


def test_adjustment_of_independent_contrasts_is_sidaks() -> None:
    everyone = infer._Family(3, np.abs(_directions(3)).max(axis=1))
    assert everyone.level(0.05) == pytest.approx(1 - 0.95 ** (1 / 3), rel=2e-4)
    assert everyone.adjust(0.02) == pytest.approx(1 - 0.98**3, rel=2e-4)


def test_adjustment_of_equal_contrasts_is_none() -> None:
    generator = np.random.default_rng(2)
    a, b = searched(generator.normal(size=(4, 20))), searched(generator.normal(size=(4, 20)))
    twice = contrasts({"a": a, "b": b, "c": b}, [("a", "b"), ("c", "a")], 0.1)
    single = one(a, b, 0.1)
    # b and c stand for independent searches, so the correlation is below 1 by the share of the search
    assert twice[0].p_adjusted >= single.p_unadjusted
    settings_only = {name: given_setting(f.scores[0]) for name, f in {"a": a, "b": b, "c": b}.items()}
    for contrast in contrasts(settings_only, [("a", "b"), ("a", "c")], 0.1):
        assert contrast.p_adjusted == pytest.approx(contrast.p_unadjusted, rel=1e-3)


def _directions(m: int) -> Floats:
    draws = stats.qmc.MultivariateNormalQMC(np.zeros(m), rng=np.random.default_rng(0)).random(2**16)
    directions: Floats = draws / np.linalg.norm(draws, axis=1, keepdims=True)
    return directions


def test_family_wise_error_of_four_contrasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "FAMILY_DRAWS", 2**9)
    generator, false, studies = np.random.default_rng(3), 0, 400
    for _ in range(studies):
        seeds = generator.normal(size=10)
        methods = {name: given_setting(seeds + generator.normal(size=10)) for name in "abcd"}
        false += any(contrast.p_adjusted < 0.05 for contrast in contrasts(methods, PAIRS, 0.0))
    assert abs(false / studies - 0.05) < 3 * math.sqrt(0.05 * 0.95 / studies)


# --- simulated truth --------------------------------------------------------------------------------------------------


def simulate(noise: Noise, n: int, shift: float, margin: float, studies: int = 2000) -> list[Contrast]:
    draws = noise(np.random.default_rng([n, 11]), (studies, n))
    return [paired(row + shift, margin) for row in draws]


@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize("name", NOISES)
def test_coverage_of_the_interval(name: str, n: int) -> None:
    covered = [c.interval[0] <= 0 <= c.interval[1] for c in simulate(NOISES[name], n, 0.0, 0.0)]
    assert 0.93 < np.mean(covered) < 0.97


@pytest.mark.parametrize("name", NOISES)
def test_error_rates_with_the_true_difference_at_the_margin(name: str) -> None:
    found = [c.verdict for c in simulate(NOISES[name], 20, 1.0, 1.0)]
    assert found.count("pays") / len(found) <= 0.025 + 3 * math.sqrt(0.025 / len(found))
    assert found.count("equal") / len(found) <= 0.05


def test_coverage_where_the_noise_is_that_of_the_search() -> None:
    """Two copies of a method; every finalist has its own true score, and so has every winner of another search."""
    generator, studies = np.random.default_rng(12), 1000

    def copy(seeds: Floats) -> Finalists:
        return searched(seeds + generator.normal(size=(4, 1)) + 0.5 * generator.normal(size=(4, 20)))

    found = [one(copy(seeds), copy(seeds)) for seeds in generator.normal(size=(studies, 20))]
    assert sum(c.verdict != "undecided" for c in found) / studies < 0.05
    given_settings = [not c.interval_given_settings[0] <= 0 <= c.interval_given_settings[1] for c in found]
    assert np.mean(given_settings) > 0.5  # what the seeds alone would have said


# --- any input --------------------------------------------------------------------------------------------------------

scores = st.integers(2, 7).flatmap(
    lambda n: st.lists(
        st.lists(
            st.lists(
                st.sampled_from([0.0, 0.97, 1.0, 1e-12]) | st.floats(-1e3, 1e3, allow_subnormal=False),
                min_size=n,
                max_size=n,
            ),
            min_size=1,
            max_size=4,
        ),
        min_size=3,
        max_size=3,
    )
)


ALL_BUT_EQUAL = [[[0.0] * 4], [[0.0, 0.97, 0.0, 0.0]], [[0.0, 0.97, 0.0, 1e-12]]]
"""Two of these differ by less than the rounding of their variances."""


@settings(max_examples=100, deadline=None)
@given(scores, st.sampled_from([0.0, 0.01, 5.0]), st.sampled_from([None, 8, 64]))
@example(ALL_BUT_EQUAL, 0.01, None)
def test_any_input_gives_finite_numbers_and_interval_p_value_and_verdict_agree(
    tables: list[list[list[float]]], margin: float, trials: int | None
) -> None:
    methods = {name: searched(np.array(table), 64) for name, table in zip("abc", tables, strict=True)}
    methods = {name: replace(finalists, trials=trials) for name, finalists in methods.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infer, "FAMILY_DRAWS", 2**8)
        found = contrasts(methods, [("b", "a"), ("c", "a"), ("c", "b")], margin)
    for c in found:
        numbers = [c.difference, *c.interval, *c.interval_unadjusted, *c.interval_given_settings, c.standard_error]
        assert np.isfinite([*numbers, c.p_adjusted, c.p_unadjusted, c.difference_given_settings]).all()
        assert 0 <= c.p_unadjusted <= c.p_adjusted <= 1
        assert 0 <= c.search_share <= 1 + 1e-12
        assert c.interval[0] <= c.interval_unadjusted[0] <= c.difference <= c.interval_unadjusted[1] <= c.interval[1]
        if abs(c.p_adjusted - 0.05) > 1e-9:
            assert (c.p_adjusted < 0.05) == (not c.interval[0] <= 0 <= c.interval[1])
        if c.verdict != "undecided":
            low, high = c.interval
            assert c.verdict == infer._verdict((low, high), margin)
        assert c.seeds_needed is None or c.seeds_needed >= 5


@pytest.mark.parametrize(
    ("table", "weights", "words"),
    [
        (np.zeros((1, 1)), np.ones(1), "seeds >= 2"),
        (np.zeros(4), np.ones(4), "seeds >= 2"),
        (np.zeros((2, 4)), np.ones(1), "one positive chance"),
        (np.zeros((2, 4)), np.array([1.0, 0.0]), "one positive chance"),
        (np.full((1, 4), np.nan), np.ones(1), "finite"),
    ],
)
def test_finalists_refuse_what_they_cannot_mean(table: Floats, weights: Floats, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Finalists(table, weights, np.zeros(table.shape, dtype=bool))


def test_contrasts_refuse_what_they_cannot_judge() -> None:
    a, b = given_setting(np.zeros(4)), given_setting(np.zeros(5))
    with pytest.raises(ValueError, match="margin"):
        contrasts({"a": a, "b": a}, [("a", "b")], -0.1)
    with pytest.raises(ValueError, match="share their evaluation seeds"):
        contrasts({"a": a, "b": b}, [("a", "b")], 0.1)
    with pytest.raises(ValueError, match="itself"):
        contrasts({"a": a}, [("a", "a")], 0.1)
    with pytest.raises(ValueError, match="shaped like"):
        Finalists(np.zeros((1, 4)), np.ones(1), np.zeros((1, 3), dtype=bool))
