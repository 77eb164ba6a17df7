"""vec, vech and the sparse matrices between them: duplication, elimination, commutation.

`vec` stacks columns, `vech` the columns of the lower triangle, as in Magnus & Neudecker (2019),
*Matrix Differential Calculus*, 3rd ed., chapter 3.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError
from mlecov.lazy import lazy

sparse = lazy("scipy.sparse")

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


def vec(A: Array) -> Array:
    """Stack the columns of A (p, q) into (pq,); proof: by definition, entry i + pj is A_ij.

    >>> vec([[1.0, 2.0], [3.0, 4.0]]).tolist()
    [1.0, 3.0, 2.0, 4.0]
    """
    return as_matrix(A, "vec").flatten(order="F")


def unvec(v: Array, p: int, q: int) -> Array:
    """Return the matrix (p, q) whose columns are stacked in v (pq,); proof: vec undone.

    >>> unvec([1.0, 3.0, 2.0, 4.0], 2, 2).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    v = np.asarray(v, dtype=np.float64)
    if v.shape != (p * q,):
        raise SpecificationError(f"unvec(v, {p}, {q}): expected v of shape ({p * q},), got {v.shape}.")
    return v.reshape((p, q), order="F")


def vech(A: Array) -> Array:
    """Stack the lower triangle of A (d, d), column by column, into (d(d+1)/2,).

    Proof: by definition; for a symmetric A nothing is lost, since A_ij = A_ji.

    >>> vech([[1.0, 2.0], [2.0, 3.0]]).tolist()
    [1.0, 2.0, 3.0]
    """
    A = as_square(A, "vech")
    rows, columns = vech_indices(len(A))
    return A[rows, columns]


def unvech(v: Array) -> Array:
    """Return the symmetric matrix (d, d) with vech v (d(d+1)/2,); proof: unvec(D v).

    >>> unvech([1.0, 2.0, 3.0]).tolist()
    [[1.0, 2.0], [2.0, 3.0]]
    """
    v = np.asarray(v, dtype=np.float64)
    d = int((np.sqrt(8 * v.size + 1) - 1) / 2 + 0.5)
    if v.ndim != 1 or v.size != d * (d + 1) // 2 or not d:
        raise SpecificationError(f"unvech(v): expected d(d+1)/2 entries (1, 3, 6, ...), got shape {v.shape}.")
    rows, columns = vech_indices(d)
    A = np.empty((d, d))
    A[rows, columns] = A[columns, rows] = v
    return A


@functools.cache
def vech_indices(d: int) -> tuple[Index, Index]:
    """Return rows and columns of the d(d+1)/2 lower entries, column by column (read-only, cached).

    >>> [index.tolist() for index in vech_indices(2)]
    [[0, 1, 1], [0, 0, 1]]
    """
    columns, rows = np.triu_indices(_size(d, "d"))
    return _frozen(rows), _frozen(columns)


def duplication_matrix(d: int) -> Any:
    """Return D (d^2, d(d+1)/2), sparse, with vec A = D vech A for every symmetric A (d, d).

    Proof: row i + dj has its one in the column where vech keeps A_ij = A_ji.

    >>> duplication_matrix(2).toarray().astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    """
    return _selection(_duplication_columns(d), len(vech_indices(d)[0]))


def elimination_matrix(d: int) -> Any:
    """Return E (d(d+1)/2, d^2), sparse, with vech A = E vec A for every A (d, d).

    Proof: row r has its one where vec keeps the r-th lower entry; hence E D = I.

    >>> elimination_matrix(2).toarray().astype(int).tolist()
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    """
    return _selection(_elimination_columns(d), d * d)


def commutation_matrix(p: int, q: int) -> Any:
    """Return K (pq, pq), sparse, with vec A' = K vec A for every A (p, q).

    Proof: entry j + qi of vec A' is A_ij, entry i + pj of vec A; hence K_pq' = K_qp = K_pq^-1.

    >>> (commutation_matrix(2, 2) @ np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    return _selection(_commutation_columns(p, q), p * q)


def duplication_left_inverse(d: int) -> Any:
    """Return D^+ = (D'D)^-1 D' (d(d+1)/2, d^2), sparse: vech((A + A')/2) = D^+ vec A.

    Proof: D'D is diagonal, 1 for a diagonal entry and 2 for a pair, so D^+ averages A_ij and A_ji.

    >>> duplication_left_inverse(2).toarray().tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    rows, columns = vech_indices(d)
    weights = sparse.diags_array(np.where(rows == columns, 1.0, 0.5))
    return sparse.csr_array(weights @ duplication_matrix(d).T)


def as_matrix(A: Array, where: str) -> Array:
    """Return A as a two-dimensional float array, refusing any other shape by name."""
    A = np.asarray(A, dtype=np.float64)
    if A.ndim != 2:
        raise SpecificationError(f"{where}: expected a matrix, got an array of shape {A.shape}.")
    return A


def as_square(A: Array, where: str) -> Array:
    """Return A as a square float matrix, refusing any other shape by name."""
    A = as_matrix(A, where)
    if A.shape[0] != A.shape[1]:
        raise SpecificationError(f"{where}: expected a square matrix, got shape {A.shape}.")
    return A


def _size(d: int, name: str) -> int:
    if d < 1:
        raise SpecificationError(f"{name}: expected a dimension of at least 1, got {d}.")
    return d


def _frozen(index: Index) -> Index:
    index.flags.writeable = False
    return index


@functools.cache
def _duplication_columns(d: int) -> Index:
    rows, columns = vech_indices(d)
    kept = np.empty((d, d), dtype=np.intp)
    kept[rows, columns] = kept[columns, rows] = np.arange(len(rows))
    return _frozen(kept.ravel(order="F"))


@functools.cache
def _elimination_columns(d: int) -> Index:
    rows, columns = vech_indices(d)
    return _frozen(rows + d * columns)


@functools.cache
def _commutation_columns(p: int, q: int) -> Index:
    positions = np.arange(_size(p, "p") * _size(q, "q")).reshape((p, q), order="F")
    return _frozen(positions.ravel())


def _selection(columns: Index, width: int) -> Any:
    """Return the sparse matrix with a one in row r at columns[r].

    The wrapper is new on every call, so that no caller can change another's; the indices are cached.
    """
    height = len(columns)
    return sparse.csr_array((np.ones(height), columns.copy(), np.arange(height + 1)), shape=(height, width))
