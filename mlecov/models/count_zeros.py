"""Counts with too many zeros: zero-inflated and hurdle regressions.

Each is made of a count distribution (Poisson, NB2) by the chain rule, so that it holds for any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.kinds import Kind, interval
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives, pair_index
from mlecov.models.base import build, set_constant
from mlecov.models.bounds import bounded
from mlecov.models.count import NB2, Poisson
from mlecov.models.count_truncated import Truncated, at_count, log_beyond, outer, start_above
from mlecov.models.counting import AT_BOUND, CountModel, weights_of
from mlecov.models.predicted import Declared, OfRows

Array = npt.NDArray[np.float64]


def _join(second: Array, cross: Array, last: Array) -> Array:
    """Return the second derivatives with one more predictor: `cross` (E, b) with it, `last` (b,) of it."""
    n_base = len(cross)
    made = dict(zip(pair_index(n_base), second, strict=True))
    made |= {(e, n_base): cross[e] for e in range(n_base)} | {(n_base, n_base): last}
    return np.stack([made[pair] for pair in pair_index(n_base + 1)])


@dataclass(frozen=True)
class WithZeros(CountModel):
    """A base count distribution with a further, logit equation for its zeros."""

    base: CountModel
    extra = ""

    @property
    def equations(self) -> Mapping[str, Kind | None]:  # type: ignore[override]
        return {**self.base.equations, self.extra: interval(0, 1)}

    def at_bound(self, eta: Array, columns: Columns) -> str | None:
        return self.base.at_bound(eta[:-1], columns)

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """Those of counts; zero: P(y = 0); count: the mean of the base distribution."""
        return {
            **super().quantities,
            "zero": OfRows(lambda eta, columns: self.probability(eta, columns, np.zeros(eta.shape[1]))),
            "count": OfRows(lambda eta, columns: self.base.mean(eta[:-1], columns)),
        }

    def positive_start(self, likelihood: IndexLikelihood) -> tuple[Array, float, float]:
        """Return the base's start on the positive outcomes, the share of zeros, and its own share."""
        y, w = likelihood.columns["y"], weights_of(likelihood)
        theta = self.base.start(likelihood)
        part = likelihood.subset(np.flatnonzero(y > 0).astype(np.intp))
        if part.n_terms > 4 * part.space.k:
            theta = start_above(self.base, part, 0)
        eta = np.clip(likelihood.predictors(theta, 0, likelihood.n_terms)[:-1], -30, 30)
        zero = np.exp(self.base.derivatives(eta, at_count(likelihood.columns, 0, len(y)), 0)[0])
        return theta, float(w @ (y == 0)) / w.sum(), float(w @ zero) / w.sum()


@dataclass(frozen=True)
class ZeroInflated(WithZeros):
    """P(0) = pi + (1 - pi) f(0), P(y) = (1 - pi) f(y); predictors: the base's, logit pi."""

    extra = "inflate"

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"zero_inflated_{self.base.name}"

    def at_bound(self, eta: Array, columns: Columns) -> str | None:
        largest = float(special.expit(eta[-1].max()))
        if largest < AT_BOUND:
            return (
                "inflate is at its bound: no zero is an inflated one (the largest probability is "
                f"{largest:.1g}). The "
                "maximum is that of the model without inflation; fit that instead."
            )
        return super().at_bound(eta, columns)

    def check(self, y: Array, columns: Columns) -> str | None:
        if len(y) and y.min() > 0:
            return (
                "has no zeros: there is nothing to inflate. Use the model without inflation, or a "
                "truncated one."
            )
        return super().check(y, columns)

    def start(self, likelihood: IndexLikelihood) -> Array:
        theta, observed, own = self.positive_start(likelihood)
        share = np.clip((observed - own) / max(1 - own, 1e-6), 0.05, 0.95)
        set_constant(likelihood, theta, len(likelihood.equations) - 1, float(special.logit(share)))
        return theta

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        z, zero = eta[-1], columns["y"] == 0
        base, base_first, base_second = self.base.derivatives(eta[:-1], columns, order)
        value = np.where(zero, np.logaddexp(z, base), base) - np.logaddexp(z, 0.0)
        if base_first is None:
            return value, None, None
        # posterior probability that a zero is an inflated one; none of the other outcomes is
        inflated = np.where(zero, special.expit(z - base), 0.0)
        own = np.where(zero, special.expit(base - z), 1.0)
        share = special.expit(z)
        first = np.concatenate([own * base_first, (inflated - share)[None]])
        if base_second is None:
            return value, first, None
        mixed = inflated * own
        second = own * base_second + mixed * outer(base_first)
        return value, first, _join(second, -mixed * base_first, mixed - share * special.expit(-z))

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(special.expit(-eta[-1]) * self.base.mean(eta[:-1], columns))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """Those of counts with zeros; inflation: pi, the probability of a zero that the count has no part in."""
        return {**super().quantities, "inflation": OfRows(lambda eta, columns: special.expit(eta[-1]))}

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        below, at = self.base.cdf(eta[:-1], columns)
        share = special.expit(eta[-1])
        return np.where(columns["y"] > 0, share + (1 - share) * below, 0.0), share + (1 - share) * at

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        drawn = self.base.simulate(rng, eta[:-1], columns)["y"]
        return {"y": np.where(rng.random(len(drawn)) < special.expit(eta[-1]), 0.0, drawn)}


@dataclass(frozen=True)
class Hurdle(WithZeros):
    """P(y > 0) = p by a logit, positive outcomes from f / (1 - f(0)); predictors: the base's, logit p."""

    extra = "hurdle"

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"hurdle_{self.base.name}"

    def check(self, y: Array, columns: Columns) -> str | None:
        if len(y) and y.min() > 0:
            return "has no zeros: there is no hurdle. Use the truncated model."
        if len(y) and y.max() == 1:
            return "is never above 1: the positive part says nothing of a mean. Use a binary model."
        return super().check(y, columns)

    def start(self, likelihood: IndexLikelihood) -> Array:
        theta, observed, _ = self.positive_start(likelihood)
        set_constant(likelihood, theta, len(likelihood.equations) - 1, float(special.logit(1 - observed)))
        return theta

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        z, above = eta[-1], columns["y"] > 0
        base, base_first, base_second = self.base.derivatives(eta[:-1], columns, order)
        beyond, beyond_first, beyond_second = log_beyond(self.base, eta[:-1], columns, 0, order)
        value = np.where(above, base - beyond, 0.0) - np.logaddexp(np.where(above, -z, z), 0.0)
        if base_first is None or beyond_first is None:
            return value, None, None
        share = special.expit(z)
        first = np.concatenate([np.where(above, base_first - beyond_first, 0.0), (above - share)[None]])
        if base_second is None or beyond_second is None:
            return value, first, None
        second = np.where(above, base_second - beyond_second, 0.0)
        return value, first, _join(second, np.zeros_like(base_first), -share * special.expit(-z))

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(special.expit(eta[-1]) * self._conditional(eta, columns))

    def _conditional(self, eta: Array, columns: Columns) -> Array:
        """Return E(y | y > 0)."""
        beyond = log_beyond(self.base, eta[:-1], columns, 0, 0)[0]
        return np.asarray(self.base.mean(eta[:-1], columns) * np.exp(-beyond))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """Those of counts with zeros; conditional: E(y | y > 0)."""
        return {**super().quantities, "conditional": OfRows(self._conditional)}

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        below, at = self.base.cdf(eta[:-1], columns)
        log_zero, y = self.base.derivatives(eta[:-1], at_count(columns, 0, eta.shape[1]), 0)[0], columns["y"]
        none, p = special.expit(-eta[-1]), special.expit(eta[-1])
        beyond = -np.expm1(log_zero)
        part = np.maximum([below - np.exp(log_zero), at - np.exp(log_zero)], 0.0) / beyond
        return np.where(y > 0, none + p * part[0], 0.0), none + p * part[1]

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        drawn = Truncated(self.base).simulate(rng, eta[:-1], columns)["y"]
        return {"y": np.where(rng.random(len(drawn)) < special.expit(eta[-1]), drawn, 0.0)}


def zero_inflated_poisson(
    formula: Any, data: Any = None, *, inflate: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the zero-inflated Poisson regression.

        P(0) = pi + (1 - pi) exp(-mu),  P(y) = (1 - pi) exp(-mu) mu^y / y!,
        mu = exp(x'b),  pi = 1 / (1 + exp(-z'g))

    As Stata's `zip` and R's `pscl::zeroinfl(dist = "poisson")`; pscl uses the regressors of the mean for
    pi where no others are named, here a constant is the default and reported as the probability pi.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X). See `models.base.build`.
    inflate :
        Formula of logit pi ("z1 + z2").

    Reference: Lambert (1992), Technometrics 34; Cameron & Trivedi (2013), section 4.6.

    >>> zero_inflated_poisson(np.array([0.0, 0.0, 3.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'inflate')
    """
    return bounded(build(ZeroInflated(Poisson()), formula, data, equations={"inflate": inflate}, **options))


def zero_inflated_nb2(
    formula: Any, data: Any = None, *, inflate: str | None = None, alpha: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the zero-inflated negative binomial regression (NB2).

        P(0) = pi + (1 - pi) f(0),  P(y) = (1 - pi) f(y),  f as in `nb2`, pi = 1 / (1 + exp(-z'g))

    Stata's `zinb` reports lnalpha = log alpha, R's `pscl::zeroinfl(dist = "negbin")` log theta =
    -log alpha.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X). See `models.base.build`.
    inflate, alpha :
        Formulas of logit pi and of log alpha.

    Reference: Greene (1994), NYU working paper EC-94-10; Cameron & Trivedi (2013), section 4.6.

    >>> zero_inflated_nb2(np.array([0.0, 0.0, 3.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'alpha', 'inflate')
    """
    further = {"inflate": inflate, "alpha": alpha}
    return bounded(build(ZeroInflated(NB2()), formula, data, equations=further, **options))


def hurdle_poisson(
    formula: Any, data: Any = None, *, hurdle: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the Poisson hurdle regression.

        P(0) = 1 - p,  P(y) = p f(y) / (1 - f(0)) for y > 0,  p = 1 / (1 + exp(-z'g)),
        f Poisson with mean exp(x'b)

    p is the probability of a positive count, as in R's `pscl::hurdle`; the two parts separate, so the
    fit is that of a logit and a truncated Poisson.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X). See `models.base.build`.
    hurdle :
        Formula of logit p ("z1 + z2"); a constant, reported as p, by default.

    Reference: Mullahy (1986), Journal of Econometrics 33; Cameron & Trivedi (2013), section 4.5.

    >>> hurdle_poisson(np.array([0.0, 1.0, 3.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'hurdle')
    """
    return build(Hurdle(Poisson()), formula, data, equations={"hurdle": hurdle}, **options)


def hurdle_nb2(
    formula: Any, data: Any = None, *, hurdle: str | None = None, alpha: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the negative binomial (NB2) hurdle regression.

        P(0) = 1 - p,  P(y) = p f(y) / (1 - f(0)) for y > 0,  f as in `nb2`

    Parameters
    ----------
    formula, data, hurdle, options :
        As for `hurdle_poisson`.
    alpha :
        Formula of log alpha.

    Reference: Pohlmeier & Ulrich (1995), Journal of Human Resources 30; Cameron & Trivedi (2013), 4.5.

    >>> hurdle_nb2(np.array([0.0, 1.0, 3.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'alpha', 'hurdle')
    """
    further = {"hurdle": hurdle, "alpha": alpha}
    return bounded(build(Hurdle(NB2()), formula, data, equations=further, **options))
