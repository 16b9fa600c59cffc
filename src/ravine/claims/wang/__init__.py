"""Wang, Malladi, Wang, Lyu and Li, "The marginal value of momentum for small learning rate SGD", ICLR 2024.

SGDM is in EMA form, m <- b m + (1 - b) g, x <- x - eta m, and stands beside SGD with the same eta: in torch's form that
is the learning rate eta (1 - b). Comparing torch's momentum .9 with SGD at one learning rate compares steps that are
ten times as long.
"""

from __future__ import annotations

from ravine.claims.wang import batch_size, language_model, manifold, quadratic, svag

CLAIMS = (*quadratic.CLAIMS, *manifold.CLAIMS, *batch_size.CLAIMS, *svag.CLAIMS, *language_model.CLAIMS)
