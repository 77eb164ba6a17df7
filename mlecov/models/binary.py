"""Binary outcomes: probit, logit, complementary log-log and heteroskedastic probit."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import SpecificationError
from mlecov.functions import log1mexp, log_ndtr_derivatives
from mlecov.kinds import Kind
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import Model, build, constant_outcome, least_squares_start, outside
from mlecov.models.predicted import Declared, OfRows
from mlecov.special_cores import chooser

Array = npt.NDArray[np.float64]


class Binary(Model):
    """Outcomes 0 and 1 with P(y = 1) = F(eta)."""

    equations: Mapping[str, Kind | None] = {"mu": None}

    working_scale: ClassVar[float | None] = None
    """c such that Newton's first step from zero is least squares on c (2y - 1); None: start at zero."""

    @abstractmethod
    def probability(self, eta: Array) -> Array:
        """Return F(eta)."""

    def start(self, likelihood: IndexLikelihood) -> Array:
        if self.working_scale is None:
            return likelihood.space.start()
        working = self.working_scale * (2 * likelihood.columns["y"] - 1)
        theta = least_squares_start(likelihood, working)
        left = working - likelihood.predictors(theta, 0, likelihood.n_terms)[0]
        share = 1 - float(left @ left) / float(working @ working)
        # far from balanced outcomes the scaling would miss the constant
        return theta * self.attenuation(share) if 0 < share < 0.4 else theta

    def attenuation(self, share: float) -> float:
        """Return the factor by which least squares falls short where it explains `share` of the variance.

        Under normal regressors and balanced outcomes; for the logit that of discriminant analysis.
        Reference: Haggstrom (1983), Journal of Business and Economic Statistics 1, 229-238.
        """
        return 1.0

    def check(self, y: Array, columns: Columns) -> str | None:
        return outside(y, (y == 0) | (y == 1), "0 or 1") or constant_outcome(y)

    def mean(self, eta: Array, columns: Columns) -> Array:
        return self.probability(eta[0])

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean, or probability: P(y = 1)."""
        return {**super().quantities, "probability": OfRows(self.mean)}

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        none = 1 - self.probability(eta[0])
        return np.where(columns["y"] == 1, none, 0.0), np.where(columns["y"] == 1, 1.0, none)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return self.simulations(eta, columns)(rng)

    def simulations(self, eta: Array, columns: Columns) -> Callable[[np.random.Generator], dict[str, Array]]:
        probability = self.probability(eta[0])
        return lambda rng: {"y": (rng.random(len(probability)) < probability).astype(float)}

    def separation(self, eta: Array, columns: Columns) -> npt.NDArray[np.bool_]:
        return np.asarray(np.expm1(self.derivatives(eta, columns, 0)[0]) > -1e-7)


@dataclass(frozen=True)
class Probit(Binary):
    """P(y = 1) = Phi(eta)."""

    name = "probit"
    working_scale = math.sqrt(math.pi / 2)

    def attenuation(self, share: float) -> float:
        return 1 / math.sqrt(1 - 0.5 * math.pi * share)

    def probability(self, eta: Array) -> Array:
        return np.asarray(special.ndtr(eta))

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        sign = 2 * columns["y"] - 1
        found = log_ndtr_derivatives(sign * eta[0], order)
        if not order:
            return found[0], None, None
        return found[0], (sign * found[1])[None], found[2][None] if order > 1 else None

    def third(self, eta: Array, columns: Columns, first: Array, second: Array) -> Array:
        # m (D^2 + m D - 1) with l' = +-m and l'' = -m D
        slope, bend = first[0], second[0]
        return np.asarray(bend * bend / slope - slope * (bend + 1.0))

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        # -phi^2 / (Phi (1 - Phi)) is the product of the two inverse Mills ratios
        return np.asarray(-(log_ndtr_derivatives(eta[0], 1)[1] * log_ndtr_derivatives(-eta[0], 1)[1])[None])


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
    >>> float(round(ml.fit(lik).params["mu[gpa]"], 4))
    1.6258
    """
    return build(Probit(), formula, data, **options)


@dataclass(frozen=True)
class Logit(Binary):
    """P(y = 1) = 1 / (1 + exp(-eta))."""

    name = "logit"
    working_scale = 2.0

    def attenuation(self, share: float) -> float:
        return 1 / (1 - share)

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
        probability = chooser(np, mu < 0)(small * share, share)
        first = (y - probability)[None]
        return value, first, -(small * share * share)[None] if order > 1 else None

    def third(self, eta: Array, columns: Columns, first: Array, second: Array) -> Array:
        return np.asarray(second[0] * (2.0 * (first[0] - columns["y"]) + 1.0))

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


def _rate(eta: Array) -> Array:
    """Return exp(eta), bounded so that its quotients have their limits where they would be 0 / 0 or infinite."""
    rate: Array = np.exp(np.clip(eta, -700.0, 709.0))
    return rate


@dataclass(frozen=True)
class Cloglog(Binary):
    """P(y = 1) = 1 - exp(-exp(eta))."""

    name = "cloglog"

    def probability(self, eta: Array) -> Array:
        return np.asarray(-np.expm1(-np.exp(eta)))

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        hit, rate = columns["y"] == 1, _rate(eta[0])
        # below -40 log(1 - exp(-u)) is log u to rounding
        value = np.where(hit, np.where(eta[0] < -40.0, eta[0], log1mexp(-rate)), -rate)
        if not order:
            return value, None, None
        ratio = rate / np.expm1(rate)
        first = np.where(hit, ratio, -rate)[None]
        if order < 2:
            return value, first, None
        # 1 - u - u / (exp(u) - 1) cancels near zero, where it is -u/2 - u^2/12 + u^4/720
        near = rate < 1e-2
        small = np.where(near, rate, 0.0)
        series = -small * (0.5 + small / 12 - small**3 / 720)
        curve = ratio * np.where(near, series, 1 - rate - ratio)
        return value, first, np.where(hit, np.where(ratio > 0, curve, 0.0), -rate)[None]

    def third(self, eta: Array, columns: Columns, first: Array, second: Array) -> Array:
        rate, ratio = _rate(eta[0]), first[0]
        curve = second[0] * (1.0 - rate - ratio) - ratio * (rate + second[0])
        return np.asarray(np.where(columns["y"] == 1, curve, -rate))

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        return least_squares_start(likelihood, np.where(y == 1, 0.5, -1.0))

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        rate = _rate(eta[0])
        return np.asarray(-(rate * (rate / np.expm1(rate)))[None])


def cloglog(formula: Any, data: Any = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the complementary log-log model, P(y = 1 | x) = 1 - exp(-exp(x'b)).

        log f = y log(1 - exp(-exp(x'b))) - (1 - y) exp(x'b)

    The binary form of a proportional hazards model: with an `exposure`, an event within that time.
    `oim` is Stata's `cloglog`; R's `glm(binomial("cloglog"))` reports the expected information (`eim`).

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X); y is 0 or 1. See `models.base.build`.

    Reference: McCullagh & Nelder (1989), section 4.3; Prentice & Gloeckler (1978), Biometrics 34.

    >>> cloglog(np.array([0.0, 1.0, 1.0]), np.ones((3, 1))).n_terms
    3
    """
    return build(Cloglog(), formula, data, **options)


@dataclass(frozen=True)
class HeteroskedasticProbit(Binary):
    """P(y = 1) = Phi(eta_0 exp(-eta_1)); eta_1 = log sigma has no constant."""

    name = "heteroskedastic_probit"
    equations = {"mu": None, "sigma": None}
    without_constant = ("sigma",)

    def probability(self, eta: Array) -> Array:
        return np.asarray(special.ndtr(eta))

    def index(self, eta: Array) -> Array:
        """Return x'b / sigma (n,)."""
        return np.asarray(eta[0] * np.exp(-eta[1]))

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        sign, scale = 2 * columns["y"] - 1, np.exp(-eta[1])
        index = eta[0] * scale
        found = log_ndtr_derivatives(sign * index, order)
        if not order:
            return found[0], None, None
        slope = sign * found[1]
        first = np.stack([slope * scale, -slope * index])
        if order < 2:
            return found[0], first, None
        bend = found[2] * index + slope
        return found[0], first, np.stack([found[2] * scale * scale, -bend * scale, bend * index])

    def start(self, likelihood: IndexLikelihood) -> Array:
        return least_squares_start(likelihood, 2.0 * likelihood.columns["y"] - 1.0)

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        scale, index = np.exp(-eta[1]), self.index(eta)
        curve = -log_ndtr_derivatives(index, 1)[1] * log_ndtr_derivatives(-index, 1)[1]
        return np.asarray(np.stack([scale * scale, -scale * index, index * index]) * curve)

    def mean(self, eta: Array, columns: Columns) -> Array:
        return self.probability(self.index(eta))

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        return super().cdf(self.index(eta)[None], columns)

    def simulations(self, eta: Array, columns: Columns) -> Callable[[np.random.Generator], dict[str, Array]]:
        return super().simulations(self.index(eta)[None], columns)


def heteroskedastic_probit(
    formula: str, data: Any = None, *, sigma: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the probit model whose errors have a standard deviation exp(z'g).

        log f = log Phi((2y - 1) x'b / exp(z'g))

    The second equation has no constant: the scale of b would not be identified (a constant written or
    implied in `sigma` is left out). Stata's `hetprobit`, R's `glmx::hetglm`. g = 0 is the probit.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame; y is 0 or 1. See `models.base.build`.
    sigma :
        Formula of log sigma ("z1 + z2"), required.

    Reference: Harvey (1976), Econometrica 44; Greene (2018), section 17.5.2.

    >>> frame = {"y": np.array([0.0, 1.0, 1.0]), "x": np.arange(3.0)}
    >>> heteroskedastic_probit("y ~ x", frame, sigma="x").space.labels
    ('mu[Intercept]', 'mu[x]', 'sigma[x]')
    """
    if sigma is None:
        raise SpecificationError(
            "heteroskedastic_probit needs a formula for log sigma: sigma='z1 + z2'. Without one "
            "it is the probit."
        )
    return build(HeteroskedasticProbit(), formula, data, equations={"sigma": sigma}, **options)
