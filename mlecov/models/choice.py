"""Choices among alternatives: multinomial logit and conditional (McFadden) logit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.errors import DataError, IdentificationError, SpecificationError, SupportError, listing
from mlecov.kinds import Kind
from mlecov.likelihood.base import Evaluation
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives, pair_index
from mlecov.likelihood.scores import DenseScores
from mlecov.models.base import Model, build, outside
from mlecov.models.categories import encode
from mlecov.models.predicted import Declared, OfRows, OfSample, Sampled
from mlecov.models.units import UnitData, UnitLikelihood, open_units
from mlecov.parameters import LinearKind, ParameterSpace

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MultinomialLogit(Model):
    """P(y = j) = exp(eta_j) / sum_m exp(eta_m), eta of the base (code 0) zero; J - 1 predictors."""

    levels: tuple[Any, ...]
    name = "multinomial_logit"
    equations: Mapping[str, Kind | None] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "equations", {"mu": None})

    @property
    def several(self) -> Mapping[str, tuple[str, ...]]:
        return {"mu": tuple(str(level) for level in self.levels[1:])}

    def check(self, y: Array, columns: Columns) -> str | None:
        top = len(self.levels) - 1
        wrong = outside(y, (y >= 0) & (y <= top) & (y == np.floor(y)), f"a category, 0 to {top}")
        if (
            wrong is None
            and (absent := np.flatnonzero(np.bincount(y.astype(np.intp), minlength=top + 1) == 0)).size
        ):
            names = ", ".join(repr(self.levels[j]) for j in absent)
            return f"never takes the value(s) {names}: their coefficients have no maximum. Leave them out."
        return wrong

    def _softmax(self, eta: Array) -> tuple[Array, Array]:
        """Return the probabilities of the levels but the base (J - 1, n), and log sum_m exp(eta_m)."""
        largest = np.maximum(eta.max(axis=0), 0.0)
        odds = np.exp(eta - largest)
        total = odds.sum(axis=0) + np.exp(-largest)
        odds /= total
        return odds, largest + np.log(total)

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y, rows = columns["y"].astype(np.intp), np.arange(eta.shape[1])
        probability, log_total = self._softmax(eta)
        value = np.where(y > 0, eta[np.maximum(y - 1, 0), rows], 0.0) - log_total
        if not order:
            return value, None, None
        first = -probability
        chosen = y > 0
        first[y[chosen] - 1, rows[chosen]] += 1.0
        return value, first, self._second(probability) if order > 1 else None

    def _second(self, probability: Array) -> Array:
        pairs = pair_index(len(probability))
        second = np.empty((len(pairs), probability.shape[1]))
        for row, (e, f) in enumerate(pairs):
            np.multiply(probability[e], probability[f] if e != f else probability[e] - 1.0, out=second[row])
        return second

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        return self._second(self._softmax(eta)[0])

    def probabilities(self, eta: Array) -> Array:
        """Return P(y = j) (J, n), the base first."""
        others = self._softmax(eta)[0]
        return np.concatenate([1.0 - others.sum(axis=0, keepdims=True), others])

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """probability: P(y = j), one a category."""
        labels = tuple(str(level) for level in self.levels)
        return {"probability": OfRows(lambda eta, columns: self.probabilities(eta), labels)}

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        past = np.cumsum(self.probabilities(eta), axis=0)
        return {"y": (rng.random(eta.shape[1]) > past[:-1]).sum(axis=0).astype(float)}

    def separation(self, eta: Array, columns: Columns) -> npt.NDArray[np.bool_]:
        return np.asarray(np.expm1(self.derivatives(eta, columns, 0)[0]) > -1e-7)


def multinomial_logit(
    formula: Any, data: Any = None, *, levels: Sequence[Any] | None = None, base: Any = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the multinomial logit model with regressors that vary by chooser.

        P(y = j | x) = exp(x'b_j) / sum_m exp(x'b_m),   b_base = 0

    One equation per category but the base; their coefficients are `mu.category[column]`. Stata's
    `mlogit` takes the most frequent category as the base unless told, R's `nnet::multinom` the first
    level, statsmodels' `MNLogit` the smallest. Observed and expected information are the same.
    `predict("probability")` gives every category's, `margins(what="probability[2]")` effects on one.

    Parameters
    ----------
    formula, data, options :
        "y ~ x1 + x2" and a frame, or arrays (y, X); y holds numbers or text. See `models.base.build`.
    levels :
        The categories; by default all that occur, sorted (or a categorical's own order).
    base :
        The category whose coefficients are zero; the first by default.

    Reference: Greene (2018), section 18.2.1; Cameron & Trivedi (2005), section 15.4.

    >>> multinomial_logit(np.array(["a", "b", "c"]), np.ones((3, 1)), base="b").space.labels
    ('mu.a[x0]', 'mu.c[x0]')
    """
    name = "multinomial_logit"
    if base is not None:
        found = encode(name, formula, data, levels, in_order=False)[1]
        if base not in found:
            raise SpecificationError(
                f"{name}: base={base!r} is not among the categories {listing(map(repr, found))}."
            )
        levels = [base, *(level for level in found if level != base)]
    outcome, found, source = encode(name, formula, data, levels, in_order=False)
    return build(MultinomialLogit(found), outcome, source, **options)


@dataclass(frozen=True)
class ConditionalLogit(UnitLikelihood):
    """One choice among the rows of each unit: P(row) = exp(v) / sum over the unit's rows, v = x'b."""

    def linear_predictor(self, theta: Array) -> Array:
        return np.asarray(self.data.matrix @ theta + self.data.offset)

    def probabilities(self, theta: Array) -> Array:
        """Return the probability of every row (N,), in the order of units."""
        return self._softmax(theta)[0]

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """probability: P_j of a row, given its choice set.

        own_effect: dP_j/dx_jk = b_k P_j (1 - P_j); own_elasticity: times x_jk / P_j; cross_elasticity:
        -b_k x_jk P_j, of the probability of any other row of the set in x_jk. One a column k.
        """
        names = self.data.names
        found: dict[str, Declared] = {"probability": OfSample(_chance, (), "rows", True)}
        for name in ("own_effect", "own_elasticity", "cross_elasticity"):
            found[name] = OfSample(_response(name), names, "rows", True)
        return found

    def chances(self, theta: Array, order: int) -> tuple[Array, Array | None]:
        """Return P (N,) and dP/dtheta (N, k), P_j (x_j - mean x of the set), in the order of units."""
        data, (_, odds, total) = self.data, self._odds(theta)
        probability = odds / total[data.codes]
        if not order:
            return probability, None
        mean = data.sums(probability[:, None] * data.matrix)
        return probability, probability[:, None] * (data.matrix - mean[data.codes])

    def _odds(self, theta: Array) -> tuple[Array, Array, Array]:
        """Return v (N,) less the largest of its set, exp(v), and the sums of that over sets (n,)."""
        data = self.data
        v = self.linear_predictor(theta)
        v -= np.maximum.reduceat(v, data.bounds[:-1])[data.codes]
        odds = np.exp(v)
        return v, odds, data.sums(odds)

    def _softmax(self, theta: Array) -> tuple[Array, Array]:
        data, (v, odds, total) = self.data, self._odds(theta)
        return odds / total[data.codes], v[data.y == 1] - np.log(total)

    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        data, w = self.data, self.term_weights(weights)
        theta = np.asarray(theta, dtype=float)
        with np.errstate(all="ignore"):
            probability, terms = self._softmax(theta)
        loglike = float(terms.sum() if w is None else w @ terms)
        if not order and not scores:
            return Evaluation(theta, loglike, loglike_obs=terms)
        # the score of a unit is the chosen row less the mean row, the Hessian minus the rows' variance
        mean = data.sums(probability[:, None] * data.matrix)
        first = data.matrix[data.y == 1] - mean
        gradient = first.sum(axis=0) if w is None else w @ first
        hessian = None
        if order > 1:
            centred = data.matrix - mean[data.codes]
            row_weights = probability if w is None else probability * w[data.codes]
            hessian = -(centred.T @ (centred * row_weights[:, None]))
        found = DenseScores(first, self.weights) if scores else None
        return Evaluation(theta, loglike, gradient, hessian, found, terms)

    has_expected_information = True  # type: ignore[assignment]
    has_expected_blocks = True  # type: ignore[assignment]

    def information(self, theta: Array) -> Array:
        hessian = self.evaluate(theta, order=2).hessian
        assert hessian is not None
        return -hessian

    def simulate(self, rng: np.random.Generator, theta: Array) -> ConditionalLogit:
        v = self.linear_predictor(theta) + rng.gumbel(size=len(self.data.y))
        return replace(self, data=replace(self.data, y=choose(self.data, v)))

    def separation(self, theta: Array) -> str | None:
        perfect = np.expm1(self._softmax(theta)[1]) > -1e-7
        if not perfect.any():
            return None
        share = "all" if perfect.all() else f"{int(perfect.sum())} of {len(perfect)}"
        return f"the outcomes of {share} terms are fitted with probability one"


def _chance(likelihood: ConditionalLogit, theta: Array, order: int) -> Sampled:
    value, slope = likelihood.chances(theta, order)
    data = likelihood.data
    return Sampled(data.as_given(value), None if slope is None else data.as_given(slope.T).T)


def _response(name: str) -> Callable[[ConditionalLogit, Array, int], Sampled]:
    """Return the function (likelihood, theta, order) of an effect or elasticity in each column (p, N)."""

    def response(likelihood: ConditionalLogit, theta: Array, order: int) -> Sampled:
        data = likelihood.data
        P, dP = likelihood.chances(theta, order)
        x = data.matrix.T
        flat = np.broadcast_to(P * (1.0 - P), x.shape)
        share = {"own_effect": flat, "own_elasticity": x * (1.0 - P)}.get(name, -x * P)
        value = data.as_given(theta[:, None] * share)
        if dP is None:
            return Sampled(value)
        slope = {"own_effect": np.broadcast_to(1.0 - 2.0 * P, x.shape)}.get(name, -x)
        moved = theta[:, None, None] * slope[:, :, None] * dP  # (p, N, k)
        own = np.arange(len(theta))
        moved[own, :, own] += share
        return Sampled(value, np.moveaxis(data.as_given(np.moveaxis(moved, -1, 0)), 0, -1))

    return response


def choose(data: UnitData, utility: Array, bounds: npt.NDArray[np.intp] | None = None) -> Array:
    """Return y (N,): 1 at the row of highest utility of each unit (or of each block of `bounds`)."""
    bounds = data.bounds if bounds is None else bounds
    best = np.maximum.reduceat(utility, bounds[:-1])
    return np.asarray(utility == np.repeat(best, np.diff(bounds)), dtype=float)


def check_choices(name: str, outcome: str, y: Array, bounds: npt.NDArray[np.intp], labels: Any) -> None:
    """Raise SupportError unless y is 0 or 1, and 1 exactly once between bounds."""
    if not np.isin(y, (0.0, 1.0)).all():
        raise SupportError(
            f"{name}: the outcome {outcome!r} must be 1 on the chosen row and 0 on the others."
        )
    counts = np.add.reduceat(y, bounds[:-1])
    if (counts != 1).any():
        bad = np.flatnonzero(counts != 1)
        raise SupportError(
            f"{name}: one row of each choice situation must be chosen; {len(bad)} situation(s) "
            "have another number, "
            f"for example {labels[bad[0]]!r} with {counts[bad[0]]:g}."
        )


def refuse_constant_columns(name: str, data: UnitData, bounds: npt.NDArray[np.intp]) -> None:
    """Raise IdentificationError for columns that never vary within a choice situation."""
    first = np.repeat(bounds[:-1], np.diff(bounds))
    fixed = np.flatnonzero((data.matrix == data.matrix[first]).all(axis=0))
    if len(fixed):
        raise IdentificationError(
            f"{name}: column(s) {listing(data.names[j] for j in fixed)} do not vary within any "
            "choice situation, so the "
            "choice says nothing of their coefficients. Interact them with alternatives (C(mode):income)."
        )


def conditional_logit(
    formula: Any, data: Any = None, *, unit: Any = None, **options: Any
) -> ConditionalLogit:
    """Return the likelihood of McFadden's conditional logit: a row per alternative, a unit per choice.

        P(j chosen) = exp(x_j'b) / sum over the unit's rows m of exp(x_m'b)

    Choice sets may differ in size. There is no constant; constants of alternatives are columns such
    as `C(mode)`. As Stata's `clogit` and `asclogit`, R's `survival::clogit` and `mlogit`. A term is a
    unit. Observed and expected information are the same. `predict` knows "probability" (also for new
    choice sets), "own_effect", "own_elasticity" and "cross_elasticity" by column ("own_elasticity[price]").

    Parameters
    ----------
    formula, data :
        "chosen ~ price + time" and a frame, or arrays (y, X); y is 1 on the chosen row, else 0.
    unit :
        Column name or array: which rows are one choice situation.
    options :
        `offset`, `missing`, weights (the same on all rows of a unit).

    Reference: McFadden (1974), in Zarembka (ed.), Frontiers in Econometrics; Greene (2018), 18.2.3.

    >>> y, X, unit = np.array([1, 0, 0, 1]), np.array([[1.0], [2], [3], [1]]), np.array([0, 0, 1, 1])
    >>> conditional_logit(y, X, unit=unit).n_terms
    2
    """
    name = "conditional_logit"
    made, rows, weights, facts = open_units(name, formula, data, unit, constant=False, **options)
    if not made.names:
        raise DataError(f"{name}: there are no regressors.")
    check_choices(name, facts.outcome or "y", made.y, made.bounds, rows.labels)
    refuse_constant_columns(name, made, made.bounds)
    space = ParameterSpace.of({"mu": LinearKind(made.names)})
    return ConditionalLogit(space, rows, weights, facts, made)
