"""Generalised gamma durations: the family that holds weibull, lognormal and gamma.

With w = (log t - mu)/sigma the log density of w is l = c(k) - w^2 E(k w), E(x) = (exp(x) - 1 - x)/x^2
and c(k) = log|k| - (lgamma(g) - g log g + g), g = 1/k^2: analytic in k, k = 0 (lognormal) included.
Survival has no closed derivative in k. l is concave in w, so the smaller tail and its derivatives,
integrals of f, f l_k and f (l_kk + l_k^2), are had to rounding by one Gauss-Legendre rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.functions import gammaln_excess_derivatives
from mlecov.kinds import positive, real
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.duration_base import Duration, build_duration
from mlecov.models.working import chain, common, growth, regress, residuals, set_constant

Array = npt.NDArray[np.float64]
LOG_SQRT_2PI = 0.5 * float(np.log(2 * np.pi))
_X, _M = (np.asarray(part)[:, None] for part in np.polynomial.legendre.leggauss(40))
NODES, MASSES = (0.5 * (1 + _X)) ** 2, 0.5 * (1 + _X) * _M  # s = u^2 crowds the nodes where the tail begins
DEPTH = 42.0
"""Fall of the log density beyond which a tail is nothing: exp(-42) = 6e-19."""

AWAY = 0.15
"""|k| from which l is had by quotients of powers of k."""

STIRLING = (-1 / 12, 1 / 360, -1 / 1260, 1 / 1680, -1 / 1188, 691 / 360360, -1 / 156, 3617 / 122400)
"""Coefficients of k^2, k^6, k^10, ... in c(k) + log(2 pi)/2."""


@dataclass(frozen=True)
class Bend:
    """A function of (w, k) with its derivatives up to the order asked for; None beyond it."""

    value: Array
    w: Array | None = None
    k: Array | None = None
    ww: Array | None = None
    wk: Array | None = None
    kk: Array | None = None


def normaliser(k: Array, order: int) -> list[Array]:
    """Return c(k) and its first `order` derivatives: Stirling's series near zero, where quotients cancel."""
    g = 1.0 / np.maximum(k * k, 1e-4)
    found = gammaln_excess_derivatives(g, order)
    safe = np.where(k == 0, 1.0, k)
    out = [np.log(np.abs(safe)) - found[0]]
    if order:
        out.append(1 / safe + 2 * found[1] * g / safe)
    if order > 1:
        out.append(-g - 6 * g * g * found[1] - 4 * g**3 * found[2])
    near = np.flatnonzero(np.abs(k) < 0.3)
    if len(near):
        for j in range(order + 1):
            total = np.full(len(near), -LOG_SQRT_2PI if j == 0 else 0.0)
            for i, coefficient in enumerate(STIRLING):
                power = 4 * i + 2
                total += coefficient * special.poch(power - j + 1, j) * k[near] ** (power - j)
            out[j][near] = total
    return out


def log_density(w: Array, k: Array, order: int) -> Bend:
    """Return l(w, k); `w` may be (b,) or nodes by rows (q, b)."""
    c = normaliser(common(k), order)
    if np.abs(k).min(initial=1.0) > AWAY:
        return _away_from_zero(w, k, c, order)
    g = growth(k * w, order + 1)
    value = c[0] - w * w * (g[0] - g[1])
    if not order:
        return Bend(value)
    cube = w * w * w
    w1, k1 = -w * g[0], c[1] - cube * (g[1] - g[2])
    if order < 2:
        return Bend(value, w1, k1)
    return Bend(value, w1, k1, -np.exp(k * w), -w * w * g[1], c[2] - w * cube * (g[2] - g[3]))


def _away_from_zero(w: Array, k: Array, c: list[Array], order: int) -> Bend:
    """Return l(w, k) by quotients of powers of k: absolute accuracy of eps / k^4, one exponential."""
    x, inverse = k * w, 1.0 / k
    power = np.expm1(x)
    square = inverse * inverse
    gap = (power - x) * square  # w^2 E(k w)
    value = c[0] - gap
    if not order:
        return Bend(value)
    w1 = -power * inverse
    turn = w * w1 * inverse + 2 * inverse * gap
    k1 = c[1] + turn
    if order < 2:
        return Bend(value, w1, k1)
    grown = 1.0 + power
    wk = power * square - w * grown * inverse
    kk = c[2] - square * (w * w * grown + 4 * w * w1 + 6 * gap)
    return Bend(value, w1, k1, -grown, wk, kk)


def _reach(start: Array, k: Array) -> Array:
    """Return s >= 0 at which l(start) - l(start + s) is DEPTH or a little more, by bisection."""
    grown = np.exp(k * start)
    rate = start * special.exprel(k * start)
    down = np.maximum(-k, 0.0) * DEPTH
    high = np.minimum(
        DEPTH / np.maximum(rate, 1e-300), 0.5 * (down + np.sqrt(down * down + 8 * DEPTH * grown)) / grown
    )
    low = np.zeros_like(high)
    # near k = 0 the depth is continuous and needs no digits
    k = np.where(np.abs(k) < 1e-3, 1e-3, k)
    for _ in range(10):
        middle = 0.5 * (low + high)
        x = k * middle
        deep = grown * np.expm1(x) - x >= DEPTH * k * k
        high, low = np.where(deep, middle, high), np.where(deep, low, middle)
    return np.asarray(high)


def survival(w: Array, k: Array, order: int) -> Bend:
    """Return H = -log S(w, k). The tail on w's own side of the mode at zero is the one integrated.

    A tail T beyond w has T_k/T = E l_k and T_kk/T = E(l_kk + l_k^2), means over the tail. Below
    zero the reflection (w, k) -> (-w, -k) leaves l as it is, and S = 1 - T.
    """
    below = w < 0
    sign = np.where(below, -1.0, 1.0)
    edge, slope = np.abs(w), k * sign
    reach = _reach(edge, slope)
    nodes = edge + reach * NODES
    inside = log_density(nodes, slope, order)
    at = log_density(edge, slope, order)
    mass = MASSES * np.exp(inside.value - at.value)
    total = mass.sum(axis=0)
    log_tail = at.value + np.log(reach * total)
    tail = np.exp(log_tail)
    value = np.where(below, -np.log1p(-np.where(below, tail, 0.0)), -log_tail)
    if not order or inside.k is None or at.w is None or at.k is None:
        return Bend(value)
    hazard = np.where(below, np.exp(at.value + np.where(below, value, 0.0)), 1.0 / (reach * total))
    odds = np.where(
        below, -tail * np.exp(np.where(below, value, 0.0)), 1.0
    )  # dS/S of a relative change of the tail
    first = (mass * inside.k).sum(axis=0) / total
    by_k = -odds * sign * first
    if order < 2 or inside.kk is None:
        return Bend(value, hazard, by_k)
    second = (mass * (inside.kk + inside.k * inside.k)).sum(axis=0) / total
    assert inside.w is not None
    # above the mode h + l_w is the mean of l_w(edge) - l_w over the tail, a sum of positive terms
    excess = (mass * (at.w - inside.w)).sum(axis=0) / total
    return Bend(
        value,
        hazard,
        by_k,
        hazard * np.where(below, hazard - at.w, excess),
        hazard * (by_k + sign * at.k),
        by_k * by_k - odds * second,
    )


@dataclass(frozen=True)
class GeneralizedGamma(Duration):
    """(log t - mu)/sigma ~ log(G / g) / k, G ~ gamma(g = 1/k^2); predictors (mu, log sigma, k)."""

    name = "generalized_gamma"
    equations = {"mu": None, "sigma": positive(), "kappa": real()}

    def plain(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        event = columns.get("event")
        log_y = columns["log_y"]
        if event is None:
            return self._rows(eta, log_y, order, True)
        value = np.empty(eta.shape[1])
        first = np.empty_like(eta) if order else None
        second = np.empty((6, eta.shape[1])) if order > 1 else None
        for seen in (True, False):
            rows = np.flatnonzero(event == seen)
            if len(rows):
                part = self._rows(eta[:, rows], log_y[rows], order, seen)
                for whole, piece in zip((value, first, second), part, strict=True):
                    if whole is not None and piece is not None:
                        whole[..., rows] = piece if seen else -piece
        return value, first, second

    def _rows(self, eta: Array, log_t: Array, order: int, event: bool) -> RowDerivatives:
        """Return log f (event) or H of rows, by the chain rule from w and k to the predictors."""
        scale = np.exp(-eta[1])
        w = (log_t - eta[0]) * scale
        found = log_density(w, eta[2], order) if event else survival(w, eta[2], order)
        value = found.value - eta[1] - log_t if event else found.value
        if found.w is None or found.k is None:
            return value, None, None
        first, second = chain(w, scale, found.w, found.ww)
        if event:
            first[1] -= 1
        first = np.stack([first[0], first[1], found.k])
        if second is None or found.wk is None or found.kk is None:
            return value, first, None
        mixed = -found.wk
        return value, first, np.stack([second[0], second[1], scale * mixed, second[2], w * mixed, found.kk])

    def cumulative(self, eta: Array, t: Array, order: int) -> RowDerivatives:
        return self._rows(eta, np.log(t), order, False)

    @property
    def has_expected(self) -> bool:
        return self.complete

    def expected(self, eta: Array, columns: Columns) -> Array:
        """Return E[d2l/d eta2] over the law of w, its two tails from the mode at zero each by one rule."""
        k, scale = common(eta[2]), np.exp(-eta[1])
        none = np.zeros_like(k)
        unit, at = np.zeros((6, len(k))), np.stack([none, none, k])
        for side in (1.0, -1.0):
            reach = _reach(none, side * k)
            for node, mass in zip(NODES, MASSES, strict=True):
                w = side * reach * node
                value, _, second = self._rows(at, w, 2, True)
                assert second is not None
                unit += reach * mass * np.exp(value + w) * second
        one = np.ones_like(scale)
        return np.asarray(unit * np.stack([scale * scale, scale, scale, one, one, one]))

    def inverse(self, eta: Array, hazard: Array) -> Array:
        k = eta[2]
        g = 1.0 / np.maximum(k * k, 1e-8)
        share = np.exp(-hazard)
        drawn = np.where(k > 0, special.gammainccinv(g, share), special.gammaincinv(g, share))
        near = np.abs(k) < 1e-4
        w = np.where(near, -special.ndtri_exp(-hazard), np.log(drawn / g) / np.where(near, 1.0, k))
        return np.asarray(np.exp(eta[0] + np.exp(eta[1]) * w))

    def start(self, likelihood: IndexLikelihood) -> Array:
        times, censoring = self.times(likelihood)
        log_times = np.log(times)
        theta = regress(likelihood, likelihood.space.start(), 0, log_times)
        log_sigma = residuals(likelihood, theta, log_times)[1]
        theta = regress(likelihood, theta, 0, log_times + np.exp(log_sigma) * censoring)
        set_constant(likelihood, theta, 1, log_sigma)
        return theta

    def mean(self, eta: Array, columns: Columns) -> Array:
        sigma, k = np.exp(eta[1]), eta[2]
        near = np.abs(k) < 1e-4
        safe = np.where(near, 1.0, k)
        g = 1 / (safe * safe)
        power = sigma / safe
        with np.errstate(invalid="ignore"):
            log_ratio = special.gammaln(g + power) - special.gammaln(g) - power * np.log(g)
        found = np.exp(eta[0] + np.where(near, 0.5 * sigma * sigma, log_ratio))
        return np.where(near | (g + power > 0), found, np.inf)


def generalized_gamma(
    formula: Any,
    data: Any = None,
    *,
    event: Any = None,
    upper: Any = None,
    entry: Any = None,
    sigma: str | None = None,
    kappa: str | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the generalised gamma regression, log T = x'b + sigma w.

        log f = log|k| + g log g - log G(g) + w/k - g exp(k w) - log sigma - log t,
        w = (log t - x'b) / sigma,  g = 1 / k^2,  k = kappa

    kappa = 1 is the Weibull, 0 the lognormal (no singularity: the likelihood is analytic there),
    sigma the gamma, -1 the inverse Weibull; so Wald tests of kappa choose among them. Stata's
    `streg, distribution(ggamma)` and R's `flexsurvreg(dist = "gengamma")` (Q = kappa) agree.

    Parameters
    ----------
    formula, data, event, upper, entry, sigma, options :
        As for `weibull`.
    kappa :
        Formula of kappa, if it varies.

    Reference: Prentice (1974), Biometrika 61, 539-544; Farewell & Prentice (1977), Technometrics 19, 69-75.

    >>> import numpy as np
    >>> generalized_gamma(np.array([1.0, 2.0, 4.0, 3.0]), np.ones((4, 1))).space.labels
    ('mu[x0]', 'sigma', 'kappa')
    """
    return build_duration(
        GeneralizedGamma(),
        formula,
        data,
        event=event,
        upper=upper,
        entry=entry,
        equations={"sigma": sigma, "kappa": kappa},
        **options,
    )
