"""Hessian-free runs in the time of first-order ones: paid for in gradients, shown when paid for, resumed exactly."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cases_fleet import PROBLEMS, dense, problem, task
from ravine.fleet import second_order
from ravine.fleet import train as training
from ravine.fleet.keys import key
from ravine.fleet.order import Order
from ravine.fleet.second_order import SECOND_ORDER, SecondOrder
from ravine.fleet.stacked import Program
from ravine.fleet.train import Record, Trial, Work, train
from ravine.hessian_free import HessianFree

HYPER: dict[str, dict[str, float]] = {
    name: {k: one.default for k, one in method.hyper.items() if one.default is not None} | {"cg_steps": 3.0, "lr": 2.0}
    for name, method in SECOND_ORDER.items()
}
methods = pytest.mark.parametrize("name", SECOND_ORDER)


def vector(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()])


def test_a_step_is_shown_when_its_gradients_are_paid_for() -> None:
    made = task(problem(dense))
    run = SecondOrder(made, "hessian-free", 0, HYPER["hessian-free"])
    model = made.model(0)
    optimizer = HessianFree(
        model, cross_entropy, damping=0.5, cg_steps=3, seed=key(0, "draws", 0, 0) >> 1
    )  # the same, without a study
    order, data = Order(0, 0, made.data.train.rows, 8), made.data.train
    due, shown, seen = 0.0, [made.evaluation(model.eval())(data.tensors)], 0
    for step in range(40):
        while due <= step:
            points = made.evaluation(model.eval())(data.tensors)
            result = optimizer.step(*data.batch(torch.from_numpy(order.batch(step))))
            due += result.cost
        assert run.step(step).item() == pytest.approx(result.loss)
        now = made.evaluation(model.eval())(data.tensors) if due <= step + 1 else points
        torch.testing.assert_close(run.evaluate("train")[0], now)
        seen += not torch.equal(now, shown[-1])
        shown.append(now)
    assert 3 <= seen < 12  # some steps were taken, and each cost several gradients
    assert optimizer.param_groups[0]["step"] == run._optimizer.param_groups[0]["step"]


@methods
@pytest.mark.parametrize("case", ["dense", "batch-norm-1d", "dropout"])
def test_a_broken_off_run_ends_as_an_unbroken_one(
    name: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    made = task(PROBLEMS[case]())
    work = Work(name, (Trial(0, HYPER[name]), Trial(1, HYPER[name])), 24, False, "single")
    unbroken = trained(made, work)

    def stop(count: int) -> Any:
        calls = iter(range(count))
        return lambda steps: next(calls)

    with pytest.raises(StopIteration):
        trained(made, work, tmp_path / "kept", stop(9))
    assert (tmp_path / "kept").exists()
    assert repr(trained(made, work, tmp_path / "kept")) == repr(unbroken)


def trained(made: Any, work: Work, *words: Any) -> list[Record]:
    return train(made, Program(made), work, *words)


@methods
def test_every_hyper_parameter_changes_the_outcome(name: str) -> None:
    made = task(problem(dense))
    others = {"lr": 0.2, "cg_steps": 1.0, "damping_factor": 3.0, "preconditioner_power": 0.2, "step_size": 0.5}
    others |= {other: 0.3 for other in ("cg_decay", "momentum") if other in HYPER[name]}
    assert set(others) == set(HYPER[name])

    def end(hyper: dict[str, float], made: Any = made) -> Tensor:
        run = SecondOrder(made, name, 0, hyper)
        for step in range(30):
            run.step(step)
        return vector(run.parameters())

    usual = end(HYPER[name])
    for one, value in others.items():
        assert not torch.allclose(end({**HYPER[name], one: value}), usual), one
    decayed = task(dataclasses.replace(problem(dense), weight_decay=0.1))
    assert not torch.allclose(end(HYPER[name], decayed), usual)


@methods
def test_a_run_learns(name: str) -> None:
    made = task(problem(dense, steps=60, batch_size=30))
    (record,) = trained(made, Work(name, (Trial(0, HYPER[name]),), 60, False, "single"))
    assert record.final_train_loss is not None
    assert record.final_train_loss < record.initial_loss - 0.05
    assert record.diverged_at is None


@methods
def test_the_first_step_is_not_in_the_seconds_of_a_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It traces the curvature, for all runs."""
    run = SecondOrder(task(problem(dense)), name, 0, HYPER[name])
    now, taken = 0.0, 0

    def step(inputs: Tensor, targets: Tensor) -> Any:
        nonlocal now, taken
        now, taken = now + (6.0 * taken if taken else 100.0), taken + 1
        return SimpleNamespace(cost=2.0 * taken)

    monkeypatch.setattr(run._optimizer, "step", step)
    monkeypatch.setattr(second_order, "time", SimpleNamespace(perf_counter=lambda: now))
    assert run.seconds_per_gradient() == pytest.approx((6 + 12 + 18) / (4 + 6 + 8))
