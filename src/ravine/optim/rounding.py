"""Stochastic rounding of bfloat16 parameters: up or down at random, so that the mean is what was to be written.

Rounded to the nearest, a step smaller than half the distance between two numbers is lost, each time: from 1 upwards
bfloat16 has a number every 1/128. At random it is taken with a probability in proportion, and many of them add up.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BITS = 16
"""Bits of a float32 that a bfloat16 has not: those at its end."""


def draws(device: torch.device, *key: int) -> torch.Generator:
    """Random numbers that are a function of the key, natural numbers: a step again draws what it drew."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(seed))


def to_bfloat16(values: Tensor, generator: torch.Generator, noise: Tensor) -> None:
    """Round float32 values in place to one of the two neighbours in bfloat16; the nearer it is, the likelier.

    P(up) = (x - low) / (high - low), so E = x. ``noise``: room of their shape, in int32. Infinities and NaN stay.
    """
    unknown = values.isnan()  # their last bits may be all that tells them from infinity
    bits = values.view(torch.int32)
    bits.add_(noise.random_(0, 1 << BITS, generator=generator)).bitwise_and_(-1 << BITS)
    values.masked_fill_(unknown, torch.nan)
