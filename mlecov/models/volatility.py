"""Volatility: GARCH, GJR and ARMA-GARCH with normal or Student t errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import SpecificationError, listing, suggestion
from mlecov.functions import gammaln_excess_derivatives
from mlecov.kinds import Kind, interval, positive, real
from mlecov.likelihood.base import Evaluation, Facts
from mlecov.models.bounds import runs
from mlecov.models.garch_filters import Mean, Presample, Variance, recursion
from mlecov.models.predicted import Ahead, Declared, OfSample, Sampled, of_params, psi_weights
from mlecov.models.whole import (
    Columns,
    Derivatives,
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

BURN = 500
"""Periods simulated before the first that is kept."""


def normal_density(e: Array, h: Array, order: int) -> tuple[Array, ...]:
    """Return l, then l_e, l_h, then l_ee, l_eh, l_hh of log N(e; 0, h), each (n,)."""
    inverse = 1.0 / h
    z2 = e * e * inverse
    value = -0.5 * (LOG_2PI + np.log(h) + z2)
    if not order:
        return (value,)
    le, lh = -e * inverse, 0.5 * inverse * (z2 - 1.0)
    if order < 2:
        return value, le, lh
    return value, le, lh, -inverse, e * inverse**2, inverse**2 * (0.5 - z2)


def student_density(e: Array, h: Array, nu: float, order: int) -> tuple[Array, ...]:
    """Return l, then l_e, l_h, l_nu, then l_ee, l_eh, l_hh, l_en, l_hn, l_nn, for Student t of variance h.

    With c = nu - 2 and D = c h + e^2:
    l = lgamma((nu+1)/2) - lgamma(nu/2) - log(pi c h)/2 - (nu+1)/2 log(1 + e^2/(c h)).
    """
    c, e2, up = np.float64(nu) - 2.0, e * e, nu + 1.0
    D = c * h + e2
    tail = np.log1p(e2 / (c * h))
    # the ratio of gammas by what Stirling's formula leaves: nu may be 1e12 without loss
    upper, lower = gammaln_excess_derivatives(0.5 * up, order), gammaln_excess_derivatives(0.5 * nu, order)
    step = np.log1p(1.0 / nu)
    level = float(upper[0] - lower[0]) + 0.5 * (up * step - 1.0 + np.log(nu / c) - LOG_2PI)
    value = level - 0.5 * np.log(h) - 0.5 * up * tail
    if not order:
        return (value,)
    level1 = 0.5 * (float(upper[1] - lower[1]) + step - 1.0 / c)
    le, lh = -up * e / D, 0.5 * (up * e2 / D - 1.0) / h
    ln = level1 - 0.5 * tail + 0.5 * up * e2 / (c * D)
    if order < 2:
        return value, le, lh, ln
    level2 = 0.25 * float(upper[2] - lower[2]) - 0.5 / (nu * up) + 0.5 / c**2
    D2 = D * D
    return (
        value,
        le,
        lh,
        ln,
        up * (e2 - c * h) / D2,
        up * e * c / D2,
        0.5 / h**2 - 0.5 * up * e2 * (2.0 * c * h + e2) / (h * h * D2),
        -e / D + up * e * h / D2,
        0.5 * e2 / (h * D) - 0.5 * up * e2 / D2,
        level2 + e2 / (c * D) - 0.5 * up * e2 * (D + c * h) / (c * c * D2),
    )


def student_information(nu: float) -> tuple[float, float, float, float]:
    """Return E[-l_ee], E[-l_hh], E[-l_hn], E[-l_nn] of Student t with variance h = 1.

    Reference: Lange, Little & Taylor (1989), JASA 84, in the scale tau^2 = h (nu - 2)/nu; Fiorentini,
    Sentana & Calzolari (2003), J. Business and Economic Statistics 21.
    """
    scale, cross = 2.0 * nu / (nu + 3.0), -2.0 / ((nu + 1.0) * (nu + 3.0))
    shape = 0.25 * float(special.polygamma(1, 0.5 * nu) - special.polygamma(1, 0.5 * (nu + 1.0)))
    shape -= (nu + 5.0) / (2.0 * nu * (nu + 1.0) * (nu + 3.0))
    turn = 1.0 / (nu * (nu - 2.0))  # d log tau / d nu; d log tau / d h = 1/2
    return (
        nu * (nu + 1.0) / ((nu - 2.0) * (nu + 3.0)),
        0.25 * scale,
        0.5 * (turn * scale + cross),
        shape + 2.0 * turn * cross + turn**2 * scale,
    )


@dataclass(frozen=True)
class Garch(WholeModel):
    """ARMA mean, GARCH variance, normal or Student t errors."""

    mean: Mean
    variance: Variance
    student: bool
    block_diagonal: bool
    name = "garch"
    has_expected: ClassVar[bool] = True
    has_forecast: ClassVar[bool] = True

    def paths(self, params: Array, columns: Columns) -> tuple[Array, Array, Array | None, Array, float]:
        """Return e, e^2, e^2 1(e < 0), h (n,) each and s0."""
        size = self.mean.size
        own = params[size : size + self.variance.size]
        e = self.mean.residuals(params[:size], columns["y"], columns["X"])
        s = e * e
        down = np.where(e < 0, s, 0.0) if self.variance.asymmetry else None
        s0 = self.variance.before(own, s)
        h = self.variance.path(own, s, down, s0)
        return e, s, down, np.where(h > 0, h, np.nan), s0

    def derivatives(self, params: Array, columns: Columns, order: int, w: Array | None) -> Derivatives:
        e, s, down, h, s0 = self.paths(params, columns)
        density = (
            student_density(e, h, float(params[-1]), order) if self.student else normal_density(e, h, order)
        )
        if not order:
            return density[0], None, None
        de, dh, ds0 = self._slopes(params, columns, e, s, down, h, s0)
        le, lh = density[1], density[2]
        scores = np.zeros((len(e), len(params)))
        scores[:, : len(dh)] = (dh * lh).T
        scores[:, : len(de)] += (de * le).T
        if self.student:
            scores[:, -1] = density[3]
        if order < 2:
            return density[0], scores, None
        return density[0], scores, self._hessian(params, columns, density, (e, down), (de, dh, ds0), w)

    def _slopes(
        self, params: Array, columns: Columns, e: Array, s: Array, down: Array | None, h: Array, s0: float
    ) -> tuple[Array, Array, Array]:
        """Return de (K_mean, n), dh (K, n) and ds0 (K,)."""
        own = params[self.mean.size : self.mean.size + self.variance.size]
        de = self.mean.slopes(params[: self.mean.size], columns["y"], columns["X"], e)
        ds0 = self.variance.before_slopes(own, e, de)
        return de, self.variance.slopes(own, s, down, 2.0 * de * e, s0, ds0, h), ds0

    def _hessian(
        self,
        params: Array,
        columns: Columns,
        density: tuple[Array, ...],
        residuals: tuple[Array, Array | None],
        slopes: tuple[Array, Array, Array],
        w: Array | None,
    ) -> Array:
        """Return sum_t w_t d2 l_t (m, m)."""
        (e, down), (de, dh, ds0) = residuals, slopes
        first = 4 if self.student else 3
        weighed = [part if w is None else w * part for part in density]
        lee, leh, lhh = weighed[first : first + 3]
        mean, K = len(de), len(dh)
        own = params[mean:K]
        total = np.zeros((len(params), len(params)))
        block, through = self.variance.second(own, e, de, down, ds0, dh, weighed[2])
        bend = self.mean.second(params[:mean], columns["X"], de, weighed[1] + through)
        block += (dh * lhh) @ dh.T
        cross = (de * leh) @ dh.T
        block[:mean] += cross
        block[:, :mean] += cross.T
        block[:mean, :mean] += (de * lee) @ de.T
        if bend is not None:
            block[:mean, :mean] += bend
        total[:K, :K] = block
        if self.student:
            len_, lhn, lnn = weighed[first + 3 :]
            line = dh @ lhn
            line[:mean] += de @ len_
            total[-1, :K] = total[:K, -1] = line
            total[-1, -1] = lnn.sum()
        return total

    def expected(self, params: Array, columns: Columns, w: Array | None) -> Array:
        """Return sum_t E_{t-1}[-d2 l_t], the mean-variance block zero where asked."""
        e, s, down, h, s0 = self.paths(params, columns)
        de, dh, _ = self._slopes(params, columns, e, s, down, h, s0)
        ee, hh, hn, nn = student_information(float(params[-1])) if self.student else (1.0, 0.5, 0.0, 0.0)
        weight = np.ones(len(e)) if w is None else w
        mean, K = len(de), len(dh)
        total = np.zeros((len(params), len(params)))
        total[:K, :K] = (dh * (weight * hh / h**2)) @ dh.T
        total[:mean, :mean] += (de * (weight * ee / h)) @ de.T
        if self.student:
            total[-1, :K] = total[:K, -1] = dh @ (weight * hn / h)
            total[-1, -1] = nn * weight.sum()
        if self.block_diagonal:
            total[:mean, mean:] = 0.0
            total[mean:, :mean] = 0.0
        return total

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: E(y_t | past); variance: h_t; volatility: its root; residual: e_t; standardized."""
        names = ("mean", "variance", "volatility", "residual", "standardized")
        return {name: OfSample(of_params(self._path(name))) for name in names}

    def _path(self, name: str) -> Callable[[Array, Columns, int], Sampled]:
        """Return the function (params, columns, order) of a path (n,) with derivatives (n, m)."""

        def path(params: Array, columns: Columns, order: int) -> Sampled:
            e, s, down, h, s0 = self.paths(params, columns)
            root = np.sqrt(h)
            y = columns["y"][self.mean.ar :]
            value = {"mean": y - e, "variance": h, "volatility": root, "residual": e}.get(name, e / root)
            if not order:
                return Sampled(value)
            de, dh, _ = self._slopes(params, columns, e, s, down, h, s0)
            by_e, by_h = np.zeros((2, len(params), len(e)))
            by_e[: len(de)], by_h[: len(dh)] = de, dh
            slope = {"mean": -by_e, "variance": by_h, "volatility": 0.5 * by_h / root, "residual": by_e}.get(
                name, (by_e - 0.5 * by_h * e / h) / root
            )
            return Sampled(value, slope.T)

        return path

    def ahead(self, params: Array, columns: Columns, steps: int, X: Array) -> Ahead:
        """Return the mean of y, the variance of its forecast's error and E(h) (steps,) each.

            E h_{T+k} = omega + sum (alpha_i + gamma_i / 2) E e^2_{T+k-i} + sum beta_j E h_{T+k-j}
            V(y_{T+k} | T) = sum_{j<k} psi_j^2 E h_{T+k-j}

        e^2 is what it was up to T, its expectation is E h after (half of it negative: errors are
        symmetric). Reference: Engle & Bollerslev (1986), Econometric Reviews 5.
        """
        mean = self.mean
        b, phi, theta = np.split(params[: mean.size], [mean.width, mean.width + mean.ar])
        omega, alpha, gamma, beta = self.variance.split(params[mean.size : mean.size + self.variance.size])
        e, s, down, h, s0 = self.paths(params, columns)
        lags = max(len(alpha), len(gamma), len(beta))
        squares, below, before = (
            [first] * lags + list(known)
            for first, known in ((s0, s), (0.5 * s0, s if down is None else down), (s0, h))
        )
        u = list(columns["y"] - columns["X"] @ b)
        noise = [0.0] * mean.ma + list(e) + [0.0] * steps
        last = mean.ma + len(e)
        for k in range(steps):
            now = omega + sum(a * squares[-1 - i] for i, a in enumerate(alpha))
            now += sum(g * below[-1 - i] for i, g in enumerate(gamma))
            now += sum(c * before[-1 - j] for j, c in enumerate(beta))
            squares.append(now)
            below.append(0.5 * now)
            before.append(now)
            u.append(
                sum(c * u[-1 - i] for i, c in enumerate(phi))
                + sum(c * noise[last + k - 1 - j] for j, c in enumerate(theta))
            )
        expected = np.array(before[len(before) - steps :])
        psi = psi_weights(phi, theta, steps) ** 2
        variance = np.convolve(psi, expected)[:steps]
        df = float(params[-1]) if self.student else None
        return Ahead(X @ b + np.array(u[len(u) - steps :]), variance, {"variance": expected}, df)

    def boundary(self, likelihood: WholeLikelihood, evaluation: Evaluation) -> str | None:
        """Say where omega is zero, h forgets nothing of the presample, or nu has run off."""
        size, theta = self.mean.size, evaluation.theta
        beta = self.variance.split(likelihood.space.report(theta)[size : size + self.variance.size])[3]
        if np.abs(np.roots(np.concatenate([[1.0], -beta]))).max(initial=0.0) >= 1.0:
            return (
                f"beta is beyond its bound, one ({listing(f'{b:.4g}' for b in beta)}): h_t then depends ever more "
                "on what was before the sample, as it does where alpha is near zero and beta can not be told "
                "from omega. Standard errors have no meaning; test for ARCH effects, or use p=0."
            )
        if runs(likelihood, evaluation, size, -5.0):
            return (
                "omega is at its bound, zero: the sample shows no level that the variance returns to (RiskMetrics' "
                "h_t = alpha e^2 + beta h has none). omega's standard error has no meaning, and forecasts keep "
                "the last variance's level; fix omega at a small share of the variance for the others' errors."
            )
        if self.student and runs(likelihood, evaluation, len(theta) - 1, 10.0):
            return (
                "nu is without bound: the standardized errors' tails are no heavier than the normal's. Its "
                "standard error has no meaning, the others' are those of normal errors; use dist='normal'."
            )
        return None

    def start(self, likelihood: WholeLikelihood) -> Array:
        """Return least squares (Hannan-Rissanen) for the mean and the best of a few (alpha, beta)."""
        columns, mean = likelihood.columns, self.mean
        y, X = columns["y"], columns["X"]
        b = least_squares(X, y)
        u = y - X @ b
        phi, theta = hannan_rissanen(u, tuple(range(1, mean.ar + 1)), tuple(range(1, mean.ma + 1)))
        first = np.concatenate([b, phi, theta])
        e = mean.residuals(first, y, X)
        variance, best, value = float(e.var()), likelihood.space.start(), -np.inf
        for alpha, beta in itertools.product((0.02, 0.05, 0.1, 0.2), (0.96, 0.9, 0.75, 0.5, 0.0)):
            if alpha + beta >= 1 or (beta and not self.variance.garch) or (not beta and self.variance.garch):
                continue
            own = self._shares(variance, alpha, beta)
            params = np.concatenate([first, own, [8.0] if self.student else []])
            found = float(self.derivatives(params, columns, 0, None)[0].sum())
            if found > value:
                best, value = params, found
        return _to_theta(likelihood.space, best)

    def _shares(self, variance: float, alpha: float, beta: float) -> Array:
        """Return omega, alpha, gamma, beta that share alpha + beta between lags, of the given variance."""
        v = self.variance
        ahead = alpha / 2 if v.asymmetry else alpha
        parts = [np.full(v.arch, ahead / max(v.arch, 1)), np.full(v.asymmetry, alpha / max(v.asymmetry, 1))]
        parts.append(np.full(v.garch, beta / max(v.garch, 1)))
        left = 1 - parts[0].sum() - 0.5 * parts[1].sum() - parts[2].sum()
        return np.concatenate([[variance * left], *parts])

    def simulate(self, rng: np.random.Generator, params: Array, columns: Columns) -> dict[str, Array]:
        """Return y drawn after a run-in; without a finite variance the run-in starts at that of the data."""
        y, X, mean = columns["y"], columns["X"], self.mean
        omega, alpha, gamma, beta = self.variance.split(params[mean.size : mean.size + self.variance.size])
        n = BURN + len(y)
        z = rng.standard_normal(n)
        if self.student:
            nu = float(params[-1])
            z = rng.standard_t(nu, n) * np.sqrt((nu - 2.0) / nu)
        left = 1.0 - alpha.sum() - 0.5 * gamma.sum() - beta.sum()
        s0 = omega / left if left > 0 else float(y.var())
        lags = max(len(alpha), len(gamma), len(beta))
        h, s, down = [s0] * lags, [s0] * lags, [0.5 * s0] * lags
        e = np.empty(n)
        for t in range(n):
            now = omega + sum(a * s[-1 - i] for i, a in enumerate(alpha))
            now += sum(g * down[-1 - i] for i, g in enumerate(gamma)) + sum(
                b * h[-1 - j] for j, b in enumerate(beta)
            )
            e[t] = z[t] * np.sqrt(now)
            h.append(now)
            s.append(e[t] ** 2)
            down.append(s[-1] if e[t] < 0 else 0.0)
        phi, theta = params[mean.width : mean.width + mean.ar], params[mean.width + mean.ar : mean.size]
        moved = e.copy()
        for j, value in enumerate(theta):
            moved[j + 1 :] += value * e[: n - j - 1]
        u = recursion(phi, moved)[BURN:]
        return {"y": X @ params[: mean.width] + u}


def _to_theta(space: ParameterSpace, params: Array) -> Array:
    """Return theta at reported parameters whose kinds are all scalar or linear."""
    return np.concatenate(
        [p.kind.free(params[p.reported] if p.kind.shape else params[p.reported][0]) for p in space]
    )


def _numbered(name: str, size: int) -> list[str]:
    """Return `alpha` for one lag, `alpha1`, `alpha2` for several."""
    return [name] if size == 1 else [f"{name}{i + 1}" for i in range(size)]


def garch(
    y: Any,
    data: Any = None,
    *,
    p: int = 1,
    q: int = 1,
    asymmetry: int = 0,
    dist: Literal["normal", "t"] = "normal",
    ar: int = 0,
    ma: int = 0,
    presample: Presample = "residuals",
    block_diagonal: bool | None = None,
) -> WholeLikelihood:
    """Return the likelihood of a GARCH(p, q) model, Bollerslev's, with a mean of its own.

        y_t = x_t'b + u_t,   u_t = sum phi_i u_{t-i} + e_t + sum theta_j e_{t-j},   e_t | past ~ (0, h_t)
        h_t = omega + sum_{i<=q} alpha_i e_{t-i}^2 + sum gamma_i e_{t-i}^2 1(e_{t-i} < 0)
              + sum_{j<=p} beta_j h_{t-j}

        log f_t = -(log 2 pi + log h_t + e_t^2 / h_t) / 2

    Parameters are reported as `mu` (or `mu[x]`), `ar1`.., `ma1`.., `omega`, `alpha`, `gamma`, `beta`
    (numbered where there are several lags) and `nu`. First and second derivatives are exact, by
    linear filters. omega is positive; alpha, gamma and beta are real, held only to h_t > 0 in the
    sample (Nelson & Cao 1992), so that zero is inside and z tests have their meaning.

    Parameters
    ----------
    y, data :
        ("y ~ x", frame), ("y", frame), an array, or arrays (y, X). Rows are periods in order.
    p, q :
        Lags of h and lags of e^2. Stata: garch(1/p) arch(1/q). R's rugarch: garchOrder = c(q, p).
        Python's arch calls the lags of e^2 p and those of h q.
    asymmetry :
        Lags of the GJR term (arch's o). Stata's tarch() has the indicator on e > 0, so that its
        alpha is ours plus gamma, and its coefficient -gamma.
    dist :
        "normal", or "t": Student t with nu > 2 degrees of freedom, scaled to variance h_t.
    ar, ma :
        Orders of an ARMA error; the first `ar` rows condition the rest and are no terms.
    presample :
        h and e^2 before the sample: "residuals", the mean of e_t^2 at the current parameters,
        derivatives flowing through it (Fiorentini, Calzolari & Panattoni; gretl's --fcp, TSP);
        "ols", the mean squared residual of the start values, a constant (nearly Stata's);
        "steady", omega / (1 - sum alpha - sum gamma/2 - sum beta). arch takes an exponentially
        weighted mean of the first 75 squared residuals: its estimates differ in the third digit.
    block_diagonal :
        Whether the expected information (`eim`, `bw`) has zeros between mean and variance, as it
        has in expectation for symmetric models. None: yes without asymmetry. False: the sum of
        conditional expectations as it is.

    `predict` knows "mean", "variance" (h_t), "volatility" (its root), "residual" and "standardized";
    `forecast(steps)` gives the periods to come.

    References: Engle (1982), Econometrica 50; Bollerslev (1986), J. Econometrics 31; Glosten,
    Jagannathan & Runkle (1993), J. Finance 48; Fiorentini, Calzolari & Panattoni (1996), J. Applied
    Econometrics 11; Bollerslev & Wooldridge (1992), Econometric Reviews 11.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.garch("y", ml.load("dmbp")))
    >>> fit.params.round(6).to_dict()
    {'mu': -0.00619, 'omega': 0.010761, 'alpha': 0.153134, 'beta': 0.805974}
    """
    p, q, asymmetry = count(p, "p"), count(q, "q"), count(asymmetry, "asymmetry")
    ar, ma = count(ar, "ar"), count(ma, "ma")
    if not q and not asymmetry:
        raise SpecificationError("garch needs a lag of e^2: with q=0 and asymmetry=0 beta is not identified.")
    if dist not in ("normal", "t"):
        raise SpecificationError(f"dist={dist!r} is not known.{suggestion(str(dist), ['normal', 't'])}")
    known = ["residuals", "ols", "steady"]
    if presample not in known:
        raise SpecificationError(f"presample={presample!r} is not known.{suggestion(str(presample), known)}")
    series = read_series("garch", y, data)
    refuse_constant(series, "garch", 3 + ar + 2 * max(p, q, asymmetry, ma))
    mean = Mean(len(series.block.names), ar, ma)
    X = series.block.matrix
    spread = float(np.mean((series.y - X @ least_squares(X, series.y)) ** 2))
    kinds: dict[str, Kind] = {"mu": series.kind()} if mean.width else {}
    kinds |= {f"ar{i + 1}": real() for i in range(ar)} | {f"ma{j + 1}": real() for j in range(ma)}
    kinds |= {"omega": positive(0.1 * spread)}
    for name, size in (("alpha", q), ("gamma", asymmetry), ("beta", p)):
        kinds |= {label: real() for label in _numbered(name, size)} if size else {}
    if dist == "t":
        kinds["nu"] = interval(2.0, np.inf, 8.0)
    zero = not asymmetry if block_diagonal is None else block_diagonal
    model = Garch(mean, Variance(q, asymmetry, p, presample, spread), dist == "t", zero)
    rows = series.rows
    if ar:
        rows = type(rows)(rows.table, rows.kept, drop_first=ar)
    facts = Facts("garch", "whole, closed form", series.outcome, {"blocks": {"mu": series.block}})
    columns = {"y": series.y, "X": X}
    return WholeLikelihood(ParameterSpace.of(kinds), rows, None, facts, model, columns, len(series.y) - ar)
