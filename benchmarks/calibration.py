"""Whether the statistics keep their promises: simulated studies with a known truth.

    python benchmarks/calibration.py [--studies 1000] [--out benchmarks/results/calibration.json]

1. Coverage of the interval of a mean paired difference, for five kinds of noise.
2. Error rates with the true difference exactly at the margin.
3. Power: the difference that a study should find four times in five, and how often it does.
4. A/A: whole searches (`ravine.study.search.tune`, the same coroutine that drives real studies) of one method against
   itself, on simulated training runs: independent search points and tuning seeds, shared evaluation seeds.
"""

import argparse
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from ravine.study.infer import Contrast, Finalists, contrasts
from ravine.study.methods import get
from ravine.study.power import detectable, seeds_needed
from ravine.study.runner import Curves
from ravine.study.search import Request, Run, Settings, drive, judge, tune

Floats = NDArray[np.float64]
Row = dict[str, Any]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]

DRAWS = 4000
MARGIN = 0.01


# --- 1 to 3: given settings -------------------------------------------------------------------------------------------


def _binomial(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Differences of two accuracies of .96 on 360 test rows."""
    return (generator.binomial(360, 0.96, shape) - generator.binomial(360, 0.96, shape)) / 360


def _lognormal(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return np.exp(generator.normal(size=shape)) - math.exp(0.5)


def _censored(generator: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Differences of two times with mean 1, both censored at 1.5; the second method is 1.5 times slower."""
    fast, slow = (np.minimum(generator.exponential(mean, shape), 1.5) for mean in (1.0, 1.5))
    expected = [mean * (1 - math.exp(-1.5 / mean)) for mean in (1.0, 1.5)]
    return slow - fast - (expected[1] - expected[0])


NOISES: dict[str, tuple[Noise, bool]] = {  # and whether 93 to 97 % is required
    "gaussian": (lambda g, shape: g.normal(size=shape), True),
    "t3": (lambda g, shape: g.standard_t(3, size=shape), True),
    "binomial": (_binomial, True),
    "lognormal": (_lognormal, False),
    "censored": (_censored, False),
}


def given_settings(differences: Floats, margin: float = 0.0) -> list[Contrast]:
    """One contrast of two given settings per row of paired differences."""
    nothing = np.zeros((1, differences.shape[1]), dtype=bool)
    versus = Finalists(np.zeros(nothing.shape), np.ones(1), nothing)
    return [
        contrasts({"a": Finalists(row[None], np.ones(1), nothing), "b": versus}, [("a", "b")], margin)[0]
        for row in differences
    ]


def coverage() -> list[Row]:
    """How often the interval holds the true difference."""
    rows = []
    for name, (noise, required) in NOISES.items():
        for n in (5, 10, 20):
            draws = noise(np.random.default_rng([n, 1]), (DRAWS, n))
            hits = sum(c.interval[0] <= 0 <= c.interval[1] for c in given_settings(draws))
            rows.append({"noise": name, "seeds": n, "required": required and n >= 10, **rate("covered", hits, DRAWS)})
    return rows


def edge() -> list[Row]:
    """Verdicts with the true difference exactly at the margin: two standard deviations of one difference."""
    rows = []
    for name, (noise, _) in NOISES.items():
        for n in (10, 20):
            draws = noise(np.random.default_rng([n, 2]), (DRAWS, n))
            margin = 2 * float(draws.std())
            found = [c.verdict for c in given_settings(draws + margin, margin)]
            rates = {**rate("pays", found.count("pays"), DRAWS), **rate("equal", found.count("equal"), DRAWS)}
            rows.append({"noise": name, "seeds": n, **rates})
    return rows


def power() -> list[Row]:
    """Planted effects: `detectable` and `seeds_needed` against how often the verdict is found."""
    rows = []
    for n in (5, 10, 20, 50):
        planted = detectable(n, 0.02, MARGIN)
        draws = np.random.default_rng([n, 3]).normal(planted, 0.02, (DRAWS, n))
        found = sum(c.verdict == "pays" for c in given_settings(draws, MARGIN))
        rows.append(
            {"planted": planted, "deviation": 0.02, "seeds": n, "verdict": "pays", **rate("found", found, DRAWS)}
        )
    for planted, verdict in ((0.0, "equal"), (0.03, "pays"), (-0.03, "hurts")):
        seeds = seeds_needed(planted, MARGIN, 0.02**2)
        assert seeds is not None
        draws = np.random.default_rng([seeds, 4]).normal(planted, 0.02, (DRAWS, seeds))
        found = sum(c.verdict == verdict for c in given_settings(draws, MARGIN))
        rows.append(
            {"planted": planted, "deviation": 0.02, "seeds": seeds, "verdict": verdict, **rate("found", found, DRAWS)}
        )
    return rows


def rate(name: str, hits: int, total: int) -> Row:
    """A share with its exact (Clopper-Pearson) 95 % interval."""
    interval = stats.binomtest(hits, total).proportion_ci(method="exact")
    return {name: hits / total, f"{name}_interval": [float(interval.low), float(interval.high)]}


# --- 4: whole searches ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Landscape:
    """A response surface in (log of the effective learning rate, log(1 - momentum)).

    The expected accuracy falls from `top` by `curvature` times the squared distance from the optimum (natural logs);
    below the optimum by `slope` times the distance too. Seeds shift it for all methods alike (`seed_noise`); every run
    has noise of its own (`run_noise`), and validation adds that of few rows (`row_noise`, counted in 1/287). Training
    fails beyond `limit` (1 + momentum) times exp(`roughness` z), half of z from the seed and half from the run.
    """

    method: str
    top: float
    curvature: float
    slope: float = 0.0
    optimum: float = 0.3
    limit: float = 1.3
    roughness: float = 0.3
    seed_noise: float = 0.004
    run_noise: float = 0.004
    row_noise: float = 0.008


LANDSCAPES = {
    "plateau, sgd": Landscape("sgd", 0.975, 0.001),
    "plateau, momentum": Landscape("momentum", 0.975, 0.001),
    "noisy runs, momentum": Landscape("momentum", 0.96, 0.001, run_noise=0.012),
    "peaked, momentum": Landscape("momentum", 0.975, 0.02),
    "cliff, sgd": Landscape("sgd", 0.80, 0.0, slope=0.05, optimum=1.3),
    "cliff, momentum": Landscape("momentum", 0.80, 0.004, slope=0.05, optimum=3.0),
    "at the edge, sgd": Landscape("sgd", 0.975, 0.0, slope=0.004, optimum=1.3, roughness=0.2),
    "at the edge, momentum": Landscape("momentum", 0.975, 0.001, slope=0.004, optimum=2.0, roughness=0.2),
}
FAILED = 0.1  # accuracy by chance
INITIAL = 2.3


class Simulator:
    """Answers requests of one simulated study: the same seeds for both copies, fresh noise for every run."""

    def __init__(self, landscape: Landscape, study: int) -> None:
        self.landscape, self.study = landscape, study
        self.generator = np.random.default_rng([study, 5])
        self.seeds: dict[int, Floats] = {}

    def __call__(self, requests: list[Request]) -> dict[Run, Curves]:
        runs = [run for request in requests for run in request.runs]
        land = self.landscape
        lr = np.array([dict(run.hyper)["lr"] for run in runs])
        complement = np.array([1 - dict(run.hyper).get("momentum", 0.0) for run in runs])
        for seed in {run.seed for run in runs} - self.seeds.keys():
            self.seeds[seed] = np.random.default_rng([self.study, 6, seed]).normal(size=2)
        shift, lot = np.array([self.seeds[run.seed] for run in runs]).T
        noise = self.generator.normal(size=(4, len(runs)))

        distance = np.log(lr / complement / land.optimum)
        expected = land.top - land.curvature * (distance**2 + np.log(complement / 0.1) ** 2 / 2)
        expected -= land.slope * np.maximum(-distance, 0)
        limit = land.limit * (2 - complement) * np.exp(land.roughness * (lot + noise[0]) / math.sqrt(2))
        failed = lr >= limit
        true = np.where(failed, FAILED, expected + land.seed_noise * shift + land.run_noise * noise[1])
        true = np.clip(true, FAILED, 1)
        validation = np.clip(np.round(287 * (true + land.row_noise * noise[2])) / 287, 0, 1)
        loss = np.maximum(INITIAL * (1 - true + 0.5 * land.row_noise * noise[3]), 1e-3)
        trained = np.where(failed, 1.001, 1 / (1 + lr / complement / land.optimum))
        return {
            run: Curves(
                INITIAL,
                float(INITIAL * trained[i]),
                1 if lr[i] >= 4 * limit[i] else None,
                (run.steps,),
                {"accuracy": validation[i : i + 1], "loss": loss[i : i + 1]},
                {"accuracy": true[i : i + 1], "loss": loss[i : i + 1]} if run.test else None,
            )
            for i, run in enumerate(runs)
        }


def copies(
    method: str, steps: int, study: int, ask: Callable[[list[Request]], Mapping[Run, Curves]]
) -> list[Finalists]:
    """Two independent searches of a method, scored on the same 20 evaluation seeds; `ask` answers for the training."""
    settings = Settings(
        trials=64,
        tuning_seeds=3,
        seeds=20,
        steps=steps,
        endpoint="accuracy",
        higher_is_better=True,
        worst=0.0,
        study_seed=study,
        horizons=False,
    )
    found = []
    for copy in (0, 1):
        own = replace(settings, copy=copy)
        (tuned,) = drive([tune(get(method), own)], ask)
        runs = [run for c in tuned.finalists for run in c.runs(own.evaluation, own.steps, test=True)]
        results = ask([Request("evaluate", tuple(dict.fromkeys(runs)))])
        found.append(judge(tuned.finalists, own, results, trials=len(tuned.trials)))
    return found


def study(landscape: Landscape, number: int) -> Row:
    """One simulated study of a method against itself, and what it says of planted differences."""
    a, b = copies(landscape.method, 1000, number, Simulator(landscape, number))

    def judged(planted: float, margin: float) -> Contrast:
        better = replace(a, scores=a.scores + planted)
        return contrasts({"a": better, "b": b}, [("a", "b")], margin)[0]

    same = judged(0.0, 0.0)
    low, high = same.interval_given_settings
    return {
        "same": same.verdict,
        "given settings": not low <= 0 <= high,
        "at the margin": judged(MARGIN, MARGIN).verdict,
        "planted": judged(5 * MARGIN, MARGIN).verdict,
        "difference": same.difference,
        "winners": same.difference_given_settings,
        "half": (same.interval[1] - same.interval[0]) / 2,
        "search": same.search_share,
    }


def against_itself(studies: int) -> list[Row]:
    """Rates of false verdicts over simulated studies, per landscape."""
    rows = []
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name, landscape in LANDSCAPES.items():
            found = list(pool.map(partial(study, landscape), range(studies), chunksize=20))
            false = sum(row["same"] in ("pays", "hurts") for row in found)
            rows.append(
                {
                    "landscape": name,
                    "studies": studies,
                    **rate("false", false, studies),
                    **rate("false_by_seeds_alone", sum(row["given settings"] for row in found), studies),
                    **rate("pays_at_margin", sum(row["at the margin"] == "pays" for row in found), studies),
                    **rate("equal_at_margin", sum(row["at the margin"] == "equal" for row in found), studies),
                    **rate("pays_at_5_margins", sum(row["planted"] == "pays" for row in found), studies),
                    "deviation": float(np.std([row["difference"] for row in found])),
                    "deviation_of_winners": float(np.std([row["winners"] for row in found])),
                    "median_half_width": float(np.median([row["half"] for row in found])),
                    "median_search_share": float(np.median([row["search"] for row in found])),
                }
            )
    return rows


# --- the report -------------------------------------------------------------------------------------------------------


def show(console: Console, title: str, rows: list[Row]) -> None:
    """Prints rows as a table; a rate stands with its interval, in per cent."""
    table = Table(title=title, title_justify="left")
    columns = [name for name in rows[0] if not name.endswith("_interval")]
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(_cell(row, name) for name in columns))
    console.print(table)


def _cell(row: Row, name: str) -> str:
    value = row[name]
    if f"{name}_interval" in row:
        low, high = row[f"{name}_interval"]
        return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Runs all parts, prints the tables, writes the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--studies", type=int, default=1000, help="simulated A/A studies per landscape")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "calibration.json")
    options = parser.parse_args()

    parts = {
        "Coverage of the 95 % interval (required 93 to 97 where required)": coverage(),
        "True difference at the margin (pays at most 2.5, equal at most 5)": edge(),
        "Planted effects (stated power 80)": power(),
        "A method against itself, whole searches (false at most 5)": against_itself(options.studies),
    }
    console = Console(width=180)
    for title, rows in parts.items():
        show(console, title, rows)
    record = {
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "margin": MARGIN,
        "landscapes": {name: asdict(landscape) for name, landscape in LANDSCAPES.items()},
        **dict(zip(("coverage", "edge", "power", "against_itself"), parts.values(), strict=True)),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    console.print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
