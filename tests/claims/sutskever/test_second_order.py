"""The dial between NAG and second order: its exact part, what an update costs, and the whole at a size of seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from cases_fleet import task
from ravine.claims import reproduce
from ravine.claims.sutskever import second_order
from ravine.fleet.second_order import SecondOrder


def test_one_step_of_conjugate_gradients_is_nag() -> None:
    assert second_order.deviation_from_nag() < 1e-9


@pytest.mark.parametrize("cg_steps", [1, 10, 50])
def test_the_price_of_an_update_is_known(cg_steps: int) -> None:
    made = task(second_order.digits_autoencoder())
    arm = second_order.momentum_like("", cg_steps, 0.9)(10.0)
    run = SecondOrder(made, arm.rule, 0, dict(arm.hyper))
    run.step(0)
    assert run._due == pytest.approx(1e6 / second_order.updates(1_000_000, cg_steps), rel=0.02)


def test_the_claim_at_a_size_of_seconds(one_by_one: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(second_order.SCALES["quick"], gradients=40, seeds=2)
    monkeypatch.setattr(second_order, "SCALES", {"quick": small})
    monkeypatch.setattr(second_order, "RATES", (0.1,))
    monkeypatch.setattr(second_order, "NAG_RATES", (0.01,))
    monkeypatch.setattr(second_order, "DIAL", (1, 50))
    (result,) = reproduce(["sutskever-hf"], out=tmp_path, workers=1)
    assert next(finding["outcome"] for finding in result["findings"]) == "reproduced"
    assert len(result["findings"]) == 4
    rows = {row[0]: row for row in result["tables"][0]["rows"]}
    assert list(rows) == ["1 CG", "50 CG", "two stages", "classic HF", "NAG"]
    assert rows["1 CG"][3] == 9  # updates, at 13 / 3 gradients each
    assert (tmp_path / "quick" / "sutskever-hf" / "the-dial.svg").stat().st_size > 1000
