"""The distribution of sum_j lambda_j chi2_j(1): what likelihood ratios have where no model is right."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.lazy import lazy

integration = lazy("scipy.integrate")

Array = npt.NDArray[np.float64]


def weighted_chi2_sf(x: float, weights: Array) -> float:
    """Return P(sum_j lambda_j Z_j^2 > x) for independent standard normal Z_j, lambda of either sign.

        P = 1/2 + 1/pi int_0^inf sin(theta(u)) / (u rho(u)) du,
        theta = sum_j arctan(lambda_j u) / 2 - x u / 2,   rho = prod_j (1 + lambda_j^2 u^2)^(1/4)

    Reference: Imhof (1961), Biometrika 48.

    Example
    -------
    >>> round(weighted_chi2_sf(3.841458820694124, np.array([1.0])), 10)
    0.05
    >>> round(weighted_chi2_sf(0.0, np.array([1.0, -1.0])), 10)
    0.5
    """
    size = float(np.abs(weights).max(initial=0.0))
    used = weights[np.abs(weights) > 1e-10 * size] / size if size > 0 else weights[:0]
    if not len(used):
        return 1.0 if x < 0 else 0.0
    x = x / size
    if (used == used[0]).all():
        tail = float(special.chdtrc(len(used), max(x / used[0], 0.0)))
        return tail if used[0] > 0 else 1.0 - tail
    if (used > 0).all() and x <= 0:
        return 1.0
    if (used < 0).all() and x >= 0:
        return 0.0

    def phase(u: float) -> float:
        return 0.5 * float(np.arctan(used * u).sum())

    def damp(u: float) -> float:
        return math.exp(-0.25 * float(np.log1p((used * u) ** 2).sum())) / u

    def whole(u: float) -> float:
        return math.sin(phase(u) - 0.5 * x * u) * damp(u) if u > 0 else 0.5 * (float(used.sum()) - x)

    omega = 0.5 * abs(x)
    turn = 1.0 if omega == 0 else min(1.0, math.pi / omega)
    total = integration.quad(whole, 0.0, turn, epsabs=1e-12, limit=400)[0]
    if omega == 0:
        total += integration.quad(whole, turn, math.inf, epsabs=1e-12, limit=1000)[0]
    else:
        side = math.copysign(1.0, x)
        options = {"wvar": omega, "epsabs": 1e-11, "limit": 400, "limlst": 400}
        total += integration.quad(
            lambda u: math.sin(phase(u)) * damp(u), turn, math.inf, weight="cos", **options
        )[0]
        total -= (
            side
            * integration.quad(
                lambda u: math.cos(phase(u)) * damp(u), turn, math.inf, weight="sin", **options
            )[0]
        )
    return float(min(max(0.5 + total / math.pi, 0.0), 1.0))
