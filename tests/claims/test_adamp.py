"""Norms of scale-invariant weights against autograd and Lemma 2.2, and the claims at a size of seconds."""

from pathlib import Path

import pytest
import torch

from ravine.claims import adamp, reproduce
from ravine.claims.adamp import Growth, Training, Walk
from ravine.fleet.choose import Choice
from ravine.study.engine import LocalEngine


def test_the_slope_is_autograds_and_orthogonal() -> None:
    generator = torch.Generator().manual_seed(0)
    w, a = torch.randn(2, 5, 1, 7, dtype=torch.float64, generator=generator)
    leaf = w.clone().requires_grad_()
    loss = -((leaf * a).sum(-1) / leaf.norm(dim=-1)).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    found = adamp.slope(w, a)
    torch.testing.assert_close(found, gradient)
    assert float((found * w).sum(-1).abs().max()) < 1e-12


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_lemma_by_hand(momentum: float) -> None:
    """Two steps of length 1 and 2: 3 + 1, then + 4 + 2 momentum."""
    walk = Walk(torch.tensor([[3.0], [0.0], [0.0]]), torch.tensor([[1.0], [4.0]]))
    expected = [3.0, 4.0, 8.0 + 2 * momentum]
    assert adamp.expected_squares(walk, momentum).flatten().tolist() == expected


def test_the_norm_claim_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamp, "GROWTHS", {"quick": Growth(100, 3)})
    (result,) = reproduce(["adamp-norm"], out=tmp_path)
    assert [finding["outcome"] for finding in result["findings"][:3]] == ["reproduced"] * 3


def test_the_lemma_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamp, "GROWTHS", {"quick": Growth(100, 3)})
    monkeypatch.setattr(adamp, "MOMENTUM", 0.8)  # of the formula; the methods have .9
    (result,) = reproduce(["adamp-norm"], out=tmp_path)
    assert [finding["outcome"] for finding in result["findings"][:3]] == ["reproduced", "contradicted", "reproduced"]


@pytest.mark.slow  # a worker process imports torch
def test_the_training_claim_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalEngine, "choose", lambda *_: Choice("stacked", 8, "no time to measure"))
    monkeypatch.setattr(adamp, "TRAININGS", {"quick": Training(10, 3, 1)})
    rates = (0.01, 0.02)
    monkeypatch.setattr(adamp, "PAIRS", {"SGDP": ("sgdp", "momentum", rates)})
    (result,) = reproduce(["adamp-training"], out=tmp_path, workers=1)
    assert len(result["findings"]) == 1
    assert [row[0] for row in result["tables"][0]["rows"]] == ["momentum", "sgdp"]
