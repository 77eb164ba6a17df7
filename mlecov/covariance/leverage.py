"""Scores adjusted for leverage, (I - I_g I^-1)^-p s_g with p 1/2 or 1, group by group or term by term.

All of it happens on the whitened scale: with I^-1 = W'W and the symmetric A_g = W I_g W',

    (I - I_g I^-1)^-p s_g = W^-1 (I - A_g)^-p W s_g

For terms of an index likelihood I_i = X_i' C_i X_i has rank E, and the adjustment acts on the E
derivatives alone: (I - I_i I^-1)^-p X_i' = X_i' (I - C_i H_i)^-p with H_i = X_i I^-1 X_i'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.factors import final_scores, sandwich_of
from mlecov.covariance.requests import HC
from mlecov.covariance.sandwich import estimator, expected_factor, observed_factor
from mlecov.covariance.specbase import shown
from mlecov.errors import CovarianceError, listing
from mlecov.likelihood.base import Curvature, Likelihood, Restricted
from mlecov.likelihood.index import IndexLikelihood
from mlecov.likelihood.index_scores import IndexScores
from mlecov.likelihood.scores import BLOCK, MappedScores, Scores
from mlecov.linalg import Factor
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

ONE = 1 - 1e-10
"""Eigenvalues of I_g I^-1 from here on count as one: without the group nothing is left to estimate with."""

POWERS = {"CR0": 0.0, "CR1": 0.0, "CR2": 0.5, "CR3": 1.0, "HC2": 0.5, "HC3": 1.0}


def which_curvature(likelihood: Likelihood, asked: Curvature | None) -> Curvature:
    """Return the curvature of I_g: the expected one where known, else the observed, or the one asked for."""
    if asked == "expected" and not likelihood.has_expected_blocks:
        raise CovarianceError(
            f"{likelihood.facts.name} knows no expected curvature of its terms; use curvature='observed'."
        )
    return asked or ("expected" if likelihood.has_expected_blocks else "observed")


def whitener(optimum: Optimum, kind: Curvature) -> Array:
    """Return W (k, k) with W'W the inverse of the information of that kind."""
    found: Factor = (expected_factor if kind == "expected" else observed_factor)(optimum)
    return np.asarray(np.linalg.inv(found.lower) * found.scale)


def power(matrices: Array, vectors: Array, p: float, names: Any) -> Array:
    """Return (I - A)^-p v for symmetric A (b, k, k) and v (b, k), or matrices v (b, k, m).

    Raises
    ------
    CovarianceError
        Naming the groups where I - A is not positive definite.
    """
    columns = vectors if vectors.ndim == 3 else vectors[..., None]
    if p:
        values, basis = np.linalg.eigh(matrices)
        refuse_full_leverage(values[:, -1], names)
        columns = basis @ ((1 - values)[..., None] ** -p * (basis.transpose(0, 2, 1) @ columns))
    return columns if vectors.ndim == 3 else columns[..., 0]


def refuse_full_leverage(largest: Array, names: Any) -> None:
    """Raise CovarianceError naming the groups whose largest eigenvalue (b,) of I_g I^-1 reaches one."""
    bad = np.flatnonzero(~(largest < ONE))
    if len(bad):
        named = listing((names[i] for i in bad), 5)
        raise CovarianceError(
            f"I - I_g I^-1 is not positive definite for {named} (largest eigenvalue of I_g I^-1: "
            f"{largest[bad[0]]:.6g}): a parameter is identified by that group alone, or its curvature "
            "exceeds the "
            "total. Leverage corrections are not defined; use CR0 or CR1 (HC0 or HC1), or drop the parameter."
        )


@dataclass(frozen=True, eq=False)
class Adjusted:
    """A batch of groups: A_g (b, k, k) and (I - A_g)^-p W t_g (b, k), on the whitened scale."""

    groups: Codes
    whitened: Array
    sums: Array


def adjusted_groups(
    optimum: Optimum, codes: Codes, labels: Any, p: float, kind: Curvature, w: Array
) -> Iterator[Adjusted]:
    """Yield the groups' whitened curvature and adjusted sums of scores, in batches.

    The sums (G, k) are formed a part at a time where groups are nearly as many as terms.
    """
    scores, likelihood = final_scores(optimum), optimum.likelihood
    n_groups = len(labels)
    step = max(scores.n_terms // 8, BLOCK)
    low, high = 0, 0
    part = np.empty((0, scores.k))
    for groups, blocks in likelihood.curvature_blocks(optimum.theta, codes, n_groups, kind):
        if groups[-1] >= high:
            low, high = int(groups[0]), max(int(groups[0]) + step, int(groups[-1]) + 1)
            inside = (codes >= low) & (codes < high)
            part = scores.group_sums(np.where(inside, codes - low, -1), min(high, n_groups) - low) @ w.T
        whitened = w @ blocks @ w.T
        yield Adjusted(groups, whitened, power(whitened, part[groups - low], p, _Names(labels, groups)))


class _Names:
    """Names of the groups of a batch, made when a message needs them."""

    def __init__(self, labels: Any, groups: Codes) -> None:
        self.labels, self.groups = labels, groups

    def __getitem__(self, i: int) -> str:
        return f"group {shown(self.labels[self.groups[i]])}"


class Satterthwaite:
    """Degrees of freedom of V_jj = sum_g (a_g' s_g)^2, accumulated over batches of groups.

    With working covariance I_g of s_g the estimated sums have Cov(z_g, z_h) = d_gh A_g - A_g A_h on the
    whitened scale, so that Q = diag(D) - U U' with D_g = a_g' A_g a_g and u_g = A_g a_g, and

        nu = (tr Q)^2 / tr(Q^2)        (Bell & McCaffrey 2002)

    without any n x n or G x G matrix.
    """

    def __init__(self, optimum: Optimum, w: Array, p: float) -> None:
        space = optimum.likelihood.space
        contrasts = np.eye(space.k) if space.is_identity else space.jacobian(optimum.theta)
        bread = observed_factor(optimum).inverse
        self.contrasts = np.linalg.solve(w.T, bread @ contrasts.T)
        self.p = p
        m, k = len(contrasts), space.k
        self.trace, self.frobenius, self.inner = np.zeros(m), np.zeros(m), np.zeros((m, k, k))

    def add(self, batch: Adjusted, labels: Any) -> None:
        """Take in a batch of groups."""
        b = len(batch.groups)
        columns = np.broadcast_to(self.contrasts, (b, *self.contrasts.shape))
        a = power(batch.whitened, columns, self.p, _Names(labels, batch.groups))
        u = batch.whitened @ a
        d = (a * u).sum(axis=1)
        square = (u * u).sum(axis=1)
        self.trace += (d - square).sum(axis=0)
        self.frobenius += (d * d - 2 * d * square).sum(axis=0)
        self.inner += np.einsum("bim,bjm->mij", u, u)

    @property
    def df(self) -> Array:
        """nu (m,); infinite for entries that do not move with theta."""
        total = self.frobenius + (self.inner**2).sum(axis=(1, 2))
        moving = self.trace > 0
        return np.where(moving, self.trace**2 / np.where(moving, total, 1.0), np.inf)


def refuse_working(kind: Curvature) -> None:
    """Raise where Satterthwaite's degrees of freedom have no working covariance."""
    if kind != "expected":
        raise CovarianceError(
            "df='satterthwaite' needs the expected curvature of the terms as working covariance of their "
            "scores, and "
            "here it is the observed one. Use df='t' (G - 1)."
        )


# --- one term per cluster ---------------------------------------------------------------------------


@estimator(HC)
def leverage_corrected(optimum: Optimum, spec: HC) -> Covariance:
    """Return HC2 or HC3: I^-1 [sum_i s~_i s~_i'] I^-1 with s~_i = (I - I_i I^-1)^-p s_i.

    Frequency weights count rows: each of the w rows is a cluster of its own.
    """
    kind = which_curvature(optimum.likelihood, spec.curvature)
    p = POWERS[spec.type]
    df: Array | None = None
    quick = None if spec.df == "satterthwaite" else adjusted_scores(optimum, p, kind)
    if quick is not None:
        meat = quick.meat()
    else:
        meat, _, df = term_by_term(optimum, p, kind, spec.df == "satterthwaite")
    label = (
        f"{spec.type}, one term per cluster, leverage by {kind} curvature, factor 1, "
        "observed information as bread"
    )
    return sandwich_of(optimum, meat, label, spec.column, df=df, curvature=kind)


def term_by_term(
    optimum: Optimum, p: float, kind: Curvature, satterthwaite: bool = False
) -> tuple[Array, Array, Array | None]:
    """Return the meat (k, k) and the sum (k,) of adjusted terms from curvature blocks, and df (m,).

    For any likelihood; frequency weights count rows, as in `leverage_corrected`.
    """
    likelihood, w = optimum.likelihood, whitener(optimum, kind)
    weights = likelihood.weights
    counts = weights.values if weights is not None and weights.kind == "frequency" else None
    if satterthwaite:
        refuse_working(kind)
        if counts is not None:
            raise CovarianceError(
                "df='satterthwaite' with frequency weights is not defined; repeat the rows instead."
            )
    labels = likelihood.rows.labels
    labels = np.arange(likelihood.n_terms) if labels is None else labels
    codes = np.arange(likelihood.n_terms)
    if counts is not None:
        codes = np.where(counts > 0, np.cumsum(counts > 0) - 1, -1)
        labels = np.asarray(labels)[counts > 0]
        counts = counts[counts > 0]
    tally = Satterthwaite(optimum, w, p) if satterthwaite else None
    total = np.zeros((likelihood.space.k, likelihood.space.k))
    sum_ = np.zeros(likelihood.space.k)
    raw_p = 0.0 if counts is not None else p
    for batch in adjusted_groups(optimum, codes, labels, raw_p, kind, w):
        sums = batch.sums
        if counts is not None:
            size = counts[batch.groups]
            alone = batch.whitened / size[:, None, None]
            sums = power(alone, sums / size[:, None], p, _Names(labels, batch.groups)) * size[:, None]
            total += (sums / size[:, None]).T @ sums
        else:
            total += sums.T @ sums
        sum_ += sums.sum(axis=0)
        if tally is not None:
            tally.add(batch, labels)
    return dewhiten(total, w), np.asarray(np.linalg.solve(w, sum_)), None if tally is None else tally.df


def dewhiten(meat: Array, w: Array) -> Array:
    """Return W^-1 B W^-T for a meat B (k, k) on the whitened scale."""
    half = np.linalg.solve(w, meat)
    return np.asarray(np.linalg.solve(w, half.T).T)


def adjusted_scores(optimum: Optimum, p: float, kind: Curvature, rows_counted: bool = True) -> Scores | None:
    """Return the scores (I - I_i I^-1)^-p s_i of an index likelihood's terms; None for other engines.

    With `rows_counted` a frequency weight stands for that many rows, each with its own leverage;
    without, for one cluster of that many rows.
    """
    likelihood, theta, scores = optimum.likelihood, optimum.theta, final_scores(optimum)
    w = whitener(optimum, kind)
    maps: list[Array] = []
    while isinstance(likelihood, Restricted) and isinstance(scores, MappedScores):
        theta, w = likelihood.full(theta), w @ likelihood.matrix.T
        maps.append(likelihood.matrix)
        likelihood, scores = likelihood.base, scores.base
    if not (isinstance(likelihood, IndexLikelihood) and isinstance(scores, IndexScores)):
        return None
    if p == 0:
        return final_scores(optimum)
    curvature = -likelihood.second_derivatives(theta, kind)
    weights = likelihood.weights
    if weights is not None and not (rows_counted and weights.kind == "frequency"):
        curvature = curvature * weights.values
    first = _adjust_first(likelihood, scores, curvature, w, p)
    found: Scores = replace(scores, first=first)
    for matrix in reversed(maps):
        found = found.map(matrix)
    return found


def _adjust_first(
    likelihood: IndexLikelihood, scores: IndexScores, curvature: Array, w: Array, p: float
) -> Array:
    """Return the adjusted row derivatives (E, n), a block of rows at a time."""
    n, n_equations = scores.n_terms, len(scores.equations)
    first = np.empty_like(scores.first)
    labels = likelihood.rows.labels
    step = BLOCK if scores.design.is_dense else max(BLOCK // 8, 1)
    for start in range(0, n, step):
        stop = min(start + step, n)
        rows = scores.design.rows(start, stop)
        halves = []
        for equation in scores.equations:
            part = w[:, equation.start : equation.stop].T
            flat = equation.columns is None
            halves.append(
                np.broadcast_to(part, (stop - start, len(w))) if flat else rows[:, equation.columns] @ part
            )
        names = _Terms(labels, start)
        if n_equations == 1:
            h = curvature[0, start:stop] * np.einsum("ij,ij->i", halves[0], halves[0])
            refuse_full_leverage(h, names)
            first[0, start:stop] = scores.first[0, start:stop] * (1 - h) ** -p
            continue
        stacked = np.stack(halves, axis=1)
        c = np.empty((stop - start, n_equations, n_equations))
        for index, (e, f) in enumerate(likelihood.pairs):
            c[:, e, f] = c[:, f, e] = curvature[index, start:stop]
        first[:, start:stop] = _small_power(
            c, stacked @ stacked.transpose(0, 2, 1), scores.first[:, start:stop].T, p, names
        ).T
    return first


def _small_power(c: Array, h: Array, v: Array, p: float, names: Any) -> Array:
    """Return (I - C H)^-p v for batches of E x E: with H = Q Q and f(x) = (1 - x)^-p = 1 + x g(x),

    f(C H) = I + C Q g(Q C Q) Q, which needs no inverse of H.
    """
    values, basis = np.linalg.eigh(h)
    q = (basis * np.sqrt(np.maximum(values, 0))[:, None, :]) @ basis.transpose(0, 2, 1)
    values, basis = np.linalg.eigh(q @ c @ q)
    refuse_full_leverage(values[:, -1], names)
    small = np.abs(values) < 1e-300
    g = np.where(small, p, np.expm1(-p * np.log1p(-values)) / np.where(small, 1.0, values))
    inner = basis @ (g[..., None] * (basis.transpose(0, 2, 1) @ (q @ v[..., None])))
    return np.asarray(v + (c @ (q @ inner))[..., 0])


class _Terms:
    """Names of the terms of a block, made when a message needs them."""

    def __init__(self, labels: Any, start: int) -> None:
        self.labels, self.start = labels, start

    def __getitem__(self, i: int) -> str:
        at = self.start + i
        return f"term {at}" if self.labels is None else f"term {shown(self.labels[at])}"
