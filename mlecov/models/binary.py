"""Binary outcomes: probit and logit."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.functions import log_ndtr_derivatives
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import Model, build, constant_outcome, outside

Array = npt.NDArray[np.float64]


class Binary(Model):
    """Outcomes 0 and 1 with P(y = 1) = F(eta)."""

    equations = {"mu": None}

    @abstractmethod
    def probability(self, eta: Array) -> Array:
        """Return F(eta)."""

    def check(self, y: Array, columns: Columns) -> str | None:
        return outside(y, (y == 0) | (y == 1), "0 or 1") or constant_outcome(y)

    def mean(self, eta: Array, columns: Columns) -> Array:
        return self.probability(eta[0])

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        none = 1 - self.probability(eta[0])
        return np.where(columns["y"] == 1, none, 0.0), np.where(columns["y"] == 1, 1.0, none)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return {"y": (rng.random(eta.shape[1]) < self.probability(eta[0])).astype(float)}

    def separation(self, eta: Array, columns: Columns) -> npt.NDArray[np.bool_]:
        return np.asarray(np.expm1(self.derivatives(eta, columns, 0)[0]) > -1e-7)


@dataclass(frozen=True)
class Probit(Binary):
    """P(y = 1) = Phi(eta)."""

    name = "probit"

    def probability(self, eta: Array) -> Array:
        return np.asarray(special.ndtr(eta))

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        sign = 2 * columns["y"] - 1
        found = log_ndtr_derivatives(sign * eta[0], order)
        if not order:
            return found[0], None, None
        return found[0], (sign * found[1])[None], found[2][None] if order > 1 else None

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        # -phi^2 / (Phi (1 - Phi)) is the product of the two inverse Mills ratios
        return -(log_ndtr_derivatives(eta[0], 1)[1] * log_ndtr_derivatives(-eta[0], 1)[1])[None]


def probit(formula: Any, data: Any = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the probit model, P(y = 1 | x) = Phi(x'b).

        log f = log Phi((2y - 1) x'b)

    `oim` is Stata's `probit`; R's `glm` reports the expected information (`eim`), which differs.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X); y is 0 or 1. See `models.base.build`.

    Reference: Greene (2018), section 17.3; Amemiya (1985), section 9.2.

    Example
    -------
    >>> import mlecov as ml
    >>> lik = ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector"))
    >>> round(ml.fit(lik).params["mu[gpa]"], 4)
    1.6258
    """
    return build(Probit(), formula, data, **options)


@dataclass(frozen=True)
class Logit(Binary):
    """P(y = 1) = 1 / (1 + exp(-eta))."""

    name = "logit"

    def probability(self, eta: Array) -> Array:
        return np.asarray(special.expit(eta))

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y, mu = columns["y"], eta[0]
        # one exponential of a non-positive number serves value, slope and curvature
        small = np.exp(-np.abs(mu))
        value = mu * y - np.maximum(mu, 0.0) - np.log1p(small)
        if not order:
            return value, None, None
        share = 1.0 / (1.0 + small)
        probability = np.where(mu >= 0, share, small * share)
        first = (y - probability)[None]
        return value, first, -(small * share * share)[None] if order > 1 else None

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        found = self.derivatives(eta, columns, 2)[2]
        assert found is not None
        return found


def logit(formula: Any, data: Any = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the logit model, P(y = 1 | x) = 1 / (1 + exp(-x'b)).

        log f = y x'b - log(1 + exp(x'b))

    Observed and expected information are the same (canonical link), so Stata's and R's standard
    errors agree.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X); y is 0 or 1. See `models.base.build`.

    Reference: Greene (2018), section 17.3; McCullagh & Nelder (1989), chapter 4.
    """
    return build(Logit(), formula, data, **options)
