"""Residuals and cross products in twice the working precision, for iterative refinement.

A number is an unevaluated sum `high + low` of two float64. This needs no extended type, so it gives
the same digits on every machine (where `numpy.longdouble` is float64 as well).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pair = tuple[Array, Array]

_SPLITTER = 134217729.0  # 2**27 + 1: cuts the 53 bits of a float64 in two halves (Dekker)
_BLOCK = 16384  # rows at a time: the temporaries stay in cache and never grow with n


def two_sum(a: Array, b: Array) -> Pair:
    """Return `(s, e)` with s = fl(a + b) and s + e = a + b exactly (Knuth 1969)."""
    total = a + b
    rest = total - a
    return total, (a - (total - rest)) + (b - rest)


def two_product(a: Array, b: Array) -> Pair:
    """Return `(p, e)` with p = fl(a b) and p + e = a b exactly, barring overflow (Dekker 1971)."""
    product = a * b
    a_big = _SPLITTER * a
    a_high = a_big - (a_big - a)
    a_low = a - a_high
    b_big = _SPLITTER * b
    b_high = b_big - (b_big - b)
    b_low = b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def split(values: npt.NDArray[np.floating]) -> Pair:
    """Return float64 or wider `values` as a pair; float64 has the low part zero."""
    high = np.asarray(values, dtype=np.float64)
    low = np.asarray(values - high, dtype=np.float64) if values.dtype.itemsize > 8 else np.zeros_like(high)
    return high, low


def scale_rows(pair: Pair, factor: Array) -> Pair:
    """Return `factor * pair`, row by row, without losing the low part."""
    factor = factor.reshape((-1,) + (1,) * (pair[0].ndim - 1))
    high, low = two_product(pair[0], factor)
    return two_sum(high, low + pair[1] * factor)


def residual(A: Pair, x: Pair, b: Pair) -> Pair:
    """Return b - A x (n,) for A (n, k), x (k,), b (n,), as if computed in twice the precision.

    Reference: Ogita, Rump and Oishi (2005), "Accurate sum and dot product", SIAM J. Sci. Comput. 26.
    """
    high, low = np.empty_like(b[0]), np.empty_like(b[0])
    for start in range(0, len(b[0]), _BLOCK):
        rows = slice(start, start + _BLOCK)
        total, error = b[0][rows], b[1][rows]
        for j in range(A[0].shape[1]):
            column = A[0][rows, j]
            product, product_error = two_product(column, x[0][j])
            total, sum_error = two_sum(total, -product)
            error = error + (sum_error - (product_error + column * x[1][j] + A[1][rows, j] * x[0][j]))
        high[rows], low[rows] = two_sum(total, error)
    return high, low


def cross(A: Pair, r: Pair) -> Pair:
    """Return A' r (k,) for A (n, k), r (n,), as if computed in twice the precision."""
    k = A[0].shape[1]
    total, error = np.zeros(k), np.zeros(k)
    for start in range(0, len(r[0]), _BLOCK):
        rows = slice(start, start + _BLOCK)
        r_high, r_low = r[0][rows, None], r[1][rows, None]
        product, product_error = two_product(A[0][rows], r_high)
        rest = (product_error + A[0][rows] * r_low + A[1][rows] * r_high).sum(axis=0)
        while len(product) > 1:
            if len(product) % 2:
                product = np.vstack([product, np.zeros((1, k))])
            half = len(product) // 2
            product, sum_error = two_sum(product[:half], product[half:])
            rest = rest + sum_error.sum(axis=0)
        total, sum_error = two_sum(total, product[0])
        error = error + sum_error + rest
    return two_sum(total, error)


def add(a: Pair, b: Array) -> Pair:
    """Return the pair `a + b` for a float64 correction `b`."""
    total, error = two_sum(a[0], b)
    return two_sum(total, error + a[1])
