"""Early momentum on neighbouring data sets against the recursion, and the claim at a size of seconds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ravine.claims import early_momentum, reproduce
from ravine.claims.early_momentum import Scale

SMALL = Scale(6, 3, 2, (4,), 3)


def test_two_sets_differ_in_one_example_and_are_seen_in_one_order() -> None:
    data = early_momentum.neighbours(SMALL)
    first, second = data.examples
    assert (first != second).any(2).sum(1).tolist() == [1, 1, 1]
    assert data.order.shape == (12, 3)
    assert all(sorted(column[:6].tolist()) == list(range(6)) for column in data.order.T)


def test_equal_sets_stay_together() -> None:
    data = early_momentum.neighbours(SMALL)
    same = replace(data, examples=data.examples[:1].expand(2, -1, -1, -1))
    assert not early_momentum.distances(same, 0.05, 12).any()


def test_distances_are_the_recursions() -> None:
    """w_(t+1) = w_t + mu_t (w_t - w_(t-1)) - lr g_t, by autograd and hand."""
    data = early_momentum.neighbours(SMALL)
    ends = []
    for examples in data.examples[:, 1]:
        before = w = torch.zeros(3, dtype=torch.float64)
        for step, index in enumerate(data.order[:, 1]):
            leaf = w.clone().requires_grad_()
            (slope,) = torch.autograd.grad(torch.log1p(torch.exp(-leaf @ examples[index])), leaf)
            momentum = 0.9 if step < 4 else 0.0
            before, w = w, w + momentum * (w - before) - 0.05 * slope
        ends.append(w)
    found = early_momentum.distances(data, 0.05, 4)[-1, 1]
    torch.testing.assert_close(found, (ends[0] - ends[1]).norm())


def test_the_claim_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_momentum, "SCALES", {"quick": Scale(20, 5, 5, (30,), 4)})
    (result,) = reproduce(["early-momentum"], out=tmp_path)
    assert len(result["findings"]) == 2
    assert len(result["tables"][0]["rows"]) == 4
