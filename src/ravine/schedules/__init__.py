"""A hyper-parameter as a function of the step, counted from 0.

A schedule is any pure function ``step -> float``, for any hyper-parameter of any optimizer of `ravine.optim`. Those
here are frozen dataclasses: they print, compare, pickle and are stored in checkpoints (`to_dict`, `from_dict`).

>>> from ravine.schedules import Cosine, warm_up
>>> lr = warm_up(0.01, 100, Cosine(0.1, 0.0, 900))
>>> [round(lr(step), 3) for step in (0, 50, 100, 550, 1000)]
[0.01, 0.055, 0.1, 0.05, 0.0]
"""

from ravine.schedules.base import Schedule, Setting, from_dict, register, to_dict
from ravine.schedules.batches import ScheduledBatchSampler
from ravine.schedules.forms import (
    FORMS,
    EMALearningRate,
    EMAToHeavyBall,
    Form,
    HeavyBallToEMA,
    HeavyBallToSutskever,
    SutskeverToHeavyBall,
    convert_settings,
)
from ravine.schedules.momentum import (
    EffectiveLearningRate,
    NesterovMomentum,
    StronglyConvexMomentum,
    SutskeverMomentum,
    TwoThirdsMomentum,
    early_momentum,
)
from ravine.schedules.noise import ExponentialScale, NoiseDecay, degree_of_smoothing
from ravine.schedules.shapes import Cosine, Piecewise, Polynomial, StepDecay, one_cycle, warm_up

__all__ = [
    "FORMS",
    "Cosine",
    "EMALearningRate",
    "EMAToHeavyBall",
    "EffectiveLearningRate",
    "ExponentialScale",
    "Form",
    "HeavyBallToEMA",
    "HeavyBallToSutskever",
    "NesterovMomentum",
    "NoiseDecay",
    "Piecewise",
    "Polynomial",
    "Schedule",
    "ScheduledBatchSampler",
    "Setting",
    "StepDecay",
    "StronglyConvexMomentum",
    "SutskeverMomentum",
    "SutskeverToHeavyBall",
    "TwoThirdsMomentum",
    "convert_settings",
    "degree_of_smoothing",
    "early_momentum",
    "from_dict",
    "one_cycle",
    "register",
    "to_dict",
    "warm_up",
]
