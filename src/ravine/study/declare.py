"""The declaration of a study, `study.json`: everything that its result depends on, fixed before the first step."""

import hashlib
import math
import platform
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import psutil
import torch
from pydantic import BaseModel, ConfigDict, Field

from ravine import __version__
from ravine.errors import UserError
from ravine.fleet.choose import Choice
from ravine.fleet.train import DIVERGED, PATIENCE, Executor, evaluation_steps
from ravine.problems import Data, Problem, digest
from ravine.study import methods as registry
from ravine.study.engine import cores
from ravine.study.search import Settings, not_positive

LEAST = {
    "trials": 1,
    "tuning_seeds": 1,
    "seeds": 2,
    "steps": 1,
    "batch_size": 1,
    "margin": 0,
    "study_seed": 0,
    "time": 1,
}
METRIC_MARGIN = 0.01
LOSS_MARGIN = math.log(1.05)


class Frozen(BaseModel):
    """A part of a declaration."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Frozen):
    """Where the problem comes from: a built-in name, a file (with its digest), or an object that a program made."""

    kind: Literal["built-in", "file", "object"]
    name: str
    path: str | None = None
    sha256: str | None = None
    data_sha256: str


class Endpoint(Frozen):
    """What decides: a metric in its unit, or the loss as the logarithm of a ratio. `worst`: what divergence scores."""

    name: str
    higher_is_better: bool
    worst: float | None
    unit: str
    margin: float = Field(ge=0)


class Secondary(Frozen):
    """A further endpoint: differences and intervals, but no verdict."""

    name: str
    higher_is_better: bool
    worst: float | None


class Held(Frozen):
    """What is held fixed for all methods, and so is a caveat of every verdict."""

    weight_decay: float
    clip: float | None
    schedule: bool
    dtype: str | None
    sampling: str


class Execution(Frozen):
    """How runs are trained; kept by `resume`, because it decides the last bits of every number."""

    engine: Literal["local"] = "local"
    device: str
    executor: Executor
    size: int = Field(ge=1, description="most runs in a chunk")
    reason: str
    seconds_per_run_step: dict[str, float]
    workers: int = Field(ge=1)
    threads: int = 1


class Declaration(Frozen):
    """A study, declared."""

    format: Literal[1] = 1
    source: Source
    problem: str
    methods: tuple[str, ...]
    baseline: str
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    trials: int = Field(ge=1)
    tuning_seeds: int = Field(ge=1)
    seeds: int = Field(ge=2)
    endpoint: Endpoint
    secondary: tuple[Secondary, ...]
    alpha: float = 0.05
    study_seed: int = Field(ge=0)
    horizons: bool
    full: bool
    current: dict[str, str | float] | None
    held: Held
    evaluations: tuple[int, ...]
    divergence: dict[str, float] = {"loss_factor": DIVERGED, "evaluations": PATIENCE}
    execution: Execution
    versions: dict[str, str]
    machine: dict[str, str | float]

    @property
    def settings(self) -> Settings:
        """What the search of every method has in common."""
        return Settings(
            trials=self.trials,
            tuning_seeds=self.tuning_seeds,
            seeds=self.seeds,
            steps=self.steps,
            endpoint=self.endpoint.name,
            higher_is_better=self.endpoint.higher_is_better,
            worst=self.endpoint.worst,
            study_seed=self.study_seed,
            horizons=self.horizons,
            secondary=tuple((one.name, one.higher_is_better, one.worst) for one in self.secondary),
        )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The contrasts: each method against the baseline, the current setting too, and Nesterov against heavy ball."""
        pairs = [(method, self.baseline) for method in self.methods if method != self.baseline]
        if self.current is not None:
            pairs += [(method, "current") for method in self.methods]
        heavy_ball = ("nesterov", "momentum")
        if set(heavy_ball) <= set(self.methods) and heavy_ball not in pairs and self.baseline != "nesterov":
            pairs.append(heavy_ball)
        return pairs


def check_words(methods: tuple[str, ...], baseline: str, **counts: float | None) -> tuple[str, ...]:
    """The methods of a study, the baseline among them. Raises UserError at a wrong word or number."""
    for name in (*methods, baseline):
        registry.get(name)
    if len(set(methods)) < len(methods):
        raise UserError(f"a method is named twice in {', '.join(methods)}; name each once")
    if len({*methods, baseline}) < 2:
        raise UserError(f"there is nothing to compare {baseline} with: name at least one other method")
    check_numbers(**counts)
    return methods if baseline in methods else (baseline, *methods)


def check_numbers(**numbers: float | None) -> None:
    """Raises UserError if a number of a study is too small or not finite; None is the usual one."""
    for name, value in numbers.items():
        if value is not None and not (value >= LEAST[name] and math.isfinite(value)):
            raise UserError(f"{name.replace('_', ' ')} is {value}: give at least {LEAST[name]}")


def check_curvature(methods: Sequence[str], problem: Problem) -> None:
    """Raises UserError if a method needs the Gauss-Newton matrix of a loss that has none."""
    for name in methods:
        if registry.get(name).second_order and problem.loss is None:
            raise UserError(
                f"problem '{problem.name}' has a batch_loss=, and {name} needs to see the outputs: write it with loss="
                " (outputs, targets), or leave the method out"
            )


def endpoint_of(problem: Problem, name: str | None, margin: float | None, smallest_loss: float) -> Endpoint:
    """The primary endpoint: the metric of that name, else the first that the problem declares, else the loss.

    smallest_loss: of those seen before the first step. Raises UserError if it has no logarithm and the loss is to
    decide.
    """
    if name is None:
        name = next(iter(problem.metrics), "loss")
    if name == "loss":
        if smallest_loss <= 0:
            raise UserError(not_positive(smallest_loss))
        given = LOSS_MARGIN if margin is None else margin
        return Endpoint(name="loss", higher_is_better=False, worst=None, unit="log-ratio of loss", margin=given)
    if name not in problem.metrics:
        near = get_close_matches(name, [*problem.metrics, "loss"], n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join([*problem.metrics, 'loss'])}"
        raise UserError(f"problem '{problem.name}' has no metric {name!r}: {mend}")
    metric = problem.metrics[name]
    if margin is None and not metric.bounded:
        raise UserError(f"the metric {name!r} is not in [0, 1], so no margin can be guessed: give one with --margin")
    given = METRIC_MARGIN if margin is None else margin
    return Endpoint(name=name, higher_is_better=metric.higher_is_better, worst=metric.worst, unit=name, margin=given)


def secondary_of(problem: Problem, primary: Endpoint, smallest_loss: float) -> tuple[Secondary, ...]:
    """The problem's other metrics, and its loss where that has a logarithm."""
    every = [
        Secondary(name=name, higher_is_better=m.higher_is_better, worst=m.worst) for name, m in problem.metrics.items()
    ]
    if smallest_loss > 0:
        every.append(Secondary(name="loss", higher_is_better=False, worst=None))
    return tuple(one for one in every if one.name != primary.name)


def current_of(problem: Problem) -> dict[str, str | float] | None:
    """What the user runs now, checked against the hyper-parameters of its method."""
    if problem.current is None:
        return None
    method = registry.get(str(problem.current["method"]))
    known = method.hyper
    checked: dict[str, str | float] = {"method": method.name}
    for name, value in problem.current.items():
        if name == "method":
            continue
        if name not in known:
            near = get_close_matches(name, known, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise UserError(f"problem '{problem.name}': current= gives {method.name} a {name!r}: {mend}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"problem '{problem.name}': current= gives {name} the value {value!r}: give a number")
        known[name].check(name, float(value))
        checked[name] = float(value)
    if "lr" not in checked:
        raise UserError(f"problem '{problem.name}': current= has no learning rate: add \"lr\"")
    return checked


def source_of(given: str | Path | Problem, problem: Problem, data: Data) -> Source:
    """Where a problem comes from, with digests of its file and of its data."""
    sha = digest(data)
    if isinstance(given, Problem):
        return Source(kind="object", name=problem.name, data_sha256=sha)
    path = Path(given).expanduser()
    if str(given).endswith(".py"):
        return Source(
            kind="file", name=problem.name, path=str(path.resolve()), sha256=file_digest(path), data_sha256=sha
        )
    return Source(kind="built-in", name=str(given), data_sha256=sha)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def execution_of(choice: Choice, device: str, workers: int) -> Execution:
    """The execution that a choice of executor leads to."""
    return Execution(
        device=device,
        executor=choice.executor,
        size=choice.size,
        reason=choice.reason,
        seconds_per_run_step=choice.seconds,
        workers=workers,
    )


def held_of(problem: Problem) -> Held:
    """What a problem holds fixed."""
    return Held(
        weight_decay=problem.weight_decay,
        clip=problem.clip,
        schedule=problem.schedule is not None,
        dtype=None if problem.dtype is None else str(problem.dtype).removeprefix("torch."),
        sampling=problem.sampling,
    )


def caveats(declaration: Declaration, data_caveats: tuple[str, ...]) -> list[str]:
    """What a verdict does not cover: everything that was held fixed for all methods, in sentences."""
    held, said = declaration.held, []
    said += [sentence for name in declaration.methods for sentence in registry.get(name).caveats]
    if held.weight_decay:
        said.append(f"Weight decay is held at {held.weight_decay:g} for every method, not tuned.")
    if held.clip is not None:
        said.append(f"The gradient is clipped to norm {held.clip:g} for every method.")
    said.append(
        "The learning rate follows the problem's schedule, the same for every method."
        if held.schedule
        else "The learning rate is constant; with a decaying schedule the verdict may differ."
    )
    said.append(f"Batch size {declaration.batch_size} and {declaration.steps} steps are given, not tuned.")
    return [*said, *data_caveats]


def versions() -> dict[str, str]:
    """Of everything that may change a number."""
    return {
        "python": platform.python_version(),
        "ravine": __version__,
        **{name: version(name) for name in ("torch", "numpy", "scipy", "polars")},
    }


def machine(device: str) -> dict[str, str | float]:
    """What the study runs on, in words that name no host."""
    memory = psutil.virtual_memory().total / 2**30
    about: dict[str, str | float] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": float(cores()),
        "memory_gib": round(memory, 1),
    }
    if device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    return about


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def evaluations(steps: int) -> tuple[int, ...]:
    """After which steps every run is evaluated."""
    return tuple(evaluation_steps(steps))
