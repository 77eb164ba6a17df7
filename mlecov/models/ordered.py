"""Ordered outcomes: ordered logit and ordered probit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.functions import log1mexp
from mlecov.kinds import Kind, ordered
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives, pair_index
from mlecov.models.base import Model, build, outside
from mlecov.models.categories import encode
from mlecov.models.counting import weights_of
from mlecov.models.predicted import Declared, OfRows

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OrderedModel(Model):
    """P(y <= j) = F(c_j - eta_0), y = 0, ..., J - 1; predictors (mu, u_0, ..., u_(J-2)).

    The cut points are c_0 = u_0, c_i = c_(i-1) + exp(u_i). With (a, b) = (c_y - mu, c_(y-1) - mu) the
    row is l(a, b) = log(F(a) - F(b)); u_i moves a where i <= y and b where i <= y - 1.
    """

    levels: tuple[Any, ...]
    without_constant = ("mu",)

    @property
    def equations(self) -> Mapping[str, Kind | None]:  # type: ignore[override]
        return {"mu": None, "cut": ordered(len(self.levels) - 1)}

    @abstractmethod
    def quantile(self, p: Array) -> Array:
        """Return the quantile of F."""

    @abstractmethod
    def between(self, a: Array, b: Array, order: int) -> tuple[Array, ...]:
        """Return log(F(a) - F(b)), and its derivatives l_a, l_b, l_aa, l_ab, l_bb; infinite ends allowed."""

    def check(self, y: Array, columns: Columns) -> str | None:
        top = len(self.levels) - 1
        wrong = outside(y, (y >= 0) & (y <= top) & (y == np.floor(y)), f"a category, 0 to {top}")
        if (
            wrong is None
            and (absent := np.flatnonzero(np.bincount(y.astype(np.intp), minlength=top + 1) == 0)).size
        ):
            names = ", ".join(repr(self.levels[j]) for j in absent)
            return (
                f"never takes the value(s) {names}: the cut points beside them have no maximum. Leave "
                "them out."
            )
        return wrong

    def start(self, likelihood: IndexLikelihood) -> Array:
        theta = likelihood.space.start()
        w, y = weights_of(likelihood), likelihood.columns["y"]
        below = np.array([w @ (y <= j) for j in range(len(self.levels) - 1)]) / w.sum()
        cuts = self.quantile(np.clip(below, 1e-6, 1 - 1e-6))
        return likelihood.space.pack(
            {"cut": np.maximum.accumulate(cuts + 1e-6 * np.arange(len(cuts)))}, theta
        )

    def _ends(self, eta: Array, y: npt.NDArray[np.intp]) -> tuple[Array, Array]:
        steps = np.exp(eta[2:])
        cuts = np.concatenate([eta[1:2], eta[1] + np.cumsum(steps, axis=0)])
        infinite = np.full((1, eta.shape[1]), np.inf)
        table = np.concatenate([-infinite, cuts, infinite])
        rows = np.arange(eta.shape[1])
        return table[y + 1, rows] - eta[0], table[y, rows] - eta[0]

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y = columns["y"].astype(np.intp)
        a, b = self._ends(eta, y)
        found = self.between(a, b, order)
        if not order:
            return found[0], None, None
        value, at_a, at_b = found[:3]
        n_cuts = len(eta) - 1
        step = np.exp(eta[1:])
        step[0] = 1.0
        place = np.arange(n_cuts)[:, None]
        inside, on = place < y, place == y
        first = np.empty_like(eta)
        first[0] = -(at_a + at_b)
        first[1:] = step * np.where(inside, at_a + at_b, np.where(on, at_a, 0.0))
        if order < 2:
            return value, first, None
        a_a, a_b, b_b = found[3:]
        both, mixed = a_a + 2 * a_b + b_b, a_a + a_b
        second = np.zeros((len(pair_index(len(eta))), eta.shape[1]))
        for row, (e, f) in enumerate(pair_index(len(eta))):
            if f == 0:
                second[row] = both
            elif e == 0:
                second[row] = -step[f - 1] * np.where(inside[f - 1], both, np.where(on[f - 1], mixed, 0.0))
            else:
                # e <= f: both move a and b, or f moves a alone, or f moves nothing
                corner = a_a if e == f else mixed
                moved = np.where(inside[f - 1], both, np.where(on[f - 1], corner, 0.0))
                second[row] = step[e - 1] * step[f - 1] * moved
                if e == f and e > 1:
                    second[row] += first[e]
        return value, first, second

    def probabilities(self, eta: Array) -> Array:
        """Return P(y = j) (J, n)."""
        n = eta.shape[1]
        return np.stack(
            [np.exp(self.between(*self._ends(eta, np.full(n, j)), 0)[0]) for j in range(len(self.levels))]
        )

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """probability: P(y = j), one a category; mean: of the category's number."""
        labels = tuple(str(level) for level in self.levels)
        probability = OfRows(lambda eta, columns: self.probabilities(eta), labels)
        return {"mean": OfRows(self.mean), "probability": probability}

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        total = np.zeros((len(pair_index(len(eta))), eta.shape[1]))
        for j in range(len(self.levels)):
            value, _, second = self.derivatives(eta, {"y": np.full(eta.shape[1], float(j))}, 2)
            assert second is not None
            total += np.exp(value) * second
        return total

    def mean(self, eta: Array, columns: Columns) -> Array:
        """Return the mean of the category's number, sum of j P(y = j)."""
        return np.asarray(np.arange(len(self.levels)) @ self.probabilities(eta))

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        past = np.concatenate([np.zeros((1, eta.shape[1])), np.cumsum(self.probabilities(eta), axis=0)])
        y, rows = columns["y"].astype(np.intp), np.arange(eta.shape[1])
        return past[y, rows], np.minimum(past[y + 1, rows], 1.0)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        past = np.cumsum(self.probabilities(eta), axis=0)
        return {"y": (rng.random(eta.shape[1]) > past[:-1]).sum(axis=0).astype(float)}

    def separation(self, eta: Array, columns: Columns) -> npt.NDArray[np.bool_]:
        return np.asarray(np.expm1(self.derivatives(eta, columns, 0)[0]) > -1e-7)


@dataclass(frozen=True)
class OrderedLogit(OrderedModel):
    """F logistic: F(a) - F(b) = F(a) (1 - F(b)) (1 - exp(b - a)), which never cancels."""

    name = "ordered_logit"

    def quantile(self, p: Array) -> Array:
        return np.asarray(special.logit(p))

    def between(self, a: Array, b: Array, order: int) -> tuple[Array, ...]:
        width = a - b
        value = special.log_expit(a) + special.log_expit(-b) + log1mexp(-width)
        if not order:
            return (value,)
        odds = 1.0 / np.expm1(width)
        above, below = special.expit(-a), special.expit(b)
        at_a, at_b = above + odds, -(below + odds)
        if order < 2:
            return value, at_a, at_b
        bend = odds * (1 + odds)
        return value, at_a, at_b, -above * (1 - above) - bend, bend, -below * (1 - below) - bend


@dataclass(frozen=True)
class OrderedProbit(OrderedModel):
    """F normal; intervals right of zero are mirrored, so that differences are of left tails."""

    name = "ordered_probit"

    def quantile(self, p: Array) -> Array:
        return np.asarray(special.ndtri(p))

    def between(self, a: Array, b: Array, order: int) -> tuple[Array, ...]:
        mirrored = a + b > 0
        upper, lower = np.where(mirrored, -b, a), np.where(mirrored, -a, b)
        log_upper, log_lower = special.log_ndtr(upper), special.log_ndtr(lower)
        value = log_upper + log1mexp(np.minimum(log_lower - log_upper, 0.0))
        if not order:
            return (value,)
        log_root = 0.5 * np.log(2 * np.pi)
        at_a = np.exp(-0.5 * a * a - log_root - value)
        at_b = -np.exp(-0.5 * b * b - log_root - value)
        if order < 2:
            return value, at_a, at_b
        finite_a, finite_b = np.where(np.isinf(a), 0.0, a), np.where(np.isinf(b), 0.0, b)
        return value, at_a, at_b, -at_a * (finite_a + at_a), -at_a * at_b, -at_b * (finite_b + at_b)


def ordered_logit(
    formula: Any, data: Any = None, *, levels: Sequence[Any] | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the ordered logit model, P(y <= j | x) = 1 / (1 + exp(x'b - c_j)).

        log f = log(F(c_y - x'b) - F(c_(y-1) - x'b)),   c_(-1) = -inf, c_(J-1) = inf

    The cut points c_0 < ... < c_(J-2) hold the constant: x has none (a constant implied by the
    formula is left out). As Stata's `ologit` and R's `MASS::polr` (SAS and `VGAM` may write + x'b).
    `predict("probability")` gives every category's, `margins(what="probability[2]")` effects on one.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X) without a constant. See `models.base.build`.
    levels :
        The categories from lowest to highest. By default the sorted values of a numeric outcome, the
        order of a categorical one; text needs it.

    Reference: McCullagh (1980), JRSS B 42, 109-142; Greene (2018), section 18.3.

    >>> ordered_logit(np.array([0, 1, 2, 1]), np.array([[0.0], [1.0], [2.0], [0.5]])).space.labels
    ('mu[x0]', 'cut[0]', 'cut[1]')
    """
    outcome, found, source = encode("ordered_logit", formula, data, levels, in_order=True)
    return build(OrderedLogit(found), outcome, source, **options)


def ordered_probit(
    formula: Any, data: Any = None, *, levels: Sequence[Any] | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the ordered probit model, P(y <= j | x) = Phi(c_j - x'b).

        log f = log(Phi(c_y - x'b) - Phi(c_(y-1) - x'b)),   c_(-1) = -inf, c_(J-1) = inf

    As Stata's `oprobit` and R's `MASS::polr(method = "probit")`; x has no constant.

    Parameters
    ----------
    formula, data, levels, options :
        As for `ordered_logit`.

    Reference: McKelvey & Zavoina (1975), Journal of Mathematical Sociology 4; Greene (2018), 18.3.

    >>> ordered_probit(np.array([0, 1, 2, 1]), np.array([[0.0], [1.0], [2.0], [0.5]])).space.k
    3
    """
    outcome, found, source = encode("ordered_probit", formula, data, levels, in_order=True)
    return build(OrderedProbit(found), outcome, source, **options)
