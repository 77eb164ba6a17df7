"""Continuous outcomes: the Gaussian linear regression and the exponential regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.kinds import positive
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import Model, build, least_squares_start, outside

Array = npt.NDArray[np.float64]
LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Gaussian(Model):
    """y ~ N(mu, sigma^2); predictors (mu, log sigma)."""

    name = "gaussian"
    equations = {"mu": None, "sigma": positive()}

    def check(self, y: Array, columns: Columns) -> str | None:
        return None

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        scale = np.exp(-eta[1])
        z = (columns["y"] - eta[0]) * scale
        square = z * z
        value = -0.5 * (LOG_2PI + square) - eta[1]
        if not order:
            return value, None, None
        first = np.empty_like(eta)
        np.multiply(z, scale, out=first[0])
        np.subtract(square, 1.0, out=first[1])
        if order < 2:
            return value, first, None
        return value, first, np.stack([-(scale**2), -2 * first[0], -2 * square])

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        return np.stack([-np.exp(-2 * eta[1]), np.zeros(eta.shape[1]), np.full(eta.shape[1], -2.0)])

    def start(self, likelihood: IndexLikelihood) -> Array:
        theta = least_squares_start(likelihood, likelihood.columns["y"])
        residual = likelihood.columns["y"] - likelihood.predictors(theta, 0, likelihood.n_terms)[0]
        w = None if likelihood.weights is None else likelihood.weights.values
        spread = float(np.average(residual**2, weights=w)) or 1.0
        last = likelihood.equations[1]
        if last.columns is None:
            theta[last.start] = 0.5 * np.log(spread)
            return theta
        ones = likelihood.design.dot(np.eye(last.stop - last.start)[0], last)
        if np.all(ones == 1):
            theta[last.start] = 0.5 * np.log(spread)
        return theta

    def mean(self, eta: Array, columns: Columns) -> Array:
        return eta[0]

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        found = special.ndtr((columns["y"] - eta[0]) * np.exp(-eta[1]))
        return found, found

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return {"y": eta[0] + np.exp(eta[1]) * rng.standard_normal(eta.shape[1])}


def gaussian(formula: Any, data: Any = None, *, sigma: str | None = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the Gaussian linear regression y = x'b + e, e ~ N(0, sigma^2).

        log f = -log(2 pi)/2 - log sigma - (y - mu)^2 / (2 sigma^2),   mu = x'b

    The maximum is least squares with sigma^2 = RSS/n (Stata's `regress` and R's `lm` report
    RSS/(n-k)). The information of b is X'X / sigma^2, that of sigma 2n / sigma^2.

    Parameters
    ----------
    formula, data :
        "y ~ x1 + x2" and a frame, or arrays (y, X).
    sigma :
        Formula of log sigma ("z"): sigma varies with z (multiplicative heteroskedasticity).
    options :
        `missing`, `offset`, weights: see `models.base.build`.

    Reference: Greene (2018), section 14.9.1; Harvey (1976) for the second equation.

    >>> import numpy as np
    >>> gaussian(np.array([1.0, 2.0, 4.0]), np.ones((3, 1))).n_terms
    3
    """
    return build(Gaussian(), formula, data, equations={"sigma": sigma}, **options)


@dataclass(frozen=True)
class Exponential(Model):
    """y ~ exponential with mean exp(eta)."""

    name = "exponential"
    equations = {"mu": None}

    def check(self, y: Array, columns: Columns) -> str | None:
        return outside(y, y >= 0, "non-negative")

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        ratio = columns["y"] * np.exp(-eta[0])
        value = -eta[0] - ratio
        if not order:
            return value, None, None
        return value, (ratio - 1.0)[None], -ratio[None] if order > 1 else None

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        return np.full((1, eta.shape[1]), -1.0)

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        return least_squares_start(likelihood, np.log(y + 0.5 * y.mean() + 1e-300) - 0.5)

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.exp(eta[0])

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        found = -np.expm1(-columns["y"] * np.exp(-eta[0]))
        return found, found

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return {"y": rng.exponential(np.exp(eta[0]))}


def exponential(formula: Any, data: Any = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the exponential regression with mean exp(x'b).

        log f = -mu - y exp(-mu),   mu = x'b = log E[y]

    Stata's `streg, distribution(exponential)` reports the hazard form, coefficients of opposite sign.

    Parameters
    ----------
    formula, data, options :
        As for `gaussian`; `exposure=` and `offset=` enter mu with coefficient one.

    Reference: Greene (2018), section 14.4; Kalbfleisch & Prentice (2002), section 2.2.1.
    """
    return build(Exponential(), formula, data, **options)
