"""The study of the cost to a training error counts all methods in gradients of the whole training set."""

import hessian_free_study as study
import polars as pl
import pytest

from ravine.claims.laboratory import Arm, Runs
from ravine.fleet.second_order import SECOND_ORDER
from ravine.fleet.train import evaluation_steps
from ravine.problems.autoencoders import ERROR
from ravine.rules import RULES


def trained(per_gradient: int, steps: list[int], errors: list[list[float | None]]) -> study.Trained:
    rows = [
        {"seed": seed, "step": steps[: len(curve)], f"validation_{ERROR}": curve} for seed, curve in enumerate(errors)
    ]
    return study.Trained(study.SCALE.make(), Arm("", "", {}), Runs(pl.DataFrame(rows), ERROR, 784.0), per_gradient)


def test_costs_are_in_gradients_of_all_rows_whatever_the_batch() -> None:
    base = trained(10, [100, 200, 400], [[9.0, 5.0, 2.0], [9.0, 8.0, 2.0]])
    fast = trained(1, [10, 20, 40], [[2.5, 2.0, 2.0], [2.5, 2.5, 2.5]])
    lost = trained(1, [10, 20, 40], [[9.0, None], [9.0, 9.0, 9.0]])
    of_base, of_fast, of_lost = study.summary(
        {"NAG": base, "fast": fast, "lost": lost}, {"NAG": 1.0, "fast": 2.0, "lost": 2.0}, [3.0]
    )
    assert (of_base["reached"], of_base["seeds"], of_base["gradients"], of_base["seconds"]) == (2, 2, 40.0, 40.0)
    assert (of_fast["reached"], of_fast["gradients"], of_fast["seconds"]) == (2, 10.0, 20.0)
    assert of_fast["times_sooner_in_gradients"][0] == pytest.approx(4.0)
    assert of_fast["times_sooner_in_seconds"][0] == pytest.approx(2.0)
    assert (of_lost["reached"], of_lost["gradients"]) == (0, 40.0)


def test_all_methods_are_known_and_evaluated_after_the_same_cost() -> None:
    rows = len(study.SCALE.make().train[0])
    costs = set()
    for method in study.methods(study.SCALE, rows).values():
        arm = method.of(method.rates[0])
        known = SECOND_ORDER[arm.rule] if arm.rule in SECOND_ORDER else RULES[arm.rule]
        assert set(arm.hyper) <= set(known.hyper)
        steps = rows // method.rows
        assert steps * method.rows == rows
        costs.add(tuple(step / steps for step in evaluation_steps(study.SCALE.gradients * steps)))
    assert len(costs) == 1
