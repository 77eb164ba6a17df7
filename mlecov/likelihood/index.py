"""The index engine: likelihoods whose terms see the parameters through E scalar predictors.

    loglike = sum_i w_i l(eta_1i, ..., eta_Ei; data_i),   eta_e = X_e b_e + offset_e

A `RowModel` gives l and its derivatives in the predictors, row by row; gradient, Hessian and all
reductions of the scores are products of those with the designs (the chain rule, once for all).
Second derivatives come in the order of the upper triangle: (0,0), (0,1), ..., (E-1,E-1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Weights
from mlecov.errors import CovarianceError, SpecificationError
from mlecov.likelihood.base import (
    Curvature,
    Evaluation,
    Facts,
    Likelihood,
    no_expected_information,
)
from mlecov.likelihood.design import DenseDesign, Design, Equation
from mlecov.likelihood.index_scores import IndexScores
from mlecov.likelihood.scores import Codes
from mlecov.linalg import describe_direction
from mlecov.parallel import SMALL, map_parts, pipeline, scratch, small_blocks
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]
RowDerivatives = tuple[Array, Array | None, Array | None]


class RowModel(ABC):
    """The log-likelihood of a row as a function of its E predictors, with derivatives."""

    thread_safe: ClassVar[bool] = True
    """Whether blocks may be differentiated in several threads at once."""

    @abstractmethod
    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        """Return l (b,), dl/d eta (E, b) if order >= 1, d2l/d eta2 (E(E+1)/2, b) if order >= 2."""

    def third(self, eta: Array, columns: Columns, first: Array, second: Array) -> Array | None:
        """Return d3l/d eta3 (b,) of a model in one predictor, None where it is not at hand.

        It shortens the way to a maximum and enters no result: a few digits are enough, so that it may
        be made of what `derivatives` returned.
        """
        return None

    @property
    def has_expected(self) -> bool:
        """Whether `expected` is defined."""
        return False

    def expected(self, eta: Array, columns: Columns) -> Array:
        """Return the expectation of d2l/d eta2 over the outcome at eta, (E(E+1)/2, b)."""
        raise CovarianceError(no_expected_information(type(self).__name__))

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        """Return the columns whose outcomes are drawn from the model at eta."""
        raise SpecificationError("this likelihood can not be simulated: no simulate= was given.")

    def simulations(self, eta: Array, columns: Columns) -> Callable[[np.random.Generator], dict[str, Array]]:
        """Return `simulate` at eta as a function of the generator, for many draws."""
        return lambda rng: self.simulate(rng, eta, columns)

    def separation(self, eta: Array, columns: Columns) -> npt.NDArray[np.bool_] | None:
        """Return which rows are fitted perfectly (probability one) at eta, where that has a meaning."""
        return None


ROWS = 16384
"""Rows differentiated at a time: large beside the cost of a call, small beside the cache."""

NUMBERS = 1 << 20
"""Numbers in a block of the design, at most: 8 MB, a share of the last cache."""


def pair_index(n_equations: int) -> list[tuple[int, int]]:
    """Return the pairs (e, f) of the upper triangle in the order of second derivatives."""
    return [(e, f) for e in range(n_equations) for f in range(e, n_equations)]


@dataclass(frozen=True)
class IndexLikelihood(Likelihood):
    """A separable likelihood in E scalar predictors; a term is a row."""

    space: ParameterSpace
    rows: Rows
    weights: Weights | None
    facts: Facts
    design: Design
    equations: tuple[Equation, ...]
    model: RowModel
    columns: Columns
    start_values: Callable[[IndexLikelihood], Array] | None = None
    expected_matrix: Callable[[Array], Array] | None = None
    row_names: tuple[str, ...] = ()
    separable = True

    @property
    def n_terms(self) -> int:
        return self.design.n_rows

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of equations in the order of second derivatives."""
        return pair_index(len(self.equations))

    def start(self) -> Array:
        with small_blocks(self.n_terms):
            return self.space.start() if self.start_values is None else self.start_values(self)

    def predictors(self, theta: Array, start: int, stop: int) -> Array:
        """Return the predictors eta (E, b) of rows start:stop."""
        eta = np.empty((len(self.equations), stop - start))
        for i, equation in enumerate(self.equations):
            self._linear(theta, equation, start, stop, eta[i])
            if equation.offset is not None:
                eta[i] += equation.offset[start:stop]
        return eta

    def _linear(self, theta: Array, equation: Equation, start: int, stop: int, out: Array) -> None:
        """Fill out (b,) with x'b of an equation, without the offset, in rows start:stop."""
        coefficients = theta[equation.start : equation.stop]
        if equation.columns is None:
            out[:] = coefficients[0]
        elif self.design.is_dense:
            np.dot(self.design.rows(start, stop)[:, equation.columns], coefficients, out=out)
        else:
            out[:] = self.design.dot(coefficients, equation)[start:stop]

    def _row_columns(self, start: int, stop: int) -> Columns:
        if start == 0 and stop == self.n_terms:
            return self.columns
        return {name: values[start:stop] for name, values in self.columns.items()}

    def _bounds(self) -> list[tuple[int, int]]:
        """Return the blocks of rows that are differentiated together."""
        n = self.n_terms
        step = max(n, 1)
        if self.design.is_dense and n > 2 * ROWS:
            step = min(ROWS, max(NUMBERS // max(self.space.k, 1), 256))
        return [(start, min(start + step, n)) for start in range(0, max(n, 1), step)]

    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        order = max(order, 1) if scores else order
        w = self.term_weights(weights)
        n, k = self.n_terms, self.space.k
        terms = np.empty(n) if order == 0 or scores else None
        first_all = np.empty((len(self.equations), n)) if scores else None
        third = np.empty(n) if order == 3 else None

        def derive(start: int, stop: int) -> tuple[float, Array | None, Array | None]:
            """Return the block's log-likelihood and derivatives in the predictors, weighted; keep scores."""
            eta = self.predictors(theta, start, stop)
            value, first, second = self._derivatives(eta, start, min(order, 2))
            if third is not None:
                assert first is not None and second is not None
                third[start:stop] = self.model.third(eta, self._row_columns(start, stop), first, second)
            if terms is not None:
                terms[start:stop] = value
            if first_all is not None:
                first_all[:, start:stop] = first
            if w is None:
                return float(value.sum()), first, second
            wb = w[start:stop]
            return (
                float(wb @ value),
                None if first is None else first * wb,
                None if second is None else second * wb,
            )

        def reduce(
            start: int, stop: int, derived: tuple[float, Array | None, Array | None]
        ) -> tuple[float, Array | None, Array | None]:
            """Return the block's log-likelihood, gradient and Hessian in theta."""
            loglike, first, second = derived
            gradient = None if first is None or not order else self._gradient(first, start, stop)
            hessian = None if second is None or order < 2 else self._hessian(second, start, stop)
            return loglike, gradient, hessian

        with np.errstate(all="ignore"):
            parts = pipeline(derive, reduce, self._bounds(), n)
        loglike, gradient, hessian = parts[0]
        for value, slope, bend in parts[1:]:
            loglike += value
            gradient = None if gradient is None or slope is None else gradient + slope
            hessian = None if hessian is None or bend is None else hessian + bend
        found = None
        if first_all is not None:
            found = IndexScores(self.design, self.equations, first_all, k, self.weights)
        return Evaluation(np.asarray(theta), loglike, gradient, hessian, found, terms, third)

    @property
    def knows_third(self) -> bool:  # type: ignore[override]
        known = type(self.model).third is not RowModel.third
        return known and len(self.equations) == 1 and self.n_terms > SMALL  # below, a pass costs as little

    def bend(self, evaluation: Evaluation, step: Array) -> Array:
        (equation,) = self.equations
        w, third = self.term_weights(None), evaluation.third
        assert third is not None
        curved = third if w is None else third * w

        def part(start: int, stop: int) -> Array:
            """Return the sum over rows start:stop, in blocks that stay in the cache between the two products."""
            total = np.zeros(self.space.k)
            size = 4096 if self.design.is_dense else stop - start
            for low in range(start, stop, size):
                high = min(low + size, stop)
                moved = np.empty(high - low)
                self._linear(step, equation, low, high, moved)
                moved *= moved
                moved *= curved[low:high]
                total += self._gradient(moved[None], low, high)
            return total

        parts = map_parts(part, self.n_terms) if self.design.is_dense else [part(0, self.n_terms)]
        return np.asarray(0.5 * sum(parts))

    def _derivatives(self, eta: Array, start: int, order: int) -> RowDerivatives:
        """Return the model's derivatives at the predictors eta (E, b) of rows from `start` on."""
        size = eta.shape[1]
        if size <= 2 * ROWS:
            return self.model.derivatives(eta, self._row_columns(start, start + size), order)
        widths = (1, len(eta) if order else 0, len(self.pairs) if order > 1 else 0)
        filled = [np.empty((width, size)) for width in widths]
        for low in range(0, size, ROWS):
            high = min(low + ROWS, size)
            columns = self._row_columns(start + low, start + high)
            found = self.model.derivatives(eta[:, low:high], columns, order)
            for array, part in zip(filled, found, strict=True):
                if part is not None:
                    array[:, low:high] = part
        value, first, second = filled
        return value[0], first if order else None, second if order > 1 else None

    def _gradient(self, first: Array, start: int, stop: int) -> Array:
        """Return sum_i first[e, i] x_ei over rows start:stop (k,)."""
        gradient = np.zeros(self.space.k)
        rows = self.design.rows(start, stop) if self.design.is_dense else None
        for derivative, equation in zip(first, self.equations, strict=True):
            if equation.columns is None:
                gradient[equation.start] += derivative.sum()
            elif rows is not None:
                gradient[equation.start : equation.stop] += np.dot(derivative, rows[:, equation.columns])
            else:
                gradient[equation.start : equation.stop] += self.design.transpose_dot(derivative, equation)
        return gradient

    def _hessian(self, second: Array, start: int, stop: int) -> Array:
        """Return sum_i second[ef, i] x_ei x_fi' over rows start:stop (k, k)."""
        hessian = np.zeros((self.space.k, self.space.k))
        rows = self.design.rows(start, stop) if self.design.is_dense else None
        for curvature, (e, f) in zip(second, self.pairs, strict=True):
            left, right = self.equations[e], self.equations[f]
            if rows is None:
                block = self.design.sandwich(curvature, left, right)
            elif left.columns is None and right.columns is None:
                block = curvature.sum().reshape(1, 1)
            elif right.columns is None:
                block = np.dot(curvature, rows[:, left.columns])[:, None]
            elif left.columns is None:
                block = np.dot(curvature, rows[:, right.columns])[None, :]
            else:
                block = weighted_product(rows[:, left.columns], rows[:, right.columns], curvature, e == f)
            hessian[left.start : left.stop, right.start : right.stop] += block
            if e != f:
                hessian[right.start : right.stop, left.start : left.stop] += block.T
        return hessian

    def subset(self, terms: npt.NDArray[np.intp]) -> IndexLikelihood:
        return replace(
            self,
            rows=take_rows(self.rows, terms),
            weights=None if self.weights is None else self.weights.take(terms),
            design=self.design.take(terms),
            equations=tuple(equation.take(terms) for equation in self.equations),
            columns={name: values[terms] for name, values in self.columns.items()},
        )

    @property
    def has_expected_information(self) -> bool:
        return self.model.has_expected or self.expected_matrix is not None

    @property
    def has_expected_blocks(self) -> bool:
        return self.model.has_expected

    def second_derivatives(self, theta: Array, kind: Curvature) -> Array:
        """Return d2l/d eta2 of all rows (E(E+1)/2, n), observed or expected."""
        eta = self.predictors(theta, 0, self.n_terms)
        with np.errstate(all="ignore"):
            if kind == "observed":
                second = self.model.derivatives(eta, self.columns, 2)[2]
                assert second is not None
                return second
            return self.model.expected(eta, self.columns)

    def information(self, theta: Array) -> Array:
        if self.expected_matrix is not None:
            return self.expected_matrix(theta)
        if not self.model.has_expected:
            raise CovarianceError(no_expected_information(self.facts.name))
        second = self.second_derivatives(theta, "expected")
        if self.weights is not None:
            second = second * self.weights.values
        return -np.asarray(
            sum(self._hessian(second[:, start:stop], start, stop) for start, stop in self._bounds())
        )

    def curvature_blocks(
        self, theta: Array, codes: Codes, n_groups: int, kind: Curvature
    ) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        second = -self.second_derivatives(theta, kind)
        if self.weights is not None:
            second = second * self.weights.values
        order = np.argsort(codes, kind="stable")
        order = order[codes[order] >= 0]
        bounds = np.searchsorted(codes[order], np.arange(n_groups + 1))
        k = self.space.k
        budget = max(4_000_000 // (k * k), 1)
        group = 0
        while group < n_groups:
            last = group + 1
            while last < n_groups and bounds[last + 1] - bounds[group] <= budget:
                last += 1
            terms = order[bounds[group] : bounds[last]]
            groups = np.arange(group, last, dtype=np.intp)
            if last == group + 1:
                yield groups, self._one_block(second, terms)[None]
            else:
                yield groups, self._many_blocks(second, terms, bounds[group : last + 1] - bounds[group])
            group = last

    def _one_block(self, second: Array, terms: npt.NDArray[np.intp]) -> Array:
        return replace(self, design=self.design.take(terms))._hessian(second[:, terms], 0, len(terms))

    def _many_blocks(self, second: Array, terms: npt.NDArray[np.intp], bounds: Codes) -> Array:
        """Return I_g (b, k, k) of the groups terms[bounds[g]:bounds[g + 1]], none of them large."""
        k, b = self.space.k, len(bounds) - 1
        part = self.design.take(terms)
        rows = part.rows(0, part.n_rows)
        ones = np.ones((len(terms), 1))
        designs = [ones if e.columns is None else rows[:, e.columns] for e in self.equations]
        outer = np.zeros((len(terms), k, k))
        for p, (e, f) in enumerate(self.pairs):
            left, right = self.equations[e], self.equations[f]
            product = designs[e][:, :, None] * (designs[f] * second[p, terms][:, None])[:, None, :]
            outer[:, left.start : left.stop, right.start : right.stop] += product
            if e != f:
                outer[:, right.start : right.stop, left.start : left.stop] += product.transpose(0, 2, 1)
        total = np.zeros((b, k, k))
        filled = np.flatnonzero(np.diff(bounds))
        total[filled] = np.add.reduceat(outer, bounds[filled], axis=0)
        return total

    def simulate(self, rng: np.random.Generator, theta: Array) -> IndexLikelihood:
        return self.simulations(theta)(rng)

    def simulations(self, theta: Array) -> Callable[[np.random.Generator], IndexLikelihood]:
        draw = self.outcomes(theta)
        return lambda rng: replace(self, columns={**self.columns, **draw(rng)})

    def outcomes(self, theta: Array) -> Callable[[np.random.Generator], dict[str, Array]]:
        """Return the function of the generator that draws the columns of outcomes at theta."""
        eta = self.predictors(theta, 0, self.n_terms)
        eta.flags.writeable = False
        return self.model.simulations(eta, self.columns)

    def separation(self, theta: Array) -> str | None:
        perfect = self.model.separation(self.predictors(theta, 0, self.n_terms), self.columns)
        if perfect is None or not perfect.any():
            return None
        share = "all" if perfect.all() else f"{int(perfect.sum())} of {len(perfect)}"
        return f"the outcomes of {share} terms are fitted with probability one"

    def singular_columns(self) -> str | None:
        found = []
        for equation in self.equations:
            if equation.columns is None or not isinstance(self.design, DenseDesign):
                continue
            sentence = collinear(
                self.design.matrix[:, equation.columns],
                self.space.raw_labels[equation.start : equation.stop],
            )
            if sentence:
                found.append(sentence)
        return " ".join(dict.fromkeys(found)) or None


def weighted_product(left: Array, right: Array, w: Array, same: bool) -> Array:
    """Return left' diag(w) right; a square of one matrix where w has one sign (half the work)."""
    scaled = scratch(*right.shape)
    if same and len(w) and w.max() <= 0:
        np.multiply(right, np.sqrt(-w)[:, None], out=scaled)
        return -np.asarray(np.dot(scaled.T, scaled))
    np.multiply(right, w[:, None], out=scaled)
    return np.asarray(np.dot(left.T, scaled))


def collinear(matrix: Array, names: tuple[str, ...]) -> str | None:
    """Return a sentence naming the linear dependencies among the columns of `matrix`, or None.

    The rank is that of a singular value decomposition of the columns scaled to length one.
    """
    size = np.linalg.norm(matrix, axis=0)
    empty = [names[j] for j in np.flatnonzero(size == 0)]
    if empty:
        return f"column(s) {', '.join(empty)} are zero throughout."
    triangle = np.linalg.qr(matrix / size, mode="r")
    _, values, right = np.linalg.svd(triangle, full_matrices=True)
    rank = int((values > max(matrix.shape) * np.finfo(float).eps * values[0]).sum())
    if rank == matrix.shape[1]:
        return None
    if len(matrix) < matrix.shape[1]:
        return f"there are {len(matrix)} rows for the {matrix.shape[1]} columns {', '.join(names[:8])}."
    directions = [describe_direction(v / size / np.abs(v / size).max(), names) for v in right[rank:]]
    return "collinear columns: " + "; ".join(f"{text} = 0" for text in directions) + "."


def take_rows(rows: Rows, terms: npt.NDArray[np.intp]) -> Rows:
    """Return the rows of a choice of terms, where a term is a row."""
    places = terms + rows.drop_first
    return replace(rows, kept=places if rows.kept is None else rows.kept[places], drop_first=0, cache={})
