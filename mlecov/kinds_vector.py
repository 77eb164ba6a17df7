"""Kinds whose entries move together: simplex, ordered, correlation and covariance."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.kindbase import Array, Kind, Sized
from mlecov.links import IDENTITY, LOG, SYMMETRIC, UNIT, Link
from mlecov.vectorize import vech_indices


@dataclass(frozen=True, eq=False)
class Simplex(Sized):
    """d shares above zero that sum to one: p = softmax(u_1, ..., u_(d-1), 0).

    Reference: Aitchison (1982), JRSS B 44, additive log ratios.
    """

    smallest: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.d,)

    @property
    def n_free(self) -> int:
        return self.d - 1

    def default_free(self) -> Array:
        return np.zeros(self.d - 1)

    def value(self, u: Any, xp: Any = np) -> Any:
        logits = xp.concatenate([u, xp.zeros(1)])
        # the maximum cancels from value and derivatives alike
        odds = xp.exp(logits - xp.max(logits))
        return odds / xp.sum(odds)

    def free(self, value: Any) -> Array:
        p = self._checked(value)
        if not (p > 0).all():
            raise self._outside("every share above 0", p.min())
        if abs(p.sum() - 1.0) > 1e-8:
            raise self._outside("shares that sum to 1", f"the sum {p.sum():.10g}")
        ratios: Array = np.log(p[:-1] / p[-1])
        return ratios

    def jacobian(self, u: Array) -> Array:
        p = self.report(u)
        return (np.diag(p) - np.outer(p, p))[:, :-1]

    def second(self, u: Array, weights: Array) -> Array:
        # from dp_i = p_i (e_i - p)' du, with w centred at its mean w'p
        p = self.report(u)
        slope = (p * (weights - weights @ p))[:-1]
        cross = np.outer(slope, p[:-1])
        return np.diag(slope) - cross - cross.T

    def free_labels(self, name: str) -> list[str]:
        return [f"log({name}[{i}]/{name}[{self.d - 1}])" for i in range(self.d - 1)]

    def interval_links(self) -> tuple[Link, ...]:
        return (UNIT,) * self.d

    @property
    def zero_on_bound(self) -> tuple[bool, ...]:
        return (True,) * self.d


@dataclass(frozen=True, eq=False)
class Ordered(Sized):
    """d increasing numbers, such as cut points: c_0 = u_0, c_i = c_(i-1) + exp(u_i)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.d,)

    @property
    def n_free(self) -> int:
        return self.d

    def default_free(self) -> Array:
        return np.concatenate([[-0.5 * (self.d - 1)], np.zeros(self.d - 1)])

    def value(self, u: Any, xp: Any = np) -> Any:
        return xp.cumsum(xp.concatenate([u[:1], xp.exp(u[1:])]))

    def free(self, value: Any) -> Array:
        c = self._checked(value)
        steps = np.diff(c)
        if not (steps > 0).all():
            i = int(np.argmin(steps > 0))
            raise self._outside("increasing entries", f"{c[i]:g} followed by {c[i + 1]:g} at entry {i + 1}")
        return np.concatenate([c[:1], np.log(steps)])

    def jacobian(self, u: Array) -> Array:
        slope: Array = np.tri(self.d) * np.concatenate([[1.0], np.exp(u[1:])])
        return slope

    def second(self, u: Array, weights: Array) -> Array:
        later = np.cumsum(weights[::-1])[::-1]  # c_i and all after it move with u_i
        return np.diag(np.concatenate([[0.0], np.exp(u[1:]) * later[1:]]))

    def free_labels(self, name: str) -> list[str]:
        return [f"{name}[0]", *(f"log({name}[{i}] - {name}[{i - 1}])" for i in range(1, self.d))]


@dataclass(frozen=True, eq=False)
class Correlation(Sized):
    """A d x d correlation matrix R = L L'; reported are its strictly lower entries by columns.

    Row i of L is tanh(u_i0), tanh(u_i1) sech(u_i0), ..., prod_k sech(u_ik): u are Fisher's z of the
    partial correlations of i and j given all before j, so that d = 2 gives rho = tanh(u).
    Reference: Lewandowski, Kurowicka & Joe (2009), J. Multivariate Analysis 100.
    """

    smallest: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.d, self.d)

    @property
    def n_free(self) -> int:
        return self.d * (self.d - 1) // 2

    @property
    def n_reported(self) -> int:
        return self.n_free

    def default_free(self) -> Array:
        return np.zeros(self.n_free)

    def value(self, u: Any, xp: Any = np) -> Any:
        factor = self._factor(u, xp)
        return factor @ factor.T

    def _factor(self, u: Any, xp: Any) -> Any:
        """Return L (d, d); entries off the triangle hold z = 0, whose sech is 1."""
        d = self.d
        z = xp.where(np.tri(d, k=-1) > 0, u[_positions(d, strict=True)], 0.0)
        log_sech = math.log(2.0) - xp.logaddexp(z, -z)
        before = xp.exp(log_sech @ np.triu(np.ones((d, d)), 1))  # product of sech left of each entry
        return (xp.tanh(z) + np.eye(d)) * before * np.tri(d)

    def free(self, value: Any) -> Array:
        matrix = self._checked(value)
        if np.abs(np.diag(matrix) - 1.0).max() > 1e-8:
            raise self._outside("ones on the diagonal", np.diag(matrix))
        factor = _cholesky(self, matrix)
        rows, columns = _strict_indices(self.d)
        # sinh(u_ij) = L_ij / (length of the rest of the row), accurate up to the bound
        rest = np.sqrt(np.cumsum(factor[:, ::-1] ** 2, axis=1)[:, ::-1])
        return np.arcsinh(factor[rows, columns] / rest[rows, columns + 1])

    def report(self, u: Array) -> Array:
        rows, columns = _strict_indices(self.d)
        matrix: Array = self.value(np.asarray(u, dtype=np.float64))
        return matrix[rows, columns]

    def _slopes(self, u: Array) -> tuple[Array, Array, Array]:
        """Return L, dL[a, b] / du_(row, col) as (d, d_free) rows of L moved, and tanh(u).

        Only row i of L moves with u_ij: entry k > j by -tanh(u_ij) L_ik, entry j by sech^2 P_ij.
        """
        rows, columns = _strict_indices(self.d)
        factor = self._factor(u, np)
        z = np.tanh(u)
        moved = np.where(np.arange(self.d)[:, None] > columns, -z * factor[rows].T, 0.0)
        moved[columns, np.arange(len(u))] = self._slope_own(u, factor)
        return factor, moved, z

    def _slope_own(self, u: Array, factor: Array) -> Array:
        """Return sech^2(u_ij) prod_(k<j) sech(u_ik): the rest of the row after j times sech(u_ij)."""
        rows, columns = _strict_indices(self.d)
        rest = np.sqrt(np.cumsum(factor[:, ::-1] ** 2, axis=1)[:, ::-1])
        slope: Array = rest[rows, columns + 1] * np.exp(math.log(2.0) - np.logaddexp(u, -u))
        return slope

    def jacobian(self, u: Array) -> Array:
        # dR_pq = (dL_p)'L_q + L_p'(dL_q), and du_ij moves row i alone
        u = np.asarray(u, dtype=np.float64)
        rows, columns = _strict_indices(self.d)
        factor, moved, _ = self._slopes(u)
        pull = factor @ moved  # (d, d_free): L_q'(dL_i / du_ij)
        slope: Array = (rows[:, None] == rows) * pull[columns] + (columns[:, None] == rows) * pull[rows]
        return slope

    def second(self, u: Array, weights: Array) -> Array:
        # sum w_pq L_p'L_q: rows p != q cross through w_pq dL_p'dL_q; within a row through d2 L_i
        u = np.asarray(u, dtype=np.float64)
        rows, columns = _strict_indices(self.d)
        factor, moved, z = self._slopes(u)
        symmetric = np.zeros((self.d, self.d))
        symmetric[rows, columns] = symmetric[columns, rows] = weights
        result = symmetric[rows[:, None], rows] * (moved.T @ moved)
        pull = (symmetric @ factor)[rows] * moved.T  # (d_free, d): gradient of L_i times dL_ik/du_ij
        same = rows[:, None] == rows
        later = np.arange(self.d) > columns[:, None]
        # d2 L_ik / du_ij du_il = -tanh(u_ij) dL_ik/du_il for j < l (and by symmetry) ...
        upper = same & (columns[:, None] < columns)
        cross = np.where(upper, -z[:, None] * pull.sum(axis=1), 0.0)
        result += cross + cross.T
        # ... and for j = l: (tanh^2 - sech^2) L_ik beyond j, -2 tanh(u) dL_ij/du at j itself
        gradient = (symmetric @ factor)[rows] * factor[rows]
        beyond = (2.0 * z**2 - 1.0) * np.where(later, gradient, 0.0).sum(axis=1)
        own = -2.0 * z * pull[np.arange(len(u)), columns]
        return result + np.diag(beyond + own)

    def labels(self, name: str) -> list[str]:
        return [f"{name}[{i},{j}]" for i, j in zip(*_strict_indices(self.d), strict=True)]

    def free_labels(self, name: str) -> list[str]:
        given = [",".join(map(str, range(j))) for j in range(self.d)]
        return [
            f"atanh({name}[{i},{j}|{given[j]}])" if j else f"atanh({name}[{i},0])"
            for i, j in zip(*_strict_indices(self.d), strict=True)
        ]

    def interval_links(self) -> tuple[Link, ...]:
        return (SYMMETRIC,) * self.n_reported


@dataclass(frozen=True, eq=False)
class Covariance(Sized):
    """A d x d positive definite matrix Sigma = L L', reported as its vech.

    u = vech L with the logarithm of its diagonal. d vech Sigma = 2 D^+ (L x I) E' d vech L, with the
    duplication matrix D and the elimination matrix E. Reference: Pinheiro & Bates (1996), Statistics
    and Computing 6; Magnus & Neudecker (2019), chapter 3.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.d, self.d)

    @property
    def n_free(self) -> int:
        return self.d * (self.d + 1) // 2

    @property
    def n_reported(self) -> int:
        return self.n_free

    def default_free(self) -> Array:
        return np.zeros(self.n_free)

    def value(self, u: Any, xp: Any = np) -> Any:
        factor = self._factor(u, xp)
        return factor @ factor.T

    def _factor(self, u: Any, xp: Any) -> Any:
        """Return L (d, d); exp sees diagonal entries alone, so that no inf hides behind a mask."""
        entries = u[_positions(self.d, strict=False)]
        diagonal = np.eye(self.d) > 0
        exponents = xp.where(diagonal, entries, 0.0)
        return xp.where(diagonal, xp.exp(exponents), xp.where(np.tri(self.d) > 0, entries, 0.0))

    def free(self, value: Any) -> Array:
        factor = _cholesky(self, self._checked(value))
        rows, columns = vech_indices(self.d)
        u: Array = factor[rows, columns]
        u[rows == columns] = np.log(u[rows == columns])
        return u

    def report(self, u: Array) -> Array:
        rows, columns = vech_indices(self.d)
        matrix: Array = self.value(np.asarray(u, dtype=np.float64))
        return matrix[rows, columns]

    def jacobian(self, u: Array) -> Array:
        # dL = e_a e_b' gives dSigma = e_a l_b' + l_b e_a' (l_b column b of L): 2 D^+ (L x I) E' by entry
        rows, columns = vech_indices(self.d)
        factor = self._factor(np.asarray(u, dtype=np.float64), np)
        p, q = rows[:, None], columns[:, None]
        slope: Array = (p == rows) * factor[q, columns] + (q == rows) * factor[p, columns]
        slope *= self._stretch(factor)
        return slope

    def second(self, u: Array, weights: Array) -> Array:
        # w'vech(LL') = tr(A L L') with vec A = D^+' w: gradient 2AL, Hessian 2 E (I x A) E'
        rows, columns = vech_indices(self.d)
        factor = self._factor(np.asarray(u, dtype=np.float64), np)
        doubled = np.zeros((self.d, self.d))  # 2A
        doubled[rows, columns] = weights
        doubled = doubled + doubled.T
        stretch = self._stretch(factor)
        hessian: Array = doubled[rows[:, None], rows] * (columns[:, None] == columns)
        hessian *= np.outer(stretch, stretch)
        bend = np.where(rows == columns, (doubled @ factor)[rows, columns] * stretch, 0.0)
        hessian += np.diag(bend)
        return hessian

    def _stretch(self, factor: Array) -> Array:
        """Return d vech(L)_i / du_i: L_ii for the log diagonal, 1 elsewhere."""
        rows, columns = vech_indices(self.d)
        return np.where(rows == columns, factor[rows, columns], 1.0)

    def labels(self, name: str) -> list[str]:
        return [f"{name}[{i},{j}]" for i, j in zip(*vech_indices(self.d), strict=True)]

    def free_labels(self, name: str) -> list[str]:
        return [
            f"log(chol({name})[{i},{j}])" if i == j else f"chol({name})[{i},{j}]"
            for i, j in zip(*vech_indices(self.d), strict=True)
        ]

    def interval_links(self) -> tuple[Link, ...]:
        return tuple(LOG if variance else IDENTITY for variance in self.zero_on_bound)

    @property
    def zero_on_bound(self) -> tuple[bool, ...]:
        rows, columns = vech_indices(self.d)
        return tuple((rows == columns).tolist())


def _cholesky(kind: Kind, matrix: Array) -> Array:
    """Return the lower Cholesky factor of `matrix`, or raise naming what it lacks."""
    gap = float(np.abs(matrix - matrix.T).max())
    if gap > 1e-10 * float(np.abs(matrix).max()):
        raise kind._outside("a symmetric matrix", f"entries that differ from their mirror by {gap:.3g}")
    try:
        factor: Array = np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
        return factor
    except np.linalg.LinAlgError:
        smallest = float(np.linalg.eigvalsh(matrix)[0])
        raise kind._outside(
            "a positive definite matrix (to rounding)", f"smallest eigenvalue {smallest:.3g}"
        ) from None


@functools.cache
def _strict_indices(d: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the d(d-1)/2 entries below the diagonal, column by column."""
    rows, columns = vech_indices(d)
    return rows[rows > columns], columns[rows > columns]


@functools.cache
def _positions(d: int, strict: bool) -> npt.NDArray[np.intp]:
    """Return (d, d) positions in u of the (strictly) lower entries; 0, to be masked, elsewhere."""
    rows, columns = _strict_indices(d) if strict else vech_indices(d)
    positions = np.zeros((d, d), dtype=np.intp)
    positions[rows, columns] = np.arange(len(rows))
    positions.flags.writeable = False
    return positions
