import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravine.study import space
from ravine.study.methods import get
from ravine.study.space import Box, Side

RANGE = (1e-3, 1.0)


def box(method: str = "momentum", lr: tuple[float, float] = RANGE, steps: int = 1000) -> Box:
    return space.box(get(method), lr, steps)


def test_settings_are_near_within_a_factor_2_in_lr_and_3_in_one_minus_momentum() -> None:
    axes = get("momentum").axes
    one = (("lr", 0.1), ("momentum", 0.9))
    assert space.near(axes, one, one)
    assert space.near(axes, one, (("lr", 0.199), ("momentum", 0.71))) and space.near(
        axes, one, (("lr", 0.051), ("momentum", 0.96))
    )
    assert not space.near(axes, one, (("lr", 0.201), ("momentum", 0.9)))
    assert not space.near(axes, one, (("lr", 0.1), ("momentum", 0.69)))


# --- how K is used


@given(st.integers(1, 10_000), st.booleans())
def test_shares_add_up_to_k_with_at_least_one_coarse_point(trials: int, face: bool) -> None:
    parts = space.shares(trials, face)
    assert parts.face + parts.coarse + parts.local == trials
    assert parts.coarse >= 1 and parts.local == trials // 2
    assert parts.face == (trials // 4 if face else 0)


def test_of_64_trials_half_are_local_and_a_quarter_is_the_face() -> None:
    assert space.shares(64, face=True) == space.Shares(face=16, coarse=16, local=32)
    assert space.shares(64, face=False) == space.Shares(face=0, coarse=32, local=32)
    assert space.quarter(64) == 16 and space.quarter(1) == 1


# --- the range of the learning rate


def changes(fails_at: int, best: int) -> dict[int, float]:
    """Loss falls by 2^e up to the best, by less above it, and grows from fails_at on."""
    return {e: (-(2.0 ** -abs(e - best)) if e < fails_at else math.inf) for e in space.FIRST_PROBE}


def test_the_upper_end_is_twice_the_smallest_failing_doubling_and_the_lower_one_1e_3_of_it() -> None:
    low, high = lr_range(changes(fails_at=1, best=-2))
    assert high == 2.0**2
    assert low == pytest.approx(high * 1e-3, rel=1e-12)


def test_a_loss_that_stands_still_at_tiny_learning_rates_does_not_fool_the_probe() -> None:
    probed = changes(fails_at=1, best=-2) | {-20: 0.0, -19: 1e-9, -18: -1e-9, -17: 0.0}
    assert space.failing_exponent(probed) == 1


def test_a_learning_rate_that_trains_again_above_a_failing_one_does_not_count() -> None:
    probed = changes(fails_at=1, best=-2) | {5: -0.01}
    assert space.failing_exponent(probed) == 1


def test_a_standstill_above_the_best_counts_as_failing() -> None:
    assert space.failing_exponent(changes(fails_at=9, best=-2) | {3: 0.0}) == 3
    assert space.failing_exponent(changes(fails_at=9, best=-2) | {3: math.nan}) == 3


def lr_range(probed: dict[int, float]) -> tuple[float, float]:
    found = space.lr_range(probed)
    assert found is not None
    return found


def probe(train: Callable[[int], float]) -> tuple[dict[int, float], int]:
    """All exponents probed until the range is known: train maps an exponent to a change of the loss."""
    probed: dict[int, float] = {}
    rounds = 0
    while exponents := space.exponents_to_probe(probed):
        assert not set(exponents) & set(probed)
        probed |= {e: train(e) for e in exponents}
        rounds += 1
    return probed, rounds


def test_the_first_grid_goes_from_2_to_the_minus_20_to_2_to_the_12() -> None:
    assert space.exponents_to_probe({}) == tuple(range(-20, 13))


def test_the_probe_goes_up_until_something_fails() -> None:
    probed, rounds = probe(lambda e: -(2.0 ** -abs(e - 10)) if e < 30 else math.inf)
    assert lr_range(probed)[1] == 2.0**31
    assert max(probed) == 36 and rounds == 4


def test_a_steep_loss_is_found_below_the_first_grid() -> None:
    probed, _ = probe(lambda e: -1.0 if e < -25 else math.inf)
    assert lr_range(probed)[1] == 2.0**-24


def test_if_nothing_ever_fails_the_range_is_three_decades_around_the_best() -> None:
    probed, _ = probe(lambda e: -(2.0 ** -abs(e - 3)))
    low, high = lr_range(probed)
    assert max(probed) == 40 and space.failing_exponent(probed) is None
    assert high / low == pytest.approx(1000)
    assert math.sqrt(low * high) == pytest.approx(2.0**3)


@pytest.mark.parametrize("change", [math.inf, 0.0, 0.5])
def test_if_nothing_trains_there_is_no_range(change: float) -> None:
    probed, rounds = probe(lambda e: change)
    assert space.lr_range(probed) is None
    assert sorted(probed) == list(range(-40, 41)) and rounds == 2


@given(st.integers(-30, 30), st.integers(1, 8))
def test_the_range_holds_the_best_probed_learning_rate_and_the_limit(best: int, above: int) -> None:
    probed, _ = probe(lambda e: -(2.0 ** -abs(e - best)) if e < best + above else math.inf)
    low, high = lr_range(probed)
    assert low < 2.0**best < high == 2.0 ** (best + above + 1)


def test_probe_runs_are_at_most_50_steps() -> None:
    assert [space.probe_steps(t) for t in (1, 49, 50, 51, 1000)] == [1, 49, 50, 50, 50]


# --- points


@pytest.mark.parametrize(
    ("steps", "low", "high"), [(1, 0.5, 0.5), (2, 0.5, 0.5), (30, 1 / 30, 0.5), (1000, 0.003, 0.5)]
)
def test_one_minus_momentum_goes_from_the_larger_of_003_and_1_over_t_to_one_half(
    steps: int, low: float, high: float
) -> None:
    b = box(steps=steps)
    assert (b.low, b.high) == ((1e-3, low), (1.0, high))
    assert b.ranges == {"lr": RANGE, "momentum": (1 - high, 1 - low)}


def test_a_box_of_no_width_gives_its_value_and_no_edge() -> None:
    b = box(steps=1)
    setting = b.hyper(np.array([0.5, 0.9]))
    assert dict(setting)["momentum"] == 0.5
    assert b.edge(setting, b.axes[1]) is None
    assert b.around(setting).high[1] == 0.5


def test_points_are_log_uniform_between_the_ends() -> None:
    b = box()
    assert dict(b.hyper(np.array([0.0, 0.0]))) == {"lr": 1e-3, "momentum": 0.997}
    assert dict(b.hyper(np.array([1.0, 1.0]))) == {"lr": 1.0, "momentum": 0.5}
    middle = b.coordinates(b.hyper(np.array([0.5, 0.5])))
    assert middle == pytest.approx((math.sqrt(1e-3), math.sqrt(0.003 * 0.5)), rel=1e-7)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.floats(1e-9, 1e6), st.integers(1, 10**6))
def test_settings_are_in_the_box_and_sorted_by_name(unit: list[float], high: float, steps: int) -> None:
    b = box("adam", (high * 1e-3, high), steps)
    setting = b.hyper(np.array(unit))
    assert setting == tuple(sorted(setting)) and [name for name, _ in setting] == ["beta1", "lr"]
    for low, value, top in zip(b.low, b.coordinates(setting), b.high, strict=True):
        assert low * (1 - 1e-7) <= value <= top * (1 + 1e-7)


def test_fewer_points_are_the_beginning_of_more() -> None:
    many = space.unit_points(50, 2, 7, "coarse")
    assert np.array_equal(space.unit_points(13, 2, 7, "coarse"), many[:13])
    assert space.unit_points(0, 2, 7, "coarse").shape == (0, 2)


def test_points_differ_with_study_seed_purpose_copy_and_nothing_else() -> None:
    one = space.unit_points(16, 2, 7, "coarse", 0)
    assert np.array_equal(one, space.unit_points(16, 2, 7, "coarse", 0))
    others = [(8, "coarse", 0), (7, "local", 0), (7, "coarse", 1)]
    for seed, purpose, copy in others:
        assert not np.isin(space.unit_points(16, 2, seed, purpose, copy), one).any()


@given(st.integers(0, 2**40), st.sampled_from([1, 2]))
def test_sixteen_points_fall_into_sixteen_equal_intervals_of_every_axis(seed: int, dimension: int) -> None:
    points = space.unit_points(16, dimension, seed, "coarse")
    for column in points.T:
        assert sorted(np.floor(column * 16)) == list(range(16))


def test_methods_of_one_dimension_get_the_same_points_of_the_cube_in_their_own_ranges() -> None:
    unit = space.unit_points(8, 2, 0, "coarse")
    a, b = box("signum", (1e-5, 1e-2)), box("adam", (1e-3, 1.0))
    for x, y in zip(space.spread(a, unit), space.spread(b, unit), strict=True):
        assert dict(y)["lr"] / dict(x)["lr"] == pytest.approx(100, rel=1e-6)
        assert dict(x)["momentum"] == dict(y)["beta1"]


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 40))
def test_local_points_are_within_a_factor_of_2_and_3_and_inside_the_box(seed: int, centres: int, count: int) -> None:
    b = box()
    middle = space.spread(b, space.unit_points(centres, 2, seed, "coarse"))
    points = space.unit_points(count, 2, seed, "local")
    near = space.local(b, middle, points)
    assert len(near) == count
    sizes = [count // centres + (i < count % centres) for i in range(centres)]
    owner = [centre for centre, size in zip(middle, sizes, strict=True) for _ in range(size)]
    for setting, centre in zip(near, owner, strict=True):
        ratio = np.array(b.coordinates(setting)) / np.array(b.coordinates(centre))
        assert (ratio <= np.array([2, 3]) * (1 + 1e-6)).all() and (ratio >= 1 / np.array([2, 3]) / (1 + 1e-6)).all()
        assert all(
            low * (1 - 1e-7) <= value <= high * (1 + 1e-7)
            for low, value, high in zip(b.low, b.coordinates(setting), b.high, strict=True)
        )


def test_local_points_of_each_centre_lie_on_all_sides_of_it() -> None:
    b = box(lr=(1e-4, 10.0))
    centres = [(("lr", 0.01), ("momentum", 0.95)), (("lr", 0.3), ("momentum", 0.9))]
    near = space.local(b, centres, space.unit_points(16, 2, 3, "local"))
    for centre, own in zip(centres, (near[:8], near[8:]), strict=True):
        sides = np.sign([np.subtract(b.coordinates(setting), b.coordinates(centre)) for setting in own])
        assert {tuple(side) for side in sides} == {(-1, -1), (-1, 1), (1, -1), (1, 1)}


# --- edges and extensions


@pytest.mark.parametrize(
    ("lr", "side"), [(1e-3, "lower"), (1.9e-3, "lower"), (2.1e-3, None), (0.49, None), (0.51, "upper"), (1.0, "upper")]
)
def test_the_outer_tenth_of_the_log_range_is_the_edge(lr: float, side: str | None) -> None:
    b = box("sgd")
    assert b.edge((("lr", lr),), b.axes[0]) == side


@pytest.mark.parametrize(("side", "decade"), [("lower", (1e-4, 1e-3)), ("upper", (1.0, 10.0))])
def test_an_extension_is_one_decade_of_the_learning_rate_on_that_side(side: Side, decade: tuple[float, float]) -> None:
    b = box()
    beyond = b.beyond(side)
    assert (beyond.low[0], beyond.high[0]) == pytest.approx(decade)
    assert (beyond.low[1], beyond.high[1]) == (b.low[1], b.high[1])
    wider = b.joined(beyond)
    assert (wider.low[0], wider.high[0]) == pytest.approx((min(decade[0], 1e-3), max(decade[1], 1.0)))
    assert wider.high[0] / wider.low[0] == pytest.approx(1e4)
