"""What closed-form models share: chain rule, growth function, start values from working responses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.likelihood.index import IndexLikelihood
from mlecov.linalg import try_factor

Array = npt.NDArray[np.float64]


def chain(z: Array, scale: Array, slope: Array, curve: Array | None) -> tuple[Array, Array | None]:
    """Return the derivatives (2, b) and (3, b) of phi(z), z = (y - mu) / sigma, in (mu, log sigma).

    `scale` is 1 / sigma, `slope` and `curve` are phi' and phi''. With z_mu = -1/sigma, z_s = -z:
    phi_mu = -phi' / sigma, phi_s = -z phi'; phi_mumu = phi'' / sigma^2,
    phi_mus = (phi' + z phi'') / sigma, phi_ss = z (phi' + z phi'').
    """
    first = np.empty((2, len(z)))
    np.multiply(slope, -scale, out=first[0])
    np.multiply(slope, -z, out=first[1])
    if curve is None:
        return first, None
    second = np.empty((3, len(z)))
    np.multiply(curve, scale * scale, out=second[0])
    np.multiply(curve, z, out=second[2])
    second[2] += slope
    np.multiply(second[2], scale, out=second[1])
    second[2] *= z
    return first, second


def common(values: Array) -> Array:
    """Return the one value (1,) where all are the same (a scalar parameter), else the values.

    Costly functions of a scalar parameter are then evaluated once, not row by row.
    """
    return values[:1] if len(values) > 1 and (values == values[0]).all() else values


def growth(x: Array, order: int) -> list[Array]:
    """Return (exp(x) - 1)/x and its first `order` derivatives, the integrals of s^j exp(x s) over (0, 1)."""
    found = [np.asarray(special.exprel(x))]
    near = np.abs(x) < 0.5
    any_near = bool(near.any())
    for j in range(1, order + 1):
        # x E^(j) + j E^(j-1) = exp(x); near zero the series sum_i x^i / (i! (i + j + 1))
        value = (np.exp(x) - j * found[-1]) / np.where(x == 0, 1.0, x)
        if any_near:
            small = x[near]
            total = np.zeros_like(small)
            for i in range(15, -1, -1):
                total = total * small / (i + 1) + 1.0 / (i + j + 1)
            value[near] = total
        found.append(value)
    return found


def row_weights(likelihood: IndexLikelihood, weights: Array | None = None) -> Array:
    """Return the weights of the rows (n,): the likelihood's times `weights`, ones without either."""
    own = np.ones(likelihood.n_terms) if likelihood.weights is None else likelihood.weights.values
    return own if weights is None else own * weights


def regress(
    likelihood: IndexLikelihood, theta: Array, e: int, z: Array, weights: Array | None = None
) -> Array:
    """Return theta with equation e's coefficients set to weighted least squares of z (n,) on its design."""
    equation = likelihood.equations[e]
    response = z if equation.offset is None else z - equation.offset
    w = row_weights(likelihood, weights)
    found = theta.copy()
    if equation.columns is None:
        found[equation.start] = float(w @ response / w.sum())
        return found
    factor = try_factor(likelihood.design.sandwich(w, equation, equation))
    if factor is not None:
        right = likelihood.design.transpose_dot(w * response, equation)
        found[equation.start : equation.stop] = factor.solve(right)
    return found


def set_constant(likelihood: IndexLikelihood, theta: Array, e: int, value: float) -> None:
    """Set equation e to a constant, in place: its scalar, or its intercept if that is first."""
    equation = likelihood.equations[e]
    if equation.columns is not None:
        first = likelihood.design.dot(np.eye(equation.stop - equation.start)[0], equation)
        if not np.all(first == 1):
            return
    theta[equation.start] = value


def residuals(likelihood: IndexLikelihood, theta: Array, z: Array) -> tuple[Array, float]:
    """Return z less the first predictor (n,), and the log of its weighted root mean square."""
    found = z - likelihood.predictors(theta, 0, likelihood.n_terms)[0]
    w = row_weights(likelihood)
    spread = float(w @ (found * found) / w.sum())
    return found, 0.5 * float(np.log(spread)) if spread > 0 else 0.0
