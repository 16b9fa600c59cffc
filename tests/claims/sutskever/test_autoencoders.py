from pathlib import Path

import pytest

from cases_claims import Counted, assert_runs_through, assert_the_pilot_fits, outcomes
from ravine.claims import reproduce
from ravine.claims.claim import Budget
from ravine.claims.sutskever import autoencoders
from ravine.claims.sutskever.shared import Scale
from ravine.schedules import SutskeverMomentum


@pytest.mark.slow
def test_claims_that_train_store_every_run_and_go_on(small: None, tmp_path: Path) -> None:
    heard = Counted()
    (first,) = reproduce(["sutskever-autoencoders"], out=tmp_path, workers=1, listener=heard)
    assert [phase for phase in heard.phases if "runs" in phase] == [
        "curves-small, training error: 20 runs of 60 steps",
        "curves-small, training error: 10 runs of 60 steps",
    ]
    folder = tmp_path / "quick" / "sutskever-autoencoders"
    assert {path.name for path in folder.iterdir()} == {
        *("index.html", "result.json", "pilot.json", "runs", "curves-small-training-error.svg")
    }
    assert [row[0] for row in first["tables"][0]["rows"]] == [
        "paper, 750,000 updates",
        "here, 60 updates",
        "learning rate here",
    ]
    assert len(first["findings"]) == 4  # error falls twice for N and for M; nothing is said of momenta below .99

    again = Counted()
    (second,) = reproduce(["sutskever-autoencoders"], out=tmp_path, workers=1, listener=again)
    assert again.phases == ["sutskever-autoencoders"]
    assert second == first
    sorted((folder / "runs").glob("*.parquet"))[0].write_bytes(b"damaged")
    (third,) = reproduce(["sutskever-autoencoders"], out=tmp_path, workers=1, listener=again)
    assert len(again.phases) == 3
    assert outcomes(third) == outcomes(first)


@pytest.mark.slow
def test_the_tail_runs_through(small: None, tmp_path: Path) -> None:
    assert_runs_through("sutskever-tail", tmp_path)


def test_schedules_are_the_papers_in_proportion() -> None:
    """At the paper's length they are the paper's; at 1/375 of it the period is 1 and momentum .99 is seen."""
    full = autoencoders.autoencoder_momentum(0.999, 750_000)
    assert full == SutskeverMomentum(0.999, 250, 750_000, 0.9, 1000)
    short = autoencoders.autoencoder_momentum(0.99, 2_000)
    assert isinstance(short, SutskeverMomentum)
    assert (short.period, short.low_steps) == (1, 100)
    assert short(1_000) == 0.99
    assert autoencoders.autoencoder_momentum(0.0, 2_000) == 0.0


def test_momenta_need_their_time() -> None:
    assert Scale((), 2_000, 2, ()).momenta(autoencoders.MOMENTA) == [0.9, 0.99]
    assert Scale((), 4_000, 2, ()).momenta(autoencoders.MOMENTA) == [0.9, 0.99, 0.995]
    assert Scale((), 20_000, 2, ()).momenta(autoencoders.MOMENTA) == [0.9, 0.99, 0.995, 0.999]


@pytest.mark.parametrize("budget", ["quick", "evening"])
def test_the_committed_pilot_fits_the_budget(budget: Budget) -> None:
    scale = autoencoders.AUTOENCODERS[budget]
    arms = autoencoders.autoencoder_arms(scale.momenta(autoencoders.MOMENTA), scale.steps)
    for task in scale.tasks:
        assert_the_pilot_fits(f"{task}-small, training error {scale.steps}", arms, scale.rates)
