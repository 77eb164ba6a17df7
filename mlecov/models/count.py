"""Count outcomes: Poisson, negative binomial (NB1, NB2) and generalised Poisson regressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.functions import gammaln_ratio_derivatives
from mlecov.kinds import positive
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import build, set_constant
from mlecov.models.bounds import bounded
from mlecov.models.counting import CountModel, log_factorial, poisson_limit, scalar, weights_of

Array = npt.NDArray[np.float64]

SMALL = 1e-4
"""alpha * count below which derivatives in log alpha come from their series (closed forms cancel)."""


@dataclass(frozen=True)
class Poisson(CountModel):
    """y ~ Poisson with mean exp(eta)."""

    name = "poisson"
    equations = {"mu": None}

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y = columns["y"]
        mean = np.exp(eta[0])
        value = y * eta[0] - mean - log_factorial(y)
        if not order:
            return value, None, None
        return value, (y - mean)[None], -mean[None] if order > 1 else None

    def third(self, eta: Array, columns: Columns, first: Array, second: Array) -> Array:
        return np.asarray(second[0])

    def expected(self, eta: Array, columns: Columns) -> Array:
        return -np.exp(eta)

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        y, mean = columns["y"], np.exp(eta[0])
        return np.where(y > 0, special.pdtr(y - 1, mean), 0.0), special.pdtr(y, mean)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return {"y": rng.poisson(np.exp(eta[0])).astype(float)}


def poisson(formula: Any, data: Any = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the Poisson regression with mean exp(x'b).

        log f = y x'b - exp(x'b) - log y!

    log y! is part of the log-likelihood, as in Stata and R. Observed and expected information are the
    same.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + exposure(t)" and a frame, or arrays (y, X, exposure=t); y is a count. See
        `models.base.build`.

    Reference: Cameron & Trivedi (2013), chapter 3.

    >>> poisson(np.array([0.0, 1.0, 3.0]), np.ones((3, 1))).n_terms
    3
    """
    return build(Poisson(), formula, data, **options)


class NegativeBinomial(CountModel):
    """Gamma-mixed Poisson counts with mean exp(eta_0) and log alpha = eta_1."""

    equations = {"mu": None, "alpha": positive()}
    power = 2

    def start(self, likelihood: IndexLikelihood) -> Array:
        theta, mean = self.dispersed_start(likelihood)
        y, w = likelihood.columns["y"], weights_of(likelihood)
        excess = float(w @ ((y - mean) ** 2 - y)) / float(w @ mean**self.power)
        set_constant(likelihood, theta, 1, float(np.log(np.clip(excess, 0.05, 10.0))))
        return theta

    def at_bound(self, eta: Array, columns: Columns) -> str | None:
        return poisson_limit(eta)

    def size(self, eta: Array) -> tuple[Array, Array]:
        """Return m (n,) and p (n,) of the negative binomial with P(0) = p^m."""
        mean, alpha = np.exp(eta[0]), np.exp(eta[1])
        m: Array = np.asarray(1 / alpha if self.power == 2 else mean / alpha, dtype=np.float64)
        share: Array = np.asarray(m / (m + mean), dtype=np.float64)
        return m, share

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        (m, p), y = self.size(eta), columns["y"]
        below = np.where(y > 0, special.betainc(m, np.maximum(y, 1.0), p), 0.0)
        return np.asarray(below), np.asarray(special.betainc(m, y + 1, p))

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        m, _ = self.size(eta)
        return {"y": rng.poisson(rng.gamma(m, np.exp(eta[0]) / m)).astype(float)}


def _log_series(y: Array, scale: Array, mean: Array | float) -> tuple[Array, Array]:
    """Return d/dt, d2/dt2 of sum_(j<y) log(1 + j s) - y log(1 + s mean) - log(1 + s mean) mean / (s mean) ...

    Here s = `scale` carries exp(t); three terms of the power series in s, enough to 1e-12 where
    s max(y, mean) < SMALL: with S_k = sum_(j<y) j^k the terms are s (S_1 - y mean + mean^2 / 2),
    s^2 (-S_2 + y mean^2 - 2 mean^3 / 3) / 2 and s^3 (S_3 / 3 - y mean^3 / 3 + mean^4 / 4).
    """
    s1 = 0.5 * y * (y - 1)
    c1 = scale * (s1 - y * mean + 0.5 * mean * mean)
    c2 = scale**2 * (-s1 * (2 * y - 1) / 6 + 0.5 * y * mean**2 - mean**3 / 3)
    c3 = scale**3 * (s1 * s1 / 3 - y * mean**3 / 3 + 0.25 * mean**4)
    return c1 + 2 * c2 + 3 * c3, c1 + 4 * c2 + 9 * c3


def _gamma_ratio(y: Array, m: Array, order: int) -> tuple[Array, ...]:
    """Return lgamma(y + m) - lgamma(m) and derivatives in m; one table for all rows where m is one number."""
    if len(m) == 1 and len(y) > 1:
        counts = y.astype(np.intp)
        top = int(counts.max())
        if top < max(len(y), 64):
            table = gammaln_ratio_derivatives(np.arange(top + 1.0), m, order)
            return tuple(part.take(counts) for part in table)
    return gammaln_ratio_derivatives(y, m, order)


@dataclass(frozen=True)
class NB2(NegativeBinomial):
    """Var y = mu + alpha mu^2; predictors (log mu, log alpha)."""

    name = "nb2"

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y, t = columns["y"], scalar(eta[1])
        mean, alpha = np.exp(eta[0]), np.exp(t)
        m, spread = 1 / alpha, alpha * mean
        ratio = _gamma_ratio(y, m, order)
        log_spread = np.log1p(spread)
        value = ratio[0] - log_factorial(y)
        value += y * (eta[0] + t)
        value -= (y + m) * log_spread
        if not order:
            return value, None, None
        first = np.empty_like(eta)
        inverse = 1.0 / (1.0 + spread)
        residual = np.multiply(y - mean, inverse, out=first[0])
        middle = m * (log_spread - ratio[1])
        np.add(middle, residual, out=first[1])
        second = None
        if order > 1:
            second = np.empty((3, len(y)))
            np.multiply(-mean * inverse * inverse, 1.0 + alpha * y, out=second[0])
            np.multiply(-residual * spread, inverse, out=second[1])
            np.subtract(mean * inverse + m * m * ratio[2], middle, out=second[2])
            second[2] += second[1]
        if alpha.min() < SMALL:
            near = alpha * np.maximum(y, mean) < SMALL
            slope, curve = _log_series(y, np.broadcast_to(alpha, y.shape), mean)
            first[1][near] = slope[near]
            if second is not None:
                second[2][near] = curve[near]
        return value, first, second


def nb2(formula: Any, data: Any = None, *, alpha: str | None = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the negative binomial regression with variance mu + alpha mu^2 (NB2).

        log f = lgamma(y + m) - lgamma(m) - log y! + m log(m / (m + mu)) + y log(mu / (m + mu)),
        mu = exp(x'b),  m = 1 / alpha

    Stata's `nbreg` estimates lnalpha = log alpha; R's `MASS::glm.nb` reports theta = 1 / alpha, with the
    standard errors of b from the expected information at a given theta. As alpha goes to zero the model
    is the Poisson regression; where the maximum lies there a `BoundaryWarning` says so.

    Parameters
    ----------
    formula, data :
        "y ~ x1 + exposure(t)" and a frame, or arrays (y, X, exposure=t); y is a count.
    alpha :
        Formula of log alpha ("z"): the dispersion varies with z (Stata's `gnbreg`).
    options :
        `offset`, `exposure`, `missing`, weights: see `models.base.build`.

    Reference: Cameron & Trivedi (2013), section 3.3; Lawless (1987).

    >>> nb2(np.array([0.0, 1.0, 7.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'alpha')
    """
    return bounded(build(NB2(), formula, data, equations={"alpha": alpha}, **options))


@dataclass(frozen=True)
class NB1(NegativeBinomial):
    """Var y = mu (1 + alpha); predictors (log mu, log alpha)."""

    name = "nb1"
    power = 1

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y, t = columns["y"], scalar(eta[1])
        mean, alpha = np.exp(eta[0]), np.exp(t)
        m, log_scale = mean / alpha, np.log1p(alpha)
        ratio = gammaln_ratio_derivatives(y, m, order)
        value = ratio[0] - log_factorial(y)
        value += y * t
        value -= (y + m) * log_scale
        if not order:
            return value, None, None
        share = alpha / (1 + alpha)
        first = np.empty_like(eta)
        slope = np.multiply(m, ratio[1] - log_scale, out=first[0])
        np.subtract(y - (y + m) * share, slope, out=first[1])
        second = None
        if order > 1:
            second = np.empty((3, len(y)))
            np.add(slope, m * m * ratio[2], out=second[0])
            drift = m * share
            np.subtract(-drift, second[0], out=second[1])
            np.subtract(2 * drift + second[0], (y + m) * (share * (1 - share)), out=second[2])
        if alpha.min() < SMALL:
            self._near_poisson(y, mean, alpha, first, second)
        return value, first, second

    @staticmethod
    def _near_poisson(y: Array, mean: Array, alpha: Array, first: Array, second: Array | None) -> None:
        """Replace the derivatives in log alpha by series: s = alpha / mu, and 1 + s mu = 1 + alpha."""
        near = alpha * np.maximum(y / mean, 1.0) < SMALL
        slope, curve = _log_series(y, alpha / mean, mean)
        first[1][near] = slope[near]
        if second is not None:
            second[2][near] = curve[near]


def nb1(formula: Any, data: Any = None, *, alpha: str | None = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the negative binomial regression with variance mu (1 + alpha) (NB1).

        log f = lgamma(y + m) - lgamma(m) - log y! - (y + m) log(1 + alpha) + y log alpha,
        mu = exp(x'b),  m = mu / alpha

    Stata's `nbreg, dispersion(constant)` calls alpha delta and estimates lndelta; statsmodels calls it
    alpha in `NegativeBinomial(loglike_method="nb1")`. A `BoundaryWarning` tells of the Poisson limit.

    Parameters
    ----------
    formula, data, alpha, options :
        As for `nb2`.

    Reference: Cameron & Trivedi (2013), section 3.3.

    >>> nb1(np.array([0.0, 1.0, 7.0]), np.ones((3, 1))).space.free_labels
    ('mu[x0]', 'log(alpha)')
    """
    return bounded(build(NB1(), formula, data, equations={"alpha": alpha}, **options))


@dataclass(frozen=True)
class GeneralizedPoisson(CountModel):
    """Consul's generalised Poisson; predictors (log mu, log alpha), v = alpha mu^(p - 1)."""

    p: int = 2
    name = "generalized_poisson"
    equations = {"mu": None, "alpha": positive()}

    def start(self, likelihood: IndexLikelihood) -> Array:
        theta, mean = self.dispersed_start(likelihood)
        y, w = likelihood.columns["y"], weights_of(likelihood)
        # Var y = mu (1 + v)^2
        v = np.sqrt(max(float(w @ (y - mean) ** 2) / float(w @ mean), 1.02)) - 1
        scale = v / (float(w @ mean) / w.sum()) ** (self.p - 1)
        set_constant(likelihood, theta, 1, float(np.log(np.clip(scale, 0.01, 10.0))))
        return theta

    def at_bound(self, eta: Array, columns: Columns) -> str | None:
        return poisson_limit(eta)

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y, extra = columns["y"], self.p - 1
        mean, v = np.exp(eta[0]), np.exp(eta[1] + extra * eta[0])
        q, one = mean + v * y, 1.0 / (1.0 + v)
        value = eta[0] + (y - 1) * np.log(q) - y * np.log1p(v) - q * one - log_factorial(y)
        if not order:
            return value, None, None
        part = (y - 1) / q
        residual = v * (y - mean) * one * one
        in_mean = 1.0 + part * mean - mean * one
        in_v = (part - one) * v * y - residual
        first = np.stack([in_mean + extra * in_v, in_v])
        if order < 2:
            return value, first, None
        cross = part / q * mean * v * y
        v_v = cross - y * v * one * one - residual * (1 - v) * one
        mean_v = mean * v * one * one - cross
        mean_mean = cross - mean * one
        total = mean_v + extra * v_v
        return value, first, np.stack([mean_mean + extra * (mean_v + total), total, v_v])


def generalized_poisson(
    formula: Any, data: Any = None, *, p: int = 2, alpha: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the generalised Poisson regression GP-p, overdispersed (alpha > 0).

        log f = log mu + (y - 1) log(mu + v y) - y log(1 + v) - (mu + v y) / (1 + v) - log y!,
        mu = exp(x'b),  v = alpha mu^(p-1),  Var y = mu (1 + v)^2

    p = 2 is Stata's `gnpoisson` of Famoye and statsmodels' `GeneralizedPoisson(p=2)`, p = 1 the
    variance proportional to the mean. Underdispersion (alpha < 0) bounds the support by the
    parameters and is left out; alpha at zero is told by a `BoundaryWarning`.

    Parameters
    ----------
    formula, data, alpha, options :
        As for `nb2`.
    p :
        1 or 2, the power in the variance function.

    Reference: Consul & Famoye (1992), Communications in Statistics 21; Cameron & Trivedi (2013), 4.11.

    >>> generalized_poisson(np.array([0.0, 1.0, 7.0]), np.ones((3, 1))).space.k
    2
    """
    return bounded(build(GeneralizedPoisson(p), formula, data, equations={"alpha": alpha}, **options))
