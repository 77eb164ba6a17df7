"""Evaluators: loglike, gradients and information of R replications at R different thetas.

For an index likelihood with a dense design the R gradients and Hessians come from matrix products:
with the row derivatives l'' of all replications in an (R, n) table,

    vech H_r = sum_i w_ri l''_ri vech(x_i x_i'),   all r at once:  (W o L'') K,   K = rows x_i (x) x_i,

K being the Khatri-Rao product of the design with itself. Other likelihoods are evaluated one
replication after another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
Sums = tuple[Array, Array, Array, Array | None]

ROWS = 32768
"""Rows evaluated together: replications are taken in blocks of about this many rows."""
LIMIT = 8_000_000
"""Largest number of entries of K that is formed; beyond it replications are evaluated one by one."""


class Evaluator(ABC):
    """Evaluates a likelihood at many thetas at once, each under its own weights or outcomes."""

    @abstractmethod
    def evaluate(self, thetas: Array, which: Codes) -> Sums:
        """Return loglike (a,), gradients (a, k), information and, where kept, outer products (a, k, k)."""

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
        return (
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

    def gather_gradient(self, weighed: Array) -> Array:
        """Return gradients (a, K) of first derivatives times weights (E, a, n)."""
        total = np.zeros((weighed.shape[1], self.likelihood.space.k))
        for e, equation in enumerate(self.likelihood.equations):
            design = self._design(e)
            if design is None:
                total[:, equation.start] += weighed[e].sum(axis=1)
            else:
                total[:, equation.start : equation.stop] += np.dot(weighed[e], design)
        return self.problem.gradients(total)

    def gather_matrix(self, weighed: Array) -> Array:
        """Return (a, K, K) sums of weighed (pairs, a, n) over x_e x_f', as matrices in phi."""
        k = self.likelihood.space.k
        total = np.zeros((weighed.shape[1], k, k))
        for p, (e, f) in enumerate(self.likelihood.pairs):
            left, right = self.likelihood.equations[e], self.likelihood.equations[f]
            products = self.products(e, f)
            flat = weighed[p].sum(axis=1, keepdims=True) if products is None else np.dot(weighed[p], products)
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

    def _derivatives(self, thetas: Array, which: Codes) -> tuple[Array, Array, Array]:
        a, n = len(which), self.likelihood.n_terms
        eta = self.predictors(thetas, which).reshape(-1, a * n)
        value, first, second = self.likelihood.model.derivatives(eta, self._columns(which), 2)
        assert first is not None and second is not None
        return value.reshape(a, n), first.reshape(-1, a, n), second.reshape(-1, a, n)

    def _gather(self, value: Array, first: Array, second: Array, which: Codes | slice) -> Sums:
        """Return the sums of derivatives of replications (., a, n), or of one for all (., 1, n)."""
        w = self._weights(which)
        outer = None
        if self.problem.outer:
            own = self.likelihood.weights
            squared = self._weights(which, self.problem.power, 1 if own is None else own.meat_power)
            rows = np.array([first[e] * first[f] for e, f in self.likelihood.pairs])
            outer = self.gather_matrix(rows if squared is None else rows * squared)
        if w is None:
            return value.sum(axis=1), self.gather_gradient(first), self.gather_matrix(-second), outer
        total = (value * w).sum(axis=1)
        return total, self.gather_gradient(first * w), self.gather_matrix(-second * w), outer

    def evaluate(self, thetas: Array, which: Codes) -> Sums:
        def one(part: slice) -> Sums:
            return self._gather(*self._derivatives(thetas[part], which[part]), which[part])

        return _joined(self._over_blocks(one, len(which)))

    def first(self, thetas: Array) -> Sums:
        """Derivatives once for all, where the replications share start, origin and outcomes (or zeros and ones)."""
        origins, outcomes = self.problem.origins, self.problem.outcomes
        alike = (thetas == thetas[0]).all() and (origins is None or (origins == origins[0]).all())
        if alike and self.problem.weights is not None and not outcomes:
            with np.errstate(all="ignore"):
                found = self._derivatives(thetas[:1], np.zeros(1, dtype=np.intp))
            return _joined(self._over_blocks(lambda part: self._gather(*found, part), len(thetas)))
        if alike and len(outcomes) == 1 and len(thetas) > 2:
            ((name, values),) = outcomes.items()
            ones = values == 1
            if values.ndim == 2 and (ones | (values == 0)).all():
                return self._first_of_two(thetas, name, ones)
        return super().first(thetas)

    def _first_of_two(self, thetas: Array, name: str, ones: npt.NDArray[np.bool_]) -> Sums:
        """Return the evaluation at one theta of outcomes that are one where `ones` (R, n), else zero."""
        both = {name: np.stack([np.zeros(ones.shape[1]), np.ones(ones.shape[1])])}
        pair = replace(self, problem=replace(self.problem, count=2, outcomes=both))

        def one(part: slice) -> Sums:
            value, slope, bend = (np.where(ones[part], at[..., 1:, :], at[..., :1, :]) for at in found)
            return self._gather(value, slope, bend, part)

        with np.errstate(all="ignore"):
            found = pair._derivatives(thetas[:2], np.arange(2))
        return _joined(self._over_blocks(one, len(thetas)))

    def expected(self, thetas: Array, which: Codes) -> Array:
        def one(part: slice) -> Array:
            eta = self.predictors(thetas[part], which[part])
            flat = eta.reshape(len(eta), -1)
            rows = -self.likelihood.model.expected(flat, self._columns(which[part]))
            w = self._weights(which[part])
            rows = rows.reshape(-1, *eta.shape[1:])
            return self.gather_matrix(rows if w is None else rows * w)

        return np.concatenate(self._over_blocks(one, len(which)))

    def _over_blocks(self, function: Any, count: int) -> list[Any]:
        """Return function(slice) of each block of replications."""
        step = self._block()
        keep_pages()
        with np.errstate(all="ignore"):  # a trial step may overflow: its values are refused by the search
            return [function(slice(i, min(i + step, count))) for i in range(0, count, step)]


def _joined(parts: Sequence[Sums]) -> Sums:
    values, gradients, information, outer = zip(*parts, strict=True)
    kept = None if outer[0] is None else np.concatenate(outer)
    return np.concatenate(values), np.concatenate(gradients), np.concatenate(information), kept


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
