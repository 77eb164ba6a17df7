"""Variable projection (parameters that enter linearly are solved out) and restriction to some parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError, listing
from mlecov.least_squares.functions import Packing, ResidualFunction
from mlecov.least_squares.geometry import EPS, plane

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


class Restricted(ResidualFunction):
    """The residuals as a function of the entries `free` of theta, the others held at `base`."""

    def __init__(self, function: ResidualFunction, base: Array, free: Places) -> None:
        self._function, self._base, self._free = function, base, free
        self.exact = function.exact

    def full(self, part: Array) -> Array:
        """Return theta (k,) with the free entries set to `part`."""
        theta = self._base.copy()
        theta[self._free] = part
        return theta

    def value(self, theta: Array) -> Array:
        return self._function.value(self.full(theta))

    def jacobian(self, theta: Array) -> Array:
        return self._function.jacobian(self.full(theta))[:, self._free]

    def weighted_hessian(self, theta: Array, w: Array) -> Array:
        return self._function.weighted_hessian(self.full(theta), w)[np.ix_(self._free, self._free)]

    def accelerations(self, theta: Array) -> Array:
        return self._function.accelerations(self.full(theta))[:, self._free][:, :, self._free]


class Projected:
    """Residuals r0(a) + Phi(a) b with b solved out: (I - P) r0 as a function of the nonlinear a alone.

    The Jacobian is Kaufman's (I - P) dr/da at the solved b: the exact gradient of the projected sum of
    squares, and its Gauss-Newton matrix but for a term of the order of the residuals squared.
    Reference: Golub and Pereyra (1973), SIAM J. Numer. Anal. 10; Kaufman (1975), BIT 15.
    """

    def __init__(
        self, function: ResidualFunction, packing: Packing, start: Array, names: Sequence[str]
    ) -> None:
        linear = sorted({place for name in names for place in packing.positions(name)})
        self._function = function
        self._linear = np.array(linear, dtype=np.intp)
        self.nonlinear = np.setdiff1d(np.arange(len(start)), self._linear)
        if len(self.nonlinear) == 0:
            raise SpecificationError(
                f"separable names every parameter ({listing(names)}): the problem is linear. Use "
                "least_squares."
            )
        self._check(start, names)

    def _check(self, start: Array, names: Sequence[str]) -> None:
        zero = start.copy()
        zero[self._linear] = 0.0
        r0, Phi = self._function.value(zero), self._function.jacobian(zero)[:, self._linear]
        other = start.copy()
        other[self._linear] = 1.0 + 2.0 * np.abs(start[self._linear])
        expected = r0 + Phi @ other[self._linear]
        terms = np.abs(r0) + np.abs(Phi) @ np.abs(other[self._linear])
        tolerance = (1e3 * EPS if self._function.exact else 1e-7) * len(start)
        gap = np.abs(self._function.value(other) - expected)
        bad = np.flatnonzero(~(gap <= tolerance * terms))
        if bad.size:
            raise SpecificationError(
                f"The residuals are not linear in {listing(names)}: row(s) {listing(bad)} differ from their "
                "linear extrapolation. Name in separable only parameters that enter linearly for fixed "
                "others."
            )

    def complete(self, part: Array) -> Array:
        """Return theta (k,) at the nonlinear entries `part`, the linear ones solved out by pivoted QR."""
        theta = np.zeros(len(part) + len(self._linear))
        theta[self.nonlinear] = part
        r0, Phi = self._function.value(theta), self._function.jacobian(theta)[:, self._linear]
        if not (np.isfinite(r0).all() and np.isfinite(Phi).all()):
            return np.full(len(theta), np.nan)
        tangent = plane(Phi)
        theta[self._linear] = -tangent.back @ (tangent.basis.T @ r0)
        return theta

    def value(self, part: Array) -> Array:
        """Return the projected residuals (n,)."""
        return self._function.value(self.complete(part))

    def jacobian(self, part: Array) -> Array:
        """Return Kaufman's Jacobian of the projected residuals (n, number of nonlinear parameters)."""
        J = self._function.jacobian(self.complete(part))
        Q = plane(J[:, self._linear]).basis
        inner = J[:, self.nonlinear]
        return np.asarray(inner - Q @ (Q.T @ inner))
