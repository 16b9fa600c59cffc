"""The rows of a problem: train, validation and test as tensors, the same for every run of every study."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_leaves, tree_map
from torch.utils.data import Dataset, default_collate

from ravine.errors import UserError
from ravine.problems.problem import Batch, Problem
from ravine.problems.usercode import UserCode

VALIDATION_SHARE = 0.2
_SPLIT_KEY = 0  # one fixed key: the split depends on the data alone, never on a study's or a run's seed


@dataclass(frozen=True, eq=False)
class Split:
    """Rows that belong together: a pytree of tensors, each with `rows` rows."""

    rows: int
    tensors: Batch

    def batch(self, index: Tensor | slice) -> Batch:
        """The rows at `index`; an index of shape (runs, batch) gives tensors of shape (runs, batch, ...)."""
        if isinstance(index, slice):
            return tree_map(lambda tensor: tensor[index], self.tensors)
        rows = index.flatten()  # three to five times as fast as tensor[index]: rows are copied whole
        return tree_map(lambda tensor: tensor.index_select(0, rows).unflatten(0, index.shape), self.tensors)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Split:
        """The same rows on a device, floating tensors in `dtype`; None leaves as it is."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return Split(self.rows, tree_map(move, self.tensors))


@dataclass(frozen=True, eq=False)
class Data:
    """The three splits of a problem, and what a reader of its results has to know about them."""

    train: Split
    validation: Split
    test: Split
    caveats: tuple[str, ...] = ()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Data:
        """The same data on a device, floating tensors in `dtype`; None leaves as it is."""
        train, validation, test = (split.to(device, dtype) for split in (self.train, self.validation, self.test))
        return Data(train, validation, test, self.caveats)


def prepare(problem: Problem) -> Data:
    """The data of a problem as tensors on the CPU, in its dtype, split into train, validation and test.

    Without `validation`, a fifth of train (at least one row) is set apart: stratified when the targets are one integer
    a row, and always the same rows. Without `test`, the validation rows serve as test rows and a caveat says so.

    Raises UserError when the data are not tensors with equal numbers of rows, are ragged, empty or not finite, when the
    splits differ in their structure, or when `loss=` gets anything but pairs (inputs, targets).
    """
    train = _split(problem, "train", problem.train)
    if problem.validation is None:
        train, validation = _set_apart(problem, train)
    else:
        validation = _split(problem, "validation", problem.validation)
        _same_structure(problem, train, validation, "validation")
    if problem.test is None:
        caveat = "no test data were given: the validation rows, which also select settings, serve as test rows"
        return Data(train, validation, validation, (caveat,))
    test = _split(problem, "test", problem.test)
    _same_structure(problem, train, test, "test")
    return Data(train, validation, test)


def digest(data: Data) -> str:
    """SHA-256 (hexadecimal) of the names, types, shapes and bytes of all tensors of all splits."""
    sha = hashlib.sha256()
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        for path, tensor in tree_flatten_with_path(split.tensors)[0]:
            sha.update(f"{name}{keystr(path)} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _split(problem: Problem, name: str, given: Any) -> Split:
    where = f"problem '{problem.name}': {name}"
    tree = _stacked(where, given) if isinstance(given, Dataset) else given
    tensors = tree_map(lambda leaf: _tensor(where, leaf, problem.dtype), tree)
    leaves = tree_leaves(tensors)
    if not leaves:
        raise UserError(f"{where} holds no tensor; give a pair (inputs, targets)")
    counts = {len(leaf) for leaf in leaves}
    if len(counts) > 1:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise UserError(
            f"{where} has tensors with different numbers of rows, shapes {shapes}; each needs one row a case"
        )
    rows = counts.pop()
    if rows == 0:
        raise UserError(f"{where} has no rows")
    if problem.loss is not None and not (isinstance(tensors, (tuple, list)) and len(tensors) == 2):
        raise UserError(f"{where} must be a pair (inputs, targets) for loss=; for any other batch give batch_loss=")
    _finite(where, tensors)
    return Split(rows, tensors)


def _stacked(where: str, dataset: Dataset[Any]) -> Batch:
    """All items of a map-style Dataset, stacked; Python floats take torch's default type."""
    if not hasattr(dataset, "__len__"):
        raise UserError(f"{where} is a Dataset without a length; give one with __len__ and __getitem__, or tensors")
    with UserCode(f"{where} cannot be read"):
        items = [dataset[i] for i in range(len(dataset))]
    if not items:
        raise UserError(f"{where} has no rows")
    with UserCode(
        f"{where} cannot be stacked", "give every item the same shape (pad or crop it) and make it of tensors"
    ):
        return default_collate([tree_map(_narrow, item) for item in items])


def _narrow(leaf: Any) -> Any:
    return torch.tensor(leaf) if isinstance(leaf, float) else leaf


def _tensor(where: str, leaf: Any, dtype: torch.dtype | None) -> Tensor:
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
        leaf = torch.from_numpy(leaf)
    if not isinstance(leaf, Tensor):
        raise UserError(
            f"{where} must be made of tensors, numpy arrays of numbers or a Dataset, not {type(leaf).__name__}"
        )
    if leaf.ndim == 0:
        raise UserError(f"{where} holds a single number; every tensor needs one row a case")
    if leaf.layout != torch.strided:
        raise UserError(f"{where} holds a sparse tensor; give its .to_dense()")
    tensor: Tensor = leaf.detach().cpu()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _finite(where: str, tensors: Batch) -> None:
    for path, tensor in tree_flatten_with_path(tensors)[0]:
        if not tensor.is_floating_point():
            continue
        rows = tensor.isfinite().flatten(1).all(1) if tensor.ndim > 1 else tensor.isfinite()
        if not rows.all():
            row = int(rows.logical_not().nonzero()[0])
            raise UserError(f"{where}{keystr(path)} has NaN or infinity, first in row {row}; fill or drop such rows")


def _same_structure(problem: Problem, train: Split, other: Split, name: str) -> None:
    spec, types = _structure(train)
    other_spec, other_types = _structure(other)
    if (spec, types) != (other_spec, other_types):
        raise UserError(
            f"problem '{problem.name}': {name} is built differently from train "
            f"({_sketch(other.tensors)} against {_sketch(train.tensors)})"
        )


def _structure(split: Split) -> tuple[Any, list[torch.dtype]]:
    leaves, spec = tree_flatten(split.tensors)
    return spec, [leaf.dtype for leaf in leaves]


def _sketch(tree: Batch) -> str:
    """A pytree in words: (float32, int64)."""
    if isinstance(tree, Tensor):
        return str(tree.dtype).removeprefix("torch.")
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key}: {_sketch(value)}" for key, value in tree.items()) + "}"
    return "(" + ", ".join(_sketch(value) for value in tree) + ")"


def _set_apart(problem: Problem, split: Split) -> tuple[Split, Split]:
    """(train, validation): rows in random order, grouped by class, and every fifth of that line is set apart.

    So every class gives its share to within one row.
    """
    if split.rows < 2:
        raise UserError(f"problem '{problem.name}': train has one row, too few to set validation rows apart")
    generator = torch.Generator().manual_seed(_SPLIT_KEY)
    order = torch.randperm(split.rows, generator=generator)
    if (classes := _classes(split.tensors)) is not None:
        order = order[classes[order].argsort(stable=True)]
    count = max(1, round(VALIDATION_SHARE * split.rows))
    chosen = torch.zeros(split.rows, dtype=torch.bool)
    chosen[order[((torch.arange(count) + 0.5) * split.rows / count).long()]] = True
    train, validation = chosen.logical_not().nonzero().flatten(), chosen.nonzero().flatten()
    return Split(len(train), split.batch(train)), Split(len(validation), split.batch(validation))


def _classes(tensors: Batch) -> Tensor | None:
    """The targets, where they are one integer a row."""
    if not (isinstance(tensors, (tuple, list)) and len(tensors) == 2 and isinstance(tensors[1], Tensor)):
        return None
    targets = tensors[1]
    return targets if targets.ndim == 1 and not targets.is_floating_point() else None
