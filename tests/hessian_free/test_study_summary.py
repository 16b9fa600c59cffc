"""The study of time to a training error takes the whole runs of each winner, a row a seed."""

from types import SimpleNamespace
from typing import Any

import hessian_free_study as study
import polars as pl
import pytest

from ravine.problems.autoencoders import ERROR


def runs(method: str, steps: list[int], errors: list[list[float]], lr: float = 0.1) -> list[dict[str, Any]]:
    return [
        {"method": method, "seed": seed, "steps": steps[-1], "lr": lr, "step": steps, f"test_{ERROR}": curve}
        for seed, curve in enumerate(errors)
    ]


def test_times_are_those_of_the_whole_runs_of_the_winners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "METHODS", ("nesterov", "hessian-free"))
    rows = [
        *runs("nesterov", [10, 20, 40], [[9.0, 5.0, 2.0], [9.0, 8.0, 2.0]]),
        *runs("nesterov", [10, 20], [[1.0, 1.0], [1.0, 1.0]]),
        *runs("nesterov", [10, 20, 40], [[1.0, 1.0, 1.0]] * 2, lr=9.0),
        *runs("hessian-free", [10, 20, 40], [[2.5, 2.0, 2.0], [2.5, 2.5, 2.5]]),
    ]
    comparison: Any = SimpleNamespace(
        runs=pl.DataFrame(rows),
        verdict={"methods": {method: {"settings": {"lr": 0.1}} for method in study.METHODS}},
        cost={"nesterov": {"seconds_per_step": 1.0}, "hessian-free": {"seconds_per_step": 2.0}},
    )
    base, fast = study.summary(comparison, [3.0])
    assert (base["reached"], base["seeds"], base["gradients"], base["seconds"]) == (2, 2, 40.0, 40.0)
    assert (fast["reached"], fast["gradients"], fast["seconds"]) == (2, 10.0, 20.0)
    assert fast["times_sooner_in_gradients"][0] == pytest.approx(4.0)
    assert fast["times_sooner_in_seconds"][0] == pytest.approx(2.0)
