"""How far a nonlinear least-squares problem is from linear: relative curvatures and profile t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import fdtri, stdtrit

from mlecov.errors import ConvergenceError, InferenceError
from mlecov.lazy import lazy
from mlecov.least_squares.functions import ResidualFunction
from mlecov.least_squares.iterate import Point, Record, judge, levenberg_marquardt, point, polish
from mlecov.least_squares.separable import Restricted

optimize = lazy("scipy.optimize")
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curvature:
    """Root mean square relative curvatures of Bates and Watts, both times sqrt(F(1 - alpha; k, n - k)).

    `intrinsic` is a property of the model and can not be changed by reparametrising; `parameter_effects` can.
    Below about 0.3 the linear approximation is good over a region of confidence 1 - alpha; 1 is the curvature
    of the region's own radius.
    """

    intrinsic: float
    parameter_effects: float
    alpha: float


def relative_curvature(function: ResidualFunction, at: Point, s2: float, alpha: float) -> Curvature:
    """Return the rms curvatures from the accelerations in tangent coordinates, (n, k, k).

    c^2 = s^2 k / (k (k + 2)) sum_i [2 sum_jl a_ijl^2 + (sum_j a_ijj)^2], with a = T'H_i T split by the
    tangent plane. Reference: Bates and Watts (1980), J. R. Stat. Soc. B 42; (1988), section 7.3.
    """
    n, k = at.J.shape
    H = function.accelerations(at.theta)
    T, Q = at.plane.back, at.plane.basis
    A = np.einsum("nab,aj,bl->njl", H, T, T, optimize=True)
    along = np.einsum("ni,njl->ijl", Q, A, optimize=True)
    across = A - np.einsum("ni,ijl->njl", Q, along, optimize=True)
    radius2 = float(fdtri(k, n - k, 1 - alpha))

    def rms(part: Array) -> float:
        mean = (2 * (part**2).sum() + (np.einsum("ijj->i", part) ** 2).sum()) / (k * (k + 2))
        return float(np.sqrt(mean * s2 * k * radius2))

    return Curvature(rms(across), rms(along), alpha)


class Profile:
    """Re-minimises with one parameter held; remembers nothing but the last solution as a warm start."""

    def __init__(
        self, function: ResidualFunction, at: Point, labels: Sequence[str], j: int, s2: float, se: float
    ) -> None:
        self._function, self._at, self._labels, self._j, self._s2 = function, at, labels, j, s2
        self.estimate, self.se = float(at.theta[j]), se
        self._free = np.delete(np.arange(len(at.theta)), j)
        self._last = at.theta

    def solve(self, value: float) -> tuple[float, Array]:
        """Return profile t, sign(value - estimate) sqrt((S(value) - S) / s2), and theta there.

        Reference: Bates and Watts (1988), Nonlinear Regression Analysis, section 6.1.2.
        """
        base = self._last.copy()
        base[self._j] = value
        if len(self._free):
            base = self._minimise(base, value)
        self._last = base
        rise = float(np.sum(self._function.value(base) ** 2) - self._at.r @ self._at.r)
        if rise < -1e-10 * float(self._at.r @ self._at.r):
            raise ConvergenceError(
                f"With {self._labels[self._j]} held at {value:.6g} the sum of squares is lower than at the "
                "estimate, so the estimate is a local minimum only. Fit again from this point."
            )
        return float(np.sign(value - self.estimate) * np.sqrt(max(rise, 0.0) / self._s2)), base

    def _minimise(self, base: Array, value: float) -> Array:
        inner = Restricted(self._function, base, self._free)
        names = [self._labels[int(place)] for place in self._free]
        theta, _, _ = levenberg_marquardt(inner.value, inner.jacobian, base[self._free], 2000)
        at, _ = polish(inner, point(inner, theta, names), names)
        record = judge(at, Record("lm", 0, 0, 0, "", np.inf, np.inf, 0.0, False), 1e-6)
        if not record.converged:
            raise ConvergenceError(
                f"The minimum with {self._labels[self._j]} held at {value:.6g} was not reached "
                f"({record.criterion}). Ask for a narrower range."
            )
        return inner.full(at.theta)

    def restart(self) -> None:
        """Go back to the estimate, before walking to the other side."""
        self._last = self._at.theta


def profile_table(profile: Profile, labels: Sequence[str], deltas: Array) -> pd.DataFrame:
    """Return value, delta = (value - estimate) / se, profile t and all parameters, walking outwards."""
    rows = {}
    for side in (deltas[deltas < 0][::-1], deltas[deltas >= 0]):
        profile.restart()
        for delta in side:
            tau, theta = profile.solve(profile.estimate + float(delta) * profile.se)
            rows[float(delta)] = [profile.estimate + float(delta) * profile.se, delta, tau, *theta]
    return pd.DataFrame([rows[d] for d in sorted(rows)], columns=["value", "delta", "tau", *labels])


def profile_interval(profile: Profile, name: str, dof: int, alpha: float) -> tuple[float, float]:
    """Return the values at which profile t reaches Student's t quantile with n - k, on either side."""
    quantile = float(stdtrit(dof, 1 - alpha / 2))
    ends = []
    for side in (-1.0, 1.0):
        profile.restart()
        near, far = 0.0, quantile
        while profile.solve(profile.estimate + side * far * profile.se)[0] * side < quantile:
            near, far = far, 1.5 * far
            if far > 200 * quantile:
                raise InferenceError(
                    f"The profile t of {name} does not reach {side * quantile:.3g} within 200 standard "
                    "errors: the interval is open on that side. Report it as open, or reparametrise."
                )
        delta = optimize.brentq(
            lambda d, s=side: profile.solve(profile.estimate + s * d * profile.se)[0] * s - quantile,
            near,
            far,
            xtol=1e-12,
            rtol=1e-12,
        )
        ends.append(profile.estimate + side * float(delta) * profile.se)
    return ends[0], ends[1]
