from functools import partial
from pathlib import Path

import pytest

from cases_claims import assert_runs_through, assert_the_pilot_fits, outcomes
from ravine.claims.claim import Budget
from ravine.claims.sutskever import recurrent
from ravine.claims.sutskever.shared import Scale
from ravine.problems.sequences import addition


@pytest.mark.slow
def test_the_recurrent_nets_run_through(one_by_one: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "MAKERS", {"addition": partial(addition, rows=500)})
    monkeypatch.setattr(recurrent, "SEQUENCES", {"quick": Scale(("addition",), 200, 2, (0.03,), pilot_seeds=2)})
    monkeypatch.setattr(recurrent, "MOMENTA", (0.9,))
    monkeypatch.setattr(recurrent, "SMALL_LENGTH", 10)
    result = assert_runs_through("sutskever-rnn", tmp_path)
    assert outcomes(result)["addition: outputs that depend on no input have the known error"] == "reproduced"


def test_without_momentum_the_first_updates_have_it_all_the_same() -> None:
    momentum = recurrent.rnn_arms([0.98], 50_000)["0"](0.1).hyper["momentum"]
    assert callable(momentum)
    assert (momentum(999), momentum(1000)) == (0.9, 0.0)


@pytest.mark.parametrize("budget", ["quick", "evening"])
def test_the_committed_pilot_fits_the_budget(budget: Budget) -> None:
    scale = recurrent.SEQUENCES[budget]
    arms = recurrent.rnn_arms(scale.momenta(recurrent.MOMENTA), scale.steps)
    for task in scale.tasks:
        name = recurrent.sequences_of(task, scale).name
        assert_the_pilot_fits(f"{name} {scale.steps}", arms, recurrent.grid_of(task, scale))
