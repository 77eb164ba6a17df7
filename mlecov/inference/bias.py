"""Bias of maximum likelihood: Cox and Snell's first-order term, and Firth's penalty that removes it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlecov.covariance.sandwich import expected_factor, observed_factor
from mlecov.errors import ConvergenceError, ConvergenceWarning, IdentificationError, InferenceError, warn
from mlecov.inference.indicators import require_plain_weights, term_hessians
from mlecov.inference.results import Shown
from mlecov.likelihood.base import Evaluation, Likelihood
from mlecov.likelihood.traced import extrapolate
from mlecov.linalg import Factor, describe_singular, try_factor
from mlecov.optimum import Optimum, Record
from mlecov.rendering import Display, Group, number

Array = npt.NDArray[np.float64]

TOLERANCE = 1e-18
"""g*' I^-1 g* of the penalised gradient at which the iteration ends."""


@dataclass(frozen=True, eq=False, repr=False)
class Bias(Shown):
    """First-order bias of the estimates on the user's scale (m,), and of theta (k,)."""

    labels: tuple[str, ...]
    estimates: Array
    bias: Array
    bse: Array
    theta_bias: Array
    method: str

    @property
    def corrected(self) -> Array:
        """Estimates less their bias (m,)."""
        return self.estimates - self.bias

    def display(self) -> Display:
        """Return estimates, bias, bias in standard errors, and corrected estimates as a table."""
        with np.errstate(all="ignore"):
            share = self.bias / self.bse
        rows = tuple(
            (
                label,
                number(self.estimates[i]),
                number(self.bias[i]),
                f"{share[i]:.3f}" if np.isfinite(share[i]) else "",
                number(self.corrected[i]),
            )
            for i, label in enumerate(self.labels)
        )
        records = tuple(
            {
                "term": label,
                "estimate": float(self.estimates[i]),
                "bias": float(self.bias[i]),
                "corrected": float(self.corrected[i]),
            }
            for i, label in enumerate(self.labels)
        )
        header = ("", "estimate", "bias", "bias / s.e.", "corrected")
        return Display(
            "first-order bias (Cox and Snell)", (), header, (Group("", rows),), (f"{self.method}.",), records
        )


def cox_snell_bias(optimum: Optimum) -> Bias:
    """Return the bias of order 1/n of maximum likelihood, of a separable likelihood.

        b_s = sum_rtu I^sr I^tu (kappa_rtu / 2 + kappa_rt,u)

    with kappa_rtu the third derivatives of the log-likelihood and kappa_rt,u the covariance of second
    and first derivatives: -d I_expected,rt / d theta_u - kappa_rtu where the model knows its expected
    information, else the sum of H_i,rt s_i,u. On the user's scale b is J b + tr(J'' I^-1) / 2.

    Raises
    ------
    InferenceError
        For likelihoods that are not separable, and weights that are no frequencies.

    Reference: Cox & Snell (1968), Journal of the Royal Statistical Society B 30; Cordeiro & Klein
    (1994), Statistics & Probability Letters 19.
    """
    likelihood, theta = optimum.likelihood, optimum.theta
    if not likelihood.separable:
        raise InferenceError(
            f"{likelihood.facts.name} is not separable, and the first-order bias formula is for independent "
            "terms. Use a "
            "parametric bootstrap."
        )
    weights = require_plain_weights(likelihood, "the first-order bias")
    third = -information_slope(likelihood, theta, expected=False)
    if likelihood.has_expected_information:
        inverse = expected_factor(optimum).inverse
        slope = -information_slope(likelihood, theta, expected=True)
        mixed = np.einsum("urt,tu->r", slope - 0.5 * third, inverse)
        method = "expected information and its slope; third derivatives at the estimates"
    else:
        inverse = observed_factor(optimum).inverse
        mixed = 0.5 * np.einsum("urt,tu->r", third, inverse) + _covariance_term(optimum, weights, inverse)
        method = "observed third derivatives and products of second and first derivatives"
    bias = inverse @ mixed
    space = likelihood.space
    user = space.jacobian(theta) @ bias
    if not space.is_identity:
        for i, unit in enumerate(np.eye(space.m)):
            user[i] += 0.5 * float(np.sum(space.second(theta, unit) * inverse))
    slopes = space.jacobian(theta)
    bse = np.sqrt(np.einsum("ik,kl,il->i", slopes, inverse, slopes))
    return Bias(space.labels, space.report(theta), user, bse, bias, method)


def _covariance_term(optimum: Optimum, weights: Array, inverse: Array) -> Array:
    """Return sum_i w_i H_i I^-1 s_i (k,)."""
    k = optimum.likelihood.space.k
    assert optimum.evaluation.scores is not None
    projected = optimum.evaluation.scores.right(inverse) * weights[:, None]
    total = np.zeros(k)
    for r in range(k):
        pairs = np.array([(min(r, t), max(r, t)) for t in range(k)], dtype=np.intp)
        total[r] = float(np.sum(term_hessians(optimum.likelihood, optimum.theta, pairs) * projected))
    return total


def information_slope(likelihood: Likelihood, theta: Array, expected: bool) -> Array:
    """Return d I / d theta_u (k, k, k), u first, by extrapolated central differences of the information."""
    information = _information(likelihood, theta, expected)
    size = 1 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    steps = np.minimum(size, 0.2 * np.maximum(np.abs(theta), 1.0))

    def slope(u: int) -> Array:
        unit = np.eye(len(theta))[u] * steps[u]

        def quotient(h: float) -> Array:
            up = _information(likelihood, theta + h * unit, expected)
            down = _information(likelihood, theta - h * unit, expected)
            return np.asarray((up - down) / (2 * h * steps[u]))

        return extrapolate(quotient, 1.0, levels=5)

    return np.stack([slope(u) for u in range(len(theta))])


def _information(likelihood: Likelihood, theta: Array, expected: bool) -> Array:
    return np.asarray(
        likelihood.information(theta) if expected else likelihood.evaluate(theta, order=2).information
    )


@dataclass(frozen=True)
class _Point:
    """Penalised log-likelihood at theta, its gradient and the factored information."""

    theta: Array
    value: float
    gradient: Array
    factor: Factor


def reduce_bias(likelihood: Likelihood, *, max_iter: int = 200) -> Optimum:
    """Return the maximum of the log-likelihood penalised by Jeffreys' prior (Firth).

        l*(theta) = l(theta) + log det I(theta) / 2

    I is the expected information where the model knows it, else the observed. For exponential
    families in their canonical parameter (logit, poisson) the estimates have no bias of order 1/n;
    they are finite for separated outcomes. In other models the penalty is Jeffreys' prior, which is
    invariant but removes the bias in part only.

    The optimum's evaluation is of the log-likelihood itself: its gradient is minus that of the
    penalty, and covariances are those of l at the penalised estimates.

    Raises
    ------
    IdentificationError
        Where the information is singular wherever it was tried.
    ConvergenceError
        Where the penalised log-likelihood can not be evaluated along the way.

    Reference: Firth (1993), Biometrika 80; Heinze & Schemper (2002), Statistics in Medicine 21.
    """
    began = time.perf_counter()
    start = likelihood.start()
    point = _point(likelihood, start)
    if point is None:
        message = describe_singular(
            likelihood.evaluate(start, order=2).information, likelihood.space.free_labels, "the information"
        )
        raise IdentificationError(f"bias reduction starts where log det I exists: {message}")
    decrement, evaluations, iteration = np.inf, 1, 0
    while iteration < max_iter:
        iteration += 1
        step = point.factor.solve(point.gradient)
        new = float(point.gradient @ step)
        if new <= TOLERANCE or (new <= 1e-10 and new >= 0.5 * decrement):
            decrement = new
            break
        decrement = new
        found, tried = _ascend(likelihood, point, step, decrement)
        evaluations += tried
        if found is None:
            break
        point = found
    converged = decrement <= 1e-10
    if not converged:
        warn(
            f"bias reduction has not converged after {iteration} iterations: g' I^-1 g = {decrement:.3g} of "
            "the penalised "
            "log-likelihood. Standard errors at this point mean nothing; raise max_iter.",
            ConvergenceWarning,
        )
    evaluation = likelihood.evaluate(point.theta, order=2, scores=True)
    if try_factor(evaluation.information) is None:
        raise IdentificationError(
            describe_singular(
                evaluation.information, likelihood.space.free_labels, "the observed information"
            )
        )
    record = _record(evaluation, point, start, decrement, converged, iteration, evaluations, began)
    return Optimum(likelihood, point.theta, evaluation, record)


def _record(
    evaluation: Evaluation,
    point: _Point,
    start: Array,
    decrement: float,
    converged: bool,
    iterations: int,
    evaluations: int,
    began: float,
) -> Record:
    diagonal = np.sqrt(np.abs(np.diag(evaluation.information))) + 1e-300
    return Record(
        converged,
        f"g' I^-1 g = {decrement:.2g} of the penalised log-likelihood",
        "bias-reduced (Jeffreys penalty)",
        iterations,
        evaluations,
        decrement,
        float(np.max(np.abs(point.gradient) / diagonal, initial=0.0)),
        True,
        time.perf_counter() - began,
        start,
    )


def _value(likelihood: Likelihood, theta: Array) -> tuple[float, Factor] | None:
    expected = likelihood.has_expected_information
    with np.errstate(all="ignore"):
        loglike = likelihood.evaluate(theta).loglike
        information = _information(likelihood, theta, expected)
    factored = try_factor(information) if np.isfinite(information).all() else None
    if factored is None or not np.isfinite(loglike):
        return None
    return loglike + 0.5 * factored.logdet, factored


def _point(likelihood: Likelihood, theta: Array) -> _Point | None:
    found = _value(likelihood, theta)
    if found is None:
        return None
    gradient = likelihood.evaluate(theta, order=1).gradient
    assert gradient is not None
    slope = information_slope(likelihood, theta, likelihood.has_expected_information)
    penalty = 0.5 * np.einsum("urt,rt->u", slope, found[1].inverse)
    if not np.isfinite(penalty).all():
        raise ConvergenceError(
            "the information's slope is not finite along the way to the bias-reduced estimates; give start "
            "values."
        )
    return _Point(theta, found[0], gradient + penalty, found[1])


def _ascend(
    likelihood: Likelihood, point: _Point, step: Array, decrement: float
) -> tuple[_Point | None, int]:
    """Return the first point along `step` at which the penalised log-likelihood rises enough."""
    length, tried = min(1.0, 5.0 / max(float(np.sqrt(decrement)), 1e-300)), 0
    noise = 1e-13 * max(abs(point.value), 1.0)
    while length > 1e-10:
        tried += 1
        theta = point.theta + length * step
        found = _value(likelihood, theta)
        if found is not None and found[0] >= point.value + 1e-4 * length * decrement - noise:
            return _point(likelihood, theta), tried
        length *= 0.5
    return None, tried
