"""Wang, Malladi, Wang, Lyu and Li, "The marginal value of momentum for small learning rate SGD", ICLR 2024.

SGDM is in EMA form, m <- b m + (1 - b) g, x <- x - eta m, and stands beside SGD with the same eta: in torch's form that
is the learning rate eta (1 - b). Comparing torch's momentum .9 with SGD at one learning rate compares steps that are
ten times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor, nn
from torch.nn import functional

from ravine import optim, rules
from ravine.claims import criteria
from ravine.claims.charts import figure, series
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, LOSS, SAME, Field, Sweep, column, every_seed, sweep, train
from ravine.claims.rows import Descent, cross_entropy
from ravine.fleet.keys import seeded
from ravine.problems.minilm import pretrained, tokens, vocabulary
from ravine.problems.quotes import quotes
from ravine.rules.base import Rule
from ravine.schedules import Polynomial

PAPER = "Wang, Malladi, Wang, Lyu and Li, ICLR 2024 (arXiv 2307.15196)"
MOMENTUM = 0.9
SGDM: Rule = rules.get("ema-momentum")
Array = NDArray[np.float64]

# Quadratics.

ROUNDING = 1e-9
BETAS = (0.0, 0.5, 0.9, 0.99)
STEEPNESS = (0.01, 0.1, 0.5, 1.0, 1.5, 1.9)  # eta times the curvature
ALPHAS = (0.0, 0.25, 0.5, 0.75)  # 1 - b = eta^alpha / 2
ETAS = tuple(2.0**-k for k in range(5, 12))
SLACK = 0.05  # by which a fitted exponent may miss its bound


def system(eta: float, momentum: float, curvature: float) -> tuple[Array, Array]:
    """(A, n) of (x, m) <- A (x, m) + n z, a step on curvature x^2 / 2 with gradient noise z; from the rule itself."""
    x, m = (torch.tensor(unit, dtype=torch.float64) for unit in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    gradient = curvature * x + torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    h = {"lr": torch.tensor(eta, dtype=torch.float64), "momentum": torch.tensor(momentum, dtype=torch.float64)}
    SGDM.update(x, gradient, {"momentum_buffer": m}, h)
    columns = torch.stack([x, m]).numpy()
    return columns[:, :2], columns[:, 2]


def variance(eta: float, momentum: float, curvature: float, noise: float = 1.0) -> float:
    """The stationary variance: eta s^2 / (lambda (2 - eta lambda (1 - b) / (1 + b)))."""
    return eta * noise / (curvature * (2 - eta * curvature * (1 - momentum) / (1 + momentum)))


def moments(eta: float, momentum: float, noise: float, steps: int) -> Array:
    """(steps, 2): mean and variance of x from x = 1, m = 0, on curvature 1."""
    a, n = system(eta, momentum, 1.0)
    mean, covariance, seen = np.array([1.0, 0.0]), np.zeros((2, 2)), []
    for _ in range(steps):
        mean, covariance = a @ mean, a @ covariance @ a.T + noise * np.outer(n, n)
        seen.append((mean[0], covariance[0, 0]))
    return np.array(seen)


def short_gap(eta: float, alpha: float) -> float:
    """The largest gap of mean or variance between SGD and SGDM in 1 / eta steps, noise of variance 1 / eta."""
    steps, momentum = round(1 / eta), 1 - eta**alpha / 2
    return float(np.abs(moments(eta, momentum, 1 / eta, steps) - moments(eta, 0.0, 1 / eta, steps)).max())


def exponent(alpha: float) -> float:
    """How the gap falls: the slope of its logarithm against that of eta."""
    gaps = [short_gap(eta, alpha) for eta in ETAS]
    return float(np.polyfit(np.log(ETAS), np.log(gaps), 1)[0])


def svag_weights(ell: float) -> tuple[float, float]:
    """(1 + c) / 2 and (1 - c) / 2, c = sqrt(2 ell - 1): what SVAG multiplies the losses of its two batches with."""
    c = math.sqrt(2 * ell - 1)
    return (1 + c) / 2, (1 - c) / 2


def svag_ratio(steepness: float, ell: float) -> float:
    """Variance of SGD over that of SGDM at eta / ell, with noise of ell times the variance."""
    return variance(steepness / ell, 0.0, 1.0, ell) / variance(steepness / ell, MOMENTUM, 1.0, ell)


def quadratics(laboratory: Laboratory) -> Evidence:
    """Closed forms: where momentum matters, how fast the difference vanishes, and what SVAG does."""
    grid = [(eta, b) for eta in STEEPNESS for b in BETAS]
    solved = [float(solve_discrete_lyapunov(a, np.outer(n, n))[0, 0]) for a, n in (system(*at, 1.0) for at in grid)]
    radii = [max(abs(np.linalg.eigvals(system(2 * (1 + b) / (1 - b), b, 1.0)[0]))) for b in BETAS]
    small = variance(0.01, 0.0, 1.0) / variance(0.01, MOMENTUM, 1.0)
    large = variance(1.9, 0.0, 1.0) / variance(1.9, MOMENTUM, 1.0)
    mixed = [(sum(svag_weights(ell)), sum(w**2 for w in svag_weights(ell)) / ell) for ell in (1.0, 2.0, 4.0, 8.0)]
    findings: list[Finding] = [
        criteria.exact(
            "The stationary variance is eta s^2 / (lambda (2 - eta lambda (1 - b) / (1 + b)))",
            max(abs(found / variance(*at, 1.0) - 1) for found, at in zip(solved, grid, strict=True)),
            ROUNDING,
            f"largest relative deviation of {len(grid)} Lyapunov solutions",
        ),
        criteria.exact(
            "SGDM is stable up to eta lambda = 2 (1 + b) / (1 - b)",
            max(abs(radius - 1) for radius in radii),
            1e-6,
            "largest deviation of the spectral radius from 1 at the limit",
        ),
        criteria.holds(
            "At a small learning rate SGD and SGDM fluctuate alike",
            "at eta lambda = .01 their variances differ by less than 1 %",
            abs(small - 1) < 0.01,
            small,
            "ratio of the variances",
        ),
        criteria.holds(
            "Where curvature limits they do not",
            "at eta lambda = 1.9 that of SGD is more than ten times as large",
            large > 10,
            large,
            "ratio of the variances",
        ),
        *_orders(),
        criteria.exact(
            "SVAG keeps the mean of the gradient, and has ell times its variance",
            max(max(abs(mean - 1), abs(spread - 1)) for mean, spread in mixed),
            ROUNDING,
            "largest deviation, ell = 1, 2, 4, 8",
        ),
        criteria.holds(
            "SVAG closes the gap",
            "at eta lambda = 1.9 the ratio of the variances falls with ell, to below 1.2 at 8",
            svag_ratio(1.9, 1) > svag_ratio(1.9, 2) > svag_ratio(1.9, 4) > svag_ratio(1.9, 8) < 1.2,
            svag_ratio(1.9, 8),
            f"ratio at 8, from {svag_ratio(1.9, 1):.3g} at 1",
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [eta, *(variance(eta, b, 1.0) for b in BETAS), variance(eta, 0.0, 1.0) / variance(eta, MOMENTUM, 1.0)]
        for eta in STEEPNESS
    ]
    columns = ["eta lambda", *(f"b = {b:g}" for b in BETAS), "b = 0 over b = 0.9"]
    table = Table("Stationary variance of x on x^2 / 2, noise of variance 1", columns, rows)
    steep = np.geomspace(0.01, 1.99, 60).tolist()
    curves = [
        series(f"ell = {ell:g}", steep, [[svag_ratio(eta, ell)] * 2 for eta in steep]) for ell in (1.0, 2.0, 4.0, 8.0)
    ]
    chart = figure(
        curves,
        "Variance of SGD over that of SGDM against learning rate times curvature, under SVAG",
        "eta lambda",
        "variance of SGD over SGDM",
        log_x=True,
        log_y=True,
        points=False,
    )
    notes = [
        "Nothing is drawn: means and variances of the linear iteration are followed exactly.",
        "The exponents are the paper's bounds: on a quadratic the gap falls faster. At alpha = 1, which it does not "
        f"cover, the gap does not vanish: its exponent is {abs(exponent(1.0)):.1g}.",
    ]
    return Evidence(findings, [table], {"SGD against SGDM, and what SVAG does": chart}, notes)


def _orders() -> Iterator[Finding]:
    """Theorem 3.5: with 1 - b ~ eta^alpha the gap over 1 / eta steps is O(eta^((1 - alpha) / 2))."""
    for alpha in ALPHAS:
        found, bound = exponent(alpha), (1 - alpha) / 2
        yield criteria.holds(
            f"With 1 - b ~ eta^{alpha:g} the gap over 1 / eta steps falls at least as eta^{bound:g}",
            f"the fitted exponent is at least {bound - SLACK:g}",
            found >= bound - SLACK,
            found,
            "exponent",
        )


# Near a manifold of minimizers.

BEGIN = (2.0, 0.5)  # on u v = 1
HORIZON = 1.0  # eta^2 times the number of steps
LONG_ETAS = (0.1, 0.05, 0.025, 0.0125)
ALIKE = 0.02  # of the share of u^2 - v^2 that is left, which falls from 1 to exp(-1) on the way
LEFT = "what is left of u^2 - v^2"
REPLICATES: Mapping[Budget, int] = {"quick": 400, "evening": 4_000}


def slow(rule: str, eta: float, seeds: Sequence[int]) -> Tensor:
    """u^2 - v^2 at the end over that at the start, a noise a seed; on (u v - y)^2 / 2 with labels y ~ N(1, 1)."""
    steps = round(HORIZON / eta**2)
    noise = torch.stack(
        [torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in seeds], 1
    )
    start = torch.tensor(BEGIN, dtype=torch.float64)
    hyper = {} if rule == "sgd" else {"momentum": MOMENTUM}
    descent = Descent(rule, start.expand(len(seeds), -1), lr=eta, **hyper)
    for z in noise:
        u, v = descent.rows.unbind(1)
        descent.step((u * v - 1 - z).unsqueeze(1) * torch.stack([v, u], 1))
    u, v = descent.rows.unbind(1)
    return (u**2 - v**2) / (start[0] ** 2 - start[1] ** 2)


def manifold(laboratory: Laboratory) -> Evidence:
    """Label noise drives along u v = 1 towards the flattest point; over 1 / eta^2 steps SGD and SGDM alike."""
    seeds = every_seed(0, REPLICATES[laboratory.budget])
    found = {
        name: [slow(rule, eta, seeds).tolist() for eta in LONG_ETAS]
        for name, rule in (("SGD", "sgd"), ("SGDM", "ema-momentum"))
    }
    gaps = [[abs(a - b) for a, b in zip(*pair, strict=True)] for pair in zip(*found.values(), strict=True)]
    findings = [
        criteria.equal(
            f"After 1 / eta^2 steps SGD and SGDM are at one place of the manifold (eta = {LONG_ETAS[-1]:g})",
            found["SGDM"][-1],
            found["SGD"][-1],
            ALIKE,
            LEFT,
        ),
        criteria.lower("Noise by noise they come closer as eta falls to an eighth", gaps[-1], gaps[0]),
        *(
            criteria.equal(
                f"{name} moves as the slow equation says: u^2 - v^2 ~ exp(-eta^2 k)",
                values[-1],
                [math.exp(-HORIZON)] * len(seeds),
                ALIKE,
                LEFT,
            )
            for name, values in found.items()
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [f"{eta:g}", math.exp(-HORIZON), *(shown(values[k]) for values in found.values()), shown(gaps[k])]
        for k, eta in enumerate(LONG_ETAS)
    ]
    columns = ["eta", "slow equation", "SGD", "SGDM", "distance of the two, noise by noise"]
    table = Table("(u^2 - v^2) / (u_0^2 - v_0^2) after 1 / eta^2 steps", columns, rows)
    chart = figure(
        [series("slow equation", LONG_ETAS, [[math.exp(-HORIZON)] * 2] * len(LONG_ETAS))]
        + [series(name, LONG_ETAS, values) for name, values in found.items()],
        "Progress along the manifold after 1 / eta^2 steps",
        "eta",
        "(u^2 - v^2) / (u_0^2 - v_0^2)",
        log_x=True,
    )
    notes = [
        "The example is ours: L = (u v - 1)^2 / 2 with label noise of variance 1, from (2, 1/2). SGD multiplies "
        "u^2 - v^2 by 1 - eta^2 (residual - noise)^2 at every step, so that its logarithm falls by 1 in 1 / eta^2 "
        "steps, up to O(eta).",
    ]
    return Evidence(findings, [table], {"Progress along the manifold": chart}, notes)


# Batch size.


@dataclass(frozen=True)
class Batches:
    """Trainings at three batch sizes."""

    small: Field
    medium: Field
    large: Field

    @property
    def words(self) -> str:
        """In one line."""
        return "; ".join(field.words for field in (self.small, self.medium, self.large))


BATCHES: Mapping[Budget, Batches] = {
    "quick": Batches(Field("digits", 16, 900, 10), Field("digits", 128, 300, 8), Field("digits", None, 150, 5)),
    "evening": Batches(
        Field("fashion-mnist", 32, 2_000, 4, 1),
        Field("fashion-mnist", 512, 500, 4, 1),
        Field("fashion-mnist", 8_192, 60, 4, 1),
    ),
    "paper": Batches(
        Field("cifar10", 128, 20_000, 3, 1), Field("cifar10", 512, 10_000, 3, 1), Field("cifar10", 4_096, 2_000, 3, 1)
    ),
}
RATES = (0.1, 0.3, 1.0, 2.0, 4.0)
SMALL_RATES = (0.1, 0.3)


def batch_size(laboratory: Laboratory) -> Evidence:
    """SGD and SGDM at equal eta, at three batch sizes."""
    batches = BATCHES[laboratory.budget]
    fields = (batches.small, batches.medium, batches.large)

    def swept(field: Field) -> tuple[Sweep, Sweep]:
        return (
            sweep(laboratory, field, "sgd", RATES),
            sweep(laboratory, field, "ema-momentum", RATES, momentum=MOMENTUM),
        )

    found = [swept(field) for field in fields]
    names = [_name(field) for field in fields]
    findings = [
        criteria.equal(f"{name}: SGD is as good as SGDM, each at its best rate", sgd.error, sgdm.error, SAME, ERROR)
        for name, (sgd, sgdm) in zip(names[:2], found[:2], strict=True)
    ]
    sgd, sgdm = found[0]
    findings += [
        criteria.equal(
            f"{names[0]}: the two do not differ at learning rate {rate:g}",
            sgd.errors_at(rate),
            sgdm.errors_at(rate),
            SAME,
            ERROR,
        )
        for rate in SMALL_RATES
    ]
    sgd, sgdm = found[2]
    findings += [
        criteria.less(f"{names[2]}: SGDM's training loss is lower, each at its best rate", sgdm.loss, sgd.loss, LOSS),
        criteria.less(f"{names[2]}: SGDM has fewer test errors, each at its best rate", sgdm.error, sgd.error, ERROR),
        criteria.less(
            f"{names[2]}: at learning rate {RATES[-1]:g} SGDM has fewer test errors",
            sgdm.errors_at(RATES[-1]),
            sgd.errors_at(RATES[-1]),
            ERROR,
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [name, method, shown(one.loss), *one.shown]
        for name, pair in zip(names, found, strict=True)
        for method, one in zip(("SGD", "SGDM"), pair, strict=True)
    ]
    table = Table(fields[0].problem, ["", "", "training loss", "test error", "its best rate"], rows)
    figures = {
        f"Test error against the learning rate, {name}": figure(
            [one.errors(method) for method, one in zip(("SGD", "SGDM"), pair, strict=True)],
            f"Test error against the learning rate, {name}",
            "eta",
            "test error",
            log_x=True,
            height=200,
        )
        for name, pair in zip(names, found, strict=True)
    }
    notes = [
        "eta is the learning rate in EMA form: torch's momentum .9 has a tenth of it. It is constant.",
        "Every batch size has a length of its own, since few epochs of full batches are few steps: compare methods, "
        "not batch sizes. The paper trained ResNet-50 on ImageNet over equal epochs.",
        f"Rates are chosen on other seeds, for training loss and test error each its own; equal is within {SAME:g}.",
    ]
    return Evidence(findings, [table], figures, notes)


def _name(field: Field) -> str:
    return "full batch" if field.batch_size is None else f"batches of {field.batch_size:,}"


# SVAG.


@dataclass(frozen=True)
class Svag:
    """What a budget affords of SVAG: steps at ell = 1, and seeds."""

    steps: int
    seeds: int
    ells: tuple[int, ...] = (1, 2, 4, 8)

    @property
    def words(self) -> str:
        """In one line."""
        ells = ", ".join(map(str, self.ells))
        return (
            f"digits, two mini-batches of {SVAG_BATCH} a step, {self.steps} ell steps, ell = {ells}; {self.seeds} seeds"
        )


SVAG: Mapping[Budget, Svag] = {"quick": Svag(300, 8), "evening": Svag(1_000, 20, (1, 2, 4, 8, 16))}
SVAG_BATCH = 128
SVAG_RATE = 1.5


def svag_losses(ell: int, outputs: Tensor, targets: Tensor) -> Tensor:
    """The losses of the two halves of a batch, with the weights of SVAG."""
    half = outputs.shape[1] // 2
    first, second = svag_weights(ell)
    losses = cross_entropy(outputs[:, :half], targets[:, :half]), cross_entropy(outputs[:, half:], targets[:, half:])
    return first * losses[0] + second * losses[1]


def svag(laboratory: Laboratory) -> Evidence:
    """SGD and SGDM at a learning rate at which they differ, with ell times the noise and an ell-th of the rate."""
    scale = SVAG[laboratory.budget]
    seeds = every_seed(0, scale.seeds)
    found: dict[str, list[list[float]]] = {"SGD": [], "SGDM": []}
    for ell in scale.ells:
        lr, losses = column([SVAG_RATE / ell]), partial(svag_losses, ell)
        for name, rule, hyper in (("SGD", "sgd", {}), ("SGDM", "ema-momentum", {"momentum": MOMENTUM})):
            trained = train(rule, seeds, scale.steps * ell, 2 * SVAG_BATCH, {"lr": lr, **hyper}, losses)
            found[name].append(trained.error[0].tolist())
    findings = [
        criteria.less("At ell = 1 SGDM has fewer test errors", found["SGDM"][0], found["SGD"][0], ERROR),
        *(
            criteria.equal(
                f"At ell = {ell} the two do not differ", found["SGD"][place], found["SGDM"][place], SAME, ERROR
            )
            for place, ell in enumerate(scale.ells)
            if ell >= 4
        ),
    ]
    rows: list[Sequence[Cell]] = [
        [f"{ell}", SVAG_RATE / ell, f"{scale.steps * ell:,}", *(shown(errors[place]) for errors in found.values())]
        for place, ell in enumerate(scale.ells)
    ]
    table = Table("Test error", ["ell", "learning rate", "steps", *found], rows)
    chart = figure(
        [series(name, scale.ells, errors) for name, errors in found.items()],
        "Test error of SGD and SGDM against ell",
        "ell",
        "test error",
        log_x=True,
    )
    notes = [
        f"The learning rate is {SVAG_RATE:g} at ell = 1, near SGD's limit here; momentum stays {MOMENTUM:g}. "
        f"Equal is within {SAME:g}.",
        "The paper trained ResNet-32 on CIFAR-10 at batches of 512; its curves merge as ell grows.",
    ]
    return Evidence(findings, [table], {"Test error against ell": chart}, notes)


# A language model.


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning on `each` sentences of either label, judged on `tests` of either, about other films.

    pilots: seeds that choose learning rates.
    """

    each: int
    steps: int
    seeds: int
    pilots: int = 2
    tests: int = 500

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.each} sentences of either label, {self.steps:,} steps, {self.seeds} seeds"


TUNINGS: Mapping[Budget, tuple[Tuning, ...]] = {
    "evening": (Tuning(512, 192, 5),),
    "paper": (Tuning(16, 200, 20), Tuning(512, 1_000, 20)),
}
LANGUAGE_BATCH = 16
LENGTH = 48  # tokens: all but one sentence in a hundred are shorter
CLOSE = 0.02  # test errors that differ by less count as equal: two seeds differ by about .01
Make = Callable[[Iterator[nn.Parameter], Polynomial], torch.optim.Optimizer]
LANGUAGE_METHODS: Mapping[str, tuple[Make, Sequence[float]]] = {
    "SGD": (lambda parameters, lr: optim.SGD(parameters, lr=lr), (0.03, 0.1, 0.3, 1.0)),
    "SGDM": (
        lambda parameters, lr: optim.Momentum(parameters, lr=lr, momentum=MOMENTUM, form="ema"),
        (0.03, 0.1, 0.3, 1.0),
    ),
    "Adam": (lambda parameters, lr: optim.Adam(parameters, lr=lr), (0.0001, 0.0003, 0.001)),
}
Sentences = tuple[Tensor, Tensor]


class Films:
    """Sentences about films as tokens and labels; a quarter of the films is only for judging."""

    def __init__(self) -> None:
        self._quotes, self._known = quotes(), vocabulary()
        films = sorted(set(self._quotes.films))
        order = torch.randperm(len(films), generator=torch.Generator().manual_seed(0)).tolist()
        self._judging = {films[place] for place in order[: len(films) // 4]}
        self._training = set(films) - self._judging

    def training(self, each: int, seed: int) -> Sentences:
        """`each` sentences of either label, a draw a seed."""
        return self._drawn(self._training, each, seed)

    def judging(self, each: int) -> Sentences:
        """`each` sentences of either label, always the same."""
        return self._drawn(self._judging, each, 0)

    def _drawn(self, films: set[str], each: int, seed: int) -> Sentences:
        sentences, labels = self._quotes.of(films, each, torch.Generator().manual_seed(seed))
        return tokens(sentences, self._known, LENGTH), labels


def fine_tuned(films: Films, method: str, rate: float, seed: int, tuning: Tuning, device: str) -> float:
    """The share of wrong test sentences after fine-tuning all weights; 1 if it diverged. The rate falls to 0."""
    x, y = (part.to(device) for part in films.training(tuning.each, seed))
    with seeded(seed, torch.device(device)):
        encoder = pretrained()
        model = nn.Sequential(encoder, nn.Linear(encoder.norm.normalized_shape[0], 2)).to(device)
        optimizer = LANGUAGE_METHODS[method][0](model.parameters(), Polynomial(rate, 0.0, tuning.steps))
        rows: list[int] = []
        for _ in range(tuning.steps):
            if len(rows) < min(LANGUAGE_BATCH, len(x)):
                rows = torch.randperm(len(x)).tolist()
            batch, rows = rows[:LANGUAGE_BATCH], rows[LANGUAGE_BATCH:]
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[batch]), y[batch])
            if not loss.isfinite():
                return 1.0
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        parts = zip(*(torch.split(part.to(device), 100) for part in films.judging(tuning.tests)), strict=True)
        wrong = torch.cat([model(inputs).argmax(1) != labels for inputs, labels in parts])
    return float(wrong.double().mean())


def language_model(laboratory: Laboratory) -> Evidence:
    """SGD, SGDM and Adam on a pre-trained encoder of sentences, each at its best rate."""
    films = Films()
    findings: list[Finding] = []
    rows: list[Sequence[Cell]] = []
    figures = {}
    for tuning in TUNINGS[laboratory.budget]:

        def error(method: str, rate: float, seed: int, tuning: Tuning = tuning) -> float:
            name = f"{method}, lr {rate:g}, {tuning.words}, seed {seed}"

            def compute() -> float:
                laboratory.listener.phase(name)
                return fine_tuned(films, method, rate, seed, tuning, laboratory.device)

            return laboratory.kept(name, compute)

        seeds = every_seed(tuning.pilots, tuning.seeds)
        errors, parts = {}, []
        for method, (_, rates) in LANGUAGE_METHODS.items():
            pilot = [
                sum(error(method, rate, seed) for seed in seeds[: tuning.pilots]) / tuning.pilots for rate in rates
            ]
            best = rates[int(np.argmin(pilot))]
            errors[method] = [error(method, best, seed) for seed in seeds[tuning.pilots :]]
            parts.append(series(method, rates, [[mean, mean] for mean in pilot]))
            rows.append([f"{tuning.each}", method, shown(errors[method]), best])
        findings.append(
            criteria.equal(
                f"{tuning.each} sentences of either label: SGD is as good as SGDM, each at its best rate",
                errors["SGD"],
                errors["SGDM"],
                CLOSE,
                ERROR,
            )
        )
        figures[f"Test error against the learning rate, {tuning.each} sentences of either label"] = figure(
            parts, "Test error of the pilot against the learning rate", "learning rate", "test error", log_x=True
        )
    table = Table("Fresh or rotten", ["sentences of either label", "", "test error", "its best rate"], rows)
    notes = [
        "The model is MiniLM (22.6 million weights, 6 layers, all trained, no dropout) with a new linear layer on its "
        "mean; the sentences are of film reviews, and no film is in both training and judging.",
        f"Batches of {LANGUAGE_BATCH}, the rate falls to 0 in a line. The figures show means of {tuning.pilots} other "
        f"seeds, which choose the rates; equal is within {CLOSE:g}.",
        "The paper fine-tuned RoBERTa-large by prompts, on 16 and 512 sentences of a label; its numbers are not known "
        "to us. Adam is beside them for comparison: nothing is claimed of it.",
    ]
    return Evidence(findings, [table], figures, notes)


CLAIMS = (
    Claim(
        name="wang-quadratic",
        sentence="At small learning rates SGD and SGDM are alike; momentum matters where curvature limits, not noise.",
        source=f"{PAPER}, Theorem 3.5 and SVAG, on quadratics",
        plans={"quick": "float64, seconds"},
        investigate=quadratics,
    ),
    Claim(
        name="wang-manifold",
        sentence="Near a manifold of minimizers SGD and SGDM move alike over 1 / eta^2 steps.",
        source=f"{PAPER}, Theorem 4.5",
        plans={budget: f"float64; {count:,} noises, steps up to 6,400" for budget, count in REPLICATES.items()},
        investigate=manifold,
    ),
    Claim(
        name="wang-batch-size",
        sentence="Tuned SGD matches SGDM at small and medium batches; momentum pays at large ones.",
        source=f"{PAPER}, experiments on ImageNet",
        plans={budget: batches.words for budget, batches in BATCHES.items()},
        investigate=batch_size,
    ),
    Claim(
        name="wang-svag",
        sentence="As SVAG takes the curvature out of the comparison, the gap between SGD and SGDM closes.",
        source=f"{PAPER}, Figure 2",
        plans={budget: scale.words for budget, scale in SVAG.items()},
        investigate=svag,
    ),
    Claim(
        name="wang-language-model",
        sentence="Fine-tuning a language model, tuned SGD is as good as SGDM.",
        source=f"{PAPER}, experiments on fine-tuning",
        plans={
            budget: "MiniLM on sentences about films: " + "; ".join(tuning.words for tuning in tunings)
            for budget, tunings in TUNINGS.items()
        },
        investigate=language_model,
    ),
)
