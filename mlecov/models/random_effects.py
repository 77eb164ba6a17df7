"""Panels of binary outcomes with a normal random intercept, by adaptive Gauss-Hermite quadrature."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import QuadratureWarning, SpecificationError, SupportError, warn
from mlecov.functions import log_ndtr_derivatives
from mlecov.kinds import positive
from mlecov.likelihood.base import Evaluation
from mlecov.likelihood.scores import DenseScores
from mlecov.models.predicted import Declared, OfNames, OfSample, Sampled
from mlecov.models.units import UnitLikelihood, open_units
from mlecov.parameters import LinearKind, ParameterSpace

Array = npt.NDArray[np.float64]
Rule = tuple[Array, Array]

NODES = 32
"""Default number of quadrature points: exact to 1e-7 a unit of 2 to 8 rows at sigma two, 1e-6 at three."""
BLOCK = 2_000_000
"""Numbers (rows x nodes) held at once in predictions."""
MOVES = 1e-4
"""Change of the log-likelihood with twice the nodes above which a fit warns."""
NO_SPREAD = 1e-7
"""sigma^2 below which sigma counts as being at its bound."""


@dataclass(frozen=True)
class RandomEffects(UnitLikelihood):
    """log of the integral over u ~ N(0, 1) of prod_t F(q_t (x_t'b + sigma u)); theta = (b, log sigma).

    The nodes of each unit are centred at the mode of its integrand and scaled by its curvature there
    (Liu & Pierce 1994). Derivatives are those under the integral sign, by the same rule; scores add
    what the nodes' own movement does to it (`_drift`).
    """

    rule: Rule = field(default_factory=lambda: (np.zeros(0), np.zeros(0)))

    @abstractmethod
    def log_probability(self, eta: Array, order: int) -> tuple[Array, ...]:
        """Return log F(eta) and its first `order` (at most 3) derivatives."""

    @abstractmethod
    def noise(self, rng: np.random.Generator, size: int) -> Array:
        """Return draws of the error whose distribution is F."""

    def linear_predictor(self, theta: Array) -> Array:
        return np.asarray(self.data.matrix @ theta[:-1] + self.data.offset)

    @abstractmethod
    def average(self, mu: Any, sigma: Any) -> Any:
        """Return the mean of F(mu + sigma u) over u ~ N(0, 1)."""

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: P(y = 1 | x), the effect integrated out; conditional: P(y = 1 | x, u = 0);
        effects: E(sigma u_i | y), by unit.
        """
        return {
            "mean": OfNames(self.average, ("mu", "sigma")),
            "conditional": OfNames(lambda mu: np.exp(self.log_probability(mu, 0)[0]), ("mu",)),
            "effects": OfSample(_effects),
        }

    def _nodes(self, index: Array, sign: Array, sigma: float) -> tuple[Array, Array]:
        """Return the nodes (n, Q) of u and the logs of their weights times the normal density."""
        data = self.data
        mode = np.zeros(self.n_terms)
        low, high = np.full(self.n_terms, -np.inf), np.full(self.n_terms, np.inf)
        for _ in range(100):
            _, first, second = self.log_probability(sign * (index + sigma * mode[data.codes]), 2)
            slope = sigma * data.sums(sign * first) - mode
            # the slope falls at least as fast as u rises: the mode lies between u and u + slope
            low = np.maximum(low, np.minimum(mode, mode + slope))
            high = np.minimum(high, np.maximum(mode, mode + slope))
            step = slope / (1.0 - sigma * sigma * data.sums(second))
            inside = (mode + step > low) & (mode + step < high)
            # Newton's step from a flat side would overshoot, for ever: halve the bracket instead
            step = np.where(inside, step, 0.5 * (low + high) - mode)
            mode = mode + step
            if np.abs(step).max() < 1e-10:
                break
        scale = np.sqrt(
            2.0
            / (
                1.0
                - sigma
                * sigma
                * data.sums(self.log_probability(sign * (index + sigma * mode[data.codes]), 2)[2])
            )
        )
        points, log_weights = self.rule
        u = mode[:, None] + scale[:, None] * points
        return u, log_weights + points**2 + np.log(scale)[:, None] - 0.5 * u * u - 0.5 * np.log(2 * np.pi)

    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        theta = np.asarray(theta, dtype=float)
        order = max(order, 1) if scores else order
        w = self.term_weights(weights)
        with np.errstate(all="ignore"):
            index, sign, sigma = self.linear_predictor(theta), 2 * self.data.y - 1, float(np.exp(theta[-1]))
            if not (np.isfinite(index).all() and np.isfinite(sigma)):
                return Evaluation(theta, -np.inf, *self._nothing(order, scores))
            u, log_weight = self._nodes(index, sign, sigma)
            found = self.log_probability(sign[:, None] * (index[:, None] + sigma * u[self.data.codes]), order)
            joint = log_weight + self.data.sums(found[0])
            largest = joint.max(axis=1, keepdims=True)
            posterior = np.exp(joint - largest)
            total = posterior.sum(axis=1, keepdims=True)
            posterior /= total
            terms = (largest + np.log(total))[:, 0]
        loglike = float(terms.sum() if w is None else w @ terms)
        if not order:
            return Evaluation(theta, loglike, loglike_obs=terms)
        move = sigma * u
        slope = sign[:, None] * found[1]
        first = self._first(posterior, slope, move)
        hessian = None if order < 2 else self._second(posterior, slope, found[2], move, first, w)
        first = first + self._drift(index, sign, sigma, u, posterior, slope)
        gradient = first.sum(axis=0) if w is None else w @ first
        kept = DenseScores(first, self.weights) if scores else None
        return Evaluation(theta, loglike, gradient, hessian, kept, terms)

    def _nothing(self, order: int, scores: bool) -> tuple[Any, ...]:
        """Return the parts of an evaluation outside the range of numbers."""
        k, n = self.space.k, self.n_terms
        lost = np.full(n, -np.inf)
        kept = DenseScores(np.full((n, k), np.nan), self.weights) if scores else None
        return (
            np.full(k, np.nan) if order else None,
            np.full((k, k), np.nan) if order > 1 else None,
            kept,
            lost,
        )

    def _first(self, posterior: Array, slope: Array, move: Array) -> Array:
        """Return the scores (n, k): posterior means of each node's score."""
        data = self.data
        by_row = (posterior[data.codes] * slope).sum(axis=1)
        in_sigma = (posterior * move * data.sums(slope)).sum(axis=1)
        return np.column_stack([data.sums(data.matrix * by_row[:, None]), in_sigma])

    def _drift(
        self, index: Array, sign: Array, sigma: float, u: Array, posterior: Array, slope: Array
    ) -> Array:
        """Return what the movement of the nodes with theta adds to the scores (n, k).

        It is zero where the rule is exact. With it scores are those of the sum itself, so that they vanish
        at its maximum, however coarse the rule. The nodes m + s x move with the mode m of f, the log of
        the integrand, and with s = sqrt(-2 / f''); m' and (log s)' by the implicit function theorem.
        """
        data, mode = self.data, u.mean(axis=1)
        _, one, two, three = self.log_probability(sign * (index + sigma * mode[data.codes]), 3)
        three = sign * three
        Z = np.column_stack([data.matrix, sigma * mode[data.codes]])
        in_u, in_uu = sigma * data.sums(two[:, None] * Z), sigma**2 * data.sums(three[:, None] * Z)
        in_u[:, -1] += sigma * data.sums(sign * one)
        in_uu[:, -1] += 2 * sigma**2 * data.sums(two)
        bend = (sigma**2 * data.sums(two) - 1.0)[:, None]
        of_mode = -in_u / bend
        of_scale = -0.5 * (in_uu + sigma**3 * data.sums(three)[:, None] * of_mode) / bend
        pull = posterior * (sigma * data.sums(slope) - u)
        stretch = 1.0 + (pull * (u - mode[:, None])).sum(axis=1)
        return np.asarray(of_mode * pull.sum(axis=1)[:, None] + of_scale * stretch[:, None])

    def _second(
        self, posterior: Array, slope: Array, bend: Array, move: Array, first: Array, w: Array | None
    ) -> Array:
        """Return sum_i w_i (E[H] + E[g g'] - s s') over the posterior of the nodes (Louis 1982)."""
        data, p = self.data, self.data.matrix.shape[1]
        weight = posterior if w is None else posterior * w[:, None]
        by_row = weight[data.codes]
        total = np.zeros((p + 1, p + 1))
        total[:p, :p] = data.matrix.T @ (data.matrix * (by_row * bend).sum(axis=1)[:, None])
        total[:p, p] = data.matrix.T @ (by_row * move[data.codes] * bend).sum(axis=1)
        slopes = data.sums(slope)
        total[p, p] = float((weight * (move * move * data.sums(bend) + move * slopes)).sum())
        for q in range(posterior.shape[1]):
            g = np.column_stack([data.sums(data.matrix * slope[:, q : q + 1]), move[:, q] * slopes[:, q]])
            part = g.T @ (g * weight[:, q : q + 1])
            total[:p] += part[:p]
            total[p, p] += part[p, p]
        total[p, :p] = total[:p, p]
        return total - first.T @ (first if w is None else first * w[:, None])

    def start(self) -> Array:
        """Return least squares of y on x, scaled to the index, and sigma = 1/2."""
        y = self.data.y * 2.0 - 1.0
        coefficients = np.linalg.lstsq(self.data.matrix, y - self.data.offset, rcond=None)[0]
        return np.append(coefficients, np.log(0.5))

    @property
    def start_values(self) -> Callable[[], Array]:
        """Says that `start` is the model's own."""
        return self.start

    def boundary(self, evaluation: Evaluation) -> str | None:
        sigma = float(np.exp(evaluation.theta[-1]))
        if sigma * sigma >= NO_SPREAD:
            return None
        return (
            f"sigma is at its bound, zero ({sigma:.1g}). The rows of a unit are no more alike than their "
            "regressors make them, so the maximum is the pooled model's; sigma's standard error has no meaning. "
            "Fit the pooled model instead."
        )

    def check_final(self, evaluation: Evaluation) -> None:
        """Warn where twice as many nodes give another log-likelihood."""
        finer = replace(self, rule=hermite(2 * len(self.rule[0]))).evaluate(evaluation.theta).loglike
        change = abs(finer - evaluation.loglike)
        if change > MOVES:
            warn(
                f"{self.facts.name}: with {2 * len(self.rule[0])} quadrature points instead of "
                f"{len(self.rule[0])} the "
                f"log-likelihood moves by {change:.2g}: the integrals are not exact, nor are "
                "estimates and standard "
                "errors. Raise nodes= until the log-likelihood stands still (long panels, large sigma).",
                QuadratureWarning,
            )

    def simulate(self, rng: np.random.Generator, theta: Array) -> RandomEffects:
        u = rng.standard_normal(self.n_terms) * np.exp(theta[-1])
        latent = self.linear_predictor(theta) + u[self.data.codes] + self.noise(rng, len(self.data.y))
        return replace(self, data=replace(self.data, y=(latent > 0).astype(float)))


def _effects(likelihood: RandomEffects, theta: Array, order: int) -> Sampled:
    """Return posterior means and variances of sigma u_i (n,)."""
    data, sigma = likelihood.data, float(np.exp(theta[-1]))
    index, sign = likelihood.linear_predictor(theta), 2 * data.y - 1
    u, log_weight = likelihood._nodes(index, sign, sigma)
    row = likelihood.log_probability(sign[:, None] * (index[:, None] + sigma * u[data.codes]), 0)[0]
    weight = special.softmax(log_weight + data.sums(row), axis=1)
    mean = sigma * (weight * u).sum(axis=1)
    return Sampled(mean, None, sigma**2 * (weight * u * u).sum(axis=1) - mean**2)


def logistic_normal(mu: Array, sigma: float) -> Array:
    """Return the integral of phi(u) / (1 + exp(-mu - sigma u)) over u (n,), to 1e-15.

    By the trapezoidal rule, whose error falls like exp(-2 pi d / h) with the distance d = pi / sigma of
    the logistic's poles. Reference: Crouch & Spiegelman (1990), JASA 85.

    >>> logistic_normal(np.array([0.0, 1.0]), 0.0).round(6)
    array([0.5     , 0.731059])
    """
    h = min(0.25, 0.5 / max(sigma, 1e-300))
    u = h * np.arange(-np.ceil(9.0 / h), np.ceil(9.0 / h) + 1)
    weight = h * np.exp(-0.5 * u * u) / np.sqrt(2.0 * np.pi)
    size = max(BLOCK // len(u), 1)
    parts = [
        special.expit(mu[first : first + size, None] + sigma * u) @ weight
        for first in range(0, len(mu), size)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


@dataclass(frozen=True)
class RandomEffectsProbit(RandomEffects):
    """F normal."""

    def average(self, mu: Any, sigma: Any) -> Any:
        """Return Phi(mu / sqrt(1 + sigma^2))."""
        return special.ndtr(mu / np.sqrt(1.0 + sigma**2))

    def log_probability(self, eta: Array, order: int) -> tuple[Array, ...]:
        return log_ndtr_derivatives(eta, order)

    def noise(self, rng: np.random.Generator, size: int) -> Array:
        return rng.standard_normal(size)


@dataclass(frozen=True)
class RandomEffectsLogit(RandomEffects):
    """F logistic."""

    def average(self, mu: Any, sigma: Any) -> Any:
        return logistic_normal(np.asarray(mu), float(sigma))

    def log_probability(self, eta: Array, order: int) -> tuple[Array, ...]:
        small = np.exp(-np.abs(eta))
        value = np.minimum(eta, 0.0) - np.log1p(small)
        if not order:
            return (value,)
        share = 1.0 / (1.0 + small)
        miss = np.where(eta >= 0, small * share, share)
        second = -small * share * share
        return (value, miss, second, second * (2.0 * miss - 1.0))[: order + 1]

    def noise(self, rng: np.random.Generator, size: int) -> Array:
        return rng.logistic(size=size)


def _random_effects(
    kind: type[RandomEffects],
    name: str,
    formula: Any,
    data: Any,
    unit: Any,
    nodes: int,
    options: dict[str, Any],
) -> RandomEffects:
    if not isinstance(nodes, (int, np.integer)) or not 2 <= nodes <= 200:
        raise SpecificationError(
            f"{name}: nodes={nodes!r}; expected a number of quadrature points from 2 to 200."
        )
    made, rows, weights, facts = open_units(name, formula, data, unit, constant=True, **options)
    if not np.isin(made.y, (0.0, 1.0)).all():
        bad = made.y[~np.isin(made.y, (0.0, 1.0))][0]
        raise SupportError(
            f"{name}: the outcome {facts.outcome!r} must be 0 or 1; it is {bad:g} in some row."
        )
    if (made.y == made.y[0]).all():
        raise SupportError(
            f"{name}: the outcome {facts.outcome!r} is {made.y[0]:g} in every row: nothing varies."
        )
    if np.diff(made.bounds).max() == 1:
        raise SpecificationError(
            f"{name}: every unit has one row, so that sigma is not identified; use the pooled model."
        )
    space = ParameterSpace.of({"mu": LinearKind(made.names), "sigma": positive(0.5)})
    return kind(space, rows, weights, facts, made, hermite(int(nodes)))


def hermite(nodes: int) -> Rule:
    """Return the nodes and the logs of the weights of Gauss-Hermite quadrature."""
    points, weight = special.roots_hermite(nodes)
    return points, np.log(np.maximum(weight, 1e-300))


def random_effects_probit(
    formula: Any, data: Any = None, *, unit: Any = None, nodes: int = NODES, **options: Any
) -> RandomEffects:
    """Return the likelihood of the probit model with a normal random intercept by unit.

        P(y_it = 1 | x, u) = Phi(x_it'b + sigma u_i),  u_i ~ N(0, 1),
        log f_i = log of the integral over u of phi(u) prod_t Phi((2 y_it - 1)(x_it'b + sigma u))

    A term is a unit. The share of variance due to units is rho = sigma^2 / (1 + sigma^2). Stata's
    `xtprobit, re` estimates lnsig2u = 2 log sigma with 12 points; R's `lme4::glmer` with `nAGQ`.
    `predict` knows "mean", P(y = 1 | x) with the effect integrated out (so do margins), "conditional",
    P(y = 1 | x, u = 0), and "effects", E(sigma u_i | y) by unit, whose standard errors hold its
    variance given y.

    Parameters
    ----------
    formula, data :
        "y ~ x1 + x2" and a frame, or arrays (y, X); y is 0 or 1.
    unit :
        Column name or array: which rows belong to one unit. Panels may be unbalanced.
    nodes :
        Number of adaptive Gauss-Hermite points; raise it where estimates move with it (long panels,
        large sigma).
    options :
        `offset`, `missing`, weights (the same on all rows of a unit).

    Reference: Butler & Moffitt (1982), Econometrica 50; Liu & Pierce (1994), Biometrika 81.

    >>> y, unit = np.array([0.0, 1, 1, 1, 0, 0]), np.array([1, 1, 2, 2, 3, 3])
    >>> random_effects_probit(y, np.ones((6, 1)), unit=unit).space.labels
    ('mu[x0]', 'sigma')
    """
    return _random_effects(RandomEffectsProbit, "random_effects_probit", formula, data, unit, nodes, options)


def random_effects_logit(
    formula: Any, data: Any = None, *, unit: Any = None, nodes: int = NODES, **options: Any
) -> RandomEffects:
    """Return the likelihood of the logit model with a normal random intercept by unit.

        P(y_it = 1 | x, u) = 1 / (1 + exp(-x_it'b - sigma u_i)),  u_i ~ N(0, 1)

    A term is a unit; rho = sigma^2 / (pi^2 / 3 + sigma^2). Stata's `xtlogit, re`, R's `lme4::glmer`.

    Parameters
    ----------
    formula, data, unit, nodes, options :
        As for `random_effects_probit`.

    Reference: Liu & Pierce (1994), Biometrika 81; Wooldridge (2010), section 15.8.

    >>> y, unit = np.array([0.0, 1, 1, 1, 0, 0]), np.array([1, 1, 2, 2, 3, 3])
    >>> random_effects_logit(y, np.ones((6, 1)), unit=unit).n_terms
    3
    """
    return _random_effects(RandomEffectsLogit, "random_effects_logit", formula, data, unit, nodes, options)
