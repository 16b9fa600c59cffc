import subprocess
import sys
import time

import pytest
import torch

from ravine.problems import check, digest, load, prepare


def test_the_shipped_rows_are_scikit_learns_in_a_fixed_random_order() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    problem = load("digits")
    inputs = torch.cat([problem.train[0], problem.test[0]])
    assert torch.equal(inputs, torch.from_numpy(images).float()[order] / 16 - 0.5)
    assert torch.equal(torch.cat([problem.train[1], problem.test[1]]), torch.from_numpy(labels)[order])


def test_class_counts_sizes_and_range() -> None:
    problem = load("digits")
    (x, y), (x_test, y_test) = problem.train, problem.test
    assert (tuple(x.shape), tuple(x_test.shape)) == ((1437, 64), (360, 64))
    counts = torch.bincount(y) + torch.bincount(y_test)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (x.min().item(), x.max().item(), x.dtype) == (-0.5, 0.5, torch.float32)


def test_the_split_is_stratified_and_pinned() -> None:
    data = prepare(load("digits"))
    assert (data.train.rows, data.validation.rows, data.test.rows) == (1150, 287, 360)
    share = torch.bincount(data.validation.tensors[1]) / torch.bincount(load("digits").train[1])
    assert share.min() > 0.19
    assert share.max() < 0.21
    assert digest(data) == "fcce386451e98b145a3567a334f7d2d9fc087932ae9055d628cc3620f5ecb70e"


def test_it_passes_its_own_check_and_is_quick_to_load() -> None:
    problem = load("digits")
    check(problem, prepare(problem))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        load("digits")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_importing_problems_brings_no_heavy_library() -> None:
    heavy = "{'sklearn', 'PIL', 'pandas', 'polars', 'scipy'}"
    script = f"import sys, ravine.problems; print({heavy} & sys.modules.keys())"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
