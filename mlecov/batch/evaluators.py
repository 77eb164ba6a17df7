"""Evaluators: loglike, gradients and information of R replications at R different thetas.

For an index likelihood with a dense design the R gradients and Hessians come from matrix products:
with the row derivatives l'' of all replications in an (R, n) table,

    vech H_r = sum_i w_ri l''_ri vech(x_i x_i'),   all r at once:  (W o L'') K,   K = rows x_i (x) x_i,

K being the Khatri-Rao product of the design with itself. Other likelihoods are evaluated one
replication after another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError
from mlecov.likelihood.base import Likelihood, Restricted
from mlecov.likelihood.general import GeneralLikelihood
from mlecov.likelihood.index import IndexLikelihood
from mlecov.likelihood.scores import Scores
from mlecov.parallel import keep_pages

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

Weighed = Callable[[int, Array | None], Array]
"""sums(p, B): weighed sums of derivative p over rows B (n, q), None for a column of ones; (a, q)."""

ROWS = 32768
"""Rows evaluated together: replications are taken in blocks of about this many rows."""
LIMIT = 8_000_000
"""Largest number of entries of K that is formed; beyond it replications are evaluated one by one."""


@dataclass(frozen=True)
class Sums:
    """Sums over terms of a replications, each at a theta of its own.

    `third` (a, n) are the terms' third derivatives in their predictor, unweighted, where known: they
    correct Newton's steps and enter no result.
    """

    value: Array
    gradient: Array
    information: Array
    outer: Array | None = None
    third: Array | None = None

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """Which replications have a finite gradient and information (a,)."""
        return np.asarray(np.isfinite(self.gradient).all(1) & np.isfinite(self.information).all((1, 2)))

    def put(self, where: Codes, other: Sums, taken: npt.NDArray[np.bool_]) -> None:
        """Replace replications `where` by those of `other` that are `taken`."""
        for name in SUMS:
            mine, new = getattr(self, name), getattr(other, name)
            if mine is not None and new is not None:
                mine[where] = new if taken.all() else new[taken]

    @staticmethod
    def join(parts: Sequence[Sums]) -> Sums:
        """Return the sums of blocks of replications, one after another."""
        kept = [name for name in SUMS if getattr(parts[0], name) is not None]
        return Sums(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in kept})


SUMS = ("value", "gradient", "information", "outer", "third")


class Evaluator(ABC):
    """Evaluates a likelihood at many thetas at once, each under its own weights or outcomes."""

    @abstractmethod
    def evaluate(self, thetas: Array, which: Codes) -> Sums:
        """Return the sums at thetas (a, k) of the replications `which` (a,)."""

    def bend(self, third: Array, steps: Array, which: Codes) -> Array:
        """Return half the third derivative of the log-likelihoods, twice along the steps (a, k): (a, k).

        What Newton's step leaves of the gradient, to second order; only where sums carry `third`.
        """
        raise SpecificationError(f"{type(self).__name__} keeps no third derivatives.")

    @abstractmethod
    def expected(self, thetas: Array, which: Codes) -> Array:
        """Return the expected information (a, k, k)."""

    def first(self, thetas: Array) -> Sums:
        """Return the evaluation at the starts (R, k) of all replications."""
        return self.evaluate(thetas, np.arange(len(thetas)))


@dataclass(frozen=True)
class Problem:
    """What the replications share and where they differ; see `maximize_batch`."""

    likelihood: Likelihood
    count: int
    weights: Array | None = None
    outcomes: Mapping[str, Array] = field(default_factory=dict)
    matrix: Array | None = None
    origins: Array | None = None
    power: int = 1
    outer: bool = False

    def full(self, thetas: Array, which: Codes) -> Array:
        """Return the theta (a, K) of the likelihood for phi (a, k): matrix @ phi + origin."""
        if self.matrix is None:
            return thetas
        assert self.origins is not None
        return np.asarray(thetas @ self.matrix.T + self.origins[which])

    def gradients(self, found: Array) -> Array:
        """Return gradients in phi."""
        return found if self.matrix is None else np.asarray(found @ self.matrix)

    def curvatures(self, found: Array) -> Array:
        """Return matrices (a, K, K) as matrices in phi (a, k, k)."""
        return found if self.matrix is None else np.asarray(self.matrix.T @ found @ self.matrix)


@dataclass(frozen=True)
class LoopEvaluator(Evaluator):
    """One replication after another: any likelihood that takes weights."""

    problem: Problem

    def _likelihood(self, r: int) -> Likelihood:
        if not self.problem.outcomes:
            return self.problem.likelihood
        return with_columns(self.problem.likelihood, {k: v[r] for k, v in self.problem.outcomes.items()})

    def _weights(self, r: int) -> Array | None:
        return None if self.problem.weights is None else self.problem.weights[r]

    def evaluate(self, thetas: Array, which: Codes) -> Sums:
        values, gradients, information, outer = [], [], [], []
        for theta, r in zip(self.problem.full(thetas, which), which, strict=True):
            w = self._weights(r)
            found = self._likelihood(r).evaluate(theta, order=2, weights=w, scores=self.problem.outer)
            assert found.gradient is not None
            values.append(found.loglike)
            gradients.append(found.gradient)
            information.append(found.information)
            if found.scores is not None and self.problem.outer:
                outer.append(self._outer(found.scores, w))
        return Sums(
            np.array(values),
            self.problem.gradients(np.array(gradients)),
            self.problem.curvatures(np.array(information)),
            self.problem.curvatures(np.array(outer)) if outer else None,
        )

    def _outer(self, scores: Scores, w: Array | None) -> Array:
        own = None if scores.weights is None else scores.term_weights(scores.weights.meat_power)
        extra = None if w is None else w**self.problem.power
        both = extra if own is None else own if extra is None else own * extra
        return scores.gram(power=0, weights=both)

    def expected(self, thetas: Array, which: Codes) -> Array:
        full = self.problem.full(thetas, which)
        found = [
            _expected_alone(self._likelihood(r), theta, self._weights(r))
            for theta, r in zip(full, which, strict=True)
        ]
        return self.problem.curvatures(np.array(found))


def _expected_alone(likelihood: Likelihood, theta: Array, w: Array | None) -> Array:
    if w is not None:
        raise SpecificationError(
            f"{likelihood.facts.name}: the expected information of weighted replications is not known one by "
            "one; use 'observed'."
        )
    return likelihood.information(theta)


@dataclass(frozen=True)
class IndexEvaluator(Evaluator):
    """All replications of an index likelihood with a dense design, by matrix products."""

    problem: Problem
    tiles: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def likelihood(self) -> IndexLikelihood:
        """The index likelihood, without constraints."""
        assert isinstance(self.problem.likelihood, IndexLikelihood)
        return self.problem.likelihood

    def _design(self, e: int) -> Array | None:
        """Return the (n, p_e) design of an equation, None for a constant alone."""
        columns = self.likelihood.equations[e].columns
        key = f"X{columns}"
        if columns is None:
            return None
        if key not in self.tiles:
            matrix = self.likelihood.design.rows(0, self.likelihood.n_terms)
            self.tiles[key] = np.ascontiguousarray(matrix[:, columns])
        return np.asarray(self.tiles[key])

    def products(self, e: int, f: int) -> Array | None:
        """Return K (n, q): the products of the columns of X_e and X_f, the upper triangle where e = f."""
        left, right = self._design(e), self._design(f)
        if left is None or right is None:
            return right if left is None else left
        key = f"K{self.likelihood.equations[e].columns},{self.likelihood.equations[f].columns},{e == f}"
        if key not in self.tiles:
            rows, columns = _entries(left.shape[1], right.shape[1], e == f)
            self.tiles[key] = left[:, rows] * right[:, columns]
        return np.asarray(self.tiles[key])

    def _block(self) -> int:
        return max(ROWS // (self.likelihood.n_terms * len(self.likelihood.equations)), 1)

    def _columns(self, which: Codes) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of a replication block, rows of replications one after another."""
        found: dict[str, npt.NDArray[Any]] = {}
        n, a = self.likelihood.n_terms, len(which)
        for name, values in self.likelihood.columns.items():
            if name in self.problem.outcomes:
                found[name] = np.ascontiguousarray(self.problem.outcomes[name][which]).reshape(-1)
                continue
            key = f"tile:{name}"
            if key not in self.tiles or len(self.tiles[key]) < a * n:
                self.tiles[key] = np.tile(values, (max(a, self._block()), *(1,) * (values.ndim - 1)))
            found[name] = self.tiles[key][: a * n]
        return found

    def predictors(self, thetas: Array, which: Codes) -> Array:
        """Return eta (E, a, n) of a block."""
        full = self.problem.full(thetas, which)
        lik = self.likelihood
        eta = np.empty((len(lik.equations), len(which), lik.n_terms))
        for e, equation in enumerate(lik.equations):
            design = self._design(e)
            if design is None:
                eta[e] = full[:, [equation.start]]
            else:
                np.dot(full[:, equation.start : equation.stop], design.T, out=eta[e])
            if equation.offset is not None:
                eta[e] += equation.offset
        return eta

    def _weights(self, which: Codes | slice, power: int = 1, own_power: int = 1) -> Array | None:
        """Return w^power times the likelihood's own weights, (a, n) or (1, n), or None."""
        extra, own = self.problem.weights, self.likelihood.weights
        found = None if extra is None else extra[which] if power == 1 else extra[which] ** power
        if own is None:
            return found
        mine = (own.values if own_power == 1 else own.values**own_power)[None]
        return mine if found is None else found * mine

    def gather_gradient(self, sums: Weighed, a: int) -> Array:
        """Return gradients (a, K): sums(e, X_e) are the weighed sums of first derivatives over X_e."""
        total = np.zeros((a, self.likelihood.space.k))
        for e, equation in enumerate(self.likelihood.equations):
            total[:, equation.start : equation.stop] += sums(e, self._design(e))
        return self.problem.gradients(total)

    def gather_matrix(self, sums: Weighed, a: int) -> Array:
        """Return (a, K, K) as matrices in phi: sums(p, K_p) are the weighed sums of pair p over x_e x_f'."""
        k = self.likelihood.space.k
        total = np.zeros((a, k, k))
        for p, (e, f) in enumerate(self.likelihood.pairs):
            left, right = self.likelihood.equations[e], self.likelihood.equations[f]
            products = self.products(e, f)
            flat = sums(p, products)
            same = e == f and products is not None
            rows, columns = _entries(left.stop - left.start, right.stop - right.start, same)
            rows, columns = rows + left.start, columns + right.start
            total[:, rows, columns] += flat
            if e != f:
                total[:, columns, rows] += flat
            elif same:
                off = rows != columns
                total[:, columns[off], rows[off]] += flat[:, off]
        return self.problem.curvatures(total)

    def _derivatives(self, thetas: Array, which: Codes) -> list[Array]:
        """Return the terms' derivatives (., a, n): value, first, second and, in one predictor, the third."""
        a, n = len(which), self.likelihood.n_terms
        model, columns = self.likelihood.model, self._columns(which)
        eta = self.predictors(thetas, which).reshape(-1, a * n)
        value, first, second = model.derivatives(eta, columns, 2)
        assert first is not None and second is not None
        found = [value, first, second]
        if len(eta) == 1 and self.problem.count * n <= LIMIT:
            third = model.third(eta, columns, first, second)
            found += [] if third is None else [third]
        return [derivative.reshape(-1, a, n) for derivative in found]

    def _gather(self, derivatives: Sequence[Array], which: Codes | slice) -> Sums:
        """Return the sums of derivatives of replications (., a, n), or of one for all (., 1, n)."""
        value, first, second = derivatives[:3]
        w, a = self._weights(which), value.shape[1]
        if isinstance(which, slice):
            a = which.stop - which.start
        third = None if len(derivatives) == 3 else np.broadcast_to(derivatives[3][0], (a, value.shape[2]))
        outer = None
        if self.problem.outer:
            outer = self.gather_matrix(_plain(self._outer_rows(first), self._outer_weights(which)), a)
        return Sums(
            _plain(value, w)(0, None)[:, 0],
            self.gather_gradient(_plain(first, w), a),
            -self.gather_matrix(_plain(second, w), a),
            outer,
            third,
        )

    def _outer_rows(self, first: Array) -> Array:
        """Return the products of first derivatives (pairs, a, n)."""
        return np.array([first[e] * first[f] for e, f in self.likelihood.pairs])

    def _outer_weights(self, which: Codes | slice) -> Array | None:
        """Return the weights of the outer products."""
        own = self.likelihood.weights
        return self._weights(which, self.problem.power, 1 if own is None else own.meat_power)

    def evaluate(self, thetas: Array, which: Codes) -> Sums:
        def one(part: slice) -> Sums:
            return self._gather(self._derivatives(thetas[part], which[part]), which[part])

        return Sums.join(self._over_blocks(one, len(which)))

    def bend(self, third: Array, steps: Array, which: Codes) -> Array:
        (equation,) = self.likelihood.equations
        design = self._design(0)
        along = steps if self.problem.matrix is None else steps @ self.problem.matrix.T
        along = along[:, equation.start : equation.stop]

        def one(part: slice) -> Array:
            moved = along[part] if design is None else np.dot(along[part], design.T)
            moved = np.multiply(moved, moved) * third[part]
            return self.gather_gradient(_plain(moved[None], self._weights(which[part])), len(moved))

        return 0.5 * np.concatenate(self._over_blocks(one, len(which)))

    def first(self, thetas: Array) -> Sums:
        """Derivatives once for all, where the replications share start, origin and outcomes (or zeros and ones)."""
        origins, outcomes = self.problem.origins, self.problem.outcomes
        alike = (thetas == thetas[0]).all() and (origins is None or (origins == origins[0]).all())
        if alike and self.problem.weights is not None and not outcomes:
            with np.errstate(all="ignore"):
                found = self._derivatives(thetas[:1], np.zeros(1, dtype=np.intp))
            return Sums.join(self._over_blocks(lambda part: self._gather(found, part), len(thetas)))
        if alike and len(outcomes) == 1 and len(thetas) > 2:
            ((name, values),) = outcomes.items()
            ones = values == 1
            if values.ndim == 2 and (ones | (values == 0)).all():
                return self._first_of_two(thetas, name, ones)
        return super().first(thetas)

    def _first_of_two(self, thetas: Array, name: str, ones: npt.NDArray[np.bool_]) -> Sums:
        """Return the evaluation at one theta of outcomes that are one where `ones` (R, n), else zero.

        Sums over terms are linear in the outcomes y: sum_i w_i (d_i(0) + y_i (d_i(1) - d_i(0))), with
        every product of d(0) and d(1) with the design taken once.
        """
        both = {name: np.stack([np.zeros(ones.shape[1]), np.ones(ones.shape[1])])}
        pair = replace(self, problem=replace(self.problem, count=2, outcomes=both))
        with np.errstate(all="ignore"):
            value, first, second, *third = pair._derivatives(thetas[:2], np.arange(2))
        y, a = np.asarray(self.problem.outcomes[name], dtype=float), len(ones)
        everyone = slice(0, a)
        w = self._weights(everyone)
        outer = None
        if self.problem.outer:
            mixed = _mixed(self._outer_rows(first), y, self._outer_weights(everyone))
            outer = self.gather_matrix(mixed, a)
        return Sums(
            _mixed(value, y, w)(0, None)[:, 0],
            self.gather_gradient(_mixed(first, y, w), a),
            -self.gather_matrix(_mixed(second, y, w), a),
            outer,
            _of_outcomes(y, *third[0][0]) if third and y.size <= LIMIT else None,
        )

    def expected(self, thetas: Array, which: Codes) -> Array:
        def one(part: slice) -> Array:
            eta = self.predictors(thetas[part], which[part])
            flat = eta.reshape(len(eta), -1)
            rows = -self.likelihood.model.expected(flat, self._columns(which[part]))
            rows = rows.reshape(-1, *eta.shape[1:])
            return self.gather_matrix(_plain(rows, self._weights(which[part])), eta.shape[1])

        return np.concatenate(self._over_blocks(one, len(which)))

    def _over_blocks(self, function: Any, count: int) -> list[Any]:
        """Return function(slice) of each block of replications."""
        step = self._block()
        keep_pages()
        with np.errstate(all="ignore"):  # a trial step may overflow: its values are refused by the search
            return [function(slice(i, min(i + step, count))) for i in range(0, count, step)]


def _plain(derivatives: Array, w: Array | None) -> Weighed:
    """Return sums(p, B): those of derivatives (., a, n), weighed by w (a, n) or (1, n), over rows B (n, q)."""

    def sums(p: int, basis: Array | None) -> Array:
        rows = derivatives[p] if w is None else derivatives[p] * w
        return rows.sum(axis=1, keepdims=True) if basis is None else np.asarray(np.dot(rows, basis))

    return sums


def _mixed(derivatives: Array, y: Array, w: Array | None) -> Weighed:
    """Return `_plain`'s sums for outcomes y (a, n) of zeros and ones; derivatives (., 2, n) are those at 0 and 1."""

    def sums(p: int, basis: Array | None) -> Array:
        zero, one = (row[:, None] * (1.0 if basis is None else basis) for row in derivatives[p])
        if w is None:
            return np.asarray(zero.sum(axis=0) + np.dot(y, one - zero))
        if len(w) == 1:
            return np.asarray(np.dot(w, zero) + np.dot(y, w.T * (one - zero)))
        return np.asarray(np.dot(w, zero) + np.dot(w * y, one - zero))

    return sums


def _of_outcomes(y: Array, zero: Array, one: Array) -> Array:
    """Return zero (n,) where outcomes y (a, n) are 0, one (n,) where they are 1."""
    found: Array = y * (one - zero)
    found += zero
    return found


def _entries(p: int, q: int, same: bool) -> tuple[Codes, Codes]:
    """Return the (row, column) of each entry of a (p, q) block, of its upper triangle where `same`."""
    if same:
        return np.triu_indices(p)
    rows, columns = np.divmod(np.arange(p * q), q)
    return rows, columns


def with_columns(likelihood: Likelihood, columns: Mapping[str, Any]) -> Likelihood:
    """Return the likelihood with some of its data columns replaced (other outcomes)."""
    if isinstance(likelihood, Restricted):
        return replace(likelihood, base=with_columns(likelihood.base, columns))
    if isinstance(likelihood, IndexLikelihood | GeneralLikelihood):
        unknown = [name for name in columns if name not in likelihood.columns]
        if unknown:
            raise SpecificationError(
                f"{likelihood.facts.name} reads no column {', '.join(unknown)}; it reads "
                f"{', '.join(likelihood.columns)}."
            )
        return replace(likelihood, columns={**likelihood.columns, **columns})
    raise SpecificationError(f"{likelihood.facts.name} holds no columns that could be replaced.")


def evaluator_of(problem: Problem) -> Evaluator:
    """Return the fast evaluator where the likelihood has the structure for it, else the loop."""
    lik = problem.likelihood
    if isinstance(lik, IndexLikelihood) and lik.design.is_dense:
        widths = [e.stop - e.start for e in lik.equations]
        if lik.n_terms * sum(widths) ** 2 <= 2 * LIMIT:
            return IndexEvaluator(problem)
    return LoopEvaluator(problem)
