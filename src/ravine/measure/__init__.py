"""What a problem and a run look like from inside: noise, curvature, and momentum's own signals, with standard errors.

Make an `Objective` of a model, batches and a loss, and ask:

>>> import torch
>>> from ravine import measure
>>> _ = torch.manual_seed(0)
>>> model = torch.nn.Linear(3, 1, bias=False)
>>> x, y = torch.randn(64, 3), torch.randn(64, 1)
>>> objective = measure.Objective(model, [(x, y)], loss=torch.nn.functional.mse_loss)
>>> top = measure.top_eigenvalues(measure.hessian(objective))
>>> bool(torch.isclose(top.values[0], torch.linalg.eigvalsh(2 * x.T @ x / 64).max().double(), rtol=1e-3))
True
>>> noise = measure.noise_scale(objective, small=1)

`docs/measure.md` says what each number means and costs. `ravine.Monitor` takes them while a model trains.
"""

from ravine.curvature import Objective, Operator, gauss_newton, hessian
from ravine.measure.direction import batch_sharpness, curvature_along
from ravine.measure.eigen import Eigenpairs, top_eigenvalues
from ravine.measure.estimate import Estimate, mean, ratio_of_means
from ravine.measure.momentum import (
    Oscillation,
    cosine,
    momentum_gain,
    norm_growth,
    oscillation,
    signal_share,
    stability_margin,
)
from ravine.measure.noise import NoiseScale, noise_scale, pooled, search_direction_noise, smoothing
from ravine.measure.spectrum import SpectralDensity, spectral_density
from ravine.measure.theory import (
    Mode,
    effective_batch,
    gains,
    heavy_ball_lr,
    mode,
    sharpness_plateaus,
    stability_limit,
    stationary_cosine,
    stationary_gain,
    stationary_variance,
)
from ravine.measure.traces import trace

__all__ = [
    "Eigenpairs",
    "Estimate",
    "Mode",
    "NoiseScale",
    "Objective",
    "Operator",
    "Oscillation",
    "SpectralDensity",
    "batch_sharpness",
    "cosine",
    "curvature_along",
    "effective_batch",
    "gains",
    "gauss_newton",
    "heavy_ball_lr",
    "hessian",
    "mean",
    "mode",
    "momentum_gain",
    "noise_scale",
    "norm_growth",
    "oscillation",
    "pooled",
    "ratio_of_means",
    "search_direction_noise",
    "sharpness_plateaus",
    "signal_share",
    "smoothing",
    "spectral_density",
    "stability_limit",
    "stability_margin",
    "stationary_cosine",
    "stationary_gain",
    "stationary_variance",
    "top_eigenvalues",
    "trace",
]
