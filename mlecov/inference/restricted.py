"""Tests that fit the null: the likelihood ratio and the score (Lagrange multiplier) test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.sandwich import covariance, expected_factor, opg_factor
from mlecov.covariance.specs import Basic, Spec, parse
from mlecov.errors import IdentificationError, InferenceError, listing
from mlecov.inference.hypothesis import quadratic_form
from mlecov.inference.results import TestResult
from mlecov.likelihood.base import Evaluation, Likelihood, Restricted
from mlecov.linalg import describe_singular, try_factor
from mlecov.optimize.maximize import maximize
from mlecov.optimum import Optimum
from mlecov.parameters import ParameterSpace, restriction

Array = npt.NDArray[np.float64]


def impose(
    optimum: Optimum, constraints: Sequence[str] | str = (), fixed: Mapping[str, Any] | None = None
) -> Optimum:
    """Return the maximum under constraints and fixed values, started from the unrestricted one.

    Raises
    ------
    InferenceError
        Where nothing is restricted.
    SpecificationError
        For constraints that are not linear on the unconstrained scale.
    """
    found = restriction(optimum.likelihood.space, constraints, fixed)
    if found is None:
        raise InferenceError(
            "no restriction was given; expected constraints such as ['mu[x1] = 0', 'a = b'] or "
            "fixed={'sigma': 1}."
        )
    null = optimum.likelihood.restricted(*found)
    start = np.asarray(np.linalg.lstsq(found[0], optimum.theta - found[1], rcond=None)[0], dtype=float)
    return maximize(null, start=start, check=False)


# --- likelihood ratio ----------------------------------------------------------------------------


def likelihood_ratio(restricted: Optimum, full: Optimum, *, nested: bool | None = None) -> TestResult:
    """Return the likelihood-ratio test of a restricted against a full fit.

        LR = 2 (l_full - l_restricted)  ~  chi2(k_full - k_restricted)

    Parameters
    ----------
    nested :
        None: the names of the parameters must show it (those of the restricted fit are among the
        full one's). True: the caller vouches for it.

    Raises
    ------
    InferenceError
        For other data, other or probability weights, no fewer parameters, names that do not nest,
        a restricted log-likelihood above the full one, and fits that did not converge.

    Reference: Greene (2018), section 14.6.1.
    """
    small, large = restricted.likelihood, full.likelihood
    for optimum, word in ((restricted, "restricted"), (full, "full")):
        if not optimum.record.converged:
            raise InferenceError(
                f"the {word} fit did not converge: {optimum.record.criterion}. Fit it first."
            )
    _refuse_pseudo(small, large)
    _same_data(small, large)
    df = large.space.k - small.space.k
    if df <= 0:
        raise InferenceError(
            f"the restricted fit has {small.space.k} free parameters, the full one {large.space.k}; "
            "expected fewer. "
            "Give lr_test(restricted, full) in that order; for models that are not nested see vuong."
        )
    same = small.unrestricted is large.unrestricted
    strangers = [name for name in small.space.labels if name not in large.space.labels]
    if strangers and not same and not nested:
        raise InferenceError(
            f"{listing(map(repr, strangers), 5)} of the restricted fit are no parameters of the full one "
            f"({listing(large.space.labels, 12)}): nothing shows that the models are nested. If they are "
            "under other "
            "names, say nested=True; if not, see vuong."
        )
    statistic = 2 * (full.evaluation.loglike - restricted.evaluation.loglike)
    if statistic < -1e-6 * max(abs(full.evaluation.loglike), 1.0):
        raise InferenceError(
            f"the restricted log-likelihood {restricted.evaluation.loglike:.10g} lies above the full one "
            f"{full.evaluation.loglike:.10g}: the models are not nested, or the full fit stopped at a "
            "local maximum. "
            "Refit it from the restricted estimates (start=)."
        )
    statistic = max(statistic, 0.0)
    p = float(special.chdtrc(df, statistic))
    notes = _notes(small, large, same)
    low, high = restricted.evaluation.loglike, full.evaluation.loglike
    text = f"Log-likelihoods {low:.10g} (restricted) and {high:.10g}"
    return TestResult("Likelihood ratio", statistic, df, p, "chi2", None, text, _claims(small), notes)


def _refuse_pseudo(*likelihoods: Likelihood) -> None:
    for likelihood in likelihoods:
        if likelihood.weights is not None and likelihood.weights.kind == "probability":
            raise InferenceError(
                "under probability weights the sum that was maximised is no log-likelihood, and twice its "
                "difference "
                "is not chi-squared. Use fit.wald(...) or fit.score_test(..., cov='robust')."
            )


def _claims(small: Likelihood) -> tuple[tuple[str, float, float], ...]:
    return tuple((text, float("nan"), float("nan")) for text in small.space.restrictions)


def _notes(small: Likelihood, large: Likelihood, same: bool) -> tuple[str, ...]:
    notes = []
    if not same and small.facts.name != large.facts.name:
        notes.append(f"That {small.facts.name} is a special case of {large.facts.name} is taken on trust.")
    bounded = [
        label
        for label, on in zip(large.space.labels, large.space.zero_on_bound, strict=True)
        if on and label not in small.space.labels
    ]
    if bounded:
        notes.append(
            f"If the null sets {listing(bounded)} to its bound, the statistic is a mixture of chi-squared "
            "distributions and this p-value is too large (for one parameter, halve it; Self & Liang 1987)."
        )
    return tuple(notes)


def _same_data(small: Likelihood, large: Likelihood) -> None:
    """Raise InferenceError unless two likelihoods rest on the same terms, weights and outcome."""
    if small.unrestricted is large.unrestricted:
        return
    if small.n_terms != large.n_terms or small.n_obs != large.n_obs:
        raise InferenceError(
            f"the restricted fit has {small.n_terms} terms ({small.n_obs:g} observations), the full one "
            f"{large.n_terms} ({large.n_obs:g}): they rest on different data. Missing values in a column "
            "that only "
            "one of them uses do this; fit both on the same rows."
        )
    ours, theirs = small.weights, large.weights
    if (ours is None) != (theirs is None) or (
        ours is not None
        and theirs is not None
        and (ours.kind != theirs.kind or not np.array_equal(ours.values, theirs.values))
    ):
        raise InferenceError("the two fits have different weights; a likelihood ratio needs the same ones.")
    for outcome in {small.facts.outcome, large.facts.outcome} - {None}:
        assert outcome is not None
        if outcome not in small.rows.table or outcome not in large.rows.table:
            continue
        if not np.array_equal(small.rows.raw(outcome), large.rows.raw(outcome)):
            raise InferenceError(
                f"the outcome {outcome!r} differs between the two fits; expected the same data."
            )
    if small.facts.outcome and large.facts.outcome and small.facts.outcome != large.facts.outcome:
        raise InferenceError(
            f"the outcomes are {small.facts.outcome!r} and {large.facts.outcome!r}; a likelihood ratio "
            "needs the same one."
        )


def lr_constraints(
    optimum: Optimum, constraints: Sequence[str] | str = (), fixed: Mapping[str, Any] | None = None
) -> TestResult:
    """Return the likelihood-ratio test of constraints: the null is fitted here, then compared."""
    return likelihood_ratio(impose(optimum, constraints, fixed), optimum)


# --- score ---------------------------------------------------------------------------------------


def score_test(
    optimum: Optimum,
    constraints: Sequence[str] | str | None = None,
    fixed: Mapping[str, Any] | None = None,
    *,
    cov: Any = None,
) -> TestResult:
    """Return the score (Lagrange multiplier) test of constraints, at the restricted estimates.

    With g, A, V the gradient, information and covariance of the unrestricted parameters evaluated
    there, and R the constraints' Jacobian:

        LM = s' R' [R V R']^-1 R s,   s = A^-1 g

    which is g' A^-1 g where V = A^-1 (forms `oim`, `eim`, `opg`) and the form robust to
    misspecification, clustering or serial dependence where V is that sandwich.

    Parameters
    ----------
    constraints, fixed :
        The null, which is fitted here. Without them the optimum must be a restricted fit, whose own
        constraints are tested.
    cov :
        Any covariance, evaluated under the null: "oim" (Hessian; of the user's parameters, since it
        depends on their scale away from the maximum), "eim", "opg", "robust", Cluster(...), ...
        Default: "eim" where the model knows it, else "oim"; "robust" under probability weights.

    Reference: Rao (1948); Engle (1984); Wooldridge (2010), section 12.6.2 for the robust form.
    """
    null = optimum if constraints is None and fixed is None else impose(optimum, constraints or (), fixed)
    if not isinstance(null.likelihood, Restricted):
        raise InferenceError(
            "this fit has no constraints of its own to test; give them: fit.score_test(['mu[x2] = 0']), or "
            "fit with "
            "constraints= and call score_test() on that fit."
        )
    if not null.record.converged:
        raise InferenceError(f"the restricted fit did not converge: {null.record.criterion}.")
    spec = _default_form(null.likelihood) if cov is None else parse(cov)
    at_null, note = _at_null(null)
    matrix = null.likelihood.matrix
    rows = _complement(matrix)
    v, direction = _pieces(at_null, spec)
    evaluation = at_null.evaluation
    assert evaluation.gradient is not None
    moved = rows @ direction
    names = [f"restriction {i + 1}" for i in range(len(rows))]
    quadratic, rank, rank_note = quadratic_form(moved, rows @ v.matrix @ rows.T, names, v.label)
    new = null.likelihood.space.restrictions[len(null.likelihood.base.space.restrictions) :]
    p = float(special.chdtrc(rank, quadratic))
    return TestResult(
        "Score",
        quadratic,
        rank,
        p,
        "chi2",
        None,
        f"Evaluated under the null with: {v.label}",
        tuple((text, float("nan"), float("nan")) for text in new),
        tuple(text for text in (note if spec == Basic("oim") else "", rank_note) if text),
        {"gradient": evaluation.gradient, "theta": at_null.theta},
    )


def _default_form(likelihood: Likelihood) -> Spec:
    if likelihood.weights is not None and likelihood.weights.kind == "probability":
        return Basic("robust")
    return Basic("eim" if likelihood.has_expected_information else "oim")


def _complement(matrix: Array) -> Array:
    """Return R (q, k) with orthonormal rows and R M = 0, for M (k, k - q) of full column rank."""
    left, _, _ = np.linalg.svd(matrix, full_matrices=True)
    return np.asarray(left[:, matrix.shape[1] :].T)


def _at_null(null: Optimum) -> tuple[Optimum, str]:
    """Return the unrestricted likelihood at the restricted estimates, as an optimum that is none.

    The Hessian is that of the user's parameters where these are as many as theta: with transforms
    theta(b), H_theta - sum_i g_i d2 b_i / d theta2 = J' H_b J, and J cancels from the statistic.
    """
    assert isinstance(null.likelihood, Restricted)
    full = null.likelihood.base
    theta = null.likelihood.full(null.theta)
    found = full.evaluate(theta, order=2, scores=True)
    hessian, note = _user_hessian(full.space, theta, found)
    return Optimum(full, theta, replace(found, hessian=hessian), null.record), note


def _user_hessian(space: ParameterSpace, theta: Array, found: Evaluation) -> tuple[Array, str]:
    assert found.hessian is not None and found.gradient is not None
    if space.is_identity:
        return found.hessian, ""
    jacobian = space.jacobian(theta)
    moving = np.any(jacobian != 0, axis=1)
    if moving.sum() != space.k:
        return found.hessian, "The Hessian is that of the unconstrained coordinates."
    weights = np.zeros(space.m)
    weights[moving] = np.linalg.solve(jacobian[moving].T, found.gradient)
    return found.hessian - space.second(
        theta, weights
    ), "The Hessian is that of the parameters on the user's scale."


def _pieces(at_null: Optimum, spec: Spec) -> tuple[Covariance, Array]:
    """Return the covariance under the null and s = A^-1 g with the information that it rests on."""
    gradient = at_null.evaluation.gradient
    assert gradient is not None
    kind = spec.kind if isinstance(spec, Basic) else ""
    if kind == "opg":
        factor = opg_factor(at_null)
    elif kind in ("eim", "bw"):
        factor = expected_factor(at_null)
    else:
        made = try_factor(at_null.evaluation.information)
        if made is None:
            names = at_null.likelihood.space.free_labels
            raise IdentificationError(
                describe_singular(at_null.evaluation.information, names, "the Hessian under the null")
                + "\nAway from its maximum a log-likelihood need not be concave: use cov='eim' or cov='opg'."
            )
        factor = made
    return covariance(at_null, spec), factor.solve(gradient)
