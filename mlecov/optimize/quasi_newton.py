"""scipy's optimisers on the negative log-likelihood: the one place where the sign is flipped."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood
from mlecov.optimize.record import Monitor

scipy_optimize = lazy("scipy.optimize")

Array = npt.NDArray[np.float64]

METHODS = {
    "bfgs": ("BFGS", 1),
    "l-bfgs-b": ("L-BFGS-B", 1),
    "cg": ("CG", 1),
    "tnc": ("TNC", 1),
    "slsqp": ("SLSQP", 1),
    "newton-cg": ("Newton-CG", 2),
    "trust-exact": ("trust-exact", 2),
    "trust-krylov": ("trust-krylov", 2),
    "trust-ncg": ("trust-ncg", 2),
    "dogleg": ("dogleg", 2),
    "trust-constr": ("trust-constr", 2),
    "nelder-mead": ("Nelder-Mead", 0),
    "powell": ("Powell", 0),
    "cobyla": ("COBYLA", 0),
}
"""Our name -> (scipy's name, order of the derivatives it uses)."""

PENALTY = 1e300


def minimize_negative(
    likelihood: Likelihood, theta: Array, method: str, monitor: Monitor, max_iter: int, scale: float
) -> tuple[Array, bool, str]:
    """Run one of scipy's methods; return (theta, success, message).

    The objective is -loglike / scale, finite everywhere (points outside the support count as very
    bad); its scale only matters for scipy's absolute tolerances.
    """
    name, order = METHODS[method]

    def objective(x: Array) -> Any:
        monitor.evaluations += 1
        found = likelihood.evaluate(x, order=min(order, 1))
        if not found.is_finite:
            return (PENALTY, np.zeros_like(x)) if order else PENALTY
        if not order:
            return -found.loglike / scale
        assert found.gradient is not None
        return -found.loglike / scale, -found.gradient / scale

    def hessian(x: Array) -> Array:
        matrix = likelihood.evaluate(x, order=2).hessian
        assert matrix is not None
        return -matrix / scale

    def note(x: Array, *_: Any) -> None:
        wanted = monitor.trace or monitor.checkpoint is not None
        monitor.step(method, likelihood.evaluate(x).loglike if wanted else np.nan, np.nan, 1.0, np.asarray(x))

    options: dict[str, Any] = {"maxfun" if method == "tnc" else "maxiter": max_iter}
    if method == "nelder-mead":
        options |= {
            "maxiter": max_iter * max(20, 10 * len(theta)),
            "xatol": 1e-6,
            "fatol": 1e-9,
            "adaptive": True,
        }
    with np.errstate(all="ignore"):
        result = scipy_optimize.minimize(
            objective,
            theta,
            method=name,
            jac=bool(order),
            hess=hessian if order == 2 else None,
            callback=note,
            options=options,
        )
    return np.asarray(result.x), bool(result.success), str(result.message)
