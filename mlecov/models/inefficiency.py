"""Stochastic frontiers: normal noise and one-sided inefficiency."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import ConvergenceError, SpecificationError
from mlecov.functions import log_ndtr_derivatives
from mlecov.kinds import positive
from mlecov.likelihood.base import Evaluation
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import begins_with_constant, build
from mlecov.models.bounds import FLAT, BoundedModel, bounded, runs, scalar
from mlecov.models.expectation import normal
from mlecov.models.predicted import Declared, OfRows
from mlecov.models.working import common, regress, residuals, row_weights, set_constant

Array = npt.NDArray[np.float64]
LOG_HALF_PI = 0.5 * float(np.log(2 / np.pi))


@dataclass(frozen=True)
class Frontier(BoundedModel):
    """y = mu + v - s u, v normal, u >= 0, s = 1 (production) or -1 (cost); predictors mu, log sv, log su."""

    sign: float = 1.0
    equations = {"mu": None, "sigma_v": positive(), "sigma_u": positive()}
    has_expected = True

    def check(self, y: Array, columns: Columns) -> str | None:
        return None

    @abstractmethod
    def moments(self) -> tuple[float, float, float]:
        """Return mean, variance and third central moment of u at sigma_u = 1."""

    def start(self, likelihood: IndexLikelihood) -> Array:
        """Corrected least squares: sigma_u from the residuals' third moment, or a share of their spread if better."""
        y = likelihood.columns["y"]
        theta = regress(likelihood, likelihood.space.start(), 0, y)
        rest, log_spread = residuals(likelihood, theta, y)
        w = row_weights(likelihood)
        third = -self.sign * float(w @ rest**3 / w.sum())
        if third <= 0:
            side, name = ("left", "production") if self.sign > 0 else ("right", "cost")
            raise ConvergenceError(
                f"{self.name}: the least-squares residuals are not skewed to the {side}, as a {name} "
                f"frontier's are (third moment {-self.sign * third:.3g}). The likelihood then has a maximum "
                "at sigma_u = 0, that is, least squares (Waldman 1982). Look at cost= and the "
                "specification, or give start= as an array (k,) to search elsewhere."
            )
        mean, variance, skew = self.moments()
        total = float(np.exp(2 * log_spread))
        most = float(np.sqrt(0.95 * total / variance))
        best, value = theta, -np.inf
        # in small samples the third moment may be far from what the shape of the residuals says
        for sigma_u in (min(float(np.cbrt(third / skew)), most), 0.6 * most, most):
            trial = regress(likelihood, theta, 0, y + self.sign * mean * sigma_u)
            set_constant(likelihood, trial, 1, 0.5 * float(np.log(total - variance * sigma_u**2)))
            set_constant(likelihood, trial, 2, float(np.log(sigma_u)))
            found = likelihood.evaluate(trial).loglike
            if found > value:
                best, value = trial, found
        return best

    def boundary(self, likelihood: IndexLikelihood, evaluation: Evaluation) -> str | None:
        noise, waste = scalar(likelihood, 1), scalar(likelihood, 2)
        if waste is not None and self._no_waste(likelihood, evaluation, waste):
            return (
                "sigma_u is at its bound, zero: the residuals are not skewed as inefficiency skews them, and the "
                "maximum is least squares (Waldman 1982). Standard errors have no meaning, the information "
                "being singular there; look at cost= and the specification, or fit gaussian instead."
            )
        if noise is not None and runs(likelihood, evaluation, noise, -5.0):
            return (
                "sigma_v is at its bound, zero: all that is not explained is inefficiency, and the frontier "
                "touches outermost rows. Standard errors have no meaning, the range of y depending on the "
                "coefficients (Greene 1980); look for outliers, or fix sigma_v."
            )
        return None

    def _no_waste(self, likelihood: IndexLikelihood, evaluation: Evaluation, place: int) -> bool:
        """Tell whether a smaller sigma_u, the mean of y kept, is as good."""
        theta = evaluation.theta.copy()
        theta[place] -= 5.0
        if begins_with_constant(likelihood, 0):
            theta[0] -= (
                self.sign * self.moments()[0] * (np.exp(evaluation.theta[place]) - np.exp(theta[place]))
            )
        return bool(likelihood.evaluate(theta).loglike > evaluation.loglike - FLAT)

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(eta[0] - self.sign * self.moments()[0] * np.exp(eta[2]))

    @abstractmethod
    def posterior(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return m and s (n,): u given y is N(m, s^2) cut off below zero."""

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: E(y); inefficiency: E(u | y); efficiency: E(exp(-u) | y)."""
        return {
            "mean": OfRows(self.mean),
            "inefficiency": OfRows(self._inefficiency),
            "efficiency": OfRows(self._efficiency),
        }

    def _inefficiency(self, eta: Array, columns: Columns) -> Array:
        m, s = self.posterior(eta, columns)
        return np.asarray(m + s * log_ndtr_derivatives(m / s, 1)[1])

    def _efficiency(self, eta: Array, columns: Columns) -> Array:
        m, s = self.posterior(eta, columns)
        return np.asarray(np.exp(0.5 * s * s - m + special.log_ndtr(m / s - s) - special.log_ndtr(m / s)))

    @abstractmethod
    def tail(self, eta: Array, e: Array) -> tuple[Array, Array]:
        """Return x of the row's log Phi(x) at e = y - mu, and sv f(e) d log Phi(x)/dx over phi(e / sv), (n,)."""

    @abstractmethod
    def curves(self, eta: Array, e: Array, slope: Array, curve: Array) -> Array:
        """Return d2l/d eta2 (6, n) at e, where `slope` and `curve` are the derivatives of log Phi(x)."""

    def expected(self, eta: Array, columns: Columns) -> Array:
        """Return E[d2l/d eta2] over the composed error e.

        `curves` is linear: a polynomial of second degree in e, whose mean that of two points with e's
        mean and variance is, and terms in the slope and curve of log Phi(x). With these Phi(x) leaves
        the density of e, and e / sv is normal: a quadrature that does not know the size of sigma_u.
        """
        mean, variance, _ = self.moments()
        noise, u, none = np.exp(eta[1]), np.exp(eta[2]), np.zeros(eta.shape[1])
        centre, spread = -self.sign * mean * u, np.sqrt(noise * noise + variance * u * u)
        total = sum(0.5 * self.curves(eta, centre + side * spread, none, none) for side in (1.0, -1.0))
        for t, weight in normal():
            x, slope = self.tail(eta, noise * t)
            found = log_ndtr_derivatives(x, 2)
            mixed = self.curves(eta, noise * t, slope, slope * found[2] / found[1])
            total += weight * (mixed - self.curves(eta, noise * t, none, none))
        return np.asarray(total)

    @abstractmethod
    def inefficiency(self, rng: np.random.Generator, n: int) -> Array:
        """Return n draws of u at sigma_u = 1."""

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        noise = np.exp(eta[1]) * rng.standard_normal(eta.shape[1])
        return {"y": eta[0] + noise - self.sign * np.exp(eta[2]) * self.inefficiency(rng, eta.shape[1])}


class HalfNormalFrontier(Frontier):
    """u = |N(0, su^2)|."""

    name = "frontier"

    def moments(self) -> tuple[float, float, float]:
        mean = float(np.sqrt(2 / np.pi))
        return mean, 1 - 2 / np.pi, mean * (4 / np.pi - 1)

    def inefficiency(self, rng: np.random.Generator, n: int) -> Array:
        return np.abs(rng.standard_normal(n))

    def posterior(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        v, u = np.exp(2 * eta[1]), np.exp(2 * eta[2])
        return -self.sign * (columns["y"] - eta[0]) * u / (v + u), np.sqrt(v * u / (v + u))

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        # with S = sv^2 + su^2, e = y - mu and q = s e su / (sv sqrt S):
        # l = log(2/pi)/2 - log(S)/2 - e^2/(2 S) + log Phi(-q)
        e = columns["y"] - eta[0]
        v, u = (np.exp(2 * common(part)) for part in eta[1:])
        total = v + u
        ratio = np.sqrt(u / (v * total))
        q = self.sign * e * ratio
        found = log_ndtr_derivatives(-q, order)
        inverse = 1 / total
        square = e * e * inverse
        value = LOG_HALF_PI - 0.5 * (np.log(total) + square) + found[0]
        if not order:
            return value, None, None
        slope = found[1]
        share_v, share_u = v * inverse, u * inverse
        # logarithmic derivatives of q in log sv and log su; g_S of the normal part times S
        c_v, c_u, part = -1 - share_v, share_v, 0.5 * (square - 1)
        step = -self.sign * ratio
        first = np.stack(
            [
                e * inverse - slope * step,
                2 * part * share_v - slope * q * c_v,
                2 * part * share_u - slope * q * c_u,
            ]
        )
        return value, first, self.curves(eta, e, slope, found[2]) if order > 1 else None

    def tail(self, eta: Array, e: Array) -> tuple[Array, Array]:
        total = np.exp(2 * eta[1]) + np.exp(2 * eta[2])
        q = self.sign * e * np.exp(eta[2] - eta[1]) / np.sqrt(total)
        return -q, np.sqrt(2 / np.pi) * np.exp(eta[1]) / np.sqrt(total)

    def curves(self, eta: Array, e: Array, slope: Array, curve: Array) -> Array:
        v, u = (np.exp(2 * common(part)) for part in eta[1:])
        inverse = 1 / (v + u)
        step = -self.sign * np.sqrt(u * inverse / v)
        q, square = -step * e, e * e * inverse
        share_v, share_u = v * inverse, u * inverse
        c_v, c_u, part, product = -1 - share_v, share_v, 0.5 * (square - 1), 2 * share_v * share_u
        bend = 0.5 - square  # g_SS times S^2
        second = np.empty((6, len(e)))
        second[0] = curve * step * step - inverse
        second[1] = -2 * e * inverse * share_v + step * c_v * (curve * q - slope)
        second[2] = -2 * e * inverse * share_u + step * c_u * (curve * q - slope)
        qq = q * (curve * q - slope)
        second[3] = 4 * share_v * (bend * share_v + part) + qq * c_v * c_v + slope * q * product
        second[4] = 4 * bend * share_v * share_u + qq * c_v * c_u - slope * q * product
        second[5] = 4 * share_u * (bend * share_u + part) + qq * c_u * c_u + slope * q * product
        return second


class ExponentialFrontier(Frontier):
    """u exponential with mean su."""

    name = "frontier"

    def moments(self) -> tuple[float, float, float]:
        return 1.0, 1.0, 2.0

    def inefficiency(self, rng: np.random.Generator, n: int) -> Array:
        return rng.standard_exponential(n)

    def posterior(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        return -self.sign * (columns["y"] - eta[0]) - np.exp(2 * eta[1] - eta[2]), np.exp(eta[1])

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        # with r = sv/su and c = s e / sv: l = -log su + r^2/2 + r c + log Phi(-c - r)
        inverse_v = np.exp(-common(eta[1]))
        r = np.exp(common(eta[1] - eta[2]))
        e = columns["y"] - eta[0]
        c = self.sign * e * inverse_v
        found = log_ndtr_derivatives(-c - r, order)
        value = r * (0.5 * r + c) - eta[2] + found[0]
        if not order:
            return value, None, None
        slope = found[1]
        step = self.sign * inverse_v
        squared, product = r * r, r * c
        first = np.stack([step * (slope - r), squared + slope * (c - r), slope * r - squared - product - 1])
        return value, first, self.curves(eta, e, slope, found[2]) if order > 1 else None

    def tail(self, eta: Array, e: Array) -> tuple[Array, Array]:
        r = np.exp(eta[1] - eta[2])
        return -self.sign * e * np.exp(-eta[1]) - r, r

    def curves(self, eta: Array, e: Array, slope: Array, curve: Array) -> Array:
        step = self.sign * np.exp(-common(eta[1]))
        r, c = np.exp(common(eta[1] - eta[2])), step * e
        squared, product = r * r, r * c
        second = np.empty((6, len(c)))
        second[0] = curve * step * step
        second[1] = step * (curve * (c - r) - slope)
        second[2] = step * (curve * r + r)
        second[3] = 2 * squared + curve * (c - r) ** 2 - slope * (c + r)
        second[4] = -2 * squared + curve * r * (c - r) + slope * r
        second[5] = 2 * squared + product + curve * squared - slope * r
        return second


FRONTIERS = {"half_normal": HalfNormalFrontier, "exponential": ExponentialFrontier}


def frontier(
    formula: Any,
    data: Any = None,
    *,
    inefficiency: str = "half_normal",
    cost: bool = False,
    sigma_v: str | None = None,
    sigma_u: str | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the stochastic frontier y = x'b + v - u (production) or x'b + v + u (cost).

    v ~ N(0, sigma_v^2), u >= 0. With e = y - x'b, s = 1 (production) or -1 (cost):

        half-normal u:   log f = log(2 / sigma) + log phi(e / sigma) + log Phi(-s e lambda / sigma),
                         sigma^2 = sigma_v^2 + sigma_u^2, lambda = sigma_u / sigma_v
        exponential u:   log f = -log sigma_u + sigma_v^2 / (2 sigma_u^2) + s e / sigma_u
                         + log Phi(-s e / sigma_v - sigma_v / sigma_u),   E u = sigma_u

    Stata's `frontier` has the same parameters (reported as lnsig2v, lnsig2u), R's `frontier` and
    FRONTIER 4.1 sigma^2 and gamma = sigma_u^2 / sigma^2 of the half-normal. Where the least-squares
    residuals are skewed the wrong way the maximum lies at sigma_u = 0, and the start is refused.
    `predict` knows "mean", "inefficiency", E(u | y), and "efficiency", E(exp(-u) | y) (Stata's
    `predict, u` and `te`; with cost=True its te is E(exp(u) | y)).

    Parameters
    ----------
    formula, data, options :
        "log_output ~ log_capital + log_labour" and a frame, or arrays (y, X). See `models.base.build`.
    inefficiency :
        "half_normal" or "exponential".
    cost :
        Whether inefficiency raises y.
    sigma_v, sigma_u :
        Formulas of log sigma_v and log sigma_u, if they vary.

    References: Aigner, Lovell & Schmidt (1977), Journal of Econometrics 6, 21-37; Jondrow, Lovell,
    Materov & Schmidt (1982), ibid. 19; Battese & Coelli (1988), ibid. 38; Kumbhakar & Lovell (2000).

    >>> import numpy as np
    >>> frontier(np.array([1.0, 2.0, 4.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'sigma_v', 'sigma_u')
    """
    if inefficiency not in FRONTIERS:
        raise SpecificationError(
            f"frontier: inefficiency={inefficiency!r} is not known; expected 'half_normal' or 'exponential'."
        )
    model = FRONTIERS[inefficiency](sign=-1.0 if cost else 1.0)
    return bounded(build(model, formula, data, equations={"sigma_v": sigma_v, "sigma_u": sigma_u}, **options))
