"""A small problem that is right in every field, so that a test changes just the one it is about."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ravine.metrics import accuracy
from ravine.problems import Problem


@pytest.fixture
def make() -> Callable[..., Problem]:
    def problem(**changes: Any) -> Problem:
        generator = torch.Generator().manual_seed(1)
        rows = {
            name: (torch.randn(count, 4, generator=generator), torch.arange(count) % 3)
            for name, count in (("train", 50), ("test", 20))
        }
        fields: dict[str, Any] = {
            "name": "small",
            "model": lambda: nn.Linear(4, 3),
            "loss": cross_entropy,
            "metrics": {"accuracy": accuracy},
            "batch_size": 8,
            "steps": 5,
            **rows,
        }
        return Problem(**fields | changes)

    return problem
