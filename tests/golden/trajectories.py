"""What the golden trajectories share: a start, gradients, a loss, and hyper-parameters that change on the way.

A trajectory takes its gradients from a file ("given"), or from the loss at the parameters that are stored ("function";
there the place of the gradient matters), or from the loss with weight decay, to be maximized ("decayed").
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golden.references import REFERENCES, Array, Hyper, new_state, step

DATA = Path(__file__).parent / "data"
STEPS = 25
CHANGES = (7, 13)  # steps, from 0, at which hyper-parameters take their next value
WEIGHT_DECAY = 0.05  # in "decayed"
SHAPES = ((2, 3), (2, 2, 2, 1), (3,), ())  # a matrix, filters, a vector, a scalar
SIZES = [int(np.prod(shape)) for shape in SHAPES]


def split(flat: Array) -> list[Array]:
    """(18,) -> one array of each shape."""
    parts = np.split(flat, np.cumsum(SIZES)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def join(params: Sequence[Array]) -> Array:
    """The inverse of `split`."""
    return np.concatenate([np.asarray(param, np.float64).ravel() for param in params])


def turned(pattern: Array, t: int) -> Array:
    """A target that moves with the step, so that no parameter comes to rest at it, where rounding would rule."""
    there: Array = np.cos(t / 2) * pattern + np.sin(t / 2) * pattern[::-1, ::-1]
    return there


def slopes(t: int, params: Sequence[Array]) -> list[Array]:
    """The gradient of a small loss that couples all parameters; the scales of A and of the rows of K leave it alone.

    With a = A / |A| and k_r = K_r / |K_r| (a row, flat): p = <a0, a>, q_r = <k0_r, k_r>,
    z = c + p + q_1 q_2 + sum sin b, and the loss is sqrt(1 + (z - 5)^2) + sum log cosh(b - b0) + log cosh(c - 1).
    """
    a0 = turned(np.array([[0.9, -0.4, 0.3], [0.2, 0.8, -0.7]]), t)
    k0 = turned(np.array([[0.5, -0.6, 0.1, 0.8], [-0.3, 0.4, 0.9, 0.2]]), t)
    b0 = np.array([1.5, -0.5, 0.25])
    matrix, filters, b, c = params
    size, rows = np.linalg.norm(matrix), filters.reshape(2, 4)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    a, k = matrix / size, rows / lengths
    p, q = (a0 * a).sum(), (k0 * k).sum(axis=1)
    off = c + p + q[0] * q[1] + np.sin(b).sum() - 5
    r = off / np.sqrt(1 + off**2)
    along = r * q[::-1, None] * (k0 - q[:, None] * k) / lengths
    return [r * (a0 - p * a) / size, along.reshape(filters.shape), r * np.cos(b) + np.tanh(b - b0), r + np.tanh(c - 1)]


def inputs() -> tuple[Array, Array]:
    """The start (18,) and the given gradients (STEPS, 18)."""
    with np.load(DATA / "inputs.npz") as file:
        return file["start"], file["gradients"]


def gradients_of(kind: str) -> Callable[[int, Sequence[Array]], list[Array]]:
    """(step from 0, parameters) -> gradients, of a kind of trajectory."""
    given = inputs()[1]
    return (lambda t, params: split(given[t])) if kind == "given" else slopes


@dataclass(frozen=True)
class Case:
    """A rule with its hyper-parameters: ``hyper[name][t]`` at step t from 0, one more than there are steps."""

    reference: str
    hyper: dict[str, list[Any]]

    def at(self, t: int, kind: str) -> Hyper:
        """What an update gets at step t, from 0."""
        given = {name: values[t] for name, values in self.hyper.items()}
        if kind == "decayed":
            given["weight_decay"] = WEIGHT_DECAY
        if kind == "edited":  # somebody writes the new momentum into the group: until then nobody could foresee it
            given["next_momentum"] = given["momentum"]
        elif "momentum" in given:
            given["next_momentum"] = self.hyper["momentum"][t + 1]
        return {**given, "step": t + 1}

    @property
    def kinds(self) -> list[str]:
        """The trajectories of this case."""
        return ["given", "function", "decayed", *(["edited"] if self.reference == "sutskever-nesterov" else [])]


def trajectory(case: Case, kind: str, start: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """The parameters after each step (STEPS, 18), and the last state by name, as far as it has numbers."""
    params = split(inputs()[0] if start is None else start)
    gradients, states, passed = gradients_of(kind), new_state(params), []
    for t in range(STEPS):
        reference, maximize = REFERENCES[case.reference], kind == "decayed"
        params = step(reference, params, gradients(t, params), states, case.at(t, kind), maximize)
        passed.append(join(params))
    return np.stack(passed), {name: join([state[name] for state in states]) for name in states[0]}


@dataclass(frozen=True)
class Golden:
    """What a file says: the case, its trajectories by kind and their last states."""

    case: Case
    parameters: dict[str, Array]
    states: dict[str, dict[str, Array]]


def names() -> list[str]:
    """Of all files."""
    return sorted(path.stem for path in DATA.glob("*.npz") if path.stem != "inputs")


def load(name: str) -> Golden:
    """Read a file."""
    with np.load(DATA / f"{name}.npz") as file:
        about = json.loads(str(file["about"]))
        case = Case(about["reference"], about["hyper"])
        states: dict[str, dict[str, Array]] = {kind: {} for kind in case.kinds}
        for key in file.files:
            kind, _, slot = key.partition(".")
            if slot:
                states[kind][slot] = file[key]
        return Golden(case, {kind: file[kind] for kind in case.kinds}, states)
