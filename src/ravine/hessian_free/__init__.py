"""Hessian-free optimization, classic and momentum-like, on any module and any loss of outputs and targets.

>>> import torch
>>> from ravine.hessian_free import HessianFree
>>> _ = torch.manual_seed(0)
>>> x, y = torch.randn(64, 3), torch.randn(64, 1)
>>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
>>> optimizer = HessianFree(model, torch.nn.functional.mse_loss)
>>> results = [optimizer.step(x, y) for _ in range(5)]
>>> results[-1].new_loss < results[0].loss
True
"""

from ravine.curvature import StructuralDamping, squared_distance, tanh_matching
from ravine.hessian_free.base import Step
from ravine.hessian_free.cg import Solution, conjugate_gradients
from ravine.hessian_free.classic import HessianFree
from ravine.hessian_free.momentum import MomentumHessianFree

__all__ = [
    "HessianFree",
    "MomentumHessianFree",
    "Solution",
    "Step",
    "StructuralDamping",
    "conjugate_gradients",
    "squared_distance",
    "tanh_matching",
]
