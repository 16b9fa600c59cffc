"""Estimates of the gradient against their closed forms; the claims at a size of seconds."""

import math
from pathlib import Path

import pytest
import torch

from ravine.claims import reproduce, sgdf
from ravine.claims.nets import Field
from ravine.claims.sgdf import ESTIMATORS, Signals


def test_the_ema_of_noise_has_its_variance_and_of_a_sinusoid_its_attenuation() -> None:
    """Errors: (1 - b) / (1 + b) of noise alone; and |H - 1|^2 / 2 of sin(w t), H = (1 - b) / (1 - b exp(-i w))."""
    scale, b = Signals(2_000, 400, 1), sgdf.BETA_1
    _, observed = sgdf.signals(scale, [3], 1e9, 1.0)
    noise = (sgdf.estimates(ESTIMATORS["EMA"], observed - observed.mean(0)))[200:]
    assert float(noise.square().mean()) == pytest.approx((1 - b) / (1 + b), rel=0.05)
    error = sgdf.errors(scale, 30.0, 0.0)["EMA"][0]
    gain = (1 - b) / (1 - b * complex(math.cos(2 * math.pi / 30), -math.sin(2 * math.pi / 30)))
    assert error == pytest.approx(abs(gain - 1) ** 2 / 2, rel=0.02)


def test_the_gradient_itself_has_the_noise_as_its_error() -> None:
    found = sgdf.errors(Signals(500, 400, 2), 100.0, 0.5)["gradient"]
    assert found == pytest.approx([0.25, 0.25], rel=0.02)


def test_the_first_estimate_is_the_first_gradient() -> None:
    """m^ = g at t = 1, whatever the gain."""
    observed = torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    for name, rule in ESTIMATORS.items():
        if name.startswith("SGDF"):
            assert float(sgdf.estimates(rule, observed)[0, 0]) == pytest.approx(2.0)


def test_signals_do_not_depend_on_the_other_seeds() -> None:
    scale = Signals(3, 10, 2)
    both, alone = (sgdf.signals(scale, seeds, 20.0, 1.0) for seeds in ([4, 5], [5]))
    assert torch.equal(both[1][:, 1], alone[1][:, 0])


@pytest.mark.parametrize("name", ["sgdf-filter", "sgdf-training"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgdf, "SIGNALS", {"quick": Signals(10, 230, 2)})
    monkeypatch.setattr(sgdf, "FIELDS", {"quick": Field("digits", 16, 4, 2, 1)})
    (result,) = reproduce([name], out=tmp_path)
    assert result["findings"] and result["figures"] and result["tables"]
    drawn = [finding for finding in result["findings"] if "Period" in finding["statement"] or name == "sgdf-training"]
    assert drawn and all(finding["interval"] is not None for finding in drawn)
    assert {finding["outcome"] for finding in result["findings"] if finding not in drawn} <= {"reproduced"}
