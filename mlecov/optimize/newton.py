"""One Newton loop; `newton`, `fisher` and `bhhh` differ by their curvature matrix.

Direction: A^-1 g, where A is the observed or expected information or the outer product of the
gradients; where A is not positive definite its eigenvalues (of the equilibrated matrix) are
replaced by their absolute values, floored, so that the direction always ascends. Length: halved
until the log-likelihood rises enough (Armijo), or, below rounding, until g' A^-1 g falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlecov.errors import CovarianceError, EvaluationError
from mlecov.likelihood.base import Evaluation, Likelihood, no_expected_information
from mlecov.linalg import try_factor
from mlecov.optimize.record import Monitor

Array = npt.NDArray[np.float64]
CurvatureName = Literal["newton", "fisher", "bhhh"]

NEAR = 0.5
"""g' A^-1 g below which the next point is likely the last one: its scores are kept."""

SECOND_ORDER = 1e-10
"""g' A^-1 g up to which Newton's own step leaves nothing that a better one would not."""


@dataclass(frozen=True)
class Loop:
    """Where a loop ended: the evaluation there (of order 2), the decrement, and why it stopped."""

    evaluation: Evaluation
    decrement: float
    reason: str
    converged: bool


def evaluate(likelihood: Likelihood, theta: Array, method: str, keep: bool, monitor: Monitor) -> Evaluation:
    """Return the evaluation a loop needs at theta: of order 2, with scores where it uses or keeps them."""
    monitor.evaluations += 1
    order = 1 if method != "newton" else 3 if likelihood.knows_third and not keep else 2
    return likelihood.evaluate(theta, order=order, scores=keep or method == "bhhh")


def curvature(likelihood: Likelihood, evaluation: Evaluation, method: str) -> Array:
    """Return the matrix A (k, k) of the method at an evaluation."""
    if method == "newton":
        return evaluation.information
    if method == "fisher":
        if not likelihood.has_expected_information:
            raise CovarianceError(no_expected_information(likelihood.facts.name))
        return likelihood.information(evaluation.theta)
    assert evaluation.scores is not None
    return evaluation.scores.gram(power=1)


def direction(likelihood: Likelihood, evaluation: Evaluation, method: str) -> tuple[Array, float, bool]:
    """Return (step A^-1 g, decrement g' A^-1 g, whether A was positive definite)."""
    gradient = evaluation.gradient
    assert gradient is not None
    if method == "newton":
        if evaluation.newton is not None:
            return (*evaluation.newton, True)
        matrix = evaluation.information
    else:
        matrix = curvature(likelihood, evaluation, method)
        factor = try_factor(matrix)
        if factor is not None:
            step = factor.solve(gradient)
            return step, float(gradient @ step), True
    if not np.isfinite(matrix).all():
        raise EvaluationError(f"the curvature of method {method!r} is not finite at the point reached.")
    size = np.sqrt(np.abs(matrix.diagonal()))
    scale = 1 / np.where(size > 0, size, size.max(initial=0) or 1.0)
    values, vectors = np.linalg.eigh(matrix * (scale[:, None] * scale))
    values = np.maximum(np.abs(values), 1e-6 * max(np.abs(values).max(), 1e-300))
    half = vectors.T @ (scale * gradient)
    step = scale * (vectors @ (half / values))
    return step, float(half @ (half / values)), False


def bent(likelihood: Likelihood, evaluation: Evaluation, step: Array, decrement: float) -> Array:
    """Return Newton's step with the third derivative along it, where that is small beside the step.

    Chebyshev's method: the distance to the maximum falls to its third power instead of its square.
    Reference: Traub (1964), Iterative Methods for the Solution of Equations, section 5.
    """
    assert evaluation.factor is not None
    left = likelihood.bend(evaluation, step)
    if not np.isfinite(left).all():
        return step
    more = evaluation.factor.solve(left)
    return step + more if float(left @ more) < 0.1 * decrement else step


def rounding(evaluation: Evaluation) -> float:
    """Return the size below which differences of the log-likelihood say nothing: 4 eps sum|terms|."""
    terms = evaluation.loglike_obs
    size = abs(evaluation.loglike) if terms is None else float(np.abs(terms).sum())
    return 4 * np.finfo(float).eps * max(size, 1.0)


def newton_loop(
    likelihood: Likelihood,
    evaluation: Evaluation,
    method: str,
    monitor: Monitor,
    max_iter: int,
    tolerance: float,
    max_halvings: int = 40,
) -> Loop:
    """Iterate from an evaluation until g' A^-1 g <= tolerance, no step helps, or max_iter.

    Below 1e-12 the loop also stops as soon as the decrement stops falling: that is the floor of
    double precision.
    """
    decrement = np.inf
    for _ in range(max_iter + 1):
        step, decrement, definite = direction(likelihood, evaluation, method)
        if decrement <= tolerance and definite:
            return Loop(evaluation, decrement, f"g' I^-1 g = {decrement:.2g} <= {tolerance:.0e}", True)
        if _ == max_iter:
            break
        if evaluation.third is not None and method == "newton" and definite and decrement > SECOND_ORDER:
            step = bent(likelihood, evaluation, step, decrement)
        found = _search(likelihood, evaluation, step, decrement, method, monitor, max_halvings)
        if found is None:
            floor = decrement <= max(1e-9, rounding(evaluation)) and definite
            reason = (
                "rounding: no step raises the log-likelihood further"
                if floor
                else ("no step along the search direction raises the log-likelihood")
            )
            return Loop(evaluation, decrement, reason, floor)
        evaluation, length = found
        monitor.step(method, evaluation.loglike, decrement, length, evaluation.theta)
    return Loop(evaluation, decrement, f"iteration limit {max_iter} reached", False)


def _search(
    likelihood: Likelihood,
    here: Evaluation,
    step: Array,
    decrement: float,
    method: str,
    monitor: Monitor,
    max_halvings: int,
) -> tuple[Evaluation, float] | None:
    """Return the first acceptable point along `step` and its length, or None."""
    length = 1.0
    noise = rounding(here)
    for _ in range(max_halvings):
        theta = here.theta + length * step
        if (theta == here.theta).all():
            return None
        there = evaluate(likelihood, theta, method, decrement < NEAR, monitor)
        if there.is_finite:
            gain = there.loglike - here.loglike
            if length * decrement > 8 * noise:
                if gain >= 1e-4 * length * decrement:
                    return there, length
            elif gain >= -noise and _closer(likelihood, there, decrement, method):
                return there, length
        length *= 0.5
        if length * decrement <= 8 * noise and length < 1e-6:
            return None
    return None


def _closer(likelihood: Likelihood, there: Evaluation, decrement: float, method: str) -> bool:
    """Tell whether g' A^-1 g has fallen: the test that still works below rounding."""
    _, after, definite = direction(likelihood, there, method)
    return definite and after < 0.5 * decrement
