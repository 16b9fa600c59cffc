import math

import pytest
import torch

from ravine.errors import UserError
from ravine.metrics import Metric, accuracy


def test_accuracy_is_the_share_of_rows_whose_largest_output_is_the_target() -> None:
    outputs = torch.tensor([[0.1, 0.9], [2.0, 1.0], [-1.0, -2.0], [0.0, 3.0]])
    assert accuracy(outputs, torch.tensor([1, 0, 1, 1])).item() == 0.75
    assert (accuracy.higher_is_better, accuracy.worst, accuracy.bounded) == (True, 0.0, True)


def test_accuracy_of_sequences_counts_every_place() -> None:
    outputs = torch.zeros(2, 3, 4)  # rows, classes, places
    outputs[:, 2] = 1
    assert accuracy(outputs, torch.tensor([[2, 2, 2, 0], [2, 1, 2, 2]])).item() == 0.75


def test_accuracy_runs_over_stacked_runs() -> None:
    outputs, targets = torch.randn(5, 16, 10), torch.randint(10, (5, 16))
    stacked = torch.func.vmap(accuracy)(outputs, targets)
    assert stacked.tolist() == [accuracy(o, t).item() for o, t in zip(outputs, targets, strict=True)]


@pytest.mark.parametrize(
    ("worst", "bounded", "sentence"), [(math.nan, False, "NaN cannot be compared"), (-1.0, True, "must be 0 or 1")]
)
def test_a_worst_value_that_cannot_be_one_is_refused(worst: float, bounded: bool, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Metric(torch.dist, higher_is_better=False, worst=worst, bounded=bounded)


def test_a_metric_needs_a_function() -> None:
    with pytest.raises(UserError, match="needs a function"):
        Metric(0.5, higher_is_better=True, worst=0.0)  # type: ignore[arg-type]
