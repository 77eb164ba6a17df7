"""Sample selection: the heckman model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.data import is_missing, numeric, open_table
from mlecov.errors import SpecificationError
from mlecov.formulas import parse
from mlecov.functions import log_ndtr_derivatives
from mlecov.kinds import interval, positive
from mlecov.likelihood.base import Evaluation
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import build
from mlecov.models.bounds import BoundedModel, bounded, runs, scalar
from mlecov.models.ends import change_outcome
from mlecov.models.expectation import normal
from mlecov.models.predicted import Declared, OfRows
from mlecov.models.working import common, regress, set_constant

Array = npt.NDArray[np.float64]
LOG_SQRT_2PI = 0.5 * float(np.log(2 * np.pi))

PERFECT = 30.0
"""2 atanh(rho) at which rho is one in every digit."""


@dataclass(frozen=True)
class Heckman(BoundedModel):
    """Outcome y = mu + sigma e seen where select + u > 0; corr(e, u) = tanh(c), 2c the fourth predictor.

    With e = (y - mu)/sigma and h = (select + rho e)/sqrt(1 - rho^2) = select cosh c + e sinh c, a row
    seen contributes log phi(e) - log sigma + log Phi(h), another log Phi(-select).
    """

    name = "heckman"
    equations = {"mu": None, "select": None, "sigma": positive(), "rho": interval(-1, 1)}
    has_expected = True

    def check(self, y: Array, columns: Columns) -> str | None:
        seen = columns["selected"]
        if not np.isin(seen, (0, 1)).all():
            bad = int(np.argmin(np.isin(seen, (0, 1))))
            return f"needs a selection that is 0 or 1; it is {seen[bad]:g} in row {bad}."
        if (seen == seen[0]).all():
            which = "every" if seen[0] else "no"
            return f"is seen in {which} row: there is no selection to model. Use gaussian."
        return None

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        seen = columns["selected"] == 1
        rows, others = np.flatnonzero(seen), np.flatnonzero(~seen)
        n = eta.shape[1]
        value = np.empty(n)
        first = np.zeros((4, n)) if order else None
        second = np.zeros((10, n)) if order > 1 else None
        missing = log_ndtr_derivatives(-eta[1, others], order)
        value[others] = missing[0]
        if first is not None:
            first[1, others] = -missing[1]
        if second is not None:
            second[4, others] = missing[2]
        for whole, piece in zip(
            (value, first, second), _seen(eta[:, rows], columns["y"][rows], order), strict=True
        ):
            if whole is not None:
                whole[..., rows] = piece
        return value, first, second

    def expected(self, eta: Array, columns: Columns) -> Array:
        """Return E[d2l/d eta2]: that of not being seen, and over e where y is.

        `_curves` is a polynomial of second degree in e, whose mean given selection two points with e's
        mean and variance have, and terms in the slope and curve of log Phi(h). With these Phi(h) leaves
        the density, phi(e) phi(h) de = phi(select) phi(t) dt / cosh c with t = e cosh c + select sinh c.
        """
        index, half = eta[1], 0.5 * eta[3]
        sinh, cosh, rho, none = np.sinh(half), np.cosh(half), np.tanh(half), np.zeros_like(half)
        log_seen, mills, bend = log_ndtr_derivatives(index, 2)
        missing = log_ndtr_derivatives(-index, 2)
        mean, spread = rho * mills, np.sqrt(1 + rho * rho * bend)
        total = sum(0.5 * _curves(eta, mean + side * spread, none, none) for side in (1.0, -1.0))
        total = np.exp(log_seen) * total
        total[4] += np.exp(missing[0]) * missing[2]
        slope = np.exp(-0.5 * index * index - LOG_SQRT_2PI) / cosh
        for t, weight in normal():
            e = (t - index * sinh) / cosh
            found = log_ndtr_derivatives(index * cosh + e * sinh, 2)
            mixed = _curves(eta, e, slope, slope * found[2] / found[1])
            total += weight * (mixed - _curves(eta, e, none, none))
        return np.asarray(total)

    def start(self, likelihood: IndexLikelihood) -> Array:
        """Heckman's two steps: probit by Fisher scoring, then least squares on x and the Mills ratio."""
        columns, n = likelihood.columns, likelihood.n_terms
        seen = columns["selected"]
        sign = 2 * seen - 1
        theta = likelihood.space.start()
        share = float(np.clip(seen.mean(), 0.01, 0.99))
        set_constant(likelihood, theta, 1, float(special.ndtri(share)))
        for _ in range(6):
            index = likelihood.predictors(theta, 0, n)[1]
            slope = sign * log_ndtr_derivatives(sign * index, 1)[1]
            weight = log_ndtr_derivatives(index, 1)[1] * log_ndtr_derivatives(-index, 1)[1]
            theta = regress(likelihood, theta, 1, index + slope / weight, weight)
        index = likelihood.predictors(theta, 0, n)[1]
        _, mills, curve = log_ndtr_derivatives(index, 2)
        y = columns["y"]
        theta = regress(likelihood, theta, 0, y, seen)
        # partial regression of the outcome on the Mills ratio, given x
        on_x = regress(likelihood, theta, 0, mills, seen)
        rest = seen * (y - likelihood.predictors(theta, 0, n)[0])
        part = seen * (mills - likelihood.predictors(on_x, 0, n)[0])
        slope = float(rest @ part / max(part @ part, 1e-300))
        spread = float(((rest - slope * part) ** 2).sum() / seen.sum()) or 1.0
        # var(e | seen) = sigma^2 (1 + rho^2 m'), m' = -m (m + index) < 0
        sigma = np.sqrt(max(spread - slope * slope * float((seen * curve).sum() / seen.sum()), 0.25 * spread))
        rho = float(np.clip(slope / sigma, -0.9, 0.9))
        theta = regress(likelihood, theta, 0, y - rho * sigma * mills, seen)
        set_constant(likelihood, theta, 2, float(np.log(sigma)))
        set_constant(likelihood, theta, 3, 2 * float(np.arctanh(rho)))
        return theta

    def boundary(self, likelihood: IndexLikelihood, evaluation: Evaluation) -> str | None:
        place = scalar(likelihood, 3)
        if place is None:
            return None
        sign = float(np.sign(evaluation.theta[place]))
        if abs(evaluation.theta[place]) < PERFECT and not runs(likelihood, evaluation, place, 5.0 * sign):
            return None
        return (
            f"rho is at its bound, {sign:+.0f}: the log-likelihood rises all the way there, as it does in small "
            "samples and where select has no column of its own. There is no interior maximum, and standard "
            "errors have no meaning; give select a column that the outcome lacks, or fix rho "
            "(fixed={'rho': 0.9})."
        )

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(eta[0])

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: x'b; conditional: E(y | seen); expected: E(y seen), zero where not; selection: P(seen); mills."""
        return {
            "mean": OfRows(self.mean),
            "conditional": OfRows(_conditional),
            "expected": OfRows(lambda eta, columns: special.ndtr(eta[1]) * _conditional(eta, columns)),
            "selection": OfRows(lambda eta, columns: special.ndtr(eta[1])),
            "mills": OfRows(lambda eta, columns: log_ndtr_derivatives(eta[1], 1)[1]),
        }

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        none = special.ndtr(-eta[1])
        return np.where(columns["selected"] == 1, none, 0.0), np.where(columns["selected"] == 1, 1.0, none)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        u, w = rng.standard_normal((2, eta.shape[1]))
        rho = np.tanh(0.5 * eta[3])
        seen = eta[1] + u > 0
        y = eta[0] + np.exp(eta[2]) * (rho * u + np.sqrt(1 - rho * rho) * w)
        return {"y": np.where(seen, y, 0.0), "selected": seen.astype(float)}


def _conditional(eta: Array, columns: Columns) -> Array:
    """Return E(y | seen) = x'b + rho sigma phi(z'g) / Phi(z'g) (n,)."""
    mills = log_ndtr_derivatives(eta[1], 1)[1]
    return np.asarray(eta[0] + np.tanh(0.5 * eta[3]) * np.exp(eta[2]) * mills)


def _seen(eta: Array, y: Array, order: int) -> RowDerivatives:
    """Return the contribution of rows whose outcome is seen, with derivatives in all four predictors."""
    scale, half = np.exp(-common(eta[2])), 0.5 * common(eta[3])
    sinh, cosh = np.sinh(half), np.cosh(half)
    e = (y - eta[0]) * scale
    h = eta[1] * cosh + e * sinh
    found = log_ndtr_derivatives(h, order)
    value = found[0] - 0.5 * e * e - LOG_SQRT_2PI - eta[2]
    if not order:
        return value, None, None
    slope = found[1]
    turn = 0.5 * (eta[1] * sinh + e * cosh)  # d h / d rho's coordinate
    first = np.stack([-slope * sinh * scale, slope * cosh, -slope * e * sinh, slope * turn])
    first[0] += e * scale
    first[2] += e * e - 1
    return value, first, _curves(eta, e, slope, found[2]) if order > 1 else None


def _curves(eta: Array, e: Array, slope: Array, curve: Array) -> Array:
    """Return the second derivatives (10, n) of rows seen, `slope` and `curve` being those of log Phi(h)."""
    scale, half = np.exp(-common(eta[2])), 0.5 * common(eta[3])
    sinh, cosh = np.sinh(half), np.cosh(half)
    h = eta[1] * cosh + e * sinh
    steps = (-sinh * scale, cosh, -e * sinh, 0.5 * (eta[1] * sinh + e * cosh))  # d h / d eta
    second = np.empty((10, len(e)))
    place = 0
    for a in range(4):
        scaled = curve * steps[a]
        for b in range(a, 4):
            np.multiply(scaled, steps[b], out=second[place])
            place += 1
    # slope times d2 h: order (0,0) (0,1) (0,2) (0,3) (1,1) (1,2) (1,3) (2,2) (2,3) (3,3)
    second[0] -= scale * scale
    second[2] += scale * (slope * sinh - 2 * e)
    second[3] -= 0.5 * slope * scale * cosh
    second[6] += 0.5 * slope * sinh
    second[7] += e * (slope * sinh - 2 * e)
    second[8] -= 0.5 * slope * e * cosh
    second[9] += 0.25 * slope * h
    return second


def heckman(
    formula: Any,
    data: Any = None,
    *,
    select: Any,
    sigma: str | None = None,
    rho: str | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the linear regression whose outcome is seen for selected rows alone.

        y = x'b + sigma e, seen where z'g + u > 0;   (e, u) standard normal with correlation rho
        not seen:  log Phi(-z'g)
        seen:      log phi(e) - log sigma + log Phi((z'g + rho e) / sqrt(1 - rho^2)),   e = (y - x'b) / sigma

    Full maximum likelihood, not two-step. Stata's `heckman` reports athrho = atanh(rho) and lnsigma
    with the observed information (`oim`); R's `sampleSelection::selection` likewise, its published
    tables BHHH (`opg`). `predict` knows "mean", x'b of all rows, selected or not; "conditional",
    E(y | seen) (Stata's ycond); "expected", E(y) with zero where not seen (yexpected); "selection",
    P(seen) (psel); and "mills", phi / Phi at z'g.

    Parameters
    ----------
    formula, data :
        "y ~ x1 + x2" and a frame; y may be missing, or anything at all, in rows not selected.
        Regressors must be there in every row.
    select :
        Formula of selection, "seen ~ z1 + z2": seen is 0 or 1. Without a left-hand side, rows with a
        missing y are those not selected.
    sigma, rho :
        Formulas of log sigma and of 2 atanh(rho), if they vary.
    options :
        `missing`, `offset`, weights: see `models.base.build`.

    Reference: Heckman (1979), Econometrica 47, 153-161; Amemiya (1985), section 10.7.

    Example
    -------
    >>> import mlecov as ml
    >>> mroz = ml.load("mroz")
    >>> lik = ml.models.heckman("wage ~ education + city", mroz, select="lfp ~ education + age")
    >>> lik.space.labels[-2:]
    ('sigma', 'rho')
    """
    if not isinstance(formula, str) or not isinstance(select, str):
        raise SpecificationError(
            "heckman needs formulas and a frame: heckman('wage ~ educ', data, select='works ~ educ + kids')."
        )
    table = open_table(data)
    chosen = parse(select)
    left = parse(formula).left
    if chosen.left is not None:
        raw = table.raw(chosen.left)
        missing = is_missing(raw)
        filled = numeric(chosen.left, np.where(missing, 0, raw) if missing.any() else raw)
        seen = np.where(missing, np.nan, filled)
    elif left is not None and left in table:
        seen = np.where(is_missing(table.raw(left)), 0.0, 1.0)
    else:
        raise SpecificationError(
            f"heckman: select={select!r} has no left-hand side and the outcome {left!r} is no column "
            "that could be missing; write select='seen ~ ...' with a column that is 0 or 1."
        )
    observed = seen == 1

    def blank(values: Array) -> Array:
        return np.where(seen == 0, 0.0, values)

    formula, table = change_outcome(formula, table, blank, observed)
    label = f"selected={chosen.left or left}"
    table = type(table)({**table.columns, label: seen}, table.n_rows, table.labels)
    right = select.split("~", 1)[-1]
    equations = {"select": right, "sigma": sigma, "rho": rho}
    made = build(Heckman(), formula, table, equations=equations, columns={"selected": label}, **options)
    return bounded(made)
