"""Continuous outcomes: gaussian, student_t, gamma and beta regressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.functions import gammaln_derivatives, gammaln_excess_derivatives
from mlecov.kinds import positive
from mlecov.likelihood.base import Evaluation
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import Model, build, constant_outcome, outside
from mlecov.models.bounds import BoundedModel, bounded, runs, scalar
from mlecov.models.predicted import Declared, OfRows
from mlecov.models.working import chain, common, regress, residuals, set_constant

Array = npt.NDArray[np.float64]
LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Gaussian(Model):
    """y ~ N(mu, sigma^2); predictors (mu, log sigma)."""

    name = "gaussian"
    equations = {"mu": None, "sigma": positive()}

    def check(self, y: Array, columns: Columns) -> str | None:
        return constant_outcome(y)

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

    has_expected = True

    def expected(self, eta: Array, columns: Columns) -> Array:
        return np.stack([-np.exp(-2 * eta[1]), np.zeros(eta.shape[1]), np.full(eta.shape[1], -2.0)])

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        theta = regress(likelihood, likelihood.space.start(), 0, y)
        set_constant(likelihood, theta, 1, residuals(likelihood, theta, y)[1])
        return theta

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(eta[0])

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean, variance, and scale: sigma, by row where it varies."""
        return {
            **super().quantities,
            "variance": OfRows(lambda eta, columns: np.exp(2 * eta[1])),
            "scale": OfRows(lambda eta, columns: np.exp(eta[1])),
        }

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
class StudentT(BoundedModel):
    """(y - mu) / sigma ~ t with df degrees of freedom; predictors (mu, log sigma, log df)."""

    name = "student_t"
    equations = {"mu": None, "sigma": positive(), "df": positive(8.0)}
    has_expected = True

    def check(self, y: Array, columns: Columns) -> str | None:
        return None

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        scale, v = np.exp(-eta[1]), np.exp(common(eta[2]))
        z = (columns["y"] - eta[0]) * scale
        square = z * z
        log_tail = np.log1p(square / v)
        # the ratio of gammas by what Stirling's formula leaves: df may be 1e8 without loss
        upper = gammaln_excess_derivatives(0.5 * (v + 1), order)
        lower = gammaln_excess_derivatives(0.5 * v, order)
        step = np.log1p(1 / v)
        constant = upper[0] - lower[0] + 0.5 * ((v + 1) * step - 1 - LOG_2PI)
        value = constant - eta[1] - 0.5 * (v + 1) * log_tail
        if not order:
            return value, None, None
        total = v + square
        slope = -(v + 1) * z / total
        curve = -(v + 1) * (v - square) / (total * total) if order > 1 else None
        by_place, by_place2 = chain(z, scale, slope, curve)
        share = (v + 1) * square / (v * total)
        by_df = 0.5 * v * (upper[1] - lower[1] + step - 1 / v - log_tail + share)
        first = np.stack([by_place[0], by_place[1] - 1, by_df])
        if by_place2 is None:
            return value, first, None
        # d slope / d log df; second derivatives in v: v^2 l_vv + v l_v
        mixed = -v * z * (square - 1) / (total * total)
        twist = square * (v * square - 2 * v - square) / (total * total)
        bend = 0.25 * v * v * (upper[2] - lower[2]) + 0.5 / (v + 1) + 0.5 * twist + by_df
        second = np.stack([by_place2[0], by_place2[1], -scale * mixed, by_place2[2], -z * mixed, bend])
        return value, first, second

    def expected(self, eta: Array, columns: Columns) -> Array:
        v = np.exp(eta[2])
        none = np.zeros_like(v)
        gap = gammaln_derivatives(0.5 * v, 2)[2] - gammaln_derivatives(0.5 * (v + 1), 2)[2]
        place = -np.exp(-2 * eta[1]) * (v + 1) / (v + 3)
        bend = -0.25 * v * v * (gap - 2 * (v + 5) / (v * (v + 1) * (v + 3)))
        return np.stack([place, none, none, -2 * v / (v + 3), 2 * v / ((v + 1) * (v + 3)), bend])

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        theta = regress(likelihood, likelihood.space.start(), 0, y)
        rest, spread = residuals(likelihood, theta, y)
        for _ in range(5):  # reweighting by (v + 1) / (v + z^2), v = 5, keeps outliers from the start values
            theta = regress(likelihood, theta, 0, y, 6 / (5 + rest * rest * np.exp(-2 * spread)))
            rest = residuals(likelihood, theta, y)[0]
            spread = float(np.log(np.median(np.abs(rest)) / 0.72)) if np.median(np.abs(rest)) > 0 else spread
        set_constant(likelihood, theta, 1, spread)
        set_constant(likelihood, theta, 2, float(np.log(5.0)))
        return theta

    def boundary(self, likelihood: IndexLikelihood, evaluation: Evaluation) -> str | None:
        place = scalar(likelihood, 2)
        if place is None or not runs(likelihood, evaluation, place, 10.0):
            return None
        return (
            "df is without bound: the tails are no heavier than the normal's, and the log-likelihood rises to "
            "the Gaussian regression's. The standard error of df has no meaning, the others are the "
            "Gaussian regression's; fit gaussian instead."
        )

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.where(eta[2] > 0, eta[0], np.nan)

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean; variance: sigma^2 v / (v - 2), infinite where v <= 2; scale: sigma."""

        def variance(eta: Array, columns: Columns) -> Array:
            v = np.exp(eta[2])
            finite = v > 2
            return np.where(finite, np.exp(2 * eta[1]) * v / np.where(finite, v - 2, 1.0), np.inf)

        scale = OfRows(lambda eta, columns: np.exp(eta[1]))
        return {**super().quantities, "variance": OfRows(variance), "scale": scale}

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        found = special.stdtr(np.exp(eta[2]), (columns["y"] - eta[0]) * np.exp(-eta[1]))
        return found, found

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return {"y": eta[0] + np.exp(eta[1]) * rng.standard_t(np.exp(eta[2]))}


def student_t(
    formula: Any, data: Any = None, *, sigma: str | None = None, df: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the linear regression with Student t errors, y = x'b + sigma e, e ~ t(df).

        log f = log G((v + 1)/2) - log G(v/2) - log(pi v)/2 - log sigma
                - (v + 1)/2 log(1 + z^2 / v),   z = (y - x'b) / sigma,  v = df

    sigma is the scale: the standard deviation is sigma sqrt(v / (v - 2)) where v > 2. Any df > 0 is
    allowed, and estimated; where the tails are no heavier than the normal's, df has no maximum
    likelihood estimate, and a `BoundaryWarning` says so. R: `heavy`, `gamlss` (TF); the expected information is known (`eim`).

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X). See `models.base.build`.
    sigma, df :
        Formulas of log sigma and log df, if they vary.

    Reference: Lange, Little & Taylor (1989), JASA 84, 881-896.

    >>> import numpy as np
    >>> student_t(np.array([1.0, 2.0, 4.0, 30.0]), np.ones((4, 1))).space.labels
    ('mu[x0]', 'sigma', 'df')
    """
    return bounded(build(StudentT(), formula, data, equations={"sigma": sigma, "df": df}, **options))


@dataclass(frozen=True)
class Gamma(Model):
    """y ~ gamma with mean exp(eta_0) and shape exp(eta_1); variance mean^2 / shape."""

    name = "gamma"
    equations = {"mu": None, "shape": positive()}
    has_expected = True

    def check(self, y: Array, columns: Columns) -> str | None:
        return outside(y, y > 0, "positive")

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        shape = np.exp(common(eta[1]))
        ratio = columns["y"] * np.exp(-eta[0])
        log_y = np.log(columns["y"])
        excess = gammaln_excess_derivatives(shape, order)
        # lgamma a = excess + a log a - a
        gap = shape * (1 + log_y - eta[0] - ratio)
        value = gap - excess[0] - log_y
        if not order:
            return value, None, None
        first = np.empty_like(eta)
        np.multiply(shape, ratio - 1.0, out=first[0])
        np.subtract(gap, shape * excess[1], out=first[1])
        if order < 2:
            return value, first, None
        return value, first, np.stack([-shape * ratio, first[0], first[1] - shape * shape * excess[2]])

    def expected(self, eta: Array, columns: Columns) -> Array:
        shape = np.exp(eta[1])
        return np.stack([-shape, np.zeros_like(shape), -shape * shape * gammaln_excess_derivatives(shape)[2]])

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        theta = likelihood.space.start()
        for power in (0.0, 1.0, 1.0):  # Fisher scoring: working response mu + (y - e^mu) / e^mu
            mu = likelihood.predictors(theta, 0, len(y))[0] if power else np.log(0.5 * (y + y.mean()))
            theta = regress(likelihood, theta, 0, mu + np.minimum(y * np.exp(-mu) - 1, 3.0))
        mu = likelihood.predictors(theta, 0, len(y))[0]
        gap = max(float(np.mean(y * np.exp(-mu) - 1 - np.log(y) + mu)), 1e-8)
        # Minka's approximation of the shape that solves log a - digamma(a) = gap
        set_constant(
            likelihood, theta, 1, float(np.log((3 - gap + np.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)))
        )
        return theta

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(np.exp(eta[0]))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean; variance: mean^2 / shape."""
        return {**super().quantities, "variance": OfRows(lambda eta, columns: np.exp(2 * eta[0] - eta[1]))}

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        found = special.gammainc(np.exp(eta[1]), columns["y"] * np.exp(eta[1] - eta[0]))
        return found, found

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return {"y": rng.gamma(np.exp(eta[1]), np.exp(eta[0] - eta[1]))}


def gamma(formula: Any, data: Any = None, *, shape: str | None = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the gamma regression with mean exp(x'b) and a constant shape a.

        log f = a log a - a x'b - log G(a) + (a - 1) log y - a y exp(-x'b)

    The mean and the shape are orthogonal: b is that of a gamma GLM with log link (R's `glm`, Stata's
    `glm, family(gamma) link(log)`), whose dispersion is 1/a but estimated by moments. Stata's
    `streg, distribution(ggamma)` is the generalised gamma, another parametrisation.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X); y is positive. See `models.base.build`.
    shape :
        Formula of log shape, if it varies.

    Reference: McCullagh & Nelder (1989), chapter 8.

    >>> import numpy as np
    >>> gamma(np.array([1.0, 2.0, 4.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'shape')
    """
    return build(Gamma(), formula, data, equations={"shape": shape}, **options)


@dataclass(frozen=True)
class Beta(Model):
    """y ~ beta(m phi, (1 - m) phi), logit m = eta_0, log phi = eta_1."""

    name = "beta"
    equations = {"mu": None, "phi": positive()}
    has_expected = True

    def check(self, y: Array, columns: Columns) -> str | None:
        return outside(y, (y > 0) & (y < 1), "strictly between 0 and 1")

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y, mu = columns["y"], eta[0]
        log_y, log_rest = np.log(y), np.log1p(-y)
        phi, mean, rest = np.exp(common(eta[1])), special.expit(mu), special.expit(-mu)
        a, b = mean * phi, rest * phi
        ga, gb, gp = (gammaln_excess_derivatives(x, order) for x in (a, b, phi))
        # log y - log m and log(1 - y) - log(1 - m): with lgamma x = excess + x log x - x all else cancels
        small = np.log1p(np.exp(-np.abs(mu)))
        d, e = log_y + small - np.minimum(mu, 0.0), log_rest + small + np.maximum(mu, 0.0)
        fit = a * d + b * e
        value = gp[0] - ga[0] - gb[0] + fit - log_y - log_rest
        if not order:
            return value, None, None
        slope = a * rest
        first = np.empty_like(eta)
        np.multiply(slope, d - e - ga[1] + gb[1], out=first[0])
        np.add(phi * gp[1] - a * ga[1] - b * gb[1], fit, out=first[1])
        if order < 2:
            return value, first, None
        ta, tb = a * ga[2] + 1.0, b * gb[2] + 1.0  # a trigamma(a), b trigamma(b)
        second = np.empty((3, len(y)))
        second[0] = first[0] * (rest - mean) - slope * (rest * ta + mean * tb)
        second[1] = first[0] - slope * (ta - tb)
        second[2] = first[1] + phi * phi * gp[2] - a * a * ga[2] - b * b * gb[2]
        return value, first, second

    def expected(self, eta: Array, columns: Columns) -> Array:
        phi, mean, rest = np.exp(eta[1]), special.expit(eta[0]), special.expit(-eta[0])
        a, b = mean * phi, rest * phi
        ta, tb = (gammaln_derivatives(x)[2] for x in (a, b))
        slope = a * rest
        ea, eb, ep = (gammaln_excess_derivatives(x)[2] for x in (a, b, phi))
        bend = phi * phi * ep - a * a * ea - b * b * eb
        return np.stack([-slope * slope * (ta + tb), -slope * (a * ta - b * tb), bend])

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        theta = regress(likelihood, likelihood.space.start(), 0, special.logit(y))
        mu = likelihood.predictors(theta, 0, len(y))[0]
        rest, _ = residuals(likelihood, theta, special.logit(y))
        mean = special.expit(mu)
        # Ferrari & Cribari-Neto: var y is about var(logit y) (m (1 - m))^2
        slope = mean * (1 - mean)
        variance = max(float(np.mean(rest * rest)), 1e-12)
        phi = float(np.mean(1 / (variance * slope))) - 1
        set_constant(likelihood, theta, 1, float(np.log(phi)) if phi > 0.1 else 0.0)
        return theta

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(special.expit(eta[0]))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean; variance: m (1 - m) / (1 + phi)."""

        def variance(eta: Array, columns: Columns) -> Array:
            return np.asarray(special.expit(eta[0]) * special.expit(-eta[0]) / (1 + np.exp(eta[1])))

        return {**super().quantities, "variance": OfRows(variance)}

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        phi = np.exp(eta[1])
        found = special.betainc(special.expit(eta[0]) * phi, special.expit(-eta[0]) * phi, columns["y"])
        return found, found

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        phi = np.exp(eta[1])
        y = rng.beta(special.expit(eta[0]) * phi, special.expit(-eta[0]) * phi)
        return {"y": np.clip(y, np.finfo(float).tiny, 1 - np.finfo(float).epsneg)}


def beta(formula: Any, data: Any = None, *, phi: str | None = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the beta regression for shares: mean m = 1/(1 + exp(-x'b)), precision phi.

        log f = log G(phi) - log G(m phi) - log G((1 - m) phi)
                + (m phi - 1) log y + ((1 - m) phi - 1) log(1 - y);   var y = m (1 - m)/(1 + phi)

    R's `betareg` has the same parameters (phi with identity link) and reports the expected
    information: ask for `eim`. Stata's `betareg` reports log phi ("scale") and the observed one (`oim`).

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X); y lies strictly between 0 and 1. See
        `models.base.build`.
    phi :
        Formula of log phi, if it varies.

    Reference: Ferrari & Cribari-Neto (2004), Journal of Applied Statistics 31, 799-815.

    Example
    -------
    >>> import mlecov as ml
    >>> lik = ml.models.beta("I(food / income) ~ income + persons", ml.load("food"))
    >>> float(round(ml.fit(lik).params["phi"], 2))
    35.61
    """
    return build(Beta(), formula, data, equations={"phi": phi}, **options)
