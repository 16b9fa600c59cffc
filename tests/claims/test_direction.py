"""The directions of regression against closed forms, and the claim at a size of seconds."""

from pathlib import Path

import pytest
import torch

from ravine.claims import direction, reproduce
from ravine.claims.direction import Path as Descent
from ravine.claims.direction import Scale


def test_gradient_descent_on_two_examples_has_a_closed_form() -> None:
    """e = ((1 - 2 lr)^k, (1 - lr / 2)^k), H = diag(2, 1/2)."""
    found = direction.descend(direction.two_examples(1), direction.constant(0.05), 40, single=False)
    k = torch.arange(41, dtype=torch.float64)
    steep, flat = 0.9 ** (2 * k), 0.975 ** (2 * k)
    torch.testing.assert_close(found.square[:, 0], steep + flat)
    torch.testing.assert_close(found.quotient[:, 0], (2 * steep + flat / 2) / (steep + flat))
    torch.testing.assert_close(found.loss[:, 0], (2 * steep + flat / 2) / 2.5)


def test_sgd_on_two_examples_shrinks_one_part_of_e_a_step() -> None:
    found = direction.descend(direction.two_examples(3), direction.constant(0.1), 30, single=True)
    for seed in range(3):
        possible = {round(0.6 ** (2 * k) + 0.9 ** (2 * (30 - k)), 10) for k in range(31)}
        assert round(float(found.square[-1, seed]), 10) in possible


def test_the_quotient_of_an_eigenvector_is_its_eigenvalue() -> None:
    data = direction.many_examples(Scale(4, 50, 1, 1, 2))
    h = data.examples.mT @ data.examples / 4
    values, vectors = torch.linalg.eigh(h)
    torch.testing.assert_close(values[:, -4:], data.eigenvalues)
    at = direction.descend(
        direction.Data(data.examples, vectors[:, :, -1]), direction.constant(0.0), 0, single=False
    ).quotient
    torch.testing.assert_close(at[0], values[:, -1])
    assert direction._between(at[0].tolist(), data.eigenvalues) == pytest.approx([1.0, 1.0])


def test_a_level_is_met_where_the_loss_first_falls_to_it() -> None:
    loss = torch.tensor([[1.0, 1.0], [0.2, 0.9], [0.3, 0.8]])
    path = Descent(loss, loss, torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    assert path.at(0.25, path.square) == [2.0, 3.0]


def test_the_claim_at_a_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direction, "SCALES", {"quick": Scale(4, 60, 50, 300, 3)})
    monkeypatch.setattr(direction, "STEPS", 400)
    (result,) = reproduce(["direction-matters"], out=tmp_path)
    assert len(result["findings"]) == 7
    assert [len(table["rows"]) for table in result["tables"]] == [4, 3]
