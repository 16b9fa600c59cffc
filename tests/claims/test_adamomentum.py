"""AdaMomentum's steps against closed forms, and the claims at a size of seconds."""

from pathlib import Path

import pytest
import torch

from ravine import rules
from ravine.claims import adamomentum, reproduce
from ravine.claims.adamomentum import Noise
from ravine.claims.nets import Field


@pytest.mark.parametrize("rule", ["adam", "adamomentum"])
def test_the_constants_are_the_rules_defaults(rule: str) -> None:
    hyper = rules.get(rule).hyper
    found = [hyper[name].default for name in ("lr", "beta1", "beta2", "eps")]
    assert found == [adamomentum.LR, adamomentum.BETA1, adamomentum.BETA2, adamomentum.EPS]


def test_steps_along_an_alternating_gradient() -> None:
    """Known numbers: 1/19 of lr for Adam; for AdaMomentum lr, and lr / sqrt(2) at the crossover."""
    sizes = torch.tensor([1.0, 0.060083], dtype=torch.float64)
    assert adamomentum.alternating("adam", sizes).tolist() == pytest.approx([1 / 19, 1 / 19], rel=1e-6)
    assert adamomentum.alternating("adamomentum", sizes).tolist() == pytest.approx([0.9982, 0.7071], abs=1e-4)
    for rule in ("adam", "adamomentum"):
        found = adamomentum.last_step(rule, lambda step: sizes * (-1) ** step, 2_000).abs()
        torch.testing.assert_close(found, adamomentum.alternating(rule, sizes), rtol=1e-3, atol=0)


def test_the_floor() -> None:
    assert adamomentum.floor_of() == pytest.approx(1e-5)


def test_steps_in_noise() -> None:
    assert adamomentum.in_noise("adamomentum", 600, 3000) == pytest.approx(1, rel=0.05)
    assert adamomentum.in_noise("adam", 600, 3000) == pytest.approx(19**-0.5, rel=0.05)


@pytest.mark.parametrize("name", ["adamomentum-steps", "adamomentum-training"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamomentum, "NOISES", {"quick": Noise(400, 2)})
    monkeypatch.setattr(adamomentum, "SETTLED", 2_000)
    monkeypatch.setattr(adamomentum, "REST", 0.01)
    monkeypatch.setattr(adamomentum, "FIELDS", {"quick": Field("digits", 4, 10, 2, 1)})
    (result,) = reproduce([name], out=tmp_path)
    assert result["figures"] and result["tables"] and result["findings"]
    if name == "adamomentum-steps":
        assert [finding["outcome"] for finding in result["findings"][:4]] == ["reproduced"] * 4
