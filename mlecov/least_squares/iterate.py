"""From a start to the floor of double precision: trust region or Gauss-Newton, then a polish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlecov.errors import EvaluationError, IdentificationError, listing
from mlecov.lazy import lazy
from mlecov.least_squares.functions import ResidualFunction
from mlecov.least_squares.geometry import EPS, Plane, equation, plane

optimize = lazy("scipy.optimize")
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """What the iteration did and which criterion held when it stopped.

    `relative_offset` ||Q'r|| / sqrt(k) over ||r - QQ'r|| / sqrt(n - k) (Bates and Watts 1981);
    `gradient_norm` the largest |cosine| between the residuals and a column of J; `rounding` the relative
    offset that evaluating the residuals in double precision allows; `iterations` and `evaluations` of the
    search, `polish` the Newton or Gauss-Newton steps after it; `criterion` in words; `converged`.
    """

    method: str
    iterations: int
    evaluations: int
    polish: int
    criterion: str
    relative_offset: float
    gradient_norm: float
    rounding: float
    converged: bool


@dataclass(frozen=True)
class Point:
    """A theta with its residuals (n,), Jacobian (n, k), tangent plane and measures of convergence."""

    theta: Array
    r: Array
    J: Array
    plane: Plane
    offset: float
    gradient_norm: float
    rounding: float


def point(function: ResidualFunction, theta: Array, labels: Sequence[str]) -> Point:
    """Evaluate residuals, Jacobian and convergence measures at theta (k,)."""
    r, J = function.value(theta), checked_jacobian(function, theta, labels)
    n, k = J.shape
    tangent = plane(J)
    along = tangent.basis.T @ r
    across = float(np.linalg.norm(r - tangent.basis @ along))
    size = float(np.linalg.norm(r))
    # the residual is a difference of terms of this size, each rounded
    terms = size + float(np.linalg.norm(np.abs(J) @ np.abs(theta)))
    spread = across / np.sqrt(n - k) if n > k else across
    spread = max(spread, EPS * terms, np.finfo(np.float64).tiny)
    norms = np.where(tangent.scale > 0, tangent.scale, 1.0) * max(size, np.finfo(np.float64).tiny)
    return Point(
        theta,
        r,
        J,
        tangent,
        offset=float(np.linalg.norm(along) / np.sqrt(k) / spread),
        gradient_norm=float(np.abs(J.T @ r / norms).max()),
        rounding=float(EPS * terms / spread),
    )


def checked_jacobian(function: ResidualFunction, theta: Array, labels: Sequence[str]) -> Array:
    """Return the Jacobian, or raise naming the parameters whose derivative is not finite."""
    J = function.jacobian(theta)
    bad = [label for label, column in zip(labels, J.T, strict=True) if not np.isfinite(column).all()]
    if bad:
        rows = np.flatnonzero(~np.isfinite(J).all(axis=1))
        at = listing(f"{name}={value:.6g}" for name, value in zip(labels, theta, strict=True))
        raise EvaluationError(
            f"The derivative of the residuals in {listing(bad)} is not finite in row(s) {listing(rows)}, at "
            f"{at}. Choose another start; where a jnp.where hides an invalid branch, make its argument valid "
            "too."
        )
    return J


def levenberg_marquardt(
    value: Callable[[Array], Array], jacobian: Callable[[Array], Array], start: Array, limit: int
) -> tuple[Array, int, int]:
    """Minimise ||r||^2 by scipy's Levenberg-Marquardt trust region, scaled by the columns of J.

    Returns theta, accepted steps and evaluations. The subproblem is solved exactly on the factors of the
    scaled J, never on J'J. Reference: More (1978), "The Levenberg-Marquardt algorithm".
    """
    result = optimize.least_squares(
        value,
        start,
        jacobian,
        method="trf",
        x_scale="jac",
        xtol=EPS,
        ftol=EPS,
        gtol=EPS,
        max_nfev=limit,
    )
    return np.asarray(result.x, dtype=np.float64), int(result.njev or 0), int(result.nfev)


def gauss_newton(
    value: Callable[[Array], Array], jacobian: Callable[[Array], Array], start: Array, limit: int
) -> tuple[Array, int, int]:
    """Minimise ||r||^2 by Gauss-Newton steps on QR of J, halved until the sum of squares falls.

    Reference: Bjorck (1996), Numerical Methods for Least Squares Problems, section 9.2.
    """
    theta, r = start, value(start)
    evaluations = 1
    for step in range(limit):
        tangent = plane(jacobian(theta))
        along = tangent.basis.T @ r
        direction = -tangent.back @ along
        expected = float(along @ along)
        length = 1.0
        while evaluations < limit:
            candidate = theta + length * direction
            trial = value(candidate)
            evaluations += 1
            with np.errstate(over="ignore"):  # an overflow is a step too long
                fall = float(r @ r - trial @ trial) if np.isfinite(trial).all() else -np.inf
            if fall >= 0.25 * length * expected:
                break
            length /= 2
            if length < 1e-10:
                return theta, step, evaluations
        else:
            return theta, step, evaluations
        theta, r = candidate, trial
        if expected <= EPS * float(r @ r):
            return theta, step + 1, evaluations
    return theta, limit, evaluations


def bending(function: ResidualFunction, at: Point) -> Array:
    """Return B = T' (sum r_i H_i) T (k, k): the second-order part of the Hessian in tangent coordinates.

    The Hessian of ||r||^2 is 2 T^-T (I + B) T^-1, so I + B tells a minimum from a saddle in units of the
    Gauss-Newton part. Reference: Hamilton, Watts and Bates (1982), Ann. Statist. 10.
    """
    T = at.plane.back
    return np.asarray(T.T @ function.weighted_hessian(at.theta, at.r) @ T)


def polish(
    function: ResidualFunction, at: Point, labels: Sequence[str], limit: int = 30
) -> tuple[Point, int]:
    """Repeat full Newton (Gauss-Newton where the Hessian is not positive definite) while the offset falls."""
    steps = 0
    for _ in range(limit):
        if at.plane.rank < len(labels):
            return at, steps
        full = np.eye(len(labels)) + bending(function, at)
        along = at.plane.basis.T @ at.r
        values, vectors = np.linalg.eigh((full + full.T) / 2)
        newton = bool(values[0] > 1e-8)
        z = vectors @ ((vectors.T @ along) / values) if newton else along
        theta = at.theta - at.plane.back @ z
        if not np.isfinite(function.value(theta)).all():
            return at, steps
        new = point(function, theta, labels)
        # near the minimum the sum of squares is rounding alone, and the offset judges
        rise = float(new.r @ new.r - at.r @ at.r)
        if new.offset >= at.offset or rise > max(100 * EPS, 10 * at.rounding) * float(at.r @ at.r):
            return at, steps
        at, steps = new, steps + 1
    return at, steps


def judge(at: Point, record: Record, tolerance: float) -> Record:
    """Fill in the measures at the last point, and say which criterion held."""
    floor = 10 * np.sqrt(len(at.r)) * at.rounding
    if at.offset <= tolerance:
        text, good = f"relative offset {at.offset:.1e} <= {tolerance:.0e}", True
    elif at.offset <= floor:
        text, good = f"relative offset {at.offset:.1e} at the rounding of the residuals ({floor:.1e})", True
    else:
        text, good = f"none: relative offset {at.offset:.1e} > {max(tolerance, floor):.0e}", False
    return replace(
        record,
        criterion=text,
        relative_offset=at.offset,
        gradient_norm=at.gradient_norm,
        rounding=at.rounding,
        converged=good,
    )


def need_rank(at: Point, labels: Sequence[str]) -> None:
    """Raise where the Jacobian is rank deficient, naming the directions that leave the residuals alone."""
    if at.plane.rank < len(labels):
        directions = [equation(column, labels).removesuffix(" = 0") for column in at.plane.null.T]
        where = listing(f"{name}={value:.6g}" for name, value in zip(labels, at.theta, strict=True))
        raise IdentificationError(
            f"The Jacobian has rank {at.plane.rank} for {len(labels)} parameters at {where}: the residuals "
            f"do not change along {listing(directions)}. Fix one parameter of each direction, reparametrise, "
            "or choose another start."
        )
