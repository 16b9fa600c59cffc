"""Coherence against `ravine.measure`, and every claim at a size of seconds."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from cases_claims import dense_module
from ravine import measure
from ravine.claims import chatterjee, reproduce
from ravine.claims.chatterjee import Courses, Scale, Suppression
from ravine.claims.rows import DenseNets


def test_coherence_is_that_of_ravine_measure() -> None:
    """Which forms the gradient of every example."""
    nets = DenseNets((4, 6, 3))
    row = nets.start([2])
    x, y = torch.randn(10, 4), torch.arange(10) % 3
    net = dense_module(nets, row[0])
    found = measure.noise_scale(measure.Objective(net, [(x, y)], loss=cross_entropy), small=1).sample_coherence
    assert found is not None
    loss, slopes, value = chatterjee.coherent(nets, row, x, y)
    assert float(value) == pytest.approx(found.value, rel=1e-4)
    torch.testing.assert_close(loss[0], cross_entropy(net(x), y))
    (expected,) = torch.autograd.grad(cross_entropy(net(x), y), list(net.parameters())[-1:])
    torch.testing.assert_close(slopes[0, 48:], expected)


def test_identical_examples_are_fully_coherent() -> None:
    nets = DenseNets((4, 5, 2))
    x = torch.randn(1, 4).expand(7, 4)
    assert float(chatterjee.coherent(nets, nets.start([0]), x, torch.ones(7, dtype=torch.long))[2]) == pytest.approx(7)


def test_courses_stop_where_they_fit() -> None:
    nan = torch.nan
    of = Courses(
        torch.tensor([[2.0, 2.0], [1.1, 0.9], [0.5, 0.05]]), torch.tensor([[1.0, 3.0], [4.0, 2.0], [2.0, nan]])
    )
    assert of.peak == ([4.0, 3.0], [1.0, 0.0])
    assert of.halved.tolist() == [2, 1]
    assert of.at(torch.tensor([2, 2])) == [2.0, 2.0]


@pytest.mark.parametrize("name", ["chatterjee-coherence", "chatterjee-median"])
def test_claims_run_through(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatterjee, "SCALES", {"quick": Scale(30, 8, 6, 2)})
    monkeypatch.setattr(chatterjee, "SUPPRESSIONS", {"quick": Suppression(40, 4, 5, 2)})
    (result,) = reproduce([name], out=tmp_path)
    assert all(finding["interval"] is not None for finding in result["findings"])
    assert result["figures"] and result["tables"]


def test_real_labels_are_learnt_by_mean_and_median() -> None:
    """What real labels share is learnt either way."""
    scale = Suppression(200, 32, 400, 2)
    mean, median = (chatterjee.train_groups(combine, scale, [3000, 3001]) for combine in ("mean", "median"))
    assert float(mean.real.mean()) > 0.5 < float(median.real.mean())
