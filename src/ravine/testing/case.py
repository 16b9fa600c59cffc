"""The adapter through which the suite sees an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

Array: TypeAlias = NDArray[np.float64]
State: TypeAlias = dict[Any, Any]
Equation: TypeAlias = Callable[[list[Array], list[Array], State, Mapping[str, Any]], list[Array]]
"""One step of a rule: (parameters, gradients, state, hyper-parameters) -> parameters, all in float64.

``state`` is an empty dictionary before the first step. The hyper-parameters have the names of ``Case.hyper`` and
``Case.options``; ``"step"`` is the number of the step, from 1. Weight decay is part of the equation.
"""

Decay: TypeAlias = Literal["coupled", "decoupled", "its own", "none"]

USUAL: dict[str, tuple[Any, Any]] = {
    "lr": (0.1, 0.03),
    "momentum": (0.9, 0.6),
    "beta": (0.9, 0.6),
    "betas": ((0.9, 0.99), (0.6, 0.8)),
    "alpha": (0.9, 0.6),
    "nu": (0.7, 0.4),
    "eps": (1e-8, 0.1),
    "delta": (0.9, 0.01),
    "dampening": (0.0, 0.5),
    "weight_decay": (0.05, 0.3),
}
"""Legal pairs of values for the usual names. The learning rate is large, so that few steps show a difference."""


@dataclass(frozen=True)
class Randomness:
    """What is random in an optimizer: ``sample(seed, n)`` runs it and returns ``n`` numbers that it drew."""

    sample: Callable[[int, int], Array]
    mean: float
    variance: float


@dataclass(frozen=True)
class Case:
    """An optimizer and what it promises.

    Attributes:
        name: As it stands in test ids and tables.
        optimizer: The class, importable from ``module`` by its name.
        hyper: Every hyper-parameter by its name as an argument: the value that the checks use, and another legal value.
        options: Arguments that are always given and not perturbed.
        equation: The equation of the paper in float64, or None.
        twin: The case of torch's optimizer with the same rule, or None; it is given the hyper-parameters that it knows.
        tolerance: How far from the equation, and from the twin, float64 parameters may be, relative to their size.
        decay: How ``weight_decay`` acts: added to the gradient, multiplied into the parameters by 1 - lr weight_decay,
            in a way of the rule's own, or not at all.
        paths: Options that choose one path each. The others are compared with the first one.
        graphs: The largest number of graphs that a compiled step may have, or None if it is not meant to be compiled.
        state_bytes: Documented bytes of state per element of a float32 parameter, or None.
        couples: Whether a step of one parameter depends on the gradients of the others, such as by one norm.
        randomness: What is random, or None.
        illegal: A value out of range for each hyper-parameter that has a range.
        begin: A method that must be called once before the first step.
        module: From where a user imports the class.
        prelude: Statements that a reproduction needs beyond the imports of torch and of the class.
        exempt: Checks that do not apply, by name, each with the reason.
    """

    name: str
    optimizer: Callable[..., Optimizer]
    hyper: Mapping[str, tuple[Any, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    equation: Equation | None = None
    twin: Case | None = None
    tolerance: float = 1e-5
    decay: Decay = "none"
    paths: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"default": {}})
    graphs: int | None = 2
    state_bytes: float | None = None
    couples: bool = False
    randomness: Randomness | None = None
    illegal: Mapping[str, Any] = field(default_factory=dict)
    begin: str = ""
    module: str = ""
    prelude: str = ""
    exempt: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def usual(self) -> dict[str, Any]:
        """The values that the checks use."""
        return {name: pair[0] for name, pair in self.hyper.items()}

    @property
    def maximizes(self) -> bool:
        """Whether the optimizer takes ``maximize``."""
        return "maximize" in inspect.signature(self.optimizer).parameters

    def make(self, params: Any, **new: Any) -> Optimizer:
        """The optimizer over ``params`` with the usual values, or with others for the names in ``new``."""
        optimizer = self.optimizer(params, **{**self.options, **self.usual, **new})
        if self.begin:
            getattr(optimizer, self.begin)()
        return optimizer

    def script(self, *lines: str) -> str:
        """Lines of Python that run by themselves, with ``make`` as above."""
        word = self.optimizer.__qualname__
        given = {**self.options, **self.usual}
        begins = ["import functools, torch", f"from {self.module or self.optimizer.__module__} import {word}"]
        if self.begin:
            made = f"opt = {word}(params, **{{**{given}, **new}}); opt.{self.begin}(); return opt"
            make = f"def make(params, **new): {made}"
        else:
            make = f"make = functools.partial({word}{arguments(given)})"
        return "\n".join(["; ".join([*begins, *([self.prelude] if self.prelude else [])]), make, *lines])


def arguments(options: Mapping[str, Any]) -> str:
    """Options as further arguments of a call in a reproduction."""
    return "".join(f", {name}={value!r}" for name, value in options.items())


def case_of(optimizer: Callable[..., Optimizer], *, name: str = "", **fields: Any) -> Case:
    """A case read off the signature: every argument with a default number, pair of numbers or bool is perturbed.

    ``hyper`` in ``fields`` is added to what is read, and a value None takes a name out; ``options`` and the other
    fields are those of `Case`. Arguments that choose a path (``foreach``, ``fused``, ``capturable``,
    ``differentiable``) and ``maximize`` are no hyper-parameters: the first belong in ``paths``, and the checks try
    the last.
    """
    apart = {
        "self",
        "params",
        "foreach",
        "fused",
        "capturable",
        "differentiable",
        "maximize",
        *fields.get("options", ()),
    }
    hyper: dict[str, Any] = {}
    for key, parameter in inspect.signature(optimizer).parameters.items():
        if key in apart or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        pair = USUAL.get(key) or perturbed(parameter.default)
        if pair is not None:
            hyper[key] = pair
    hyper = {key: pair for key, pair in {**hyper, **fields.pop("hyper", {})}.items() if pair is not None}
    return Case(name or optimizer.__name__, optimizer, hyper, **fields)


def perturbed(default: object) -> tuple[Any, Any] | None:
    """The default and another value that is likely to be legal; None if there is no telling."""
    match default:
        case bool():
            return default, not default
        case int():
            return default, default + 1
        case float():
            return default, default / 2 if default else 0.1
        case tuple() if default and all(isinstance(value, float) for value in default):
            return default, tuple(value / 2 for value in default)
        case _:
            return None
