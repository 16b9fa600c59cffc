from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ravine.errors import UserError
from ravine.metrics import accuracy
from ravine.problems import Problem

Make = Callable[..., Problem]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": " "}, "name must be a non-empty text"),
        ({"model": nn.Linear(4, 3)}, "model= is a module; give a function that makes a fresh one"),
        ({"model": 3}, "a function that returns a fresh torch.nn.Module"),
        ({"loss": None}, "exactly one of loss="),
        ({"batch_loss": lambda model, batch: model(batch)}, "exactly one of loss="),
        ({"loss": "mse"}, "loss= must be a function"),
        ({"schedule": 0.5}, "schedule= must be a function"),
        ({"train": None}, "has no training data"),
        ({"batch_size": 0}, "batch_size= must be a whole number of at least 1, not 0"),
        ({"batch_size": 2.0}, "batch_size= must be a whole number"),
        ({"steps": True}, "steps= must be a whole number"),
        ({"weight_decay": -0.1}, "weight_decay= must be a finite number of at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay="),
        ({"clip": 0}, "clip= must be a finite number above 0"),
        ({"dtype": torch.int64}, "dtype= must be a floating torch.dtype"),
        ({"sampling": "bootstrap"}, "'shuffled' or 'with-replacement'"),
        ({"current": {"lr": 0.1}}, "current= must be a dict with a method name"),
        ({"metrics": [accuracy]}, "metrics= must be a dict"),
        ({"metrics": {"loss": accuracy}}, "a metric cannot be called 'loss'"),
        ({"metrics": {"mine": lambda o, t: o.mean()}}, r"ravine\.Metric\(fn, higher_is_better=\.\.\., worst=\.\.\.\)"),
    ],
)
def test_a_wrong_field_is_refused_at_construction(make: Make, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make(**changes)


def test_a_model_is_built_in_the_problems_dtype(make: Make) -> None:
    assert make().build().weight.dtype == torch.float32
    assert make(dtype=torch.float64).build().weight.dtype == torch.float64


def test_a_batch_at_or_above_the_rows_is_the_full_batch(make: Make) -> None:
    problem = make(batch_size=40)
    assert [problem.batch_rows(rows) for rows in (100, 40, 39)] == [40, 40, 39]


def test_loss_and_metrics_of_pairs(make: Make) -> None:
    problem = make()
    model, (inputs, targets) = problem.build(), problem.train
    judged = problem.evaluate(model, (inputs, targets))
    assert list(judged) == ["loss", "accuracy"]
    assert torch.equal(judged["loss"], cross_entropy(model(inputs), targets))
    assert torch.equal(judged["loss"], problem.loss_on(model, (inputs, targets)))
    assert torch.equal(judged["accuracy"], accuracy(model(inputs), targets))


def test_loss_and_metrics_of_batches_of_any_form(make: Make) -> None:
    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return cross_entropy(model(batch["x"]), batch["y"])

    def right(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return accuracy(model(batch["x"]), batch["y"])

    pairs = make()
    batch = {"x": pairs.train[0], "y": pairs.train[1]}
    metric = type(accuracy)(right, higher_is_better=True, worst=0.0)
    problem = make(loss=None, batch_loss=loss, train=batch, test=None, metrics={"right": metric})
    model = problem.build()
    expected = pairs.evaluate(model, pairs.train)
    judged = problem.evaluate(model, batch)
    assert torch.equal(judged["loss"], expected["loss"])
    assert torch.equal(judged["right"], expected["accuracy"])
