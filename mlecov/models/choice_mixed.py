"""Mixed logit: choices with coefficients that vary between persons, by simulated likelihood."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import SpecificationError, listing
from mlecov.kinds import positive
from mlecov.lazy import lazy
from mlecov.likelihood.base import Evaluation
from mlecov.likelihood.scores import DenseScores
from mlecov.models.choice import ConditionalLogit, check_choices, choose, refuse_constant_columns
from mlecov.models.predicted import Declared, OfSample, Sampled
from mlecov.models.units import UnitLikelihood, open_units
from mlecov.parameters import LinearKind, ParameterSpace

qmc = lazy("scipy.stats.qmc")

Array = npt.NDArray[np.float64]
BLOCK = 2_000_000
"""Numbers (rows x draws x parameters) held at once."""
NO_SPREAD = 1e-4
"""Spread of utility, sd[x] times the standard deviation of x, below which sd[x] counts as being zero."""


@dataclass(frozen=True)
class MixedLogit(UnitLikelihood):
    """log of the mean over R draws of prod_s P(choice in situation s); a unit is a person.

    V = x'(b + sd * z) for standard normal draws z (n, R, q) of the random columns; theta = (b, log sd).
    Derivatives of the simulated likelihood are exact: with posterior weights p_r of the draws,
    score = sum p_r g_r and Hessian = sum p_r (H_r + g_r g_r') - score score'.
    """

    random: tuple[int, ...] = ()
    draws: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))

    def linear_predictor(self, theta: Array) -> Array:
        return np.asarray(self.data.matrix @ theta[: self.data.matrix.shape[1]] + self.data.offset)

    def subset(self, terms: npt.NDArray[np.intp]) -> MixedLogit:
        return replace(super().subset(terms), draws=self.draws[terms])

    def start(self) -> Array:
        """Return the conditional logit's estimates, and spreads of half a unit of utility."""
        theta = np.zeros(self.space.k)
        p = self.data.matrix.shape[1]
        pooled = self.conditional()
        for _ in range(4):
            found = pooled.evaluate(theta[:p], order=2)
            assert found.gradient is not None and found.hessian is not None
            theta[:p] -= np.linalg.lstsq(found.hessian, found.gradient, rcond=None)[0]
        spread = self.data.matrix[:, list(self.random)].std(axis=0)
        theta[p:] = np.log(0.5 / np.maximum(spread, 1e-300))
        return theta

    @property
    def start_values(self) -> Any:
        """Says that `start` is the model's own."""
        return self.start

    def boundary(self, evaluation: Evaluation) -> str | None:
        p = self.data.matrix.shape[1]
        spread = np.exp(evaluation.theta[p:]) * self.data.matrix[:, list(self.random)].std(axis=0)
        flat = [self.data.names[j] for j, size in zip(self.random, spread, strict=True) if size < NO_SPREAD]
        if not flat:
            return None
        return (
            f"the standard deviation of {listing(flat)} is at its bound, zero: the choices show no variation of "
            "the coefficient between persons. Its standard error has no meaning; leave the column out of "
            "random=, or look whether more draws= change this."
        )

    def conditional(self) -> ConditionalLogit:
        """Return the conditional logit of all choice situations (no coefficient varies)."""
        bounds = self.situations()
        data = replace(self.data, bounds=bounds, inner=None)
        space = ParameterSpace.of({"mu": LinearKind(self.data.names)})
        return ConditionalLogit(space, self.rows, None, self.facts, data)

    def situations(self) -> npt.NDArray[np.intp]:
        """Return the first row of each choice situation, and the number of rows."""
        inner = self.data.codes if self.data.inner is None else self.data.inner
        return np.concatenate([[0], np.flatnonzero(np.diff(inner)) + 1, [len(inner)]]).astype(np.intp)

    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        theta = np.asarray(theta, dtype=float)
        order = max(order, 1) if scores else order
        w = self.term_weights(weights)
        n, k = self.n_terms, self.space.k
        terms, first = np.empty(n), np.empty((n, k))
        hessian = np.zeros((k, k))
        with np.errstate(all="ignore"):
            for part, inside in self._parts(order):
                found = self._block(theta, part, inside, order, None if w is None else w[part])
                terms[part], first[part] = found[0], found[1]
                hessian += found[2]
        loglike = float(terms.sum() if w is None else w @ terms)
        if not order:
            return Evaluation(theta, loglike, loglike_obs=terms)
        gradient = first.sum(axis=0) if w is None else w @ first
        kept = DenseScores(first, self.weights) if scores else None
        return Evaluation(theta, loglike, gradient, hessian if order > 1 else None, kept, terms)

    def _parts(self, order: int) -> Iterator[tuple[slice, npt.NDArray[np.intp]]]:
        """Yield units that fit into memory at once, with the first rows of their choice situations."""
        starts, bounds, n = self.situations(), self.data.bounds, self.n_terms
        rows_at_once = max(BLOCK // (self.draws.shape[1] * (self.space.k if order else 1)), 1)
        low = 0
        while low < n:
            high = max(int(np.searchsorted(bounds, bounds[low] + rows_at_once, side="right")) - 1, low + 1)
            yield slice(low, high), starts[(starts >= bounds[low]) & (starts < bounds[high])] - bounds[low]
            low = high

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """probability: mean over the draws of P_j of a row; tastes: E(b_i | choices), by person."""
        labels = tuple(self.data.names[j] for j in self.random)
        return {
            "probability": OfSample(_chance, (), "rows", True),
            "tastes": OfSample(_tastes, labels),
        }

    def at(self, data: Any) -> MixedLogit:
        """Return the likelihood over new choice sets; persons take the draws of the fit's in turn."""
        found = super().at(data)
        return replace(found, draws=self.draws[np.arange(found.n_terms) % len(self.draws)])

    def chances(self, theta: Array, order: int) -> tuple[Array, Array | None]:
        """Return P (N,), the mean over draws, and its derivatives (N, k), in the order of units."""
        p, bounds = self.data.matrix.shape[1], self.data.bounds
        value = np.empty(len(self.data.y))
        slope = np.empty((len(value), self.space.k)) if order else None
        for part, situation in self._parts(order):
            rows = slice(bounds[part.start], bounds[part.stop])
            x = self.data.matrix[rows]
            v, moved, sizes = self._utilities(theta, part, situation)
            odds = np.exp(v)
            odds /= np.repeat(np.add.reduceat(odds, situation, axis=0), sizes, axis=0)
            value[rows] = odds.mean(axis=1)
            if slope is not None:
                z = np.concatenate([np.broadcast_to(x[:, None, :], (*v.shape, p)), moved], axis=2)
                mean = np.add.reduceat(odds[:, :, None] * z, situation, axis=0)
                slope[rows] = (odds[:, :, None] * (z - np.repeat(mean, sizes, axis=0))).mean(axis=1)
        return value, slope

    def posterior(self, theta: Array) -> Array:
        """Return the probability of each draw given a person's choices (n, R). Reference: Train (2009), ch. 11."""
        found = np.empty(self.draws.shape[:2])
        for part, situation in self._parts(0):
            bounds = self.data.bounds[part.start : part.stop + 1]
            v = self._utilities(theta, part, situation)[0]
            chosen = self.data.y[bounds[0] : bounds[-1]] == 1
            log_choice = v[chosen] - np.log(np.add.reduceat(np.exp(v), situation, axis=0))
            starts = np.searchsorted(situation, bounds[:-1] - bounds[0])
            found[part] = special.softmax(np.add.reduceat(log_choice, starts, axis=0), axis=1)
        return found

    def _utilities(
        self, theta: Array, part: slice, situation: npt.NDArray[np.intp]
    ) -> tuple[Array, Array, npt.NDArray[np.intp]]:
        """Return V (N, R) less the largest of its situation, dV/dlog sd (N, R, q) and situations' sizes."""
        bounds = self.data.bounds[part.start : part.stop + 1]
        rows = slice(bounds[0], bounds[-1])
        x, p = self.data.matrix[rows], self.data.matrix.shape[1]
        sizes = np.diff(np.r_[situation, len(x)])
        unit = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        # d V / d log sd (N, R, q), which is also its second derivative
        moved = x[:, None, list(self.random)] * (np.exp(theta[p:]) * self.draws[part])[unit]
        v = (x @ theta[:p] + self.data.offset[rows])[:, None] + moved.sum(axis=2)
        v -= np.repeat(np.maximum.reduceat(v, situation, axis=0), sizes, axis=0)
        return v, moved, sizes

    def _block(
        self, theta: Array, part: slice, situation: npt.NDArray[np.intp], order: int, w: Array | None
    ) -> tuple[Array, Array, Array]:
        """Return loglike_obs, scores and the weighted Hessian of the units of `part`."""
        bounds = self.data.bounds[part.start : part.stop + 1]
        rows = slice(bounds[0], bounds[-1])
        x, y = self.data.matrix[rows], self.data.y[rows]
        first_rows, p, k = bounds[:-1] - bounds[0], self.data.matrix.shape[1], self.space.k
        unit = np.repeat(np.arange(len(first_rows)), np.diff(bounds))
        v, moved, sizes = self._utilities(theta, part, situation)
        odds = np.exp(v)
        total = np.add.reduceat(odds, situation, axis=0)
        chosen = y == 1
        log_choice = v[chosen] - np.log(total)
        person_of = unit[situation]
        starts = np.searchsorted(person_of, np.arange(len(first_rows)))
        joint = np.add.reduceat(log_choice, starts, axis=0)
        largest = joint.max(axis=1, keepdims=True)
        posterior = np.exp(joint - largest)
        mass = posterior.sum(axis=1, keepdims=True)
        terms = (largest + np.log(mass / posterior.shape[1]))[:, 0]
        if not order:
            return terms, np.zeros((len(terms), k)), np.zeros((k, k))
        posterior /= mass
        odds /= np.repeat(total, sizes, axis=0)
        z = np.concatenate([np.broadcast_to(x[:, None, :], (*v.shape, p)), moved], axis=2)
        mean = np.add.reduceat(odds[:, :, None] * z, situation, axis=0)
        g = np.add.reduceat(z[chosen] - mean, starts, axis=0)
        first = np.einsum("nr,nrk->nk", posterior, g)
        if order < 2:
            return terms, first, np.zeros((k, k))
        weight = posterior if w is None else posterior * w[:, None]
        centred = (z - np.repeat(mean, sizes, axis=0)) * np.sqrt(odds * weight[unit])[:, :, None]
        flat, outer = centred.reshape(-1, k), (g * np.sqrt(weight)[:, :, None]).reshape(-1, k)
        hessian = outer.T @ outer - flat.T @ flat - first.T @ (first if w is None else first * w[:, None])
        own = np.arange(p, k)
        hessian[own, own] += np.einsum("nr,nrk->k", weight, g[:, :, p:])
        return terms, first, hessian

    def simulate(self, rng: np.random.Generator, theta: Array) -> MixedLogit:
        p = self.data.matrix.shape[1]
        tastes = rng.standard_normal((self.n_terms, len(self.random))) * np.exp(theta[p:])
        v = self.linear_predictor(theta) + (
            self.data.matrix[:, list(self.random)] * tastes[self.data.codes]
        ).sum(1)
        v += rng.gumbel(size=len(v))
        return replace(self, data=replace(self.data, y=choose(self.data, v, self.situations())))


def _chance(likelihood: MixedLogit, theta: Array, order: int) -> Sampled:
    value, slope = likelihood.chances(theta, order)
    data = likelihood.data
    return Sampled(data.as_given(value), None if slope is None else data.as_given(slope.T).T)


def _tastes(likelihood: MixedLogit, theta: Array, order: int) -> Sampled:
    p, places = likelihood.data.matrix.shape[1], list(likelihood.random)
    weight = likelihood.posterior(theta)
    moved = np.exp(theta[p:]) * likelihood.draws
    mean = np.einsum("nr,nrq->qn", weight, moved)
    variance = np.einsum("nr,nrq->qn", weight, moved**2) - mean**2
    return Sampled(theta[places][:, None] + mean, None, np.maximum(variance, 0.0))


def normal_draws(n: int, draws: int, dimensions: int, sequence: str, seed: int) -> Array:
    """Return quasi-random standard normal draws (n, R, q), consecutive points of the sequence to a unit."""
    if sequence == "halton":
        points = qmc.Halton(dimensions, scramble=True, rng=seed).random(n * draws)
    elif sequence == "sobol":
        size = int(np.ceil(np.log2(max(n * draws, 2))))
        points = qmc.Sobol(dimensions, scramble=True, rng=seed).random_base2(size)[: n * draws]
    else:
        raise SpecificationError(f"sequence={sequence!r} is not known; expected 'halton' or 'sobol'.")
    return np.asarray(special.ndtri(np.clip(points, 1e-15, 1 - 1e-15))).reshape(n, draws, dimensions)


def mixed_logit(
    formula: Any,
    data: Any = None,
    *,
    unit: Any = None,
    situation: Any = None,
    random: Sequence[str] = (),
    draws: int = 200,
    sequence: str = "halton",
    seed: int = 0,
    **options: Any,
) -> MixedLogit:
    """Return the simulated likelihood of the mixed logit model with independent normal coefficients.

        P(choices of person i) = mean over r of prod_s exp(x_c'b_ir) / sum_m exp(x_m'b_ir),
        b_ir = b + sd * z_ir,  z standard normal

    A term is a person, whose choice situations share the coefficients (panel scores). `mu[...]` are
    means, `sd[...]` standard deviations (Stata's `mixlogit`/`cmxtmixlogit` and R's `mlogit`
    and `gmnl` report the sd with either sign). The draws are part of the likelihood: the same seed
    gives the same numbers; standard errors do not hold the simulation's own error, which
    falls with `draws`. `predict` knows "probability" (also for new choice sets) and "tastes", the
    means of the random coefficients given each person's choices.

    Parameters
    ----------
    formula, data :
        "chosen ~ price + time" and a frame, or arrays (y, X); y is 1 on the chosen row, else 0.
    unit :
        Person: a column name or array.
    situation :
        Choice situation within the person; by default each person chooses once.
    random :
        Names of the columns whose coefficients vary ("x0", ... for arrays).
    draws, sequence, seed :
        Number of scrambled Halton ("halton") or Sobol ("sobol") points per person.
    options :
        `offset`, `missing`, weights (the same on all rows of a person).

    Reference: Train (2009), Discrete Choice Methods with Simulation, chapters 6, 9 and 10.

    >>> y, X, unit = np.array([1, 0, 0, 1]), np.array([[1.0], [2], [3], [1]]), np.array([0, 0, 1, 1])
    >>> mixed_logit(y, X, unit=unit, random=["x0"], draws=8).space.labels
    ('mu[x0]', 'sd[x0]')
    """
    name = "mixed_logit"
    chosen = [random] if isinstance(random, str) else list(random)
    made, rows, weights, facts = open_units(
        name, formula, data, unit, constant=False, inner=situation, **options
    )
    unknown = [column for column in chosen if column not in made.names]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise SpecificationError(
            f"{name}: random={chosen!r}; expected distinct columns among {listing(made.names)}. "
            "Without any, use "
            "conditional_logit."
        )
    if not isinstance(draws, (int, np.integer)) or draws < 2:
        raise SpecificationError(f"{name}: draws={draws!r}; expected a whole number of at least 2.")
    places = tuple(made.names.index(column) for column in chosen)
    space = ParameterSpace.of(
        {"mu": LinearKind(made.names), **{f"sd[{column}]": positive(1.0) for column in chosen}}
    )
    points = normal_draws(len(made.bounds) - 1, int(draws), len(places), sequence, seed)
    found = MixedLogit(space, rows, weights, facts, made, places, points)
    bounds = found.situations()
    check_choices(name, facts.outcome or "y", made.y, bounds, np.arange(len(bounds) - 1))
    refuse_constant_columns(name, made, bounds)
    return found
