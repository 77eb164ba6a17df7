"""fit() = maximise + Fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import joint
from mlecov.covariance.specs import Basic, parse
from mlecov.errors import SpecificationError
from mlecov.inference.bias import reduce_bias
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
    constraints: str | Sequence[str] = (),
    fixed: Mapping[str, Any] | None = None,
    cov: Any = None,
    max_iter: int = 200,
    polish: bool = True,
    trace: bool | Callable[[Step], None] = False,
    progress: bool | None = None,
    check: bool = True,
    resume: Any = None,
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
    resume :
        Path of a small file that keeps theta after every iteration. Interrupt a long fit and make the
        same call again: it goes on where it was.

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
        resume=resume,
    )
    weights = likelihood.weights
    default = "robust" if weights is not None and weights.kind == "probability" else "oim"
    return Fit(optimum, Basic(default) if cov is None else parse(cov))


def bias_reduced(likelihood: Likelihood, *, max_iter: int = 200) -> Fit:
    """Fit with Firth's penalty log det I / 2 (Jeffreys' prior): finite where outcomes are separated.

    See `inference.bias.reduce_bias`. Covariances are those of the log-likelihood at these estimates.

    Example
    -------
    >>> import numpy as np
    >>> import mlecov as ml
    >>> x = np.array([-2.0, -1, 1, 2])
    >>> separated = ml.models.logit((x > 0).astype(float), np.column_stack([np.ones(4), x]))
    >>> print(round(ml.bias_reduced(separated).params["mu[x1]"], 3))
    1.004
    """
    return Fit(reduce_bias(likelihood, max_iter=max_iter))


def load_fit(path: Any, likelihood: Likelihood | None = None) -> Fit:
    """Return a fit saved with `fit.save(path)`; `likelihood=` reattaches what it was fitted to.

    Covariances that need a new evaluation refuse until the likelihood is reattached.

    Raises
    ------
    DataError, SpecificationError
        Where the file is no saved fit, or the likelihood is not the one that was fitted.
    """
    return Fit(load_optimum(path, likelihood))


def stack(*fits: Fit, cov: Any = None, **named: Fit) -> Fit:
    """Return several fits as one, with the joint robust covariance of all parameters (Stata's `suest`).

    Terms are matched by index labels; samples may overlap in part. Parameters are labelled
    `name.label`: the name is the keyword, or else the model's (numbered where it occurs twice).
    `cov` is the default covariance: "robust", or Cluster(...), HAC(...), ....

    Example
    -------
    >>> import mlecov as ml
    >>> data = ml.load("spector")
    >>> a = ml.fit(ml.models.probit("grade ~ gpa + psi", data))
    >>> b = ml.fit(ml.models.logit("grade ~ gpa + psi", data))
    >>> joint = stack(a, b)
    >>> round(joint.wald("1.6*probit.mu[gpa] = logit.mu[gpa]").pvalue, 2)  # doctest: +SKIP
    0.66

    See `mlecov.joint.stack` for formula and references.
    """
    kinds = [fit.likelihood.facts.name for fit in fits]
    names = [f"{n}{kinds[:i].count(n) + 1}" if kinds.count(n) > 1 else n for i, n in enumerate(kinds)]
    optima = [fit.optimum for fit in (*fits, *named.values())]
    return Fit(joint.stack(optima, [*names, *named]), Basic("robust") if cov is None else parse(cov))


def two_step(first: Fit, second: Likelihood, *, cov: Any = None, **options: Any) -> Fit:
    """Maximise a second likelihood given a first fit; covariances account for the first step.

    Parameters of `second` declared `estimated("beta", shape=...)` take the first's `beta`. The default
    covariance is Murphy and Topel's ("murphy-topel"); "robust", Cluster(...), ... are those of both
    steps as one set of estimating equations. Options as in `fit`.

    See `mlecov.joint.two_step` for formulas and references.
    """
    optimum = joint.two_step(first.optimum, second, **options)
    return Fit(optimum, joint.MurphyTopel() if cov is None else parse(cov))
