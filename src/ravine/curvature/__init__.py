"""A loss on fixed data as a function of the parameters, and products with its curvature matrices.

`Objective` holds model, loss and data; `hessian` and `gauss_newton` are matrices for a few products (or blocks of
them), `Linearizer` makes the fast products of many at one point, which conjugate gradients take.
"""

from ravine.curvature.faults import require_finite
from ravine.curvature.frozen import unchanged
from ravine.curvature.objective import Mode, Objective, Part, Product
from ravine.curvature.operators import Curvature, Linearizer, Operator, gauss_newton, hessian, require_operator
from ravine.curvature.products import Kind
from ravine.curvature.structural import StructuralDamping, squared_distance, tanh_matching

__all__ = [
    "Curvature",
    "Kind",
    "Linearizer",
    "Mode",
    "Objective",
    "Operator",
    "Part",
    "Product",
    "StructuralDamping",
    "gauss_newton",
    "hessian",
    "require_finite",
    "require_operator",
    "squared_distance",
    "tanh_matching",
    "unchanged",
]
