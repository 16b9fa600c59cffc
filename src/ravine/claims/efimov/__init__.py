"""Efimov, "Understanding Deep Learning Optimizers: Momentum, AdaGrad, RMSProp & Adam": what is taught of them.

Momentum is in the article's form, v <- b v + (1 - b) g, w <- w - lr v, which is `ravine.rules` "ema-momentum". What
is about quadratics and single steps is float64 without chance.
"""

from __future__ import annotations

from ravine.claims.efimov import adagrad, defaults, ravine, steps

CLAIMS = (*ravine.CLAIMS, *adagrad.CLAIMS, *steps.CLAIMS, *defaults.CLAIMS)
