"""Which terms matter most: one-step deletion, Cook-like distance, leverage, outlying scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.sandwich import observed_factor
from mlecov.errors import InferenceError
from mlecov.inference.indicators import term_hessians
from mlecov.lazy import lazy
from mlecov.linalg import factor
from mlecov.optimum import Optimum

pd = lazy("pandas")

Array = npt.NDArray[np.float64]

BATCH = 4_000_000
"""Numbers of term curvatures held at once."""


@dataclass(frozen=True, eq=False)
class Influence:
    """What leaving out one term does, to one Newton step.

    `dfbeta` (n, m): estimate less the estimate without the term, on the user's scale; `dfbetas`:
    the same in standard errors; `cook` (n,): D_i = d_i' I d_i / k on the free scale; `leverage`
    (n,): tr(I^-1 I_i), the term's share of the information (they add up to k).
    """

    optimum: Optimum
    dfbeta: Array
    dfbetas: Array
    cook: Array
    leverage: Array

    @cached_property
    def labels(self) -> npt.NDArray[Any]:
        """Labels of the terms (n,): the index of the data, or positions."""
        found = self.optimum.likelihood.rows.labels
        return np.arange(len(self.cook)) if found is None else np.asarray(found)

    def top(self, count: int = 10) -> npt.NDArray[np.intp]:
        """Return the positions of the terms of largest Cook distance, largest first."""
        return np.argsort(-self.cook, kind="stable")[:count]

    def frame(self) -> Any:
        """Return everything as a DataFrame, a row per term."""
        names = self.optimum.likelihood.space.labels
        parts = {f"dfbeta {name}": self.dfbeta[:, i] for i, name in enumerate(names)}
        return pd.DataFrame({"cook": self.cook, "leverage": self.leverage, **parts}, index=self.labels)


def influence(optimum: Optimum) -> Influence:
    """Return the one-step influence of every term.

        theta^ - theta^(-i) = (I - I_i)^-1 w_i s_i,   I_i the term's own observed information

    For a Gaussian regression's coefficients at given sigma this is exact. Where I - I_i is not
    positive definite the term's parameters are not identified without it, and its row is infinite.

    Reference: Pregibon (1981), Annals of Statistics 9; Cook (1986), JRSS B 48.
    """
    likelihood = optimum.likelihood
    assert optimum.evaluation.scores is not None
    bread = observed_factor(optimum)
    k, n = likelihood.space.k, likelihood.n_terms
    scores = optimum.evaluation.scores.to_dense()
    weights = np.ones(n) if likelihood.weights is None else likelihood.weights.values
    pairs = np.array([(i, j) for i in range(k) for j in range(i, k)], dtype=np.intp)
    # a whitened leverage matrix per term: (I - I_i)^-1 = W' (1 - W I_i W')^-1 W with I^-1 = W' W
    values, vectors = np.linalg.eigh(bread.inverse)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    step, leverage = np.empty((n, k)), np.empty(n)
    batch = max(BATCH // (k * k), 1)
    entries = term_hessians(likelihood, optimum.theta, pairs)
    for low in range(0, n, batch):
        part = slice(low, min(low + batch, n))
        blocks = np.zeros((part.stop - low, k, k))
        blocks[:, pairs[:, 0], pairs[:, 1]] = blocks[:, pairs[:, 1], pairs[:, 0]] = -entries[part]
        blocks = root @ (blocks * weights[part, None, None]) @ root
        leverage[part] = np.trace(blocks, axis1=1, axis2=2)
        left = np.eye(k) - blocks
        bad = np.asarray(np.linalg.eigvalsh(left)[:, 0] <= 1e-10)
        left[bad] = np.eye(k)
        half = np.linalg.solve(left, ((scores[part] * weights[part, None]) @ root)[:, :, None])[:, :, 0]
        half[bad] = np.inf
        with np.errstate(invalid="ignore"):
            step[part] = np.where(bad[:, None], np.inf, half @ root)
    with np.errstate(invalid="ignore"):
        slopes = likelihood.space.jacobian(optimum.theta)
        bad = np.asarray(~np.isfinite(step).all(axis=1))
        safe = np.where(bad[:, None], 0.0, step)
        dfbeta = np.where(bad[:, None], np.inf, safe @ slopes.T)
        cook = np.where(bad, np.inf, np.einsum("ni,ij,nj->n", safe, optimum.evaluation.information, safe) / k)
        errors = np.sqrt(np.einsum("ik,kl,il->i", slopes, bread.inverse, slopes))
        dfbetas = dfbeta / np.where(errors > 0, errors, np.nan)
    return Influence(optimum, dfbeta, dfbetas, cook, leverage)


@dataclass(frozen=True, eq=False)
class ScoreOutliers:
    """Terms whose score is far out: `share` (n,) is s_i' (S'S)^-1 s_i, which add up to k."""

    share: Array
    terms: npt.NDArray[np.intp]
    threshold: float


def score_outliers(optimum: Optimum, threshold: float | None = None) -> ScoreOutliers:
    """Return the terms that hold more than `threshold` of the outer product of gradients.

    A term's share lies between 0 and 1 and averages k/n; the default threshold is 10 k/n,
    kept between 0.2 and 0.5. Such a term alone decides robust and OPG standard errors.
    """
    assert optimum.evaluation.scores is not None
    if threshold is not None and not 0 < threshold <= 1:
        raise InferenceError(f"threshold={threshold!r}: expected a share between 0 and 1, such as 0.2.")
    scores = optimum.evaluation.scores.to_dense()
    weights = optimum.likelihood.weights
    if weights is not None:
        scores = scores * np.sqrt(weights.values**weights.meat_power)[:, None]
    gram = factor(scores.T @ scores, optimum.likelihood.space.free_labels, "the outer product of gradients")
    share = np.einsum("ni,in->n", scores, gram.solve(scores.T))
    limit = max(min(10 * scores.shape[1] / len(scores), 0.5), 0.2) if threshold is None else threshold
    terms = np.flatnonzero(share > limit)
    return ScoreOutliers(share, terms[np.argsort(-share[terms], kind="stable")], limit)
