"""Successes out of a known number of trials, with a probability that varies: the beta-binomial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import SpecificationError
from mlecov.functions import gammaln_ratio_derivatives
from mlecov.kinds import positive
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import build, least_squares_start, outside, set_constant
from mlecov.models.bounds import bounded
from mlecov.models.counting import AT_BOUND, CountModel, weights_of
from mlecov.models.predicted import Declared, OfRows

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BetaBinomial(CountModel):
    """y of `trials` with a beta(p theta, (1 - p) theta) probability; predictors (logit p, log theta)."""

    name = "beta_binomial"
    equations = {"mu": None, "theta": positive()}

    def check(self, y: Array, columns: Columns) -> str | None:
        trials = columns["trials"]
        whole = (y == np.floor(y)) & (trials == np.floor(trials))
        wrong = outside(
            y, whole & (y >= 0) & (y <= trials), "a count between 0 and the trials, both whole numbers"
        )
        if wrong is None and len(trials) and trials.max() < 2:
            return "has one trial in every row: theta is not identified. Use logit."
        return wrong

    def start(self, likelihood: IndexLikelihood) -> Array:
        y, trials, w = likelihood.columns["y"], likelihood.columns["trials"], weights_of(likelihood)
        share = (y + 0.5) / (trials + 1.0)
        weight = trials * share * (1 - share)
        theta = least_squares_start(likelihood, special.logit(share), weight)
        p = special.expit(likelihood.predictors(theta, 0, likelihood.n_terms)[0])
        # Var y = n p (1 - p) (1 + (n - 1) rho), rho = 1 / (1 + theta)
        spread = trials * p * (1 - p)
        excess = float(w @ ((y - trials * p) ** 2 - spread)) / max(float(w @ (spread * (trials - 1))), 1e-300)
        rho = np.clip(excess, 0.005, 0.8)
        set_constant(likelihood, theta, 1, float(np.log(1 / rho - 1)))
        return theta

    def at_bound(self, eta: Array, columns: Columns) -> str | None:
        rho = float(special.expit(-eta[1].min()))
        if rho > AT_BOUND:
            return None
        return (
            f"theta is without bound (1 / (1 + theta) = {rho:.1g}): successes vary no more than "
            "binomial ones. The "
            "maximum is the binomial regression's; theta's standard error has no meaning."
        )

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y, trials = columns["y"], columns["trials"]
        theta = np.exp(eta[1])
        p, q = special.expit(eta[0]), special.expit(-eta[0])
        a, b, failures = p * theta, q * theta, trials - y
        won = gammaln_ratio_derivatives(y, a, order)
        lost = gammaln_ratio_derivatives(failures, b, order)
        both = gammaln_ratio_derivatives(trials, theta, order)
        choose = special.gammaln(trials + 1) - special.gammaln(y + 1) - special.gammaln(failures + 1)
        value = choose + won[0] + lost[0] - both[0]
        if not order:
            return value, None, None
        slope = theta * p * q
        in_p = slope * (won[1] - lost[1])
        in_theta = a * won[1] + b * lost[1] - theta * both[1]
        first = np.stack([in_p, in_theta])
        if order < 2:
            return value, first, None
        second = np.stack(
            [
                in_p * (q - p) + slope * slope * (won[2] + lost[2]),
                in_p + slope * (a * won[2] - b * lost[2]),
                in_theta + a * a * won[2] + b * b * lost[2] - theta * theta * both[2],
            ]
        )
        return value, first, second

    def expected(self, eta: Array, columns: Columns) -> Array:
        total = np.zeros((3, eta.shape[1]))
        for j in range(int(columns["trials"].max()) + 1):
            rows = np.flatnonzero(columns["trials"] >= j)
            there = {"y": np.full(len(rows), float(j)), "trials": columns["trials"][rows]}
            value, _, second = self.derivatives(eta[:, rows], there, 2)
            assert second is not None
            total[:, rows] += np.exp(value) * second
        return total

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(columns["trials"] * special.expit(eta[0]))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: of the successes; share: p; probability[j]: P(y = j)."""
        share = OfRows(lambda eta, columns: special.expit(eta[0]))
        return {key: value for key, value in super().quantities.items() if key != "rate"} | {"share": share}

    def probability(self, eta: Array, columns: Columns, count: Array) -> Array:
        possible = count <= columns["trials"]
        found = super().probability(eta, columns, np.where(possible, count, 0.0))
        return np.where(possible, found, 0.0)

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        y, below, past = columns["y"], np.zeros(eta.shape[1]), np.zeros(eta.shape[1])
        for j in range(int(y.max()) + 1):
            here = {"y": np.minimum(float(j), y), "trials": columns["trials"]}
            probability = np.exp(self.derivatives(eta, here, 0)[0])
            below = np.where(y > j, below + probability, below)
            past = np.where(y >= j, past + probability, past)
        return below, np.minimum(past, 1.0)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        theta = np.exp(eta[1])
        p = rng.beta(special.expit(eta[0]) * theta, special.expit(-eta[0]) * theta)
        return {"y": rng.binomial(columns["trials"].astype(np.int64), p).astype(float)}


def beta_binomial(
    formula: Any, data: Any = None, *, trials: Any = None, theta: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the beta-binomial regression of y successes in n trials.

        log f = log C(n, y) + log B(y + a, n - y + b) - log B(a, b),
        a = p theta,  b = (1 - p) theta,  p = 1 / (1 + exp(-x'b))

    The intra-class correlation is 1 / (1 + theta); theta without bound is the binomial. R's `aod`
    reports phi = 1 / (1 + theta), `bbmle` and `emdbook` theta, `VGAM` rho = 1 / (1 + theta).

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X). See `models.base.build`.
    trials :
        Column name or (n,) array: the number of trials of each row.
    theta :
        Formula of log theta.

    Reference: Crowder (1978), Applied Statistics 27, 34-37; Prentice (1986), JASA 81.

    >>> beta_binomial(np.array([0.0, 1.0, 3.0]), np.ones((3, 1)), trials=np.full(3, 5.0)).space.labels
    ('mu[x0]', 'theta')
    """
    if trials is None:
        raise SpecificationError(
            "beta_binomial needs trials=, the numbers of trials; expected a column name or an "
            "array, got None."
        )
    further = {"theta": theta}
    made = build(BetaBinomial(), formula, data, equations=further, columns={"trials": trials}, **options)
    return bounded(made)
