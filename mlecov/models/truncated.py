"""Samples cut off at limits: truncated_regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import SpecificationError
from mlecov.kinds import positive
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import Model, build, outside
from mlecov.models.limited import NORMAL, Limits, inside, limited_quantities, normal_mass, read_limits
from mlecov.models.predicted import Declared
from mlecov.models.working import regress, residuals, set_constant

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truncated(Model):
    """y ~ N(mu, sigma^2) given left < y < right; rows outside are not in the sample."""

    bounds: Limits = field(default_factory=Limits)
    name = "truncated_regression"
    equations = {"mu": None, "sigma": positive()}
    has_expected = True

    def check(self, y: Array, columns: Columns) -> str | None:
        left, right = self.bounds.of(columns)
        return self.bounds.crossed(columns) or outside(y, (y > left) & (y < right), "between the limits")

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        found = NORMAL.derivatives(eta, columns, order)
        for whole, piece in zip(found, self._mass(eta, columns, order), strict=True):
            if whole is not None and piece is not None:
                whole -= piece
        return found

    def _mass(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        left, right = columns["left"], columns["right"]
        value, first, second = normal_mass(eta, left, right, order)
        free = np.flatnonzero(np.isinf(left) & np.isinf(right))
        for whole in (value, first, second):
            if whole is not None:
                whole[..., free] = 0.0
        return value, first, second

    def expected(self, eta: Array, columns: Columns) -> Array:
        _, first, second = self._mass(eta, columns, 2)
        assert first is not None and second is not None
        # E z = sigma d log mass / d mu, E z^2 = 1 + d log mass / d log sigma
        scale = np.exp(-eta[1])
        return np.stack([-scale * scale, -2 * first[0], -2 * (1 + first[1])]) - second

    def start(self, likelihood: IndexLikelihood) -> Array:
        y = likelihood.columns["y"]
        theta = regress(likelihood, likelihood.space.start(), 0, y)
        set_constant(likelihood, theta, 1, residuals(likelihood, theta, y)[1])
        return theta

    def mean(self, eta: Array, columns: Columns) -> Array:
        return inside(eta, columns, *self.bounds.at(eta.shape[1], columns))[1]

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean, or conditional: E(y* | inside); latent, expected, uncensored: see `limited_quantities`."""
        return {**super().quantities, **limited_quantities(self.bounds.at)}

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        found = np.exp(normal_mass(eta, columns["left"], columns["y"], 0)[0] - self._mass(eta, columns, 0)[0])
        return found, found

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        scale = np.exp(-eta[1])
        a, b = (columns["left"] - eta[0]) * scale, (columns["right"] - eta[0]) * scale
        # drawn from the tail that is the smaller one
        right = np.where(np.isinf(a), 0.0, a) + np.where(np.isinf(b), 0.0, b) > 0
        low, high = np.where(right, -b, a), np.where(right, -a, b)
        share = special.ndtr(low) + rng.random(len(a)) * (special.ndtr(high) - special.ndtr(low))
        z = special.ndtri(share)
        return {"y": eta[0] + np.where(right, -z, z) / scale}


def truncated_regression(
    formula: Any,
    data: Any = None,
    *,
    lower: Any = None,
    upper: Any = None,
    sigma: str | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the normal regression in a sample that holds lower < y < upper alone.

        log f = log phi((y - x'b) / sigma) - log sigma
                - log(Phi((upper - x'b) / sigma) - Phi((lower - x'b) / sigma))

    Unlike `tobit`, nothing is known of the rows beyond the limits, not even their number. `mean`, or
    `conditional`, is E[y | x, lower < y < upper]; `latent` is x'b, `expected` and `uncensored` are
    those of `tobit`. Stata: `truncreg, ll() ul()`; R: `truncreg`.

    Parameters
    ----------
    formula, data :
        "y ~ x1 + x2" and a frame, or arrays (y, X); y lies strictly between the limits.
    lower, upper :
        Limits: a number, a column (missing or infinite: no limit in that row), or None.
    sigma :
        Formula of log sigma, if it varies.
    options :
        `missing`, `offset`, weights: see `models.base.build`.

    Reference: Hausman & Wise (1977), Econometrica 45, 919-938; Greene (2018), section 19.2.

    Example
    -------
    >>> import numpy as np
    >>> truncated_regression(np.array([0.5, 1.0, 2.5]), np.ones((3, 1)), lower=0.0).space.labels
    ('mu[x0]', 'sigma')
    """
    bounds, data, columns = read_limits(formula, data, lower, upper)
    if not columns and np.isinf(bounds.left) and np.isinf(bounds.right):
        raise SpecificationError(
            "truncated_regression: give lower=, upper= or both; without limits use gaussian."
        )
    likelihood = build(
        Truncated(bounds), formula, data, equations={"sigma": sigma}, columns=columns, **options
    )
    left, right = bounds.of(likelihood.columns)
    return replace(likelihood, columns={"y": likelihood.columns["y"], "left": left, "right": right})
