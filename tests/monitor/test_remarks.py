"""Every rule on a table with a known answer, on both sides of its threshold."""

import math
from typing import Any

import polars as pl
import pytest

from cases_monitor import table
from ravine.monitor import LIMITS, Remark, says
from ravine.monitor.records import LAYERS

WHITE = math.sqrt(0.1 / 1.9)  # the momentum gain of white noise at .9


def rules(steps: pl.DataFrame, layers: pl.DataFrame | None = None) -> set[str]:
    return {remark.rule for remark in says(steps, layers)}


def text(rule: str, steps: pl.DataFrame, layers: pl.DataFrame | None = None) -> str:
    (found,) = [str(remark) for remark in says(steps, layers) if remark.rule == rule]
    return found


def wobble(k: int) -> float:
    """A factor around 1, so that standard errors are not zero."""
    return 1 + 0.05 * math.sin(7.0 * k)


def test_a_usual_table_says_noise() -> None:
    assert rules(table()) == {"noise"}
    assert "momentum gain 0.23; white noise gives 0.23" in text("noise", table())


@pytest.mark.parametrize(
    ("gain", "rule"), [(WHITE, "noise"), (0.06, "cancels"), (0.95, "agrees"), (0.55, "calm"), (0.225, "noise")]
)
def test_the_gain_tells_noise_cancelling_and_agreement(gain: float, rule: str) -> None:
    found = table(average_norm=lambda k: gain * wobble(k), gradient_norm=lambda k: wobble(k + 1))
    assert rules(found) == {rule}


def test_the_gain_waits_until_the_average_is_warm() -> None:
    cold = table(average_norm=0.06, averaged=lambda k: min(k, 20))
    assert rules(cold) == {"calm"}


def test_without_momentum_the_gain_is_that_of_the_gradients() -> None:
    flips = table(momentum=0.0, average_norm=0.06, update_cosine=-1.0)
    assert "the gradients cancel: the updates turn back with a period of about 2 steps" in text("cancels", flips)
    assert "lower lr" in text("cancels", flips) and "raise momentum" not in text("cancels", flips)
    assert "momentum or a larger lr" in text("agrees", table(momentum=0.0, average_norm=0.95))


def swinging(period: float, share: float = 1.0, **given: Any) -> pl.DataFrame:
    turn = 2 * math.pi / period
    return table(
        average_norm=0.06,
        top=1,
        top_movement=lambda k: 0.01 * share * math.sin(turn * k),
        update_norm=lambda k: 0.01 * math.hypot(share * math.sin(turn * k), math.sqrt(1 - share**2) * 0.7),
        update_cosine=math.cos(turn),
        **given,
    )


def test_an_oscillation_along_the_top_eigenvector_has_its_period() -> None:
    found = text("cancels", swinging(6.0, top_period=6.2))
    assert found.startswith(
        "the velocity cancels: oscillation along the top eigenvector, period 6, 6.2 by theory (momentum gain 0.06;"
    )
    assert found.endswith("lower lr, or raise momentum with the same effective lr, lr / (1 - momentum)")


def test_an_update_beside_the_top_eigenvector_does_not_name_it() -> None:
    found = text("cancels", swinging(3.0, share=0.1))
    assert "top eigenvector" not in found
    assert "the updates turn back with a period of about 3 steps" in found


def test_movement_along_an_older_eigenvector_is_not_mixed_in() -> None:
    found = swinging(6.0, top_period=6.0).with_columns(top=pl.when(pl.col("step") < 190).then(1).otherwise(2))
    assert "top eigenvector" not in text("cancels", found)


def test_steps_left_out_do_not_count_as_one() -> None:
    gap = swinging(6.0).filter(~pl.col("step").is_between(60, 170))
    assert "top eigenvector, period 6 " in text("cancels", gap)


def sharp(value: float, residual: float = 0.0, preconditioned: bool = False) -> dict[str, Any]:
    def last(found: object) -> object:
        return lambda k: found if k == 150 else None

    return {
        "sharpness": last(value),
        "sharpness_residual": last(residual),
        "sharpness_preconditioned": last(preconditioned),
    }


@pytest.mark.parametrize(
    ("value", "rule"),
    [(19.0, "headroom"), (34.0, "headroom"), (34.5, "at the edge"), (37.9, "at the edge"), (38.5, "above the limit")],
)
def test_the_margin_names_the_place(value: float, rule: str) -> None:
    assert rules(table(**sharp(value))) == {"noise", rule}


def test_headroom_is_a_factor() -> None:
    assert "room for an lr 2 times as large" in text("headroom", table(**sharp(19.0)))
    assert "preconditioned top curvature is 19" in text("headroom", table(**sharp(19.0, preconditioned=True)))


@pytest.mark.parametrize("sign", [{"average_norm": 0.06}, {"update_cosine": -0.5}, {"gradient_norm": lambda k: 1.1**k}])
def test_beyond_the_edge_needs_a_sign_in_the_training_too(sign: dict[str, Any]) -> None:
    found = table(**{**sharp(76.0), **sign})
    assert "beyond the edge" in rules(found)
    assert "lower lr by a factor of 2 or more" in text("beyond the edge", found)


def test_a_top_eigenvalue_that_has_not_settled_says_nothing() -> None:
    assert rules(table(**sharp(76.0, residual=30.0))) == {"noise"}
    assert rules(table(**sharp(-5.0))) == {"noise"}


def test_without_a_known_limit_there_is_no_margin() -> None:
    assert rules(table(**sharp(76.0), limit=None)) == {"noise"}


def test_gradients_that_grow() -> None:
    found = table(gradient_norm=lambda k: 1.05**k)
    assert "grows" in rules(found) and "curvature above 38 diverges" in text("grows", found)
    assert "grows" not in rules(table(gradient_norm=lambda k: 1.01**k))


def test_gradients_that_are_not_finite() -> None:
    found = table(gradient_norm=lambda k: None if k in (9, 40) else 1.0)
    assert text("not finite", found).startswith("the gradient was not finite in 2 of 200 steps, first at step 10:")


def test_overflows_are_counted() -> None:
    assert "overflowed 3 times" in text("overflow", table(overflows=lambda k: 3 if k == 199 else None))
    assert "overflow" not in rules(table(overflows=lambda k: 0 if k == 199 else None))


def test_nothing_moves() -> None:
    assert rules(table(update_norm=0.0, lr=0.0, limit=None)) == {"still"}


def noisy(
    signal: float, trace: float, spread: float = 0.01, batch: int = 64, error: float = 0.01, batches: int = 4
) -> pl.DataFrame:
    return table(
        noise_signal=lambda k: signal + spread * (-1) ** (k // 20) if k % 20 == 0 else None,
        noise_trace=lambda k: trace if k % 20 == 0 else None,
        noise_rows=lambda k: batch if k % 20 == 0 else None,
        noise_signal_error=lambda k: error if k % 20 == 0 else None,
        noise_trace_error=lambda k: 0.01 if k % 20 == 0 else None,
        noise_batch=lambda k: batch if k % 20 == 0 else None,
        noise_on=lambda k: k // 20 % batches if k % 20 == 0 else None,
    )


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (500.0, "a batch of 64 is noise-limited"),
        (64.0, "a batch of 64 is near it"),
        (5.0, "a batch of 64 is far above"),
    ],
)
def test_the_noise_scale_is_compared_with_the_batch(trace: float, words: str) -> None:
    found = text("noise scale", noisy(1.0, trace))
    assert words in found and f"noise scale is {trace:.3g} examples (" in found


def test_noise_that_hides_the_gradient() -> None:
    found = text("noise scale", noisy(0.0, 500.0, spread=1.0))
    assert "the noise hides the gradient: the noise scale is above" in found and "a batch of 64 is far below" in found
    near = text("noise scale", noisy(0.0, 50.0, spread=1.0))
    assert "far below" not in near and "more cannot be told of it" in near


def test_the_same_batches_again_tell_nothing_of_the_chance_that_chose_them() -> None:
    """However often they are measured, the error of one measurement stays: over the root of how many batches."""
    assert "noise scale is 64" in text("noise scale", noisy(1.0, 64.0, error=0.1, batches=1))
    assert "hides the gradient" in text("noise scale", noisy(1.0, 64.0, error=0.9, batches=1))
    assert "noise scale is 64" in text("noise scale", noisy(1.0, 64.0, error=0.9, batches=9))


def test_two_noise_scales_are_too_few() -> None:
    assert "noise scale" not in rules(noisy(1.0, 50.0).head(40))


def test_growing_weights() -> None:
    found = table(weight_norm=lambda k: 2 ** (k / 1000))
    assert "|w|^2 doubles in 5e+02 steps" in text("weights grow", found)
    assert "weights grow" not in rules(table(weight_norm=lambda k: 2 ** (k / 10000)))


def test_growth_is_per_step_where_steps_are_left_out() -> None:
    sparse = table(step=[20 * k + 1 for k in range(200)], weight_norm=lambda k: 2 ** (k / 1000))
    assert "weights grow" not in rules(sparse)


def test_updates_that_round_to_zero() -> None:
    assert "60% of the weights" in text("rounding", table(unmoved=0.6))
    assert "rounding" not in rules(table(unmoved=0.2))


def layers(moves: dict[str, float], slopes: float = 0.0, looks: int = LIMITS.looks) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"step": look, "parameter": name, "gradient_norm": slopes, "update_norm": move, "weight_norm": 1.0}
            for look in range(looks)
            for name, move in moves.items()
        ],
        schema=LAYERS,
    )


def test_frozen_layers_have_names() -> None:
    found = text("frozen", table(), layers({"a": 1.0, "b": 0.0, "c": 0.0}))
    assert found == "2 of 3 parameter tensors never moved, no gradient arrives there: 'b', 'c'"
    assert "although a gradient arrives: 'b'" in text("frozen", table(), layers({"a": 1.0, "b": 0.0}, slopes=1.0))
    assert "frozen" not in rules(table(), layers({"a": 1.0, "b": 0.1}))
    assert "frozen" not in rules(table(), layers({"a": 1.0, "b": 0.0}, looks=LIMITS.looks - 1))


def test_thinning_is_said_with_its_cost() -> None:
    found = table(step=[64 * 10 * (k // 64) + k % 64 + 1 for k in range(200)])
    assert "thinned" in rules(found)
    assert "10% of the steps were watched" in text("thinned", found) and "1.0% of the" in text("thinned", found)
    one_burst = table(64)
    assert "thinned" not in rules(one_burst)
    (rest,) = [str(remark) for remark in says(one_burst, passed=640) if remark.rule == "thinned"]
    assert rest.startswith("10% of the steps were watched")


@pytest.mark.parametrize("rows", [0, 1, LIMITS.least - 1])
def test_too_few_steps_say_so(rows: int) -> None:
    assert rules(table(rows)) == {"few"}


def test_an_overflow_is_told_even_after_few_steps() -> None:
    assert rules(table(10, gradient_norm=None)) == {"few", "not finite"}


def test_the_gravest_comes_first_and_is_plain_text() -> None:
    found = says(table(gradient_norm=lambda k: None if k == 5 else 1.0, **sharp(19.0)))
    assert [remark.rule for remark in found] == ["not finite", "headroom", "noise"]
    assert str(Remark("rule", "words")) == "words"


def test_a_table_of_nothing_but_gaps_is_survived() -> None:
    gaps: dict[str, Any] = {
        name: None for name in ("gradient_norm", "update_norm", "weight_norm", "average_norm", "update_cosine")
    }
    assert rules(table(**gaps)) == {"not finite"}
