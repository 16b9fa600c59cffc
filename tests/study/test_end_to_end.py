"""Whole studies: what they store, that they repeat, that executors agree, and what is known of the digits."""

import itertools
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import ravine
from cases_study import Quiet, begin, compare_words, here, in_child, verdict_bytes, write_problem
from ravine import study
from ravine.errors import UserError
from ravine.study import declare
from ravine.study.declare import Declaration

OPPOSITE = {
    ("pays", "hurts"),
    ("hurts", "pays"),
    ("equal", "pays"),
    ("pays", "equal"),
    ("equal", "hurts"),
    ("hurts", "equal"),
}


def leaves(content: Any) -> Iterator[Any]:
    """Every number, text and None of a JSON content, keys included."""
    if isinstance(content, dict):
        yield from content
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from leaves(part)
    else:
        yield content


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_the_declaration_says_all_that_the_result_depends_on(finished: Path) -> None:
    content = json.loads((finished / "study.json").read_text(), parse_constant=refuse)
    declared = Declaration.model_validate(content)
    assert set(content) == set(Declaration.model_fields)  # no default is silent
    assert declared.model_dump(mode="json") == content
    assert declared.source.kind == "file"
    assert declared.source.sha256 == declare.file_digest(finished.parent / "tiny.py")
    assert (declared.trials, declared.tuning_seeds, declared.seeds, declared.steps) == (8, 1, 4, 4)
    assert (declared.execution.executor, declared.execution.workers, declared.execution.threads) == ("single", 2, 1)
    assert declared.versions == declare.versions()
    assert set(declared.versions) == {"python", "ravine", "torch", "numpy", "scipy", "polars"}
    assert set(declared.machine) == {"system", "processor", "cores", "memory_gib"}
    assert socket.gethostname() not in json.dumps(content["machine"])


def test_the_verdict_has_no_strange_number_no_time_and_no_place(finished: Path) -> None:
    content = json.loads((finished / "verdict.json").read_text(), parse_constant=refuse)
    texts = [leaf for leaf in leaves(content) if isinstance(leaf, str)]
    assert not any("/" in text and Path(text).is_absolute() for text in texts)
    for word in (str(finished), str(Path.home()), socket.gethostname(), "seconds", "date", "created", "time\n"):
        assert not any(word in text for text in texts), word
    assert not any(re.search(r"\d{4}-\d\d-\d\d|\d\d:\d\d", text) for text in texts)


def test_the_directory_holds_what_it_should(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        ".lock",
        "study.json",
        "verdict.json",
        "cost.json",
        "report.html",
        "problem.py.txt",
        "runs",
        "checkpoints",
    }
    assert not list((finished / "checkpoints").iterdir())


def test_the_runs_are_what_the_verdict_counts(finished: Path) -> None:
    comparison = study.load(finished)
    runs, verdict = comparison.runs, comparison.verdict
    assert runs.select(pl.col("seed").is_in(range(10_000, 10_004)) == (pl.col("phase") == "evaluate"))["seed"].all()
    assert runs.select((pl.col("phase") == "evaluate") == pl.col("test_accuracy").is_not_null())["phase"].all()
    winner = verdict["methods"]["sgd"]["settings"]["lr"]
    own = runs.filter(
        pl.col("method") == "sgd", pl.col("lr") == winner, pl.col("phase") == "evaluate", pl.col("steps") == 4
    )
    assert len(own) == verdict["contrasts"][0]["seeds"] == 4
    best = [row["test_accuracy"][int(np.argmax(row["validation_accuracy"]))] for row in own.iter_rows(named=True)]
    assert verdict["methods"]["sgd"]["score"] == pytest.approx(np.mean(best))
    assert comparison.verdicts == {"momentum": verdict["contrasts"][0]["verdict"]}


# --- repetition -------------------------------------------------------------------------------------------------------


def test_the_same_words_give_the_same_bytes_and_another_seed_gives_other_points(tmp_path: Path, finished: Path) -> None:
    problem = finished.parent / "tiny.py"
    for name, seed in (("again", "0"), ("other", "1")):
        ended = in_child(compare_words(problem, tmp_path / name, {"--study-seed": seed}))
        assert ended.code == 0, ended.said
    assert verdict_bytes(tmp_path / "again") == verdict_bytes(finished)
    tried = [set(study.load(d).runs.filter(pl.col("phase") == "coarse")["lr"]) for d in (finished, tmp_path / "other")]
    assert not tried[0] & tried[1]


def test_executors_and_chunk_sizes_agree(tmp_path: Path) -> None:
    """Equal draws: the runs differ by rounding, 1e-4 relative after 20 steps in float32, and no verdict contradicts."""
    words = {"--steps": "20", "--trials": "4", "--seeds": "2"}
    home = tmp_path / "home"
    ended = in_child(compare_words(write_problem(tmp_path / "tiny.py"), home, words))
    assert ended.code == 0, ended.said
    studies = [home]
    for size in (3, 7):
        directory = begin(tmp_path / str(size), like=home, executor="stacked", size=size)
        ended = in_child(["resume", str(directory)])
        assert ended.code == 0, ended.said
        studies.append(directory)
    keys = ["method", "seed", "steps", "lr", "momentum"]
    tables = [study.load(directory).runs.filter(pl.col("phase").is_in(["probe", "coarse"])) for directory in studies]
    assert len({tuple(table["chunk"].unique().sort()) for table in tables}) == 3
    first = {row[:5]: row[5:] for row in tables[0].select(*keys, "initial_loss", "train_loss", "diverged_at").rows()}
    for table in tables[1:]:
        rows = table.select(*keys, "initial_loss", "train_loss", "diverged_at").rows()
        assert {row[:5] for row in rows} == set(first)
        for row in rows:
            initial, losses, diverged = first[row[:5]]
            assert row[5] == pytest.approx(initial, rel=1e-6)
            if row[3] < 1:  # beyond, chaos amplifies the rounding
                assert row[7] == diverged
                assert row[6] == pytest.approx(losses, rel=1e-4)
    words_of = [study.load(directory).verdicts["momentum"] for directory in studies]
    assert not set(itertools.product(words_of, words_of)) & OPPOSITE


# --- every field of a problem -----------------------------------------------------------------------------------------


class Judged(torch.nn.Module):
    """A model that takes a dict batch and returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.layer(batch["x"]), batch["y"])


def dict_problem(**more: Any) -> ravine.Problem:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(60, 4, generator=generator)
    data = {"x": x, "y": (x[:, 0] > 0).long()}
    return ravine.Problem(
        name="dict",
        model=Judged,
        batch_loss=lambda model, batch: model(batch),
        train=data,
        test=data,
        batch_size=20,
        steps=6,
        **more,
    )


def test_hessian_free_methods_are_compared_in_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch)
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(3))
    problem = ravine.Problem(
        name="tiny",
        model=lambda: torch.nn.Linear(4, 2),
        loss=torch.nn.functional.cross_entropy,
        train=(x, torch.arange(60) % 2),
        metrics={"accuracy": ravine.metrics.accuracy},
        batch_size=20,
        steps=40,
    )
    words: Any = {"trials": 2, "tuning_seeds": 1, "seeds": 2, "out": tmp_path / "study"}
    with pytest.raises(UserError, match=r"problem 'dict' has a batch_loss=, and hessian-free needs to see the outputs"):
        ravine.compare(dict_problem(), methods=["sgd", "hessian-free"], **words)
    comparison = ravine.compare(problem, methods=["sgd", "hessian-free", "momentum-hessian-free"], **words)
    runs = comparison.runs
    assert set(runs["method"]) == {"sgd", "hessian-free", "momentum-hessian-free"}
    assert set(runs.filter(pl.col("method") != "sgd")["cg_steps"]) == {20.0}
    assert comparison.cost["hessian-free"]["gradient_equivalents"] == 1.0
    assert comparison.cost["hessian-free"]["seconds_per_step"] > 0


def test_every_optional_field_comes_to_a_verdict_with_its_caveat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch)
    problem = dict_problem(
        weight_decay=1e-3,
        clip=0.5,
        schedule=lambda step: 1 / (1 + step),
        current={"method": "adam", "lr": 0.01, "beta2": 0.9},
        sampling="with-replacement",
        dtype=torch.float64,
    )
    heard = Quiet()
    comparison = ravine.compare(
        problem, ("sgd", "momentum"), trials=4, tuning_seeds=1, seeds=3, executor="single", workers=1,
        out=tmp_path / "study", listener=heard,
    )  # fmt: skip
    verdict = comparison.verdict
    assert [(one["method"], one["versus"]) for one in verdict["contrasts"]] == [
        ("momentum", "sgd"),
        ("sgd", "current"),
        ("momentum", "current"),
    ]
    assert verdict["current"]["settings"] == {"lr": 0.01, "beta2": 0.9}
    assert verdict["unit"] == "log-ratio of loss"
    assert verdict["horizons"] == []  # with a schedule, a shorter study is another study
    assert verdict["caveats"] == [
        "Weight decay is held at 0.001 for every method, not tuned.",
        "The gradient is clipped to norm 0.5 for every method.",
        "The learning rate follows the problem's schedule, the same for every method.",
        "Batch size 20 and 6 steps are given, not tuned.",
    ]
    own = comparison.runs.filter(pl.col("phase") == "current")
    assert own.select("method", "lr", "beta1", "beta2").unique().rows() == [("adam", 0.01, 0.9, 0.9)]
    assert own["seed"].to_list() == [10_000, 10_001, 10_002]
    held = Declaration.model_validate_json((tmp_path / "study" / "study.json").read_text()).held
    assert held.model_dump() == {
        "weight_decay": 1e-3, "clip": 0.5, "schedule": True, "dtype": "float64", "sampling": "with-replacement",
    }  # fmt: skip
    assert "probe" in heard.phases and heard.phases[-2:] == ["inference", "report"]
    assert comparison.report(tmp_path / "elsewhere.html").stat().st_size > 10_000
    assert comparison.report(str(tmp_path / "text.html")) == tmp_path / "text.html"


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    """A problem of lambdas, made in the script itself, with real workers."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, ravine\n"
        "x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))\n"
        "w = torch.tensor([1.0, -2.0, 0.5])\n"
        "problem = ravine.Problem(name='script', model=lambda: torch.nn.Linear(3, 1),\n"
        "    loss=lambda o, t: ((o[:, 0] - t) ** 2).mean() + 0.1, train=(x, x @ w), batch_size=20, steps=3)\n"
        "made = ravine.compare(problem, methods=['sgd', 'signsgd'], trials=2, tuning_seeds=1, seeds=2,\n"
        "    executor='single', workers=1, out='study')\n"
        "print(made.verdicts, len(made.runs), made.report('mine.html'))\n"
    )
    ended = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"\{'signsgd': '\w+'\} \d+ mine.html\n", ended.stdout), ended.stdout
    assert ended.stderr == ""


# --- the digits -------------------------------------------------------------------------------------------------------

DIGITS = {"--margin": "0.02", "--tuning-seeds": "1", "--executor": "stacked"}
SOME_DIGITS = """
from dataclasses import replace

from ravine.problems.digits import digits

ROWS = 1437


def problem():
    whole = digits()
    few = {}
    if ROWS < 1437:
        inputs, targets = whole.train
        few = {"train": (inputs[:ROWS], targets[:ROWS]), "validation": (inputs[-ROWS:], targets[-ROWS:])}
    return replace(whole, schedule=lambda step: 1.0, **few)  # constant, so that T/4 and T/2 need no runs of their own
"""


def some_digits(directory: Path, rows: int = 1437) -> Path:
    """A problem file: the digits, or `rows` of them to train on and as many others to choose by."""
    file = directory / "digits.py"
    file.write_text(SOME_DIGITS.replace("ROWS = 1437\n", f"ROWS = {rows}\n", 1))
    return file


def digits(directory: Path, **words: object) -> dict[str, Any]:
    """What a study of the digits finds at margin .02, reduced to a tuning seed."""
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in words.items()}
    out = directory / "study"
    ended = in_child(compare_words(some_digits(directory), out, {**DIGITS, **given}), seconds=280)
    assert ended.code == 0, ended.said
    verdict: dict[str, Any] = json.loads((out / "verdict.json").read_text())
    return verdict


@pytest.mark.parametrize("method", ["momentum", "nesterov"])
def test_momentum_pays_on_the_digits_in_30_full_batches(tmp_path: Path, method: str) -> None:
    """Tuned gradient descent reaches .77 to .82, momentum and Nesterov about .9."""
    found = digits(tmp_path, methods=f"sgd,{method}", batch_size=2000, steps=30, trials=48, seeds=8)
    (contrast,) = found["contrasts"]
    assert contrast["verdict"] == "pays"
    assert 0.05 < contrast["difference"] < 0.2
    assert 0.7 < found["methods"]["sgd"]["score"] < 0.85


@pytest.mark.parametrize(("batch_size", "steps", "seeds"), [(2000, 100, 5), (16, 1000, 8)])
def test_momentum_neither_pays_nor_hurts_where_it_does_not_matter(
    tmp_path: Path, batch_size: int, steps: int, seeds: int
) -> None:
    """Dense searches give .967 and .970, .973 and .979: a difference within the margin."""
    found = digits(tmp_path, batch_size=batch_size, steps=steps, trials=16, seeds=seeds)
    (contrast,) = found["contrasts"]
    assert contrast["verdict"] in ("equal", "undecided")
    low, high = contrast["interval"]
    assert low > -0.02 or high < 0.02  # a side is excluded
    assert found["methods"]["sgd"]["score"] > 0.9


def test_three_study_seeds_do_not_contradict_each_other(tmp_path: Path) -> None:
    """30 full batches of 256 digits, where momentum pays: each study finds more than the margin."""
    file = some_digits(tmp_path, 256)
    words = {**DIGITS, "--batch-size": "256", "--steps": "30", "--trials": "32", "--seeds": "5"}
    ended = in_child(compare_words(file, tmp_path / "0", words), seconds=200)
    assert ended.code == 0, ended.said

    def contrast(seed: int) -> dict[str, Any]:
        directory = tmp_path / str(seed)
        if seed:
            begin(directory, like=tmp_path / "0", study_seed=seed)
            ended = in_child(["resume", str(directory)], seconds=200)
            assert ended.code == 0, ended.said
        found: dict[str, Any] = study.load(directory).verdict["contrasts"][0]
        return found

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(contrast, range(3)))
    words_of = [one["verdict"] for one in found]
    assert not set(itertools.permutations(words_of, 2)) & OPPOSITE, words_of
    assert all(one["difference"] > 0.05 for one in found), found
