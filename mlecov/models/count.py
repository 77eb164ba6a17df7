"""Count outcomes: the Poisson regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import Model, build, least_squares_start, outside

Array = npt.NDArray[np.float64]


def check_counts(y: Array) -> str | None:
    """Return what is wrong with outcomes that must be counts, or None."""
    return outside(y, (y >= 0) & (y == np.floor(y)), "a count (0, 1, 2, ...)")


@dataclass(frozen=True)
class Poisson(Model):
    """y ~ Poisson with mean exp(eta)."""

    name = "poisson"
    equations = {"mu": None}

    def check(self, y: Array, columns: Columns) -> str | None:
        if len(y) and not y.any():
            return "is 0 in every row: the mean has no maximum likelihood estimate."
        return check_counts(y)

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y = columns["y"]
        mean = np.exp(eta[0])
        value = y * eta[0] - mean - special.gammaln(y + 1)
        if not order:
            return value, None, None
        return value, (y - mean)[None], -mean[None] if order > 1 else None

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        return -np.exp(eta)

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        working = y + 0.5 * (y.mean() if y.any() else 1.0)
        return least_squares_start(likelihood, np.log(working), working)

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.exp(eta[0])

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        y, mean = columns["y"], np.exp(eta[0])
        return np.where(y > 0, special.pdtr(y - 1, mean), 0.0), special.pdtr(y, mean)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return {"y": rng.poisson(np.exp(eta[0])).astype(float)}


def poisson(formula: Any, data: Any = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the Poisson regression with mean exp(x'b).

        log f = y x'b - exp(x'b) - log y!

    log y! is part of the log-likelihood, as in Stata and R.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + exposure(t)" and a frame, or arrays (y, X, exposure=t); y is a count. See
        `models.base.build`.

    Reference: Cameron & Trivedi (2013), chapter 3.
    """
    return build(Poisson(), formula, data, **options)
