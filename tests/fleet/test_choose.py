import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases_fleet import PROBLEMS, Doing, dense, doing, pixels, problem, settings, stack, task
from ravine.fleet import choose as choosing
from ravine.fleet.choose import choose, parity
from ravine.fleet.single import Single
from ravine.fleet.stacked import Program, Stacked
from ravine.fleet.task import Task
from ravine.problems import Problem

HUGE = 1e18


def rebinds(module: Any, h: Tensor) -> Tensor:
    module.level = 0.9 * module.level + 0.1 * h.detach().mean()
    return h


def updates(module: Any, h: Tensor) -> Tensor:
    if module.training:
        module.level.mul_(0.9).add_(0.1 * h.detach().mean())
    return h * module.level.to(h.dtype)  # type: ignore[no-any-return]


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def doubles(module: Any, h: Tensor) -> Tensor:
    doubled: Tensor = Double.apply(h)  # type: ignore[no-untyped-call]
    return doubled


def branches(module: Any, h: Tensor) -> Tensor:
    return h if h.sum() > 0 else 2 * h


def counts_on_the_module(module: Any, h: Tensor) -> Tensor:
    module.calls = getattr(module, "calls", 0) + 1
    return h * module.calls  # type: ignore[no-any-return]


OBSTACLES: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "rebound buffer": (rebinds, "level does not move as in a run alone"),
    "custom function": (
        doubles,
        "in a stack: RuntimeError: In order to use an autograd.Function",
    ),
    "control flow": (
        branches,
        "in a stack: RuntimeError: vmap: It looks like you're either (1) calling .item()",
    ),
    "item": (
        lambda module, h: h * h.detach().sum().item(),
        "in a stack: RuntimeError: vmap: It looks like you're either (1) calling .item()",
    ),
    "state outside": (counts_on_the_module, "the training loss differs from that of a run alone"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_cannot_be_stacked_is_said_in_a_sentence_and_trains_alone(name: str) -> None:
    action, sentence = OBSTACLES[name]
    made = task(doing(action))
    choice = choose(made, Program(made), HUGE)
    assert choice.executor == "single"
    assert choice.size == 1
    assert choice.reason.startswith(f"runs cannot be stacked: {sentence}")
    assert "\n" not in choice.reason
    forced = choose(made, Program(made), HUGE, forced="stacked")
    assert (forced.executor, forced.reason) == ("single", choice.reason)


def test_a_buffer_updated_in_place_stacks() -> None:
    made = task(doing(updates))
    assert parity(made, Program(made)) is None
    together = stack(made, "sgd", [0, 1], settings("sgd", 2))
    together.step(0)
    assert (together.parameters()["model.level"] != 1).all()


@pytest.mark.parametrize("name", ["tied", "batch-norm-2d", "unused", "full-batch", "uint8", "dropout"])
def test_what_can_be_stacked_passes(name: str) -> None:
    made = task(PROBLEMS[name]())
    assert parity(made, Program(made)) is None


def test_weights_that_come_apart_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when tied weights are copied one by one: each end trains on its own."""

    class Untied(Program):
        def __init__(self, task: Task) -> None:
            super().__init__(task)
            inner: Any = self._loss.model
            inner.out.weight = nn.Parameter(inner.out.weight.detach().clone(), requires_grad=False)

    made = task(PROBLEMS["tied"]())
    assert parity(made, Untied(made)) == "the training loss differs from that of a run alone"


@pytest.mark.parametrize("fault", [1.01, 0.99])
def test_a_small_error_in_the_gradient_is_found(monkeypatch: pytest.MonkeyPatch, fault: float) -> None:
    made = task(problem(dense))
    program = Program(made)
    trace = program._trace_gradients

    def faulty(sections: list[list[torch.Tensor]]) -> Any:
        gradients, updated = trace(sections)
        return lambda *values: [(found := gradients(*values))[0] * fault, *found[1:]], updated

    monkeypatch.setattr(program, "_trace_gradients", faulty)
    assert "a run alone" in str(parity(made, program))


def test_an_evaluation_that_differs_is_found() -> None:
    made = task(doing(lambda module, h: h))
    program = Program(made)
    program._evaluation.train()
    assert parity(made, program) is None
    broken = task(doing(lambda module, h: h if module.training else 2 * h))
    program = Program(broken)
    program._evaluation.train()
    assert parity(broken, program) == "its evaluation differs from that of a run alone"


def test_inputs_of_any_scale_do_not_blow_up_the_probe() -> None:
    """Raw pixels 0..255: at a fixed learning rate the probe would compare chaos."""

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense()

        def forward(self, x: Tensor) -> Tensor:
            return 100 * self.net(x.float())  # type: ignore[no-any-return]

    made = task(problem(Raw, pixels()))
    assert parity(made, Program(made)) is None


def test_a_bias_before_a_normalization_is_no_difference() -> None:
    """Its gradient is zero but for rounding, which two ways of summing do differently."""

    def model() -> nn.Module:
        net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        nn.init.zeros_(net[0].bias)  # type: ignore[arg-type]
        return net

    made = task(problem(model, batch_size=32))
    assert parity(made, Program(made)) is None


def test_a_mask_is_a_buffer_like_any_other() -> None:
    class Masked(Doing):
        def __init__(self) -> None:
            super().__init__(lambda module, h: h.masked_fill(module.mask, 0))
            self.register_buffer("mask", torch.arange(6) > 3)
            self.register_buffer("empty", torch.zeros(0), persistent=False)

    made = task(problem(Masked))
    assert parity(made, Program(made)) is None


def test_several_dtypes_train_alone() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.scale = dense(), nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * self.scale  # type: ignore[no-any-return]

    made = task(problem(Mixed))
    assert choose(made, Program(made), HUGE).reason == "runs cannot be stacked: its parameters have several dtypes"


# Measuring, on numbers made up.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Seconds a step: `single`, and `stack` by the number of runs; `grows` by so many bytes a run."""
    numbers: dict[str, Any] = {"single": 1.0, "stack": lambda size: 0.1 * size, "grows": 0.0}
    largest = [0]

    def seconds(stepper: Any) -> float:
        if isinstance(stepper, Single):
            return float(numbers["single"])
        largest[0] = max(largest[0], len(stepper.seeds))
        return float(numbers["stack"](len(stepper.seeds)))

    monkeypatch.setattr(choosing, "seconds_of", seconds)
    monkeypatch.setattr(choosing, "_peak_bytes", lambda device: 1e9 + largest[0] * numbers["grows"])
    monkeypatch.setattr(choosing, "parity", lambda *_, **__: None)
    monkeypatch.setattr(choosing, "SIZES", (2, 4, 8))
    monkeypatch.setattr(Stacked, "evaluate", lambda self, split: None)
    return numbers


def chosen(free: float = HUGE, of: Problem | None = None, **words: Any) -> tuple[str, int]:
    made = task(of or problem(dense))
    choice = choose(made, Program(made), free, **words)
    return choice.executor, choice.size


def test_the_faster_is_chosen(clock: dict[str, Any]) -> None:
    clock["stack"] = lambda size: 0.001 * size * (2 if size < 8 else 1)
    assert chosen() == ("stacked", 8)
    clock["stack"] = lambda size: 1.2 * size
    assert chosen() == ("single", 1)


def test_a_slow_stack_is_not_doubled_for_nothing(clock: dict[str, Any]) -> None:
    asked: list[int] = []
    clock["stack"] = lambda size: asked.append(size) or {2: 0.2, 4: 0.199, 8: 0.01}[size] * size  # type: ignore[func-returns-value]
    assert chosen() == ("stacked", 2) and asked == [2, 4]


def test_long_work_is_compiled_where_that_is_faster(clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(stepper: Any) -> float:
        return 1.0 if isinstance(stepper, Single) else 1e-3 * len(stepper.seeds) * (factor if stepper._compiled else 1)

    monkeypatch.setattr(choosing, "seconds_of", seconds)
    factor = 0.5
    monkeypatch.setattr(choosing, "compiler", lambda: True)
    assert chosen(run_steps=10**4) == ("stacked", 2)  # ten seconds of work
    assert chosen(run_steps=10**7) == ("compiled", 2)
    factor = 0.99
    assert chosen(run_steps=10**7) == ("stacked", 2)
    factor = 0.5
    monkeypatch.setattr(choosing, "compiler", lambda: False)
    assert chosen(run_steps=10**7) == ("stacked", 2)


def test_a_stack_at_par_is_compiled_where_that_is_faster(
    clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that is much slower than one run at a time: grouped convolutions stay slow."""

    def seconds(stepper: Any) -> float:
        return 1.0 if isinstance(stepper, Single) else share * len(stepper.seeds) * (0.5 if stepper._compiled else 1)

    monkeypatch.setattr(choosing, "seconds_of", seconds)
    monkeypatch.setattr(choosing, "compiler", lambda: True)
    share = 1.2
    assert chosen(run_steps=10**4) == ("compiled", 2)
    assert chosen(run_steps=10**2) == ("single", 1)  # not worth the time that compiling takes
    share = 1.6
    assert chosen(run_steps=10**4) == ("single", 1)


def test_the_smallest_of_equally_good_sizes_is_chosen(clock: dict[str, Any]) -> None:
    clock["stack"] = lambda size: {2: 0.2, 4: 0.104, 8: 0.1}[size] * size
    assert chosen() == ("stacked", 4)


def test_a_forced_executor_is_taken(clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clock["stack"] = lambda size: 5.0 * size
    monkeypatch.setattr(choosing, "compiler", lambda: True)
    assert chosen(forced="single") == ("single", 1)
    assert chosen(forced="stacked") == ("stacked", 2)
    assert chosen(forced="compiled") == ("compiled", 2)


def test_nothing_is_compiled_without_a_compiler(clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "compiler", lambda: False)
    assert chosen(forced="compiled") == ("single", 1)


@pytest.mark.parametrize(
    ("free", "wanted"),
    [(10_000, ("stacked", 8)), (799, ("stacked", 4)), (399, ("stacked", 2)), (199, ("single", 1))],
)
def test_a_stack_that_does_not_fit_is_not_chosen(clock: dict[str, Any], free: float, wanted: tuple[str, int]) -> None:
    clock["stack"] = lambda size: 0.1  # the larger the better
    clock["grows"] = 100.0
    assert chosen(free) == wanted


def test_a_forced_stack_that_does_not_fit_has_one_run(clock: dict[str, Any]) -> None:
    clock["grows"] = 100.0
    assert chosen(199, forced="stacked") == ("stacked", 1)


def test_a_size_that_would_not_fit_is_not_even_tried(clock: dict[str, Any]) -> None:
    tried: list[int] = []

    def seconds(size: int) -> float:
        tried.append(size)
        return 0.1

    clock["stack"] = seconds
    clock["grows"] = 100.0
    chosen(free=500)
    assert tried == [2, 4]


def test_measuring_for_real_chooses_a_stack_for_a_small_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "SECONDS", 0.02)
    monkeypatch.setattr(choosing, "SIZES", (2, 16))
    made = task(problem(dense))
    choice = choose(made, Program(made), HUGE)
    assert choice.executor == "stacked"
    assert choice.size == 16
    assert set(choice.seconds) == {"single", "stacked x 2", "stacked x 16"}
    assert all(0 < seconds < math.inf for seconds in choice.seconds.values())
