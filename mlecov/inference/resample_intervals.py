"""Bootstrap intervals: percentile, basic, BCa, bootstrap-t."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.requests import Cluster
from mlecov.covariance.sandwich import covariance as estimate
from mlecov.covariance.sandwich import observed_factor
from mlecov.covariance.specs import Basic
from mlecov.errors import InferenceError
from mlecov.inference.table import coefficient_table
from mlecov.links import Link
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]

KINDS = ("normal", "percentile", "basic", "bca", "t")


def resampled_intervals(
    optimum: Optimum, covariance: Covariance, kind: str = "percentile", alpha: float = 0.05
) -> tuple[Array, Array]:
    """Return lower and upper ends (m,) of intervals from the replicates of a bootstrap covariance.

    Parameters
    ----------
    kind :
        normal: estimate -+ z se; percentile: quantiles of the replicates; basic: reflected quantiles;
        bca: quantiles moved for bias and acceleration; t: quantiles of the studentized replicates.
        basic and t work on the scale of each entry's link (log of a positive one), so that their ends
        stay inside its range.

    Quantiles are order statistics at (R+1)p.

    Raises
    ------
    InferenceError
        For covariances without replicates, unknown kinds, and entries whose replicates all lie on
        one side of the estimate (bca).

    Reference: Efron & Tibshirani (1993), chapters 12-14; DiCiccio & Efron (1996).
    """
    if kind not in KINDS:
        raise InferenceError(f"kind={kind!r} is not known; expected one of {', '.join(map(repr, KINDS))}.")
    if not 0 < alpha < 1:
        raise InferenceError(f"alpha={alpha!r}: expected a number between 0 and 1, such as 0.05.")
    if kind == "normal":
        table = coefficient_table(covariance, alpha)
        return table.lower, table.upper
    if "replicates" not in covariance.details:
        raise InferenceError(
            f"kind={kind!r} needs replicates, and '{covariance.label}' has none; give cov=ml.Bootstrap(...)."
        )
    replicates: Array = covariance.details["replicates"]
    space = covariance.space
    estimates = space.report(covariance.theta)
    levels = np.tile([[alpha / 2], [1 - alpha / 2]], (1, space.m))
    if kind == "bca":
        levels = _bca_levels(optimum, covariance, replicates, estimates, levels)
    if kind in ("percentile", "bca"):
        ends = np.array([_quantile(replicates[:, j], levels[:, j]) for j in range(space.m)]).T
    else:
        ends = _linked(optimum, covariance, kind, replicates, estimates, levels[:, 0])
    ends[:, covariance.without_variance] = np.nan
    return ends[0], ends[1]


def _quantile(values: Array, levels: Array) -> Array:
    return np.asarray(np.quantile(values, levels, method="weibull"))


def _linked(
    optimum: Optimum, covariance: Covariance, kind: str, replicates: Array, estimates: Array, levels: Array
) -> Array:
    """Return ends (2, m) of basic or bootstrap-t intervals, built on the links' scale."""
    ends = np.empty((2, len(estimates)))
    errors = covariance.details.get("std_errors")
    if kind == "t" and errors is None:
        raise InferenceError(
            "kind='t' needs each replicate's standard error: Bootstrap(..., studentize=True)."
        )
    if errors is None:
        errors, own = replicates, estimates  # basic intervals read neither
    else:
        own = _own_errors(optimum, covariance)
    for j, link in enumerate(covariance.space.interval_links):
        middle, moved = _forward(link, estimates[j : j + 1])[0], _forward(link, replicates[:, j])
        if kind == "basic":
            low, high = middle - _quantile(moved - middle, levels)[::-1]
        else:
            slopes = _slopes(link, replicates[:, j])
            with np.errstate(all="ignore"):
                ratio = (moved - middle) / (slopes * errors[:, j])
            scale = _slopes(link, estimates[j : j + 1])[0] * own[j]
            finite = np.isfinite(ratio)
            if not finite.any():
                ends[:, j] = np.nan
                continue
            low, high = middle - scale * _quantile(ratio[finite], levels)[::-1]
        ends[:, j] = [float(link.inverse(np.float64(end))) for end in (low, high)]
    return ends


def _forward(link: Link, values: Array) -> Array:
    return np.array([float(link.forward(np.float64(value))) for value in values])


def _slopes(link: Link, values: Array) -> Array:
    return np.array([float(link.derivative(np.float64(value))) for value in values])


def _own_errors(optimum: Optimum, covariance: Covariance) -> Array:
    """Return the standard errors (m,) of the estimates by the formula that studentized the replicates."""
    codes = covariance.details["codes"]
    if covariance.details["kind"] == "parametric":
        return estimate(optimum, Basic("oim")).bse
    spec = Basic("robust") if codes is None else Cluster(codes, type="CR0")
    return estimate(optimum, spec).bse


def _bca_levels(
    optimum: Optimum, covariance: Covariance, replicates: Array, estimates: Array, levels: Array
) -> Array:
    """Return the levels (2, m) at which BCa reads the quantiles."""
    below = (replicates < estimates).mean(axis=0) + 0.5 * (replicates == estimates).mean(axis=0)
    moving = ~covariance.without_variance
    if ((below[moving] == 0) | (below[moving] == 1)).any():
        names = [covariance.space.labels[j] for j in np.flatnonzero(moving) if below[j] in (0, 1)]
        raise InferenceError(
            f"BCa is not defined for {', '.join(names)}: all replicates lie on one side of the estimate. Use "
            "more replications, or kind='t'."
        )
    z0 = special.ndtri(np.where(moving, below, 0.5))
    a = acceleration(optimum, covariance)
    z = z0 + special.ndtri(levels)
    return np.asarray(special.ndtr(z0 + z / (1 - a * z)))


def acceleration(optimum: Optimum, covariance: Covariance) -> Array:
    """Return BCa's acceleration (m,), sum u^3 / (6 (sum u^2)^(3/2)), from influences u = J I^-1 s.

    The influences are those of terms, of groups where groups were drawn, of consecutive blocks where
    blocks were.
    """
    scores = optimum.evaluation.scores
    assert scores is not None
    codes = covariance.details["codes"]
    if "block_length" in covariance.details:
        codes = np.arange(scores.n_terms) // covariance.details["block_length"]
    direction = observed_factor(optimum).inverse @ covariance.space.jacobian(optimum.theta).T
    if codes is None:
        w = scores.term_weights()
        influence = scores.right(direction)
        influence = influence if w is None else influence * w[:, None]
    else:
        influence = scores.group_sums(codes, int(codes.max()) + 1) @ direction
    size = (influence**2).sum(axis=0) ** 1.5
    third = (influence**3).sum(axis=0)
    return np.asarray(np.divide(third, 6 * size, out=np.zeros_like(size), where=size > 0))
