"""The coefficient table: estimates, standard errors, z, p and intervals on the user's scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.covariance.covariance import Covariance
from mlecov.errors import InferenceError
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CoefficientTable:
    """Columns (m,) of a coefficient table; NaN where a number has no meaning.

    z and p are NaN where the hypothesis zero lies on the bound of the parameter (a standard
    deviation, a share): no normal approximation holds there.
    """

    labels: tuple[str, ...]
    estimates: Array
    bse: Array
    statistics: Array
    pvalues: Array
    lower: Array
    upper: Array
    alpha: float
    df: float | Array | None


def critical_value(alpha: float, df: float | Array | None) -> float | Array:
    """Return the two-sided critical value of the normal (df None) or t distribution."""
    if not 0 < alpha < 1:
        raise InferenceError(f"alpha={alpha!r}: expected a number between 0 and 1, such as 0.05.")
    if df is None:
        return float(special.ndtri(1 - alpha / 2))
    found = -np.asarray(special.stdtrit(df, alpha / 2), dtype=float)
    return float(found) if found.ndim == 0 else found


def two_sided(statistics: Array, df: float | Array | None) -> Array:
    """Return two-sided p-values of z (df None) or t statistics."""
    size = -np.abs(statistics)
    return np.asarray(2 * (special.ndtr(size) if df is None else special.stdtr(df, size)))


def coefficient_table(covariance: Covariance, alpha: float = 0.05) -> CoefficientTable:
    """Return the table of a covariance.

    Intervals are built on the scale of each entry's link (log for a positive one) by the delta
    method, so that they stay inside its range: g^-1(g(x) -+ c g'(x) se).
    """
    space = covariance.space
    estimates = space.report(covariance.theta)
    bse = covariance.bse
    c = critical_value(alpha, covariance.df)
    with np.errstate(all="ignore"):
        statistics = np.where(space.zero_on_bound, np.nan, estimates / bse)
        pvalues = two_sided(statistics, covariance.df)
    lower, upper = intervals(space, estimates, bse, c)
    return CoefficientTable(
        space.labels, estimates, bse, statistics, pvalues, lower, upper, alpha, covariance.df
    )


def intervals(space: ParameterSpace, estimates: Array, bse: Array, c: float | Array) -> tuple[Array, Array]:
    """Return lower and upper ends (m,) of the intervals with critical value c, inside the bounds."""
    half = c * bse
    lower, upper = estimates - half, estimates + half
    for i, link in enumerate(space.interval_links):
        if (math.isinf(link.lo) and math.isinf(link.hi)) or not np.isfinite(half[i]):
            continue
        inside = link.lo < estimates[i] < link.hi
        if not inside:
            lower[i] = upper[i] = np.nan
            continue
        middle = link.forward(np.float64(estimates[i]))
        width = half[i] * link.derivative(np.float64(estimates[i]))
        lower[i], upper[i] = link.inverse(middle - width), link.inverse(middle + width)
    return lower, upper
