"""Factor a symmetric matrix once: solve, inverse, rank, named null directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mlecov.errors import IdentificationError
from mlecov.lazy import lazy

lapack = lazy("scipy.linalg.lapack")

Array = npt.NDArray[np.float64]

SINGULAR = 64 * np.finfo(float).eps
"""Eigenvalues of the equilibrated matrix (unit diagonal) below k times this count as zero."""


def symmetrize(matrix: Array) -> Array:
    """Return (A + A') / 2."""
    return 0.5 * (matrix + matrix.T)


@dataclass(frozen=True)
class Factor:
    """Cholesky factor of a positive definite (k, k) matrix A, equilibrated: D A D = L L'.

    Equilibration (D = diag(A)^-1/2) makes rank and conditioning independent of the units of the
    parameters (van der Sluis 1969).
    """

    matrix: Array
    scale: Array
    lower: Array

    @cached_property
    def _whitener(self) -> Array:
        """D^-1... inverse of L, times D: (k, k) W with A^-1 = W' W."""
        return np.asarray(lapack.dtrtri(self.lower, lower=1)[0] * self.scale)

    def solve(self, right: Array) -> Array:
        """Return A^-1 b for b of shape (k,) or (k, r)."""
        return np.asarray(self._whitener.T @ (self._whitener @ right))

    @cached_property
    def inverse(self) -> Array:
        """A^-1, symmetric to the last bit."""
        return symmetrize(self._whitener.T @ self._whitener)

    def quadratic(self, vector: Array) -> float:
        """Return b' A^-1 b, never negative."""
        half = self._whitener @ vector
        return float(half @ half)

    @cached_property
    def condition(self) -> float:
        """Two-norm condition number of the equilibrated matrix."""
        values = np.linalg.eigvalsh(self.lower @ self.lower.T)
        return float(values[-1] / values[0])

    @property
    def logdet(self) -> float:
        """log det A."""
        return float(2 * np.log(np.diag(self.lower)).sum() - 2 * np.log(self.scale).sum())


def try_factor(matrix: Array) -> Factor | None:
    """Return the factor of `matrix` (k, k), or None where it is not numerically positive definite."""
    diagonal = matrix.diagonal()
    if not diagonal.min(initial=np.inf) > 0:  # nor NaN
        return None
    scale = 1 / np.sqrt(diagonal)
    # numpy's cholesky and inv are wrapped in checks that cost a small fit a tenth of its time
    lower, failed = lapack.dpotrf(matrix * (scale[:, None] * scale), lower=1)
    if failed:
        return None
    smallest = lower.diagonal().min(initial=1.0)
    if not smallest > 0:
        return None
    if smallest < 1e-4 and null_directions(matrix)[0].size:
        return None
    return Factor(matrix, scale, np.asarray(lower))


def factor(matrix: Array, names: Sequence[str], what: str = "the information matrix") -> Factor:
    """Return the factor of a positive definite `matrix` (k, k).

    Raises
    ------
    IdentificationError
        Where it is singular or indefinite; the message names the parameters in each such direction.
    """
    found = try_factor(matrix)
    if found is None:
        raise IdentificationError(describe_singular(matrix, names, what))
    return found


def null_directions(matrix: Array) -> tuple[Array, Array]:
    """Return the eigenvalues <= k * SINGULAR of the equilibrated matrix and their directions.

    Returns
    -------
    values : (r,)
    directions : (k, r)
        On the scale of the parameters: A d is zero (or d' A d negative), largest entry 1.
    """
    size = np.sqrt(np.abs(matrix.diagonal()))
    scale = np.where(size > 0, 1 / np.where(size > 0, size, 1), 1.0)
    values, vectors = np.linalg.eigh(symmetrize(matrix) * (scale[:, None] * scale))
    chosen = values <= len(values) * SINGULAR
    directions = vectors[:, chosen]
    # An entry is said to take part when it matters in units of its own information.
    directions = np.where(np.abs(directions) < 1e-6, 0.0, directions) * scale[:, None]
    largest = np.abs(directions).max(axis=0, initial=0) if directions.size else np.ones(directions.shape[1])
    return values[chosen], directions / np.where(largest > 0, largest, 1)


def describe_direction(direction: Array, names: Sequence[str]) -> str:
    """Return a direction (k,) as the text of a linear combination of `names`, large entries first."""
    order = np.argsort(-np.abs(direction), kind="stable")
    parts = [f"{direction[i]:+.3g}*{names[int(i)]}" for i in order if abs(direction[i]) > 1e-4]
    return " ".join(parts[:8]) + (" ..." if len(parts) > 8 else "")


def describe_singular(matrix: Array, names: Sequence[str], what: str) -> str:
    """Return the message that says why `matrix` has no inverse, naming the parameters."""
    if not np.isfinite(matrix).all():
        rows = [names[int(i)] for i in np.flatnonzero(~np.isfinite(matrix).all(axis=1))]
        return f"{what} is not finite in {', '.join(rows)}. Look at the start values and the data."
    values, directions = null_directions(matrix)
    if not values.size:
        values, directions = np.array([0.0]), np.linalg.eigh(matrix)[1][:, :1]
    lines = [
        f"  {'negative curvature' if value < -len(names) * SINGULAR else 'no information'} along "
        f"{describe_direction(directions[:, j], names)}"
        for j, value in enumerate(values)
    ]
    word = "not positive definite" if values[0] < -len(names) * SINGULAR else "singular"
    return (
        f"{what} is {word}: {len(values)} of {len(names)} directions carry no positive information.\n"
        + "\n".join(lines)
        + "\nDrop or fix one of the parameters named (fixed={...}, constraints=[...]), give more data, or "
        "look whether the optimiser stopped at a maximum (fit.record)."
    )
