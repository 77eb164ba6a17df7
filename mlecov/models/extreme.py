"""Extreme values: gev (block maxima) and generalized_pareto (exceedances)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.kinds import positive, real
from mlecov.likelihood.base import Evaluation
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import build, outside
from mlecov.models.bounds import BoundedModel, bounded
from mlecov.models.expectation import exponential, no_expectation
from mlecov.models.predicted import Declared, OfPoints, OfRows
from mlecov.models.working import common, regress, residuals, row_weights, set_constant

Array = npt.NDArray[np.float64]
EULER = float(np.euler_gamma)
NEAR = 0.2
"""|shape * z| below which the power series stand in for quotients that cancel."""


def box_cox_inverse(z: Array, shape: Array, order: int) -> list[Array]:
    """Return w = log(1 + s z)/s and w_z, w_s, w_zz, w_zs, w_ss (up to `order`), w = z at s = 0.

    w_z = r = 1/(1 + s z), w_s = (z r - w)/s, w_zz = -s r^2, w_zs = -z r^2,
    w_ss = -(z^2 r^2 + 2 w_s)/s; near s z = 0 by series in x = s z. NaN outside the support.
    """
    x = shape * z
    near = np.flatnonzero(np.abs(x) < NEAR)
    safe = np.where(shape == 0, 1.0, shape)
    w = np.where(x == 0, z, np.log1p(np.where(x > -1, x, np.nan)) / safe)
    if not order:
        return [w]
    r = 1.0 / (1.0 + x)
    w_s = (z * r - w) / safe
    if len(near):
        w_s[near] = -(z[near] ** 2) * _series(x[near], 1)
    if order < 2:
        return [w, r, w_s]
    square = z * r
    square *= square
    w_ss = -(square + 2 * w_s) / safe
    if len(near):
        w_ss[near] = z[near] ** 3 * _series(x[near], 2)
    return [w, r, w_s, -shape * r * r, -z * r * r, w_ss]


def _series(x: Array, order: int) -> Array:
    """Return sum_j (-x)^j (j + 1)/(j + 2), or with order 2 (j + 1)(j + 2)/(j + 3), by Horner's rule."""
    total = np.zeros_like(x)
    for j in range(26, -1, -1):
        total *= -x
        total += (j + 1) / (j + 2) if order == 1 else (j + 1) * (j + 2) / (j + 3)
    return total


K = np.arange(2.0, 32.0)
FIRST = np.r_[EULER, special.zeta(K) / K]
SECOND = special.zeta(K) * (2**K - 2) / K
"""Coefficients of log G(1 - s) / s and of (log G(1 - 2s) - 2 log G(1 - s)) / s^2 in powers of s."""


def gumbel_moments(shape: Array) -> tuple[Array, Array]:
    """Return mean and variance of z = (exp(s w) - 1)/s, w Gumbel; infinite from s = 1 and s = 1/2 on."""
    near = np.abs(shape) < 0.1
    small, safe = np.where(near, shape, 0.0), np.where(near | (shape >= 1), 0.25, shape)
    log_mean = np.where(
        near, np.polynomial.polynomial.polyval(small, FIRST), special.gammaln(1 - safe) / safe
    )
    mean = log_mean * special.exprel(shape * log_mean)
    wide = np.where(safe >= 0.5, 0.25, safe)
    gap = (special.gammaln(1 - 2 * wide) - 2 * special.gammaln(1 - wide)) / wide**2
    log_gap = np.where(near, np.polynomial.polynomial.polyval(small, SECOND), gap)
    variance = np.exp(2 * shape * log_mean) * log_gap * special.exprel(shape * shape * log_gap)
    return np.where(shape < 1, mean, np.inf), np.where(shape < 0.5, variance, np.inf)


def _require_regular(name: str, shape: Array) -> None:
    """Raise where the information does not exist."""
    if not (shape > -0.5).all():
        raise no_expectation(name, "shape > -1/2", float(shape.min()))


def irregular(shape: Array) -> str | None:
    """Return what is to be said of shapes (n,) at which the information does not exist, or None."""
    if float(shape.min()) > -0.5:
        return None
    return (
        f"shape is {float(shape.min()):.3g}, at or below -1/2, where the likelihood is not regular: the end of the "
        "support moves with the parameters, and estimates are not normal about the truth. Standard errors have "
        "no meaning (Smith 1985); resample (bootstrap), or look for a bound that is known and fix the shape."
    )


@dataclass(frozen=True)
class GEV(BoundedModel):
    """y with F = exp(-(1 + s z)^(-1/s)), z = (y - mu)/sigma; predictors (mu, log sigma, s)."""

    name = "gev"
    equations = {"mu": None, "sigma": positive(), "shape": real(0.1)}
    has_expected = True

    def check(self, y: Array, columns: Columns) -> str | None:
        return None

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        scale, shape = np.exp(-eta[1]), eta[2]
        z = (columns["y"] - eta[0]) * scale
        found = box_cox_inverse(z, shape, order)
        w = found[0]
        tail = np.exp(-w)
        value = -eta[1] - (1 + shape) * w - tail
        value = np.where(np.isnan(value), -np.inf, value)
        if not order:
            return value, None, None
        w_z, w_s = found[1:3]
        slope = tail - (1 + shape)  # dl / dw
        l_z = slope * w_z
        first = np.stack([-scale * l_z, -z * l_z - 1, slope * w_s - w])
        if order < 2:
            return value, first, None
        w_zz, w_zs, w_ss = found[3:]
        l_zz = slope * w_zz - tail * w_z * w_z
        l_zs = slope * w_zs - w_z * (1 + tail * w_s)
        l_ss = slope * w_ss - w_s * (2 + tail * w_s)
        mixed = l_z + z * l_zz
        return (
            value,
            first,
            np.stack([scale * scale * l_zz, scale * mixed, -scale * l_zs, z * mixed, -z * l_zs, l_ss]),
        )

    def boundary(self, likelihood: IndexLikelihood, evaluation: Evaluation) -> str | None:
        return irregular(likelihood.predictors(evaluation.theta, 0, likelihood.n_terms)[2])

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        theta = regress(likelihood, likelihood.space.start(), 0, y)
        log_sigma = residuals(likelihood, theta, y)[1] + float(np.log(np.sqrt(6) / np.pi))
        theta = regress(likelihood, theta, 0, y - EULER * np.exp(log_sigma))
        rest = residuals(likelihood, theta, y)[0] * np.exp(-log_sigma)
        # a shape at which every row lies inside the support
        low, high = float(rest.min(initial=0.0)), float(rest.max(initial=0.0))
        shape = 0.1 if low > -8 else -0.1 if high < 8 else 0.0
        set_constant(likelihood, theta, 1, log_sigma)
        set_constant(likelihood, theta, 2, shape)
        return theta

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(eta[0] + np.exp(eta[1]) * gumbel_moments(eta[2])[0])

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean and variance, infinite for heavy tails; scale: sigma; return_level[m]: exceeded once in m blocks."""

        def level(eta: Array, columns: Columns, period: Array) -> Array:
            w = -np.log(-np.log1p(-1 / period))
            return np.asarray(eta[0] + np.exp(eta[1]) * w * special.exprel(eta[2] * w))

        return {
            **super().quantities,
            "variance": OfRows(lambda eta, columns: np.exp(2 * eta[1]) * gumbel_moments(eta[2])[1]),
            "scale": OfRows(lambda eta, columns: np.exp(eta[1])),
            "return_level": OfPoints(
                level, "a period of more than one block", "100", lambda m: 1 < m < np.inf
            ),
        }

    def expected(self, eta: Array, columns: Columns) -> Array:
        """Return E[d2l/d eta2]: Prescott & Walden's, near s = 0, where it cancels, by quadrature over w."""
        shape, scale = common(eta[2]), np.exp(-eta[1])
        _require_regular(self.name, shape)
        near = np.abs(shape) < 0.1
        unit = self._prescott_walden(np.where(near, 1.0, shape))
        if near.any():
            s = shape[near]
            at = np.stack([np.zeros_like(s), np.zeros_like(s), s])
            unit[:, near] = 0.0
            for u, weight in exponential():
                z = -np.log(u) * special.exprel(-s * np.log(u))
                second = self.derivatives(at, {"y": z}, 2)[2]
                assert second is not None
                unit[:, near] += weight * second
        one = np.ones_like(scale)
        return np.asarray(unit * np.stack([scale * scale, scale, scale, one, one, one]))

    @staticmethod
    def _prescott_walden(s: Array) -> Array:
        """Return E[d2l] at mu = 0, sigma = 1 in (mu, log sigma, s)."""
        p = (1 + s) ** 2 * special.gamma(1 + 2 * s)
        g = special.gamma(2 + s)
        q = g * (special.digamma(1 + s) + (1 + s) / s)
        rest = 1 - EULER
        return -np.stack(
            [
                p,
                (g - p) / s,
                (p / s - q) / s,
                (1 - 2 * g + p) / s**2,
                (q - rest - (1 - g + p) / s) / s**2,
                (np.pi**2 / 6 + (rest + 1 / s) ** 2 - 2 * q / s + p / s**2) / s**2,
            ]
        )

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        z = (columns["y"] - eta[0]) * np.exp(-eta[1])
        with np.errstate(invalid="ignore"):
            found = np.exp(-np.exp(-box_cox_inverse(z, eta[2], 0)[0]))
        found = np.where(np.isnan(found), np.where(eta[2] > 0, 0.0, 1.0), found)
        return found, found

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        w = -np.log(rng.standard_exponential(eta.shape[1]))
        return {"y": eta[0] + np.exp(eta[1]) * w * special.exprel(eta[2] * w)}


def gev(
    formula: Any, data: Any = None, *, sigma: str | None = None, shape: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the generalised extreme value regression, for maxima of blocks.

        F = exp(-(1 + s z)^(-1/s)),   z = (y - x'b) / sigma,   1 + s z > 0
        log f = -log sigma - (1 + 1/s) log(1 + s z) - (1 + s z)^(-1/s);   s -> 0: Gumbel

    s > 0 is heavy-tailed (Frechet), s < 0 bounded above (Weibull type), as in R's `evd`, `ismev` and
    `extRemes`; scipy's genextreme has c = -s. The maximum is regular where s > -1/2; the likelihood
    is unbounded as s -> -infinity, so a local maximum is meant. `eim` exists where s > -1/2.
    `predict("return_level[100]")` is the level exceeded once in 100 blocks.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X). See `models.base.build`.
    sigma, shape :
        Formulas of log sigma and of s, if they vary.

    Reference: Coles (2001), chapter 3; Prescott & Walden (1980), Biometrika 67, 723-724.

    >>> import numpy as np
    >>> gev(np.array([1.0, 2.0, 4.0, 3.0]), np.ones((4, 1))).space.labels
    ('mu[x0]', 'sigma', 'shape')
    """
    return bounded(build(GEV(), formula, data, equations={"sigma": sigma, "shape": shape}, **options))


@dataclass(frozen=True)
class GeneralizedPareto(BoundedModel):
    """y > 0 with F = 1 - (1 + s z)^(-1/s), z = y / sigma; predictors (log sigma, s)."""

    name = "generalized_pareto"
    equations = {"sigma": None, "shape": real(0.1)}
    has_expected = True

    def check(self, y: Array, columns: Columns) -> str | None:
        return outside(y, y >= 0, "non-negative (an excess over the threshold)")

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        shape = eta[1]
        z = columns["y"] * np.exp(-eta[0])
        found = box_cox_inverse(z, shape, order)
        w = found[0]
        value = -eta[0] - (1 + shape) * w
        value = np.where(np.isnan(value), -np.inf, value)
        if not order:
            return value, None, None
        w_z, w_s = found[1:3]
        rate = 1 + shape
        first = np.stack([rate * z * w_z - 1, -w - rate * w_s])
        if order < 2:
            return value, first, None
        w_zz, w_zs, w_ss = found[3:]
        return (
            value,
            first,
            np.stack([-rate * z * (w_z + z * w_zz), z * (w_z + rate * w_zs), -2 * w_s - rate * w_ss]),
        )

    def expected(self, eta: Array, columns: Columns) -> Array:
        s = eta[1]
        _require_regular(self.name, s)
        return -np.stack([1 / (1 + 2 * s), 1 / ((1 + s) * (1 + 2 * s)), 2 / ((1 + s) * (1 + 2 * s))])

    def boundary(self, likelihood: IndexLikelihood, evaluation: Evaluation) -> str | None:
        return irregular(likelihood.predictors(evaluation.theta, 0, likelihood.n_terms)[1])

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        w = row_weights(likelihood)
        average = float(w @ y / w.sum()) or 1.0
        theta = regress(likelihood, likelihood.space.start(), 0, np.log(y + 0.5 * average) - 0.5)
        set_constant(likelihood, theta, 1, 0.1)
        return theta

    def mean(self, eta: Array, columns: Columns) -> Array:
        finite = eta[1] < 1
        return np.where(finite, np.exp(eta[0]) / np.where(finite, 1 - eta[1], 1.0), np.inf)

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean, variance sigma^2 / ((1 - s)^2 (1 - 2s)); scale: sigma; return_level[m]: exceeded by one
        excess in m (times the excesses a year for years).
        """

        def variance(eta: Array, columns: Columns) -> Array:
            s = np.minimum(eta[1], 0.5)
            with np.errstate(divide="ignore"):
                return np.asarray(np.exp(2 * eta[0]) / ((1 - s) ** 2 * (1 - 2 * s)))

        def level(eta: Array, columns: Columns, period: Array) -> Array:
            w = np.log(period)
            return np.asarray(np.exp(eta[0]) * w * special.exprel(eta[1] * w))

        return {
            **super().quantities,
            "variance": OfRows(variance),
            "scale": OfRows(lambda eta, columns: np.exp(eta[0])),
            "return_level": OfPoints(
                level, "a period of more than one excess", "100", lambda m: 1 < m < np.inf
            ),
        }

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        with np.errstate(invalid="ignore"):
            found = -np.expm1(-box_cox_inverse(columns["y"] * np.exp(-eta[0]), eta[1], 0)[0])
        found = np.where(np.isnan(found), 1.0, found)
        return found, found

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        w = rng.standard_exponential(eta.shape[1])
        return {"y": np.exp(eta[0]) * w * special.exprel(common(eta[1]) * w)}


def generalized_pareto(
    formula: Any, data: Any = None, *, shape: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the generalised Pareto regression, for excesses over a threshold.

        log f = -log sigma - (1 + 1/s) log(1 + s y / sigma),   log sigma = x'b;   s -> 0: exponential

    The formula is that of log sigma. s > 0 is heavy-tailed, as in R's `evd` and `ismev` (scipy's
    genpareto has c = s). The expected information exists where s > -1/2.

    Parameters
    ----------
    formula, data, options :
        "excess ~ x1 + x2" and a frame, or arrays (y, X); y is not negative. See `models.base.build`.
    shape :
        Formula of s, if it varies.

    Reference: Coles (2001), chapter 4; Smith (1984) for the information.

    >>> import numpy as np
    >>> generalized_pareto(np.array([1.0, 2.0, 4.0]), np.ones((3, 1))).space.labels
    ('sigma[x0]', 'shape')
    """
    return bounded(build(GeneralizedPareto(), formula, data, equations={"shape": shape}, **options))
