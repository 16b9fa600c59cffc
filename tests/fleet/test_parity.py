"""A run in a stack is the run alone: decision 13 of the protocol, 20 steps."""

import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from cases_fleet import PROBLEMS, alone, columns, dense, doing, problem, settings, stack, task
from ravine.fleet.stacked import Program
from ravine.fleet.task import Task
from ravine.rules import RULES

STEPS = 20
FIELDS = ("weight-decay", "clip", "schedule", "full-batch", "with-replacement", "unused", "dict", "frozen")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def assert_same_runs(of: Any, rule: str = "momentum", seeds: tuple[int, ...] = (0, 1, 0)) -> None:
    made = of if isinstance(of, Task) else task(of)
    hyper = settings(rule, len(seeds))
    together = stack(made, rule, list(seeds), hyper, program_of(made))
    losses = torch.stack([together.step(step) for step in range(STEPS)])
    ended, judged = together.parameters(), together.evaluate("validation")
    for run, seed in enumerate(seeds):
        one = alone(made, rule, seed, hyper[run])
        losses_alone = torch.cat([one.step(step) for step in range(STEPS)])
        assert_close(losses[:, run], losses_alone)
        for name, value in one.parameters().items():
            assert_close(ended[name][run], value[0])
        assert_close(judged[run, :1].to(losses.dtype), one.evaluate("validation")[0, :1].to(losses.dtype))


program_of = functools.lru_cache(maxsize=1)(Program)  # tracing is what takes the time
dense_task = functools.cache(lambda: task(problem(dense, dtype=torch.float64)))


def assert_close(value: Tensor, wanted: Tensor) -> None:
    if wanted.is_floating_point():
        assert (value - wanted).abs().max() <= TOLERANCE[wanted.dtype] * wanted.abs().max() + 1e-30
    else:
        assert torch.equal(value, wanted)


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name not in FIELDS])
def test_stacked_is_single_in_float32(name: str) -> None:
    assert_same_runs(PROBLEMS[name]())


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "uint8"])  # which casts to float32 itself
def test_stacked_is_single_in_float64(name: str) -> None:
    assert_same_runs(dataclasses.replace(PROBLEMS[name](), dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_stacked_is_single(rule: str) -> None:
    assert_same_runs(dense_task(), rule)


@pytest.mark.parametrize("rule", ["nesterov", "adam"])
def test_every_field_at_once(rule: str) -> None:
    assert_same_runs(
        problem(dense, dtype=torch.float64, weight_decay=0.1, clip=0.5, schedule=lambda step: 0.0 if step < 2 else 1.0),
        rule,
    )


def test_batch_norm_counts_batches_and_evaluates_with_running_statistics() -> None:
    made = task(PROBLEMS["batch-norm-1d"]())
    together = stack(made, "momentum", [0, 1], settings("momentum", 2))
    before = together.evaluate("validation")
    means = together.parameters()["model.1.running_mean"].clone()
    for step in range(3):
        together.step(step)
    after = together.parameters()
    assert after["model.1.num_batches_tracked"].tolist() == [3, 3]
    assert not torch.equal(after["model.1.running_mean"], means)
    judged = together.evaluate("validation")
    assert not torch.equal(judged, before)
    assert torch.equal(together.evaluate("validation"), judged)  # evaluating changes nothing
    assert torch.equal(together.parameters()["model.1.running_mean"], after["model.1.running_mean"])


@pytest.mark.parametrize("name", ["dense", "dropout", "batch-norm-1d"])
def test_chunk_size_does_not_matter(name: str) -> None:
    made = task(PROBLEMS[name]())
    program = Program(made)
    seeds, hyper = [0, 1, 2, 0, 1, 2, 5], settings("momentum", 7)
    ended = {}
    for size in (1, 3, 7):
        parts = []
        for start in range(0, 7, size):
            part = stack(made, "momentum", seeds[start : start + size], hyper[start : start + size], program)
            for step in range(STEPS):
                part.step(step)
            parts.append(part.parameters())
        ended[size] = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    for size in (1, 3):
        for key, value in ended[size].items():
            for run in range(7):
                assert_close(value[run], ended[7][key][run])


def test_what_gets_no_gradient_does_not_decay() -> None:
    made = task(doing(lambda module, h: h, weight_decay=0.5))
    together, one = (
        stack(made, "momentum", [0], settings("momentum", 1)),
        alone(made, "momentum", 0, settings("momentum", 1)[0]),
    )
    for step in range(3):
        together.step(step)
        one.step(step)
    assert one.parameters()["model.unused"][0].tolist() == [1, 1]
    assert together.parameters()["model.unused"][0].tolist() == [1, 1]


def test_a_model_that_writes_to_its_batch_leaves_the_data_alone() -> None:
    class Writes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.mul_(0.5))  # type: ignore[no-any-return]

    for batch_size in (8, 50):
        made = task(problem(Writes, batch_size=batch_size))
        kept = [tensor.clone() for split in (made.data.train, made.data.validation) for tensor in split.tensors]
        for fleet in (alone(made, "sgd", 0, {"lr": 0.1}), stack(made, "sgd", [0], [{"lr": 0.1}])):
            fleet.step(0)
            fleet.evaluate("validation")
        now = [*made.data.train.tensors, *made.data.validation.tensors]
        assert all(map(torch.equal, now, kept))


def test_columns_are_per_run() -> None:
    assert columns([{"lr": 1.0}, {"lr": 2.0}]) == {"lr": [1.0, 2.0]}
