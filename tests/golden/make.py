"""Write the golden trajectories: ``PYTHONPATH=tests python tests/golden/make.py``.

What is written comes from `references`. It is written only if everybody else who has the rule agrees with it to 1e-12:
optax, torch.optim, the authors' `adamp` and torch_optimizer. `CHECKS` says how they were asked, and where they differ
by definition, so that they were asked another question. It needs an environment of its own, with optax, torch, adamp
and torch_optimizer; the files say which versions have agreed. NumPy is all that reading them needs.
"""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeAlias

import adamp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch_optimizer

from golden.references import Array, Hyper, cosines
from golden.trajectories import (
    CHANGES,
    DATA,
    SIZES,
    STEPS,
    Case,
    gradients_of,
    inputs,
    join,
    slopes,
    split,
    trajectory,
    turned,
)

jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)  # else torch's NAdam keeps its product of momenta in float32

TOLERANCE = 1e-12  # of the largest element that a tensor has at a step
OTHERS = ("optax", "jax", "torch", "adamp", "torch_optimizer")


# The inputs.


def make_inputs() -> None:
    """Start and given gradients: of all sizes, exact zeros (sign, 0 / eps), one beside eps, two steps of nothing."""
    generator = np.random.default_rng(20130616)
    start = generator.standard_normal(sum(SIZES))
    gradients = generator.standard_normal((STEPS, len(start))) * 10 ** generator.uniform(-2, 1, len(start))
    gradients[generator.random(gradients.shape) < 0.1] = 0.0
    gradients[:, 2] = 0.0
    gradients[:, 15] *= 1e-8
    gradients[[4, 17]] = 0.0
    np.savez(DATA / "inputs.npz", start=start, gradients=gradients)


# The cases.


def changing(*values: Any) -> list[Any]:
    """A value up to the first change, one up to the second, and one to the end and a step beyond."""
    ends = np.diff([0, *CHANGES, STEPS + 1])
    return [value for value, times in zip(values, ends, strict=True) for _ in range(times)]


def case(reference: str, lr: float, **hyper: Any) -> Case:
    """The learning rate changes in every case; a list has a value for each step, anything else stays."""
    values = {name: value if isinstance(value, list) else [value] * (STEPS + 1) for name, value in hyper.items()}
    return Case(reference, {"lr": changing(lr, 0.3 * lr, 2 * lr), **values})


MOMENTUM = changing(0.9, 0.5, 0.95)
BETAS = changing((0.9, 0.999), (0.8, 0.99), (0.95, 0.995))
SCALES = np.random.default_rng(2405).exponential(size=STEPS + 1).tolist()
PROJECTION = {"eps": 1e-8, "delta": 0.1, "wd_ratio": 0.1}

CASES = {
    "sgd": case("sgd", 0.1),
    "momentum": case("momentum", 0.05, momentum=MOMENTUM),
    "nesterov": case("nesterov", 0.05, momentum=MOMENTUM),
    "ema-momentum": case("ema-momentum", 0.3, momentum=MOMENTUM),
    "ema-nesterov": case("ema-nesterov", 0.3, momentum=MOMENTUM),
    "sutskever-momentum": case("sutskever-momentum", 0.05, momentum=MOMENTUM),
    "sutskever-nesterov": case("sutskever-nesterov", 0.05, momentum=MOMENTUM),
    "qhm": case("qhm", 0.3, momentum=MOMENTUM, nu=changing(0.7, 0.9, 0.4)),
    "aggmo": case("aggmo", 0.05, betas=changing((0.0, 0.9, 0.99), (0.5, 0.8, 0.95), (0.0, 0.95, 0.9))),
    "early-momentum": case("early-momentum", 0.05, momentum=MOMENTUM, until=10),
    "random-scaling": case("random-scaling", 0.2, momentum=MOMENTUM, scale=SCALES),
    "sngm": case("sngm", 0.1, momentum=MOMENTUM),
    "signsgd": case("signsgd", 0.03),
    "signum": case("signum", 0.03, momentum=MOMENTUM),
    "lion": case("lion", 0.03, betas=changing((0.9, 0.99), (0.8, 0.9), (0.95, 0.98))),
    "adagrad": case("adagrad", 0.1, eps=1e-10),
    "rmsprop": case("rmsprop", 0.02, alpha=changing(0.99, 0.9, 0.95), eps=1e-8),
    "adam": case("adam", 0.05, betas=BETAS, eps=1e-8),
    "adam-uncorrected": case("adam-uncorrected", 0.02, betas=BETAS, eps=1e-8),
    "adamw": case("adamw", 0.05, betas=BETAS, eps=1e-8),
    "nadam": case("nadam", 0.05, betas=BETAS, eps=1e-8, momentum_decay=4e-3),
    "adamomentum": case("adamomentum", 0.02, betas=BETAS, eps=1e-8),
    "sgdf-2024": case("sgdf", 0.3, betas=BETAS, eps=1e-8, gain=1.0, power=1.0),
    "sgdf-2025": case("sgdf", 0.3, betas=BETAS, eps=1e-8, gain=2.0, power=1.0),
    "sgdf-2026": case("sgdf", 0.3, betas=BETAS, eps=1e-8, gain=1.0, power=0.5),
    "sgdp": case("sgdp", 0.1, momentum=MOMENTUM, nesterov=False, **PROJECTION),
    "sgdp-nesterov": case("sgdp", 0.1, momentum=MOMENTUM, nesterov=True, **PROJECTION),
    "adamp": case("adamp", 0.05, betas=BETAS, nesterov=False, **PROJECTION),
    "adamp-nesterov": case("adamp", 0.05, betas=BETAS, nesterov=True, **PROJECTION),
}


# How the others are asked.

Ask: TypeAlias = Callable[[Case, str], Array]
"""(case, kind) -> parameters after each step (STEPS, 18)."""


def by_optax(build: Callable[[Hyper], Any], coupled: bool = True) -> Ask:
    """A transformation made anew at every step with its numbers, the state of the last one kept."""

    def ask(case: Case, kind: str) -> Array:
        params, gradients, state, passed = [jnp.asarray(w) for w in split(inputs()[0])], gradients_of(kind), None, []
        for t in range(STEPS):
            h = {"weight_decay": 0.0, **case.at(t, kind)}
            transformation = build(h)
            if coupled:
                transformation = optax.chain(optax.add_decayed_weights(h["weight_decay"]), transformation)
            found = [jnp.asarray(g) for g in gradients(t, [np.asarray(w) for w in params])]
            found = [-g for g in found] if kind == "decayed" else found
            state = transformation.init(params) if state is None else state
            updates, state = transformation.update(found, state, params)
            params = optax.apply_updates(params, updates)
            passed.append(join([np.asarray(w) for w in params]))
        return np.stack(passed)

    return ask


def by_torch(make: Callable[..., Any], *taken: str, **fixed: Any) -> Ask:
    """An optimizer in torch's interface, the hyper-parameters named ``taken`` written into its group at every step."""

    def ask(case: Case, kind: str) -> Array:
        params, gradients = [torch.tensor(w, dtype=torch.float64) for w in split(inputs()[0])], gradients_of(kind)
        optimizer, passed = make(params, lr=1.0, **fixed), []
        (group,) = optimizer.param_groups
        for t in range(STEPS):
            h = {"weight_decay": 0.0, **case.at(t, kind)}
            group.update({name: h[name] for name in ("lr", "weight_decay", *taken)})
            if "maximize" in group:
                group["maximize"] = kind == "decayed"
            sign = -1.0 if kind == "decayed" and "maximize" not in group else 1.0
            for param, g in zip(params, gradients(t, [w.numpy() for w in params]), strict=True):
                param.grad = sign * torch.tensor(g, dtype=torch.float64)
            optimizer.step()
            passed.append(join([w.numpy() for w in params]))
        return np.stack(passed)

    return ask


def by_two_points(case: Case, kind: str) -> Array:
    """Sutskever's Nesterov as printed: theta is kept, the gradient is taken beside it at theta + mu v."""
    theta, gradients, passed = inputs()[0], gradients_of(kind), []
    v = np.zeros_like(theta)
    for t in range(STEPS):
        h = {"weight_decay": 0.0, **case.at(t, kind)}
        phi = theta + h["momentum"] * v
        g = join(gradients(t, split(phi))) * (-1 if kind == "decayed" else 1) + h["weight_decay"] * phi
        v = h["momentum"] * v - h["lr"] * g
        theta = theta + v
        passed.append(theta + h["next_momentum"] * v)
    return np.stack(passed)


def by_parts_of_momentum(case: Case, kind: str) -> Array:
    """AggMo from optax: the mean of the updates of one `optax.trace` for each beta."""
    parts = [by_optax_part(number) for number in range(3)]
    return by_optax(lambda h: mean_of([part(h) for part in parts]))(case, kind)


def by_optax_part(number: int) -> Callable[[Hyper], Any]:
    """Gradient descent with one of the betas."""
    return lambda h: optax.sgd(h["lr"], h["betas"][number])


def mean_of(transformations: Sequence[Any]) -> Any:
    """The mean of the updates of several transformations, each with its own state."""

    def init(params: Any) -> list[Any]:
        return [one.init(params) for one in transformations]

    def update(grads: Any, states: list[Any], params: Any = None) -> tuple[Any, list[Any]]:
        both = [one.update(grads, state, params) for one, state in zip(transformations, states, strict=True)]
        mean = jax.tree.map(lambda *updates: sum(updates) / len(updates), *(updates for updates, _ in both))
        return mean, [state for _, state in both]

    return optax.GradientTransformation(init, update)


def uncorrected(h: Hyper) -> Any:
    """Adam without bias correction: optax's, the correction undone in lr and eps (Kingma and Ba, end of section 2)."""
    (b1, b2), t = h["betas"], h["step"]
    root = np.sqrt(1 - b2**t)
    return optax.adam(h["lr"] * (1 - b1**t) / root, b1, b2, h["eps"] / root)


def adam_of_momentum(h: Hyper) -> Any:
    """AdaMomentum from parts of optax; while b2 stays, the eps of all steps sum to eps / (1 - b2) in v_hat."""
    (b1, b2), t = h["betas"], h["step"]
    scaled = optax.scale_by_rms(b2, h["eps"] / (1 - b2), eps_in_sqrt=True, bias_correction=True)
    return optax.chain(optax.ema(b1, debias=False), scaled, optax.scale(-h["lr"] / (1 - b1**t)))


class SGDP(adamp.SGDP):  # type: ignore[misc]
    """The authors', but for a slip: without nesterov their projection writes into the momentum buffer."""

    def _projection(self, p: Any, grad: Any, perturb: Any, *rest: Any) -> Any:
        return super()._projection(p, grad, perturb.clone(), *rest)


@dataclass(frozen=True)
class Check:
    """Who else has the rule of a case, and, where they differ by definition, what they were asked instead."""

    who: str
    ask: Ask
    instead: dict[str, Any] = field(default_factory=dict)  # hyper-parameters of the question
    because: str = ""


def steady(betas: tuple[float, ...]) -> list[Any]:
    return [betas] * (STEPS + 1)


def trace_inside(h: Hyper) -> Any:
    """The learning rate before the trace, hence in the velocity."""
    return optax.chain(optax.scale(-h["lr"]), optax.trace(h["momentum"]))


def trace_early(h: Hyper) -> Any:
    return trace_inside({**h, "momentum": h["momentum"] if h["step"] <= h["until"] else 0.0})


def normalized(h: Hyper) -> Any:
    return optax.chain(optax.normalize_by_update_norm(eps=1e-300), optax.sgd(h["lr"], h["momentum"]))


def averaged(h: Hyper, scale: float = 1.0) -> Any:
    return optax.chain(optax.ema(h["momentum"], debias=False), optax.scale(-h["lr"] * scale))


RATIO = "delta", "wd_ratio", "eps"

CHECKS: dict[str, list[Check]] = {
    "sgd": [Check("optax", by_optax(lambda h: optax.sgd(h["lr"]))), Check("torch", by_torch(torch.optim.SGD))],
    "momentum": [
        Check("optax", by_optax(lambda h: optax.sgd(h["lr"], h["momentum"]))),
        Check("torch", by_torch(torch.optim.SGD, "momentum")),
    ],
    "nesterov": [
        Check("optax", by_optax(lambda h: optax.sgd(h["lr"], h["momentum"], nesterov=True))),
        Check("torch", by_torch(torch.optim.SGD, "momentum", momentum=0.9, nesterov=True)),
    ],
    "ema-momentum": [Check("optax", by_optax(averaged))],
    "ema-nesterov": [
        Check(
            "torch_optimizer",
            by_torch(torch_optimizer.QHM, "momentum", "nu", momentum=0.9, nu=0.9),
            {"nu": MOMENTUM},
            "it is QHM with nu equal to the momentum",
        )
    ],
    "sutskever-momentum": [Check("optax", by_optax(trace_inside), because="its trace after, not before, the scale")],
    "sutskever-nesterov": [Check("the paper's two points", by_two_points)],
    "qhm": [Check("torch_optimizer", by_torch(torch_optimizer.QHM, "momentum", "nu", momentum=0.9, nu=0.9))],
    "aggmo": [
        Check("optax", by_parts_of_momentum, because="the mean of three traces"),
        Check(
            "torch_optimizer",
            by_torch(torch_optimizer.AggMo, betas=(0.0, 0.9, 0.99)),
            {"betas": steady((0.0, 0.9, 0.99))},
            "it keeps its buffers under the values of the betas, which so cannot change",
        ),
    ],
    "early-momentum": [Check("optax", by_optax(trace_early), because="its trace after, not before, the scale")],
    "random-scaling": [Check("optax", by_optax(lambda h: averaged(h, h["scale"])))],
    "sngm": [Check("optax", by_optax(normalized))],
    "signsgd": [Check("optax", by_optax(lambda h: optax.sign_sgd(h["lr"])))],
    "signum": [Check("optax", by_optax(lambda h: optax.signum(h["lr"], h["momentum"])))],
    "lion": [
        Check("optax", by_optax(lambda h: optax.lion(h["lr"], *h["betas"], weight_decay=h["weight_decay"]), False)),
    ],
    "adagrad": [
        Check(
            "optax",
            by_optax(lambda h: optax.adagrad(h["lr"], initial_accumulator_value=0.0, eps=1e-200)),
            {"eps": 1e-200},
            "its eps is under the root, and its sum begins at 0.1 unless told",
        ),
        Check("torch", by_torch(torch.optim.Adagrad, "eps")),
    ],
    "rmsprop": [
        Check(
            "optax",
            by_optax(lambda h: optax.rmsprop(h["lr"], h["alpha"], h["eps"], eps_in_sqrt=False)),
            because="its eps is under the root unless told",
        ),
        Check("torch", by_torch(torch.optim.RMSprop, "alpha", "eps")),
    ],
    "adam": [
        Check("optax", by_optax(lambda h: optax.adam(h["lr"], *h["betas"], h["eps"]))),
        Check("torch", by_torch(torch.optim.Adam, "betas", "eps")),
    ],
    "adam-uncorrected": [Check("optax", by_optax(uncorrected), because="the correction undone in lr and eps")],
    "adamw": [
        Check(
            "optax",
            by_optax(lambda h: optax.adamw(h["lr"], *h["betas"], h["eps"], weight_decay=h["weight_decay"]), False),
        ),
        Check("torch", by_torch(torch.optim.AdamW, "betas", "eps")),
    ],
    "nadam": [
        Check(
            "optax",
            by_optax(lambda h: optax.nadam(h["lr"], *h["betas"], h["eps"])),
            {"betas": steady((0.9, 0.999)), "momentum_decay": [1e9] * (STEPS + 1)},
            "it has no schedule of the momentum: ours is over at once if momentum_decay is huge",
        ),
        Check("torch", by_torch(torch.optim.NAdam, "betas", "eps", "momentum_decay")),
    ],
    "adamomentum": [
        Check(
            "optax",
            by_optax(adam_of_momentum),
            {"betas": steady((0.9, 0.99))},
            "from its parts, where the eps of all steps is one number while beta2 stays",
        )
    ],
    "sgdp": [Check("adamp", by_torch(SGDP, "momentum", *RATIO), because="the write into the buffer left out")],
    "sgdp-nesterov": [Check("adamp", by_torch(adamp.SGDP, "momentum", *RATIO, nesterov=True))],
    "adamp": [Check("adamp", by_torch(adamp.AdamP, "betas", *RATIO))],
    "adamp-nesterov": [Check("adamp", by_torch(adamp.AdamP, "betas", *RATIO, nesterov=True))],
}


def distance(ours: Array, theirs: Array) -> float:
    """The largest difference of an element, over the largest element that its tensor has at that step."""
    pairs = zip(zip(*map(split, ours), strict=True), zip(*map(split, theirs), strict=True), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for pair in pairs for a, b in zip(*pair, strict=True))


def check_the_slopes(t: int) -> None:
    """`slopes` is the gradient of the loss in its words."""
    a0 = jnp.asarray(turned(np.array([[0.9, -0.4, 0.3], [0.2, 0.8, -0.7]]), t))
    k0 = jnp.asarray(turned(np.array([[0.5, -0.6, 0.1, 0.8], [-0.3, 0.4, 0.9, 0.2]]), t))

    def loss(matrix: Any, filters: Any, b: Any, c: Any) -> Any:
        rows = filters.reshape(2, 4)
        q = (k0 * rows / jnp.linalg.norm(rows, axis=1, keepdims=True)).sum(axis=1)
        z = c + (a0 * matrix / jnp.linalg.norm(matrix)).sum() + q[0] * q[1] + jnp.sin(b).sum()
        away = jnp.log(jnp.cosh(b - jnp.array([1.5, -0.5, 0.25]))).sum() + jnp.log(jnp.cosh(c - 1))
        return jnp.sqrt(1 + (z - 5) ** 2) + away

    params = split(inputs()[0])
    found = jax.grad(loss, argnums=(0, 1, 2, 3))(*(jnp.asarray(w) for w in params))
    np.testing.assert_allclose(join(slopes(t, params)), join([np.asarray(g) for g in found]), rtol=1e-12, atol=1e-15)


def check_the_peers(name: str) -> None:
    """Whoever has the rule agrees; says who, how well, and what was asked."""
    if name not in CHECKS:
        print(f"{name:20} nobody else has it")
    for check in CHECKS.get(name, ()):
        constants = {
            key: value if isinstance(value, list) else [value] * (STEPS + 1) for key, value in check.instead.items()
        }
        question = Case(CASES[name].reference, {**CASES[name].hyper, **constants})
        kinds = [kind for kind in question.kinds if kind != "edited"]
        worst = max(distance(trajectory(question, kind)[0], check.ask(question, kind)) for kind in kinds)
        assert worst < TOLERANCE, f"{check.who} differs from {name} by {worst:.1e}"
        print(f"{name:20} {check.who:22} {worst:7.1e}  {check.because}")


def check_that_rounding_does_not_matter(name: str) -> None:
    """A start that is off by what float32 rounds away changes little: no sign and no projection hangs by a thread."""
    start = inputs()[0]
    nudged = start * (1 + 1e-6 * np.random.default_rng(1).standard_normal(len(start)))
    for kind in CASES[name].kinds:
        far = distance(trajectory(CASES[name], kind)[0], trajectory(CASES[name], kind, nudged)[0])
        assert far < 3e-4, f"{name}, {kind}: a nudge of 1e-6 becomes {far:.1e}"


def check_the_projections(name: str) -> None:
    """The trajectories of a rule that projects go by rows, by the layer, and not at all."""
    case, views = CASES[name], set()
    for kind in case.kinds:
        passed, gradients = [inputs()[0], *trajectory(case, kind)[0]], gradients_of(kind)
        for t in range(STEPS):
            params = split(passed[t])
            for w, g in list(zip(params, gradients(t, params), strict=True))[:2]:
                g = -g if kind == "decayed" else g
                small = [
                    cosines(w.reshape(rows, -1), g.reshape(rows, -1), 1e-8).max() < 0.1 / np.sqrt(w.size / rows)
                    for rows in (2, 1)
                ]
                views.add("rows" if small[0] else "layer" if small[1] else "none")
    assert views == {"rows", "layer", "none"}, f"{name} only projects by {views}"


def write(name: str) -> None:
    arrays: dict[str, Array] = {}
    for kind in CASES[name].kinds:
        arrays[kind], last = trajectory(CASES[name], kind)
        arrays.update({f"{kind}.{slot}": value for slot, value in last.items()})
    versions = {"python": platform.python_version(), "numpy": np.__version__, **{one: version(one) for one in OTHERS}}
    about = {
        "reference": CASES[name].reference,
        "hyper": CASES[name].hyper,
        "agrees": [f"{check.who}: {check.because or 'as it is'}" for check in CHECKS.get(name, ())],
        "versions": versions,
    }
    np.savez_compressed(DATA / f"{name}.npz", about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]


def main() -> None:
    DATA.mkdir(exist_ok=True)
    make_inputs()
    check_the_slopes(3)
    for name in CASES:
        check_the_peers(name)
        check_that_rounding_does_not_matter(name)
        if "delta" in CASES[name].hyper:
            check_the_projections(name)
        write(name)


if __name__ == "__main__":
    main()
