"""Heo et al., "AdamP: slowing down the slowdown for momentum optimizers on scale-invariant weights", ICLR 2021.

Of the theory: how the norm of scale-invariant weights grows without momentum, with it (heavy-ball form), and with the
projection, in float64 on f(w) = -<w, a> / |w|. Of the experiments: nets with batch normalization, trained on digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ravine import rules
from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Arm, Laboratory
from ravine.claims.nets import ERROR
from ravine.metrics import Metric, accuracy
from ravine.problems import Problem
from ravine.problems.digits import digits

PAPER = "Heo et al., ICLR 2021 (arXiv 2006.08217)"
MOMENTUM = 0.9
TIMES = 1 + 2 * MOMENTUM / (1 - MOMENTUM)  # 19, by which momentum's growth exceeds that of gradient descent

# The norm of the weights.

DIMENSION = 100
RATE, LARGER_RATE = 1e-3, 3e-3
METHODS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "gradient descent": ("sgd", {}),
    "momentum": ("momentum", {"momentum": MOMENTUM}),
    "SGDP": ("sgdp", {"momentum": MOMENTUM, "delta": 0.1, "wd_ratio": 0.1, "eps": 1e-8}),
}
IDENTITY = 1e-6  # relative; SGDP adds eps to norms


@dataclass(frozen=True)
class Growth:
    """Steps and seeds."""

    steps: int
    seeds: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"float64, {DIMENSION} dimensions, {self.steps:,} steps, {self.seeds} seeds"


GROWTHS: Mapping[Budget, Growth] = {"quick": Growth(2_000, 20), "evening": Growth(20_000, 100)}


@dataclass(frozen=True)
class Walk:
    """squares: |w|^2, (steps + 1, seeds). moves: the steps taken, w_t - w_(t+1), their squares (steps, seeds)."""

    squares: Tensor
    moves: Tensor

    @property
    def growth(self) -> list[float]:
        """|w|^2 at the end less that at the start, by seed."""
        found: list[float] = (self.squares[-1] - self.squares[0]).tolist()
        return found


def walk(method: str, lr: float, scale: Growth) -> Walk:
    """A method on -<w, a> / |w|, with N(0, I) added to a at every step, |a| = |w_0| = 1.

    A seed is a row, and its weights have two dimensions, as SGDP wants them.
    """
    generator = torch.Generator().manual_seed(4)
    shape = (scale.seeds, 1, DIMENSION)
    name, hyper = METHODS[method]
    rule = rules.get(name)
    h = {key: torch.full((1, 1, 1), value, dtype=torch.float64) for key, value in {**hyper, "lr": lr}.items()}
    w, a = (nn.functional.normalize(torch.randn(shape, dtype=torch.float64, generator=generator), dim=-1) for _ in "wa")
    state = {slot: torch.zeros_like(w) for slot in rule.slots}
    squares, moves = [w.square().sum((1, 2))], []
    for _ in range(scale.steps):
        noisy = a + torch.randn(shape, dtype=torch.float64, generator=generator)
        before = w.clone()
        rule.update(w, slope(w, noisy), state, h)
        squares.append(w.square().sum((1, 2)))
        moves.append((w - before).square().sum((1, 2)))
    return Walk(torch.stack(squares), torch.stack(moves))


def slope(w: Tensor, a: Tensor) -> Tensor:
    """The gradient of -<w, a> / |w|, which is orthogonal to w; vectors lie along the last dimension."""
    size = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
    unit = w / size
    found: Tensor = (unit * (unit * a).sum(-1, keepdim=True) - a) / size
    return found


def expected_squares(walk: Walk, momentum: float) -> Tensor:
    """|w|^2 from the steps alone: |w_(t+1)|^2 = |w_t|^2 + |d_t|^2 + 2 sum over k < t of momentum^(t - k) |d_k|^2.

    Lemma 2.2 with steps d = lr p. Without momentum, and for projected steps, only the first |d_t|^2 is left.
    """
    found, earlier = [walk.squares[0]], torch.zeros_like(walk.squares[0])
    for move in walk.moves:
        found.append(found[-1] + move + 2 * earlier)
        earlier = momentum * (earlier + move)
    return torch.stack(found)


def norms(laboratory: Laboratory) -> Evidence:
    """Identities of the norm, and how much it grows."""
    scale = GROWTHS[laboratory.budget]
    walks = {(name, lr): walk(name, lr, scale) for name in METHODS for lr in (RATE, LARGER_RATE)}
    growth = {name: walks[name, RATE].growth for name in METHODS}
    times = {
        (name, lr): [a / b for a, b in zip(one.growth, walks["gradient descent", lr].growth, strict=True)]
        for (name, lr), one in walks.items()
    }
    deviations = {
        name: max(
            float((one.squares / expected_squares(one, MOMENTUM if name == "momentum" else 0.0) - 1).abs().max())
            for (other, _), one in walks.items()
            if other == name
        )
        for name in METHODS
    }
    words = {
        "gradient descent": "Gradient descent adds the square of each step to |w|^2, and nothing else",
        "momentum": "Momentum adds 2 sum of b^(t-k) |d_k|^2 over earlier steps d_k to that (Lemma 2.2)",
        "SGDP": "With the projection only the square of each step is left",
    }
    unit = "times the growth of gradient descent"
    findings = [
        *(
            criteria.exact(sentence, deviations[name], IDENTITY, "largest relative deviation of |w|^2")
            for name, sentence in words.items()
        ),
        criteria.above(
            f"Momentum makes |w|^2 grow more than 1 + 2 b / (1 - b) = {TIMES:g} times as much",
            times["momentum", RATE],
            TIMES,
            unit,
        ),
        criteria.below(
            "With the projection it grows by no more than a velocity's larger steps cost, 1 / (1 - b^2) in pure noise",
            times["SGDP", RATE],
            1 / (1 - MOMENTUM**2),
            unit,
        ),
        criteria.lower("The projection lowers the growth", growth["SGDP"], growth["momentum"]),
    ]
    rows: list[Sequence[Cell]] = [
        [name, lr, shown(one.growth), shown(times[name, lr])] for (name, lr), one in walks.items()
    ]
    table = Table("Growth of |w|^2", ["method", "learning rate", "growth of |w|^2", unit], rows)
    marks = list(range(0, scale.steps + 1, scale.steps // 100))
    chart = figure(
        [series(name, marks, walks[name, RATE].squares[marks].tolist()) for name in METHODS],
        "Squared norm of scale-invariant weights along the training, by method",
        "step",
        "|w|²",
        log_y=True,
        points=False,
    )
    notes = [
        f"The bound of {TIMES:g} is one of small steps. Where the norm has grown, steps turn the weights less and all "
        f"methods grow less: so the ratio is another at learning rate {LARGER_RATE:g}, see the table.",
        "The sizes of the toy problem are ours.",
    ]
    return Evidence(findings, [table], {"Squared norm": chart}, notes)


# Training.

DECAY = 1e-4
PLAIN_RATES = tuple(0.00625 * 2**k for k in range(7))
ADAM_RATES = tuple(0.000625 * 2**k for k in range(7))
PAIRS: Mapping[str, tuple[str, str, Sequence[float]]] = {
    "SGDP": ("sgdp", "momentum", PLAIN_RATES),
    "AdamP": ("adamp", "adamw", ADAM_RATES),
}
"""The rule with the projection, that without, and the learning rates that both may choose from."""


@dataclass(frozen=True)
class Training:
    """Updates, seeds that judge and that choose the learning rate."""

    steps: int
    seeds: int
    pilots: int

    @property
    def words(self) -> str:
        """In one line."""
        return f"digits, two hidden layers of 64 with batch normalization; {self.steps:,} updates, {self.seeds} seeds"


TRAININGS: Mapping[Budget, Training] = {"quick": Training(600, 12, 2), "evening": Training(5_000, 40, 4)}


def normalized_digits(name: str) -> Problem:
    """The digits with a net whose hidden weights have no scale; errors are those on the test rows."""
    problem = digits()
    return replace(
        problem,
        name=name,
        model=_net,
        validation=problem.test,
        metrics={"error": Metric(_error, higher_is_better=False, worst=1.0)},
        weight_decay=DECAY,
    )


def _net() -> nn.Module:
    hidden = [layer for _ in range(2) for layer in (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def _error(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1 - accuracy(outputs, targets)


def training(laboratory: Laboratory) -> Evidence:
    """Each rule with and without the projection."""
    scale = TRAININGS[laboratory.budget]
    findings, figures, notes = [], {}, []
    rows: list[Sequence[Cell]] = []
    for name, (with_, without, grid) in PAIRS.items():
        problem = normalized_digits(f"digits, batch normalization, {name}")
        arms: dict[str, Callable[[float], Arm]] = {rule: _arm(rule) for rule in (without, with_)}
        rates = laboratory.rates(problem, arms, grid, scale.pilots, scale.steps)
        runs = laboratory.train(
            problem, [of(rates[rule]) for rule, of in arms.items()], range(scale.seeds), scale.steps
        )
        findings.append(
            criteria.less(
                f"{name} makes fewer test errors than {without}", runs.errors(with_), runs.errors(without), ERROR
            )
        )
        rows += [[rule, rates[rule], shown(runs.errors(rule))] for rule in arms]
        notes += [
            f"{rule}: the best learning rate, {rates[rule]:g}, is at an edge."
            for rule in arms
            if rates[rule] in (grid[0], grid[-1])
        ]
        curves = runs.curves()
        at = curves["step"].unique().sort().to_list()
        figures[f"{name} and {without}"] = figure(
            [series(rule, at, [curves.filter(arm=rule, step=step)["error"].to_list() for step in at]) for rule in arms],
            f"Test error along the training of {name} and {without}",
            "step",
            "test error, a share",
            log_y=True,
            points=False,
        )
    table = Table(f"After {scale.steps:,} updates", ["rule", "learning rate", "test error"], rows)
    notes = [
        "The paper compares on 13 benchmarks, ImageNet among them; ours is one small task, and says nothing of those.",
        f"Weight decay is {DECAY:g} for all: added to the gradient in momentum, decoupled in the others, and a tenth "
        "of it where SGDP and AdamP project. Learning rates are constant, the best of seven on other seeds.",
        *notes,
    ]
    return Evidence(findings, [table], figures, notes)


def _arm(rule: str) -> Callable[[float], Arm]:
    """The rule at its defaults, but for the learning rate."""
    defaults = {name: one.default for name, one in rules.get(rule).hyper.items() if one.default is not None}
    return lambda lr: Arm(rule, rule, {**defaults, "lr": lr})


CLAIMS = (
    Claim(
        name="adamp-norm",
        sentence="Momentum makes the norm of scale-invariant weights grow far more, and the projection prevents it.",
        source=f"{PAPER}, Sec. 2, Lemma 2.2 and Corollary 2.3",
        plans={budget: scale.words for budget, scale in GROWTHS.items()},
        investigate=norms,
    ),
    Claim(
        name="adamp-training",
        sentence="SGDP and AdamP generalize better than SGD with momentum and Adam.",
        source=f"{PAPER}, Sec. 4",
        plans={budget: scale.words for budget, scale in TRAININGS.items()},
        investigate=training,
    ),
)
