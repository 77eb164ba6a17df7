"""What count models share: support, start values, and sums over the outcome's support."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import CovarianceError
from mlecov.likelihood.base import Evaluation
from mlecov.likelihood.index import Columns, IndexLikelihood
from mlecov.models.base import begins_with_constant, least_squares_start, outside
from mlecov.models.bounds import BoundedModel
from mlecov.models.predicted import Declared, OfPoints, OfRows

Array = npt.NDArray[np.float64]

TABLE: list[Array] = []
LAST_COUNT = 100_000
"""Outcomes up to which sums over the support run."""
AT_BOUND = 1e-7
"""Share, or excess of variance over mean, below which a parameter counts as being at its bound."""


def log_factorial(y: Array) -> Array:
    """Return log y! of counts y (n,), from a table where they are small."""
    if not len(y) or y.max() >= 1024:
        return np.asarray(special.gammaln(y + 1.0))
    if not TABLE:
        TABLE.append(special.gammaln(np.arange(1.0, 1025.0)))
    return TABLE[0].take(y.astype(np.intp))


def check_counts(y: Array) -> str | None:
    """Return what is wrong with outcomes that must be counts, or None."""
    return outside(y, (y >= 0) & (y == np.floor(y)), "a count (0, 1, 2, ...)")


def scalar(values: Array) -> Array:
    """Return values (n,) that are all the same as (1,), so that functions of them are computed once."""
    if len(values) > 1 and values[0] == values[-1] and (values == values[0]).all():
        return values[:1]
    return values


def poisson_limit(eta: Array) -> str | None:
    """Return the sentence of a dispersion alpha = exp(eta_1) at zero, or None."""
    size = float(np.exp(eta[1].max()) * max(np.exp(eta[0]).mean(), 1.0))
    if size > AT_BOUND:
        return None
    return (
        f"alpha is at its bound, zero (alpha * mean = {size:.1g}). The outcomes vary no more than the model "
        "without overdispersion lets them, so the maximum is that model's: the coefficients are its own, and "
        "alpha's standard error has no meaning. Fit the Poisson form instead."
    )


def weights_of(likelihood: IndexLikelihood) -> Array:
    """Return the weights of the terms (n,), ones where there are none."""
    return np.ones(likelihood.n_terms) if likelihood.weights is None else likelihood.weights.values


class CountModel(BoundedModel):
    """A distribution on the counts from `lowest` on; its first predictor is the log of a mean."""

    lowest: int = 0

    def check(self, y: Array, columns: Columns) -> str | None:
        if len(y) and not y.any():
            return "is 0 in every row: the mean has no maximum likelihood estimate."
        return check_counts(y)

    def start(self, likelihood: IndexLikelihood) -> Array:
        # one scoring step of the Poisson from means between the outcomes and their average
        y = likelihood.columns["y"]
        mean = 0.5 * (y + (y.mean() if y.any() else 1.0))
        theta = least_squares_start(likelihood, np.log(mean) + y / mean - 1.0, mean)
        if begins_with_constant(likelihood, 0):  # at the maximum the means add up to the outcomes
            w = weights_of(likelihood)
            total = w @ np.exp(np.minimum(likelihood.predictors(theta, 0, likelihood.n_terms)[0], 700.0))
            theta[likelihood.equations[0].start] += np.log((w @ y or 1.0) / total)
        return theta

    def dispersed_start(self, likelihood: IndexLikelihood) -> tuple[Array, Array]:
        """Return a start of the mean's coefficients in theta (k,), one scoring step further, and mu (n,)."""
        theta, y = CountModel.start(self, likelihood), likelihood.columns["y"]
        eta = np.clip(likelihood.predictors(theta, 0, likelihood.n_terms)[0], -30, 30)
        mean = np.exp(eta)
        theta = least_squares_start(likelihood, eta + (y - mean) / mean, mean / (1 + mean))
        mean = np.exp(np.clip(likelihood.predictors(theta, 0, likelihood.n_terms)[0], -30, 30))
        return theta, mean

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(np.exp(eta[0]))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean; rate: the mean at an exposure of one; probability[j]: P(y = j)."""
        return {
            **super().quantities,
            "rate": OfRows(self.mean, offsets=False),
            "probability": OfPoints(self.probability, "a count", "2", lambda j: j >= 0 and j % 1 == 0),
        }

    def probability(self, eta: Array, columns: Columns, count: Array) -> Array:
        """Return P(y = count) (n,)."""
        there = {**columns, "y": np.maximum(count, self.lowest)}
        value = self.derivatives(eta, there, 0)[0]
        return np.where(count >= self.lowest, np.exp(value), 0.0)

    def outcomes(
        self, eta: Array, columns: Columns, order: int = 0
    ) -> Iterator[tuple[int, Array, Array | None]]:
        """Yield (j, P(y = j) (n,), d2l/d eta2 at y = j) for j = lowest, lowest + 1, ... without end."""
        for j in range(self.lowest, LAST_COUNT):
            there = {**columns, "y": np.full(eta.shape[1], float(j))}
            with np.errstate(all="ignore"):
                value, _, second = self.derivatives(eta, there, order)
            yield j, np.exp(value), second

    def boundary(self, likelihood: IndexLikelihood, evaluation: Evaluation) -> str | None:
        return self.at_bound(
            likelihood.predictors(evaluation.theta, 0, likelihood.n_terms), likelihood.columns
        )

    def at_bound(self, eta: Array, columns: Columns) -> str | None:
        """Return what is at its bound at predictors eta (E, n), and what that means, or None."""
        return None

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        """Return E[d2l/d eta2] by summation over the support, to 1e-12."""
        total = np.zeros((eta.shape[0] * (eta.shape[0] + 1) // 2, eta.shape[1]))
        past = np.zeros(eta.shape[1])
        for _, probability, second in self.outcomes(eta, columns, 2):
            assert second is not None
            part = np.where(probability > 0, probability * second, 0.0)
            total += part
            past += probability
            if past.min() > 0.9 and np.abs(part).max() <= 1e-15 * max(np.abs(total).max(), 1e-300):
                return total
        raise CovarianceError(
            f"{self.name}: the expected information is a sum over outcomes, which has not ended "
            f"at {LAST_COUNT}: the "
            "distribution's tail is too long. Use 'oim'."
        )

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        y = columns["y"]
        below, past = np.zeros(eta.shape[1]), np.zeros(eta.shape[1])
        for j, probability, _ in self.outcomes(eta, columns):
            below = np.where(y > j, below + probability, below)
            past = np.where(y >= j, past + probability, past)
            if j >= y.max():
                break
        return below, np.minimum(past, 1.0)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        """Draw by inversion, outcome by outcome."""
        draws: Array = np.asarray(rng.random(eta.shape[1]))
        y, past, left = np.zeros(eta.shape[1]), np.zeros(eta.shape[1]), np.arange(eta.shape[1])
        for j, probability, _ in self.outcomes(eta, columns):
            past[left] += probability[left]
            y[left] = j
            left = left[draws[left] > past[left]]
            if not len(left) or j > 50_000:
                break
        return {"y": y}
