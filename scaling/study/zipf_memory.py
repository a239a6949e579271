"""A law with no training at all: a learner that memorises the most frequent contexts of a text.

Contexts i = 1, 2, ... come with probability proportional to i^-(1+a). A learner of N places has
seen D draws; a context that it does not store costs 1 nat. Exactly, the loss falls as N^-a and
D^-(a/(1+a)), and the best N grows as C^(1/(2+a)).

Source: Hutter 2021, arXiv:2102.04074, generalised to a memory of N.
"""

from __future__ import annotations

from functools import cache
from typing import Any

EXACT = 4096  # contexts summed one by one; beyond, the terms change little and are integrated
NODES = 400  # Gauss-Legendre nodes of that integral in ln i: relative error below 1e-10


def zipf_excess(N: float, D: float, a: float) -> float:
    """Return sum_{i>N} p_i + sum_{i<=N} p_i (1-p_i)^D: the chance that a context is not stored."""
    import numpy as np
    from scipy.special import zeta

    total = zeta(1 + a)
    # A fractional N stores its last context in part, so that the law is smooth in N.
    unseen_tail = zeta(1 + a, N + 1) / total
    i = np.arange(1, min(int(N), EXACT) + 1, dtype=float)
    p = i ** -(1 + a) / total
    stored = float(p @ np.exp(D * np.log1p(-p)))
    if N > EXACT:
        # Midpoint rule turned round: sum_{i=m+1}^{N} f(i) ~ integral of f from m+1/2 to N+1/2.
        nodes, weights = _gauss_legendre()
        lo, hi = np.log(EXACT + 0.5), np.log(N + 0.5)
        x = np.exp(0.5 * (hi - lo) * nodes + 0.5 * (hi + lo))
        p = x ** -(1 + a) / total
        stored += float(0.5 * (hi - lo) * (weights * x) @ (p * np.exp(D * np.log1p(-p))))
    return float(unseen_tail + stored)


@cache
def _gauss_legendre() -> tuple[Any, Any]:
    import numpy as np

    return np.polynomial.legendre.leggauss(NODES)
