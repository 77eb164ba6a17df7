"""Durations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import Model, build, least_squares_start, outside

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Exponential(Model):
    """y ~ exponential with mean exp(eta)."""

    name = "exponential"
    equations = {"mu": None}

    def check(self, y: Array, columns: Columns) -> str | None:
        return outside(y, y >= 0, "non-negative")

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        ratio = columns["y"] * np.exp(-eta[0])
        value = -eta[0] - ratio
        if not order:
            return value, None, None
        return value, (ratio - 1.0)[None], -ratio[None] if order > 1 else None

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        return np.full((1, eta.shape[1]), -1.0)

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        return least_squares_start(likelihood, np.log(y + 0.5 * y.mean() + 1e-300) - 0.5)

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.exp(eta[0])

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        found = -np.expm1(-columns["y"] * np.exp(-eta[0]))
        return found, found

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return {"y": rng.exponential(np.exp(eta[0]))}


def exponential(formula: Any, data: Any = None, **options: Any) -> IndexLikelihood:
    """Return the likelihood of the exponential regression with mean exp(x'b).

        log f = -mu - y exp(-mu),   mu = x'b = log E[y]

    Stata's `streg, distribution(exponential)` reports the hazard form, coefficients of opposite sign.

    Parameters
    ----------
    formula, data, options :
        As for `gaussian`; `exposure=` and `offset=` enter mu with coefficient one.

    Reference: Greene (2018), section 14.4; Kalbfleisch & Prentice (2002), section 2.2.1.
    """
    return build(Exponential(), formula, data, **options)
