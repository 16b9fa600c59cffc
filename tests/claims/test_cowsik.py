"""The valley u v = 1 under label noise: its gradient, and times that are known in closed form."""

from pathlib import Path

import pytest
import torch

from ravine.claims import cowsik, reproduce


def test_the_gradient_is_autograds() -> None:
    rows = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, dtype=torch.float64)
    loss = (rows.prod(1) - 1 - noise).square().sum() / 2
    (expected,) = torch.autograd.grad(loss, rows)
    torch.testing.assert_close(cowsik.slope(rows.detach(), noise), expected)


def test_the_two_times_meet_at_two_thirds() -> None:
    assert cowsik.exponent(0) == 2
    assert cowsik.exponent(2 / 3) == pytest.approx(2 / 3)
    assert min(cowsik.exponent(k / 300) for k in range(300)) == pytest.approx(2 / 3)


def test_without_momentum_the_time_is_that_of_the_exact_decay() -> None:
    """u^2 - v^2 is multiplied by 1 - eta^2 r^2 a step, r the residual: about 1 / eta^2 steps to 1/e."""
    found = cowsik.arrival(0.05, 0.0, [3000, 3001], 64)
    assert found == pytest.approx([400, 400], rel=0.15)
    assert cowsik.arrival(0.05, 0.0, [3001], 64) == found[1:]


def test_the_claim_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cowsik, "SCALES", {"quick": cowsik.Scale(2, 16, (20, 60))})
    monkeypatch.setattr(cowsik, "COMMON", 0.1)
    (result,) = reproduce(["cowsik-two-thirds"], out=tmp_path)
    assert len(result["findings"]) == 10
    assert [row[1] for row in result["tables"][0]["rows"]] == pytest.approx([2, 4 / 3, 1, 2 / 3, 5 / 6])
