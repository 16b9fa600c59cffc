"""signSGD and the majority vote: equations, and the claims at a size of seconds."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from ravine.claims import crew, majority_vote, reproduce, signsgd
from ravine.claims.crew import Scale
from ravine.claims.majority_vote import Election
from ravine.claims.nets import NET
from ravine.claims.signsgd import Toy


def test_the_expected_loss_is_the_recursion() -> None:
    """E x^2 goes to (1 - lr)^2 E x^2 + lr^2 noise, from 1 in each of 100 coordinates."""
    squares = np.ones(100)
    for _ in range(50):
        squares = (1 - 0.03) ** 2 * squares
        squares[0] += 0.03**2 * 100.0**2
    assert signsgd.expected_loss(0.03, 50) == pytest.approx(squares.sum() / 2)


def test_the_chance_of_a_wrong_outcome_by_counting() -> None:
    """All 2^5 ways in which five workers can vote, two of whom lie."""
    error, total = 0.3, 0.0
    for right in product((True, False), repeat=5):
        chances = [1 - error] * 3 + [error] * 2
        weight = np.prod([c if vote else 1 - c for vote, c in zip(right, chances, strict=True)])
        total += float(weight) * (sum(right) <= 2)
    assert majority_vote.wrong_outcome(error, 5, 2) == pytest.approx(total)
    assert majority_vote.wrong_outcome(0.0, 4, 2) == 1.0  # a tie counts as wrong


def test_the_bound_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert majority_vote.bound().outcome == "reproduced"
    honest = majority_vote.wrong_outcome
    monkeypatch.setattr(majority_vote, "wrong_outcome", lambda e, m, liars: honest(e, m, max(liars, m // 2)))
    assert majority_vote.bound().outcome == "contradicted"


def test_a_crew_of_one_without_momentum_is_signsgd() -> None:
    start, lr = NET.start([7]), torch.tensor([0.01])
    batches = crew.drawn(1, 4, 1, [7])
    slope = crew.slopes(start.unsqueeze(1), batches[0])[:, 0]
    moved = majority_vote.vote(start, lr, batches)
    torch.testing.assert_close(moved, start - 0.01 * torch.where(slope >= 0, 1.0, -1.0))
    away = majority_vote.vote(start, lr, batches, liars=1)
    torch.testing.assert_close((away - start)[slope != 0], (start - moved)[slope != 0])


def test_an_averaging_crew_is_one_worker_with_all_rows() -> None:
    start, lr = NET.start([7]), torch.tensor([0.1])
    batches = crew.drawn(3, 4, 5, [7])
    together = majority_vote.average(start, lr, batches, momentum=0.9)
    alone = majority_vote.average(start, lr, batches.flatten(2).unsqueeze(2), momentum=0.9)
    torch.testing.assert_close(together, alone)


def test_rates_are_chosen_on_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def trained(method: object, rate: object, seeds: range, scale: Scale) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(list(seeds))
        rates = torch.as_tensor(rate, dtype=torch.float64).reshape(-1, 1)
        return (rates - 0.3).abs().expand(-1, len(seeds)), torch.zeros(len(rates), len(seeds))

    monkeypatch.setattr(crew, "trained", trained)
    found = crew.tuned(majority_vote.vote, (0.1, 0.31, 0.9), Scale(1, 1, 1, 2, 3))
    assert seen == [[1000, 1001, 1002], [0, 1]]
    assert (found.rate, found.edge) == (0.31, False)


def test_signsgd_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signsgd, "TOYS", {"quick": Toy(400, 100, 4)})
    (result,) = reproduce(["signsgd"], out=tmp_path)
    assert len(result["findings"]) == 6
    (closed,) = [one for one in result["findings"] if "closed form" in one["statement"]]
    assert closed["outcome"] == "reproduced"


@pytest.mark.slow  # three processes import torch
def test_the_vote_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(majority_vote, "ELECTIONS", {"quick": Election(Scale(3, 5, 4, 2, 1), 5, 2, 3)})
    monkeypatch.setattr(majority_vote, "EQUAL_STEPS", 3)
    (result,) = reproduce(["majority-vote"], out=tmp_path)
    outcomes = {one["statement"]: one["outcome"] for one in result["findings"]}
    sure = ("Under Gaussian noise", "3 processes with the hook", "A worker sends a bit", "That is 1/32")
    assert [value for words, value in outcomes.items() if words.startswith(sure)] == ["reproduced"] * 4
