"""Small-margin data, Sec. 3 and 4: patches of which one holds the feature, and nets of cubes that train on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ravine.claims.jelassi.shared import SMALL_SHARE
from ravine.claims.laboratory import PILOT_SEED
from ravine.claims.rows import Descent, gradients

ALPHA, BETA = 2.0, 0.1  # strength of the feature in examples of large and of small margin
NOISE = 0.3  # standard deviation of the noise patches
START = 0.02  # standard deviation of the initial weights
NEURONS = 5
ETA = 0.5
GAMMAS = (0.9, 0.99, 0.998)


@dataclass(frozen=True)
class Margins:
    """Sizes of the small-margin experiment."""

    dimension: int
    examples: int
    patches: int
    steps: int
    seeds: int
    gammas: Sequence[float] = GAMMAS
    tests: int = 4_000

    @property
    def words(self) -> str:
        """In one line."""
        size = f"{self.examples} examples of {self.patches} patches in {self.dimension} dimensions"
        return f"{size}; {self.steps:,} full-batch steps, {self.seeds} seeds"


@dataclass(frozen=True)
class Patches:
    """Examples of several seeds, in coordinates whose first is the feature w_star.

    label (seeds, examples) +-1; signal (seeds, examples), the patch label * ALPHA or label * BETA times w_star;
    small (seeds, examples), whether it is BETA; noise (seeds, examples, patches - 1, dimension - 1), the other patches,
    which are orthogonal to w_star. Where the signal's patch stands does not matter to a sum over patches.
    """

    label: Tensor
    signal: Tensor
    small: Tensor
    noise: Tensor


def draw(seeds: Sequence[int], scale: Margins, examples: int, share: float) -> Patches:
    """Examples of each seed, a share of them with a small margin."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        label = 2.0 * torch.randint(2, (examples,), generator=generator) - 1
        small = torch.rand(examples, generator=generator) < share
        noise = NOISE * torch.randn(examples, scale.patches - 1, scale.dimension - 1, generator=generator)
        drawn.append((label, label * torch.where(small, BETA, ALPHA), small, noise))
    return Patches(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))


def parts_of_output(rows: Tensor, patches: Patches) -> tuple[Tensor, Tensor]:
    """What the feature and what the noise adds to f(X) = sum of <w_r, X_j>^3 over neurons r and patches j.

    rows (seeds, arms, NEURONS, dimension); both of shape (seeds, arms, examples).
    """
    seeds, arms, neurons, dimension = rows.shape
    along = patches.signal[:, None, :, None] * rows[:, :, None, :, 0]
    flat = patches.noise.flatten(1, 2)
    across = flat @ rows[..., 1:].reshape(seeds, arms * neurons, dimension - 1).mT
    examples = patches.label.shape[1]
    cubes = (across * across * across).view(seeds, examples, -1, arms, neurons).sum((2, 4))
    return (along * along * along).sum(-1), cubes.mT


@dataclass(frozen=True)
class MarginArm:
    """One way to train: momentum (0: gradient descent), learning rate, and the examples that it sees."""

    label: str
    gamma: float
    eta: float = ETA
    sees: str = "all"


@dataclass(frozen=True)
class Learnt:
    """What the arms have learnt, by arm and seed: (arms, seeds) each.

    fitted: accuracy on the training examples that the arm sees. small, large: test accuracies by margin. feature: the
    largest <w_r, w_star>. noise_share: how much of y f(X) of the small-margin training examples comes from their noise.
    curve: (times, arms, seeds) the feature along the training, every so many steps.
    """

    fitted: Tensor
    small: Tensor
    large: Tensor
    feature: Tensor
    noise_share: Tensor
    curve: Tensor
    every: int


def train_margins(arms: Sequence[MarginArm], scale: Margins, seeds: Sequence[int]) -> Learnt:
    """All arms on all seeds, from the same weights of a seed."""
    data = draw(seeds, scale, scale.examples, SMALL_SHARE)
    shape = (len(seeds), len(arms), NEURONS, scale.dimension)
    weight = torch.stack([_weights(data, arm.sees) for arm in arms], 1)
    first = torch.stack(
        [torch.randn(shape[2:], generator=torch.Generator().manual_seed(2**32 + seed)) for seed in seeds]
    )
    start = (START * first)[:, None].expand(shape).reshape(-1, NEURONS * scale.dimension)

    def losses(rows: Tensor) -> Tensor:
        along, across = parts_of_output(rows.view(shape), data)
        return (softplus(-data.label[:, None] * (along + across)) * weight).sum(-1).flatten()

    each = torch.tensor([(arm.eta, arm.gamma) for arm in arms]).repeat(len(seeds), 1)
    descent = Descent("ema-momentum", start, lr=each[:, 0], momentum=each[:, 1])
    every, curve = max(scale.steps // 100, 1), []
    for step in range(scale.steps):
        if step % every == 0:
            curve.append(_feature(descent.rows.view(shape)))
        descent.step(gradients(losses, descent.rows)[1])
    rows = descent.rows.view(shape)
    tests = draw([PILOT_SEED + seed for seed in seeds], scale, scale.tests, 0.5)
    right = _right(rows, tests)
    along, across = (_mean(part * data.label[:, None], data.small) for part in parts_of_output(rows, data))
    return Learnt(
        fitted=(_right(rows, data) * weight).sum(-1).T,
        small=_mean(right, tests.small).T,
        large=_mean(right, ~tests.small).T,
        feature=_feature(rows).T,
        noise_share=(across / (along + across)).T,
        curve=torch.stack(curve).mT,
        every=every,
    )


def _weights(data: Patches, sees: str) -> Tensor:
    """(seeds, examples): the share of each example in the loss."""
    seen = {"all": torch.ones_like(data.small), "small": data.small, "large": ~data.small}[sees].float()
    return seen / seen.sum(1, keepdim=True)


def _right(rows: Tensor, patches: Patches) -> Tensor:
    """(seeds, arms, examples), 1 where the sign of f(X) is the label."""
    along, across = parts_of_output(rows, patches)
    return ((along + across) * patches.label[:, None] > 0).float()


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """(seeds, arms): the mean of values (seeds, arms, examples) over some examples of each seed."""
    return (values * where[:, None]).sum(-1) / where.sum(-1)[:, None]


def _feature(rows: Tensor) -> Tensor:
    """(seeds, arms): the largest <w_r, w_star>."""
    return rows[..., 0].amax(-1)
