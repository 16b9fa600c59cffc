import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases_search import (
    LOSS,
    SETTINGS,
    Engine,
    Surface,
    complement,
    constant,
    gradient_descent,
    lr,
    uniform,
)
from ravine.errors import UserError, WorkError
from ravine.study import search, space
from ravine.study.methods import METHODS, get
from ravine.study.runner import Curves
from ravine.study.search import Configuration, Coroutine, Request, Run, Tuned, drive, outcome, tune
from ravine.study.space import Box, Floats

Train = Callable[[Run], Curves]


def tuned(method: str = "sgd", train: Train | None = None, **changes: Any) -> tuple[Tuned, Engine]:
    """(outcome, engine) of tuning one method on a simulated problem."""
    engine = Engine(train or Surface())
    (found,) = drive([tune(get(method), replace(SETTINGS, **changes))], engine)
    return found, engine


def configurations(runs: Iterable[Run]) -> list[Configuration]:
    return list(dict.fromkeys(Configuration(run.method, run.hyper) for run in runs))


def probe_loss(run: Run) -> float:
    """The final loss where training fails from lr 1 on while it is probed, so that the range is [.002, 2]."""
    return 3.0 if lr(run) >= 1 and run.steps <= 50 else 1.0


def ran(
    accuracy: Sequence[float],
    loss: Sequence[float] | None = None,
    steps: tuple[int, ...] | None = None,
    diverged_at: int | None = None,
    initial: float = 2.0,
    final: float = 1.0,
    test: Mapping[str, Floats] | None = None,
) -> Curves:
    loss = [1.0] * len(accuracy) if loss is None else loss
    steps = tuple(range(1, len(accuracy) + 1)) if steps is None else steps
    curves = {"accuracy": np.array(accuracy, float), "loss": np.array(loss, float)}
    return Curves(initial, final, diverged_at, steps, curves, test)


# --- ranges: the probe finds closed-form stability limits


def probed(method: str, train: Train, **changes: Any) -> tuple[float, float, list[str]]:
    (((low, high), warnings),) = drive([search.probe(get(method), replace(LOSS, **changes))], Engine(train))
    return low, high, warnings


@pytest.mark.parametrize("curvature", [0.003, 0.9, 1.0, 7.0, 300.0, 1e6, 1e9])
def test_the_probe_finds_the_stability_limit_of_gradient_descent(curvature: float) -> None:
    low, high, _ = probed("sgd", gradient_descent(curvature))
    limit = 2 / curvature
    smallest_failing = 2.0 ** math.ceil(math.log2(limit))
    assert high == 2 * smallest_failing
    assert low == pytest.approx(1e-3 * high, rel=1e-12)


@pytest.mark.parametrize("curvature", [0.003, 0.7, 1.3, 90.0])
def test_the_probe_finds_the_stability_limit_of_heavy_ball_at_momentum_09(curvature: float) -> None:
    _, high, _ = probed("momentum", gradient_descent(curvature))
    limit = 2 * (1 + 0.9) / curvature
    assert high == 2 * 2.0 ** math.ceil(math.log2(limit))


@settings(max_examples=25, deadline=None)
@given(st.floats(-6, 20))
def test_the_range_of_gradient_descent_holds_its_best_learning_rate_for_any_curvature(log2: float) -> None:
    curvature = 2.0**log2
    low, high, _ = probed("sgd", gradient_descent(curvature))
    assert low < 1 / curvature < 2 / curvature <= high <= 8 / curvature


def test_probe_runs_use_the_tuning_seeds_the_anchor_momentum_and_at_most_50_steps() -> None:
    _, engine = tuned("adam")
    runs = engine.asked("probe")
    assert {run.seed for run in runs} == {0, 1, 2}
    assert {complement(run) for run in runs} == {1 - 0.9} and {run.steps for run in runs} == {50}
    assert {lr(run) for run in runs} == {2.0**e for e in range(-20, 13)}
    _, engine = tuned("adam", steps=30)
    assert {run.steps for run in engine.asked("probe")} == {30}


def test_the_median_over_seeds_decides_whether_a_learning_rate_trains() -> None:
    def train(run: Run, failing: set[int]) -> Curves:
        return ran([0.5], final=1.0 - lr(run) * 1e-6 if lr(run) < 1 or run.seed not in failing else 3.0)

    _, one, _ = probed("sgd", lambda run: train(run, failing={0}))
    _, two, _ = probed("sgd", lambda run: train(run, failing={0, 2}))
    assert two == 2.0 and one > 2.0**12


def test_a_problem_on_which_nothing_trains_is_refused_in_one_sentence() -> None:
    for train in (lambda run: constant(run, 0.1, loss=2.0), lambda run: constant(run, 0.1, loss=math.nan)):
        with pytest.raises(UserError, match=r"No learning rate from 9\.1e-13 to 1\.1e\+12 lowers .* in 50 steps"):
            tuned("sgd", train)


def test_a_bounded_loss_is_searched_around_its_best_learning_rate_with_a_warning() -> None:
    found, _ = tuned("sgd", lambda run: constant(run, 0.5, loss=1 + abs(math.log2(lr(run)) - 3) / 100))
    low, high = found.ranges["lr"]
    assert low < 8 < high
    assert any("every learning rate up to 1.1e+12 lowers" in warning for warning in found.warnings)


# --- points


def unit(configuration: Configuration, box: Box) -> tuple[float, ...]:
    at = box.coordinates(configuration.hyper)
    return tuple(math.log(c / a) / math.log(b / a) for c, a, b in zip(at, box.low, box.high, strict=True))


def box_of(method: str, engine: Engine) -> Box:
    ((lr_range, _),) = drive([search.probe(get(method), SETTINGS)], engine)
    return space.box(get(method), lr_range, SETTINGS.steps)


def test_coarse_points_are_the_same_points_of_the_cube_for_methods_of_one_dimension() -> None:
    train = Surface(limit=0.7)
    _, signum = tuned("signum", train)
    _, adam = tuned("adam", Surface(limit=9.0))
    a = [unit(c, box_of("signum", signum)) for c in configurations(signum.asked("coarse"))]
    b = [unit(c, box_of("adam", adam)) for c in configurations(adam.asked("coarse"))]
    assert len(a) == 32 and np.allclose(sorted(a), sorted(b), atol=1e-6)
    assert box_of("signum", signum).high[0] < box_of("adam", adam).high[0]


def test_methods_with_a_face_get_the_first_of_the_same_points() -> None:
    _, momentum = tuned("momentum")
    _, adam = tuned("adam")
    own = [c for c in configurations(momentum.asked("coarse")) if c.method == "momentum"]
    others = configurations(adam.asked("coarse"))
    assert len(own) == 16
    assert [dict(c.hyper)["momentum"] for c in own] == [dict(c.hyper)["beta1"] for c in others[:16]]


def test_local_points_are_near_the_best_quarter_of_the_coarse_ones_and_in_the_box() -> None:
    found, engine = tuned("momentum")
    box = box_of("momentum", engine)
    coarse = [t for t in found.trials if t.phase == "coarse" and t.configuration.method == "momentum"]
    best = sorted(coarse, key=lambda t: -t.score)[: len(coarse) // 4]
    centres = np.array([box.coordinates(t.configuration.hyper) for t in best])
    points = np.array([box.coordinates(t.configuration.hyper) for t in found.trials if t.phase == "local"])
    assert points.shape == (32, 2) and len(centres) == 4
    ratio = np.abs(np.log(points[:, None] / centres[None]))
    near = (ratio <= np.log([2, 3]) + 1e-6).all(axis=2)
    assert near.any(axis=1).all()
    assert (points >= np.array(box.low) * (1 - 1e-7)).all() and (points <= np.array(box.high) * (1 + 1e-7)).all()
    assert (near.sum(axis=0) >= 8).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trials", [1, 2, 3, 4, 7, 64])
def test_exactly_k_distinct_trials_and_no_run_is_asked_for_twice(method: str, trials: int) -> None:
    found, engine = tuned(method, trials=trials)
    plain = [t for t in found.trials if not t.phase.startswith("extension")]
    assert len({t.configuration for t in plain}) == len(plain) == trials
    extra = space.quarter(trials) * len(found.extensions)
    assert len({t.configuration for t in found.trials}) == len(found.trials) == trials + extra
    asked = [run for requests in engine.rounds for request in requests for run in request.runs]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("method", ["momentum", "nesterov", "ema-momentum"])
def test_the_face_is_the_contained_methods_own_runs(method: str) -> None:
    engine = Engine(Surface())
    (sgd,) = drive([tune(get("sgd"), SETTINGS)], engine)
    trained = set(engine.stored)
    (found,) = drive([tune(get(method), SETTINGS)], engine)
    face = [t.configuration for t in found.trials if t.configuration.method == "sgd"]
    assert face == [t.configuration for t in sgd.trials[:16]]
    new = {run.method for run in set(engine.stored) - trained}
    assert new <= {method, "sgd"}
    assert not {run for run in set(engine.stored) - trained if run.method == "sgd" and run.seed in SETTINGS.tuning}


def test_where_momentum_only_hurts_the_winner_is_the_face() -> None:
    def train(run: Run) -> Curves:
        return constant(run, 0.9 if run.method == "sgd" else 0.5)

    found, _ = tuned("momentum", lambda run: train(run) if lr(run) < 2 else constant(run, 0.0, loss=3.0))
    assert found.finalists[0].method == "sgd" and found.finalists[0].hyper == (("lr", found.finalists[0].lr),)


def test_a_method_tuned_with_others_is_tuned_as_if_alone() -> None:
    alone = {name: tuned(name)[0] for name in ("sgd", "momentum", "adam")}
    engine = Engine(Surface())
    both = drive([tune(get(name), SETTINGS) for name in ("momentum", "sgd")], engine)
    all_three = drive([tune(get(name), SETTINGS) for name in ("adam", "sgd", "momentum")], Engine(Surface()))
    assert both == [alone["momentum"], alone["sgd"]]
    assert all_three == [alone["adam"], alone["sgd"], alone["momentum"]]


def test_equal_study_seeds_repeat_the_search_and_different_ones_or_copies_do_not() -> None:
    one, engine = tuned("momentum")
    again, repeated = tuned("momentum")
    assert one == again and engine.rounds == repeated.rounds
    for changes in ({"study_seed": 1}, {"copy": 1}):
        other, _ = tuned("momentum", Surface(), **changes)
        assert not {t.configuration for t in one.trials} & {t.configuration for t in other.trials}


def test_the_search_finds_a_smooth_optimum() -> None:
    surface = Surface(best=0.1, best_complement=0.1, noise=0.0)
    found, _ = tuned("adam", surface)
    winner = Run("adam", found.finalists[0].hyper, 0, 400)
    assert surface.quality(winner) > 0.99
    local = [t.score for t in found.trials if t.phase == "local"]
    coarse = [t.score for t in found.trials if t.phase == "coarse"]
    assert np.median(local) > np.median(coarse)


# --- extensions


def with_optimum_at(factor: float) -> Train:
    """sgd trains below lr 1, so the range is [.002, 2]; accuracy falls with the distance from lr = factor."""

    def train(run: Run) -> Curves:
        if lr(run) >= 1 and run.steps <= 50:
            return constant(run, 0.1, loss=3.0)
        return constant(run, 0.9 - 0.05 * abs(math.log10(lr(run) / factor)), loss=1.9 - 1e-3 * lr(run))

    return train


@pytest.mark.parametrize(
    ("optimum", "sides", "warned"),
    [
        (0.1, (), False),
        (0.005, (), False),
        (1e-3, ("lower",), False),
        (1e-4, ("lower", "lower"), False),
        (1e-8, ("lower", "lower"), True),
        (8.0, ("upper",), False),
        (1e4, ("upper", "upper"), True),
    ],
)
def test_the_range_is_extended_by_a_decade_where_the_winner_is_at_its_edge_and_at_most_twice(
    optimum: float, sides: tuple[str, ...], warned: bool
) -> None:
    found, engine = tuned("sgd", with_optimum_at(optimum), steps=400)
    assert found.extensions == sides
    low, high = found.ranges["lr"]
    assert low == pytest.approx(2e-3 * 10.0 ** -sides.count("lower"))
    assert high == pytest.approx(2.0 * 10.0 ** sides.count("upper"))
    for i, side in enumerate(sides, 1):
        lrs = [lr(run) for run in engine.asked(f"extension-{i}")]
        edge = 2e-3 * 10.0 ** -(i - 1) if side == "lower" else 2.0 * 10.0 ** (i - 1)
        assert len(set(lrs)) == 16
        assert min(lrs) >= (edge / 10 if side == "lower" else edge) * (1 - 1e-7)
        assert max(lrs) <= (edge if side == "lower" else edge * 10) * (1 + 1e-7)
    assert not engine.asked("extension-3")
    assert any("at the boundary" in warning for warning in found.warnings) == warned


def test_a_winner_on_the_face_never_extends_the_range() -> None:
    def train(run: Run) -> Curves:
        if lr(run) >= 1 and run.steps <= 50:
            return constant(run, 0.1, loss=3.0)
        face = run.method == "sgd"
        return constant(run, 0.9 - 0.05 * math.log10(lr(run)) if face else 0.5, loss=1.9 - 1e-3 * lr(run))

    assert tuned("sgd", train)[0].extensions
    found, _ = tuned("momentum", train)
    assert found.finalists[0].method == "sgd"
    assert found.extensions == () and not any("boundary" in warning for warning in found.warnings)


def test_the_extension_of_two_dimensions_keeps_the_other_axis() -> None:
    def train(run: Run) -> Curves:
        if lr(run) >= 1 and run.steps <= 50:
            return constant(run, 0.1, loss=3.0)
        return constant(run, 0.9 - 0.05 * math.log10(lr(run)), loss=1.9 - 1e-3 * lr(run))

    found, engine = tuned("adam", train)
    assert found.extensions == ("lower", "lower")
    complements = [complement(run) for run in engine.asked("extension-1")]
    assert min(complements) < 0.005 and max(complements) > 0.3


# --- scores and selection


def test_the_score_is_the_best_validation_value_within_the_horizon() -> None:
    run = ran([0.2, 0.5, 0.4, 0.9], loss=[2.0, 1.0, 0.5, 0.7], steps=(10, 20, 30, 40))
    found = [(o.score, o.loss, o.step) for o in (outcome(run, SETTINGS, t) for t in (10, 29, 30, 40))]
    assert found == [(0.2, 2.0, 10), (0.5, 1.0, 20), (0.5, 0.5, 20), (0.9, 0.5, 40)]


def test_a_loss_scores_minus_its_logarithm() -> None:
    run = ran([0.0, 0.0], loss=[0.5, 0.25])
    assert outcome(run, LOSS, 9).score == pytest.approx(math.log(4))


def test_a_metric_that_should_be_small_scores_its_negative() -> None:
    down = replace(SETTINGS, higher_is_better=False, worst=1.0)
    assert outcome(ran([0.5, 0.2, 0.3]), down, 9).score == -0.2
    assert outcome(ran([0.5, 0.2, 0.3], diverged_at=2), down, 9).score == -1.0


def test_a_diverged_run_scores_the_worst_value_from_its_step_on() -> None:
    run = ran([0.7, 0.8, math.nan], loss=[0.5, 0.4, math.inf], diverged_at=3)
    before, after = outcome(run, SETTINGS, 2), outcome(run, SETTINGS, 3)
    assert (before.score, before.diverged) == (0.8, False)
    assert (after.score, after.loss, after.diverged) == (0.0, math.inf, True)
    assert outcome(run, LOSS, 3).score == pytest.approx(-math.log(3 * 2.0))


def test_what_is_not_finite_or_below_the_worst_value_scores_the_worst() -> None:
    for value in (math.nan, -5.0, math.inf):
        assert outcome(ran([value]), SETTINGS, 9).score == 0.0
    for value in (math.nan, 50.0, math.inf):
        assert outcome(ran([0], loss=[value]), LOSS, 9).score == pytest.approx(-math.log(6))


def test_a_run_without_an_evaluation_within_the_horizon_scores_the_worst() -> None:
    assert outcome(ran([0.9], steps=(100,)), SETTINGS, 99) == search.Outcome(0.0, math.inf, 99, False)


def test_a_loss_of_zero_has_a_finite_score_and_a_negative_one_is_refused() -> None:
    assert 80 < outcome(ran([0.0], loss=[0.0]), LOSS, 9).score < 100
    with pytest.raises(UserError, match="declare a metric"):
        outcome(ran([0.0], loss=[-0.1]), LOSS, 9)
    with pytest.raises(UserError, match="declare a metric"):
        outcome(ran([0.0], initial=-1.0), LOSS, 9)
    assert outcome(ran([0.5], loss=[-0.1], initial=-1.0), SETTINGS, 9).score == 0.5
    with pytest.raises(WorkError, match="initialization is not finite"):
        outcome(ran([0.0], initial=math.nan), LOSS, 9)


def test_settings_without_a_worst_value_or_with_too_many_seeds_are_refused() -> None:
    with pytest.raises(UserError, match="worst value"):
        replace(SETTINGS, worst=None)
    with pytest.raises(UserError, match="At most 1000 tuning seeds"):
        replace(SETTINGS, tuning_seeds=1001)


def test_the_mean_over_the_tuning_seeds_decides() -> None:
    found, _ = tuned("sgd", lambda run: constant(run, uniform(run.seed, run.hyper), probe_loss(run)))
    seeds = SETTINGS.tuning
    best = max(found.trials, key=lambda t: np.mean([uniform(s, t.configuration.hyper) for s in seeds]))
    assert found.trial(found.finalists[0]) == best
    assert best.score == pytest.approx(np.mean([uniform(s, best.configuration.hyper) for s in seeds]))


def test_ties_go_by_validation_loss_then_by_the_smaller_learning_rate() -> None:
    def tie(run: Run) -> Curves:  # equal counts of right answers, whose means differ in the last bit
        right = [263, 264, 265] if abs(math.log10(lr(run) / 0.1)) > 0.1 else [264, 264, 264]
        return constant(
            run, right[run.seed % 3] / 360, loss=3.0 if lr(run) >= 1 else 1 + abs(math.log10(lr(run) / 0.1))
        )

    assert math.fsum([263 / 360, 264 / 360, 265 / 360]) > math.fsum([264 / 360] * 3)
    found, _ = tuned("sgd", tie)
    best = min(found.trials, key=lambda t: abs(math.log10(t.configuration.lr / 0.1)))
    assert found.finalists[0] == best.configuration

    found, _ = tuned("sgd", lambda run: constant(run, 0.5, loss=3.0 if lr(run) >= 1 else 1.0))
    usable = sorted(t.configuration.lr for t in found.trials)
    assert found.extensions == ("lower", "lower")
    assert [c.lr for c in found.finalists] == usable[:4]


def test_four_finalists_in_order() -> None:
    found, _ = tuned("momentum")
    scores = [found.trial(c).score for c in found.finalists]
    assert scores == sorted(scores, reverse=True)
    assert len(found.finalists) == 4
    two, _ = tuned("sgd", with_optimum_at(0.1), trials=2, study_seed=2)
    assert len(two.finalists) == len(two.trials) == 2


# --- screening


def test_a_configuration_that_loses_learning_on_a_screening_seed_is_skipped() -> None:
    cliff = Surface(best=0.3, cliff=0.3, lottery=0.15)
    found, engine = tuned("sgd", cliff)
    screened = {
        c: [run.seed for run in engine.asked("screen") if run.hyper == c.hyper and run.steps == 400]
        for c in configurations(engine.asked("screen"))
    }
    assert {seed for seeds in screened.values() for seed in seeds} == {*SETTINGS.screening, *SETTINGS.cliff}
    assert found.skipped

    def loses(configuration: Configuration, seeds: Iterable[int]) -> bool:
        return any(cliff(run).final_train_loss >= 2.3 for run in configuration.runs(seeds, 400))

    assert all(loses(c, screened[c]) for c in found.skipped)
    assert not any(loses(c, SETTINGS.screening) for c in found.finalists)
    ranked = [t.configuration for t in sorted(found.trials, key=lambda t: -t.score) if t.configuration in screened]
    standing = [c for c in ranked if screened[c] and not loses(c, screened[c])]
    others = [c for c in ranked if c not in standing and screened[c] and not loses(c, SETTINGS.screening)]
    assert list(found.finalists) == [*standing, *others][:4]


def test_candidates_next_to_settings_that_fail_are_screened_on_more_seeds() -> None:
    """Training fails from lr 1 on, so within a factor 2 below it a candidate lies at the cliff."""
    found, engine = tuned("sgd", lambda run: constant(run, min(lr(run), 0.9), loss=3.0 if lr(run) >= 1 else 1.0))
    failing = min(t.configuration.lr for t in found.trials if t.configuration.lr >= 1)
    seeds: dict[float, set[int]] = {}
    for run in engine.asked("screen"):
        if run.steps == SETTINGS.steps:
            seeds.setdefault(lr(run), set()).add(run.seed)
    at_cliff = {c.lr for c in found.finalists if failing <= 2 * c.lr}
    assert len(at_cliff) == 2
    for rate in (c.lr for c in found.finalists):
        assert seeds[rate] == {*SETTINGS.screening, *(SETTINGS.cliff if rate in at_cliff else ())}
    _, engine = tuned("sgd", with_optimum_at(0.01))
    assert {run.seed for run in engine.asked("screen")} == set(SETTINGS.screening)


def test_without_failures_nothing_is_skipped_and_four_are_screened() -> None:
    found, engine = tuned("sgd", horizons=False)
    assert found.skipped == ()
    assert len(configurations(engine.asked("screen"))) in (4, 5)  # the equal-dimension winner may be one of them


def test_if_no_candidate_learns_on_the_screening_seeds_the_best_stand_with_a_warning_and_the_search_ends() -> None:
    def train(run: Run) -> Curves:
        return constant(run, uniform(run.hyper), loss=3.0 if lr(run) >= 1 or run.seed in SETTINGS.screening else 1.0)

    found, engine = tuned("sgd", train, horizons=False)
    assert found.finalists[0] == max(found.trials, key=lambda t: t.score).configuration
    assert any("none of its best configurations" in warning for warning in found.warnings)
    assert len(configurations(engine.asked("screen"))) <= 4 * 4 + 4


def test_a_configuration_that_diverged_on_a_tuning_seed_is_no_candidate() -> None:
    def train(run: Run) -> Curves:
        on_edge = 0.3 < lr(run) < 1
        bad = lr(run) >= 1 or (on_edge and run.seed == 2)
        accuracy = 1.5 if on_edge else 0.5 + 0.01 * uniform(run.hyper)
        return constant(run, accuracy, loss=3.0 if bad else 1.0, diverged_at=5 if bad else None)

    found, _ = tuned("sgd", train)
    assert max(found.trials, key=lambda t: t.score).diverged == 1
    assert all(found.trial(c).diverged == 0 for c in found.finalists)


@pytest.mark.parametrize(
    ("finals", "learns"),
    [
        ([0.1, 0.2, 0.1], True),
        ([0.1, 2.0, 0.1], False),
        ([0.1, 1.98, 0.1], False),  # dead units: a little below the initial loss
        ([1.98, 1.97, 1.975], True),  # slow, but all alike
        ([0.1, math.nan, 0.1], False),
    ],
)
def test_learning_is_lost_at_the_initial_loss_or_far_behind_the_best_of_the_seeds(
    finals: list[float], learns: bool
) -> None:
    assert search.learns([ran([0.5], final=final) for final in finals]) == learns
    assert not search.learns([ran([0.5]), ran([0.5], diverged_at=3)])


def test_losses_below_zero_can_be_learned_too() -> None:
    assert search.learns([ran([0.5], initial=-1.0, final=-3.0), ran([0.5], initial=-1.2, final=-3.5)])
    assert not search.learns([ran([0.5], initial=-1.0, final=-3.0), ran([0.5], initial=-1.2, final=-1.0)])


def test_if_every_configuration_diverges_the_work_failed() -> None:
    def train(run: Run) -> Curves:
        return constant(run, 0.5, loss=1.0 if lr(run) < 1 else 3.0, diverged_at=60 if run.steps > 50 else None)

    with pytest.raises(WorkError, match="Every configuration of sgd diverges within 400 steps at learning rates from"):
        tuned("sgd", train)


# --- seeds


@given(st.integers(1, 1000), st.integers(1, 5000), st.integers(0, 3), st.integers(0, 3))
def test_tuning_screening_and_evaluation_seeds_never_meet(tuning: int, seeds: int, copy: int, other: int) -> None:
    a = replace(SETTINGS, tuning_seeds=tuning, seeds=seeds, copy=copy)
    b = replace(a, copy=other)
    assert (len(a.tuning), len(a.screening), len(a.evaluation)) == (tuning, 5, seeds)
    parts = [set(a.tuning), {*a.screening, *a.cliff}, set(a.evaluation)]
    assert len(parts[1]) == 5 + 15
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert a.evaluation == b.evaluation
    assert a.evaluation.start >= 0 and not set(a.evaluation) & {*b.tuning, *b.screening, *b.cliff}
    if copy != other:
        assert not (parts[0] | parts[1]) & {*b.tuning, *b.screening, *b.cliff}


def test_nothing_is_tuned_on_evaluation_seeds_or_test_data() -> None:
    found, engine = tuned("momentum")
    assert not any(run.test or run.seed in SETTINGS.evaluation for run in engine.stored)
    runs = search.evaluate_request(found, SETTINGS).runs
    assert all(run.test for run in runs) and {run.seed for run in runs} == set(SETTINGS.evaluation)


# --- horizons, equal dimension, defaults


def late_riser(run: Run) -> Curves:
    """Large learning rates are fast and end low, small ones are slow and end high."""
    steps = tuple(max(1, run.steps * i // 20) for i in range(1, 21))
    rate, ceiling = 0.3 * lr(run), 0.9 - 0.1 * math.log10(lr(run) / 1e-3)
    accuracy = ceiling * (1 - np.exp(-rate * np.array(steps)))
    curves = {"accuracy": accuracy, "loss": 2.3 - accuracy, "worse": np.full(20, 1 / (1 + lr(run)))}
    final = 3.0 if lr(run) >= 4 else 1.0
    return Curves(2.3, final, None, steps, curves, curves if run.test else None)


def test_winners_at_a_quarter_and_half_of_the_steps_are_the_best_there() -> None:
    found, engine = tuned("sgd", late_riser)
    assert [steps for steps, _ in found.horizons] == [100, 200]
    for steps, (winner, *_) in (*found.horizons, (400, found.finalists)):
        accuracy = {}
        for trial in found.trials:
            run = late_riser(*trial.configuration.runs([0], 400))
            accuracy[trial.configuration] = run.validation["accuracy"][run.steps.index(steps)]
        assert winner == max(accuracy, key=accuracy.__getitem__)
    lrs = [best[0].lr for _, best in found.horizons] + [found.finalists[0].lr]
    assert lrs[0] > lrs[1] > lrs[2]
    assert {run.steps for run in engine.asked("screen")} == {100, 200, 400}


def test_horizons_are_left_out_where_asked_or_too_short() -> None:
    assert tuned("sgd", horizons=False)[0].horizons == ()
    assert replace(SETTINGS, steps=1).horizon_steps == ()
    assert replace(SETTINGS, steps=3).horizon_steps == (1,)
    assert replace(SETTINGS, steps=1000).horizon_steps == (250, 500)


def test_the_equal_dimension_search_tunes_the_learning_rate_alone_on_the_same_points() -> None:
    found = {name: tuned(name) for name in ("sgd", "momentum", "adam")}
    points = {}
    for name in ("momentum", "adam"):
        tried = configurations(found[name][1].asked("fixed"))
        assert len(tried) == 16 and {dict(c.hyper).get("momentum", dict(c.hyper).get("beta1")) for c in tried} == {0.9}
        assert found[name][0].fixed in tried
        low, high = box_of(name, found[name][1]).low[0], box_of(name, found[name][1]).high[0]
        points[name] = [math.log(c.lr / low) / math.log(high / low) for c in tried]
    sgd, engine = found["sgd"]
    assert engine.asked("fixed") == []
    first = [t.configuration for t in sgd.trials[:16]]
    assert sgd.fixed == max(first, key=lambda c: sgd.trial(c).score)
    box = box_of("sgd", engine)
    assert np.allclose(points["momentum"], points["adam"], atol=1e-6)
    assert np.allclose(points["momentum"], [unit(c, box)[0] for c in first], atol=1e-6)


def test_the_evaluation_runs_finalists_equal_dimension_winner_defaults_and_horizons() -> None:
    found, _ = tuned("momentum")
    request = search.evaluate_request(found, SETTINGS)
    assert request.phase == "evaluate" and len(set(request.runs)) == len(request.runs)
    wanted = {(c, 400) for c in (*found.finalists, found.fixed, found.defaults)}
    wanted |= {(c, steps) for steps, best in found.horizons for c in best}
    assert {(Configuration(r.method, r.hyper), r.steps) for r in request.runs} == wanted
    assert len(request.runs) == len(wanted) * SETTINGS.seeds
    assert found.defaults.hyper == (("lr", 1e-3), ("momentum", 0.9))


def test_finalists_are_scored_on_test_at_the_first_checkpoint_that_is_best_on_validation() -> None:
    found, _ = tuned("sgd")

    def train(run: Run) -> Curves:
        test = {"accuracy": np.array([0.1, 0.6 + uniform(run) / 10, 0.99, 0.2]), "loss": np.ones(4)}
        diverged_at = 7 if run.seed == SETTINGS.evaluation[1] and run.hyper == found.finalists[2].hyper else None
        return ran([0.5, 0.8, 0.8, 0.7], diverged_at=diverged_at, test=test)

    results = {run: train(run) for run in search.evaluate_request(found, SETTINGS).runs}
    scored = search.judge(found.finalists, SETTINGS, results, trials=len(found.trials))
    assert scored.scores.shape == scored.diverged.shape == (4, 6) and scored.trials == 64
    for i, configuration in enumerate(found.finalists):
        for j, run in enumerate(configuration.runs(SETTINGS.evaluation, 400, test=True)):
            lost = (i, j) == (2, 1)
            assert scored.diverged[i, j] == lost
            assert scored.scores[i, j] == (0.0 if lost else 0.6 + uniform(run) / 10)
    assert scored.weights.tolist() == [0.5, 0.25, 0.125, 0.125]
    alone = search.judge(found.finalists[1:2], SETTINGS, results)
    assert np.array_equal(alone.scores, scored.scores[1:2]) and alone.trials is None


def test_a_secondary_endpoint_has_a_winner_of_its_own_by_its_validation_values() -> None:
    found, engine = tuned("sgd", late_riser, secondary=(("loss", False, None), ("worse", True, 0.0)))
    assert [name for name, _ in found.secondary] == ["loss", "worse"]
    assert found.secondary[0][1] == found.finalists[0]  # there the loss is 2.3 - accuracy
    assert found.secondary[1][1] == min(
        configurations(engine.asked("coarse") + engine.asked("local")), key=lambda c: c.lr
    )
    asked = search.evaluate_request(found, replace(SETTINGS, secondary=()))
    assert set(found.secondary[1][1].runs(SETTINGS.evaluation, 400, test=True)) <= set(asked.runs)


def test_an_evaluation_without_test_values_is_an_error() -> None:
    with pytest.raises(WorkError, match="without its test values"):
        outcome(ran([0.5]), SETTINGS, 9, test=True)


# --- warnings


def warnings_of(train: Train, **changes: Any) -> str:
    return " ".join(tuned("sgd", train, **changes)[0].warnings)


def test_more_than_half_infeasible_configurations_are_a_warning() -> None:
    def train(run: Run, limit: float) -> Curves:
        lost = run.steps > 50 and lr(run) > limit
        return constant(
            run, 0.5 - abs(math.log10(lr(run) / 0.01)) / 9, 1 + 2 * (lr(run) >= 1), diverged_at=9 if lost else None
        )

    assert "of 64 configurations diverged on a tuning seed" in warnings_of(lambda run: train(run, 0.006))
    assert "diverged" not in warnings_of(lambda run: train(run, 0.5))


@pytest.mark.parametrize(("peak", "sentence"), [(40, "fewer steps would do"), (200, ""), (400, "more may change it")])
def test_a_best_step_at_the_beginning_or_the_end_is_a_warning(peak: int, sentence: str) -> None:
    def train(run: Run) -> Curves:
        steps = tuple(range(40, 401, 40)) if run.steps == 400 else (run.steps,)
        quality = 0.5 - 0.05 * abs(math.log10(lr(run) / 0.05))
        accuracy = quality - np.abs(np.array(steps) - peak) / 4000
        return Curves(
            2.3, 3.0 if lr(run) >= 1 else 1.0, None, steps, {"accuracy": accuracy, "loss": np.ones(len(steps))}
        )

    said = warnings_of(train, horizons=False)
    assert (sentence in said) if sentence else said == ""


def test_a_momentum_at_the_end_of_its_range_is_a_warning_but_not_next_to_the_face() -> None:
    def towards(best: float) -> Train:
        def train(run: Run) -> Curves:
            distance = 0.1 * abs(math.log10(complement(run) / best)) + 0.01 * abs(math.log10(lr(run) / 0.05))
            return constant(run, 0.9 - distance - (run.method == "sgd"), loss=1 + 2 * (lr(run) >= 1))

        return train

    def said(method: str, best: float) -> list[str]:
        return [w for w in tuned(method, towards(best))[0].warnings if "boundary" in w]

    assert len(said("momentum", 0.003)) == 1 and "best momentum, 0.99" in said("momentum", 0.003)[0]
    assert said("momentum", 0.05) == [] == said("momentum", 0.5)
    assert "best beta1" in said("adam", 0.5)[0]


# --- coroutines


def counting(name: str, rounds: int) -> Coroutine[tuple[str, float]]:
    total = 0.0
    for i in range(rounds):
        run = Run(name, (("lr", float(i)),), 0, 1)
        results = yield Request("coarse", (run, Run("shared", (), i, 1)))
        assert set(results) == {run, Run("shared", (), i, 1)}
        total += results[run].initial_loss
    return name, total


def test_coroutines_of_different_length_are_driven_side_by_side() -> None:
    engine = Engine(lambda run: constant(run, 0.5))
    found = drive([counting("a", 1), counting("b", 3), counting("c", 0)], engine)
    assert found == [("a", 2.0), ("b", 6.0), ("c", 0.0)]
    assert [len(requests) for requests in engine.rounds] == [2, 1, 1]


def test_together_they_are_one_request_without_repetitions() -> None:
    engine = Engine(lambda run: constant(run, 0.5))
    (found,) = drive([search.together([counting("a", 1), counting("b", 2)])], engine)
    assert found == [("a", 2.0), ("b", 4.0)]
    assert [[len(request.runs) for request in requests] for requests in engine.rounds] == [[3], [2]]
    assert drive([search.together([])], engine) == [[]]
