"""Whole wall time of one study of digits: ravine against Optuna and Ray Tune doing the same, on one machine in one run.

    python benchmarks/study.py [--trials 16] [--seeds 20] [--out benchmarks/results/study.json]

The same study for all three: sgd, momentum, nesterov and adam, `trials` settings each on 3 tuning seeds, four
finalists each on `seeds` evaluation seeds, 1,000 steps of batch 64, evaluated after every tenth step. The peers train
by plain torch loops with fused torch.optim, one single-threaded process per core (Optuna: processes on one journal
file; Ray Tune: trials of one CPU). ravine's own extras are in its time: the probe of ranges, the equal-dimension
search, screening, shorter horizons, the defaults, inference and the report.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import ravine
from ravine.fleet.train import evaluation_steps
from ravine.problems import prepare
from ravine.problems.digits import digits
from ravine.study.declare import machine, versions
from ravine.study.engine import cores

METHODS = ("sgd", "momentum", "nesterov", "adam")
RANGES = {"sgd": (0.004, 4.0), "momentum": (0.002, 2.0), "nesterov": (0.002, 2.0), "adam": (0.0005, 0.5)}
FINALISTS = 4


_data: list[Any] = []  # of this process; a cached function would not travel to the workers


def data() -> Any:
    """digits, once a process."""
    if not _data:
        torch.set_num_threads(1)
        _data.append(prepare(digits()))
    return _data[0]


def optimizer(method: str, setting: Mapping[str, float], model: torch.nn.Module) -> torch.optim.Optimizer:
    """The fused torch optimizer of a setting."""
    if method == "adam":
        betas = (1 - setting["complement"], 0.999)
        return torch.optim.Adam(model.parameters(), lr=setting["lr"], betas=betas, fused=True)
    momentum = 0.0 if method == "sgd" else 1 - setting["complement"]
    nesterov = method == "nesterov"
    return torch.optim.SGD(model.parameters(), lr=setting["lr"], momentum=momentum, nesterov=nesterov, fused=True)


def train(method: str, setting: Mapping[str, float], seed: int, test: bool) -> float:
    """One run by hand; its best validation accuracy, or the test accuracy there."""
    problem, rows = digits(), data()
    inputs, targets = rows.train.tensors
    evaluations = set(evaluation_steps(problem.steps))
    torch.manual_seed(seed)
    model = problem.model()
    stepper = optimizer(method, setting, model)
    best, reported, place, order = 0.0, 0.0, 0, torch.randperm(len(inputs))
    for step in range(1, problem.steps + 1):
        if place + problem.batch_size > len(inputs):
            order, place = torch.randperm(len(inputs)), 0
        batch = order[place : place + problem.batch_size]
        place += problem.batch_size
        stepper.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        stepper.step()
        if step in evaluations:
            with torch.no_grad():
                found = _accuracy(model, rows.validation.tensors)
                if found > best:
                    best = found
                    reported = _accuracy(model, rows.test.tensors) if test else found
    return reported


def _accuracy(model: torch.nn.Module, split: tuple[torch.Tensor, torch.Tensor]) -> float:
    return float((model(split[0]).argmax(1) == split[1]).float().mean())


def mean_validation(method: str, setting: Mapping[str, float]) -> float:
    """A trial: the mean over three tuning seeds."""
    return statistics.fmean(train(method, setting, seed, test=False) for seed in range(3))


def suggest(trial: Any, method: str) -> dict[str, float]:
    """A setting from Optuna's sampler, in the same box that ravine finds."""
    setting = {"lr": trial.suggest_float("lr", *RANGES[method], log=True)}
    if method != "sgd":
        setting["complement"] = trial.suggest_float("complement", 0.003, 0.5, log=True)
    return setting


def optuna_worker(path: str, method: str, trials: int) -> None:
    """One process of Optuna's search."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(JournalFileBackend(path))
    found = optuna.load_study(study_name=method, storage=storage)
    stop = optuna.study.MaxTrialsCallback(trials)
    found.optimize(lambda trial: mean_validation(method, suggest(trial, method)), callbacks=[stop])


def evaluate_all(finalists: list[tuple[str, dict[str, float]]], seeds: int) -> None:
    """The finalists on the evaluation seeds, shared among processes."""
    from loky.process_executor import ProcessPoolExecutor

    jobs = [(method, setting, 10_000 + seed) for method, setting in finalists for seed in range(seeds)]
    with ProcessPoolExecutor(cores(), env={"OMP_NUM_THREADS": "1"}) as pool:
        list(pool.map(_evaluate, jobs, chunksize=4))


def _evaluate(job: tuple[str, dict[str, float], int]) -> float:
    return train(*job, test=True)


def with_optuna(trials: int, seeds: int) -> float:
    """The study by Optuna."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = time.perf_counter()
    finalists: list[tuple[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/journal"
        storage = optuna.storages.JournalStorage(JournalFileBackend(path))
        for method in METHODS:
            found = optuna.create_study(study_name=method, storage=storage, direction="maximize")
            words = [sys.executable, __file__, "--optuna-worker", path, method, str(trials)]
            workers = [subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}) for _ in range(cores())]
            if any(worker.wait() for worker in workers):
                raise SystemExit("an Optuna worker failed")
            best = sorted(found.trials, key=lambda trial: -(trial.value or 0.0))[:FINALISTS]
            finalists += [(method, trial.params) for trial in best]
        evaluate_all(finalists, seeds)
    return time.perf_counter() - began


def with_ray_tune(trials: int, seeds: int) -> float:
    """The study by Ray Tune."""
    import ray
    from ray import tune

    began = time.perf_counter()
    ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    finalists: list[tuple[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as directory:
        for method in METHODS:
            space = {"lr": tune.loguniform(*RANGES[method])}
            if method != "sgd":
                space["complement"] = tune.loguniform(0.003, 0.5)
            found = tune.Tuner(
                tune.with_resources(
                    lambda setting, method=method: {"score": mean_validation(method, setting)}, {"cpu": 1}
                ),
                param_space=space,
                tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=trials),
                run_config=tune.RunConfig(storage_path=directory, verbose=0),
            ).fit()
            ended: list[Any] = [found[k] for k in range(len(found))]
            best = sorted(ended, key=lambda one: -float(one.metrics["score"]))[:FINALISTS]
            finalists += [(method, one.config) for one in best]
        ray.shutdown()
        evaluate_all(finalists, seeds)
    return time.perf_counter() - began


def with_ravine(trials: int, seeds: int) -> float:
    """The study by ravine."""
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        ravine.compare("digits", METHODS, trials=trials, seeds=seeds, out=Path(directory) / "study")
        return time.perf_counter() - began


def main() -> None:
    """Runs the three one after the other, prints, keeps."""
    if sys.argv[1:2] == ["--optuna-worker"]:
        optuna_worker(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--trials", type=int, default=16)
    words.add_argument("--seeds", type=int, default=20)
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "study.json")
    given = words.parse_args()
    peers: dict[str, Callable[[int, int], float]] = {
        "ravine": with_ravine,
        "Optuna": with_optuna,
        "Ray Tune": with_ray_tune,
    }
    seconds = {name: run(given.trials, given.seeds) for name, run in peers.items()}
    table = Table("study", "seconds", "ravine is faster by", title=f"{given.trials} trials, {given.seeds} seeds")
    for name, spent in seconds.items():
        table.add_row(name, f"{spent:.0f}", f"{spent / seconds['ravine']:.1f}x")
    Console().print(table)
    kept = {
        "machine": machine("cpu"),
        "versions": versions(),
        "trials": given.trials,
        "seeds": given.seeds,
        "seconds": seconds,
    }
    given.out.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
