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

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import numpy.typing as npt

from mlecov.data import Weights
from mlecov.lazy import lazy
from mlecov.likelihood.lags import band_gram, fourier_gram, triangles, window_gram
from mlecov.parallel import small_blocks

sparse = lazy("scipy.sparse")

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

BLOCK = 4096
"""Rows in a block: a few columns of it stay in the second-level cache."""

BAND = 400
"""Lags up to which banded products beat Fourier transforms."""


Method = TypeVar("Method", bound=Callable[..., Any])


def in_small_blocks(method: Method) -> Method:
    """Run a reduction with a single-threaded BLAS where the terms are many: its blocks are small."""

    @functools.wraps(method)
    def run(self: Scores, *arguments: Any, **named: Any) -> Any:
        with small_blocks(self.n_terms):
            return method(self, *arguments, **named)

    return cast(Method, run)


class Scores(ABC):
    """The (n, k) matrix S of d loglike_obs / d theta, formed only when somebody asks."""

    n_terms: int
    k: int
    weights: Weights | None
    in_memory: ClassVar[bool] = True
    """Whether the rows are at hand without reading the data again."""

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

    def _scaled(self, factors: Array) -> Scores:
        """Return the scores times a factor each (n,), without weights."""
        return ScaledScores(self, factors)

    def weighted_blocks(self) -> Iterator[tuple[int, int, Array]]:
        """Yield (start, stop, w s (stop - start, k)), in order."""
        w = self.term_weights()
        return self.blocks() if w is None else self._scaled(w).blocks()

    def gram(self, other: Scores | None = None, power: int = 1, weights: Array | None = None) -> Array:
        """Return S' diag(w^power) T, shape (k, k_T); `weights` (n,) replaces w^power; T defaults to S."""
        return self._gram(other, self.term_weights(power) if weights is None else weights)

    @in_small_blocks
    def _gram(self, other: Scores | None, w: Array | None) -> Array:
        if other is None:
            total = np.zeros((self.k, self.k))
            if w is not None and w.min(initial=0) >= 0:
                # A matrix times its own transpose is half the work of a product of two matrices.
                for _, _, rows in self._scaled(np.sqrt(w)).blocks():
                    total += rows.T @ rows
                return total
            for start, stop, rows in self.blocks():
                total += (rows if w is None else rows * w[start:stop, None]).T @ rows
            return total
        total = np.zeros((self.k, other.k))
        for (start, stop, rows), (_, other_stop, other_rows) in zip(
            self.blocks(), other.blocks(), strict=False
        ):
            if stop != other_stop:
                return self._gram_dense(other, w)
            weighed = rows if w is None else rows * w[start:stop, None]
            total += weighed.T @ other_rows
        return total

    def _gram_dense(self, other: Scores, w: Array | None) -> Array:
        left = self.to_dense()
        return np.asarray((left if w is None else left * w[:, None]).T @ other.to_dense())

    def group_sums(self, codes: Codes, n_groups: int) -> Array:
        """Return the (G, k) sums of w s over the terms of each group; a code of -1 is left out."""
        total = np.zeros((n_groups, self.k))
        for start, stop, rows in self.weighted_blocks():
            add_group_sums(total, codes[start:stop], rows)
        return total

    @in_small_blocks
    def group_gram(self, codes: Codes, n_groups: int, group_weights: Array | None = None) -> Array:
        """Return sum_g a_g t_g t_g', t_g the sum of w s over group g: (k, k), a_g = 1 by default.

        Groups of one term are not summed but weighed, and the others are taken a part at a time where
        they are many, so that nothing of the size of S is formed.
        """
        if 4 * n_groups <= self.n_terms or n_groups <= BLOCK:
            return _outer(self.group_sums(codes, n_groups), group_weights)
        used = codes >= 0
        sizes = np.bincount(codes[used], minlength=n_groups)
        single = used & (sizes[codes] == 1)
        w = self.term_weights(2)
        square = single.astype(float) if w is None else single * w
        if group_weights is not None:
            square *= group_weights[codes]
        total = self.gram(weights=square)
        many = np.flatnonzero(sizes > 1)
        step = max(self.n_terms // 8, BLOCK)
        for low in range(0, len(many), step):
            chosen = many[low : low + step]
            local = np.full(n_groups + 1, -1, dtype=np.intp)
            local[chosen] = np.arange(len(chosen))
            sums = self.group_sums(local[codes], len(chosen))
            total += _outer(sums, None if group_weights is None else group_weights[chosen])
        return total

    @in_small_blocks
    def kernel_gram(self, kernel_weights: Array, breaks: Codes | None = None) -> Array:
        """Return sum over |i - j| <= L of kernel_weights[|i - j|] w_i w_j s_i s_j', shape (k, k).

        kernel_weights (L + 1,) starts at lag 0. `breaks` are the first positions of each series
        after the first one; terms of different series are never paired.
        """
        edges = np.r_[0, self.n_terms] if breaks is None else np.r_[0, breaks, self.n_terms]
        c = np.trim_zeros(np.asarray(kernel_weights, dtype=float)[: int(np.diff(edges).max())], "b")
        if len(c) <= 1:
            return self.gram(power=2) * (c[0] if len(c) else 0.0)
        pieces = triangles(c)
        if pieces is not None:
            return window_gram(self.weighted_blocks(), self.k, pieces, breaks)
        if len(c) <= BAND:
            return band_gram(self.weighted_blocks(), self.k, c, breaks)
        return fourier_gram(self._columns, self.k, c, edges)

    def _columns(self, low: int, high: int) -> Array:
        """Return columns low:high of diag(w) S, as rows (high - low, n)."""
        found = np.empty((high - low, self.n_terms))
        for start, stop, rows in self.weighted_blocks():
            found[:, start:stop] = rows[:, low:high].T
        return found

    def ordered(self, order: Codes) -> Scores:
        """Return the scores in another order without copying them; -1 stands for a row of zeros."""
        if len(order) == self.n_terms and np.array_equal(order, np.arange(self.n_terms)):
            return self
        return OrderedScores(self, order)

    @in_small_blocks
    def left(self, W: Array) -> Array:
        """Return W diag(w) S for W of shape (R, n), dense or scipy's sparse csr or csc: (R, k)."""
        total = np.zeros((W.shape[0], self.k))
        for start, stop, rows in self.weighted_blocks():
            total += W[:, start:stop] @ rows
        return total

    @in_small_blocks
    def right(self, V: Array) -> Array:
        """Return S V for V of shape (k, m) or (k,), unweighted: (n, m) or (n,)."""
        return np.concatenate([rows @ V for _, _, rows in self.blocks()])

    def sum(self) -> Array:
        """Return the weighted sum of the scores: the gradient (k,)."""
        return np.asarray(self.left(np.ones((1, self.n_terms)))[0])

    def to_dense(self) -> Array:
        """Return S itself, (n, k), unweighted."""
        return np.concatenate([rows for _, _, rows in self.blocks()])

    def map(self, matrix: Array) -> Scores:
        """Return the scores S R for a (k, k') matrix R (constraints, fixed parameters)."""
        return MappedScores(self, matrix)


def _outer(sums: Array, weights: Array | None) -> Array:
    return np.asarray((sums if weights is None else sums * weights[:, None]).T @ sums)


def selector(codes: Codes, n_groups: int, values: Array | None) -> Any:
    """Return the sparse (G, n) matrix with `values` (n,) at (codes[i], i); a code of -1 is left out.

    By columns: its product with the (n, p) design runs through the design once, in order.
    """
    kept = codes >= 0
    data = np.ones(len(codes)) if values is None else np.asarray(values, dtype=float)
    if kept.all():
        pointer = np.arange(len(codes) + 1, dtype=np.int32 if len(codes) < 2**31 - 1 else np.int64)
    else:
        pointer = np.r_[0, np.cumsum(kept)].astype(np.int32 if len(codes) < 2**31 - 1 else np.int64)
        codes, data = codes[kept], data[kept]
    return sparse.csc_array((data, codes.astype(pointer.dtype), pointer), shape=(n_groups, len(kept)))


def scale_columns(matrix: Any, values: Array) -> Any:
    """Return M diag(values) of a sparse M (G, n) in csr or csc form, in the same form."""
    scale = values[matrix.indices] if matrix.format == "csr" else np.repeat(values, np.diff(matrix.indptr))
    kind = sparse.csr_array if matrix.format == "csr" else sparse.csc_array
    return kind((matrix.data * scale, matrix.indices, matrix.indptr), shape=matrix.shape)


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
        return int(self.matrix.shape[1])

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        for start in range(0, max(self.n_terms, 1), BLOCK):
            stop = min(start + BLOCK, self.n_terms)
            yield start, stop, self.matrix[start:stop]

    def group_sums(self, codes: Codes, n_groups: int) -> Array:
        return np.asarray(selector(codes, n_groups, self.term_weights()) @ self.matrix)

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
        return int(self.matrix.shape[1])

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

    def group_gram(self, codes: Codes, n_groups: int, group_weights: Array | None = None) -> Array:
        return np.asarray(self.matrix.T @ self.base.group_gram(codes, n_groups, group_weights) @ self.matrix)

    def kernel_gram(self, kernel_weights: Array, breaks: Codes | None = None) -> Array:
        return np.asarray(self.matrix.T @ self.base.kernel_gram(kernel_weights, breaks) @ self.matrix)

    def left(self, W: Array) -> Array:
        return np.asarray(self.base.left(W) @ self.matrix)

    def right(self, V: Array) -> Array:
        return self.base.right(self.matrix @ V)


@dataclass(frozen=True)
class ScaledScores(Scores):
    """Other scores times a factor each (n,), unweighted."""

    base: Scores
    factors: Array
    weights: Weights | None = None

    @property
    def n_terms(self) -> int:  # type: ignore[override]
        return self.base.n_terms

    @property
    def k(self) -> int:  # type: ignore[override]
        return self.base.k

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        for start, stop, rows in self.base.blocks():
            yield start, stop, rows * self.factors[start:stop, None]

    def take(self, terms: npt.NDArray[np.intp]) -> ScaledScores:
        return ScaledScores(self.base.take(terms), self.factors[terms])


@dataclass(frozen=True)
class OrderedScores(Scores):
    """The terms of other scores in another order (n',); -1 stands for a term whose score is zero."""

    base: Scores
    order: Codes

    @property
    def n_terms(self) -> int:  # type: ignore[override]
        return len(self.order)

    @property
    def k(self) -> int:  # type: ignore[override]
        return self.base.k

    @cached_property
    def weights(self) -> Weights | None:  # type: ignore[override]
        own = self.base.weights
        return (
            None if own is None else Weights(np.where(self.order < 0, 0.0, own.values[self.order]), own.kind)
        )

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        for start in range(0, self.n_terms, BLOCK):
            chosen = self.order[start : start + BLOCK]
            present = chosen >= 0
            rows = np.zeros((len(chosen), self.k))
            rows[present] = self.base.take(chosen[present]).to_dense()
            yield start, start + len(chosen), rows

    def take(self, terms: npt.NDArray[np.intp]) -> OrderedScores:
        return OrderedScores(self.base, self.order[terms])
