"""Random streams keyed by (study seed, purpose, numbers...), never by position in a fleet.

What a run draws depends on its own key alone: not on the chunk it was in, the executor, the engine or its neighbours.
Purposes in use: "init", "order", "draws" (dropout and ``torch.rand`` inside a model), "evaluate", "scale" (the random
scale of a rule), and those of the search.
"""

import contextlib
import hashlib
import pickle
import random
from collections.abc import Iterator

import numpy as np
import torch


def key(study_seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit key; equal words give equal keys on every machine and Python version."""
    words = ":".join([str(study_seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little") >> 1


def generator(number: int) -> np.random.Generator:
    """A generator (Philox) at the start of the stream of a key."""
    return np.random.Generator(np.random.Philox(key=number))


@contextlib.contextmanager
def seeded(number: int, device: torch.device) -> Iterator[None]:
    """Inside it the global generators of torch, NumPy and Python start from `number`; after it they are as before."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(number)  # torch.manual_seed also notes the stack, for a GPU that may come
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def global_states(device: torch.device) -> list[bytes]:
    """The states of the global generators, to see whether somebody drew from one."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
    return [state.numpy().tobytes() for state in states] + list(
        map(pickle.dumps, (random.getstate(), np.random.get_state()))
    )
