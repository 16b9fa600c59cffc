"""Whether `ravine.advise` is right: its predictions against what `ravine.compare` finds, cell by cell.

    python benchmarks/advice.py [--again] [--run] [--fit] [--score] [--problem NAME] [--most N] [--out FILE]

A cell is a problem, a batch size and a budget of steps; each was listed before it ran.
``--again`` measures the advice for the cells of FIT anew, where `advise` has changed; their studies stay.
``--run`` goes through the cells that are not yet in the file and keeps each at once, so it can be stopped at any
moment. ``--fit`` fits the predictor on the problems of FIT and writes `src/ravine/advice/coefficients.json`;
``--score`` judges it on those of SCORE, which no threshold has seen, and on those of FIT with each problem predicted by
the fit of the others: the hit rate with its interval, the calibration of P(pays), the Brier skill over always guessing
the commonest verdict (none where that guess is always right), and the regret of the recommended settings. Without a
word the last three.

The truth of a cell is the verdict on the two settings that its study recommends, over seeds alone: studies of this size
seldom decide with the interval that covers the search too. The scores against that verdict stand beside. Cells that
stay undecided have no truth to be scored against; they are counted and left out.

Intervals: a bootstrap over problems, whose cells go together: cells of one problem are no independent draws. Wilson's
interval of the hit rate, which takes them for such, stands beside.
"""

import argparse
import itertools
import json
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import ravine
from ravine.advice import predictor
from ravine.metrics import accuracy
from ravine.problems import Problem, quadratic
from ravine.problems import load as load_problem
from ravine.problems.autoencoders import ERROR
from ravine.problems.digits import digits
from ravine.study.declare import machine, versions
from ravine.study.infer import _verdict  # the rule of `compare`, on another interval

Row: TypeAlias = dict[str, Any]
Floats: TypeAlias = NDArray[np.float64]
VERDICTS = ("pays", "equal", "hurts")
TRUTH = "verdict_given_settings"
FULL = 1_000_000  # rows: the full batch, whatever the problem
LOSS_MARGIN = math.log(1.25)


# --- the problems -----------------------------------------------------------------------------------------------------


def _digit_rows() -> tuple[Tensor, Tensor]:
    inputs, targets = digits().train
    return inputs, targets


def noisy_quadratic() -> Problem:
    """The built-in `quadratic`: ten curvatures from 0.01 to 1, equal noise in all directions."""
    return quadratic()


def wide_quadratic() -> Problem:
    """Twenty curvatures over four decades, noise in proportion to them, little of it."""
    h = torch.logspace(-4, 0, 20, dtype=torch.float64)
    return quadratic(h, noise=0.02 * h, name="wide-quadratic")


def power_quadratic() -> Problem:
    """Thirty curvatures k^-2, noise in proportion to them."""
    h = torch.arange(1, 31, dtype=torch.float64) ** -2.0
    return quadratic(h, noise=0.02 * h, name="power-quadratic")


def noisy_ravine() -> Problem:
    """The built-in `ravine` with noise."""
    return quadratic((1.0, 100.0), noise=(0.3, 30.0), start=(10.0, 1.0), name="noisy-ravine")


def dense() -> Problem:
    """The built-in `digits`: dense net, accuracy."""
    return digits()


def softmax_regression() -> Problem:
    """Digits by softmax regression, judged by its loss."""
    inputs, targets = _digit_rows()
    return Problem(
        name="softmax-regression",
        model=lambda: nn.Linear(64, 10),
        loss=cross_entropy,
        train=(inputs, targets),
        test=digits().test,
        batch_size=64,
        steps=400,
    )


def deep_tanh() -> Problem:
    """Digits by six narrow tanh layers, judged by its loss."""

    def model() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(64, 24), nn.Tanh()]
        for _ in range(4):
            layers += [nn.Linear(24, 24), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(24, 10))

    return replace(softmax_regression(), name="deep-tanh", model=model)


def small_autoencoder() -> Problem:
    """Digits through a bottleneck of 8 and back, judged by the squared error."""
    inputs, _ = _digit_rows()
    widths = (64, 32, 8, 32, 64)

    def model() -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    test = digits().test[0]
    return Problem(
        name="small-autoencoder",
        model=model,
        loss=mse_loss,
        train=(inputs, inputs),
        test=(test, test),
        batch_size=64,
        steps=400,
    )


def convolutions() -> Problem:
    """Digits by a small convolutional net, accuracy."""
    inputs, targets = _digit_rows()
    test_inputs, test_targets = digits().test

    def model() -> nn.Module:
        first = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AvgPool2d(2)]
        return nn.Sequential(*first, nn.Flatten(), nn.Linear(72, 10))

    return Problem(
        name="convolutions",
        model=model,
        loss=cross_entropy,
        train=(inputs, targets),
        test=(test_inputs, test_targets),
        metrics={"accuracy": accuracy},
        batch_size=64,
        steps=400,
    )


def sine() -> Problem:
    """A sine of three periods with noise of .1, fitted by a tanh net of 32 and 32 units."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(1000, 1, generator=generator) - 1
    y = torch.sin(3 * math.pi * x) + 0.1 * torch.randn(1000, 1, generator=generator)
    model = lambda: nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))  # noqa: E731
    return Problem(
        name="sine",
        model=model,
        loss=mse_loss,
        train=(x[:800], y[:800]),
        test=(x[800:], y[800:]),
        batch_size=64,
        steps=400,
    )


Sizes: TypeAlias = tuple[tuple[int, int], ...]
"""(batch size, steps) of each cell of a problem."""


def each(batch_sizes: tuple[int, ...], budgets: tuple[int, ...]) -> Sizes:
    """Each batch size with each budget."""
    return tuple(itertools.product(batch_sizes, budgets))


@dataclass(frozen=True)
class Grid:
    """The cells of a problem."""

    make: Callable[[], Problem]
    sizes: Sizes
    endpoint: str = "loss"
    margin: float = LOSS_MARGIN


def shortened(name: str, trained: int, judged: int) -> Problem:
    """A built-in problem on its first training rows, with few rows to judge it by.

    A study judges a run up to a hundred times, so that of short runs on many rows it would do little else; and it looks
    at a quarter and half of the budget too, unless there is a schedule. Without validation rows of its own the
    problem's last training rows serve.
    """

    def first(count: int, pair: Any) -> Any:
        return tuple(rows[:count] for rows in pair)

    problem = load_problem(name)
    validation = problem.validation or tuple(rows[-judged:] for rows in problem.train)
    return replace(
        problem,
        train=first(trained, problem.train),
        validation=first(judged, validation),
        test=first(judged, problem.test),
        schedule=lambda step: 1.0,  # constant, so that T/4 and T/2 need no runs of their own
    )


# Margins of squared errors are about 5 % of the error of the mean picture.
LARGER: tuple[tuple[Any, ...], ...] = (  # name, rows to train on and to judge by, cells, and an endpoint but the loss
    ("mnist", 2000, 200, (*each((8, 200), (50, 400)), (FULL, 25), (FULL, 50), (FULL, 200))),
    ("curves-small", 2000, 200, (*each((8, 200), (50, 400)), (200, 2000)), ERROR, 1.0),
    ("mnist-autoencoder-small", 2000, 200, ((8, 50), (200, 100), (200, 1000)), ERROR, 2.5),
    ("faces-small", 2000, 200, ((8, 50), (8, 400), (200, 100)), ERROR, 30.0),
    ("fashion-mnist", 500, 100, ((8, 10), (40, 50), (200, 50))),
    ("cifar10", 300, 50, ((4, 25), (16, 10))),
    ("addition", 500, 100, each((8, 40), (10, 50))),
    ("multiplication", 500, 100, ((8, 10), (40, 50))),
    ("memorize-5", 32, 32, ((8, 10), (8, 50), (32, 50))),
    ("memorize-20", 500, 100, ((8, 10), (40, 50))),
    ("curves", 2000, 200, ((8, 25), (200, 50)), ERROR, 1.0),
    ("mnist-autoencoder", 500, 100, ((8, 25), (200, 50)), ERROR, 2.5),
    ("faces", 500, 100, ((8, 10), (40, 25)), ERROR, 30.0),
)
SCORE = {
    name: Grid(partial(shortened, name, trained, judged), sizes, *endpoint)
    for name, trained, judged, sizes, *endpoint in LARGER
}

# Ten problems, six cells each, came first. Pilots on cells of the first five were thrown away: five stayed undecided
# with 16 trials, 10 seeds and a margin of 5 % (and with 12, 24 and 25 %), seven of noisy-quadratic too, and 12 trials
# are fewer than a search can decide with. So the size of a study became 32 trials, 20 seeds and 25 %, the batches and
# budgets of the quadratics and the noise of power-quadratic were changed, and cells are scored on the interval given
# the settings. Fitted on the first five problems, advice was right in 76 % of the cells of the second five.
# Then those served to mend the forecast, and all ten are fitted on; it is scored on the other built-in problems, in
# studies of half the size. Forecast and coefficients were committed before any of their cells ran. Six cells (four of
# mnist, two of addition) were thrown away as pilots: by accuracy five stayed undecided, on many rows two took six
# minutes; so nets that classify and recur are judged by their loss, on fewer rows. After the first 17 cells the list of
# those to come was cut by a half, for time. All that were decided of the first 31 were `equal`, so six cells of whole
# batches or longer budgets were added to the list, where momentum should pay; none of these had run. Their data must be
# fetched. When all had run, the rate of the recommended momentum was lowered, and the fifteen cells for which momentum
# is recommended ran anew.
FIT = {
    "noisy-quadratic": Grid(noisy_quadratic, each((1, 16, 512), (50, 500))),
    "wide-quadratic": Grid(wide_quadratic, each((1, 64, 512), (50, 500))),
    "dense": Grid(dense, each((8, 64, FULL), (50, 400)), "accuracy", 0.01),
    "softmax-regression": Grid(softmax_regression, each((4, 64, FULL), (50, 400))),
    "small-autoencoder": Grid(small_autoencoder, each((8, 64, FULL), (50, 400))),
    "power-quadratic": Grid(power_quadratic, each((1, 32, 512), (50, 500))),
    "noisy-ravine": Grid(noisy_ravine, each((1, 32, 512), (50, 500))),
    "deep-tanh": Grid(deep_tanh, each((8, 64, FULL), (50, 400))),
    "convolutions": Grid(convolutions, each((8, 64, FULL), (50, 400)), "accuracy", 0.01),
    "sine": Grid(sine, each((8, 64, FULL), (50, 400))),
}
METHODS = ("sgd", "momentum")
STUDY_FITTED: dict[str, Any] = {"trials": 32, "tuning_seeds": 2, "seeds": 20}
STUDY_SCORED: dict[str, Any] = {"trials": 16, "tuning_seeds": 1, "seeds": 10, "executor": "single"}


@dataclass(frozen=True)
class Cell:
    """A problem at a batch size and a budget."""

    problem: str
    batch_size: int
    steps: int

    @property
    def name(self) -> str:
        """How the file calls it."""
        return f"{self.problem}, {'full batch' if self.batch_size == FULL else self.batch_size}, {self.steps} steps"

    @property
    def grid(self) -> Grid:
        """The cells of its problem, and what judges them."""
        return {**FIT, **SCORE}[self.problem]

    def build(self) -> Problem:
        """The problem of the cell."""
        return replace(self.grid.make(), batch_size=self.batch_size, steps=self.steps)


def cells() -> list[Cell]:
    """All cells, the problems in turn, so that a part of them is a fair part."""
    of_each = [[Cell(name, *sizes) for sizes in grid.sizes] for name, grid in {**FIT, **SCORE}.items()]
    return [cell for turn in itertools.zip_longest(*of_each) for cell in turn if cell is not None]


# --- running ----------------------------------------------------------------------------------------------------------


def advised(cell: Cell, problem: Problem) -> Row:
    """What `advise` says of a cell."""
    advice = ravine.advise(problem, endpoint=cell.grid.endpoint, margin=cell.grid.margin)
    return {
        "cell": cell.name,
        **asdict(cell),
        "endpoint": advice.endpoint,
        "margin": advice.margin,
        "gain": advice.gain,
        "feature": predictor.feature(advice.gain, advice.margin),
        "regime": advice.regime,
        "noise": advice.noise,
        "headroom": advice.headroom,
        "recommended": asdict(advice.recommended),
        "seconds_advice": advice.seconds,
    }


def again(row: Row) -> Row:
    """A row with its advice measured anew. The regret goes: the study tried what was recommended then."""
    cell = Cell(row["problem"], row["batch_size"], row["steps"])
    kept = {name: value for name, value in row.items() if name != "regret"}
    return {**kept, **advised(cell, cell.build())}


def run(cell: Cell, scratch: Path) -> Row:
    """Advises first, then compares; the recommended setting joins the comparison untuned."""
    problem = cell.build()
    row = advised(cell, problem)
    setting = row["recommended"]
    current: dict[str, Any] = {"method": setting["method"], "lr": setting["lr"]}
    if setting["method"] != "sgd":
        current["momentum"] = setting["momentum"]
    directory = Path(tempfile.mkdtemp(dir=scratch)) / "study"
    began = time.perf_counter()
    size = STUDY_FITTED if cell.problem in FIT else STUDY_SCORED
    comparison = ravine.compare(
        replace(problem, current=current),
        METHODS,
        endpoint=row["endpoint"],
        margin=row["margin"],
        workers=1,
        out=directory,
        **size,
    )
    seconds = time.perf_counter() - began
    verdict = comparison.verdict
    found = {(one["method"], one["versus"]): one for one in verdict["contrasts"]}
    momentum = found["momentum", "sgd"]
    over_advice = [found[method, "current"]["difference_given_settings"] for method in ("sgd", "momentum")]
    row |= {
        "seconds_study": seconds,
        "verdict": momentum["verdict"],
        "difference": momentum["difference"],
        "interval": momentum["interval"],
        "verdict_given_settings": _verdict(momentum["interval_given_settings"], verdict["margin"]),
        "difference_given_settings": momentum["difference_given_settings"],
        "interval_given_settings": momentum["interval_given_settings"],
        "regret": max(over_advice),  # of the recommended setting over the better of the two tuned ones
        "tuned": {name: one["settings"] for name, one in verdict["methods"].items()},
    }
    shutil.rmtree(directory.parent)
    return row


def load(path: Path) -> list[Row]:
    return json.loads(path.read_text())["rows"] if path.exists() else []


def keep(path: Path, rows: Sequence[Row], **more: Any) -> None:
    """Writes the file aside and renames it: it is whole at any moment."""
    content = {"machine": machine("cpu"), "versions": versions(), **more, "rows": list(rows)}
    aside = path.with_suffix(".writing")
    aside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    aside.replace(path)


# --- scoring ----------------------------------------------------------------------------------------------------------


def score(rows: Sequence[Row], truth_name: str, fitted: Callable[[str], predictor.Coefficients] | None = None) -> Row:
    """The predictions against the verdicts. fitted: the coefficients for a problem; without it the committed ones."""
    decided = [row for row in rows if row[truth_name] in VERDICTS]
    if not decided:
        return {"cells": len(rows), "undecided": len(rows)}
    problems = [row["problem"] for row in decided]
    coefficients = {name: fitted(name) if fitted else predictor.committed() for name in problems}
    chances = [predictor.probabilities(row["feature"], coefficients[row["problem"]]) for row in decided]
    truth = [row[truth_name] for row in decided]
    commonest = Counter(truth).most_common(1)[0][0]
    hits = [max(p, key=lambda v: p[v]) == t for p, t in zip(chances, truth, strict=True)]
    ours = np.array([_brier(p, t) for p, t in zip(chances, truth, strict=True)])
    guess = np.array([_brier({commonest: 1.0}, t) for t in truth])
    found = {
        "cells": len(rows),
        "undecided": len(rows) - len(decided),
        "verdicts": dict(Counter(truth)),
        "hit_rate": float(np.mean(hits)),
        "hit_rate_interval": bootstrap(problems, lambda k: float(np.mean(np.array(hits)[k]))),
        "hit_rate_wilson": wilson(sum(hits), len(hits)),
        "hit_rate_of_the_commonest": truth.count(commonest) / len(truth),
        "brier": float(ours.mean()),
        "brier_of_the_commonest": float(guess.mean()),
        "calibration": calibration([p["pays"] for p in chances], [t == "pays" for t in truth]),
        "misses": [row["cell"] for row, hit in zip(decided, hits, strict=True) if not hit],
    }
    if guess.any():
        found["brier_skill"] = _skill(ours, guess)
        found["brier_skill_interval"] = bootstrap(problems, lambda k: _skill(ours[k], guess[k]))
    if all("regret" in row for row in decided):
        regrets = np.array([row["regret"] / row["margin"] for row in decided])
        found["regret_in_margins"] = {
            "median": float(np.median(regrets)),
            "within_one": float((regrets <= 1).mean()),
            "within_one_interval": bootstrap(problems, lambda k: float((regrets[k] <= 1).mean())),
        }
    return found


def by_the_others(rows: Sequence[Row]) -> Row:
    """The score of the cells of FIT, each problem by coefficients that the others gave."""

    def fitted(problem: str) -> predictor.Coefficients:
        others = [row for row in rows if row["problem"] != problem]
        return predictor.fit([row["feature"] for row in others], [row[TRUTH] for row in others])

    return score(rows, TRUTH, fitted)


def _brier(chances: dict[Any, float], truth: str) -> float:
    return sum((chances.get(v, 0.0) - (v == truth)) ** 2 for v in VERDICTS)


def _skill(ours: Floats, guess: Floats) -> float:
    """1 - ours / guess; NaN where the guess is always right."""
    return 1 - float(ours.mean() / guess.mean()) if guess.mean() > 0 else math.nan


def wilson(hits: int, count: int, z: float = 1.96) -> list[float]:
    """Wilson's 95 % interval of a share."""
    share, more = hits / count, z * z / count
    middle = (share + more / 2) / (1 + more)
    half = z * math.sqrt(share * (1 - share) / count + more / (4 * count)) / (1 + more)
    return [middle - half, middle + half]


def bootstrap(problems: Sequence[str], value: Callable[[Any], float], draws: int = 4000) -> list[float]:
    """95 % of what a value of cells would be, with the problems drawn again; draws without a value are left out."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(np.array(problems) == name) for name in dict.fromkeys(problems)]
    found = [value(np.concatenate([groups[k] for k in rng.choice(len(groups), len(groups))])) for _ in range(draws)]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return [float(low), float(high)]


def calibration(chances: Sequence[float], happened: Sequence[bool]) -> list[Row]:
    """Of the cells with a stated P(pays) in each quarter: the mean stated, the share that came, how many."""
    p, y = np.array(chances), np.array(happened)
    found: list[Row] = []
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (p >= low) & (p < low + 0.25 if low < 0.75 else p <= 1)
        if inside.any():
            found.append(
                {"stated": float(p[inside].mean()), "came": float(y[inside].mean()), "cells": int(inside.sum())}
            )
    return found


def main() -> None:
    """Runs what is missing, fits, scores, prints, keeps."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("again", "run", "fit", "score"):
        words.add_argument(f"--{name}", action="store_true")
    words.add_argument("--problem", choices=[*FIT, *SCORE])
    words.add_argument("--most", type=int, default=len(cells()), help="stop after so many cells")
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "advice.json")
    given = words.parse_args()
    everything = not (given.again or given.run or given.fit or given.score)
    rows, console = load(given.out), Console()
    if given.again:
        rows = [again(row) if row["problem"] in FIT else row for row in rows]
        keep(given.out, rows)
    if given.run or everything:
        with tempfile.TemporaryDirectory() as scratch:
            done = {row["cell"] for row in rows}
            left = [one for one in cells() if one.name not in done and given.problem in (None, one.problem)]
            for cell in left[: given.most]:
                rows.append(run(cell, Path(scratch)))
                keep(given.out, rows)
                last = rows[-1]
                console.print(f"{cell.name}: x = {last['feature']:.2f}, {last[TRUTH]}, {last['seconds_study']:.0f} s")
    if given.fit or everything:
        chosen = [row for row in rows if row["problem"] in FIT]
        fitted = predictor.fit([row["feature"] for row in chosen], [row[TRUTH] for row in chosen])
        predictor.write(fitted, "python benchmarks/advice.py --fit", list(FIT), len(chosen))
        console.print(fitted)
    if given.score or everything:
        held_out = [row for row in rows if row["problem"] in SCORE]
        scored = {name: score(held_out, name) for name in (TRUTH, "verdict")}
        scored["fitted, by the others"] = by_the_others([row for row in rows if row["problem"] in FIT])
        table = Table("what", *scored)
        for name in dict.fromkeys(key for one in scored.values() for key in one):
            table.add_row(name, *(json.dumps(one.get(name)) for one in scored.values()))
        console.print(table)
        keep(given.out, rows, coefficients=asdict(predictor.committed()), held_out=scored)


if __name__ == "__main__":
    main()
