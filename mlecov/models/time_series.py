"""Stationary time series: AR and ARMA with regressors and seasonal factors, exact Gaussian likelihood."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError
from mlecov.kinds import Kind, positive, real
from mlecov.likelihood.base import Evaluation, Facts
from mlecov.models.arma_filter import Lags, innovations, state_after, stationary
from mlecov.models.garch_filters import recursion, signal
from mlecov.models.jets import Jets
from mlecov.models.predicted import Ahead, Declared, OfSample, Sampled, of_params
from mlecov.models.whole import (
    Columns,
    Derivatives,
    LastPass,
    Series,
    WholeLikelihood,
    WholeModel,
    count,
    hannan_rissanen,
    least_squares,
    read_series,
    refuse_constant,
)
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]
LOG_2PI = float(np.log(2 * np.pi))

CIRCLE = 1e-4
"""Distance of a root's size from one below which the root is on the unit circle."""

NEARLY = tuple((s * r, s * m) for s in (1.0, -1.0) for r, m in ((0.97, 0.998), (0.9, 0.99), (0.75, 0.98)))
"""Inverse roots of the autoregression and the moving average tried together in mixed models."""

SHORT = 1000
"""Periods up to which a second maximum is looked for: in longer series it is below the first."""


@dataclass(frozen=True)
class Arma(WholeModel):
    """y = X b + u, u a stationary ARMA process; parameters b, ARMA coefficients, sigma.

    `differences` are the coefficients of D(L) that made y and X of the columns "level" and
    "regressors"; `constants` the columns of X that stay one.
    """

    lags: Lags
    width: int
    differences: tuple[float, ...] = (1.0,)
    constants: tuple[int, ...] = ()
    last: LastPass = field(default_factory=LastPass, repr=False, compare=False)
    name = "arma"
    has_forecast: ClassVar[bool] = True

    def derivatives(self, params: Array, columns: Columns, order: int, w: Array | None) -> Derivatives:
        b, coefficients, sigma = params[: self.width], params[self.width : -1], float(params[-1])
        n = len(columns["y"])
        data = columns["data"]
        found = self.last.get(
            coefficients, order, data, lambda: innovations(coefficients, self.lags, data, order)
        )
        if found is None:
            nothing = np.full((n, len(params)), np.nan)
            return np.full(n, np.nan), nothing if order else None, nothing[:0].T @ nothing[:0] + np.nan
        jets, V, F = found
        v = V[:, :, 0] - V[:, :, 1:] @ b
        f = np.where(F[0] > 0, F[0], np.nan)
        z2 = v[0] ** 2 / f / sigma**2
        value = -0.5 * (LOG_2PI + np.log(f) + z2) - np.log(sigma)
        if not order:
            return value, None, None
        k, m = jets.k, len(params)
        dv = np.concatenate([-V[0, :, 1:].T, v[1 : 1 + k]])  # by b, then coefficients
        df = np.concatenate([np.zeros((self.width, n)), F[1 : 1 + k]])
        lv, lf = -v[0] / (f * sigma**2), 0.5 * (z2 - 1.0) / f
        scores = np.empty((n, m))
        scores[:, :-1] = (dv * lv + df * lf).T
        scores[:, -1] = (z2 - 1.0) / sigma
        if order < 2:
            return value, scores, None
        one = np.ones(n) if w is None else w
        hessian = np.zeros((m, m))
        cross = (dv * (one * -2.0 * lv / f)) @ df.T * 0.5
        hessian[:-1, :-1] = (dv * (-one / (f * sigma**2))) @ dv.T + (df * (one * (0.5 - z2) / f**2)) @ df.T
        hessian[:-1, :-1] += cross + cross.T
        free = slice(self.width, -1)
        hessian[free, free] += jets.symmetric(v[1 + k :] @ (one * lv) + F[1 + k :] @ (one * lf))
        mixed = -np.tensordot(V[1 : 1 + k, :, 1:], one * lv, axes=(1, 0))  # (k, width)
        hessian[free, : self.width] += mixed
        hessian[: self.width, free] += mixed.T
        hessian[-1, :-1] = (dv * lv) @ one * (-2.0 / sigma) - (df / f) @ (one * z2) / sigma
        hessian[:-1, -1] = hessian[-1, :-1]
        hessian[-1, -1] = one @ (1.0 - 3.0 * z2) / sigma**2
        return value, scores, hessian

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: E(y_t | past), in levels; residual: y_t less that, its variance; standardized."""
        names = ("mean", "variance", "residual", "standardized")
        return {name: OfSample(of_params(self._path(name))) for name in names}

    def _path(self, name: str) -> Callable[[Array, Columns, int], Sampled]:
        """Return the function (params, columns, order) of a path (n,) with derivatives (n, m)."""

        def path(params: Array, columns: Columns, order: int) -> Sampled:
            b, sigma = params[: self.width], float(params[-1])
            found = innovations(params[self.width : -1], self.lags, columns["data"], min(order, 1))
            if found is None:
                return Sampled(np.full(len(columns["y"]), np.nan))
            jets, V, F = found
            v = V[:, :, 0] - V[:, :, 1:] @ b
            level = columns["level"][len(self.differences) - 1 :]
            f, root = sigma**2 * F[0], sigma * np.sqrt(F[0])
            value = {"mean": level - v[0], "variance": f, "residual": v[0]}.get(name, v[0] / root)
            if not order:
                return Sampled(value)
            none = np.zeros((1, len(f)))
            dv = np.concatenate([-V[0, :, 1:].T, v[1 : 1 + jets.k], none])
            df = np.concatenate([np.zeros((self.width, len(f))), sigma**2 * F[1 : 1 + jets.k], none])
            df[-1] = 2.0 * f / sigma
            slope = {"mean": -dv, "variance": df, "residual": dv}.get(name, (dv - 0.5 * df * v[0] / f) / root)
            return Sampled(value, slope.T)

        return path

    def ahead(self, params: Array, columns: Columns, steps: int, X: Array) -> Ahead:
        """Return the mean of y (steps,), in levels, and the variance of its forecast's error.

        The state's mean a and variance P after the sample give u_{T+k} = e_1'T^(k-1) a, errors of
        covariance C P C' + Psi Psi' with rows e_1'T^(k-1) of C and psi-weights in Psi; differences are
        undone by the recursion y_t = D y_t - sum_j D_j y_{t-j}. Reference: Harvey (1989), section 3.3.
        """
        b, sigma, lost = params[: self.width], float(params[-1]), len(self.differences) - 1
        found = state_after(params[self.width : -1], self.lags, columns["y"] - columns["data"][:, 1:] @ b)
        if found is None:
            return Ahead(*np.full((2, steps), np.nan))
        T, R, a, P = found
        rows = np.empty((steps, len(a)))
        rows[0] = np.eye(len(a))[0]
        for k in range(1, steps):
            rows[k] = rows[k - 1] @ T
        psi = np.zeros((steps, steps))
        for k in range(1, steps):
            psi[k, 1 : k + 1] = (rows[:k] @ R)[::-1]
        weights = recursion(-np.array(self.differences[1:]), np.eye(steps)[0])  # of 1 / D(L)
        undone = np.array([[weights[i - j] if i >= j else 0.0 for j in range(steps)] for i in range(steps)])
        spread = undone @ (rows @ P @ rows.T + psi @ psi.T) @ undone.T
        past = columns["regressors"]
        moved = self.difference(np.concatenate([past[len(past) - lost :], X]))
        moved[:, list(self.constants)] = 1.0
        level = list(columns["level"][len(columns["level"]) - lost :])
        for change in moved @ b + rows @ a:
            level.append(change - sum(c * level[-j] for j, c in enumerate(self.differences[1:], 1)))
        return Ahead(np.array(level[lost:]), sigma**2 * np.diag(spread))

    def difference(self, values: Array) -> Array:
        """Return D(L) of values (N,) or (N, p), less the first rows that it uses up."""
        lost = len(self.differences) - 1
        parts = (c * values[lost - j : len(values) - j] for j, c in enumerate(self.differences) if c)
        return np.asarray(sum(parts))

    def boundary(self, likelihood: WholeLikelihood, evaluation: Evaluation) -> str | None:
        """Say where a polynomial has a root on the unit circle."""
        lags = self.lags
        parts = (lags.ar, lags.seasonal_ar, lags.ma, lags.seasonal_ma)
        found = likelihood.space.report(evaluation.theta)[self.width : -1]
        on, first = [], 0
        for part, sign in zip(parts, (-1.0, -1.0, 1.0, 1.0), strict=True):
            polynomial = np.zeros(max(part, default=0) + 1)
            polynomial[0] = 1.0
            polynomial[list(part)] = sign * found[first : first + len(part)]
            first += len(part)
            on.append(bool((np.abs(np.abs(np.roots(polynomial)) - 1.0) < CIRCLE).any()))
        if on[0] or on[1]:
            return (
                "the autoregression has a root on the unit circle: it has run to the edge of stationarity, "
                "cancelling the moving average there. Standard errors have no meaning; use fewer lags, or "
                "difference (d=)."
            )
        if on[2] or on[3]:
            return (
                "the moving average has a root on the unit circle: the likelihood is symmetric about the bound, "
                "and has a maximum there by chance in short samples or by differencing too often. Standard "
                "errors of the moving average have no meaning (Sargan & Bhargava 1983); use a smaller d= or "
                "fewer lags."
            )
        return None

    def start(self, likelihood: WholeLikelihood) -> Array:
        """Return the best of a few coefficients, with generalised least squares and sigma given them.

        Tried are Hannan-Rissanen coefficients, whole and shrunk. Mixed models of short series often have
        a second maximum where a pair of roots nearly cancels: a few steps from there tell which is higher.
        """
        columns, lags = likelihood.columns, self.lags
        u = columns["y"] - columns["data"][:, 1:] @ least_squares(columns["data"][:, 1:], columns["y"])
        ar, ma = hannan_rissanen(u, lags.ar + lags.seasonal_ar, lags.ma + lags.seasonal_ma)
        plain = self._best(likelihood, [share * np.concatenate([ar, ma]) for share in (1.0, 0.5, 0.0)])
        trials = self._cancelling(u) if len(u) <= SHORT else []
        if not trials:
            return plain
        ends = [_climb(likelihood, theta) for theta in (plain, self._best(likelihood, trials))]
        return max(ends, key=lambda theta: likelihood.evaluate(theta).loglike)

    def _best(self, likelihood: WholeLikelihood, trials: list[Array]) -> Array:
        """Return theta at the best of ARMA coefficients, others concentrated out."""
        best, value = likelihood.space.start(), -np.inf
        for trial in trials:
            found = innovations(trial, self.lags, likelihood.columns["data"], 0)
            if found is None:
                continue
            V, scale = found[1][0], 1.0 / np.sqrt(found[2][0])
            b = least_squares(V[:, 1:] * scale[:, None], V[:, 0] * scale)
            variance = max(float(np.mean(((V[:, 0] - V[:, 1:] @ b) * scale) ** 2)), 1e-300)
            loglike = float(np.log(scale).sum()) - 0.5 * len(scale) * float(np.log(variance))
            if loglike > value:
                best, value = np.concatenate([b, trial, [0.5 * np.log(variance)]]), loglike
        return best

    def _cancelling(self, u: Array) -> list[Array]:
        """Return coefficients (1 - r L) phi(L), (1 - m L) theta(L) for r near m, phi and theta of a lag less."""
        lags = self.lags
        p, q = len(lags.ar), len(lags.ma)
        whole = lags.ar == tuple(range(1, p + 1)) and lags.ma == tuple(range(1, q + 1))
        if not p or not q or not whole or lags.seasonal_ar or lags.seasonal_ma:
            return []
        ar, ma = hannan_rissanen(u, lags.ar[:-1], lags.ma[:-1])
        return [
            np.concatenate(
                [
                    -np.convolve(np.append(1.0, -ar), [1.0, -r])[1:],
                    np.convolve(np.append(1.0, ma), [1.0, -m])[1:],
                ]
            )
            for r, m in NEARLY
        ]

    def simulate(self, rng: np.random.Generator, params: Array, columns: Columns) -> dict[str, Array]:
        """Return y drawn with the state's stationary distribution as its start."""
        data, r = columns["data"], self.lags.order
        coefficients = params[self.width : -1]
        jets = Jets(self.lags.k, 0)
        phi, R = self.lags.polynomials(coefficients, jets)
        P = stationary(phi, R, jets)
        if P is None:
            raise SpecificationError(
                "arma: the autoregression is not stationary here, so it can not be drawn from."
            )
        values, vectors = np.linalg.eigh(P[0])
        state = vectors @ (np.sqrt(np.maximum(values, 0.0)) * rng.standard_normal(r))
        u = np.empty(len(data))
        u[0] = state[0]
        memory = phi[0] * state[0] + np.append(state[1:], 0.0)
        ar = np.concatenate([[1.0], -phi[0]])
        e = rng.standard_normal(len(data) - 1)
        u[1:] = signal.lfilter(np.append(R[0], 0.0), ar, e, zi=memory)[0]
        y = data[:, 1:] @ params[: self.width] + params[-1] * u
        # the first levels stay; the forcing that makes them from nothing before is D(L) of them
        lost = len(self.differences) - 1
        first = [float(np.dot(self.differences[: t + 1], columns["level"][t::-1])) for t in range(lost)]
        level = recursion(-np.array(self.differences[1:]), np.concatenate([first, y]))
        return {"y": y, "data": np.column_stack([y, data[:, 1:]]), "level": level}


def _climb(likelihood: WholeLikelihood, theta: Array, steps: int = 10) -> Array:
    """Return theta after a few Newton steps, curvature made positive and steps halved until they rise."""
    here = likelihood.evaluate(theta, order=2)
    for _ in range(steps):
        if here.gradient is None or here.hessian is None or not np.isfinite(here.hessian).all():
            break
        scale = 1.0 / np.sqrt(np.abs(np.diag(here.hessian)) + 1e-300)
        values, vectors = np.linalg.eigh(-here.hessian * np.outer(scale, scale))
        step = scale * (vectors @ ((vectors.T @ (scale * here.gradient)) / np.maximum(np.abs(values), 0.01)))
        sizes = (0.5**halving for halving in range(6))
        theta = here.theta
        better = next(
            (t for t in sizes if likelihood.evaluate(theta + t * step).loglike > here.loglike), None
        )
        if better is None:
            break
        here = likelihood.evaluate(theta + better * step, order=2)
    return here.theta


def _lags(value: int | Sequence[int], what: str, season: int = 1) -> tuple[int, ...]:
    """Return the lags 1..p of a number p, or the lags listed, times the season."""
    if isinstance(value, (int, np.integer)):
        return tuple(season * lag for lag in range(1, count(value, what) + 1))
    found = tuple(count(lag, what, 1) for lag in value)
    if list(found) != sorted(set(found)):
        raise SpecificationError(f"{what}={tuple(value)!r}: expected lags in increasing order, each once.")
    return tuple(season * lag for lag in found)


def _difference(
    series: Series, d: int, seasonal: int, season: int
) -> tuple[Array, Array, tuple[float, ...], tuple[int, ...]]:
    """Return the differenced outcome and regressors (a constant stays one), D(L) and the constants."""
    y, X, polynomial = series.y, series.block.matrix, np.ones(1)
    fixed = [j for j, name in enumerate(series.block.names) if name == "Intercept"]
    for lag, times in ((1, d), (season, seasonal)):
        for _ in range(times):
            y, X = y[lag:] - y[:-lag], X[lag:] - X[:-lag]
            polynomial = np.convolve(polynomial, np.concatenate([[1.0], np.zeros(lag - 1), [-1.0]]))
    X = X.copy()
    X[:, fixed] = 1.0
    return y, X, tuple(map(float, polynomial)), tuple(fixed)


def arma(
    y: Any,
    data: Any = None,
    *,
    p: int | Sequence[int] = 1,
    q: int | Sequence[int] = 0,
    d: int = 0,
    seasonal: tuple[Any, int, Any, int] | None = None,
) -> WholeLikelihood:
    """Return the exact Gaussian likelihood of an ARMA(p, q) process with regressors.

        D y_t = x_t'b + u_t,   phi(L) Phi(L^s) u_t = theta(L) Theta(L^s) e_t,   e_t ~ N(0, sigma^2)
        phi(L) = 1 - sum phi_i L^i,   theta(L) = 1 + sum theta_j L^j

        log f(y_t | past) = -(log 2 pi + log sigma^2 + log F_t + v_t^2 / (sigma^2 F_t)) / 2

    v_t and sigma^2 F_t are the prediction error and its variance by the Kalman filter, started from the
    stationary distribution: the density of the whole sample, no period lost, none conditioned on.
    A term is a period given its past. Derivatives are exact. Reported are `mu` (or `mu[x]`), `ar1`,
    `ma1`, ... by lag, `sar12`, `sma12` and `sigma`, the standard deviation.

    Parameters
    ----------
    y, data :
        ("y ~ x", frame), ("y", frame), an array, or arrays (y, X); "y ~ 0" has no constant. Rows
        are periods in order.
    p, q :
        Number of lags, or the lags themselves: q=(1, 4).
    d :
        Times the outcome and the regressors are differenced first; a constant stays a constant, and
        is the mean of the differenced series (Stata's and R's xreg).
    seasonal :
        (P, D, Q, s): seasonal lags, differences and period, multiplied with the others.

    Stata's `arima` has the same likelihood, signs and sigma, and reports OPG standard errors by
    default (`cov="opg"`); it stops early, so its digits agree to four or five. statsmodels' SARIMAX
    has sigma2, and a trend that is an intercept, mu (1 - sum phi). R's `arima` reports sigma^2; its
    ML is this likelihood. Non-stationary phi are refused by the likelihood; theta is not restricted.

    `predict` knows "mean" (one step ahead, in levels: Stata's `predict, y`), "residual", its
    "variance" and "standardized"; `forecast(steps)` gives the periods to come, in levels.

    Reference: Harvey (1989), section 3.3; Hamilton (1994), Time Series Analysis, section 13.4.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.arma("wpi", ml.load("wpi1"), p=1, d=1, q=1))
    >>> fit.params.round(4).to_dict()
    {'mu': 0.7498, 'ar1': 0.8742, 'ma1': -0.412, 'sigma': 0.725}
    """
    d = count(d, "d")
    P, D, Q, s = (0, 0, 0, 1) if seasonal is None else seasonal
    s, D = count(s, "seasonal period", 1 if seasonal is None else 2), count(D, "seasonal D")
    lags = Lags(_lags(p, "p"), _lags(P, "seasonal P", s), _lags(q, "q"), _lags(Q, "seasonal Q", s))
    series = read_series("arma", y, data)
    lost = d + s * D
    refuse_constant(series, "arma", lost + lags.k + len(series.block.names) + 2)
    outcome, X, differences, constants = _difference(series, d, D, s)
    width = X.shape[1]
    kinds: dict[str, Kind] = {"mu": series.kind()} if width else {}
    for name, part in (
        ("ar", lags.ar),
        ("sar", lags.seasonal_ar),
        ("ma", lags.ma),
        ("sma", lags.seasonal_ma),
    ):
        kinds |= {f"{name}{lag}": real() for lag in part}
    kinds["sigma"] = positive(float(outcome.std()) or 1.0)
    block = replace(series.block, matrix=X)
    facts = Facts("arma", "whole, closed form", series.outcome, {"blocks": {"mu": block}})
    rows = replace(series.rows, drop_first=lost, cache={})
    columns = {"y": outcome, "data": np.column_stack([outcome, X])}
    columns |= {"level": series.y, "regressors": series.block.matrix}
    model = Arma(lags, width, differences, constants)
    return WholeLikelihood(ParameterSpace.of(kinds), rows, None, facts, model, columns, len(outcome))


def ar(y: Any, data: Any = None, *, p: int | Sequence[int] = 1, **options: Any) -> WholeLikelihood:
    """Return the exact Gaussian likelihood of an AR(p) process with regressors.

        y_t = x_t'b + u_t,   u_t = sum phi_i u_{t-i} + e_t,   e_t ~ N(0, sigma^2)

    The first p periods enter with their stationary density (conditional least squares, R's
    `ar.ols` or statsmodels' AutoReg, leaves them out, and has an intercept mu (1 - sum phi)).

    Parameters
    ----------
    y, data, p, options :
        As for `arma`, with q = 0.

    Reference: Hamilton (1994), section 5.3.

    Example
    -------
    >>> import mlecov as ml
    >>> ml.models.ar("rgnp_growth", ml.load("gnp"), p=2).space.labels
    ('mu', 'ar1', 'ar2', 'sigma')
    """
    if "q" in options:
        raise SpecificationError("ar has no q; use arma(p=, q=) for moving averages.")
    return arma(y, data, p=p, q=0, **options)
