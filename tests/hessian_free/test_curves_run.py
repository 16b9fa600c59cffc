"""The long run on CURVES goes on from its checkpoint as if it had not stopped."""

from pathlib import Path
from typing import Any

import pytest
from hessian_free_curves import lines, load, run
from safetensors.torch import load_file

from ravine.errors import UserError
from ravine.hessian_free import HessianFree
from ravine.problems import Problem
from ravine.problems.autoencoders import autoencoder, cross_entropy
from ravine.problems.curves import draw_curves


@pytest.fixture(scope="module")
def problem() -> Problem:
    pictures = draw_curves(64, 0)
    return autoencoder("tiny", (784, 12, 3), pictures, pictures, output="logistic", steps=1)


def logged(log: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines(log)]


def test_a_run_stopped_by_time_ends_as_an_unbroken_one(problem: Problem, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    run(problem, 3, whole, 0)
    for done in range(1, 4):
        run(problem, 3, broken, 0, hours=0.0)
        assert len(lines(broken)) == done
    assert logged(broken) == logged(whole)
    assert broken.with_suffix(".safetensors").read_bytes() == whole.with_suffix(".safetensors").read_bytes()


def test_a_checkpoint_holds_weights_and_starts_alone(problem: Problem, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run(problem, 1, log, 0)
    tensors = load_file(log.with_suffix(".safetensors"))
    names = [name for name, _ in problem.model().named_parameters()]
    assert set(tensors) == {f"{kind}.{name}" for kind in ("weight", "start") for name in names}
    model = problem.model()
    with pytest.raises(UserError, match="of seed 0, not 1"):
        load(log.with_suffix(".safetensors"), model, HessianFree(model, cross_entropy, seed=1))
