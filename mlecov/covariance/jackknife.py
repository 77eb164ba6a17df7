"""The jackknife: leave one term or one group out, linearised or by refitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.factors import final_scores, grouping, warn_few
from mlecov.covariance.leverage import (
    adjusted_groups,
    adjusted_scores,
    term_by_term,
    which_curvature,
    whitener,
)
from mlecov.covariance.requests import Jackknife
from mlecov.covariance.sandwich import assemble, estimator
from mlecov.covariance.specbase import label_of, shown
from mlecov.errors import CovarianceError, listing
from mlecov.likelihood.base import Evaluation, Likelihood
from mlecov.linalg import try_factor
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

REFIT_STEPS = 50
REFITTED = 1e-18
"""g' I^-1 g at which a refit counts as done."""


@estimator(Jackknife)
def jackknife(optimum: Optimum, spec: Jackknife) -> Covariance:
    """Return (G-1)/G sum_g (d_g - d.)(d_g - d.)', d_g the change of theta without group g.

    Linearised, d_g = -I^-1 (I - I_g I^-1)^-1 s_g; with `exact` the likelihood is maximised again.
    """
    name = None if spec.group is None else label_of(spec.group, "group")
    parts = _parts(optimum, spec, name)
    if spec.exact:
        second, mean, how = _refits(optimum, parts)
        curvature = None
    else:
        curvature = which_curvature(optimum.likelihood, spec.curvature)
        second, mean = _linearised(optimum, parts, curvature)
        how = f"linearised with {curvature} curvature"
    count = parts.count
    factor = (count - 1) / count
    matrix = factor * (second - count * np.outer(mean, mean))
    df = count - 1 if spec.df == "t" else None
    what = f"terms (n = {count:g})" if name is None else f"{name} ({count:g} groups)"
    label = f"jackknife, leaving out {what} one at a time, {how}, centred, factor (G-1)/G"
    return assemble(
        optimum, matrix, label, spec.column, factor, df, groups={name or "terms": count}, curvature=curvature
    )


@dataclass(frozen=True)
class _Parts:
    """What is left out in turn; `multiplicity` (G,) counts equal deletions (rows under frequencies)."""

    codes: Codes
    labels: Any
    grouped: bool
    multiplicity: Array | None

    @property
    def count(self) -> float:
        return float(len(self.labels) if self.multiplicity is None else self.multiplicity.sum())


def _parts(optimum: Optimum, spec: Jackknife, name: str | None) -> _Parts:
    likelihood = optimum.likelihood
    if name is not None:
        found = grouping(likelihood, spec.group, name)
        warn_few(found.size, f"groups of {name!r}", likelihood.space.k)
        return _Parts(found.codes, found.labels, True, None)
    labels = likelihood.rows.labels
    labels = np.arange(likelihood.n_terms) if labels is None else labels
    weights = likelihood.weights
    counts = weights.values if weights is not None and weights.kind == "frequency" else None
    return _Parts(np.arange(likelihood.n_terms), labels, False, counts)


def _linearised(optimum: Optimum, parts: _Parts, kind: Any) -> tuple[Array, Array]:
    """Return sum d d' (k, k) and the mean of d (k,)."""
    w = whitener(optimum, kind)
    if parts.grouped:
        second, total = np.zeros_like(w), np.zeros(len(w))
        for batch in adjusted_groups(optimum, parts.codes, parts.labels, 1.0, kind, w):
            second += batch.sums.T @ batch.sums
            total += batch.sums.sum(axis=0)
        return w.T @ second @ w, w.T @ total / parts.count
    inverse = w.T @ w
    quick = adjusted_scores(optimum, 1.0, kind)
    if quick is not None:
        meat, total = quick.meat(), quick.sum()
    else:
        meat, total, _ = term_by_term(optimum, 1.0, kind)
    return inverse @ meat @ inverse, inverse @ total / parts.count


def _refits(optimum: Optimum, parts: _Parts) -> tuple[Array, Array, str]:
    """Return sum d d', the mean of d and a note, from maximising without each part."""
    likelihood = optimum.likelihood
    if not likelihood.separable:
        raise CovarianceError(
            f"{likelihood.facts.name} is not separable: its terms depend on each other's rows, so none "
            "can be left out. "
            "Use HAC, or a block bootstrap."
        )
    k = likelihood.space.k
    second, total = np.zeros((k, k)), np.zeros(k)
    start = _starts(optimum, parts)
    failed = []
    for g, label in enumerate(parts.labels):
        kept = np.where(parts.codes == g, 0.0, 1.0)
        times = 1.0
        if parts.multiplicity is not None:
            times = float(parts.multiplicity[g])
            if not times:
                continue
            kept[g] = (times - 1) / times
        theta = refit(likelihood, start[g], kept, optimum.theta)
        if theta is None:
            failed.append(shown(label))
            continue
        change = theta - optimum.theta
        second += times * np.outer(change, change)
        total += times * change
    if failed:
        raise CovarianceError(
            f"without {listing(failed, 5)} the likelihood has no maximum that Newton's method finds: "
            f"{len(failed)} of "
            f"{len(parts.labels)} refits failed. Drop the parameter that these terms alone identify, or use "
            "exact=False."
        )
    return second, total / parts.count, f"{len(parts.labels)} refits"


def _starts(optimum: Optimum, parts: _Parts) -> Array:
    """Return a start (G, k) for every refit: one step without the group's score."""
    sums = final_scores(optimum).group_sums(parts.codes, len(parts.labels))
    if parts.multiplicity is not None:
        sums = sums / np.maximum(parts.multiplicity, 1)[:, None]
    found = try_factor(optimum.evaluation.information)
    return optimum.theta - (found.solve(sums.T).T if found is not None else 0 * sums)


def refit(likelihood: Likelihood, start: Array, kept: Array, fallback: Array) -> Array | None:
    """Return the theta (k,) that maximises the likelihood under extra weights `kept` (n,), or None."""
    at = likelihood.evaluate(start, order=2, weights=kept)
    if not at.is_finite or try_factor(at.information) is None:
        at = likelihood.evaluate(fallback, order=2, weights=kept)
    for _ in range(REFIT_STEPS):
        assert at.gradient is not None
        found = try_factor(at.information) if at.is_finite else None
        if found is None:
            return None
        decrement = found.quadratic(at.gradient)
        if decrement <= REFITTED:
            return at.theta
        new = _step(likelihood, at, found.solve(at.gradient), kept)
        if new is None:
            return at.theta if decrement <= 1e-12 else None
        at = new
    return None


def _step(likelihood: Likelihood, at: Evaluation, step: Array, kept: Array) -> Evaluation | None:
    """Return the evaluation after the first of the halved steps that does not lower the log-likelihood."""
    slack = 1e-12 * (1 + abs(at.loglike))
    for _ in range(30):
        new = likelihood.evaluate(at.theta + step, order=2, weights=kept)
        if new.is_finite and new.loglike >= at.loglike - slack:
            return None if np.array_equal(new.theta, at.theta) else new
        step = step / 2
    return None
