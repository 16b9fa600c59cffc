"""Expected best of k trials: what a smaller tuning budget would have given."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def expected_best(scores: ArrayLike) -> NDArray[np.float64]:
    """Expected best of k = 1..K trials: the mean of the maximum over all subsets of k scores.

    sum_i v_(i) C(i-1, k-1) / C(K, k), scores sorted ascending, larger is better; shape (K,) in and out, entry k-1 for
    k trials. Unbiased, unlike the plug-in estimate, which is too low. Search points that cover a space on purpose are
    no independent draws, so the curve is descriptive. Source: Tang et al., Showing Your Work Doesn't Always Work, ACL
    2020.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    trials = ordered.size
    weights = np.full(trials, 1 / trials)
    best = np.empty(trials)
    for k in range(1, trials + 1):
        best[k - 1] = weights @ ordered
        # C(i-1, k) / C(K, k+1) = C(i-1, k-1) / C(K, k) * (i - k) (k + 1) / (k (K - k)), i counted from 1
        if k < trials:
            weights *= np.maximum(np.arange(1, trials + 1) - k, 0) * (k + 1) / (k * (trials - k))
    return best
