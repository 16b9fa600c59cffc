import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import polars as pl
import pytest

from cases_study import Quiet
from ravine.errors import WorkError
from ravine.fleet.choose import Choice
from ravine.fleet.train import Executor, Record, Work
from ravine.study import declare
from ravine.study.declare import Declaration
from ravine.study.runner import Runner, all_runs, full_hyper, split
from ravine.study.search import Request, Run
from ravine.study.store import Store
from ravine.study.worker import Trained

T = TypeVar("T")
NAMES = ("loss", "accuracy")


class Formula:
    """An engine that knows every result: the loss is seed + lr. Keeps what it was asked for."""

    workers = 2

    def __init__(self) -> None:
        self.trained: list[str] = []

    def ask(self, function: Callable[..., T], *arguments: object) -> T:
        raise AssertionError("a runner asks an engine for nothing but training")

    def choose(self, forced: Executor | None, run_steps: int) -> Choice:
        raise AssertionError("a runner keeps the executor that was declared")

    def train(
        self, works: Sequence[tuple[str, Work]], checkpoints: Path | None, tick: Callable[[int], None]
    ) -> Iterator[tuple[str, Trained]]:
        for name, work in reversed(works):  # in any order
            self.trained.append(name)
            tick(1)
            yield name, Trained([self._record(work, k) for k in range(len(work.trials))], 1.0)

    @staticmethod
    def _record(work: Work, k: int) -> Record:
        trial = work.trials[k]
        lr = trial.hyper["lr"]
        assert isinstance(lr, float)  # a study schedules nothing
        loss = trial.seed + lr
        values = [[loss, 0.5]]
        return Record(9.0, loss if loss < 90 else None, None, [work.steps], [loss], values, values if work.test else [])


def declaration(size: int = 4) -> Declaration:
    execution = declare.execution_of(Choice("single", size, "forced", {"single": 1e-3}), "cpu", 2)
    return Declaration.model_construct(execution=execution, steps=10)


def runs(method: str, seeds: Sequence[int], lr: float = 0.1, test: bool = False) -> tuple[Run, ...]:
    return tuple(Run(method, (("lr", lr),), seed, 10, test) for seed in seeds)


class Bench:
    """A runner on a store in a directory."""

    def __init__(self, directory: Path, size: int = 4) -> None:
        if (directory / "study.json").exists():
            self.store = Store.open(directory)
            self.store.locked().__enter__()
        else:
            with Store.create(directory) as self.store:
                self.store.write_json("study.json", {})
        self.engine, self.heard = Formula(), Quiet()
        self.run = Runner(declaration(size), NAMES, self.store, self.engine, self.heard, 1000)


@pytest.mark.parametrize(
    ("count", "size", "workers", "lengths"),
    [
        (1, 4, 2, [1]),
        (4, 4, 2, [4]),
        (5, 4, 2, [2, 3]),
        (31, 64, 2, [31]),  # fewer than 16 for each worker: one chunk
        (32, 64, 2, [16, 16]),
        (40, 16, 2, [10, 10, 10, 10]),
        (33, 1, 2, [1] * 33),
        (64, 64, 4, [16, 16, 16, 16]),
    ],
)
def test_runs_are_split_evenly_among_the_workers(count: int, size: int, workers: int, lengths: list[int]) -> None:
    parts = split(list(runs("sgd", range(count))), size, workers)
    assert [len(part) for part in parts] == lengths
    assert [run for part in parts for run in part] == list(runs("sgd", range(count)))


def test_every_run_gets_its_own_result(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    wanted = runs("sgd", range(9), 0.25) + runs("signsgd", range(3), 0.5, test=True)
    found = bench.run([Request("coarse", wanted)])
    assert list(found) == list(wanted)
    for run, result in found.items():
        loss = run.seed + dict(run.hyper)["lr"]
        assert result.final_train_loss == loss
        assert result.validation["loss"].tolist() == [loss]
        assert (result.test is not None) == run.test
        assert result.steps == (10,)


def test_a_run_that_did_not_end_has_an_infinite_final_loss(tmp_path: Path) -> None:
    (run,) = runs("sgd", [100])
    assert Bench(tmp_path).run([Request("coarse", (run,))])[run].final_train_loss == math.inf


def test_a_run_is_trained_once_whoever_asks_and_however_often(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first, second = runs("sgd", range(3)), runs("sgd", range(1, 5))
    bench.run([Request("coarse", first), Request("fixed", second)])
    bench.run([Request("local", first + second)])
    table = all_runs(bench.store)
    assert sorted(table["seed"]) == [0, 1, 2, 3, 4]
    assert dict(table.select("seed", "phase").rows())[1] == "coarse"  # the phase that asked first


def test_a_resumed_study_trains_the_chunks_that_miss_and_no_other(tmp_path: Path) -> None:
    whole, again = Bench(tmp_path / "a"), Bench(tmp_path / "b")
    rounds = [[Request("probe", runs("sgd", range(9)))], [Request("coarse", runs("sgd", range(30, 36), 0.3))]]
    expected = [whole.run(one) for one in rounds]
    for name in ("00-probe-sgd-10-001", "01-coarse-sgd-10-000"):
        content = whole.store.chunk_path(name).read_bytes()
        again.store.write(f"runs/{name}.parquet", content)
    resumed = Bench(tmp_path / "b")
    found = [resumed.run(one) for one in rounds]
    assert sorted(resumed.engine.trained) == sorted(set(whole.engine.trained) - {name, "00-probe-sgd-10-001"})
    assert str(found) == str(expected)


@pytest.mark.parametrize("spoil", ["lr", "seed", "validation_accuracy", "rows"])
def test_a_chunk_of_other_runs_is_not_taken_for_these(tmp_path: Path, spoil: str) -> None:
    request = [Request("coarse", runs("sgd", range(4)))]
    Bench(tmp_path).run(request)
    path = tmp_path / "runs" / "00-coarse-sgd-10-000.parquet"
    frame = pl.read_parquet(path)
    if spoil == "rows":
        frame = frame.head(3)
    elif spoil == "validation_accuracy":
        frame = frame.drop(spoil)
    else:
        frame = frame.with_columns(pl.col(spoil) + 1)
    frame.write_parquet(path)
    bench = Bench(tmp_path)
    bench.run(request)
    assert bench.engine.trained == ["00-coarse-sgd-10-000"]
    assert path.with_name("00-coarse-sgd-10-000.parquet.damaged").exists()
    (said,) = bench.heard.said
    assert said.startswith("00-coarse-sgd-10-000.parquet is damaged or of another study")


def test_an_extension_is_announced_with_its_cost_and_nothing_else_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run([Request("screen", runs("sgd", range(5))), Request("extension-1", runs("signsgd", range(3)))])
    assert bench.heard.phases == ["screen, extension-1"]
    assert bench.heard.said == [
        "a best setting lies at the edge of its range (signsgd): 3 more runs beyond it, 30 run-steps"
    ]


def test_checkpoints_go_when_their_chunk_is_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for name in ("00-coarse-sgd-10-000", "00-coarse-sgd-10-000.writing", "00-coarse-sgd-10-001"):
        (bench.store.checkpoints / name).touch()
    bench.run([Request("coarse", runs("sgd", range(4)))])
    assert [path.name for path in bench.store.checkpoints.iterdir()] == ["00-coarse-sgd-10-001"]


def test_progress_counts_what_is_stored_and_what_is_under_way(tmp_path: Path) -> None:
    heard: list[tuple[int, ...]] = []
    bench = Bench(tmp_path)
    bench.heard.progress = lambda *numbers: heard.append(numbers)  # type: ignore[method-assign]
    bench.run([Request("coarse", runs("sgd", range(8)))])
    assert heard == [(0, 1000, 0, 8), (1, 1000, 0, 8), (41, 1000, 4, 8)]


def test_reading_the_runs_changes_nothing_and_names_what_is_damaged(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run([Request("coarse", runs("sgd", range(4)))])
    path = bench.store.chunk_path("00-coarse-sgd-10-000")
    path.write_bytes(b"PAR1")
    with pytest.raises(WorkError, match=r"00-coarse-sgd-10-000.parquet is damaged: `ravine resume .*` sets it aside"):
        all_runs(bench.store)
    assert path.exists()
    assert all_runs(Bench(tmp_path / "new").store).is_empty()


def test_the_full_setting_of_a_run_is_rule_method_and_run() -> None:
    run = Run("adam", (("beta1", 0.5), ("lr", 0.1)), 0, 1)
    assert full_hyper(run) == {"lr": 0.1, "beta1": 0.5, "beta2": 0.999, "eps": 1e-8}
    own = replace(run, hyper=(("beta2", 0.9), ("lr", 0.1)))
    assert full_hyper(own) == {"lr": 0.1, "beta1": 0.9, "beta2": 0.9, "eps": 1e-8}
