"""Links: increasing maps of an interval onto the whole line, with derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Link:
    """The increasing map of the open interval (lo, hi) onto the whole line.

    Formula: identity on the line; log(x - lo) or -log(hi - x) with one finite end;
    logit = log((x - lo)/(hi - x)) with two. Reference: McCullagh & Nelder (1989), section 2.2.3.

    >>> link = Link(-1.0, 1.0)
    >>> link.name, round(float(link.inverse(link.forward(0.5))), 12)
    ('logit(-1,1)', 0.5)
    """

    lo: float = -math.inf
    hi: float = math.inf

    @property
    def name(self) -> str:
        """Return `identity`, `log`, `log(lo,inf)`, `log(-inf,hi)` or `logit(lo,hi)`."""
        if self.lo == 0 and self.hi == math.inf:
            return "log"
        bounds = f"({self.lo:g},{self.hi:g})"
        below, above = math.isfinite(self.lo), math.isfinite(self.hi)
        return f"logit{bounds}" if below and above else f"log{bounds}" if below or above else "identity"

    def forward(self, x: Any) -> Any:
        """Return the unconstrained number of `x`, elementwise."""
        lo, hi = self.lo, self.hi
        if lo == -math.inf:
            return x if hi == math.inf else -np.log(hi - x)
        if hi == math.inf:
            return np.log(x - lo)
        # atanh keeps the relative accuracy of values near zero
        return 2.0 * np.arctanh(x / hi) if lo == -hi else np.log(x - lo) - np.log(hi - x)

    def derivative(self, x: Any) -> Any:
        """Return d forward / d x: 1/(x - lo) + 1/(hi - x), a term for each finite end."""
        lo, hi = self.lo, self.hi
        if lo == -math.inf:
            return np.ones_like(x) if hi == math.inf else 1.0 / (hi - x)
        return 1.0 / (x - lo) if hi == math.inf else 1.0 / (x - lo) + 1.0 / (hi - x)

    def inverse(self, y: Any, xp: Any = np) -> Any:
        """Return the point of (lo, hi) whose unconstrained number is `y`, elementwise, traceably."""
        lo, hi = self.lo, self.hi
        if lo == -math.inf:
            return y if hi == math.inf else hi - xp.exp(-y)
        if hi == math.inf:
            return xp.exp(y) if lo == 0 else lo + xp.exp(y)
        if lo == -hi:
            return hi * xp.tanh(0.5 * y)
        # anchored at the end nearer to zero, where relative accuracy can be kept; logaddexp because
        # its derivatives are right at y = 0, where those of abs are not
        if abs(lo) <= abs(hi):
            return lo + (hi - lo) * xp.exp(-xp.logaddexp(0.0, -y))
        return hi - (hi - lo) * xp.exp(-xp.logaddexp(0.0, y))

    def inverse_derivatives(self, y: Array) -> tuple[Array, Array]:
        """Return first and second derivative of `inverse` at `y`: w ab and w ab(a - b) for the logit.

        Here w = hi - lo, b = 1/(1 + exp(-y)) and a = 1 - b.
        """
        lo, hi = self.lo, self.hi
        if lo == -math.inf:
            if hi == math.inf:
                return np.ones_like(y), np.zeros_like(y)
            slope = np.exp(-y)
            return slope, -slope
        if hi == math.inf:
            slope = np.exp(y)
            return slope, slope
        a, b = np.exp(-np.logaddexp(0.0, y)), np.exp(-np.logaddexp(0.0, -y))
        slope = (hi - lo) * a * b
        return slope, slope * np.tanh(-0.5 * y)


IDENTITY = Link()
LOG = Link(0.0)
UNIT = Link(0.0, 1.0)
SYMMETRIC = Link(-1.0, 1.0)
