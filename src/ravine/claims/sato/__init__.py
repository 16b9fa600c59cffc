"""Sato and Iiduka, "Role of momentum in smoothing the objective function", 2024, and its sequel of AAAI 2025.

SHB is momentum in heavy-ball form, NSHB in EMA form. The noise of the search direction d is |d - G|^2, where G is the
gradient of all examples; the degree of smoothing is the learning rate times its root. Reviewers of a later version
asked whether that explains more than the effective learning rate lr / (1 - momentum) does: their comparison stands
beside the claim.
"""

from __future__ import annotations

from ravine.claims.sato import noise, schedules, smoothing

CLAIMS = (*noise.CLAIMS, *smoothing.CLAIMS, *schedules.CLAIMS)
