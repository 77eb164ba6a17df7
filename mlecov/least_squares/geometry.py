"""The tangent plane of a least-squares problem: one orthogonal factor, its rank, its null directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.lazy import lazy
from mlecov.least_squares.compensated import Pair, add, cross, residual

linalg = lazy("scipy.linalg")
Array = npt.NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Plane:
    """An orthonormal basis of the column space of A (n, k), and the way back to the columns.

    `basis` Q (n, r) and `back` T (k, r) with pseudo-inverse A+ = T Q', (A'A)+ = T T'; `scale` (k,) the
    column norms by which A was equilibrated, `singular` the singular values of the equilibrated A and
    `singular_raw` those of A as given, `null` (k, k - r) the directions d with A d = 0, largest entry of each
    one in size.
    """

    basis: Array
    back: Array
    scale: Array
    singular: Array
    singular_raw: Array
    null: Array

    @property
    def rank(self) -> int:
        """Number of independent columns r."""
        return int(self.basis.shape[1])

    @property
    def condition(self) -> float:
        """Condition number of the equilibrated A: largest over smallest singular value."""
        full = self.rank == len(self.scale)
        return float(self.singular[0] / self.singular[-1]) if full else float("inf")


def plane(A: Array, method: str = "qr") -> Plane:
    """Factor A (n, k) by column-pivoted QR of its equilibrated columns, or by SVD.

    Each column is divided by its Euclidean norm first, so that neither the rank decision nor the
    rounding depends on units of measurement; the rank is the number of diagonal entries of R above
    `max(n, k) eps |R_11|`. With `method="svd"` and a deficient rank, A+ is that of the columns **as
    given**: the minimum-norm solution depends on their units.

    Reference: Golub and Van Loan (2013), Matrix Computations, sections 5.4.2 and 5.5.
    """
    n, k = A.shape
    scale = np.sqrt((A * A).sum(axis=0))
    scale = np.asarray(np.where(scale > 0, scale, 1.0), dtype=np.float64)
    Q, R, pivots = linalg.qr(A / scale, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(R))
    rank = int((diagonal > max(n, k) * EPS * diagonal[0]).sum()) if diagonal[0] > 0 else 0
    R = np.asarray(R, dtype=np.float64)
    singular = np.asarray(linalg.svdvals(R), dtype=np.float64)
    raw = np.asarray(linalg.svdvals(R * scale[pivots]), dtype=np.float64)
    null = _null_directions(R, pivots, scale, rank)
    if method == "svd":
        deficient = rank < k
        U, s, Vt = linalg.svd(A if deficient else A / scale, full_matrices=False)
        back = Vt[:rank].T / s[:rank]
        back = back if deficient else back / scale[:, None]
        return Plane(U[:, :rank], back, scale, singular, raw, null)
    back = np.zeros((k, rank))
    back[pivots[:rank]] = linalg.solve_triangular(R[:rank, :rank], np.eye(rank))
    return Plane(Q[:, :rank], back / scale[:, None], scale, singular, raw, null)


def _null_directions(R: Array, pivots: npt.NDArray[Any], scale: Array, rank: int) -> Array:
    k = len(scale)
    null = np.zeros((k, k - rank))
    if rank < k:
        null[pivots[:rank]] = -linalg.solve_triangular(R[:rank, :rank], R[:rank, rank:]) if rank else 0.0
        null[pivots[rank:], np.arange(k - rank)] = 1.0
        null[np.abs(null) < 100 * k * EPS * np.abs(null).max(axis=0)] = 0.0
        null /= scale[:, None]
        largest = np.abs(null).argmax(axis=0)
        null /= null[largest, np.arange(k - rank)]
    return null


def equation(direction: Array, names: Sequence[str]) -> str:
    """Return a null direction as an equation among columns.

    >>> equation(np.array([1.0, -1.0, 0.5]), ["a", "b", "c"])
    'a - b + 0.5 c = 0'
    """
    text = ""
    for weight, name in zip(direction, names, strict=True):
        if abs(weight) > 1e-10:
            size = "" if abs(abs(weight) - 1) < 1e-10 else f"{abs(weight):.6g} "
            sign = (" - " if weight < 0 else " + ") if text else ("-" if weight < 0 else "")
            text += f"{sign}{size}{name}"
    return f"{text} = 0"


@dataclass(frozen=True)
class Refined:
    """Solution of the augmented system: `r` (n,) and `x` (k,) as pairs, corrections made, last size."""

    r: Pair
    x: Pair
    steps: int
    correction: float


def refine(A: Pair, factor: Plane, b: Pair, g: Array, limit: int = 12) -> Refined:
    """Solve r + A x = b, A'r = g by fixed-precision factors and residuals in twice the precision.

    With g = 0 it is the least-squares problem (r the residuals); with b = 0, g = -e_j, x is column j of
    (A'A)^-1 and -r column j of A (A'A)^-1. Refining r and x **together** is what makes the iteration
    contract by eps cond(A) a step also when the residuals are large.

    Reference: Bjorck (1967), "Iterative refinement of linear least squares solutions I", BIT 7.
    """
    n, k = A[0].shape
    Q, T = factor.basis, factor.back
    r: Pair = (np.zeros(n), np.zeros(n))
    x: Pair = (np.zeros(k), np.zeros(k))
    last = 1.0
    for step in range(limit):
        f, h = b[0], g
        if step:
            first, product = residual(A, x, b), cross(A, r)
            f, h = (first[0] - r[0]) + (first[1] - r[1]), (g - product[0]) - product[1]
        coordinates = Q.T @ f
        back = T.T @ h
        dx = T @ (coordinates - back)
        x, r = add(x, dx), add(r, f - Q @ (coordinates - back))
        size = np.abs(x[0])
        change = float(np.max(np.abs(dx) / np.where(size > 0, size, 1.0)))
        # corrections shrink by one factor a step, so the last two foretell the next
        if step and (change * change / last <= 0.01 * EPS or (step > 1 and change >= 0.5 * last)):
            return Refined(r, x, step, change)
        last = change
    return Refined(r, x, limit - 1, last)
