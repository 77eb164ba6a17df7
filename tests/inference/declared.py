"""The standard errors of a prediction by other differences than the package's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.inference.quantities import quantity

Array = npt.NDArray[np.float64]


def jacobian_by_differences(fit: Any, name: str) -> Array:
    """Return dh/dtheta (..., n, k) by five-point differences of the values at moved parameters."""
    cov, optimum = fit.cov(), fit.optimum
    step = 1e-3 * np.sqrt(np.diag(cov.matrix))
    at = quantity(optimum, name, cov).place(optimum.likelihood, None)

    def moved(j: int, h: float) -> Array:
        theta = optimum.theta + h * step * (np.arange(fit.k) == j)
        return quantity(optimum, name, cov).jacobian(theta, at)[0]

    return np.stack(
        [
            (8 * (moved(j, 1) - moved(j, -1)) - (moved(j, 2) - moved(j, -2))) / (12 * step[j])
            for j in range(fit.k)
        ],
        axis=-1,
    )


def check_standard_errors(fit: Any, name: str) -> None:
    """Check the standard errors of rows and of their average, and that every label can be named alone."""
    cov, optimum = fit.cov(), fit.optimum
    found = fit.predict(name)
    J = jacobian_by_differences(fit, name)
    at = quantity(optimum, name, cov).place(optimum.likelihood, None)
    own = quantity(optimum, name, cov).variance(optimum.theta, at)
    variance = np.einsum("...k,kl,...l->...", J, cov.matrix, J) + (0.0 if own is None else own)
    np.testing.assert_allclose(found.bse.T, np.sqrt(variance), rtol=1e-5, atol=1e-7 * found.bse.max())
    rows = len(found.values)
    assert found.values.shape == ((rows, len(found.labels)) if found.labels else (rows,))
    gradient = np.atleast_2d(J.mean(axis=-2))
    np.testing.assert_allclose(
        found.average.bse,
        np.sqrt(np.einsum("ck,kl,cl->c", gradient, cov.matrix, gradient)),
        rtol=1e-5,
        atol=1e-12,
    )
    for j, label in enumerate(found.labels):
        one = fit.predict(f"{name}[{label}]")
        np.testing.assert_array_equal(one.values, found.values[:, j])
        np.testing.assert_allclose(one.bse, found.bse[:, j], rtol=1e-9, atol=1e-12)
