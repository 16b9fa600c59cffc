"""Jelassi and Li, "Towards understanding how momentum improves generalization in deep learning", ICML 2022.

Momentum is in EMA form, G <- g G + (1 - g) grad, W <- W - eta G, so that gradient descent and momentum have the same
eta and the same effective learning rate. The sizes are ours: the paper's asymptotic scalings allow many.
"""

from __future__ import annotations

from ravine.claims.jelassi import contrast, gaussian, margin

CLAIMS = (*margin.CLAIMS, *contrast.CLAIMS, *gaussian.CLAIMS)
