"""Random streams keyed by (study seed, purpose, numbers...), never by position in a fleet.

What a run draws depends on its own key alone: not on the chunk it was in, the executor, the engine or its neighbours.
Purposes in use: "init", "order", "draws" (dropout and ``torch.rand`` inside a model), "evaluate", and those of the search.
"""

import hashlib

import numpy as np
import torch


def key(study_seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit key; equal words give equal keys on every machine and Python version."""
    words = ":".join([str(study_seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little") >> 1


def torch_generator(study_seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator at the start of the stream of this key."""
    return torch.Generator().manual_seed(key(study_seed, purpose, *numbers))


def numpy_generator(study_seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A NumPy generator (Philox) at the start of the stream of this key."""
    return np.random.Generator(np.random.Philox(key=key(study_seed, purpose, *numbers)))
