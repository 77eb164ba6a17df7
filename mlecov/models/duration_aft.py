"""Accelerated failure times, log T = x'b + sigma e: the laws of e; lognormal and loglogistic."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.functions import log_ndtr_derivatives
from mlecov.kinds import positive
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.duration_base import Duration, build_duration
from mlecov.models.predicted import Declared, OfRows
from mlecov.models.working import chain, regress, residuals, set_constant

Array = npt.NDArray[np.float64]
EULER = float(np.euler_gamma)
LOG_SQRT_2PI = 0.5 * float(np.log(2 * np.pi))
Standard = tuple[Array, Array, Array]


class LocationScale(Duration):
    """Durations whose z = (log t - mu) / sigma has a standard law; predictors (mu, log sigma)."""

    equations = {"mu": None, "sigma": positive()}
    location: float
    spread: float

    @abstractmethod
    def law(self, z: Array, event: Any, order: int) -> Standard:
        """Return d log h0(z) - H0(z), first and second derivative, where h0 = H0' and d is the event."""

    @abstractmethod
    def hazard(self, z: Array, order: int) -> Standard:
        """Return H0(z) and its first two derivatives."""

    @abstractmethod
    def quantile(self, hazard: Array) -> Array:
        """Return the z at which H0(z) is `hazard`."""

    @abstractmethod
    def information(self) -> tuple[float, float, float]:
        """Return the expected information of (mu, log sigma) at sigma = 1: entries (0,0), (0,1), (1,1)."""

    def plain(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        scale = np.exp(-eta[1])
        log_y = columns["log_y"]
        z = (log_y - eta[0]) * scale
        event = columns.get("event", 1.0)
        value, slope, curve = self.law(z, event, order)
        value = value - event * (eta[1] + log_y)
        if not order:
            return value, None, None
        first, second = chain(z, scale, slope, curve if order > 1 else None)
        first[1] -= event
        return value, first, second

    def cumulative(self, eta: Array, t: Array, order: int) -> RowDerivatives:
        scale = np.exp(-eta[1])
        z = (np.log(t) - eta[0]) * scale
        value, slope, curve = self.hazard(z, order)
        if not order:
            return value, None, None
        return value, *chain(z, scale, slope, curve if order > 1 else None)

    def inverse(self, eta: Array, hazard: Array) -> Array:
        return np.asarray(np.exp(eta[0] + np.exp(eta[1]) * self.quantile(hazard)))

    @property
    def has_expected(self) -> bool:
        return self.complete

    def expected(self, eta: Array, columns: Columns) -> Array:
        scale = np.exp(-eta[1])
        place, mixed, spread = self.information()
        return -np.stack([place * scale * scale, mixed * scale, np.full(len(scale), spread)])

    def start(self, likelihood: IndexLikelihood) -> Array:
        times, censoring = self.times(likelihood)
        log_times = np.log(times)
        theta = regress(likelihood, likelihood.space.start(), 0, log_times)
        log_sigma = residuals(likelihood, theta, log_times)[1] - np.log(self.spread)
        shift = np.exp(log_sigma) * (censoring - self.location)
        theta = regress(likelihood, theta, 0, log_times + shift)
        set_constant(likelihood, theta, 1, log_sigma)
        return theta


class Weibull(LocationScale):
    """Extreme-value z: H0 = exp(z)."""

    name = "weibull"
    location, spread = -EULER, np.pi / np.sqrt(6)

    def law(self, z: Array, event: Any, order: int) -> Standard:
        hazard = np.exp(z)
        return event * z - hazard, event - hazard, -hazard

    def hazard(self, z: Array, order: int) -> Standard:
        found = np.exp(z)
        return found, found, found

    def quantile(self, hazard: Array) -> Array:
        return np.asarray(np.log(hazard))

    def information(self) -> tuple[float, float, float]:
        return 1.0, 1 - EULER, np.pi**2 / 6 + (1 - EULER) ** 2

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(np.exp(eta[0] + special.gammaln(1 + np.exp(eta[1]))))


class Lognormal(LocationScale):
    """Normal z: H0 = -log Phi(-z)."""

    name = "lognormal"
    location, spread = 0.0, 1.0

    def law(self, z: Array, event: Any, order: int) -> Standard:
        value, slope, curve = -0.5 * z * z - LOG_SQRT_2PI, -z, np.full(len(z), -1.0)
        if np.ndim(event):
            rows = np.flatnonzero(event == 0)
            tail = log_ndtr_derivatives(-z[rows], order)
            value[rows] = tail[0]
            if order:
                slope[rows] = -tail[1]
            if order > 1:
                curve[rows] = tail[2]
        return value, slope, curve

    def hazard(self, z: Array, order: int) -> Standard:
        tail = log_ndtr_derivatives(-z, order)
        return -tail[0], tail[1] if order else z, -tail[2] if order > 1 else z

    def quantile(self, hazard: Array) -> Array:
        return np.asarray(-special.ndtri_exp(-hazard))

    def information(self) -> tuple[float, float, float]:
        return 1.0, 0.0, 2.0

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(np.exp(eta[0] + 0.5 * np.exp(2 * eta[1])))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """Those of durations; variance: Var T."""

        def variance(eta: Array, columns: Columns) -> Array:
            return np.asarray(np.expm1(np.exp(2 * eta[1])) * self.mean(eta, columns) ** 2)

        return {**super().quantities, "variance": OfRows(variance)}


def lognormal(
    formula: Any,
    data: Any = None,
    *,
    event: Any = None,
    upper: Any = None,
    entry: Any = None,
    sigma: str | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the lognormal regression, log T = x'b + sigma e, e ~ N(0, 1).

        log f = log phi(z) - log sigma - log t,   log S = log Phi(-z),   z = (log t - x'b) / sigma

    For durations that may be censored, and for positive outcomes in general: without censoring b and
    sigma are those of `gaussian` for log t, and the log-likelihood that of t (less the sum of log t).
    R: `survreg(dist = "lognormal")`; Stata: `streg, distribution(lognormal)`, which leaves out -log t.

    Parameters
    ----------
    formula, data, event, upper, entry, sigma, options :
        As for `weibull`.

    Reference: Kalbfleisch & Prentice (2002), section 2.2.3.

    >>> import numpy as np
    >>> lognormal(np.array([1.0, 2.0, 4.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'sigma')
    """
    return build_duration(
        Lognormal(),
        formula,
        data,
        event=event,
        upper=upper,
        entry=entry,
        equations={"sigma": sigma},
        **options,
    )


class Loglogistic(LocationScale):
    """Logistic z: H0 = log(1 + exp(z))."""

    name = "loglogistic"
    location, spread = 0.0, np.pi / np.sqrt(3)

    def law(self, z: Array, event: Any, order: int) -> Standard:
        hazard, share, bend = self.hazard(z, order)
        return event * z - (1 + event) * hazard, event - (1 + event) * share, -(1 + event) * bend

    def hazard(self, z: Array, order: int) -> Standard:
        small = np.exp(-np.abs(z))
        part = 1.0 / (1.0 + small)
        return np.maximum(z, 0.0) + np.log1p(small), np.where(z >= 0, part, small * part), small * part * part

    def quantile(self, hazard: Array) -> Array:
        return np.asarray(np.log(np.expm1(hazard)))

    def information(self) -> tuple[float, float, float]:
        return 1 / 3, 0.0, (3 + np.pi**2) / 9

    def mean(self, eta: Array, columns: Columns) -> Array:
        sigma = np.exp(eta[1])
        angle = np.pi * np.minimum(sigma, 1.0)
        with np.errstate(divide="ignore"):
            return np.where(sigma < 1, np.exp(eta[0]) * angle / np.sin(angle), np.inf)


def loglogistic(
    formula: Any,
    data: Any = None,
    *,
    event: Any = None,
    upper: Any = None,
    entry: Any = None,
    sigma: str | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the log-logistic regression, log T = x'b + sigma e, e logistic.

        log f = z - 2 log(1 + exp(z)) - log sigma - log t,   log S = -log(1 + exp(z)),
        z = (log t - x'b) / sigma

    The odds of failure by t are proportional; the hazard rises and falls where sigma < 1. Stata's
    `streg, distribution(loglogistic)` calls sigma "gamma"; R: `survreg(dist = "loglogistic")`.

    Parameters
    ----------
    formula, data, event, upper, entry, sigma, options :
        As for `weibull`.

    Reference: Kalbfleisch & Prentice (2002), section 2.2.4.

    >>> import numpy as np
    >>> loglogistic(np.array([1.0, 2.0, 4.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'sigma')
    """
    return build_duration(
        Loglogistic(),
        formula,
        data,
        event=event,
        upper=upper,
        entry=entry,
        equations={"sigma": sigma},
        **options,
    )
