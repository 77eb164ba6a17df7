"""Second-order jets: a value with its first and second derivatives in K directions, stacked.

A jet is an array (D, ...) with D = 1, 1 + K or 1 + K + K(K+1)/2 entries along its first axis: value,
first derivatives, second derivatives in the order of the upper triangle. Recursions written with
`multiply` and `reciprocal` carry exact derivatives along (Griewank & Walther 2008, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Jets:
    """Arithmetic of jets in `k` directions up to `order` (0, 1 or 2)."""

    k: int
    order: int

    @cached_property
    def pairs(self) -> tuple[Index, Index]:
        """First and second direction of each second derivative."""
        left, right = np.triu_indices(self.k)
        return left, right

    @property
    def size(self) -> int:
        """D, the number of stacked entries."""
        return 1 + (self.k if self.order else 0) + (self.k * (self.k + 1) // 2 if self.order > 1 else 0)

    def constant(self, value: Array) -> Array:
        """Return the jet of a value (...) that does not move."""
        found = np.zeros((self.size, *np.shape(value)))
        found[0] = value
        return found

    def bilinear(self, a: Array, b: Array, product: Callable[[Array, Array], Array]) -> Array:
        """Return the jet of a bilinear `product` of jets; it must broadcast over the first axis."""
        first = product(a[:1], b[:1])
        if not self.order:
            return first
        k = self.k
        slopes = product(a[1 : 1 + k], b[:1]) + product(a[:1], b[1 : 1 + k])
        if self.order < 2:
            return np.concatenate([first, slopes])
        left, right = self.pairs[0] + 1, self.pairs[1] + 1
        bends = product(a[1 + k :], b[:1]) + product(a[:1], b[1 + k :])
        bends += product(a[left], b[right]) + product(a[right], b[left])
        return np.concatenate([first, slopes, bends])

    def multiply(self, a: Array, b: Array) -> Array:
        """Return the jet of a b, entry by entry."""
        return self.bilinear(a, b, np.multiply)

    def reciprocal(self, a: Array) -> Array:
        """Return the jet of 1 / a."""
        found = np.empty_like(a)
        inverse = found[0] = 1.0 / a[0]
        if self.order:
            k = self.k
            found[1 : 1 + k] = -a[1 : 1 + k] * inverse**2
            if self.order > 1:
                left, right = self.pairs[0] + 1, self.pairs[1] + 1
                found[1 + k :] = (2.0 * inverse * a[left] * a[right] - a[1 + k :]) * inverse**2
        return found

    def symmetric(self, bends: Array) -> Array:
        """Return second derivatives (K(K+1)/2,) as a matrix (K, K)."""
        found = np.zeros((self.k, self.k))
        found[self.pairs] = bends
        found[self.pairs[1], self.pairs[0]] = bends
        return found
