"""The peers: which of their optimizers run, and what each promises. One function a peer, because each imports its own.

Every case says what the peer itself documents: decay, defaults, paths. Where a peer documents another contract, the
check is exempt, with that reason. Weight decay is on in every case that has it, at the suite's usual value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ravine.testing import Array, Case, Decay, State, case_of
from testing.equations import equation

FOREACH: dict[str, dict[str, Any]] = {"loop": {"foreach": False}, "foreach": {"foreach": True}}
FUSED: dict[str, dict[str, Any]] = {**FOREACH, "fused": {"fused": True}}

BETAS = ((0.9, 0.5, 0.99), (0.6, 0.3, 0.8))


def decoupled(name: str) -> Callable[[list[Array], list[Array], State, Any], list[Array]]:
    """The equation of a rule with decoupled decay: the parameters shrink by 1 - lr weight_decay, then take the step."""

    def whole(params: list[Array], grads: list[Array], state: State, h: Any) -> list[Array]:
        shrunk = [w * (1 - h["lr"] * h["weight_decay"]) for w in params]
        return equation(name)(shrunk, grads, state, {**h, "weight_decay": 0.0})

    return whole


def ravine_() -> list[Case]:
    from testing.ours import CASES

    return CASES


def torch_() -> list[Case]:
    from torch import optim

    common: dict[str, Any] = {"module": "torch.optim", "tolerance": 1e-12}
    plain = {"dampening": None, "nesterov": None}
    coupled: dict[str, Any] = {**common, "decay": "coupled"}
    return [
        case_of(optim.SGD, hyper=plain, equation=equation("momentum"), paths=FUSED, state_bytes=4, **coupled),
        case_of(
            optim.SGD, name="SGD(nesterov)", hyper=plain, options={"nesterov": True}, equation=equation("nesterov"),
            paths=FUSED, state_bytes=4, **coupled,
        ),
        case_of(
            optim.Adam, hyper={"decoupled_weight_decay": None, "amsgrad": None}, equation=equation("adam"), paths=FUSED,
            state_bytes=8, **coupled,
        ),
        case_of(
            optim.AdamW, hyper={"amsgrad": None}, equation=equation("adamw"), paths=FUSED, state_bytes=8,
            decay="decoupled", **common,
        ),
        case_of(
            optim.NAdam, hyper={"decoupled_weight_decay": None}, equation=equation("nadam"), paths=FOREACH,
            state_bytes=8, **{**coupled, "tolerance": 1e-8},  # a factor of its step is float32
        ),
        case_of(
            optim.RMSprop, hyper={"momentum": None, "centered": None}, equation=equation("rmsprop"), paths=FOREACH,
            state_bytes=4, **coupled,
        ),
        case_of(
            optim.Adagrad, hyper={"lr_decay": None, "initial_accumulator_value": None}, equation=equation("adagrad"),
            paths=FUSED, state_bytes=4, **coupled,
        ),
    ]  # fmt: skip


def kozistr() -> list[Case]:
    import pytorch_optimizer as library

    def case(word: str, reference: str, decay: Decay, *off: str, foreach: bool = True, **fields: Any) -> Case:
        law = decoupled(reference) if decay == "decoupled" else equation(reference)
        absent = dict.fromkeys(("weight_decouple", "fixed_decay", "dampening", *off))
        return case_of(
            getattr(library, word),
            hyper={**absent, **fields.pop("hyper", {})},
            equation=law,
            decay=decay,
            paths=FOREACH if foreach else {"loop": {"foreach": False}},
            module="pytorch_optimizer",
            exempt={"graphs": "it compiles its own kernels (`compile=True`), not the step from outside"},
            **fields,
        )

    return [
        case("SGDW", "momentum", "decoupled", "nesterov"),
        case("SGDW", "nesterov", "decoupled", name="SGDW(nesterov)", options={"nesterov": True}),
        case("SignSGD", "signum", "decoupled"),
        case("Lion", "lion", "its own"),
        case("AggMo", "aggmo", "coupled", hyper={"betas": BETAS}),
        case("QHM", "qhm", "coupled", foreach=False),
        case("SGDP", "sgdp", "its own", foreach=False),
        case("AdamP", "adamp", "its own", foreach=False),
    ]


def jettify() -> list[Case]:
    import torch_optimizer as library

    exempt = {
        "graphs": "it is older than torch.compile",
        "example": "its examples are sketches with a model of the reader's",
    }

    def case(word: str, reference: str, decay: Decay, *off: str, **fields: Any) -> Case:
        law = decoupled(reference) if decay == "decoupled" else equation(reference)
        hyper = {**dict.fromkeys(("dampening", *off)), **fields.pop("hyper", {})}
        common: dict[str, Any] = {"module": "torch_optimizer", "exempt": exempt}
        return case_of(getattr(library, word), hyper=hyper, equation=law, decay=decay, **common, **fields)

    return [
        case("SGDW", "momentum", "decoupled", "nesterov"),
        case("SGDW", "nesterov", "decoupled", name="SGDW(nesterov)", options={"nesterov": True}),
        case("AggMo", "aggmo", "coupled", hyper={"betas": BETAS}),
        case("QHM", "qhm", "coupled"),
        case("SGDP", "sgdp", "its own"),
        case("AdamP", "adamp", "its own"),
    ]


def heavyball_() -> list[Case]:
    import heavyball as library

    library.utils.compile_mode = None  # eager, so that it is quick; the equations are the same
    eager = "import heavyball; heavyball.utils.compile_mode = None"
    exempt = {"graphs": "it compiles its own kernels, and its step is not meant to be compiled again"}
    # It says that it takes gradients away unless it is told to leave them.
    kept = {"consume_grad": False}
    common: dict[str, Any] = {"module": "heavyball", "decay": "decoupled", "exempt": exempt, "prelude": eager}

    def beta(params: list[Array], grads: list[Array], state: State, h: Any) -> list[Array]:
        return decoupled("momentum")(params, grads, state, {**h, "momentum": h["beta"]})

    def adamw(params: list[Array], grads: list[Array], state: State, h: Any) -> list[Array]:
        """Bias correction by weights (b - b^t) / (1 - b^t) of running means, eps as the least denominator."""
        t, new = h["step"], []
        b1, b2 = (1 - (1 - b) / (1 - b**t) for b in h["betas"])
        for i, (w, g) in enumerate(zip(params, grads, strict=True)):
            m = state["m", i] = b1 * state.get(("m", i), 0.0) + (1 - b1) * g
            s = state["s", i] = b2 * state.get(("s", i), 0.0) + (1 - b2) * g * g
            new.append(w * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * m / np.maximum(np.sqrt(s), h["eps"]))
        return new

    off = dict.fromkeys(
        ("cautious_weight_decay", "warmup_steps", "multi_tensor", "mars", "caution", "mars_gamma", "beta2_scale")
    )
    return [
        case_of(library.SGD, equation=beta, hyper=off, options=kept, **common),
        # eps is the least denominator, not a term of it: it acts where it is large.
        case_of(library.AdamW, equation=adamw, hyper={**off, "eps": (1e-8, 10.0)}, options=kept, **common),
    ]


def schedulefree_() -> list[Case]:
    import schedulefree as library

    reason = "it has no equation among the references: the average of its iterates is a method of its own"
    exempt = {
        "equation": reason,
        "schedulers": "it documents that it replaces schedules of the learning rate",
    }
    off = {"warmup_steps": None, "weight_lr_power": None, "r": None, "silent_sgd_phase": None}
    names = ("SGDScheduleFree", "AdamWScheduleFree")
    return [
        case_of(
            getattr(library, name), hyper=off, decay="its own", paths=FOREACH, begin="train", exempt=exempt,
            module="schedulefree",
        )
        for name in names
    ]  # fmt: skip


def optax_() -> list[Case]:
    from conformance.optax_optimizer import cases

    return cases()


PEERS: dict[str, tuple[str, Callable[[], list[Case]]]] = {
    "ravine": ("ravine", ravine_),
    "torch.optim": ("torch", torch_),
    "pytorch-optimizer": ("pytorch-optimizer", kozistr),
    "torch-optimizer": ("torch-optimizer", jettify),
    "heavyball": ("heavyball", heavyball_),
    "schedulefree": ("schedulefree", schedulefree_),
    "optax": ("optax", optax_),
}
"""Column of the table -> distribution whose version is named, and its cases."""


@dataclass(frozen=True)
class Documented:
    """A requirement that libraries do not meet, and say so; with no ``cases``, all their optimizers."""

    check: str
    peers: tuple[str, ...]
    sentence: str
    cases: tuple[str, ...] = ()

    def covers(self, case: str) -> bool:
        return not self.cases or case in self.cases


INHERITED = ("torch.optim", "pytorch-optimizer", "torch-optimizer", "heavyball", "schedulefree")

DOCUMENTED = [
    Documented(
        "permuted load",
        INHERITED,
        "`torch.optim.Optimizer` asks for parameters in an order that is the same in every run, and leaves it at that. "
        "State of a wrong shape is found, if at all, in the next step.",
    ),
    Documented(
        "named load",
        INHERITED,
        "`torch.optim.Optimizer.load_state_dict` says that names do not affect the loading, and has a hook for those "
        "who want it.",
    ),
    Documented(
        "equation",
        ("torch-optimizer",),
        "SGDP without `nesterov` projects the momentum buffer itself, as the code of its authors does (clovaai/AdamP, "
        "`perturb -= ...` on the buffer). Algorithm 1 of the paper, the reference here, keeps the buffer as it is.",
        ("SGDP",),
    ),
]
"""What is different by design. Each entry must still be needed, or the page is not made."""
