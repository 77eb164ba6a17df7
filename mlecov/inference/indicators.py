"""Indicators of White's information-matrix test: H_i + s_i s_i' term by term, and their mean's slope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlecov.errors import InferenceError, listing, suggestion
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.index import IndexLikelihood
from mlecov.likelihood.traced import extrapolate
from mlecov.optimum import Optimum
from mlecov.parameters import ParameterSpace

linear_algebra = lazy("scipy.linalg")

Array = npt.NDArray[np.float64]
Pairs = npt.NDArray[np.intp]
Indicators = str | Sequence[str | tuple[str, str]]

LIMIT = 500
"""Indicators above which the test is refused: their covariance can not be estimated."""

DEPENDENT = 1e-6
"""An indicator whose remainder after the others is below this share of its size is dependent on them."""


def choose_pairs(space: ParameterSpace, indicators: Indicators) -> Pairs:
    """Return the entries (i, j), i <= j, of the (k, k) matrix that `indicators` names: (q, 2).

    "diagonal", "all" (the upper triangle), or a sequence of names: "a" for (a, a), ("a", "b").

    Raises
    ------
    InferenceError
        For unknown names, no indicators, or more than 500.
    """
    k = space.k
    if isinstance(indicators, str):
        if indicators not in ("diagonal", "all"):
            raise InferenceError(
                f"indicators={indicators!r} is not known; expected 'diagonal', 'all', or a list of names "
                "such as "
                f"[{space.free_labels[0]!r}, ({space.free_labels[0]!r}, {space.free_labels[-1]!r})]."
            )
        found = [(i, i) for i in range(k)] if indicators == "diagonal" else _triangle(k)
    else:
        found = [_entry(space, item) for item in indicators]
    if not found:
        raise InferenceError("indicators is empty; name at least one entry, or use 'diagonal' or 'all'.")
    if len(found) > LIMIT:
        raise InferenceError(
            f"the information-matrix test would have {len(found)} indicators; at most {LIMIT} are allowed, "
            "since their "
            "covariance could not be estimated. Use indicators='diagonal', or name the entries of interest."
        )
    return np.array(list(dict.fromkeys(found)), dtype=np.intp)


def _triangle(k: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(k) for j in range(i, k)]


def _entry(space: ParameterSpace, item: str | tuple[str, str]) -> tuple[int, int]:
    names = (item, item) if isinstance(item, str) else tuple(item)
    if len(names) != 2:
        raise InferenceError(f"indicator {item!r}: expected a name or a pair of names.")
    i, j = (_position(space, name) for name in names)
    return min(i, j), max(i, j)


def _position(space: ParameterSpace, name: str) -> int:
    if name in space.free_labels:
        return space.free_labels.index(name)
    if space.matrix is None and name in space.labels and all(p.kind.elementwise for p in space):
        place = space.labels.index(name)
        owner = next(p for p in space if p.reported.start <= place < p.reported.stop)
        if owner.kind.n_free:
            return int(owner.free.start) + place - int(owner.reported.start)
    raise InferenceError(
        f"indicator {name!r} names no free parameter.{suggestion(name, list(space.free_labels))}"
    )


def require_plain_weights(likelihood: Likelihood, what: str) -> Array:
    """Return the frequencies of the terms (n,), refusing weights under which the equality does not hold."""
    if likelihood.weights is None:
        return np.ones(likelihood.n_terms)
    if likelihood.weights.kind != "frequency":
        raise InferenceError(
            f"{what} is not defined under {likelihood.weights.kind} weights: the weighted scores' outer "
            "product "
            "estimates another matrix than the weighted Hessian even where the model is right. Use frequency "
            "weights, or fit without weights."
        )
    return likelihood.weights.values


def term_hessians(likelihood: Likelihood, theta: Array, pairs: Pairs) -> Array:
    """Return entries (i, j) of each term's Hessian at theta: (n, q), unweighted.

    From the closed second derivatives in the predictors where there are predictors; else by
    extrapolated central differences of the scores.
    """
    if isinstance(likelihood, IndexLikelihood):
        return _index_hessians(likelihood, theta, pairs)
    slopes = {int(j): _score_slope(likelihood, theta, int(j)) for j in np.unique(pairs[:, 1])}
    return np.column_stack([slopes[int(j)][:, i] for i, j in pairs])


def _score_slope(likelihood: Likelihood, theta: Array, j: int) -> Array:
    """Return d scores / d theta_j (n, k)."""
    step = 0.02 * max(abs(theta[j]), 1.0)

    def at(move: float) -> Array:
        moved = theta.copy()
        moved[j] += move
        scores = likelihood.evaluate(moved, order=1, scores=True).scores
        assert scores is not None
        return scores.to_dense()

    return np.asarray(extrapolate(lambda h: (at(h * step) - at(-h * step)) / (2 * h * step), 1.0, levels=5))


def _index_hessians(likelihood: IndexLikelihood, theta: Array, pairs: Pairs) -> Array:
    second = likelihood.second_derivatives(theta, "observed")
    place = {pair: p for p, pair in enumerate(likelihood.pairs)}
    columns: dict[tuple[int, int], Array] = {}
    for e, equation in enumerate(likelihood.equations):
        width = equation.stop - equation.start
        for a in range(equation.start, equation.stop):
            if a in pairs:
                unit = np.eye(width)[a - equation.start]
                columns[e, a] = np.array(likelihood.design.dot(unit, equation))
    found = np.zeros((likelihood.n_terms, len(pairs)))
    for column, (a, b) in enumerate(pairs):
        for e in range(len(likelihood.equations)):
            for f in range(len(likelihood.equations)):
                if (e, a) in columns and (f, b) in columns:
                    curvature = second[place[min(e, f), max(e, f)]]
                    found[:, column] += curvature * columns[e, a] * columns[f, b]
    return found


def indicator_rows(optimum: Optimum, pairs: Pairs) -> tuple[Array, Array]:
    """Return (d_i (n, q), scores (n, k)): the entries of H_i + s_i s_i' at the optimum, unweighted."""
    assert optimum.evaluation.scores is not None
    scores = optimum.evaluation.scores.to_dense()
    rows = term_hessians(optimum.likelihood, optimum.theta, pairs)
    return rows + scores[:, pairs[:, 0]] * scores[:, pairs[:, 1]], scores


def indicator_slope(optimum: Optimum) -> Array:
    """Return d/d theta_u of sum_i w_i (H_i + s_i s_i') at the optimum: (k, k, k), u first.

    This holds the third derivatives of the log-likelihood; extrapolated central differences of the
    exact second derivatives give it to about ten digits.
    """
    likelihood, theta = optimum.likelihood, optimum.theta
    step = np.minimum(
        1 / np.sqrt(np.maximum(np.diag(optimum.evaluation.information), 1e-300)),
        0.1 * np.maximum(np.abs(theta), 1.0),
    )

    def total(u: int, move: float) -> Array:
        moved = theta.copy()
        moved[u] += move
        found = likelihood.evaluate(moved, order=2, scores=True)
        assert found.hessian is not None and found.scores is not None
        return np.asarray(found.hessian + found.scores.gram(power=1))

    def slope(u: int) -> Array:
        def quotient(h: float) -> Array:
            return np.asarray((total(u, h * step[u]) - total(u, -h * step[u])) / (2 * h * step[u]))

        return extrapolate(quotient, 1.0, levels=5)

    return np.stack([slope(u) for u in range(len(theta))])


@dataclass(frozen=True)
class Quadratic:
    """1'M (M'M)^- M'1 of rows M (n, q) with rank by pivoted QR: statistic, df, and each column's own z."""

    statistic: float
    df: int
    totals: Array
    std_errors: Array
    kept: npt.NDArray[np.intp]


def quadratic_form(rows: Array, weights: Array, sizes: Array) -> Quadratic:
    """Return the quadratic form of the column totals of `rows` (n, q) in their outer product.

    A column counts as dependent where what the others leave of it is below 1e-6 of its size (q,).
    """
    half = rows * np.sqrt(weights)[:, None] / sizes
    triangle, order = linear_algebra.qr(half, mode="r", pivoting=True)
    width = min(half.shape)
    rank = int((np.abs(np.diag(triangle[:width])) > DEPENDENT).sum())
    kept = np.asarray(order[:rank], dtype=np.intp)
    totals = weights @ rows
    errors = np.sqrt(weights @ rows**2)
    errors = np.where(errors > DEPENDENT * sizes, errors, np.nan)
    if not rank:
        raise InferenceError(
            "every indicator is a combination of the scores: the information-matrix equality holds whatever "
            "the "
            "data, so it can not be tested. Choose other indicators."
        )
    solved = linear_algebra.solve_triangular(triangle[:rank, :rank], (totals / sizes)[kept], trans="T")
    return Quadratic(float(solved @ solved), rank, totals, errors, np.sort(kept))


def pair_labels(space: ParameterSpace, pairs: Pairs) -> tuple[str, ...]:
    """Return the names of entries: "a" for (a, a), "a, b" for others."""
    names = space.free_labels
    return tuple(names[i] if i == j else f"{names[i]}, {names[j]}" for i, j in pairs)


def require_enough(n: float, q: int, labels: Sequence[str]) -> None:
    """Raise InferenceError where there are too few terms for q indicators."""
    if n <= q:
        raise InferenceError(
            f"{n:g} terms can not carry {q} indicators ({listing(labels, 3)}): their covariance has at most "
            "rank "
            f"{n:g}. Use indicators='diagonal', or name fewer."
        )
