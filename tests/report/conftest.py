"""A synthetic study with the shapes of a real one: a verdict, its runs, its declaration and its cost.

`python tests/report/conftest.py OUT.html [loss] [diverging] [plain] [full]` writes the report of it, to be looked at.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ravine.study.infer import CHANCES, Finalists, contrasts
from ravine.study.targets import contrast_times, ladder

STEPS, POINTS = 1000, 100
TUNING, EVALUATION = range(3), range(100, 120)
MOMENTUM = {"sgd": None, "adagrad": None, "momentum": "momentum", "nesterov": "momentum", "adam": "beta1"}
# best effective learning rate, score there, learning rate that diverges
TRUTH = {
    "sgd": (0.5, 0.955, 1.6),
    "momentum": (0.5, 0.958, 1.5),
    "nesterov": (0.6, 0.978, 1.9),
    "adagrad": (0.05, 0.957, 0.3),
    "adam": (0.008, 0.962, 0.06),
}


@dataclass
class Study:
    """The four arguments of `ravine.report.write`."""

    verdict: dict[str, Any]
    runs: pl.DataFrame
    study: dict[str, Any]
    cost: dict[str, Any]


def effective(method: str, hyper: Mapping[str, float]) -> float:
    """Learning rate that is comparable across momenta."""
    return hyper["lr"] / (1 - hyper["momentum"]) if "momentum" in hyper else hyper["lr"]


def evaluations(steps: int) -> np.ndarray:
    """After which steps a run is evaluated."""
    return np.unique(np.linspace(1, steps, POINTS).round().astype(int))


def train(
    method: str, phase: str, hyper: Mapping[str, float], seed: int, steps: int, diverges: bool = False
) -> dict[str, Any]:
    """One run: an exponential approach to a score that is quadratic in the logarithm of the effective learning rate."""
    best, top, edge = TRUTH[method]
    rate = effective(method, hyper)
    shared = np.random.default_rng(seed)  # what the methods have in common at this seed
    own = np.random.default_rng([seed, round(rate * 1e6), len(method)])
    shared_shift = 0.006 * shared.standard_normal()
    final = top - 0.03 * math.log10(rate / best) ** 2 - 0.1 * max(0.0, math.log10(rate / edge) + 0.25)
    final += shared_shift + 0.003 * own.standard_normal()
    step = evaluations(steps)
    speed = 60 * (best / rate) ** 0.7 / (1.6 if method in ("momentum", "nesterov") else 1.0)
    accuracy = final - (final - 0.1) * np.exp(-step / speed) + 0.004 * own.standard_normal(len(step))
    accuracy = np.clip(accuracy, 0.05, 0.999)
    loss = 3.2 * (1 - accuracy) ** 1.1 + 0.02
    diverges = diverges or rate > edge * (0.9 + 0.2 * own.random())
    at = int(step[len(step) // 3]) if diverges else None
    kept = slice(0, len(step) // 3 + 1) if diverges else slice(None)
    tested = phase in ("evaluate", "fixed", "defaults", "horizon")
    row: dict[str, Any] = {
        "method": method,
        "phase": phase,
        "seed": seed,
        "steps": steps,
        **hyper,
        "diverged_at": at,
        "initial_loss": 2.31,
        "step": step[kept].tolist(),
        "train_loss": (0.8 * loss)[kept].tolist(),
        "final_train_loss": float(0.8 * loss[-1]),
        "validation_loss": loss[kept].tolist(),
        "validation_accuracy": accuracy[kept].tolist(),
        "test_loss": (1.05 * loss)[kept].tolist() if tested else None,
        "test_accuracy": (accuracy - 0.005)[kept].tolist() if tested else None,
        "seconds": 0.4,
        "chunk": f"{phase}-{method}",
    }
    if diverges:
        row["validation_loss"][-1] = math.nan
    return row


def points(method: str, trials: int) -> list[dict[str, float]]:
    """Half of the points over the box, half near the optimum."""
    rng = np.random.default_rng(len(method))
    best, _, edge = TRUTH[method]
    found = []
    for trial in range(trials):
        coarse = trial < trials // 2
        rate = edge * 10 ** rng.uniform(-3, 0.3) if coarse else best * 10 ** rng.uniform(-0.35, 0.5)
        name = MOMENTUM[method]
        if name is None:
            found.append({"lr": rate})
            continue
        gap = 10 ** rng.uniform(math.log10(0.003), math.log10(0.5))
        if name == "momentum":
            gap = max(gap, rate * gap / 5)
            found.append({"lr": rate * gap, name: 1 - gap})
        else:
            found.append({"lr": rate, name: 1 - gap})
    return found


def score(run: Mapping[str, Any], split: str, loss: bool) -> float:
    """Larger is better; the worst where the run diverged."""
    if run["diverged_at"] is not None:
        return -math.log(3 * run["initial_loss"]) if loss else 0.0
    if loss:
        return -math.log(run[f"{split}_loss"][int(np.argmin(run["validation_loss"]))])
    return float(run[f"{split}_accuracy"][int(np.argmax(run["validation_accuracy"]))])


def along(run: Mapping[str, Any], loss: bool) -> np.ndarray:
    """The validation scores of a run, the worst from its divergence on."""
    scores = -np.log(run["validation_loss"]) if loss else np.array(run["validation_accuracy"])
    worst = score(run, "validation", loss)
    lost = run["diverged_at"] is not None
    return np.append(scores[:-1] if lost else scores, [worst] * (POINTS - len(scores) + lost))


def synthetic(
    methods: Iterable[str] = ("sgd", "momentum", "nesterov", "adam"),
    *,
    loss: bool = False,
    diverging: str | None = None,
    trials: int = 64,
    full: bool = False,
) -> Study:
    """A study of `methods`, the first one the baseline; every run of the method `diverging` diverges."""
    names = list(methods)
    baseline, margin = names[0], math.log(1.05) if loss else 0.01
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    judged: dict[str, Finalists] = {}
    curves: dict[str, np.ndarray] = {}
    face: list[dict[str, float]] = []
    for method in names:
        lost, contains = method == diverging, MOMENTUM[method] == "momentum" and "sgd" in names
        rows += [train(method, "probe", {"lr": 4.0**k}, 0, 50) for k in range(-3, 2)]
        own = points(method, trials - len(face) if contains else trials)
        means: list[tuple[float, dict[str, float]]] = []
        for index, hyper in enumerate(own):
            phase = "coarse" if index < len(own) // 2 else "local"
            tuned = [train(method, phase, hyper, seed, STEPS, lost) for seed in TUNING]
            rows += tuned
            means.append((float(np.mean([score(run, "validation", loss) for run in tuned])), hyper))
        if method == "sgd":
            face = own[: trials // 4]
        best = sorted(means, key=lambda pair: -pair[0])[:4]
        runs = [[train(method, "evaluate", hyper, seed, STEPS, lost) for seed in EVALUATION] for _, hyper in best]
        rows += [run for of in runs for run in of]
        judged[method] = Finalists(
            np.array([[score(run, "test", loss) for run in of] for of in runs]),
            np.array(CHANCES),
            np.array([[run["diverged_at"] is not None for run in of] for of in runs]),
            trials,
        )
        curves[method] = np.stack([along(run, loss) for run in runs[0]])
        facts[method] = {
            "settings": best[0][1],
            "score": best[0][0],
            "trials": trials,
            "finalists": [
                {"settings": hyper, "weight": weight, "mean": float(judged[method].scores[rank].mean())}
                for rank, ((_, hyper), weight) in enumerate(zip(best, CHANCES, strict=True))
            ],
            "ranges": {name: [min(c[name] for c in own), max(c[name] for c in own)] for name in own[0]},
            "diverged": int(judged[method].diverged[0].sum()),
        }
    against = [(method, baseline) for method in names[1:]]
    family = [*against, ("nesterov", "momentum")] if {"momentum", "nesterov"} <= set(names) else against

    def judge(pairs: Iterable[tuple[str, str]], shift: float = 0.0, **settings: float) -> list[dict[str, Any]]:
        """The contrasts of a family; `shift` moves all methods but the baseline."""
        moved = {m: replace(of, scores=of.scores + shift * (m != baseline)) for m, of in judged.items()}
        found = [asdict(contrast) for contrast in contrasts(moved, list(pairs), margin)]
        return [json.loads(json.dumps(c | {"settings": settings or facts[c["method"]]["settings"]})) for c in found]

    kept = ("method", "versus", "difference", "interval", "seeds", "diverged", "settings")
    secondary = {
        "endpoint": "loss",
        "unit": "log-ratio of loss",
        "contrasts": [{key: c[key] for key in kept} for c in judge(against, 0.2)],
    }
    variance = {
        "expected": {},
        "interval": {},
        "pairs": [
            {"method": m, "versus": v, "wins": [0.5 + k / 200 for k in range(trials)], "tuning_share": [0.3] * trials}
            for m, v in family
        ],
    }
    steps = evaluations(STEPS).tolist()
    verdict = {
        "problem": "digits",
        "baseline": baseline,
        "endpoint": "loss" if loss else "accuracy",
        "unit": "log-ratio of loss" if loss else "accuracy",
        "margin": margin,
        "contrasts": judge(family),
        "methods": facts,
        "equal_dimension": judge(
            [pair for pair in against if MOMENTUM[pair[0]] == "momentum"], 0.004, lr=0.05, momentum=0.9
        ),
        "defaults": judge(against, -0.02, lr=0.001),
        "horizons": [
            {"steps": STEPS // 4, "contrasts": judge(against, 0.05)},
            {"steps": STEPS // 2, "contrasts": judge(against, 0.01)},
        ],
        "secondary": [secondary] if not loss else [],
        "time_to_target": [
            json.loads(json.dumps(asdict(time)))
            for m, v in against
            for time in contrast_times((m, curves[m]), (v, curves[v]), steps, ladder(curves[baseline]))
        ],
        "study_variance": variance if full else None,
        "warnings": ["nesterov: the best lr, 0.289, is at the boundary of the range 0.0001 to 0.32 after 2 extensions"],
        "caveats": [
            "adam: beta2 is held at 0.999, not tuned.",
            "The learning rate is constant.",
            "Batch size 16 and 1000 steps are given.",
        ],
    }
    study = {
        "format": 1,
        "source": {
            "kind": "built-in",
            "name": "digits",
            "path": None,
            "sha256": None,
            "data_sha256": "9f86d081884c7d65",
        },
        "problem": "digits",
        "methods": names,
        "baseline": baseline,
        "steps": STEPS,
        "batch_size": 16,
        "trials": trials,
        "tuning_seeds": len(TUNING),
        "seeds": len(EVALUATION),
        "alpha": 0.05,
        "study_seed": 0,
        "horizons": True,
        "full": False,
        "current": None,
        "endpoint": {
            "name": verdict["endpoint"],
            "higher_is_better": not loss,
            "worst": None if loss else 0.0,
            "unit": verdict["unit"],
            "margin": margin,
        },
        "held": {"weight_decay": 0.0, "clip": None, "schedule": False, "dtype": None, "sampling": "shuffled"},
        "evaluations": steps,
        "execution": {
            "engine": "local",
            "device": "cpu",
            "executor": "stacked",
            "size": 64,
            "reason": "it was the fastest in a measurement",
            "workers": 2,
            "threads": 1,
        },
        "versions": {"python": "3.11.2", "ravine": "0.1.0", "torch": "2.13.0"},
        "machine": {"system": "Linux x86_64", "cores": 2.0, "memory_gib": 15.6},
    }
    cost = {m: {"gradient_equivalents": 1.0, "seconds_per_step": 0.00021 + 0.00003 * k} for k, m in enumerate(names)}
    return Study(verdict, pl.DataFrame(rows, infer_schema_length=None), study, cost)


@pytest.fixture(scope="session")
def make() -> Callable[..., Study]:
    return synthetic


if __name__ == "__main__":
    from ravine.report import write

    kinds = set(sys.argv[2:])
    methods = ("sgd", "adagrad") if "plain" in kinds else ("sgd", "momentum", "nesterov", "adam")
    made = synthetic(
        methods, loss="loss" in kinds, full="full" in kinds, diverging="momentum" if "diverging" in kinds else None
    )
    print(write(made.verdict, made.runs, made.study, made.cost, Path(sys.argv[1])))
