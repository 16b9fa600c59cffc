"""Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013.

The claims train as the paper did, shorter: the period of its momentum schedule, its first updates and its tail are
compressed in proportion, and a momentum mu is tried only where 1 / (1 - mu) is at most a twentieth of the updates. The
learning rate of every arm is the best of a grid, chosen on other seeds (the pilot). Errors are those at the look-ahead
point of Nesterov's method, one gradient step from the paper's parameters.
"""

from __future__ import annotations

from ravine.claims.sutskever import autoencoders, initialization, recurrent, second_order, tasks, theorem

CLAIMS = (
    *theorem.CLAIMS,
    *autoencoders.CLAIMS,
    *initialization.CLAIMS,
    *recurrent.CLAIMS,
    *second_order.CLAIMS,
    *tasks.CLAIMS,
)
