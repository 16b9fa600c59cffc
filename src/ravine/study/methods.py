"""The methods that a study can compare: their rules, what is searched, what stays fixed, and which contains which.

A learning rate and a momentum are searched for every method that has them, by the same rules. What a method holds
fixed is printed as a caveat, because a comparison is only as fair as what it left untuned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal, TypeAlias

from ravine import rules
from ravine.errors import UserError
from ravine.fleet.second_order import SECOND_ORDER
from ravine.rules.base import Hyper as Range

Hyper: TypeAlias = tuple[tuple[str, float], ...]  # sorted by name, so that equal settings are equal tuples


@dataclass(frozen=True)
class Axis:
    """A searched hyper-parameter.

    kind "lr": searched as log(value), in a range that is probed; `anchor` is None. kind "complement": searched as
    log(1 - value); `anchor` is the value while the learning rate is probed and in the equal-dimension comparison.
    """

    name: str
    kind: Literal["lr", "complement"]
    anchor: float | None = None


@dataclass(frozen=True)
class Face:
    """The method that this one contains: at `axis` = `value` the two run identically, with all else equal."""

    method: str
    axis: str
    value: float


@dataclass(frozen=True)
class Method:
    """A rule, or a Hessian-free optimizer, with its search space and its cost per step in gradient equivalents.

    A step of a study is one gradient on a batch, so a Hessian-free optimizer takes many for one of its own.
    `axes`: the learning rate first; `defaults`: the untuned setting of the searched hyper-parameters; `fixed`: those
    that are never searched.
    """

    name: str
    rule: str
    axes: tuple[Axis, ...]
    defaults: Hyper
    fixed: Mapping[str, float] = field(default_factory=dict, hash=False)
    face: Face | None = None
    cost: float = 1.0

    @property
    def second_order(self) -> bool:
        """Whether it is a Hessian-free optimizer."""
        return self.rule in SECOND_ORDER

    @property
    def hyper(self) -> Mapping[str, Range]:
        """Every hyper-parameter with its range."""
        return SECOND_ORDER[self.rule].hyper if self.second_order else rules.get(self.rule).hyper

    @property
    def documented(self) -> type:
        """The class whose docstring says what it does."""
        return SECOND_ORDER[self.rule].optimizer if self.second_order else type(rules.get(self.rule))

    @property
    def anchors(self) -> dict[str, float]:
        """What stays put while only the learning rate moves."""
        return {axis.name: axis.anchor for axis in self.axes if axis.anchor is not None}

    @property
    def caveats(self) -> tuple[str, ...]:
        """One sentence per hyper-parameter that is held fixed, and what a learning rate is to a Hessian-free method."""
        held = [f"{self.name}: {name} is held at {value:g}, not tuned." for name, value in self.fixed.items()]
        meant = [f"{self.name}: its lr is 1 / damping at the start; a step costs it many gradients, all counted."]
        return (*held, *(meant if self.second_order else ()))


_LR = Axis("lr", "lr")
_MOMENTUM = Axis("momentum", "complement", anchor=0.9)
_BETA1 = Axis("beta1", "complement", anchor=0.9)
_CONTAINS_SGD = Face("sgd", "momentum", 0.0)
_MOMENTA = (_LR, _MOMENTUM)
_BETAS = (_LR, _BETA1)
_HESSIAN_FREE = {"cg_steps": 20.0, "preconditioner_power": 0.75, "step_size": 1.0}
_ADAM = {"beta2": 0.999, "eps": 1e-8}


def _untuned(**values: float) -> Hyper:
    return tuple(sorted(values.items()))


# Defaults are torch.optim's, with the usual momentum 0.9. The EMA form multiplies a gradient by 1 - momentum, so its
# learning rate is 10 times that of heavy ball for the same steps. Sign methods: Adam's, as both step by about lr.
# Where torch has no such rule, they are those of the paper or of the rule.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("sgd", "sgd", (_LR,), _untuned(lr=1e-3)),
        Method("momentum", "momentum", _MOMENTA, _untuned(lr=1e-3, momentum=0.9), face=_CONTAINS_SGD),
        Method("nesterov", "nesterov", _MOMENTA, _untuned(lr=1e-3, momentum=0.9), face=_CONTAINS_SGD),
        Method("ema-momentum", "ema-momentum", _MOMENTA, _untuned(lr=1e-2, momentum=0.9), face=_CONTAINS_SGD),
        Method("ema-nesterov", "ema-nesterov", _MOMENTA, _untuned(lr=1e-2, momentum=0.9), face=_CONTAINS_SGD),
        *(
            Method(name, name, _MOMENTA, _untuned(lr=1e-3, momentum=0.9), face=_CONTAINS_SGD)
            for name in ("sutskever-momentum", "sutskever-nesterov")
        ),
        Method(
            "early-momentum",
            "early-momentum",
            _MOMENTA,
            _untuned(lr=1e-3, momentum=0.9),
            fixed={"until": 200.0},
            face=_CONTAINS_SGD,
        ),
        Method("qhm", "qhm", _MOMENTA, _untuned(lr=1e-2, momentum=0.999), fixed={"nu": 0.7}, face=_CONTAINS_SGD),
        Method("aggmo", "aggmo", (_LR,), _untuned(lr=1e-3), fixed={"beta1": 0.0, "beta2": 0.9, "beta3": 0.99}),
        Method("sngm", "sngm", _MOMENTA, _untuned(lr=0.1, momentum=0.9)),
        Method("random-scaling", "random-scaling", _MOMENTA, _untuned(lr=1e-2, momentum=0.9)),
        Method("sgdf", "sgdf", _BETAS, _untuned(lr=0.5, beta1=0.9), fixed=_ADAM),
        Method(
            "sgdp",
            "sgdp",
            _MOMENTA,
            _untuned(lr=1e-3, momentum=0.9),
            fixed={"delta": 0.1, "wd_ratio": 0.1, "eps": 1e-8},
        ),
        Method("adagrad", "adagrad", (_LR,), _untuned(lr=1e-2), fixed={"eps": 1e-10}),
        Method("rmsprop", "rmsprop", (_LR,), _untuned(lr=1e-2), fixed={"alpha": 0.99, "eps": 1e-8}),
        Method("signsgd", "signsgd", (_LR,), _untuned(lr=1e-3)),
        Method("signum", "signum", _MOMENTA, _untuned(lr=1e-3, momentum=0.9)),
        Method("lion", "lion", _BETAS, _untuned(lr=1e-4, beta1=0.9), fixed={"beta2": 0.99}),
        Method("adam", "adam", _BETAS, _untuned(lr=1e-3, beta1=0.9), fixed=_ADAM),
        Method("adamw", "adamw", _BETAS, _untuned(lr=1e-3, beta1=0.9), fixed=_ADAM),
        Method("nadam", "nadam", _BETAS, _untuned(lr=2e-3, beta1=0.9), fixed={**_ADAM, "momentum_decay": 4e-3}),
        Method("adamomentum", "adamomentum", _BETAS, _untuned(lr=1e-3, beta1=0.9), fixed=_ADAM),
        Method("adamp", "adamp", _BETAS, _untuned(lr=1e-3, beta1=0.9), fixed={**_ADAM, "delta": 0.1, "wd_ratio": 0.1}),
        Method(
            "hessian-free",
            "hessian-free",
            (_LR,),
            _untuned(lr=1.0),
            fixed={**_HESSIAN_FREE, "damping_factor": 1.5, "cg_decay": 0.95},
        ),
        Method(
            "momentum-hessian-free",
            "momentum-hessian-free",
            _MOMENTA,
            _untuned(lr=1.0, momentum=0.95),
            fixed={**_HESSIAN_FREE, "damping_factor": 1.0},
        ),
    )
}


def get(name: str) -> Method:
    """The method of this name. Raises UserError with the nearest name if there is none."""
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name.lower(), METHODS, n=1, cutoff=0.5)
    mend = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(METHODS)}."
    raise UserError(f"There is no method {name!r}: {mend}")
