"""Expectations of second derivatives by the trapezoidal rule, which converges geometrically on the line.

The rule sees a function analytic in a strip |Im x| < d with an error of exp(-2 pi d / h); the steps
here leave 1e-16.

Reference: Trefethen & Weideman (2014), SIAM Review 56, 385-458.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mlecov.errors import CovarianceError


def exponential(lowest: float = -50.0) -> Iterator[tuple[float, float]]:
    """Yield nodes u and weights of E f(u), u ~ Exp(1): the rule in x = log u from `lowest` on, d = pi/2.

    >>> round(sum(weight * u**2 for u, weight in exponential()), 10)
    2.0
    """
    step = 0.2
    for x in np.arange(lowest, 4.5, step):
        yield float(np.exp(x)), float(step * np.exp(x - np.exp(x)))


def normal() -> Iterator[tuple[float, float]]:
    """Yield nodes t and weights of E f(t), t ~ N(0, 1); d = 2.8, the first zero of Phi off the real line."""
    step = 0.4
    for t in np.arange(-24, 25) * step:
        yield float(t), float(step * np.exp(-0.5 * t * t) / np.sqrt(2 * np.pi))


def no_expectation(name: str, where: str, found: float) -> CovarianceError:
    """Return the error of an expected information that exists for other parameters only."""
    return CovarianceError(
        f"{name}: the expected information exists where {where}; it is {found:.6g}. Use 'oim', and "
        "curvature='observed' where leverages are asked for."
    )
