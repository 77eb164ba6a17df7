"""Likelihoods whose terms are units of several rows: the data, their order, and sums within units."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Weights, factorize, numeric, open_table, screen, term_weights, to_numpy
from mlecov.errors import CovarianceError, DataError, SpecificationError, listing
from mlecov.formulas import (
    Block,
    columns_used,
    evaluate,
    materialize,
    parse,
    rebuild,
    variables,
    without_constant,
)
from mlecov.likelihood.base import Curvature, Facts, Likelihood, no_expected_information
from mlecov.likelihood.index import collinear
from mlecov.likelihood.scores import Codes
from mlecov.models.predicted import Declared
from mlecov.parameters import LinearTerms, ParameterSpace

Array = npt.NDArray[np.float64]
U = TypeVar("U", bound="UnitLikelihood")


@dataclass(frozen=True)
class UnitData:
    """Rows sorted by unit: regressors (N, p), outcome (N,), offset (N,), first row of each unit (n + 1)."""

    names: tuple[str, ...]
    matrix: Array
    y: Array
    offset: Array
    bounds: Codes
    inner: Codes | None = None
    """A finer grouping within units (choice situations of a person), in order of appearance, or None."""
    place: Codes | None = None
    """Row of the data (N,) that each row here was; None: the same order."""

    @cached_property
    def codes(self) -> Codes:
        """Unit of each row (N,)."""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))

    def sums(self, values: Array) -> Array:
        """Return the sums of values (N, ...) over the rows of each unit (n, ...)."""
        return np.asarray(np.add.reduceat(values, self.bounds[:-1], axis=0))

    def as_given(self, values: Array) -> Array:
        """Return values (..., N) of the rows in the order of the data."""
        if self.place is None:
            return values
        found = np.empty_like(values)
        found[..., self.place] = values
        return found

    def take(self, terms: npt.NDArray[np.intp]) -> UnitData:
        """Return the rows of a choice of units, repetition allowed."""
        sizes = np.diff(self.bounds)[terms]
        bounds = np.r_[0, np.cumsum(sizes)]
        rows = np.arange(bounds[-1]) + np.repeat(self.bounds[:-1][terms] - bounds[:-1], sizes)
        inner = None
        if self.inner is not None:
            # a unit drawn twice has its situations twice
            pairs = np.repeat(np.arange(len(terms)), sizes) * (self.inner.max() + 1) + self.inner[rows]
            inner = factorize(pairs)[0]
        place = None
        if self.place is not None:
            # the rows of a choice of units follow each other unit by unit, in the data's order within each
            sorted_rows = np.lexsort((self.place[rows], np.repeat(np.arange(len(terms)), sizes)))
            place = np.empty(len(rows), dtype=np.intp)
            place[sorted_rows] = np.arange(len(rows))
        return replace(
            self,
            matrix=self.matrix[rows],
            y=self.y[rows],
            offset=self.offset[rows],
            bounds=bounds,
            inner=inner,
            place=place,
        )


@dataclass(frozen=True)
class UnitLikelihood(Likelihood):
    """A likelihood of independent units, each of some rows of one design."""

    space: ParameterSpace
    rows: Rows
    weights: Weights | None
    facts: Facts
    data: UnitData
    separable = True

    @property
    def n_terms(self) -> int:
        return len(self.data.bounds) - 1

    def subset(self: U, terms: npt.NDArray[np.intp]) -> U:
        return replace(
            self,
            rows=take_units(self.rows, terms),
            weights=None if self.weights is None else self.weights.take(terms),
            data=self.data.take(terms),
        )

    def curvature_blocks(
        self, theta: Array, codes: Codes, n_groups: int, kind: Curvature
    ) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        if kind == "expected" and not self.has_expected_blocks:
            raise CovarianceError(no_expected_information(self.facts.name))
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(n_groups + 1))
        for group in range(n_groups):
            part = self.subset(order[bounds[group] : bounds[group + 1]])
            hessian = np.zeros((self.space.k, self.space.k))
            if part.n_terms:
                found = part.evaluate(theta, order=2).hessian
                assert found is not None
                hessian = found
            yield np.array([group], dtype=np.intp), -hessian[None]

    def singular_columns(self) -> str | None:
        return collinear(self.data.matrix, self.space.raw_labels[: self.data.matrix.shape[1]])

    @abstractmethod
    def linear_predictor(self, theta: Array) -> Array:
        """Return x'b + offset of every row (N,)."""

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """What `predict` knows by name."""
        return {}

    def at(self: U, data: Any) -> U:
        """Return the likelihood over the units of new data, whose outcomes are not known (zero).

        Raises
        ------
        DataError
            For missing columns or values.
        """
        extra = self.facts.extra
        names = [name for name in (self.rows.unit_name, extra["inner"]) if name is not None]
        table, block = open_table(data), extra["blocks"]["mu"]
        rows = screen(table, sorted(columns_used(block.terms, table)) + names, "raise", self.rows.unit_name)
        inner = None if extra["inner"] is None else rows.raw(extra["inner"])
        made = _sorted(rebuild(block, rows), np.zeros(rows.n_rows), rows, inner)
        return replace(self, rows=rows, weights=None, data=made)


def take_units(rows: Rows, terms: npt.NDArray[np.intp]) -> Rows:
    """Return the rows of a choice of units, numbered anew."""
    assert rows.unit is not None and rows.unit_labels is not None
    base = np.arange(rows.table.n_rows) if rows.kept is None else rows.kept
    order = np.argsort(rows.unit, kind="stable")
    bounds = np.searchsorted(rows.unit[order], np.arange(rows.n_terms + 1))
    sizes = np.diff(bounds)[terms]
    new = np.r_[0, np.cumsum(sizes)]
    index = order[np.arange(new[-1]) + np.repeat(bounds[:-1][terms] - new[:-1], sizes)]
    return replace(
        rows,
        kept=base[index],
        unit=np.repeat(np.arange(len(terms)), sizes),
        unit_labels=rows.unit_labels[terms],
        cache={},
    )


def open_units(
    name: str,
    formula: Any,
    data: Any,
    unit: Any,
    *,
    constant: bool,
    inner: Any = None,
    offset: str | None = None,
    missing: str = "raise",
    frequency_weights: Any = None,
    probability_weights: Any = None,
    analytic_weights: Any = None,
) -> tuple[UnitData, Rows, Weights | None, Facts]:
    """Return the rows of "y ~ x1 + x2" (or of arrays y, X) sorted by unit, and what comes with them.

    Raises
    ------
    SpecificationError, DataError
        Where unit= is missing, or names, lengths and types do not fit.
    """
    if unit is None:
        raise SpecificationError(f"{name} needs unit=: the column of ids whose rows belong together.")
    given = {"frequency": frequency_weights, "probability": probability_weights, "analytic": analytic_weights}
    weights = {kind: value for kind, value in given.items() if value is not None}
    if len(weights) > 1:
        raise SpecificationError(
            f"weights of {len(weights)} kinds were given ({listing(weights)}); one is possible."
        )
    if not isinstance(formula, str):
        formula, data, unit, inner = _as_frame(name, formula, data, unit, inner)
    elif data is None:
        raise SpecificationError(f"{name}({formula!r}): a formula needs data, as the second argument.")
    table, parsed = open_table(data), parse(formula)
    if parsed.left is None:
        raise SpecificationError(f"formula {formula!r} has no outcome; expected 'y ~ x1 + x2'.")
    right = parsed.right
    for text, is_exposure in parsed.offsets:
        right += f" + {'exposure' if is_exposure else 'offset'}({text})"
    terms = LinearTerms(right, offset)
    used = [parsed.left] if parsed.left in table else sorted(variables(parsed.left))
    used += sorted(columns_used(terms, table))
    used += [value for value in (unit, inner, *weights.values()) if isinstance(value, str)]
    rows = screen(table, used, missing, unit)
    block = materialize(terms, rows)
    block = block if constant else without_constant(block, name)
    own = None
    for kind, value in weights.items():
        own = term_weights(rows, value, kind)  # type: ignore[arg-type]
    made = _sorted(block, evaluate(parsed.left, rows), rows, None if inner is None else rows.raw(inner))
    extra = {"blocks": {"mu": block}, "inner": inner}
    return made, rows, own, Facts(name, "units, closed form", parsed.left, extra)


def _as_frame(
    name: str, y: Any, X: Any, unit: Any, inner: Any
) -> tuple[str, Mapping[str, Any], str, str | None]:
    """Return arrays (y, X, unit) as a formula and a table."""
    if X is None:
        raise SpecificationError(f"{name}(y, X): X is missing; give a matrix, or a formula and data.")
    matrix = np.asarray(X)
    if matrix.ndim != 2:
        raise DataError(f"X has shape {matrix.shape}; expected (n, p).")
    labels = getattr(X, "columns", None)
    names = [f"x{j}" for j in range(matrix.shape[1])] if labels is None else [str(label) for label in labels]
    held: dict[str, Any] = {label: numeric(label, matrix[:, j]) for j, label in enumerate(names)}
    held |= {"y": to_numpy(y), "unit": to_numpy(unit)}
    if inner is not None:
        held["situation"] = to_numpy(inner)
    return f"y ~ {' + '.join(names)} - 1", held, "unit", None if inner is None else "situation"


def _sorted(block: Block, y: Array, rows: Rows, inner: npt.NDArray[Any] | None) -> UnitData:
    assert rows.unit is not None
    matrix = block.matrix if block.is_dense else np.asarray(block.matrix.toarray())
    shift = np.zeros(rows.n_rows) if block.offset is None else block.offset
    order = np.argsort(rows.unit, kind="stable")
    fine = None
    if inner is not None:
        codes, labels = factorize(inner)
        fine = factorize(rows.unit * len(labels) + codes)[0]
        order = np.lexsort((fine, rows.unit))
        fine = factorize(fine[order])[0]
    bounds = np.searchsorted(rows.unit[order], np.arange(rows.n_terms + 1))
    X = np.ascontiguousarray(matrix[order])
    return UnitData(block.names, X, y[order], shift[order], bounds, fine, order)
