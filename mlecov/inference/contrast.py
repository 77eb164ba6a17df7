"""Two estimators held against each other: Hausman, and likelihood ratios adjusted for dependence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.covariance.sandwich import observed_factor
from mlecov.errors import InferenceError, listing
from mlecov.inference.results import TestResult
from mlecov.likelihood.base import Restricted
from mlecov.linalg import null_directions, symmetrize, try_factor
from mlecov.optimize.newton import newton_loop
from mlecov.optimize.record import Monitor
from mlecov.optimum import Optimum
from mlecov.parameters import restriction

Array = npt.NDArray[np.float64]


def hausman(
    consistent: Optimum,
    efficient: Optimum,
    *,
    names: Sequence[str] | None = None,
    robust: bool = False,
    groups: Any = None,
) -> TestResult:
    """Test whether two estimators of the same parameters differ by more than chance.

        H = d' V^- d,   d = b_consistent - b_efficient,   chi2(rank V)

    Parameters
    ----------
    consistent, efficient :
        Fits whose reported parameters share names. The efficient one is inconsistent under the
        alternative.
    names :
        Reported parameters compared; all that both have, by default.
    robust :
        False: V = V_consistent - V_efficient (both by observed information), which needs the
        efficient fit to be fully efficient. True: V from the stacked scores of both,
        sum_i (psi_ci - psi_ei)(psi_ci - psi_ei)', psi = J I^-1 s, which needs the same terms and no
        efficiency.
    groups :
        Clusters (column name or array) over which the stacked scores are summed; implies robust.

    Raises
    ------
    InferenceError
        Where no names are shared, terms differ (robust), or V_c - V_e is not positive definite.

    Reference: Hausman (1978), Econometrica 46; White (1994), Estimation, Inference and
    Specification Analysis, section 10.
    """
    shared = _shared_names(consistent, efficient, names)
    rows = [[o.likelihood.space.labels.index(name) for name in shared] for o in (consistent, efficient)]
    estimates = [
        o.likelihood.space.report(o.theta)[r] for o, r in zip((consistent, efficient), rows, strict=True)
    ]
    slopes = [
        o.likelihood.space.jacobian(o.theta)[r] for o, r in zip((consistent, efficient), rows, strict=True)
    ]
    d = estimates[0] - estimates[1]
    if robust or groups is not None:
        matrix, method = _stacked(consistent, efficient, slopes, groups)
    else:
        matrix = _difference(consistent, efficient, slopes, shared)
        method = "covariance of the difference: V(consistent) - V(efficient), observed information"
    values, vectors = np.linalg.eigh(_scaled(matrix))
    kept = values > len(values) * 1e-10
    if not kept.any():
        raise InferenceError(
            "Hausman's test: the covariance of the difference is zero; the two fits are the same."
        )
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    half = (vectors[:, kept].T @ (scale * d)) / np.sqrt(values[kept])
    statistic, df = float(half @ half), int(kept.sum())
    notes = () if df == len(d) else (f"The covariance of the difference has rank {df} of {len(d)}.",)
    return TestResult(
        "Hausman",
        statistic,
        df,
        float(special.chdtrc(df, statistic)),
        method=method,
        hypotheses=tuple((f"{name}: difference", float(d[i]), 0.0) for i, name in enumerate(shared)),
        notes=notes,
        details={"difference": d, "cov": matrix},
    )


def _scaled(matrix: Array) -> Array:
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    return symmetrize(matrix) * np.outer(scale, scale)


def _shared_names(first: Optimum, second: Optimum, names: Sequence[str] | None) -> list[str]:
    labels = [o.likelihood.space.labels for o in (first, second)]
    shared = [name for name in labels[0] if name in labels[1]]
    if names is not None:
        unknown = [name for name in names if name not in shared]
        if unknown:
            raise InferenceError(
                f"Hausman's test: {listing(map(repr, unknown))} is not among the parameters that both fits "
                "report "
                f"({listing(shared)})."
            )
        return list(names)
    if not shared:
        raise InferenceError(
            f"Hausman's test: the fits share no parameter names ({listing(labels[0], 4)} against "
            f"{listing(labels[1], 4)}). Name the parameters alike in both."
        )
    return shared


def _difference(consistent: Optimum, efficient: Optimum, slopes: list[Array], shared: list[str]) -> Array:
    covs = [
        slope @ observed_factor(o).inverse @ slope.T
        for o, slope in zip((consistent, efficient), slopes, strict=True)
    ]
    matrix = symmetrize(covs[0] - covs[1])
    if try_factor(matrix) is None:
        values, directions = null_directions(matrix)
        worst = [shared[i] for i in np.argsort(-np.abs(directions[:, 0]))[:3]] if len(values) else shared[:3]
        raise InferenceError(
            "Hausman's test: V(consistent) - V(efficient) is not positive definite (first in "
            f"{listing(worst)}), as happens where the efficient fit is not fully efficient or the two "
            "information "
            "matrices are estimated apart. Use robust=True, which needs no such difference."
        )
    return matrix


def _stacked(consistent: Optimum, efficient: Optimum, slopes: list[Array], groups: Any) -> tuple[Array, str]:
    n, n_other = consistent.likelihood.n_terms, efficient.likelihood.n_terms
    if n != n_other:
        raise InferenceError(
            f"Hausman's robust test stacks the scores of both fits, but they have {n} and {n_other} terms. "
            "Fit both to "
            "the same rows."
        )
    influence = []
    for optimum, slope in zip((consistent, efficient), slopes, strict=True):
        assert optimum.evaluation.scores is not None
        psi = optimum.evaluation.scores.right(observed_factor(optimum).solve(slope.T))
        weights = optimum.likelihood.weights
        influence.append(psi if weights is None else psi * weights.values[:, None])
    difference = influence[0] - influence[1]
    weights = consistent.likelihood.weights
    if groups is None:
        if weights is not None and weights.kind == "frequency":
            difference = difference / np.sqrt(np.maximum(weights.values, 1e-300))[:, None]
        return difference.T @ difference, "covariance of the difference from the stacked scores"
    codes, labels = consistent.likelihood.rows.codes(groups, "groups")
    sums = np.zeros((len(labels), difference.shape[1]))
    np.add.at(sums, codes, difference)
    return sums.T @ sums, f"covariance of the difference from stacked scores in {len(labels)} clusters"


def adjusted_lr_test(
    optimum: Optimum,
    covariance: Array,
    constraints: str | Sequence[str] = (),
    fixed: dict[str, Any] | None = None,
    *,
    kind: str = "spectral",
    label: str = "",
) -> TestResult:
    """Test constraints by a likelihood ratio adjusted for dependence between terms (Chandler & Bate).

        l_adj(theta) = l(theta^ + C (theta - theta^)),   C' I C = V^-1,   LR = 2 (l_adj(theta^) - max l_adj)

    so that the adjusted log-likelihood has the robust covariance V as its curvature: LR is chi2.

    Parameters
    ----------
    covariance : (k, k)
        V on the free scale, from a cluster estimator: `fit.cov(...).matrix`.
    constraints, fixed :
        As for `fit`.
    kind :
        "spectral" (C from symmetric square roots) or "cholesky" (from triangular ones), both
        horizontal scalings; "vertical": the likelihood ratio of l times the ratio of the Wald
        statistics under V and under I^-1 at its constrained maximum.

    Reference: Chandler & Bate (2007), Biometrika 94.
    """
    kinds = ("spectral", "cholesky", "vertical")
    if kind not in kinds:
        raise InferenceError(f"kind={kind!r} is not known; expected one of {', '.join(kinds)}.")
    likelihood = optimum.likelihood
    found = restriction(likelihood.space, constraints, fixed)
    if found is None:
        raise InferenceError("the adjusted likelihood ratio test needs constraints=[...] or fixed={...}.")
    R, r, texts = found
    information = optimum.evaluation.information
    bread = observed_factor(optimum)
    inverse = try_factor(np.asarray(covariance, dtype=float))
    if inverse is None:
        raise InferenceError(
            "the robust covariance is singular, so the log-likelihood can not be adjusted to it: there are "
            "fewer groups "
            "than parameters. Use more groups, or another test."
        )
    df = likelihood.space.k - R.shape[1]
    C = np.eye(likelihood.space.k) if kind == "vertical" else _adjuster(information, inverse.inverse, kind)
    moved = Restricted(likelihood, C @ R, optimum.theta + C @ (r - optimum.theta), texts)
    phi: Array = np.asarray(np.linalg.lstsq(R, optimum.theta - r, rcond=None)[0])
    loop = newton_loop(moved, moved.evaluate(phi, order=2), "newton", Monitor(), 200, 1e-12)
    if not loop.converged:
        raise InferenceError(f"the adjusted likelihood's constrained maximum was not found: {loop.reason}.")
    statistic = 2 * (optimum.evaluation.loglike - loop.evaluation.loglike)
    if kind == "vertical":
        gap = R @ loop.evaluation.theta + r - optimum.theta
        L = np.linalg.svd(R.T)[2][R.shape[1] :]
        wald = [
            float((L @ gap) @ np.linalg.solve(L @ V @ L.T, L @ gap))
            for V in (np.asarray(covariance, dtype=float), bread.inverse)
        ]
        statistic *= wald[0] / wald[1] if wald[1] > 0 else 1.0
    return TestResult(
        "adjusted likelihood ratio (Chandler-Bate)",
        max(float(statistic), 0.0),
        df,
        float(special.chdtrc(df, max(float(statistic), 0.0))),
        method=f"{kind} adjustment{f' to: {label}' if label else ''}; null: {'; '.join(texts)}",
    )


def _adjuster(information: Array, target: Array, kind: str) -> Array:
    """Return C with C' I C = target."""
    if kind == "cholesky":
        return np.asarray(np.linalg.solve(np.linalg.cholesky(information).T, np.linalg.cholesky(target).T))
    roots = []
    for matrix in (information, target):
        values, vectors = np.linalg.eigh(symmetrize(matrix))
        roots.append((vectors * np.sqrt(values)) @ vectors.T)
    return np.asarray(np.linalg.solve(roots[0], roots[1]))
