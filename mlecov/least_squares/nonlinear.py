"""Nonlinear least squares to certified digits: estimates, both parts of the Hessian, covariances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlecov.errors import ConvergenceWarning, CovarianceError, InferenceError, SpecificationError, warn
from mlecov.lazy import lazy
from mlecov.least_squares import covariances
from mlecov.least_squares.curvature import (
    Curvature,
    Profile,
    profile_interval,
    profile_table,
    relative_curvature,
)
from mlecov.least_squares.functions import Packing, ResidualFunction, bind, pack
from mlecov.least_squares.geometry import EPS
from mlecov.least_squares.iterate import (
    Point,
    Record,
    bending,
    checked_jacobian,
    gauss_newton,
    judge,
    levenberg_marquardt,
    need_rank,
    point,
    polish,
)
from mlecov.least_squares.separable import Projected

linalg = lazy("scipy.linalg")
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NonlinearLeastSquares:
    """A minimum of ||r(theta)||^2, and what it says as a Gaussian log-likelihood.

    `params` (k,) by label, `values` by name in the user's shapes, `residuals` (n,), `jacobian` dr/dtheta (n,
    k), `rss`, `sigma2` rss/n, `s2` rss/(n - k) (None without degrees of freedom), `gradient` 2J'r,
    `gauss_newton` 2J'J, `second_order` 2 sum r_i H_i, `hessian` their sum, its `definiteness`, `condition` of
    J with columns of length one, tangent-plane `leverages` (n,), `record` of the convergence,
    `exact_derivatives`, `perfect` where the residuals are rounding alone.
    """

    names: tuple[str, ...]
    params: pd.Series
    values: Mapping[str, Any]
    residuals: Array
    jacobian: Array
    rss: float
    sigma2: float
    s2: float | None
    gradient: pd.Series
    gauss_newton: pd.DataFrame
    second_order: pd.DataFrame
    hessian: pd.DataFrame
    definiteness: str
    condition: float
    leverages: Array
    record: Record
    exact_derivatives: bool
    perfect: bool
    _function: ResidualFunction = field(repr=False)
    _point: Point = field(repr=False)
    _bending: Array = field(repr=False)
    _packing: Packing = field(repr=False)

    @property
    def nobs(self) -> int:
        """Number of rows n."""
        return len(self.residuals)

    @property
    def df_resid(self) -> int:
        """Degrees of freedom n - k."""
        return self.nobs - len(self.names)

    @property
    def converged(self) -> bool:
        """Whether the relative-offset criterion held when the iteration stopped."""
        return self.record.converged

    def cov(
        self, kind: str = "classical", bread: Literal["hessian", "gauss-newton"] = "hessian"
    ) -> pd.DataFrame:
        """Return the covariance (k, k) of `params`.

        `classical` s2 (J'J)^-1, s2 = rss/(n-k), as NIST certifies; `eim` sigma2 (J'J)^-1, sigma2 = rss/n;
        `oim` sigma2 (J'J + sum r_i H_i)^-1, the inverse observed information; `opg` the block of (S'S)^-1
        with sigma among the parameters; `HC0` (`robust`, `sandwich`) to `HC4`, with the full Hessian as
        bread, or with `bread="gauss-newton"` J'J alone; leverages are those of the tangent plane.
        Reference: White (1982), Econometrica 50; Bates and Watts (1988), section 2.3; Seber and Wild (1989),
        section 12.2.
        """
        kind = covariances.kind_of(kind)
        if bread not in ("hessian", "gauss-newton"):
            raise SpecificationError(f"Unknown bread {bread!r}. Known: 'hessian', 'gauss-newton'.")
        if not self.converged:
            raise CovarianceError(
                f"No covariance: the iteration did not converge ({self.record.criterion}). Start nearer, "
                "raise max_evaluations, or scale the parameters."
            )
        tangent = self._point.plane
        Q, T, r = tangent.basis, tangent.back, self.residuals
        if kind == "classical":
            matrix = covariances.classical(Q @ T.T, self.rss)
        elif kind == "eim":
            matrix = T @ T.T * self.sigma2
        elif kind == "oim":
            matrix = T @ self._straightened(T.T) * self.sigma2
        elif kind == "opg":
            covariances.need_noise(self.perfect, "opg")
            matrix = covariances.opg(Q, T, r, self.sigma2)[:-1, :-1]
        else:
            L = Q @ (self._straightened(T.T) if bread == "hessian" else T.T)
            matrix = covariances.sandwich(kind, L, r, self.leverages)
        return pd.DataFrame((matrix + matrix.T) / 2, self.names, self.names)

    def bse(
        self, kind: str = "classical", bread: Literal["hessian", "gauss-newton"] = "hessian"
    ) -> pd.Series:
        """Return standard errors (k,): square roots of the diagonal of `cov(kind, bread)`."""
        matrix = self.cov(kind, bread)
        return pd.Series(np.sqrt(np.diag(matrix)), index=matrix.index, name=kind)

    def curvature(self, alpha: float = 0.05) -> Curvature:
        """Return the relative curvatures of Bates and Watts, intrinsic and parameter-effects.

        Reference: Bates and Watts (1980), J. R. Stat. Soc. B 42; as `rms.curv` of R's MASS.
        """
        return relative_curvature(self._function, self._point, self._noise("The curvature"), alpha)

    def profile_t(self, name: str, deltas: Sequence[float] | None = None) -> pd.DataFrame:
        """Return profile t at `deltas` standard errors from the estimate (default -3 to 3 by halves).

        tau = sign(value - estimate) sqrt((S(value) - S) / s2), S(value) the least sum of squares with the
        parameter held; a straight line tau = delta in a linear model. Columns: value, delta, tau and every
        parameter.
        Reference: Bates and Watts (1988), Nonlinear Regression Analysis, section 6.1.
        """
        steps = (
            np.arange(-3.0, 3.25, 0.5) if deltas is None else np.sort(np.asarray(deltas, dtype=np.float64))
        )
        return profile_table(self._profile(name), self.names, steps)

    def profile_interval(self, name: str, alpha: float = 0.05) -> tuple[float, float]:
        """Return the interval on which |profile t| stays below Student's t quantile with n - k."""
        return profile_interval(self._profile(name), name, self.df_resid, alpha)

    def _straightened(self, right: Array) -> Array:
        """Return (I + B)^-1 right: the full Hessian's inverse in tangent coordinates."""
        if self.definiteness != "positive definite":
            raise CovarianceError(
                f"The full Hessian 2J'J + 2 sum r_i H_i is {self.definiteness} at the estimate, so its "
                "inverse is no covariance: not a minimum. Start elsewhere; classical, eim and "
                "bread='gauss-newton' leave that part out."
            )
        return np.asarray(linalg.cho_solve(linalg.cho_factor(np.eye(len(self.names)) + self._bending), right))

    def _noise(self, what: str) -> float:
        if self.s2 is None or self.perfect or not self.converged:
            raise InferenceError(
                f"{what} needs a converged fit with residual variance: n - k = {self.df_resid}, perfect fit "
                f"{self.perfect}, converged {self.converged}."
            )
        return self.s2

    def _profile(self, name: str) -> Profile:
        places = self._packing.positions(name)
        if len(places) != 1:
            raise SpecificationError(
                f"{name!r} has {len(places)} entries. Name one, as {self.names[places[0]]!r}."
            )
        s2 = self._noise("The profile")
        return Profile(
            self._function, self._point, self.names, places[0], s2, float(self.bse()[self.names[places[0]]])
        )


def nonlinear_least_squares(
    function: Callable[..., Any],
    params: Mapping[str, Any],
    data: Any,
    outcome: str | None = None,
    method: Literal["lm", "gauss-newton"] = "lm",
    separable: Sequence[str] = (),
    derivatives: Literal["auto", "autodiff", "numeric"] = "auto",
    tolerance: float = 1e-8,
    max_evaluations: int = 20_000,
) -> NonlinearLeastSquares:
    """Minimise the sum of squares of `function`'s residuals over the named `params`.

    `function` takes parameters and columns of `data` (frame or dict of arrays) by name and returns residuals
    (n,); with `outcome`, it returns the fitted values of that column, and residuals are outcome minus fitted.
    `params` maps names to starts, scalars or arrays. Written with jax.numpy it gets exact derivatives;
    numpy-only functions get differences, with a `NumericDerivativeWarning` (`derivatives="numeric"` accepts
    them quietly).

    `method="lm"` is scipy's Levenberg-Marquardt trust region on the column-scaled Jacobian; `"gauss-newton"`
    halves Gauss-Newton steps. Either is followed by full Newton steps on orthogonal factors of J until the
    relative offset ||Q'r||/sqrt(k) : ||r - QQ'r||/sqrt(n-k) stops falling; it converged when that is below
    `tolerance`, or at the rounding of the residuals. `separable` names parameters that enter linearly: they
    are solved out during the search (variable projection) and their starts do not matter.

    Reference: Bates and Watts (1988), Nonlinear Regression Analysis; (1981), Technometrics 23.

    >>> def growth(x, a, b):
    ...     return a * x**b
    >>> columns = {"x": np.array([1.0, 2.0, 3.0]), "y": np.array([2.1, 3.9, 6.0])}
    >>> fit = nonlinear_least_squares(growth, {"a": 1.0, "b": 1.0}, columns, outcome="y")
    >>> fit.params.round(3).to_dict()
    {'a': 2.026, 'b': 0.982}
    """
    if method not in ("lm", "gauss-newton"):
        raise SpecificationError(f"Unknown method {method!r}. Known: 'lm', 'gauss-newton'.")
    packing, start = pack(params)
    bound = bind(function, packing, start, data, outcome, derivatives)
    checked_jacobian(bound, start, packing.labels)
    theta, record = _search(bound, packing, start, method, separable, max_evaluations)
    at, steps = polish(bound, point(bound, theta, packing.labels), packing.labels)
    need_rank(at, packing.labels)
    record = judge(at, Record(**{**vars(record), "polish": steps}), tolerance)
    result = _result(bound, packing, at, record)
    if not record.converged or result.definiteness != "positive definite":
        state = f"stopped by {record.criterion}" if not record.converged else "at a stationary point"
        warn(
            f"Nonlinear least squares {state} after {record.evaluations} evaluations, Hessian "
            f"{result.definiteness}. Expected a minimum. Start nearer, raise max_evaluations, or scale the "
            "parameters.",
            ConvergenceWarning,
        )
    return result


def _search(
    bound: ResidualFunction,
    packing: Packing,
    start: Array,
    method: str,
    separable: Sequence[str],
    limit: int,
) -> tuple[Array, Record]:
    minimise = levenberg_marquardt if method == "lm" else gauss_newton

    def jacobian(theta: Array) -> Array:
        return checked_jacobian(bound, theta, packing.labels)

    if separable:
        inner = Projected(bound, packing, start, separable)
        part, steps, calls = minimise(inner.value, inner.jacobian, start[inner.nonlinear], limit)
        theta, text = inner.complete(part), f"{method}, variable projection"
    else:
        theta, steps, calls = minimise(bound.value, jacobian, start, limit)
        text = method
    return theta, Record(text, steps, calls, 0, "", np.inf, np.inf, 0.0, False)


def _result(function: ResidualFunction, packing: Packing, at: Point, record: Record) -> NonlinearLeastSquares:
    n, k = at.J.shape
    labels = list(packing.labels)
    rss = float(at.r @ at.r)
    bent = bending(function, at)
    lowest = float(np.linalg.eigvalsh(np.eye(k) + (bent + bent.T) / 2)[0])
    first, second = 2 * at.J.T @ at.J, 2 * function.weighted_hessian(at.theta, at.r)
    floor = 100 * k * EPS * (1 + float(np.abs(bent).max()))
    definiteness = "positive definite" if lowest > floor else "singular" if lowest > -floor else "indefinite"
    return NonlinearLeastSquares(
        names=packing.labels,
        params=pd.Series(at.theta, index=labels, name="params"),
        values=packing.unpack(at.theta),
        residuals=at.r,
        jacobian=at.J,
        rss=rss,
        sigma2=rss / n,
        s2=rss / (n - k) if n > k else None,
        gradient=pd.Series(2 * at.J.T @ at.r, index=labels, name="gradient"),
        gauss_newton=pd.DataFrame(first, labels, labels),
        second_order=pd.DataFrame(second, labels, labels),
        hessian=pd.DataFrame(first + second, labels, labels),
        definiteness=definiteness,
        condition=at.plane.condition,
        leverages=(at.plane.basis**2).sum(axis=1),
        record=record,
        exact_derivatives=function.exact,
        perfect=at.rounding >= 0.1,
        _function=function,
        _point=at,
        _bending=(bent + bent.T) / 2,
        _packing=packing,
    )
