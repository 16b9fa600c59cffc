"""What two of the experiments share: how many examples have a small margin, and errors from accuracies."""

from __future__ import annotations

from collections.abc import Sequence

PAPER = "Jelassi and Li, ICML 2022 (arXiv 2207.05931)"
SMALL_SHARE = 0.1


def errors(accuracies: Sequence[float]) -> list[float]:
    """The shares that are not right."""
    return [1 - one for one in accuracies]
