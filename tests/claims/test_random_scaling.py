"""The identity against a closed form and against what breaks it; the claims at a size of seconds."""

import math
from pathlib import Path

import pytest
import torch

from ravine.claims import random_scaling, reproduce
from ravine.claims.nets import Field


def test_the_sides_are_those_of_one_kink() -> None:
    """Along |p + s q| with a kink at r = -p / q both sides are |q| (2 exp(-r) - 1), for s ~ Exp(1)."""
    directions = torch.zeros(6, 3, dtype=torch.float64)
    directions[0, 0] = 1.5  # |1.5 x| - |x| / 2 = |x|
    start, ray = torch.tensor([2.0, 0, 0]).double(), torch.tensor([-3.0, 0, 0]).double()
    expected = 3 * (2 * math.exp(-2 / 3) - 1)
    for side in random_scaling.sides("Exp(1)", start, ray, directions):
        assert side == pytest.approx(expected, abs=1e-12)
    rise, slope = random_scaling.sides("fixed", start, ray, directions)
    assert (rise, slope) == pytest.approx((1 - 2, 3))
    rise, slope = random_scaling.sides("uniform on [0, 2]", start, ray, directions)
    assert slope == pytest.approx(3 * (1 - 2 / 3))  # 2/3 of (0, 2) lies beyond the kink, where the slope is 3


def test_quadrature_integrates_densities() -> None:
    drawn = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    s, weight = random_scaling.nodes(drawn[0], drawn[1], drawn[2:], random_scaling.FAR)
    for power in range(4):
        assert float((s**power * (-s).exp()) @ weight) == pytest.approx(math.factorial(power), rel=1e-12)


def test_gaps_are_seen() -> None:
    assert max(random_scaling.gaps("Exp(1)")) < 1e-9
    assert min(sum(random_scaling.gaps(density)) for density in ("fixed", "uniform on [0, 2]")) > 10


@pytest.mark.parametrize("name", ["random-scaling-identity", "random-scaling-training"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_scaling, "DRAWS", {"quick": 500})
    monkeypatch.setattr(random_scaling, "FIELDS", {"quick": Field("digits", 16, 4, 2, 1)})
    (result,) = reproduce([name], out=tmp_path)
    assert result["findings"] and result["figures"] and result["tables"]
    if name == "random-scaling-identity":
        assert result["outcome"] == "reproduced"
    else:
        assert all(finding["interval"] is not None for finding in result["findings"])
