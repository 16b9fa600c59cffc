"""Local SGD against its equations, and the claim at a size of seconds."""

from pathlib import Path

import pytest
import torch

from ravine.claims import crew, local_sgd, reproduce
from ravine.claims.crew import Scale
from ravine.claims.local_sgd import Local
from ravine.claims.nets import NET, rows_of_digits

START, LR = NET.start([3, 4]), torch.tensor([0.1, 0.2], dtype=torch.float64)


def test_averages_at_every_step_are_averages_of_gradients() -> None:
    batches = crew.drawn(4, 5, 3, [3, 4])
    found = local_sgd.local(START, LR, batches, period=1, momentum=0.9)
    by_gradients = START.clone()
    velocity = torch.zeros_like(START)
    for index in batches:
        velocity = 0.9 * velocity + crew.slopes(by_gradients.unsqueeze(1), index).mean(1)
        by_gradients = by_gradients - LR.float().unsqueeze(1) * velocity
    torch.testing.assert_close(found, by_gradients, rtol=1e-4, atol=1e-5)


def test_between_averages_workers_are_alone() -> None:
    batches = crew.drawn(4, 5, 3, [3, 4])
    found = local_sgd.local(START, LR, batches, period=4, momentum=0.9)
    alone = [
        local_sgd.local(START, LR, batches[:, :, worker : worker + 1], period=1, momentum=0.9) for worker in range(3)
    ]
    torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-5)


def test_shares_are_disjoint_and_sorted_by_digit() -> None:
    _, targets = rows_of_digits()[0]
    seen = local_sgd.shares(crew.drawn(40, 50, 5, [0]))
    every = [set(seen[:, 0, worker].flatten().tolist()) for worker in range(5)]
    assert not any(a & b for k, a in enumerate(every) for b in every[:k])
    assert all(len(set(targets[list(rows)].tolist())) <= 3 for rows in every)


def test_the_claim_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_sgd, "SCALES", {"quick": Local(Scale(2, 8, 4, 3, 1), (1, 4))})
    (result,) = reproduce(["local-sgd"], out=tmp_path)
    assert len(result["findings"]) == 2 * (2 + 2)
    assert len(result["tables"][0]["rows"]) == 2 * 2 * 2
