"""Hessian-free optimization beside first-order training: the whole at a size of seconds, and what equal cost means."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import pytest

from cases_claims import assert_runs_through, assert_the_pilot_fits
from ravine.claims.laboratory import Runs
from ravine.claims.sutskever import tasks
from ravine.claims.sutskever.second_order import classic
from ravine.claims.sutskever.tasks import SCALES, Scale, Trained


def runs_of(endpoint: str, errors: Mapping[str, Sequence[float]], steps: Sequence[int], diverged: int | None) -> Runs:
    rows = [
        {"arm": arm, "seed": seed, "steps": steps[-1], "step": steps, "diverged_at": diverged}
        | {endpoint: [1.0, error]}
        for arm, of in errors.items()
        for seed, error in enumerate(of)
    ]
    frame = pl.DataFrame(rows, schema_overrides={"diverged_at": pl.Int64}).rename({endpoint: f"validation_{endpoint}"})
    return Runs(frame, endpoint, 9.0)


@pytest.mark.slow
def test_the_claim_at_a_size_of_seconds(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = Scale(("curves",), 60, 2, (0.005,), batch=64, few=1, many=2)
    monkeypatch.setattr(tasks, "SCALES", {"quick": (scale,)})
    monkeypatch.setattr(tasks, "DAMPINGS", (0.1,))
    result = assert_runs_through("sutskever-hf-tasks", tmp_path)
    assert len(result["findings"]) == 3
    (errors,), (settings,) = (table["rows"] for table in result["tables"])
    assert errors[0] == settings[0] == "curves-small, training error"
    assert errors[5:] == [0.48, 0.1, 0.058, 0.11]
    assert settings[1] in (0.5, 0.6)  # the better on other seeds
    assert settings[2:] == [0.005, 0.005, 0.1, 0.1]


def test_recurrent_nets_are_judged_by_what_they_solve() -> None:
    errors = {"SGD": [0.8, 0.83], "NAG": [0.0, 0.001], "momentum-like HF": [0.3, 0.31], "classic HF": [0.01, 0.011]}
    trained = Trained("addition", runs_of("wrong", errors, [5, 10], None), "0.98", {})
    findings = list(tasks.judged("addition", trained))
    assert [finding.outcome for finding in findings] == ["reproduced"] * 3
    assert tasks.published("addition") == [0.39, 0.00025, None, "thesis: solved"]
    assert set(tasks.first_order("addition", SCALES["evening"][1])) == {"0", "0.98N", "0.995N"}


def test_steps_on_large_batches_count_as_gradients_on_small_ones() -> None:
    first = runs_of("e", {"NAG": [0.5]}, [500, 1000], None)
    second = runs_of("e", {"classic HF": [0.5]}, [200, 400], 400)
    both = tasks.together(first, second, 200, 500)
    assert both.frame["step"].to_list() == [[500, 1000]] * 2
    assert both.frame["steps"].to_list() == [1000] * 2
    assert both.frame["diverged_at"].to_list() == [None, 1000]
    assert (both.errors("NAG"), both.errors("classic HF")) == ([0.5], [9.0])


def test_the_committed_pilot_fits_the_quick_budget() -> None:
    (scale,) = SCALES["quick"]
    name = "digits-autoencoder, training error"
    assert_the_pilot_fits(f"{name} {scale.steps}", tasks.first_order(tasks.DIGITS, scale), scale.rates)
    gradients = scale.steps * 256 // scale.batch
    second = dict.fromkeys(tasks.METHODS[2:], classic())
    assert_the_pilot_fits(f"{name}, batches of {scale.batch} {gradients}", second, tasks.DAMPINGS)
