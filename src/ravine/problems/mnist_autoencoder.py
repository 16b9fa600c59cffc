"""The built-in problems `mnist-autoencoder` and `mnist-autoencoder-small`."""

from __future__ import annotations

from torch import Tensor

from ravine.problems.autoencoders import autoencoder
from ravine.problems.data import files_of
from ravine.problems.images import idx_pair
from ravine.problems.problem import Problem


def mnist_autoencoder() -> Problem:
    """Handwritten digits to a 30-d code and back by a logistic net of 8 layers; the pictures of `mnist`. Fetched once.

    The net of the papers, 784-1000-500-250-30 and its mirror image, on 60,000 training and 10,000 test pictures with
    pixels / 255, with the 750,000 updates of Sutskever et al. 2013. See `autoencoder` for net, loss and reported error.
    Raises UserError when the data are not fetched.
    """
    train, test = _pixels("train"), _pixels("t10k")
    return autoencoder("mnist-autoencoder", (784, 1000, 500, 250, 30), train, test, output="logistic", steps=750_000)


def mnist_autoencoder_small() -> Problem:
    """Handwritten digits, small: 784-128-64-30 and back on 5,000 pictures; trains in minutes. Fetched once.

    The pictures are the first of those of `mnist-autoencoder`, so errors are on the same scale.
    """
    train, test = _pixels("train")[:5_000].clone(), _pixels("t10k")[:1_000].clone()
    return autoencoder("mnist-autoencoder-small", (784, 128, 64, 30), train, test, output="logistic", steps=5_000)


def _pixels(part: str) -> Tensor:
    """(cases, 784) float32 in [0, 1] of the part "train" or "t10k"."""
    images, _ = idx_pair(files_of("mnist"), part)
    return images.flatten(1).float() / 255
