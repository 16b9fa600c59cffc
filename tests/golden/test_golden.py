"""Every drop-in optimizer, and the fleet, goes along the trajectories that independent implementations agree upon."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden.references import Array
from golden.trajectories import (
    CHANGES,
    SIZES,
    STEPS,
    WEIGHT_DECAY,
    Case,
    gradients_of,
    inputs,
    join,
    load,
    names,
    split,
    trajectory,
)
from ravine import optim
from ravine.fleet.stacked import Program
from ravine.fleet.task import Task
from ravine.optim import RuleOptimizer
from ravine.optim.groups import unpacked
from ravine.problems import Problem, prepare

TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6}  # of the largest element that a tensor ever has
KINDS = ("given", "function", "decayed")

OPTIMIZERS: dict[str, Callable[..., RuleOptimizer]] = {
    "sgd": optim.SGD,
    "momentum": optim.Momentum,
    "nesterov": optim.Nesterov,
    "ema-momentum": partial(optim.Momentum, form="ema"),
    "ema-nesterov": partial(optim.Nesterov, form="ema"),
    "sutskever-momentum": partial(optim.Momentum, form="sutskever"),
    "sutskever-nesterov": partial(optim.Nesterov, form="sutskever"),
    "qhm": optim.QHM,
    "aggmo": optim.AggMo,
    "early-momentum": optim.EarlyMomentum,
    "random-scaling": optim.RandomScaling,
    "sngm": optim.SNGM,
    "signsgd": optim.SignSGD,
    "signum": optim.Signum,
    "lion": optim.Lion,
    "adagrad": optim.AdaGrad,
    "rmsprop": optim.RMSProp,
    "adam": optim.Adam,
    "adam-uncorrected": partial(optim.Adam, bias_correction=False),
    "adamw": optim.AdamW,
    "nadam": optim.NAdam,
    "adamomentum": optim.AdaMomentum,
    "sgdf-2024": partial(optim.SGDF, gain="K"),
    "sgdf-2025": partial(optim.SGDF, gain="2K"),
    "sgdf-2026": partial(optim.SGDF, gain="sqrt(K)"),
    "sgdp": optim.SGDP,
    "sgdp-nesterov": partial(optim.SGDP, nesterov=True),
    "adamp": optim.AdamP,
    "adamp-nesterov": partial(optim.AdamP, nesterov=True),
}

golden = cache(load)


def test_every_file_is_tested_and_every_optimizer_has_one() -> None:
    assert names() == sorted(OPTIMIZERS)
    classes = {made.func if isinstance(made, partial) else made for made in OPTIMIZERS.values()}
    public = {getattr(optim, name) for name in optim.__all__}
    known = {one for one in public if isinstance(one, type) and issubclass(one, RuleOptimizer)}
    assert classes == known - {RuleOptimizer}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_files_say_what_the_references_do(name: str) -> None:
    whole = golden(name)
    for kind in whole.case.kinds:
        parameters, states = trajectory(whole.case, kind)
        alike(parameters, whole.parameters[kind], 1e-14)
        for slot, value in states.items():
            np.testing.assert_allclose(value, whole.states[kind][slot], rtol=1e-12, atol=1e-14)


# The drop-in optimizers.


def hyper_of(case: Case) -> dict[str, Any]:
    """The hyper-parameters of the class; which class it is says the others."""
    chosen_by_class = {"nesterov", "gain", "power"}
    return {name: values for name, values in case.hyper.items() if name not in chosen_by_class}


def words(case: Case, kind: str, value: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """Arguments of the constructor, each hyper-parameter being what ``value`` makes of its values at all steps."""
    given = {name: value(values) for name, values in hyper_of(case).items() if name != "betas"}
    if "betas" in case.hyper:
        given["betas"] = tuple(value(list(values)) for values in zip(*case.hyper["betas"], strict=True))
    decay = {"weight_decay": WEIGHT_DECAY if kind == "decayed" else 0.0}
    return {**given, **decay, "maximize": kind == "decayed"}


def schedule(values: list[Any]) -> Any:
    """Values at all steps as a schedule, or as the number that they are."""
    return values[0] if values.count(values[0]) == len(values) else values.__getitem__


def edited(group: dict[str, Any], case: Case, t: int) -> None:
    """What a user writes into a group before step t, from 0: what has changed since the last."""
    for name, values in hyper_of(case).items():
        if values[t] != values[t - 1]:
            group[name] = tuple(values[t]) if name == "betas" else values[t]


def run(name: str, kind: str, dtype: torch.dtype, scheduled: bool) -> tuple[Array, list[dict[str, Any]]]:
    """The parameters of the optimizer after each step, and its last state for each parameter."""
    case, gradients = golden(name).case, gradients_of(kind)
    params = [torch.tensor(w, dtype=dtype) for w in split(inputs()[0])]
    value = schedule if scheduled else lambda values: values[0]
    optimizer = OPTIMIZERS[name](params, **words(case, kind, value))
    passed = []
    for t in range(STEPS):
        if t and not scheduled:
            edited(optimizer.param_groups[0], case, t)
        for param, g in zip(params, gradients(t, [w.double().numpy() for w in params]), strict=True):
            param.grad = torch.tensor(g, dtype=dtype)
        optimizer.step()
        passed.append(join([w.double().numpy() for w in params]))
    return np.stack(passed), [optimizer.state[param] for param in params]


def alike(found: Array, expected: Array, tolerance: float) -> None:
    """Two trajectories, up to a part of the largest element that each tensor ever has; says where they part."""
    largest = [np.abs(part).max() for part in np.split(expected, np.cumsum(SIZES)[:-1], axis=1)]
    for t, (here, there) in enumerate(zip(found, expected, strict=True)):
        for number, (ours, theirs) in enumerate(zip(split(here), split(there), strict=True)):
            where, allowed = f"parameter {number} after step {t}", tolerance * largest[number]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=allowed, err_msg=where)


def alike_in_state(found: list[dict[str, Any]], expected: Mapping[str, Array], tolerance: float) -> None:
    """The last states, by name. The reference of early momentum keeps the last parameters, no velocity."""
    for slot in expected.keys() - {"previous"}:
        scalar = expected[slot].size == len(found)
        ours = [np.asarray(state[slot].double().numpy()) for state in found]
        theirs = list(expected[slot]) if scalar else split(expected[slot])
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=slot)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_schedules(name: str, kind: str, dtype: torch.dtype) -> None:
    parameters, state = run(name, kind, dtype, scheduled=True)
    alike(parameters, golden(name).parameters[kind], TOLERANCE[dtype])
    alike_in_state(state, golden(name).states[kind], 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "sutskever-nesterov"])
def test_with_edited_groups(name: str, kind: str) -> None:
    parameters, state = run(name, kind, torch.float64, scheduled=False)
    alike(parameters, golden(name).parameters[kind], TOLERANCE[torch.float64])
    alike_in_state(state, golden(name).states[kind], 10 * TOLERANCE[torch.float64])


def test_an_edited_momentum_was_not_foreseen() -> None:
    # The step before an edit looks ahead with the momentum it knows, so the trajectory is another one from there.
    parameters, _ = run("sutskever-nesterov", "edited", torch.float64, scheduled=False)
    whole = golden("sutskever-nesterov")
    alike(parameters, whole.parameters["edited"], TOLERANCE[torch.float64])
    foreseen = np.abs(parameters - whole.parameters["function"]).max(axis=1)
    before = CHANGES[0] - 1
    assert foreseen[:before].max() < 1e-12 < 1e-3 < foreseen[before]


# The fleet: the gradient of each run comes in as its data, for the loss <g, w>.


class Held(nn.Module):
    """Parameters of all shapes, at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.held = nn.ParameterList(torch.tensor(w) for w in split(inputs()[0]))


def product(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """The loss whose gradient is ``batch["g"]``, (1, 18)."""
    flat = torch.cat([w.flatten() for w in model.held])
    return (batch["g"][0] * flat).sum()


@cache
def program(kind: str) -> Program:
    """The problem, traced once for all rules."""
    problem = Problem(
        name="golden",
        model=Held,
        batch_loss=product,
        train={"g": torch.tensor(inputs()[1])},
        batch_size=1,
        steps=STEPS,
        dtype=torch.float64,
        weight_decay=WEIGHT_DECAY if kind == "decayed" else 0.0,
    )
    return Program(Task(problem, prepare(problem), 0, torch.device("cpu")))


def another(case: Case) -> Case:
    """The same rule with other hyper-parameters: half the learning rates, and all values in the other order."""
    turned = {name: values[::-1] for name, values in case.hyper.items()}
    return Case(case.reference, {**turned, "lr": [lr / 2 for lr in turned["lr"]]})


@pytest.mark.parametrize("kind", ["given", "decayed"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_the_fleet(name: str, kind: str) -> None:
    cases = [golden(name).case, another(golden(name).case)]
    optimizer = OPTIMIZERS[name]([torch.zeros(1)], **words(cases[0], kind, lambda values: values[0]))
    rule = optimizer.rule_of(optimizer.param_groups[0])
    gradients = gradients_of(kind)
    params = [torch.stack([w, w]) for w in program(kind).start.parameters.values()]
    slots = [torch.zeros_like(w) for _ in rule.slots for w in params]
    scalars = {scalar: torch.full((2,), value, dtype=torch.float64) for scalar, value in rule.scalars.items()}
    wanted = [*rule.hyper, *(f"next_{one}" for one in rule.foresees), *(["weight_decay"] if kind == "decayed" else [])]
    passed: list[list[Array]] = [[], []]
    for t in range(STEPS):
        of_runs = [unpacked(case.at(t, kind)) for case in cases]
        hyper = {one: torch.tensor([values[one] for values in of_runs], dtype=torch.float64) for one in wanted}
        hyper |= {**scalars, "step": torch.tensor(t + 1.0, dtype=torch.float64)}
        found = [join(gradients(t, run_of(params, number))) for number in range(2)]
        batch = torch.tensor(np.stack(found)).view(2, 1, -1) * (-1 if kind == "decayed" else 1)
        sections = [params, slots, list(hyper.values()), [], [], [batch]]
        update, _ = program(kind).update(rule, False, sections, list(hyper))
        update(*(tensor for section in sections for tensor in section))
        for number in range(2):
            passed[number].append(join(run_of(params, number)))
    alike(np.stack(passed[0]), golden(name).parameters[kind], TOLERANCE[torch.float64])
    alike(np.stack(passed[1]), trajectory(cases[1], kind)[0], TOLERANCE[torch.float64])


def run_of(params: Sequence[Tensor], number: int) -> list[Array]:
    """The parameters of one run of a fleet."""
    return [w[number].numpy() for w in params]
