"""Scores of index likelihoods: row derivatives times designs, never formed as an (n, k) matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Weights
from mlecov.lazy import lazy
from mlecov.likelihood.design import DenseDesign, Design, Equation
from mlecov.likelihood.scores import BLOCK, Codes, Scores, in_small_blocks, scale_columns, selector
from mlecov.parallel import map_parts, scratch

sparse = lazy("scipy.sparse")

Array = npt.NDArray[np.float64]


def _new(rows: int, columns: int) -> Array:
    return np.empty((rows, columns))


@dataclass(frozen=True)
class IndexScores(Scores):
    """Scores of an index likelihood: row derivatives l1 (E, n) times the designs, never formed.

    s_i = (l1[0, i] x_0i, ..., l1[E - 1, i] x_Ei), where x_ei is row i of equation e's design.
    Equations may share coefficients: their parts then add up in the same columns.
    """

    design: Design
    equations: tuple[Equation, ...]
    first: Array
    k: int
    weights: Weights | None = None

    @property
    def n_terms(self) -> int:  # type: ignore[override]
        return int(self.first.shape[1])

    @cached_property
    def _shared(self) -> bool:
        """Whether equations share coefficients, so that their parts add up."""
        taken = np.zeros(self.k, dtype=int)
        for equation in self.equations:
            taken[equation.start : equation.stop] += 1
        return bool((taken != 1).any())

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        return self._blocks_between(0, self.n_terms)

    def _blocks_between(
        self, first_row: int, last_row: int, make: Callable[[int, int], Array] = _new
    ) -> Iterator[tuple[int, int, Array]]:
        """Yield the blocks of some rows, each in an array of `make(rows, columns)`."""
        step = BLOCK if self.design.is_dense else max(BLOCK // 8, 1)
        for start in range(first_row, max(last_row, first_row + 1), step):
            stop = min(start + step, last_row)
            rows = self.design.rows(start, stop)
            block = make(stop - start, self.k)
            if self._shared:
                block[:] = 0.0
            for equation, first in zip(self.equations, self.first[:, start:stop], strict=True):
                place = block[:, equation.start : equation.stop]
                factor = 1.0 if equation.columns is None else rows[:, equation.columns]
                if self._shared:
                    place += factor * first[:, None]
                else:
                    np.multiply(factor, first[:, None], out=place)
            yield start, stop, block

    def take(self, terms: npt.NDArray[np.intp]) -> IndexScores:
        return replace(
            self,
            design=self.design.take(terms),
            equations=tuple(equation.take(terms) for equation in self.equations),
            first=self.first[:, terms],
            weights=None if self.weights is None else self.weights.take(terms),
        )

    def gram(self, other: Scores | None = None, power: int = 1, weights: Array | None = None) -> Array:
        w = self.term_weights(power) if weights is None else weights
        if other is None and self.design.is_dense and (w is None or w.min(initial=0) >= 0):
            scaled = self if w is None else self._scaled(np.sqrt(w))

            def part(start: int, stop: int) -> Array:
                total = np.zeros((self.k, self.k))
                for _, _, rows in scaled._blocks_between(start, stop, scratch):
                    total += np.dot(rows.T, rows)
                return total

            return np.asarray(sum(map_parts(part, self.n_terms)))
        if other is not None or self.design.is_dense or self._shared:
            return super().gram(other, power, weights)
        total = np.zeros((self.k, self.k))
        for i, left in enumerate(self.equations):
            for j, right in enumerate(self.equations[i:], start=i):
                product = self.first[i] * self.first[j]
                block = self.design.sandwich(product if w is None else product * w, left, right)
                total[left.start : left.stop, right.start : right.stop] = block
                total[right.start : right.stop, left.start : left.stop] = block.T
        return total

    @in_small_blocks
    def _sparse_left(self, matrix: Any) -> Array:
        """Return M diag(w) S for a sparse M (G, n): each equation's derivatives ride on the entries of M."""
        w = self.term_weights()
        total = np.zeros((matrix.shape[0], self.k))
        for equation, first in zip(self.equations, self.first, strict=True):
            values = first if w is None else first * w
            place = total[:, equation.start : equation.stop]
            if equation.columns is None:
                place += (matrix @ values)[:, None]
                continue
            weighed = scale_columns(matrix, values)
            if isinstance(self.design, DenseDesign):
                # Over the whole union: the columns of one equation alone would have to be copied.
                place += (weighed @ self.design.matrix)[:, equation.columns]
            else:
                place += self.design.left(weighed.tocsr(), equation)
        return total

    def _scaled(self, factors: Array) -> IndexScores:
        return replace(self, first=self.first * factors, weights=None)

    def group_sums(self, codes: Codes, n_groups: int) -> Array:
        if isinstance(self.design, DenseDesign) and not self.design.matrix.flags.c_contiguous:
            return super().group_sums(codes, n_groups)
        return self._sparse_left(selector(codes, n_groups, None))

    @in_small_blocks
    def left(self, W: Array) -> Array:
        if sparse.issparse(W):
            return self._sparse_left(W)
        if self.design.is_dense:
            return super().left(W)
        w = self.term_weights()
        total = np.zeros((len(W), self.k))
        for equation, first in zip(self.equations, self.first, strict=True):
            weighed = W * (first if w is None else first * w)
            total[:, equation.start : equation.stop] += [
                self.design.transpose_dot(row, equation) for row in weighed
            ]
        return total

    @in_small_blocks
    def right(self, V: Array) -> Array:
        flat = V[:, None] if V.ndim == 1 else V
        total = np.zeros((self.n_terms, flat.shape[1]))
        for equation, first in zip(self.equations, self.first, strict=True):
            part = flat[equation.start : equation.stop]
            total += first[:, None] * self.design.dot(part, equation)
        return total[:, 0] if V.ndim == 1 else total
