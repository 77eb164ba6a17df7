"""Designs: the union of the equations' regressors, as a dense array or a tabmat matrix.

The regressors of all equations stand once, in one (n, p) union matrix; an `Equation` says which
columns of it are its own and where its coefficients sit in theta.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.lazy import lazy
from mlecov.parallel import map_parts, scratch

tabmat = lazy("tabmat")
sparse = lazy("scipy.sparse")

Array = npt.NDArray[np.float64]
Columns = slice | npt.NDArray[np.intp]


@dataclass(frozen=True)
class Equation:
    """One scalar predictor: eta = X[:, columns] @ theta[start:stop] + offset.

    `columns` is None for an equation of a constant alone (a scalar parameter).
    """

    name: str
    columns: Columns | None
    start: int
    stop: int
    offset: Array | None = None

    def take(self, rows: npt.NDArray[np.intp]) -> Equation:
        """Return the equation for a choice of rows."""
        return self if self.offset is None else replace(self, offset=self.offset[rows])


class Design(ABC):
    """The union matrix X (n, p) of all equations."""

    n_rows: int
    is_dense: bool

    @abstractmethod
    def rows(self, start: int, stop: int) -> Array:
        """Return rows start:stop as a dense array (b, p)."""

    @abstractmethod
    def take(self, rows: npt.NDArray[np.intp]) -> Design:
        """Return the design of a choice of rows."""

    @abstractmethod
    def dot(self, coefficients: Array, equation: Equation) -> Array:
        """Return X_e b for b of shape (p_e,) or (p_e, m), without the offset."""

    @abstractmethod
    def transpose_dot(self, v: Array, equation: Equation) -> Array:
        """Return X_e' v (p_e,)."""

    @abstractmethod
    def left(self, matrix: Any, equation: Equation) -> Array:
        """Return M X_e for a sparse M (G, n): (G, p_e)."""

    @abstractmethod
    def sandwich(self, w: Array, left: Equation, right: Equation) -> Array:
        """Return X_e' diag(w) X_f, (p_e, p_f)."""


@dataclass(frozen=True)
class DenseDesign(Design):
    """A union matrix held as one float64 array."""

    matrix: Array
    is_dense = True

    @property
    def n_rows(self) -> int:  # type: ignore[override]
        return len(self.matrix)

    def rows(self, start: int, stop: int) -> Array:
        return self.matrix[start:stop]

    def take(self, rows: npt.NDArray[np.intp]) -> DenseDesign:
        return DenseDesign(self.matrix[rows])

    def _of(self, equation: Equation) -> Array:
        if equation.columns is None:
            return np.ones((self.n_rows, 1))
        return self.matrix[:, equation.columns]

    def dot(self, coefficients: Array, equation: Equation) -> Array:
        if equation.columns is None:
            return np.broadcast_to(coefficients[0], (self.n_rows, *coefficients.shape[1:]))
        return np.asarray(np.dot(self._of(equation), coefficients))

    def transpose_dot(self, v: Array, equation: Equation) -> Array:
        return np.asarray(np.dot(v, self._of(equation)))

    def left(self, matrix: Any, equation: Equation) -> Array:
        return np.asarray(matrix @ self._of(equation))

    def sandwich(self, w: Array, left: Equation, right: Equation) -> Array:
        first, second = self._of(left), self._of(right)

        def part(start: int, stop: int) -> Array:
            total = np.zeros((first.shape[1], second.shape[1]))
            for low in range(start, stop, 4096):
                high = min(low + 4096, stop)
                total += np.dot(first[low:high].T, w[low:high, None] * second[low:high])
            return total

        return np.asarray(sum(map_parts(part, self.n_rows)))


def columns_product(matrix: Array, w: Array) -> Array:
    """Return X' diag(w) X (p, p) of an X (n, p) that is stored column by column."""
    rows = matrix.T
    one_sign = len(w) > 0 and (w.max() <= 0 or w.min() >= 0)
    factors = np.sqrt(np.abs(w)) if one_sign else w

    def part(start: int, stop: int) -> Array:
        total = np.zeros((len(rows), len(rows)))
        for low in range(start, stop, 8192):
            block = rows[:, low : min(low + 8192, stop)]
            scaled = scratch(*block.shape)
            np.multiply(block, factors[low : low + block.shape[1]], out=scaled)
            total += np.dot(scaled, scaled.T if one_sign else block.T)
        return total

    total = np.asarray(sum(map_parts(part, len(w))))
    return -total if one_sign and w.max() <= 0 else total


@functools.cache
def _dense_part() -> Any:
    """Return tabmat's dense matrix with our product, which uses the cores that tabmat's leaves idle."""

    class DensePart(tabmat.DenseMatrix):  # type: ignore[misc, name-defined]
        def sandwich(self, d: Array, rows: Any = None, cols: Any = None) -> Any:
            if rows is not None or cols is not None or not self.unpack().flags.f_contiguous:
                return super().sandwich(d, rows, cols)
            return columns_product(self.unpack(), d)

    return DensePart


def dense_part(matrix: Array) -> Any:
    """Return a dense matrix (n, p) as tabmat holds it, column by column."""
    return _dense_part()(np.asfortranarray(matrix))


@dataclass(frozen=True)
class TabmatDesign(Design):
    """A union matrix held by tabmat: categorical columns stay codes, sparse ones stay sparse."""

    matrix: Any
    is_dense = False

    @property
    def n_rows(self) -> int:  # type: ignore[override]
        return int(self.matrix.shape[0])

    def rows(self, start: int, stop: int) -> Array:
        block = np.empty((stop - start, self.matrix.shape[1]))
        for part, where in zip(self._parts(), self._indices(), strict=True):
            if isinstance(part, tabmat.DenseMatrix):
                block[:, where] = part.unpack()[start:stop]
            else:
                block[:, where] = part[start:stop, :].toarray()
        return block

    def take(self, rows: npt.NDArray[np.intp]) -> TabmatDesign:
        parts = [
            dense_part(part.unpack()[rows]) if isinstance(part, tabmat.DenseMatrix) else part[rows, :]
            for part in self._parts()
        ]
        if not isinstance(self.matrix, tabmat.SplitMatrix):
            return TabmatDesign(parts[0])
        return TabmatDesign(tabmat.SplitMatrix(parts, self._indices()))

    def _columns(self, equation: Equation) -> npt.NDArray[np.intp]:
        columns = equation.columns
        return np.arange(self.matrix.shape[1])[columns] if columns is not None else np.empty(0, np.intp)

    def _all(self, equation: Equation) -> bool:
        return isinstance(equation.columns, slice) and equation.columns == slice(0, self.matrix.shape[1])

    def dot(self, coefficients: Array, equation: Equation) -> Array:
        if equation.columns is None:
            return np.broadcast_to(coefficients[0], (self.n_rows, *coefficients.shape[1:]))
        if coefficients.ndim == 2:
            return np.column_stack([self.dot(column, equation) for column in coefficients.T])
        if self._all(equation):
            return np.asarray(self.matrix.matvec(coefficients))
        full = np.zeros(self.matrix.shape[1])
        full[self._columns(equation)] = coefficients
        return np.asarray(self.matrix.matvec(full))

    def transpose_dot(self, v: Array, equation: Equation) -> Array:
        if equation.columns is None:
            return np.array([v.sum()])
        return np.asarray(self.matrix.transpose_matvec(np.ascontiguousarray(v)))[self._columns(equation)]

    def left(self, matrix: Any, equation: Equation) -> Array:
        if equation.columns is None:
            return np.asarray(matrix.sum(axis=1)).reshape(-1, 1)
        total = np.empty((matrix.shape[0], self.matrix.shape[1]))
        for part, where in zip(self._parts(), self._indices(), strict=True):
            product = matrix @ (part.unpack() if isinstance(part, tabmat.DenseMatrix) else part.tocsr())
            total[:, where] = product.toarray() if sparse.issparse(product) else product
        return total[:, self._columns(equation)]

    def _parts(self) -> list[Any]:
        return list(self.matrix.matrices) if isinstance(self.matrix, tabmat.SplitMatrix) else [self.matrix]

    def _indices(self) -> list[Any]:
        if isinstance(self.matrix, tabmat.SplitMatrix):
            return list(self.matrix.indices)
        return [np.arange(self.matrix.shape[1])]

    def sandwich(self, w: Array, left: Equation, right: Equation) -> Array:
        if left.columns is None or right.columns is None:
            if left.columns is None and right.columns is None:
                return np.array([[w.sum()]])
            known = right if left.columns is None else left
            column = self.transpose_dot(w, known)[:, None]
            return column.T if left.columns is None else column
        product = np.asarray(self.matrix.sandwich(np.ascontiguousarray(w)))
        if self._all(left) and self._all(right):
            return product
        return product[np.ix_(self._columns(left), self._columns(right))]
