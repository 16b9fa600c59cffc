"""One step on one batch: what would fail after an hour of training fails here, in one sentence."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ravine.errors import UserError
from ravine.problems.problem import Batch, Problem
from ravine.problems.splits import Data, Split
from ravine.problems.usercode import UserCode

_SEED = 0
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check(problem: Problem, data: Data) -> float:
    """Builds the model, trains it for one step's worth on one batch, evaluates it on a few rows of every split.

    Returns the smallest loss that it saw. Runs on the CPU (where an index out of range is an error with a name) and
    leaves torch's generator as it was.

    Raises UserError, one sentence, when the model is not fresh, not reproducible or has nothing to train; when outputs
    do not fit the loss or targets do not fit the outputs; when the loss is not a finite scalar; when no gradient
    arrives or one is not finite; when a metric fails or is not a finite scalar.
    """
    with torch.random.fork_rng(devices=[]):
        model = _fresh(problem)
        losses = [_gradient(problem, model, data.train.batch(slice(0, problem.batch_rows(data.train.rows))))]
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
            losses.append(_evaluation(problem, model, name, split))
    return min(losses)


def _fresh(problem: Problem) -> nn.Module:
    """A model, after two calls of model() under one seed gave two equal and independent ones."""
    who = f"problem '{problem.name}': model()"
    torch.manual_seed(_SEED)
    first = problem.build()
    torch.manual_seed(_SEED)
    second = problem.build()
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in first.parameters()):
        raise UserError(f"{who} has lazy layers without a shape yet; run it once on a batch before returning it")
    mine, other = (dict(model.named_parameters()) for model in (first, second))
    if first is second or {id(p) for p in mine.values()} & {id(p) for p in other.values()}:
        raise UserError(f"{who} returns the same parameters at every call; make a fresh module inside it")
    if not any(parameter.requires_grad for parameter in mine.values()):
        raise UserError(f"{who} has no trainable parameter")
    same = mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
    if not same:
        raise UserError(f"{who} differs between two calls under one seed; draw its initialization with torch alone")
    return first


def _gradient(problem: Problem, model: nn.Module, batch: Batch) -> float:
    model.train()
    loss = _loss(problem, model, batch)
    if not loss.requires_grad:
        raise UserError(
            f"problem '{problem.name}': the loss does not depend on any parameter; look for detach or no_grad"
        )
    with UserCode(f"problem '{problem.name}': the backward pass fails"):
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if not gradients:
        raise UserError(f"problem '{problem.name}': no parameter of model() receives a gradient from the loss")
    for name, gradient in gradients.items():
        if not gradient.isfinite().all():
            raise UserError(f"problem '{problem.name}': the gradient of '{name}' on the first batch is not finite")
    return float(loss.detach())


def _evaluation(problem: Problem, model: nn.Module, name: str, split: Split) -> float:
    model.eval()
    batch = split.batch(_telling_rows(problem, split))
    with torch.no_grad():
        loss = _loss(problem, model, batch, f" on {name}")
        for metric in problem.metrics:
            _metric(problem, model, batch, metric, name)
    return float(loss)


def _metric(problem: Problem, model: nn.Module, batch: Batch, name: str, split: str) -> None:
    who = f"problem '{problem.name}': metric '{name}'"
    metric = problem.metrics[name]
    with UserCode(f"{who} fails on {split}"):
        value: Any = metric(model, batch) if problem.batch_loss else metric(model(batch[0]), batch[1])
    if not isinstance(value, Tensor) or value.ndim:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"{who} must return a tensor with one number (no .item(), no list), not {got}")
    if not value.isfinite():
        raise UserError(f"{who} is {value.item()} on {split}")
    if metric.bounded and not 0 <= value.item() <= 1:
        raise UserError(f"{who} is declared bounded=True and is {value.item():g} on {split}, outside [0, 1]")


def _loss(problem: Problem, model: nn.Module, batch: Batch, where: str = "") -> Tensor:
    """The loss on a batch, after every way in which it can be unfit has had its sentence."""
    loss = _batch_loss(problem, model, batch, where) if problem.batch_loss else _pair_loss(problem, model, batch, where)
    who = f"problem '{problem.name}': the loss"
    if not isinstance(loss, Tensor):
        raise UserError(f"{who} must be a tensor, not {type(loss).__name__}")
    if loss.ndim:
        raise UserError(f"{who} must be one number and has shape {tuple(loss.shape)}; take the mean over the batch")
    if not loss.isfinite():
        raise UserError(
            f"{who}{where} is {loss.item()} before the first step; look for log(0), 0/0 or far too large inputs"
        )
    return loss


def _batch_loss(problem: Problem, model: nn.Module, batch: Batch, where: str) -> Any:
    fails = f"problem '{problem.name}': batch_loss fails{where} on a batch {_shapes(batch)}"
    with UserCode(fails, _other_type(model, batch)):
        return problem.loss_on(model, batch)


def _pair_loss(problem: Problem, model: nn.Module, batch: Batch, where: str) -> Any:
    inputs, targets = batch
    fails = f"problem '{problem.name}': the model fails{where} on inputs {_shapes(inputs)}"
    with UserCode(fails, _other_type(model, inputs)):
        outputs = model(inputs)
    assert problem.loss is not None
    unfit = (
        f"problem '{problem.name}': outputs {_shapes(outputs)} do not fit targets {_shapes(targets)} in the loss{where}"
    )
    with UserCode(_out_of_range(problem, outputs, targets) or unfit), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size")  # torch broadcasts (n, 1) against (n,), wrongly
        return problem.loss(outputs, targets)


def _other_type(model: nn.Module, inputs: Any) -> str:
    """The mend for floating data in another type than the model's, or ''."""
    own = next(parameter.dtype for parameter in model.parameters())
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if all(leaf.dtype == own for leaf in leaves if leaf.is_floating_point()):
        return ""
    return f"model and data differ in their type, dtype={own} in the Problem casts both"


def _out_of_range(problem: Problem, outputs: Any, targets: Any) -> str | None:
    """The sentence for class targets that the outputs have no column for, should the loss fail on them."""
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)) or targets.is_floating_point():
        return None
    if outputs.ndim < 2 or outputs.shape[:1] + outputs.shape[2:] != targets.shape:
        return None
    low, high, classes = int(targets.min()), int(targets.max()), outputs.shape[1]
    if low >= 0 and high < classes:
        return None
    return f"problem '{problem.name}': targets from {low} to {high} do not fit {classes} outputs (0 to {classes - 1})"


def _telling_rows(problem: Problem, split: Split) -> Tensor:
    """The first rows of a batch and the rows of each integer tensor's extremes, where classes and words leave range."""
    first = torch.arange(problem.batch_rows(split.rows))
    whole = [leaf for leaf in tree_leaves(split.tensors) if leaf.dtype in _INTEGERS and leaf.numel()]
    extremes = [end // leaf[0].numel() for leaf in whole for end in (leaf.argmin(), leaf.argmax())]
    return torch.cat([first, *(row.view(1) for row in extremes)])


def _shapes(tree: Any) -> str:
    """Shapes and types of a pytree's tensors in words."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return (
        ", ".join(f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}" for leaf in tensors)
        or "without tensors"
    )
