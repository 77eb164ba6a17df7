"""fit() = maximise + Fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.specs import Basic, parse
from mlecov.errors import SpecificationError
from mlecov.likelihood.base import Likelihood
from mlecov.optimize.maximize import Method, maximize
from mlecov.optimum import Step
from mlecov.result import Fit
from mlecov.storage import load_optimum

Array = npt.NDArray[np.float64]


def fit(
    likelihood: Likelihood,
    *,
    method: Method = "newton",
    start: Mapping[str, Any] | Array | None = None,
    constraints: Sequence[str] = (),
    fixed: Mapping[str, Any] | None = None,
    cov: Any = None,
    max_iter: int = 200,
    polish: bool = True,
    trace: bool | Callable[[Step], None] = False,
    progress: bool | None = None,
    check: bool = True,
) -> Fit:
    """Maximise a likelihood and return the fit.

    Parameters
    ----------
    likelihood :
        From `likelihood(...)` or a ready-made model.
    method :
        "newton" (default; exact Hessian), "fisher", "bhhh", a method of scipy ("bfgs", "l-bfgs-b",
        "nelder-mead", "trust-constr", ...), or a sequence such as ("bhhh", 5, "newton").
    start :
        {name: value on the user's scale} or theta (k,).
    constraints :
        Equalities as text: ["mu[x1] = tau[x1]", "a + b = 1"].
    fixed :
        {parameter or entry: value}.
    cov :
        Default covariance of the fit (name, spec or matrix): "oim", or "robust" under probability
        weights.
    polish :
        End with exact Newton steps whatever the method (default).
    trace, progress :
        Print each iteration (or call a function with it); show a progress bar (default: on long
        fits in a terminal).
    check :
        Check derivatives given by the user before they are trusted.

    Raises
    ------
    MlecovError
        Its subclasses say what is wrong: `IdentificationError`, `SeparationError`, `SupportError`,
        `DerivativeError`, `EvaluationError`, `SpecificationError`.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.logit("grade ~ gpa + tuce + psi", ml.load("spector")))
    >>> round(fit.llf, 4)
    -12.8896
    """
    if not isinstance(likelihood, Likelihood):
        raise SpecificationError(
            f"fit() takes a likelihood, got {type(likelihood).__name__}. Make one with likelihood(function, data, "
            "params) or a ready-made model such as models.probit(formula, data)."
        )
    optimum = maximize(
        likelihood,
        method=method,
        start=start,
        constraints=constraints,
        fixed=fixed,
        max_iter=max_iter,
        polish=polish,
        trace=trace,
        progress=progress,
        check=check,
    )
    weights = likelihood.weights
    default = "robust" if weights is not None and weights.kind == "probability" else "oim"
    return Fit(optimum, Basic(default) if cov is None else parse(cov))


def load_fit(path: Any, likelihood: Likelihood | None = None) -> Fit:
    """Return a fit saved with `fit.save(path)`; `likelihood=` reattaches what it was fitted to.

    Covariances that need a new evaluation refuse until the likelihood is reattached.

    Raises
    ------
    DataError, SpecificationError
        Where the file is no saved fit, or the likelihood is not the one that was fitted.
    """
    return Fit(load_optimum(path, likelihood))
