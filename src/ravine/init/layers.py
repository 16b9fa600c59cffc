"""What the initializers share: the layers of a model that have units with incoming links, and how values are set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ravine.errors import UserError

FORWARD = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose `weight` has one row (first index) a unit, or a channel, with all links into it."""

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
"""Layers whose `weight_ih...` and `weight_hh...` have one row a unit and gate."""


Layer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.RNNBase | nn.RNNCellBase


def weighted(model: nn.Module, where: str) -> list[Layer]:
    """The layers of `model` with units, in the order of `model.modules()`, each once.

    Raises UserError when there is none; `where` names the initializer.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"{where} takes a torch.nn.Module, not {type(model).__name__}")
    layers = [layer for layer in model.modules() if isinstance(layer, FORWARD + RECURRENT)]
    if not layers:
        raise UserError(f"{where}: there is no linear, convolutional or recurrent layer in this {type(model).__name__}")
    return layers


def parameters(layer: nn.Module, *prefixes: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The layer's own parameters whose names begin with a prefix: "weight", "weight_hh", "bias" ..."""
    for name, parameter in layer.named_parameters(recurse=False):
        if name.startswith(prefixes):
            yield name, parameter


def gates(layer: nn.Module) -> int:
    """How many blocks of rows a recurrent layer's weights have: 4 for an LSTM, 3 for a GRU, else 1."""
    if isinstance(layer, (nn.LSTM, nn.LSTMCell)):
        return 4
    return 3 if isinstance(layer, (nn.GRU, nn.GRUCell)) else 1


class Setter:
    """Draws with one generator and sets parameters, each at most once, so that the first of two tied layers decides."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self._device = "cpu" if generator is None else generator.device
        self._done: set[int] = set()

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draws of N(0, 1)."""
        return torch.randn(*shape, generator=self.generator, device=self._device, dtype=torch.float64)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draws of U(0, 1)."""
        return torch.rand(*shape, generator=self.generator, device=self._device, dtype=torch.float64)

    def sparse(self, units: int, sources: int, links: int) -> Tensor:
        """(units, sources) with min(links, sources) draws of N(0, 1) in every row, at distinct places."""
        count = min(links, sources)
        places = self.uniform((units, sources)).topk(count, dim=1).indices
        weights = torch.zeros(units, sources, dtype=torch.float64, device=places.device)
        return weights.scatter_(1, places, self.normal((units, count)))

    def fresh(self, parameter: Tensor) -> bool:
        """Whether this parameter is asked about for the first time."""
        new = id(parameter) not in self._done
        self._done.add(id(parameter))
        return new

    def zero(self, layer: nn.Module) -> None:
        """Sets all biases of a layer to 0."""
        for _, bias in parameters(layer, "bias"):
            if self.fresh(bias):
                put(bias, 0.0)


@torch.no_grad()
def put(parameter: Tensor, values: Tensor | float) -> None:
    """Sets a parameter, rounding to its type."""
    if isinstance(values, Tensor):
        parameter.copy_(values.reshape(parameter.shape))
    else:
        parameter.fill_(values)


def check_scale(where: str, name: str, value: float) -> None:
    """Raises UserError unless `value` is a finite number above 0."""
    if not (isinstance(value, (int, float)) and 0 < value < float("inf")):
        raise UserError(f"{where}: {name}= must be a finite number above 0, not {value!r}")


def check_links(where: str, links: int) -> None:
    """Raises UserError unless `links` counts something."""
    if not isinstance(links, int) or isinstance(links, bool) or links < 1:
        raise UserError(f"{where}: links= must be a whole number of at least 1, not {links!r}")
