"""Helpers of the tests of claims."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ravine.claims.rows import DenseNets


def dense_module(nets: DenseNets, row: Tensor) -> nn.Sequential:
    """The net of a row of `ravine.claims.rows`, made of torch's modules."""
    layers: list[nn.Module] = []
    place = 0
    for sources, units in pairwise(nets.sizes):
        layer = nn.Linear(sources, units)
        with torch.no_grad():
            layer.weight.copy_(row[place : place + sources * units].view(sources, units).T)
            layer.bias.copy_(row[place + sources * units : place + (sources + 1) * units])
        place += (sources + 1) * units
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
