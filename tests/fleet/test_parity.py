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


@functools.cache
def every_field() -> Task:
    def schedule(step: int) -> float:
        return 0.0 if step < 2 else 1.0

    return task(problem(dense, dtype=torch.float64, weight_decay=0.1, clip=0.5, schedule=schedule))


@pytest.mark.parametrize(
    "rule", ["nesterov", "sutskever-nesterov", "adam", "adamw", "nadam", "lion", "sngm", "random-scaling", "sgdp"]
)
def test_every_field_at_once(rule: str) -> None:
    assert_same_runs(every_field(), rule)


@pytest.mark.parametrize("rule", ["nadam", "random-scaling", "early-momentum"])
def test_what_a_rule_carries_goes_through_a_checkpoint_and_the_loss_of_neighbours(rule: str) -> None:
    made = dense_task()
    seeds, hyper, program = [0, 1, 2], settings(rule, 3), program_of(made)
    whole, resumed = (stack(made, rule, seeds, hyper, program) for _ in range(2))
    one, again = (alone(made, rule, 1, hyper[1]) for _ in range(2))
    for step in range(3):
        whole.step(step)
        one.step(step)
    resumed.load({name: value.clone() for name, value in whole.state().items()})
    again.load({name: value.clone() for name, value in one.state().items()})
    resumed.keep(torch.tensor([False, True, True]))
    for step in range(3, 6):
        for fleet in (whole, resumed, one, again):
            fleet.step(step)
    for name, value in whole.parameters().items():
        assert_close(resumed.parameters()[name], value[1:])
        assert_close(one.parameters()[name][0], value[1])
        assert torch.equal(again.parameters()[name], one.parameters()[name])


def test_a_norm_in_a_stack_is_that_of_one_run() -> None:
    # The runs begin alike and differ in nothing but the learning rate: neither first step depends on the other.
    made = dense_task()
    together = stack(made, "sngm", [0, 0], [{"lr": 1.0, "momentum": 0.0}, {"lr": 0.5, "momentum": 0.0}])
    before = {name: value.clone() for name, value in together.parameters().items()}
    together.step(0)
    moved = [(value - before[name]).flatten(1) for name, value in together.parameters().items()]
    assert torch.cat(moved, dim=1).norm(dim=1).tolist() == pytest.approx([1.0, 0.5])


def test_every_seed_has_its_random_scales_and_every_method_the_same() -> None:
    made = dense_task()
    drawn = [[made.variate("scale", seed, step) for step in range(2000)] for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    assert torch.tensor(drawn).mean().item() == pytest.approx(1, abs=0.1)


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
