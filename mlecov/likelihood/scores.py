"""Scores: the (n, k) matrix S as an operator, and the only place where weights meet scores.

Everything after the fit reads a likelihood through these reductions. `Scores` gives each of them
from row blocks, so a new kind needs `blocks` and `take` alone; `IndexScores` overrides those that
the index structure makes cheaper. S itself is unweighted; the weights travel with it:

==============  =====================  ==========================
kind            place in the meat      group, kernel, replicate sums
==============  =====================  ==========================
frequency       w   (a row, w times)   w s
probability     w^2                    w s
analytic        w^2                    w s
==============  =====================  ==========================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlecov.data import Weights
from mlecov.lazy import lazy
from mlecov.likelihood.design import Design, Equation

sparse = lazy("scipy.sparse")
fft = lazy("scipy.fft")

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

BLOCK = 4096
"""Rows in a block: a few columns of it stay in the second-level cache."""


class Scores(ABC):
    """The (n, k) matrix S of d loglike_obs / d theta, formed only when somebody asks."""

    n_terms: int
    k: int
    weights: Weights | None

    @abstractmethod
    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        """Yield (start, stop, (stop - start, k) unweighted rows), in order."""

    @abstractmethod
    def take(self, terms: npt.NDArray[np.intp]) -> Scores:
        """Return the scores of `terms`, in that order."""

    def term_weights(self, power: int = 1) -> Array | None:
        """Return w^power (n,), or None where there are no weights (or power is 0)."""
        if self.weights is None or power == 0:
            return None
        return self.weights.values if power == 1 else self.weights.values**power

    def meat(self) -> Array:
        """Return the (k, k) sum of outer products, w s s' or w^2 s s' by the kind of weights."""
        return self.gram(power=1 if self.weights is None else self.weights.meat_power)

    def gram(self, other: Scores | None = None, power: int = 1, weights: Array | None = None) -> Array:
        """Return S' diag(w^power) T, shape (k, k_T); `weights` (n,) replaces w^power; T defaults to S."""
        w = self.term_weights(power) if weights is None else weights
        total = np.zeros((self.k, self.k if other is None else other.k))
        others = self.blocks() if other is None else other.blocks()
        for (start, stop, rows), (_, other_stop, other_rows) in zip(self.blocks(), others, strict=True):
            if stop != other_stop:
                return self._gram_dense(other, w)
            weighed = rows if w is None else rows * w[start:stop, None]
            total += weighed.T @ other_rows
        return total

    def _gram_dense(self, other: Scores | None, w: Array | None) -> Array:
        left = self.to_dense()
        right = left if other is None else other.to_dense()
        return np.asarray((left if w is None else left * w[:, None]).T @ right)

    def group_sums(self, codes: Codes, n_groups: int) -> Array:
        """Return the (G, k) sums of w s over the terms of each group; a code of -1 is left out."""
        w = self.term_weights()
        total = np.zeros((n_groups, self.k))
        for start, stop, rows in self.blocks():
            weighed = rows if w is None else rows * w[start:stop, None]
            add_group_sums(total, codes[start:stop], weighed)
        return total

    def kernel_gram(self, kernel_weights: Array, breaks: Codes | None = None) -> Array:
        """Return sum over |i - j| <= L of kernel_weights[|i - j|] w_i w_j s_i s_j', shape (k, k).

        kernel_weights (L + 1,) starts at lag 0. `breaks` are the first positions of each series
        after the first one; terms of different series are never paired.
        """
        lags = len(kernel_weights) - 1
        half = np.array(kernel_weights, dtype=float)
        half[0] *= 0.5
        w = self.term_weights()
        series = None if breaks is None else np.searchsorted(breaks, np.arange(self.n_terms), side="right")
        total = np.zeros((self.k, self.k))
        past = np.zeros((0, self.k))
        for start, stop, rows in self.blocks():
            weighed = rows if w is None else rows * w[start:stop, None]
            joined = np.vstack([past, weighed]) if lags else weighed
            first = stop - len(joined)
            for low in range(start, stop, 256):
                high = min(low + 256, stop)
                oldest = max(low - lags, first)
                near = joined[oldest - first : high - first]
                distance = np.arange(low, high)[:, None] - np.arange(oldest, high)
                band = np.where((distance >= 0) & (distance <= lags), half[np.clip(distance, 0, lags)], 0.0)
                if series is not None:
                    band *= series[low:high, None] == series[oldest:high]
                total += joined[low - first : high - first].T @ (band @ near)
            past = joined[max(len(joined) - lags, 0) :] if lags else past
        return total + total.T

    def left(self, W: Array) -> Array:
        """Return W diag(w) S for W of shape (R, n): (R, k)."""
        w = self.term_weights()
        total = np.zeros((len(W), self.k))
        for start, stop, rows in self.blocks():
            weighed = rows if w is None else rows * w[start:stop, None]
            total += W[:, start:stop] @ weighed
        return total

    def right(self, V: Array) -> Array:
        """Return S V for V of shape (k, m) or (k,), unweighted: (n, m) or (n,)."""
        return np.concatenate([rows @ V for _, _, rows in self.blocks()])

    def sum(self) -> Array:
        """Return the weighted sum of the scores: the gradient (k,)."""
        return self.left(np.ones((1, self.n_terms)))[0]

    def to_dense(self) -> Array:
        """Return S itself, (n, k), unweighted."""
        return np.concatenate([rows for _, _, rows in self.blocks()])

    def map(self, matrix: Array) -> Scores:
        """Return the scores S R for a (k, k') matrix R (constraints, fixed parameters)."""
        return MappedScores(self, matrix)


def add_group_sums(total: Array, codes: Codes, rows: Array) -> None:
    """Add `rows` (b, k) to the rows of `total` (G, k) that `codes` (b,) name; -1 is left out."""
    if not len(codes):
        return
    if (codes[1:] >= codes[:-1]).all():
        starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
        groups = codes[starts]
        sums = np.add.reduceat(rows, starts, axis=0)
        if groups[0] < 0:
            groups, sums = groups[1:], sums[1:]
        total[groups] += sums
        return
    present, local = np.unique(codes, return_inverse=True)
    order = np.argsort(local, kind="stable")
    pointer = np.r_[0, np.cumsum(np.bincount(local))]
    sums = sparse.csr_array((np.ones(len(codes)), order, pointer), shape=(len(present), len(codes))) @ rows
    if present[0] < 0:
        present, sums = present[1:], sums[1:]
    total[present] += sums


@dataclass(frozen=True)
class DenseScores(Scores):
    """Scores held as the matrix itself: the readable reference."""

    matrix: Array
    weights: Weights | None = None

    @property
    def n_terms(self) -> int:  # type: ignore[override]
        return len(self.matrix)

    @property
    def k(self) -> int:  # type: ignore[override]
        return self.matrix.shape[1]

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        for start in range(0, max(self.n_terms, 1), BLOCK):
            stop = min(start + BLOCK, self.n_terms)
            yield start, stop, self.matrix[start:stop]

    def take(self, terms: npt.NDArray[np.intp]) -> DenseScores:
        return DenseScores(self.matrix[terms], None if self.weights is None else self.weights.take(terms))


@dataclass(frozen=True)
class MappedScores(Scores):
    """Scores S R of another set of scores S (n, k) through a (k, k') matrix R."""

    base: Scores
    matrix: Array

    @property
    def n_terms(self) -> int:  # type: ignore[override]
        return self.base.n_terms

    @property
    def k(self) -> int:  # type: ignore[override]
        return self.matrix.shape[1]

    @property
    def weights(self) -> Weights | None:  # type: ignore[override]
        return self.base.weights

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        for start, stop, rows in self.base.blocks():
            yield start, stop, rows @ self.matrix

    def take(self, terms: npt.NDArray[np.intp]) -> MappedScores:
        return MappedScores(self.base.take(terms), self.matrix)

    def gram(self, other: Scores | None = None, power: int = 1, weights: Array | None = None) -> Array:
        if other is None:
            return np.asarray(self.matrix.T @ self.base.gram(None, power, weights) @ self.matrix)
        if isinstance(other, MappedScores):
            return np.asarray(self.matrix.T @ self.base.gram(other.base, power, weights) @ other.matrix)
        return np.asarray(self.matrix.T @ self.base.gram(other, power, weights))

    def group_sums(self, codes: Codes, n_groups: int) -> Array:
        return np.asarray(self.base.group_sums(codes, n_groups) @ self.matrix)

    def kernel_gram(self, kernel_weights: Array, breaks: Codes | None = None) -> Array:
        return np.asarray(self.matrix.T @ self.base.kernel_gram(kernel_weights, breaks) @ self.matrix)

    def left(self, W: Array) -> Array:
        return np.asarray(self.base.left(W) @ self.matrix)

    def right(self, V: Array) -> Array:
        return self.base.right(self.matrix @ V)


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
        return self.first.shape[1]

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        step = BLOCK if self.design.is_dense else max(BLOCK // 8, 1)
        for start in range(0, max(self.n_terms, 1), step):
            stop = min(start + step, self.n_terms)
            rows = self.design.rows(start, stop)
            block = np.empty((stop - start, self.k))
            for equation, first in zip(self.equations, self.first[:, start:stop], strict=True):
                if equation.columns is None:
                    block[:, equation.start] = first
                else:
                    np.multiply(
                        rows[:, equation.columns], first[:, None], out=block[:, equation.start : equation.stop]
                    )
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
        if other is not None or self.design.is_dense:
            return super().gram(other, power, weights)
        w = self.term_weights(power) if weights is None else weights
        total = np.zeros((self.k, self.k))
        for i, left in enumerate(self.equations):
            for j, right in enumerate(self.equations[i:], start=i):
                product = self.first[i] * self.first[j]
                block = self.design.sandwich(product if w is None else product * w, left, right)
                total[left.start : left.stop, right.start : right.stop] = block
                total[right.start : right.stop, left.start : left.stop] = block.T
        return total

    def group_sums(self, codes: Codes, n_groups: int) -> Array:
        if self.design.is_dense:
            return super().group_sums(codes, n_groups)
        w = self.term_weights()
        kept = np.flatnonzero(codes >= 0)
        order = kept[np.argsort(codes[kept], kind="stable")]
        pointer = np.r_[0, np.cumsum(np.bincount(codes[kept], minlength=n_groups))]
        total = np.empty((n_groups, self.k))
        for equation, first in zip(self.equations, self.first, strict=True):
            values = (first if w is None else first * w)[order]
            grouped = sparse.csr_array((values, order, pointer), shape=(n_groups, self.n_terms))
            total[:, equation.start : equation.stop] = self.design.left(grouped, equation)
        return total

    def left(self, W: Array) -> Array:
        if self.design.is_dense:
            return super().left(W)
        w = self.term_weights()
        total = np.empty((len(W), self.k))
        for equation, first in zip(self.equations, self.first, strict=True):
            weighed = W * (first if w is None else first * w)
            total[:, equation.start : equation.stop] = [
                self.design.transpose_dot(row, equation) for row in weighed
            ]
        return total

    def right(self, V: Array) -> Array:
        flat = V[:, None] if V.ndim == 1 else V
        total = np.zeros((self.n_terms, flat.shape[1]))
        for equation, first in zip(self.equations, self.first, strict=True):
            part = flat[equation.start : equation.stop]
            total += first[:, None] * self.design.dot(part, equation)
        return total[:, 0] if V.ndim == 1 else total
