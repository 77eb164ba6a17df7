"""Counts without the small ones: truncated regressions, and the probability of what lies beyond.

Made of a count distribution (Poisson, NB2) by the chain rule, so that it holds for any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import SpecificationError
from mlecov.kinds import Kind
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives, pair_index
from mlecov.models.base import build, least_squares_start, outside, set_constant
from mlecov.models.bounds import bounded
from mlecov.models.count import NB2, NegativeBinomial, Poisson
from mlecov.models.counting import CountModel, check_counts, weights_of
from mlecov.models.predicted import Declared, OfRows

Array = npt.NDArray[np.float64]

STEPS = 8
"""Steps of the moment equations that give the start of a truncated count."""


def at_count(columns: Columns, count: float, n: int) -> dict[str, Any]:
    """Return the columns with every outcome (n,) set to one count."""
    return {**columns, "y": np.full(n, float(count))}


def outer(first: Array) -> Array:
    """Return products of first derivatives (E, b) in the order of second derivatives."""
    return np.stack([first[e] * first[f] for e, f in pair_index(len(first))])


def start_above(base: CountModel, likelihood: IndexLikelihood, last: int) -> Array:
    """Return a start theta (k,) of a base whose outcomes are seen only above `last` = c.

    Taken as complete, such outcomes have too large a mean and too small a variance. Completed by what
    the model says of y <= c, P(y > c) y + sum_j j p_j has mean mu, and P(y > c) y (y - 1) +
    sum_j j (j - 1) p_j has mean (1 + alpha) mu^2: a few steps towards these moments.
    """
    y, w, n = likelihood.columns["y"], weights_of(likelihood), likelihood.n_terms
    theta = base.start(likelihood)
    for _ in range(STEPS):
        eta = np.clip(likelihood.predictors(theta, 0, n)[: len(base.equations)], -30, 30)
        mean, alpha = np.exp(eta[0]), np.exp(eta[1]) if len(eta) > 1 else 0.0
        below = [
            np.exp(base.derivatives(eta, at_count(likelihood.columns, j, n), 0)[0]) for j in range(last + 1)
        ]
        left = 1 - np.sum(below, axis=0)
        first = left * y + np.sum([j * p for j, p in enumerate(below)], axis=0)
        pairs = left * y * (y - 1) + np.sum([j * (j - 1) * p for j, p in enumerate(below)], axis=0)
        theta = least_squares_start(likelihood, eta[0] + first / mean - 1, mean / (1 + alpha * mean))
        if len(eta) > 1:
            mean = np.exp(np.clip(likelihood.predictors(theta, 0, n)[0], -30, 30))
            excess = float(w @ pairs) / float(w @ mean**2) - 1
            set_constant(likelihood, theta, 1, float(np.log(np.clip(excess, 0.1, 5.0))))
    return theta


def log_beyond(base: CountModel, eta: Array, columns: Columns, last: int, order: int) -> RowDerivatives:
    """Return log P(y > last) of a base distribution and its derivatives in the predictors."""
    n = eta.shape[1]
    if last == 0:
        value, first, second = base.derivatives(eta, at_count(columns, 0, n), order)
        beyond = np.log(-np.expm1(value))
        if first is None:
            return beyond, None, None
        odds = np.exp(value - beyond)
        if second is None:
            return beyond, -odds * first, None
        return beyond, -odds * first, -odds * (second + (1 + odds) * outer(first))
    if isinstance(base, Poisson):
        # d P(y <= c) / d eta = -mu P(y = c): no difference of sums in the far tail
        mean = np.exp(eta[0])
        beyond = np.log(special.pdtrc(last, mean))
        if not order:
            return beyond, None, None
        slope = mean * np.exp(last * eta[0] - mean - special.gammaln(last + 1) - beyond)
        return beyond, slope[None], (slope * (1 + last - mean - slope))[None] if order > 1 else None
    found = [base.derivatives(eta, at_count(columns, j, n), order) for j in range(last + 1)]
    # 1 - P(0) first: all that is left are small terms where P(0) is near one, as it is for a large alpha
    left = -np.expm1(found[0][0])
    for value, _, _ in found[1:]:
        left = left - np.exp(value)
    beyond = np.log(left)
    if not order:
        return beyond, None, None
    slopes, curves = np.zeros_like(eta), np.zeros((len(pair_index(len(eta))), n))
    for value, first, second in found:
        ratio = np.exp(value - beyond)
        assert first is not None
        slopes -= ratio * first
        if second is not None:
            curves -= ratio * (second + outer(first))
    return beyond, slopes, curves - outer(slopes) if order > 1 else None


@dataclass(frozen=True)
class Truncated(CountModel):
    """f(y) / P(y > c) for y > c = `truncation`; the predictors are the base's."""

    base: CountModel
    truncation: int = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"truncated_{self.base.name}"

    @property
    def lowest(self) -> int:  # type: ignore[override]
        return self.truncation + 1

    @property
    def equations(self) -> Mapping[str, Kind | None]:  # type: ignore[override]
        return self.base.equations

    def check(self, y: Array, columns: Columns) -> str | None:
        if len(y) and (y == self.lowest).all():
            return (
                f"is {self.lowest} in every row, the smallest possible: the mean has no maximum "
                "likelihood estimate."
            )
        return check_counts(y) or outside(
            y, y > self.truncation, f"above {self.truncation}, where the outcome is truncated"
        )

    def at_bound(self, eta: Array, columns: Columns) -> str | None:
        return self.base.at_bound(eta, columns)

    def start(self, likelihood: IndexLikelihood) -> Array:
        return start_above(self.base, likelihood, self.truncation)

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        base, base_first, base_second = self.base.derivatives(eta, columns, order)
        beyond, first, second = log_beyond(self.base, eta, columns, self.truncation, order)
        return (
            base - beyond,
            None if base_first is None or first is None else base_first - first,
            None if base_second is None or second is None else base_second - second,
        )

    def mean(self, eta: Array, columns: Columns) -> Array:
        below = np.zeros(eta.shape[1])
        for j, probability, _ in self.base.outcomes(eta, columns):
            if j > self.truncation:
                break
            below += j * probability
        beyond = log_beyond(self.base, eta, columns, self.truncation, 0)[0]
        return (self.base.mean(eta, columns) - below) * np.exp(-beyond)

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: E(y | y > c); count: the mean of the base, untruncated; rate: that at an exposure of one."""
        return {
            **super().quantities,
            "count": OfRows(self.base.mean),
            "rate": OfRows(self.base.mean, offsets=False),
        }

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        below, at = self.base.cdf(eta, columns)
        left = self.base.cdf(eta, at_count(columns, self.truncation, eta.shape[1]))[1]
        return np.maximum(below - left, 0.0) / (1 - left), (at - left) / (1 - left)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        """Draw from the base by inversion where that has a closed form, else outcome by outcome."""
        left = self.base.cdf(eta, at_count(columns, self.truncation, eta.shape[1]))[1]
        if isinstance(self.base, NegativeBinomial) or (1 - left).min() > 0.05:
            y = np.full(eta.shape[1], -1.0)
            for _ in range(10_000):
                todo = np.flatnonzero(y <= self.truncation)
                if not len(todo):
                    return {"y": y}
                part = {key: value[todo] for key, value in columns.items()}
                y[todo] = self.base.simulate(rng, eta[:, todo], part)["y"]
        return super().simulate(rng, eta, columns)


def _point(truncation: int) -> int:
    if not isinstance(truncation, (int, np.integer)) or truncation < 0:
        raise SpecificationError(
            f"truncation={truncation!r}: expected a count c >= 0; outcomes up to and including c "
            "are not observed."
        )
    return int(truncation)


def truncated_poisson(
    formula: Any, data: Any = None, *, truncation: int = 0, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the Poisson regression observed only where y > c.

        log f = y log mu - mu - log y! - log P(Y > c),  mu = exp(x'b)

    Stata's `tpoisson, ll(c)`. mu is the mean of the untruncated outcome; `mean` is E[y | y > c].

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X). See `models.base.build`.
    truncation :
        The left truncation point c: outcomes up to and including c are not observed.

    Reference: Grogger & Carson (1991), Journal of Applied Econometrics 6; Cameron & Trivedi (2013), 4.3.

    >>> truncated_poisson(np.array([1.0, 2.0, 3.0]), np.ones((3, 1))).n_terms
    3
    """
    return build(Truncated(Poisson(), _point(truncation)), formula, data, **options)


def truncated_nb2(
    formula: Any, data: Any = None, *, truncation: int = 0, alpha: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the negative binomial (NB2) regression observed only where y > c.

        log f = log f_NB2(y) - log P(Y > c)

    Stata's `tnbreg, ll(c)` estimates lnalpha = log alpha.

    Parameters
    ----------
    formula, data, truncation, options :
        As for `truncated_poisson`.
    alpha :
        Formula of log alpha.

    Reference: Grogger & Carson (1991), Journal of Applied Econometrics 6; Cameron & Trivedi (2013), 4.3.

    >>> truncated_nb2(np.array([1.0, 2.0, 3.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'alpha')
    """
    model = Truncated(NB2(), _point(truncation))
    return bounded(build(model, formula, data, equations={"alpha": alpha}, **options))
