"""What holds for every schedule of the library: pure, frozen, stored and restored, no field without effect."""

import copy
import doctest
import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

import ravine.schedules
from ravine.errors import UserError
from ravine.schedules import (
    Cosine,
    EffectiveLearningRate,
    EMALearningRate,
    EMAToHeavyBall,
    ExponentialScale,
    HeavyBallToEMA,
    HeavyBallToSutskever,
    NesterovMomentum,
    NoiseDecay,
    Piecewise,
    Polynomial,
    Schedule,
    StepDecay,
    StronglyConvexMomentum,
    SutskeverMomentum,
    SutskeverToHeavyBall,
    TwoThirdsMomentum,
    base,
    forms,
    from_dict,
    one_cycle,
    register,
    to_dict,
    warm_up,
)

LR, MU = Cosine(0.3, 0.1, 20), SutskeverMomentum(0.9, period=5)
# Each with another value for every field.
TABLE: list[tuple[Any, dict[str, Any]]] = [
    (Piecewise((0.1, LR, 0.3), (4, 8)), {"parts": (0.2, LR, 0.3), "starts": (4, 9)}),
    (Polynomial(1.0, 0.0, 20, 2.0), {"start": 2.0, "end": 0.1, "steps": 30, "power": 1.0}),
    (Cosine(1.0, 0.0, 20), {"start": 2.0, "end": 0.1, "steps": 30}),
    (StepDecay(1.0, 0.1, (3, 9)), {"start": 2.0, "factor": 0.5, "milestones": (3,)}),
    (
        SutskeverMomentum(0.95, 5, 50, 0.8, 10),
        {"highest": 0.85, "period": 6, "steps": 45, "low": 0.7, "low_steps": 9},
    ),
    (NesterovMomentum(), {}),
    (StronglyConvexMomentum(10.0), {"condition": 20.0}),
    (TwoThirdsMomentum(Cosine(0.1, 0.0, 20), 2.0, 0.9), {"lr": 0.1, "scale": 3.0, "highest": 0.8}),
    (EffectiveLearningRate(LR, MU), {"effective": 0.1, "momentum": 0.5}),
    (ExponentialScale(1), {"seed": 2}),
    (
        NoiseDecay("momentum+batch_size", 8, 5, 0.1, 0.9, 64, 20.0, 2.0, 0.9, 1.0, "momentum"),
        {
            **{"by": "momentum", "stages": 9, "stage_steps": 6, "start_momentum": 0.8, "start_batch_size": 32},
            **{"variance": 30.0, "bound": 1.0, "power": 0.5, "balance": 0.5, "gives": "batch_size"},
        },
    ),
    (NoiseDecay("lr", 8, 5, 0.1, 0.9, 64), {"start_lr": 0.2}),
    (HeavyBallToEMA(MU, 2), {"momentum": 0.5, "start": 7}),
    (EMAToHeavyBall(MU, 2), {"momentum": 0.5, "start": 6}),
    (HeavyBallToSutskever(MU, LR, 2), {"momentum": 0.5, "lr": 0.1, "start": 6}),
    (SutskeverToHeavyBall(MU, LR, 2), {"momentum": 0.5, "lr": 0.1, "start": 6}),
    (EMALearningRate(LR, MU), {"lr": 0.1, "momentum": 0.5}),
]
SCHEDULES = [pytest.param(schedule, id=type(schedule).__name__) for schedule, _ in TABLE]
every = pytest.mark.parametrize("schedule", SCHEDULES)


def values(schedule: Schedule) -> list[float]:
    return [schedule(step) for step in range(60)]


def test_the_table_holds_every_schedule() -> None:
    assert {type(schedule).__name__ for schedule, _ in TABLE} == set(base.KNOWN)
    assert set(base.KNOWN) <= set(ravine.schedules.__all__)


@every
def test_it_is_frozen_and_a_function_of_the_step_alone(schedule: Any) -> None:
    forward = values(schedule)
    assert [schedule(step) for step in reversed(range(60))] == pytest.approx(forward[::-1], rel=1e-13)
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in forward)
    assert values(copy.deepcopy(schedule)) == forward
    assert hash(schedule) == hash(copy.deepcopy(schedule))
    with pytest.raises(FrozenInstanceError):
        schedule.start = 1


@every
def test_it_is_stored_and_restored(schedule: Any) -> None:
    plain = to_dict(schedule)
    assert plain is not None
    assert plain["schedule"] == type(schedule).__name__
    for again in (from_dict(plain), from_dict(json.loads(json.dumps(plain))), pickle.loads(pickle.dumps(schedule))):
        assert again == schedule
        assert values(again) == values(schedule)


def changes() -> Iterator[Any]:
    for schedule, others in TABLE:
        for name, value in others.items():
            yield pytest.param(schedule, name, value, id=f"{type(schedule).__name__}.{name}")


@pytest.mark.parametrize(("schedule", "name", "value"), list(changes()))
def test_every_field_matters(schedule: Any, name: str, value: Any) -> None:
    assert values(replace(schedule, **{name: value})) != pytest.approx(values(schedule), rel=1e-6)


def test_the_table_changes_every_field() -> None:
    tried: dict[str, set[str]] = {}
    for schedule, others in TABLE:
        tried.setdefault(type(schedule).__name__, set()).update(others)
    assert tried == {name: {field.name for field in fields(cls) if field.init} for name, cls in base.KNOWN.items()}


def test_nested_schedules_are_stored() -> None:
    lr = warm_up(0.0, 5, one_cycle(0.1, 1.0, 0.1, 20))
    assert to_dict(lr) == {
        "schedule": "Piecewise",
        "parts": [
            {"schedule": "Polynomial", "start": 0.0, "end": 0.1, "steps": 5, "power": 1.0},
            {
                "schedule": "Piecewise",
                "parts": [
                    {"schedule": "Cosine", "start": 0.1, "end": 1.0, "steps": 5},
                    {"schedule": "Cosine", "start": 1.0, "end": 0.1, "steps": 14},
                ],
                "starts": [5],
            },
        ],
        "starts": [5],
    }


def test_numbers_of_numpy_become_plain() -> None:
    plain = to_dict(Cosine(np.float32(0.5), np.float64(0.0), np.int64(7)))  # type: ignore[arg-type]
    assert plain is not None
    assert [type(value) for value in plain.values()] == [str, float, float, int]


def test_a_function_of_one_s_own_is_not_stored() -> None:
    assert to_dict(lambda step: 0.1) is None
    assert to_dict(Piecewise((0.1, lambda step: 0.2), (3,))) is None
    assert to_dict(EffectiveLearningRate(0.1, EMAToHeavyBall(lambda step: 0.2))) is None


def test_a_class_of_one_s_own_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "KNOWN", dict(base.KNOWN))

    @dataclass(frozen=True)
    class Halving:
        start: float

        def __call__(self, step: int) -> float:
            return math.ldexp(self.start, -step)

    assert to_dict(Halving(1.0)) is None
    register(Halving)
    assert from_dict({"schedule": "Halving", "start": 1.0}) == Halving(1.0)
    with pytest.raises(UserError, match="a schedule Cosine already"):
        register(dataclass(frozen=True)(type("Cosine", (), {})))


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"schedule": "Cosin", "start": 1.0}, "no schedule 'Cosin': did you mean 'Cosine'"),
        ({"start": 1.0}, "no schedule None"),
        ({"schedule": "Cosine", "start": 1.0, "end": 0.0}, "differs in 'steps'"),
        ({"schedule": "Cosine", "start": 1.0, "end": 0.0, "steps": 3, "stop": 1}, "differs in 'stop'"),
        ({"schedule": "Cosine", "start": 1.0, "end": 0.0, "steps": 0}, "number of steps is 0"),
        ({"schedule": "Cosine", "start": "1", "end": 0.0, "steps": 3}, "start is '1', and must be a number"),
        ({"schedule": "HeavyBallToEMA", "momentum": 0.5, "start": 0, "_sums": {}}, "no schedule None"),
        ({"schedule": "HeavyBallToEMA", "momentum": 0.5, "start": 0, "_sums": 1}, "differs in '_sums'"),
    ],
)
def test_what_cannot_be_restored(plain: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_dict(plain)


@pytest.mark.parametrize("module", [ravine.schedules, forms])
def test_the_examples(module: Any) -> None:
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0
