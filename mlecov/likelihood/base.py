"""What a likelihood is: a parameter space and something that can be evaluated.

Vocabulary, signs and shapes (one word per idea, used everywhere):

* `loglike_obs` (n,): contributions of the terms, log-likelihood, never negated;
* `loglike`: their weighted sum, never a mean;
* `scores` (n, k): d loglike_obs / d theta, unweighted; `gradient` (k,): their weighted sum;
* `hessian` (k, k): second derivative of `loglike`, negative definite at a maximum;
* `information` (k, k): -hessian (observed), or its expectation at theta (expected).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Weights
from mlecov.errors import CovarianceError, EvaluationError, SpecificationError, listing
from mlecov.likelihood.scores import Codes, Scores
from mlecov.linalg import Factor, try_factor
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]
Curvature = Literal["observed", "expected"]


@dataclass(frozen=True)
class Evaluation:
    """Sums over terms at one theta: the evaluation of two blocks of terms adds up."""

    theta: Array
    loglike: float
    gradient: Array | None = None
    hessian: Array | None = None
    scores: Scores | None = None
    loglike_obs: Array | None = None
    third: Array | None = None
    """Third derivatives of the terms in their predictor (n,), to a few digits; see `Likelihood.bend`."""

    @cached_property
    def information(self) -> Array:
        """Observed information -hessian (k, k)."""
        assert self.hessian is not None
        return -self.hessian

    @cached_property
    def factor(self) -> Factor | None:
        """The factored observed information, None where it is not positive definite."""
        return try_factor(self.information)

    @cached_property
    def newton(self) -> tuple[Array, float] | None:
        """Newton's step I^-1 g (k,) and the decrement g' I^-1 g, None where I is not positive definite."""
        assert self.gradient is not None
        if self.factor is None:
            return None
        step = self.factor.solve(self.gradient)
        return step, float(self.gradient @ step)

    @cached_property
    def meat(self) -> Array:
        """The outer product of the scores (k, k): sum of w s s' or w^2 s s' by the kind of weights."""
        assert self.scores is not None
        return self.scores.meat()

    @cached_property
    def is_finite(self) -> bool:
        """Whether the log-likelihood and every derivative asked for are finite."""
        return bool(
            math.isfinite(self.loglike)
            and (self.gradient is None or np.isfinite(self.gradient).all())
            and (self.hessian is None or np.isfinite(self.hessian).all())
        )


@dataclass(frozen=True)
class Facts:
    """What a likelihood says of itself: shown in summaries, used in messages.

    `engine` says how the derivatives are had. `outcome` names the left-hand side.
    """

    name: str
    engine: str
    outcome: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Likelihood(ABC):
    """A log-likelihood of n terms in k free parameters.

    `separable` declares that term i depends on its own rows alone, so that it may be chunked,
    resampled and distributed.
    """

    space: ParameterSpace
    rows: Rows
    weights: Weights | None
    facts: Facts
    separable: bool
    knows_third: bool = False
    """Whether `evaluate` takes order 3, after which `bend` is at hand."""

    @property
    @abstractmethod
    def n_terms(self) -> int:
        """The number of terms n."""

    @abstractmethod
    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        """Evaluate at theta (k,).

        Parameters
        ----------
        order :
            0: the log-likelihood and `loglike_obs`; 1: and the gradient; 2: and the Hessian; 3, where
            `knows_third`: and what `bend` needs.
        scores :
            Whether the evaluation carries the scores as well (implies order >= 1).
        weights :
            (n,) factors on top of the likelihood's own weights (resampling).
        """

    def bend(self, evaluation: Evaluation, step: Array) -> Array:
        """Return half the third derivative twice along a step (k,) from an evaluation of order 3: (k,).

        To second order the gradient that Newton's step leaves behind. It costs two products with the
        design, and it shortens the way to a maximum; it enters no result.

        Raises
        ------
        SpecificationError
            Unless `knows_third`.
        """
        raise SpecificationError(f"{self.facts.name} knows no third derivative of its terms.")

    @abstractmethod
    def subset(self, terms: npt.NDArray[np.intp]) -> Likelihood:
        """Return the likelihood of a choice of terms (repetition allowed)."""

    @abstractmethod
    def curvature_blocks(
        self, theta: Array, codes: Codes, n_groups: int, kind: Curvature
    ) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        """Stream (groups (b,), I_g (b, k, k)): each group's own information, weighted, in batches."""

    def information(self, theta: Array) -> Array:
        """Return the expected information E[-hessian] (k, k) at theta, conditional on regressors.

        Raises
        ------
        CovarianceError
            Where the model does not know it.
        """
        raise CovarianceError(no_expected_information(self.facts.name))

    @property
    def has_expected_information(self) -> bool:
        """Whether `information` is defined."""
        return False

    @property
    def has_expected_blocks(self) -> bool:
        """Whether `curvature_blocks` knows the expected curvature."""
        return False

    @property
    def refused(self) -> Mapping[str, str]:
        """Basic covariances that have no meaning here -> why."""
        return {}

    @property
    def n_obs(self) -> float:
        """Number of observations: the sum of frequency weights, else the number of terms."""
        if self.weights is not None and self.weights.kind == "frequency":
            return float(self.weights.values.sum())
        return float(self.n_terms)

    def start(self) -> Array:
        """Return the start values as theta (k,)."""
        return self.space.start()

    def stand_in(self) -> Likelihood:
        """Return a likelihood to search start values on: itself, or that of a sample of streamed terms."""
        return self

    def term_weights(self, extra: Array | None) -> Array | None:
        """Return the product of own and extra weights, (n,) or None."""
        own = None if self.weights is None else self.weights.values
        if own is None or extra is None:
            return extra if own is None else own
        return np.asarray(own * extra)

    def singular_columns(self) -> str | None:
        """Return a sentence naming collinear columns of a design, or None where there are none."""
        return None

    def separation(self, theta: Array) -> str | None:
        """Return a sentence on separation of the outcomes at theta, or None where there is none."""
        return None

    def check_derivatives(self, theta: Array) -> None:  # noqa: B027  (nothing to check is a full answer)
        """Raise DerivativeError where derivatives given by the user disagree with the likelihood."""

    def check_final(self, evaluation: Evaluation) -> None:  # noqa: B027
        """Raise SeparabilityError where the scores do not add up to the gradient."""

    def boundary(self, evaluation: Evaluation) -> str | None:
        """Return what is to be said of parameters at a bound of their range where a fit has ended, or None."""
        return None

    def simulate(self, rng: np.random.Generator, theta: Array) -> Likelihood:
        """Return the likelihood of outcomes drawn from the model at theta.

        Raises
        ------
        SpecificationError
            Where the model can not be simulated.
        """
        raise SpecificationError(
            f"{self.facts.name} can not be simulated: no simulate= was given. A parametric bootstrap needs it."
        )

    def simulations(self, theta: Array) -> Callable[[np.random.Generator], Likelihood]:
        """Return `simulate` at theta as a function of the generator, for many draws."""
        return lambda rng: self.simulate(rng, theta)

    def restricted(self, matrix: Array, origin: Array, texts: tuple[str, ...] = ()) -> Likelihood:
        """Return this likelihood as a function of phi, theta = matrix @ phi + origin."""
        return Restricted(self, matrix, origin, texts)

    @property
    def unrestricted(self) -> Likelihood:
        """The likelihood without constraints (itself, where there are none)."""
        return self


def no_expected_information(name: str) -> str:
    """Return the message of a likelihood that knows no expected information."""
    return (
        f"{name} knows no expected information. Give information= (a function that returns the matrix or the "
        "expected row curvatures) or moments=(mean, variance) to likelihood(), or use 'oim'."
    )


def require_finite(likelihood: Likelihood, evaluation: Evaluation, where: str) -> None:
    """Raise EvaluationError naming the first rows and the parameter values, unless all is finite."""
    if evaluation.is_finite:
        return
    values = likelihood.space.report(evaluation.theta)
    shown = listing(
        (f"{name}={value:.6g}" for name, value in zip(likelihood.space.labels, values, strict=True)), 8
    )
    terms = likelihood.evaluate(evaluation.theta, order=0).loglike_obs
    bad = np.flatnonzero(~np.isfinite(terms)) if terms is not None else np.empty(0, np.intp)
    if len(bad):
        assert terms is not None
        raise EvaluationError(
            f"the log-likelihood is not finite {where}, in {len(bad)} of {len(terms)} term(s): "
            f"{listing(bad)} (first value {terms[bad[0]]}), at {shown}. Give start values inside the support, "
            "or keep the function's arguments inside it (positive(), interval())."
        )
    full = evaluation
    if full.scores is None:
        full = likelihood.evaluate(evaluation.theta, order=1, scores=True)
    assert full.scores is not None
    found: list[int] = []
    entries = np.zeros(likelihood.space.k, dtype=bool)
    for first, _, rows in full.scores.blocks():
        finite = np.isfinite(rows)
        found += (first + np.flatnonzero(~finite.all(axis=1))).tolist()
        entries |= ~finite.all(axis=0)
    raise EvaluationError(
        f"the log-likelihood is finite {where} but its derivatives are not, in term(s) {listing(found)}, "
        f"with respect to {listing(np.array(likelihood.space.free_labels)[entries])}, at "
        f"{shown}. A jnp.where whose unused branch is infinite or NaN does this: put a harmless value into "
        "that branch's argument with an inner where (the 'double where')."
    )


@dataclass(frozen=True)
class Restricted(Likelihood):
    """A likelihood on the affine subspace theta = matrix @ phi + origin (constraints, fixed values)."""

    base: Likelihood
    matrix: Array
    origin: Array
    texts: tuple[str, ...] = ()
    space: ParameterSpace = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", self.base.space.restrict(self.matrix, self.origin, self.texts))

    @property
    def rows(self) -> Rows:  # type: ignore[override]
        return self.base.rows

    @property
    def weights(self) -> Weights | None:  # type: ignore[override]
        return self.base.weights

    @property
    def facts(self) -> Facts:  # type: ignore[override]
        return self.base.facts

    @property
    def separable(self) -> bool:  # type: ignore[override]
        return self.base.separable

    @property
    def knows_third(self) -> bool:  # type: ignore[override]
        return self.base.knows_third

    @property
    def n_terms(self) -> int:
        return self.base.n_terms

    @property
    def has_expected_information(self) -> bool:
        return self.base.has_expected_information

    @property
    def has_expected_blocks(self) -> bool:
        return self.base.has_expected_blocks

    @property
    def unrestricted(self) -> Likelihood:
        return self.base.unrestricted

    def full(self, theta: Array) -> Array:
        """Return the theta of the unrestricted likelihood."""
        return np.asarray(self.matrix @ theta + self.origin)

    def start(self) -> Array:
        return np.asarray(np.linalg.lstsq(self.matrix, self.base.start() - self.origin, rcond=None)[0])

    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        found = self.base.evaluate(self.full(theta), order=order, scores=scores, weights=weights)
        return Evaluation(
            np.asarray(theta),
            found.loglike,
            None if found.gradient is None else self.matrix.T @ found.gradient,
            None if found.hessian is None else self.matrix.T @ found.hessian @ self.matrix,
            None if found.scores is None else found.scores.map(self.matrix),
            found.loglike_obs,
            found.third,
        )

    def bend(self, evaluation: Evaluation, step: Array) -> Array:
        return np.asarray(self.matrix.T @ self.base.bend(evaluation, self.matrix @ step))

    def information(self, theta: Array) -> Array:
        return np.asarray(self.matrix.T @ self.base.information(self.full(theta)) @ self.matrix)

    def subset(self, terms: npt.NDArray[np.intp]) -> Likelihood:
        return replace(self, base=self.base.subset(terms))

    def stand_in(self) -> Likelihood:
        other = self.base.stand_in()
        return self if other is self.base else replace(self, base=other)

    def curvature_blocks(
        self, theta: Array, codes: Codes, n_groups: int, kind: Curvature
    ) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        for groups, blocks in self.base.curvature_blocks(self.full(theta), codes, n_groups, kind):
            yield groups, self.matrix.T @ blocks @ self.matrix

    def simulate(self, rng: np.random.Generator, theta: Array) -> Likelihood:
        return replace(self, base=self.base.simulate(rng, self.full(theta)))

    def separation(self, theta: Array) -> str | None:
        return self.base.separation(self.full(theta))

    def check_derivatives(self, theta: Array) -> None:
        self.base.check_derivatives(self.full(theta))
