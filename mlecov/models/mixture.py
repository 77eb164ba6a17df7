"""Finite mixtures of ready-made row models on the same outcome."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import DataError, SpecificationError, listing
from mlecov.formulas import Block, linear_kind, materialize, unite
from mlecov.kinds import Kind, interval, simplex
from mlecov.likelihood.base import Evaluation, Facts
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives, pair_index
from mlecov.linalg import try_factor
from mlecov.models.base import Model, _predictors, begins_with_constant
from mlecov.models.bounds import BoundedModel, BoundedRows, runs
from mlecov.models.predicted import Declared, OfRows
from mlecov.parameters import LinearTerms, ParameterSpace

Array = npt.NDArray[np.float64]

EMPTY = 1e-3
"""Rows expected of a component below which it has none."""

EM_STEPS = (4, 30)
"""Steps of the EM algorithm from each of the starts tried, and from the best of them."""


@dataclass(frozen=True)
class Mixture(BoundedModel):
    """f(y) = sum_j pi_j f_j(y); predictors of the components in turn, then J - 1 log ratios of the shares.

    With responsibilities tau_j = pi_j f_j / f the derivatives by predictors a of component j and b
    of component k are tau_j l_j^a and
    1(j = k) tau_j (l_j^ab + l_j^a l_j^b) - tau_j tau_k l_j^a l_k^b.
    """

    components: tuple[IndexLikelihood, ...]
    equations: Mapping[str, Kind | None]
    name = "finite_mixture"

    @cached_property
    def places(self) -> list[slice]:
        """Predictors of each component."""
        stops = np.cumsum([len(component.equations) for component in self.components])
        return [slice(int(b) - len(c.equations), int(b)) for b, c in zip(stops, self.components, strict=True)]

    def check(self, y: Array, columns: Columns) -> str | None:
        return None

    def _model(self, j: int) -> Model:
        model = self.components[j].model
        assert isinstance(model, Model)
        return model

    def _own(self, j: int, columns: Columns) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of component j."""
        own = {name: columns[f"{j}:{name}"] for name in self.components[j].columns if name != "y"}
        return {**own, "y": columns["y"]}

    def log_shares(self, eta: Array) -> Array:
        """Return log pi (J, b) from the log ratios to the last component."""
        ratios = np.concatenate([eta[self.places[-1].stop :], np.zeros((1, eta.shape[1]))])
        return np.asarray(ratios - special.logsumexp(ratios, axis=0))

    def responsibilities(self, eta: Array, columns: Columns) -> Array:
        """Return tau (J, b), the probability of each component given the outcome."""
        parts = [
            self._model(j).derivatives(eta[p], self._own(j, columns), 0)[0] for j, p in enumerate(self.places)
        ]
        joint = self.log_shares(eta) + np.stack(parts)
        return np.asarray(np.exp(joint - special.logsumexp(joint, axis=0)))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: over the components; means: of each; prior: shares; posterior: P(component | y)."""
        labels = tuple(str(j + 1) for j in range(len(self.components)))
        return {
            "mean": OfRows(self.mean),
            "means": OfRows(self.means, labels),
            "prior": OfRows(lambda eta, columns: np.exp(self.log_shares(eta)), labels),
            "posterior": OfRows(self.responsibilities, labels),
        }

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        J, E = len(self.components), len(eta)
        found = [
            self._model(j).derivatives(eta[p], self._own(j, columns), order)
            for j, p in enumerate(self.places)
        ]
        logs = self.log_shares(eta)
        joint = logs + np.stack([part[0] for part in found])
        value = np.asarray(special.logsumexp(joint, axis=0))
        if not order:
            return value, None, None
        tau, pi = np.exp(joint - value), np.exp(logs)
        slopes = np.zeros((J, *eta.shape))  # of log pi_j f_j
        for j, (place, part) in enumerate(zip(self.places, found, strict=True)):
            assert part[1] is not None
            slopes[j, place] = np.where(tau[j] > 0, part[1], 0.0)
        last = self.places[-1].stop
        for j in range(J):
            slopes[j, last:] = (np.arange(J - 1)[:, None] == j) - pi[:-1]
        first = np.einsum("jb,jeb->eb", tau, slopes)
        if order < 2:
            return value, first, None
        pairs = pair_index(E)
        left, right = np.array([e for e, _ in pairs]), np.array([f for _, f in pairs])
        second = (
            np.einsum("jb,jpb,jpb->pb", tau, slopes[:, left], slopes[:, right]) - first[left] * first[right]
        )
        where = {pair: i for i, pair in enumerate(pairs)}
        for j, (place, part) in enumerate(zip(self.places, found, strict=True)):
            assert part[2] is not None
            for i, (e, f) in enumerate(pair_index(place.stop - place.start)):
                second[where[place.start + e, place.start + f]] += tau[j] * np.where(
                    tau[j] > 0, part[2][i], 0.0
                )
        for e, f in pair_index(J - 1):
            second[where[last + e, last + f]] -= pi[e] * ((e == f) - pi[f])
        return value, first, second

    def means(self, eta: Array, columns: Columns) -> Array:
        """Return the mean of each component (J, n)."""
        own = [self._own(j, columns) for j in range(len(self.places))]
        return np.stack([self._model(j).mean(eta[p], own[j]) for j, p in enumerate(self.places)])

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray((np.exp(self.log_shares(eta)) * self.means(eta, columns)).sum(axis=0))

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        parts = [self._model(j).cdf(eta[p], self._own(j, columns)) for j, p in enumerate(self.places)]
        pi = np.exp(self.log_shares(eta))
        below, at = (np.stack([part[side] for part in parts]) for side in (0, 1))
        return np.asarray((pi * below).sum(axis=0)), np.asarray((pi * at).sum(axis=0))

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        cumulated = np.cumsum(np.exp(self.log_shares(eta)), axis=0)
        chosen = np.minimum((rng.random(eta.shape[1]) > cumulated).sum(axis=0), len(self.components) - 1)
        drawn = [
            self._model(j).simulate(rng, eta[p], self._own(j, columns)) for j, p in enumerate(self.places)
        ]
        for part in drawn:
            if set(part) != {"y"}:
                raise SpecificationError(
                    f"finite_mixture can not be drawn: a component draws {listing(part)}."
                )
        return {"y": np.stack([part["y"] for part in drawn])[chosen, np.arange(eta.shape[1])]}

    def boundary(self, likelihood: IndexLikelihood, evaluation: Evaluation) -> str | None:
        """Say which components are empty, rest on too few rows, or have a mean that has run off."""
        eta = likelihood.predictors(evaluation.theta, 0, likelihood.n_terms)
        rows = self.responsibilities(eta, likelihood.columns).sum(axis=1)
        for j, place in enumerate(self.places):
            own = self._coefficients(likelihood, j)
            if rows[j] < EMPTY:
                return (
                    f"the share of component {j + 1} is at its bound, zero: no row belongs to it, and its parameters "
                    "are not identified. Their standard errors have no meaning; use one component less."
                )
            if rows[j] < own.stop - own.start + 1:
                return (
                    f"component {j + 1} rests on {rows[j]:.3g} rows, no more than it has parameters: it fits them "
                    "alone, and of components with a spread of their own the likelihood has no bound there (Day 1969). "
                    "Neither estimates nor standard errors mean anything; give start=, or use one component less."
                )
            first = likelihood.equations[place.start].start
            constant = begins_with_constant(likelihood, place.start)
            for move in (-5.0, 5.0) if constant else ():
                if runs(likelihood, evaluation, first, move):
                    return (
                        f"{likelihood.space.raw_labels[first]} is without bound: the rows of component {j + 1} are "
                        "all alike (counts of zero), and its mean has run to the end of its range. The "
                        "standard errors of its coefficients have no meaning; use a model of such rows, "
                        "as the zero-inflated ones, instead of the component."
                    )
        return None

    def start(self, likelihood: IndexLikelihood) -> Array:
        """Return the best of a few EM paths, which start from components fitted to slices of the outcome."""
        J, n = len(self.components), likelihood.n_terms
        rank = np.argsort(np.argsort(likelihood.columns["y"], kind="stable"), kind="stable")
        best, value = likelihood.space.start(), -np.inf
        parts = [self._component(likelihood, j) for j in range(J)]
        shuffled = np.random.default_rng(0).permutation(n)
        for order, cut in itertools.product((rank, n - 1 - rank, shuffled), (0.5, 0.25, 0.75)):
            bounds = np.concatenate([[0.0], cut + (1.0 - cut) * np.arange(J - 1) / (J - 1), [1.0]]) * n
            theta = likelihood.space.start()
            for j, part in enumerate(parts):
                inside = np.flatnonzero((order >= bounds[j]) & (order < bounds[j + 1]))
                place = self._coefficients(likelihood, j)
                theta[place] = part.subset(inside).start() if len(inside) else part.start()
            theta, found = self._em(likelihood, parts, theta, EM_STEPS[0])
            if found > value:
                best, value = theta, found
        return self._em(likelihood, parts, best, EM_STEPS[1])[0]

    def _component(self, likelihood: IndexLikelihood, j: int) -> IndexLikelihood:
        """Return component j over the rows, design and outcomes of the mixture."""
        place, first = self.places[j], self._coefficients(likelihood, j).start
        equations = tuple(
            replace(e, start=e.start - first, stop=e.stop - first) for e in likelihood.equations[place]
        )
        return replace(
            self.components[j],
            rows=likelihood.rows,
            weights=likelihood.weights,
            design=likelihood.design,
            equations=equations,
            columns=self._own(j, likelihood.columns),
        )

    def _coefficients(self, likelihood: IndexLikelihood, j: int) -> slice:
        """Return the place of component j's coefficients in theta."""
        equations = likelihood.equations[self.places[j]]
        return slice(equations[0].start, equations[-1].stop)

    def _em(
        self, likelihood: IndexLikelihood, parts: list[IndexLikelihood], theta: Array, steps: int
    ) -> tuple[Array, float]:
        """Return theta after generalised EM steps (a Newton step a component), and its log-likelihood."""
        value, n = -np.inf, likelihood.n_terms
        for _ in range(steps):
            eta = likelihood.predictors(theta, 0, n)
            with np.errstate(all="ignore"):
                tau = self.responsibilities(eta, likelihood.columns)
            if not np.isfinite(tau).all():
                break
            trial = theta.copy()
            for j, part in enumerate(parts):
                place = self._coefficients(likelihood, j)
                trial[place] = _ascend(part, theta[place], tau[j])
            w = np.ones(n) if likelihood.weights is None else likelihood.weights.values
            shares = np.maximum(tau @ w / w.sum(), 1e-3)
            for i, equation in enumerate(likelihood.equations[self.places[-1].stop :]):
                ones = equation.columns is None or likelihood.space.raw_labels[equation.start].endswith(
                    "[Intercept]"
                )
                if ones:
                    trial[equation.start] = np.log(shares[i] / shares[-1])
            found = likelihood.evaluate(trial).loglike
            if not found > value:
                break
            theta, value = trial, found
        return theta, value


def _ascend(part: IndexLikelihood, theta: Array, tau: Array) -> Array:
    """Return theta after one Newton step on the log-likelihood weighted by tau, halved until it rises."""
    here = part.evaluate(theta, order=2, weights=tau)
    assert here.gradient is not None
    factor = try_factor(here.information)
    step = (
        here.gradient / (np.abs(np.diag(here.information)) + 1e-8)
        if factor is None
        else factor.solve(here.gradient)
    )
    for halving in range(10):
        trial = theta + 0.5**halving * step
        if part.evaluate(trial, weights=tau).loglike >= here.loglike:
            return np.asarray(trial)
    return theta


def finite_mixture(*components: IndexLikelihood, share: str | None = None) -> IndexLikelihood:
    """Return the likelihood of a mixture of two or more ready-made models of the same outcome.

        f(y_i) = sum_j pi_j f_j(y_i | x_ji)

    Derivatives combine those of the components in closed form by the responsibilities
    tau_j = pi_j f_j / f. Reported are the components' parameters, numbered by component (`mu1[x]`,
    `sigma1`, `mu2[x]`, ...), and `share`: with two components the probability of the first, with
    more all of them. Components of the same model may change places without changing the
    likelihood. With a free variance in each, the likelihood of Gaussian components is unbounded
    (a component on one point); the local maximum with both spread is the estimate.

    Parameters
    ----------
    components :
        Likelihoods of the same rows and outcome, such as `poisson("y ~ x", df)` twice, or a model
        of zeros and one of counts. Weights are those of the first; the others must have the same.
    share :
        Formula for the log odds of the first component against the second ("1 + z"), for two.

    `predict` knows "mean", the components' "means", "prior" and "posterior" probabilities
    ("posterior[1]").

    Start values are those of the components on slices of the outcome, improved by EM. Stata's
    `fmm` reports the log odds against the first class; R's flexmix the same likelihood by EM.

    Reference: McLachlan & Peel (2000), Finite Mixture Models; Titterington, Smith & Makov (1985).

    Example
    -------
    >>> import numpy as np
    >>> from mlecov.models import gaussian
    >>> y, one = np.r_[np.random.default_rng(0).normal(0, 1, 50), np.linspace(4, 6, 50)], np.ones((100, 1))
    >>> finite_mixture(gaussian(y, one), gaussian(y, one)).space.labels
    ('mu1[x0]', 'sigma1', 'mu2[x0]', 'sigma2', 'share')
    """
    J = len(components)
    if J < 2:
        raise SpecificationError(f"finite_mixture: {J} component(s) given; expected two or more likelihoods.")
    for j, component in enumerate(components):
        if not isinstance(component, IndexLikelihood) or not isinstance(component.model, Model):
            raise SpecificationError(
                f"finite_mixture: component {j + 1} is {type(component).__name__}; expected the likelihood "
                "of a ready-made model of rows, such as models.poisson('y ~ x', data)."
            )
    _same_rows(components)
    if share is not None and J > 2:
        raise SpecificationError("finite_mixture: share= with a formula is for two components.")
    head = components[0]
    kinds: dict[str, Kind] = {}
    blocks: dict[str, Block] = {}
    for j, component in enumerate(components):
        kinds |= {f"{p.name}{j + 1}": p.kind for p in component.space}
        blocks |= {f"{key}{j + 1}": block for key, block in component.facts.extra["blocks"].items()}
    _same_designs(blocks)
    if share is not None:
        blocks["share"] = materialize(LinearTerms(share), head.rows)
        if blocks["share"].is_dense and not np.isfinite(blocks["share"].matrix).all():
            raise DataError(f"finite_mixture: share={share!r} has missing values; drop those rows first.")
        kinds["share"] = linear_kind(blocks["share"])
    else:
        kinds["share"] = interval(0.0, 1.0) if J == 2 else simplex(J)
    space = ParameterSpace.of(kinds)
    predictors = _predictors(space)
    design, made = unite(
        blocks,
        [(name, block) for name, block, _ in predictors],
        {name: start for name, _, start in predictors},
        head.n_terms,
    )
    columns: dict[str, npt.NDArray[Any]] = {"y": head.columns["y"]}
    for j, component in enumerate(components):
        columns |= {f"{j}:{name}": values for name, values in component.columns.items() if name != "y"}
    model = Mixture(tuple(components), dict(kinds))
    title = " + ".join(component.facts.name for component in components)
    facts = Facts(f"finite_mixture({title})", "index, closed form", head.facts.outcome, {"blocks": blocks})
    return BoundedRows(
        space, head.rows, head.weights, facts, design, made, model, columns, start_values=model.start
    )


def _same_rows(components: tuple[IndexLikelihood, ...]) -> None:
    """Raise DataError unless all components have the same outcomes and weights, row by row."""
    head = components[0]
    for j, other in enumerate(components[1:], 2):
        if not np.array_equal(head.columns["y"], other.columns["y"]):
            raise DataError(
                f"finite_mixture: components 1 and {j} have different outcomes ({head.n_terms} and "
                f"{other.n_terms} rows); a mixture is of one outcome on the same rows."
            )
        own, theirs = head.weights, other.weights
        if (own is None) != (theirs is None) or (
            own is not None and theirs is not None and not np.array_equal(own.values, theirs.values)
        ):
            raise DataError(
                f"finite_mixture: components 1 and {j} have different weights; give all the same."
            )


def _same_designs(blocks: Mapping[str, Block]) -> None:
    """Raise where two designs have the same formula or column names but other numbers."""
    for (a, one), (b, two) in itertools.combinations(blocks.items(), 2):
        alike = one.terms.formula == two.terms.formula and one.names == two.names
        if alike and one.is_dense and two.is_dense and not np.array_equal(one.matrix, two.matrix):
            raise SpecificationError(
                f"finite_mixture: the designs of {a} and {b} have the same column names "
                f"({listing(one.names, 4)}) and different numbers; name the columns (give a frame)."
            )
