"""Deep autoencoders as Hinton and Salakhutdinov (2006), Martens (2010) and Sutskever et al. (2013) trained them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ravine import init
from ravine.metrics import squared_error
from ravine.problems.problem import Problem

Output = Literal["logistic", "linear"]
BATCH_SIZE = 200
ERROR = "squared error"
"""The metric that the papers report: summed over pixels, mean over cases."""


def autoencoder(
    name: str,
    widths: Sequence[int],
    train: Tensor,
    test: Tensor,
    *,
    output: Output,
    steps: int,
    validation: Tensor | None = None,
    links: int = 15,
    scale: float = 1.0,
) -> Problem:
    """A problem that sends pictures through the layers `widths`, the last of them a code, and back.

    Units are logistic, the code layer is linear, weights are untied; weights start by sparse initialization
    (`ravine.init.sparse_` with these `links` and this `scale`). Pictures are (cases, widths[0]).

    output: "logistic" for pixels in [0, 1] with the cross-entropy, "linear" for centred ones with the squared error
        (without 1/2). Either loss is summed over pixels and averaged over cases, so learning rates are comparable to
        the papers': for a mean over pixels they would be widths[0] times as large.

    The endpoint is the papers' reported error, see `ravine.metrics.squared_error`.
    Source: Sutskever, Martens, Dahl and Hinton 2013 (Sec. 3, Table 6), layer types and losses as in Martens' own code.
    """
    logistic = output == "logistic"
    return Problem(
        name=name,
        model=lambda: init.sparse_(network(widths), links, scale=scale),
        loss=cross_entropy if logistic else squared_loss,
        train=(train, train),
        validation=None if validation is None else (validation, validation),
        test=(test, test),
        metrics={ERROR: squared_error(widths[0], logistic=logistic)},
        batch_size=BATCH_SIZE,
        steps=steps,
    )


def network(widths: Sequence[int]) -> nn.Sequential:
    """The layers `widths` and their mirror image: logistic units but for the code and the output, which are linear."""
    sizes = [*widths, *reversed(widths[:-1])]
    code, last = len(widths) - 2, len(sizes) - 2
    layers: list[nn.Module] = []
    for place, (sources, units) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(sources, units))
        if place not in (code, last):
            layers.append(nn.Sigmoid())
    return nn.Sequential(*layers)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-t log y - (1 - t) log(1 - y) with y = sigmoid(logits), summed over pixels, mean over cases; (cases, pixels)."""
    return binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def squared_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """(y - t)^2, summed over pixels, mean over cases; (cases, pixels)."""
    return (outputs - targets).square().sum() / len(outputs)
