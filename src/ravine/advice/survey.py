"""The measurement behind an advice: a short run of plain SGD, looked at from inside at a few points."""

from __future__ import annotations

import copy
import itertools
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ravine import measure
from ravine.advice.forecast import Landscape, Spectrum, best
from ravine.errors import WorkError
from ravine.fleet.keys import key, seeded
from ravine.fleet.order import Order
from ravine.problems import Data, Problem
from ravine.problems.problem import Batch

ROWS = 1024  # of training that are measured on, fewer where a gradient is slow
LEAST_ROWS = 128
GRADIENTS = 150  # that a point costs about: noise, sharpness, quadratures
GROUPS = 128  # of them, for the noise scale
NODES = 24  # of the quadratures
NOISES = 4  # directions of noise that a quadrature starts from
PLACES = (0.0, 0.25, 1.0)  # of the points along the run
TRIALS = 7  # of a learning rate
SHARE, LONGEST = 0.2, 200  # of the budget: the length of the run, and the most steps that it takes
_SEED = 0


@dataclass(frozen=True, eq=False)
class Point:
    """What was measured at a step of the run.

    loss: on the measured training rows. validation: name -> value of the metrics and the loss on validation rows.
    noise: the noise scale; None if there are too few rows for one. sharpness: the largest curvature.
    """

    step: int
    loss: float
    validation: dict[str, float]
    noise: measure.NoiseScale | None
    sharpness: float
    landscape: Landscape


@dataclass(frozen=True, eq=False)
class Survey:
    """The points of the run, the rows measured on, and the bytes of the parameters, which a velocity takes again."""

    points: list[Point]
    rows: int
    memory: int


def survey(problem: Problem, data: Data, seconds: float) -> Survey:
    """Measures at the PLACES of a run of plain SGD with the best learning rate of the last point's forecast.

    The curvature is the Gauss-Newton matrix, or the positive part of the Hessian where the problem gives no outputs.
    So many rows are measured on that a point should take its share of `seconds`; after `seconds` no further point is
    taken. Raises WorkError if the first one cannot be measured.
    """
    began = time.monotonic()
    device = torch.device("cpu")
    with seeded(key(_SEED, "init", 0), device):
        model = problem.build().train()
    length = max(min(round(SHARE * problem.steps), LONGEST), 1)
    steps = sorted({round(length * place) for place in PLACES})
    order = Order(_SEED, 0, data.train.rows, problem.batch_size, problem.sampling)
    with seeded(key(_SEED, "probe", 0), device):
        measured = _measured_rows(problem, data, model, seconds / len(PLACES))
    points: list[Point] = []
    with seeded(key(_SEED, "draws", 0), device):
        for begin, end in zip([0, *steps], steps, strict=False):
            if points and not _advance(problem, data, measured, model, order, range(begin, end), points[-1]):
                break
            if points and time.monotonic() - began > seconds * len(points) / (len(points) + 1):
                break
            points.append(_point(problem, data, measured, model, end, points[0] if points else None))
    rows = next(len(leaf) for leaf in tree_leaves(measured) if isinstance(leaf, Tensor) and leaf.ndim)
    return Survey(points, rows, sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad))


def _advance(
    problem: Problem, data: Data, measured: Batch, model: nn.Module, order: Order, steps: range, at: Point
) -> bool:
    """Trains through `steps`; again with half the learning rate, as often as the loss does not fall.

    A net sharpens as it learns, so a quarter of the largest stable learning rate is enough. Where the loss cannot fall,
    at the noise floor, that it does not explode will do.
    """
    lr = min(best(at.landscape, max(problem.steps - at.step, 1), (0.0,)).lr, 0.5 / at.sharpness)
    before = copy.deepcopy(model.state_dict())
    for trial in range(TRIALS):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=problem.weight_decay)
        for step in steps:
            optimizer.zero_grad()
            value = problem.loss_on(model, data.train.batch(torch.from_numpy(order.batch(step))))
            value.backward()  # type: ignore[no-untyped-call]
            if problem.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), problem.clip)
            optimizer.step()
            if not value.isfinite():
                break
        with torch.no_grad():
            loss = float(problem.loss_on(model, measured))
        if loss <= at.loss or (trial == TRIALS - 1 and loss <= 3 * abs(at.loss)):  # false where it is not a number
            return True
        model.load_state_dict(before)
        lr /= 2
    return False


def _measured_rows(problem: Problem, data: Data, model: nn.Module, seconds: float) -> Batch:
    """Up to ROWS rows, halved until GRADIENTS gradients on them take `seconds`."""
    order = torch.randperm(data.train.rows, generator=torch.Generator().manual_seed(_SEED))
    probe = data.train.batch(order[:LEAST_ROWS])
    parameters = [p for p in model.parameters() if p.requires_grad]
    before = copy.deepcopy(model.state_dict())  # running statistics
    times: list[float] = []
    for _ in range(2):  # the first is slower
        began = time.monotonic()
        torch.autograd.grad(problem.loss_on(model, probe), parameters, allow_unused=True)
        times.append(time.monotonic() - began)
    model.load_state_dict(before)
    count = min(ROWS, data.train.rows)
    while count > LEAST_ROWS and GRADIENTS * min(times) * count / LEAST_ROWS > seconds:
        count //= 2
    return data.train.batch(order[:count])


def _point(problem: Problem, data: Data, measured: Batch, model: nn.Module, step: int, first: Point | None) -> Point:
    rows = data.train.rows
    objective = measure.Objective(
        model,
        [measured],
        loss=problem.loss,
        batch_loss=problem.batch_loss,
        seed=_SEED,
        check=step == 0,
    )
    gradient, noise, directions = _gradients(objective, rows)
    weight = torch.cat([p.detach().flatten() for p in objective.parameters])
    gradient = gradient + problem.weight_decay * weight
    matrix = measure.hessian(objective) if problem.loss is None else measure.gauss_newton(objective)
    sharpness = float(measure.top_eigenvalues(matrix, tolerance=0.01, max_products=100).values[0])
    sharpness = max(sharpness, 0.0) + problem.weight_decay
    if not sharpness > 0:
        raise WorkError(
            f"problem '{problem.name}': the loss has no positive curvature at its start, so nothing limits the step;"
            " there is no advice to give before a real comparison"
        )
    lengths = directions.square().sum(1)
    squared = noise.trace.value if noise is not None else 0.0
    # Rows without replacement from a finite table: the noise of a batch is smaller, and of the full batch it is none.
    drawn = problem.batch_rows(rows)
    left = 1.0 if problem.sampling == "with-replacement" else 1 - drawn / rows
    loss = float(objective.loss())
    values = _validation(problem, data, model)
    # What the rows differ by before anything is learnt is chance, and no floor: only what has come since is.
    gap = values["loss"] - loss
    at_start = first.validation["loss"] - first.loss if first is not None else gap
    landscape = Landscape(
        loss=loss,
        floor=max(min(gap, gap - at_start), 0.0),
        signal=_spectrum(matrix, gradient[None], gradient.square().sum()[None], problem.weight_decay),
        noise=_spectrum(
            matrix, directions, lengths / lengths.sum().clamp(min=1e-300) * squared / drawn * left, problem.weight_decay
        ),
        sharpness=sharpness,
    )
    return Point(step, loss, values, noise, sharpness, landscape)


def _gradients(objective: measure.Objective, population: int) -> tuple[Tensor, measure.NoiseScale | None, Tensor]:
    """(gradient, noise scale, some directions of its noise (k, P))."""
    whole = objective.gradient()
    size = max(objective.rows // GROUPS, 2)
    if objective.rows < 2 * size:
        return whole, None, whole.new_zeros(0, objective.size)
    finite = population if objective.rows == population else None
    noise = measure.noise_scale(objective, size, population=finite)
    parts = objective.resized(size)
    return whole, noise, torch.stack([parts.part_gradient(part) - whole for part in parts.parts[:NOISES]])


def _spectrum(matrix: measure.Operator, vectors: Tensor, squares: Tensor, shift: float) -> Spectrum:
    """The squared lengths `squares` (k,) of vectors (k, P), over the curvatures."""
    moving = squares > 0
    if not moving.any():
        return Spectrum(torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    found = measure.spectral_density(matrix, nodes=NODES, vectors=vectors[moving])
    weights = found.weights * squares[moving, None].double().cpu()
    return Spectrum(found.nodes.clamp(min=0).flatten() + shift, weights.flatten())


def _validation(problem: Problem, data: Data, model: nn.Module) -> dict[str, float]:
    training = model.training
    model.eval()
    with torch.no_grad():
        values = {name: float(value) for name, value in problem.evaluate(model, data.validation.tensors).items()}
    model.train(training)
    return values


def metric_slope(points: list[Point], name: str, best: float | None) -> float:
    """How much a metric moves per unit of validation loss, at least 0.

    As it did along the run, but at most as if its distance from `best`, its best value, were in proportion to the loss:
    an accuracy saturates. None: it has no best value. Where the run did not move the loss, that proportion is all that
    is known, to 0 where there is no best value.
    """
    moved = {
        of: sum(abs(b.validation[of] - a.validation[of]) for a, b in itertools.pairwise(points))
        for of in ("loss", name)
    }
    last = points[-1].validation
    slope = moved[name] / moved["loss"] if moved["loss"] else math.inf
    if last["loss"] > 0 and (best is not None or not moved["loss"]):
        slope = min(slope, abs((best or 0.0) - last[name]) / last["loss"])
    return slope if math.isfinite(slope) else 0.0
