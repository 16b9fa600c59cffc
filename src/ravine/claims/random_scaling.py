"""Zhang and Cutkosky, "Random scaling and momentum for non-smooth non-convex optimization", ICML 2024.

Each step of momentum in EMA form is multiplied by a fresh s ~ Exp(1), one for all parameters: then, in expectation over
s, the loss changes by exactly what the gradient at the new point says, even where the loss is not smooth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import polars as pl
import torch
from torch import Tensor

from ravine.claims import criteria
from ravine.claims.charts import figure
from ravine.claims.claim import Budget, Cell, Claim, Evidence, Finding, Table
from ravine.claims.criteria import shown
from ravine.claims.laboratory import Laboratory
from ravine.claims.nets import ERROR, NET, SAME, Field, rows_of_digits, sweep
from ravine.claims.rows import cross_entropy, gradients
from ravine.schedules import Cosine, ExponentialScale

PAPER = "Zhang and Cutkosky, ICML 2024 (arXiv 2405.09742)"

# The identity.

RAYS = 50
FAR = 60.0  # where exp(-s) is nothing
ROUNDING = 1e-9


def nonsmooth(points: Tensor, directions: Tensor) -> Tensor:
    """f(x) = sum_i |a_i x| - |x|_1 / 2, neither smooth nor convex; points (..., 3), a_i the rows of (6, 3)."""
    return (points @ directions.T).abs().sum(-1) - points.abs().sum(-1) / 2


def nodes(start: Tensor, ray: Tensor, directions: Tensor, end: float) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on (0, end), in pieces between which the function along the ray is smooth."""
    lines = torch.cat([directions, torch.eye(3, dtype=torch.float64)])
    kinks = -(lines @ start) / (lines @ ray)
    inner = kinks[(kinks > 0) & (kinks < end)]
    ends = torch.cat([inner, torch.linspace(0, end, max(round(end), 1) + 1, dtype=torch.float64)]).sort().values
    x, w = LEGENDRE
    half = ends.diff().unsqueeze(1) / 2
    return (ends[:-1].unsqueeze(1) + half * (1 + x)).flatten(), (half * w).flatten()


def _legendre(order: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (-1, 1), from the eigenvectors of the Jacobi matrix (Golub and Welsch)."""
    k = torch.arange(1, order, dtype=torch.float64)
    off = k / (4 * k.square() - 1).sqrt()
    x, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return x, 2 * vectors[0].square()


LEGENDRE = _legendre(16)


def sides(density: str, start: Tensor, ray: Tensor, directions: Tensor) -> tuple[float, float]:
    """E f(x + s d) - f(x), and E <grad f(x + s d), d>, for s of a density of mean 1."""
    if density == "fixed":
        s, weight = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    else:
        s, weight = nodes(start, ray, directions, FAR if density == "Exp(1)" else 2.0)
        weight = weight * ((-s).exp() if density == "Exp(1)" else 0.5)
    points = (start + s.unsqueeze(1) * ray).requires_grad_()
    values = nonsmooth(points, directions)
    (slopes,) = torch.autograd.grad(values.sum(), points)
    rise = (values.detach() - nonsmooth(start, directions)) @ weight
    return float(rise), float((slopes @ ray) @ weight)


def gaps(density: str) -> list[float]:
    """|difference of the two sides| on random functions, points and rays."""
    found = []
    for seed in range(RAYS):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(8, 3, dtype=torch.float64, generator=generator)
        left, right = sides(density, drawn[0], drawn[1], drawn[2:])
        found.append(abs(left - right))
    return found


DRAWS: Mapping[Budget, int] = {"quick": 2_000, "evening": 20_000}
EXAMPLES = 256
PART = 250  # draws at a time
LENGTH = 3.0  # of the ray, beside a net whose weights have norm 13


def rise_and_slope(seed: int, draws: int) -> tuple[list[float], list[float]]:
    """Along a ray against the gradient of a ReLU net: loss(x + s d) - loss(x) - <grad, d>, and s, for draws of s."""
    inputs, targets = (part[:EXAMPLES] for part in rows_of_digits()[0])
    inputs, start = inputs.double(), NET.start([seed]).double()

    def losses(rows: Tensor) -> Tensor:
        return cross_entropy(NET.outputs(rows, inputs), targets)

    first, slope = gradients(losses, start)
    ray = -LENGTH * slope / slope.norm()
    s = torch.tensor([ExponentialScale(seed)(step) for step in range(draws)], dtype=torch.float64)
    difference = []
    for part in torch.split(s, PART):
        values, slopes = gradients(losses, start + part.unsqueeze(1) * ray)
        difference.append(values - first - (slopes * ray).sum(1))
    return torch.cat(difference).tolist(), s.tolist()


def identity(laboratory: Laboratory) -> Evidence:
    """By quadrature on a non-smooth function, and by draws on a ReLU net."""
    found = {density: gaps(density) for density in ("Exp(1)", "fixed", "uniform on [0, 2]")}
    draws = DRAWS[laboratory.budget]
    differences, scales = rise_and_slope(0, draws)
    unit = f"mean of {draws:,} draws"
    findings: list[Finding] = [
        criteria.exact(
            f"With s ~ Exp(1), E f(x + s d) - f(x) = E <grad f(x + s d), d> on {RAYS} non-smooth functions",
            max(found["Exp(1)"]),
            ROUNDING,
            "largest difference of the sides",
        ),
        *(
            criteria.holds(
                f"It takes Exp(1): with s {density}, of the same mean, the sides differ",
                "their mean difference is above .1",
                sum(found[density]) / RAYS > 0.1,
                sum(found[density]) / RAYS,
                "mean difference",
            )
            for density in ("fixed", "uniform on [0, 2]")
        ),
        criteria.expected(
            "The same on the loss of a ReLU net: the sides differ by 0 in the mean", differences, 0.0, unit
        ),
        criteria.expected("The library's s has mean 1", scales, 1.0, unit),
    ]
    drawn = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows: list[Sequence[Cell]] = [
        [density, *sides(density, drawn[0], drawn[1], drawn[2:]), sum(found[density]) / RAYS, max(found[density])]
        for density in found
    ]
    table = Table(
        "f(x) = sum |a_i x| - |x|_1 / 2 in three dimensions",
        ["s", "E f(x + s d) - f(x), first of 50", "E <grad, d>, first of 50", "mean difference", "largest difference"],
        rows,
    )
    return Evidence(
        findings,
        [table],
        {"Both sides against the length of the ray": _sides_chart()},
        ["Expectations over s on the non-smooth functions are quadrature between their kinks, not draws."],
    )


def _sides_chart() -> alt.LayerChart:
    """Both sides for rays of growing length, on the first function."""
    drawn = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lengths = [k / 10 for k in range(1, 41)]
    parts = []
    for density, place, name in (
        ("fixed", 0, "rise, s = 1"),
        ("fixed", 1, "slope, s = 1"),
        ("Exp(1)", 0, "rise, s ~ Exp(1)"),
        ("Exp(1)", 1, "slope, s ~ Exp(1)"),
    ):
        y = [sides(density, drawn[0], length * drawn[1], drawn[2:])[place] for length in lengths]
        parts.append(pl.DataFrame({"series": name, "x": lengths, "y": y, "low": y, "high": y}))
    return figure(parts, "Rise and slope against the length of the ray", "length of d", "value", points=False)


# Training.

FIELDS: Mapping[Budget, Field] = {
    "quick": Field("digits", 32, 900, 10),
    "evening": Field("fashion-mnist", 64, 2_000, 4, 1),
    "paper": Field("cifar10", 128, 20_000, 3, 1),
}
RATES = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)


def training(laboratory: Laboratory) -> Evidence:
    """Momentum with and without random scaling, each at its best rate."""
    field = FIELDS[laboratory.budget]
    shape = Cosine(1.0, 0.0, field.steps)
    both = {
        name: sweep(laboratory, field, rule, RATES, shape, momentum=0.9)
        for name, rule in (("momentum", "ema-momentum"), ("random scaling", "random-scaling"))
    }
    plain, scaled = both.values()
    findings = [
        criteria.equal(
            "Random scaling trains as well: test errors at the best rates", scaled.error, plain.error, SAME, ERROR
        )
    ]
    rows: list[Sequence[Cell]] = [
        [f"{rate:g}", shown(plain.errors_at(rate)), shown(scaled.errors_at(rate))] for rate in RATES
    ]
    rows.append(["chosen", *(f"{one.rates[one.best_for_error]:g}" for one in both.values())])
    table = Table(f"{field.problem}: test error by learning rate", ["learning rate, EMA form", *both], rows)
    chart = figure(
        [one.errors(name) for name, one in both.items()],
        "Test error against the learning rate",
        "learning rate, EMA form",
        "test error",
        log_x=True,
    )
    notes = [
        f"Momentum .9, cosine to 0. Rates chosen on {field.pilots} other seed(s); equal is within {SAME:g}.",
        "The paper trained ResNet-18 on CIFAR-10; its errors are not known to us. s has a heavy tail (5 % above 3), "
        "so the largest stable rate is smaller.",
    ]
    return Evidence(findings, [table], {"Test error against the learning rate": chart}, notes)


CLAIMS = (
    Claim(
        name="random-scaling-identity",
        sentence="Scaled by s ~ Exp(1), a step changes the loss in expectation by the slope at its end, smooth or not.",
        source=f"{PAPER}, key lemma",
        plans={budget: f"float64, seconds; {count:,} draws" for budget, count in DRAWS.items()},
        investigate=identity,
    ),
    Claim(
        name="random-scaling-training",
        sentence="Momentum with random scaling performs comparably to plain momentum.",
        source=f"{PAPER}, experiment",
        plans={budget: field.words for budget, field in FIELDS.items()},
        investigate=training,
    ),
)
