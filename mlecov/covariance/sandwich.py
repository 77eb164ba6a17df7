"""covariance(optimum, spec): the basic estimators, and the registry that all others join.

A later estimator is one spec and one function registered for it with `@estimator(TheSpec)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.specs import Basic, Given, Spec
from mlecov.errors import CovarianceError
from mlecov.linalg import Factor, factor, symmetrize
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]
Estimator = Callable[[Optimum, Any], Covariance]
S = TypeVar("S", bound=Estimator)

ESTIMATORS: dict[type[Spec], Estimator] = {}


def estimator(spec: type[Spec]) -> Callable[[S], S]:
    """Register a function (optimum, spec) -> Covariance for a type of spec."""

    def register(function: S) -> S:
        ESTIMATORS[spec] = function
        return function

    return register


def covariance(optimum: Optimum, spec: Spec) -> Covariance:
    """Return the covariance that `spec` asks for at an optimum.

    Raises
    ------
    CovarianceError, IdentificationError
        Where it is not defined for this likelihood, or the information is singular.
    """
    if type(spec) not in ESTIMATORS:
        raise CovarianceError(f"no covariance is known for a spec of type {type(spec).__name__}.")
    return ESTIMATORS[type(spec)](optimum, spec)


def observed_factor(optimum: Optimum) -> Factor:
    """Return the factored observed information at the optimum (the bread's inverse)."""
    found = optimum.evaluation.factor
    if found is not None:
        return found
    return factor(
        optimum.evaluation.information, optimum.likelihood.space.free_labels, "the observed information"
    )


def expected_where_known(optimum: Optimum) -> Array | None:
    """Return the expected information at the optimum, None where the model has none at these parameters."""
    try:
        known = optimum.likelihood.has_expected_information
        return optimum.likelihood.information(optimum.theta) if known else None
    except CovarianceError:
        return None


def expected_factor(optimum: Optimum) -> Factor:
    """Return the factored expected information at the optimum."""
    matrix = optimum.likelihood.information(optimum.theta)
    return factor(matrix, optimum.likelihood.space.free_labels, "the expected information")


def opg_factor(optimum: Optimum) -> Factor:
    """Return the factored outer product of gradients, sum of w s s' or w^2 s s'."""
    assert optimum.evaluation.scores is not None
    matrix = optimum.evaluation.meat
    return factor(matrix, optimum.likelihood.space.free_labels, "the outer product of gradients")


def row_factor(
    optimum: Optimum, kind: str, small_sample: str, counted: int | None = None
) -> tuple[float, str]:
    """Return the factor of a robust covariance of independent terms, and its text.

    default, none, sandwich, statsmodels: 1 (for the estimator called robust or HC0); stata:
    n/(n-1), as Stata's `ml` and `vcovCL` without clusters; fixest: n/(n-k). HC1 is n/(n-k) always.
    `counted` replaces the likelihood's k.
    """
    n, k = optimum.likelihood.n_obs, optimum.likelihood.space.k if counted is None else counted
    if kind == "HC1" or small_sample == "fixest":
        if n <= k:
            raise CovarianceError(f"HC1 needs more than {k} observations; there are {n:g}.")
        return n / (n - k), "n/(n-k)"
    if small_sample == "stata":
        return n / (n - 1), "n/(n-1)"
    return 1.0, "1"


def assemble(
    optimum: Optimum,
    matrix: Array,
    label: str,
    column: str,
    factor: float = 1.0,
    df: float | Array | None = None,
    **details: Any,
) -> Covariance:
    """Return the Covariance of a (k, k) matrix already multiplied by its factor."""
    return Covariance(
        symmetrize(matrix),
        label,
        column,
        optimum.likelihood.space,
        optimum.theta,
        factor,
        df,
        details,
    )


def _known(optimum: Optimum) -> str:
    """Return how the expected information is known, where the user supplied it: "" for a model's own."""
    text = optimum.likelihood.facts.extra.get("expected")
    return f" ({text})" if text else ""


@estimator(Basic)
def basic(optimum: Optimum, spec: Basic) -> Covariance:
    """Return oim, eim, opg, robust, HC1 or bw.

    Reference: White (1982) for the sandwich; Berndt, Hall, Hall & Hausman (1974) for the outer
    product; Bollerslev & Wooldridge (1992) for the sandwich with expected information.
    """
    why = optimum.likelihood.refused.get(spec.kind)
    if why is not None:
        name = optimum.likelihood.facts.name
        raise CovarianceError(f"{spec.kind!r} is not defined for {name}: {why}. Use 'robust'.")
    weights = optimum.likelihood.weights
    probability = weights is not None and weights.kind == "probability"
    note = ", not valid for sampling weights" if probability else ""
    if spec.kind == "oim":
        return assemble(
            optimum, observed_factor(optimum).inverse, f"observed information (inverse Hessian){note}", "oim"
        )
    if spec.kind == "eim":
        return assemble(
            optimum,
            expected_factor(optimum).inverse,
            f"expected (Fisher) information{_known(optimum)}{note}",
            "eim",
        )
    if spec.kind == "opg":
        return assemble(
            optimum, opg_factor(optimum).inverse, f"outer product of gradients (BHHH){note}", "opg"
        )
    assert optimum.evaluation.scores is not None
    bread = (expected_factor if spec.kind == "bw" else observed_factor)(optimum).inverse
    multiplier, text = row_factor(optimum, spec.kind, spec.small_sample, spec.k)
    matrix = multiplier * (bread @ optimum.evaluation.meat @ bread)
    which = "expected" if spec.kind == "bw" else "observed"
    known = _known(optimum) if spec.kind == "bw" else ""
    label = f"robust sandwich, {which} information as bread{known}, factor {text}"
    return assemble(optimum, matrix, label, spec.column, multiplier, bread=which)


@estimator(Given)
def given(optimum: Optimum, spec: Given) -> Covariance:
    """Return the user's own matrix, checked for shape, symmetry and sign."""
    space = optimum.likelihood.space
    size = space.k if spec.scale == "free" else space.m
    matrix = np.asarray(spec.matrix, dtype=float)
    if matrix.shape != (size, size):
        raise CovarianceError(
            f"the matrix given has shape {matrix.shape}; expected ({size}, {size}) on the {spec.scale} scale, in the "
            f"order {', '.join(space.free_labels if spec.scale == 'free' else space.labels)}."
        )
    if not np.isfinite(matrix).all() or np.abs(matrix - matrix.T).max(initial=0) > 1e-8 * np.abs(matrix).max(
        initial=0
    ):
        raise CovarianceError("the matrix given is not a symmetric matrix of finite numbers.")
    if (np.linalg.eigvalsh(matrix) < -1e-10 * np.abs(matrix).max()).any():
        raise CovarianceError("the matrix given has negative eigenvalues: it is no covariance.")
    if spec.scale == "free":
        return assemble(optimum, matrix, spec.label, spec.column)
    jacobian = space.jacobian(optimum.theta)
    inverse = np.linalg.lstsq(jacobian, np.eye(space.m), rcond=None)[0]
    return Covariance(
        symmetrize(inverse @ matrix @ inverse.T),
        spec.label,
        spec.column,
        space,
        optimum.theta,
        user_matrix=symmetrize(matrix),
    )
