"""Conditional mean and variance of ARMA-GARCH models with derivatives, by linear filters.

Residuals e_t and variances h_t follow linear recursions, so do their first derivatives; second
derivatives enter the Hessian only inside sums sum_t a_t d2 h_t, which one filter run backwards (the
adjoint, lambda_t = a_t + sum_j beta_j lambda_{t+j}) turns into sum_t lambda_t (forcing of d2 h_t).

Reference: Fiorentini, Calzolari & Panattoni (1996), J. Applied Econometrics 11, 399-417.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlecov.lazy import lazy

signal: Any = lazy("scipy.signal")

Array = npt.NDArray[np.float64]
Presample = Literal["residuals", "ols", "steady"]


def recursion(feedback: Array, forcing: Array) -> Array:
    """Return x with x_t = forcing_t + sum_j feedback_j x_{t-j}, x = 0 before the sample; (n,) or (K, n)."""
    if not len(feedback):
        return forcing
    return np.asarray(signal.lfilter([1.0], np.concatenate([[1.0], -feedback]), forcing))


def adjoint(feedback: Array, a: Array) -> Array:
    """Return lambda (n,) with lambda_t = a_t + sum_j feedback_j lambda_{t+j}."""
    return recursion(feedback, a[::-1])[::-1]


def shift(x: Array, k: int, before: Any = 0.0) -> Array:
    """Return x (n,) or (K, n) lagged by k, `before` (scalar or (K,)) standing for the presample."""
    found = np.empty_like(x)
    found[..., k:] = x[..., : x.shape[-1] - k]
    found[..., :k] = before if np.ndim(before) == 0 else np.asarray(before)[:, None]
    return found


def lead(x: Array, k: int) -> Array:
    """Return x (n,) k periods ahead, zero beyond the end."""
    found = np.zeros_like(x)
    found[: len(x) - k] = x[k:]
    return found


@dataclass(frozen=True)
class Mean:
    """e_t = w_t - sum theta_j e_{t-j}, w_t = u_t - sum phi_i u_{t-i}, u = y - X b.

    The first `ar` rows condition the others; e is zero before the first term.
    """

    width: int
    ar: int
    ma: int

    @property
    def size(self) -> int:
        """Number of parameters of the mean: b, phi, theta."""
        return self.width + self.ar + self.ma

    def residuals(self, params: Array, y: Array, X: Array) -> Array:
        """Return e (n,) for the N - ar terms."""
        u = y - X @ params[: self.width] if self.width else y
        if not self.ar and not self.ma:
            return u
        phi = params[self.width : self.width + self.ar]
        w = u[self.ar :].copy()
        for i in range(self.ar):
            w -= phi[i] * u[self.ar - 1 - i : len(u) - 1 - i]
        return recursion(-params[self.width + self.ar :], w)

    def slopes(self, params: Array, y: Array, X: Array, e: Array) -> Array:
        """Return de/dparams (size, n)."""
        if not self.ar and not self.ma:
            return -X.T
        N, P = len(y), self.ar
        phi = params[self.width : self.width + P]
        u = y - X @ params[: self.width]
        forcing = np.empty((self.size, N - P))
        forcing[: self.width] = -X[P:].T
        for i in range(P):
            forcing[: self.width] += phi[i] * X[P - 1 - i : N - 1 - i].T
            forcing[self.width + i] = -u[P - 1 - i : N - 1 - i]
        for j in range(self.ma):
            forcing[self.width + P + j] = -shift(e, j + 1)
        return recursion(-params[self.width + P :], forcing)

    def second(self, params: Array, X: Array, de: Array, a: Array) -> Array | None:
        """Return sum_t a_t d2 e_t (size, size), or None where it is zero."""
        if not self.ar and not self.ma:
            return None
        N, P, found = len(X), self.ar, np.zeros((self.size, self.size))
        back = adjoint(-params[self.width + P :], a)
        for i in range(P):
            cross = back @ X[P - 1 - i : N - 1 - i]
            found[self.width + i, : self.width] += cross
            found[: self.width, self.width + i] += cross
        for j in range(self.ma):
            cross = shift(de, j + 1) @ back
            found[self.width + P + j] -= cross
            found[:, self.width + P + j] -= cross
        return found


@dataclass(frozen=True)
class Variance:
    """h_t = omega + sum alpha_i e_{t-i}^2 + sum gamma_i e_{t-i}^2 1(e_{t-i} < 0) + sum beta_j h_{t-j}.

    Before the sample e^2 and h are s0 (and e^2 1(e < 0) is s0/2). `presample` says what s0 is:
    the mean of e_t^2 at the current parameters (through which derivatives flow), a constant, or
    omega / (1 - sum alpha - sum gamma / 2 - sum beta).
    """

    arch: int
    asymmetry: int
    garch: int
    presample: Presample
    constant: float

    @property
    def size(self) -> int:
        """Number of parameters: omega, alpha, gamma, beta."""
        return 1 + self.arch + self.asymmetry + self.garch

    def split(self, own: Array) -> tuple[float, Array, Array, Array]:
        """Return omega, alpha, gamma, beta."""
        a, g = 1 + self.arch, 1 + self.arch + self.asymmetry
        return float(own[0]), own[1:a], own[a:g], own[g:]

    def _steady(self, own: Array) -> tuple[float, Array]:
        """Return 1 - sum alpha - sum gamma/2 - sum beta and minus its slopes by (alpha, gamma, beta)."""
        share = np.ones(self.size - 1)
        share[self.arch : self.arch + self.asymmetry] = 0.5
        return 1.0 - float(share @ own[1:]), share

    def before(self, own: Array, s: Array) -> float:
        """Return s0."""
        if self.presample == "residuals":
            return float(s.mean())
        return self.constant if self.presample == "ols" else float(own[0]) / self._steady(own)[0]

    def before_slopes(self, own: Array, e: Array, de: Array) -> Array:
        """Return ds0 by all parameters of mean and variance (K,)."""
        found = np.zeros(len(de) + self.size)
        if self.presample == "residuals":
            found[: len(de)] = (2.0 / len(e)) * (de @ e)
        elif self.presample == "steady":
            left, share = self._steady(own)
            found[len(de)] = 1.0 / left
            found[len(de) + 1 :] = own[0] / left**2 * share
        return found

    def before_second(self, own: Array) -> Array:
        """Return d2 s0 by the parameters of the variance (size, size), for the steady state."""
        left, share = self._steady(own)
        found = np.zeros((self.size, self.size))
        found[0, 1:] = found[1:, 0] = share / left**2
        found[1:, 1:] = 2.0 * own[0] / left**3 * np.outer(share, share)
        return found

    def presample_load(self, own: Array) -> Array:
        """Return m_t, the weight of s0 in the forcing of h_t, for t before the longest lag."""
        _, alpha, gamma, beta = self.split(own)
        load = np.zeros(max(self.arch, self.asymmetry, self.garch))
        for part, scale in ((alpha, 1.0), (gamma, 0.5), (beta, 1.0)):
            for k, value in enumerate(part):
                load[: k + 1] += scale * value
        return load

    def path(self, own: Array, s: Array, down: Array | None, s0: float) -> Array:
        """Return h (n,); s is e^2 and `down` e^2 1(e < 0)."""
        omega, alpha, gamma, beta = self.split(own)
        forcing = np.full(len(s), omega)
        load = self.presample_load(own)
        forcing[: len(load)] += load * s0
        for i, value in enumerate(alpha):
            forcing[i + 1 :] += value * s[: len(s) - i - 1]
        for i, value in enumerate(gamma):
            assert down is not None
            forcing[i + 1 :] += value * down[: len(s) - i - 1]
        return recursion(beta, forcing)

    def slopes(
        self, own: Array, s: Array, down: Array | None, ds: Array, s0: float, ds0: Array, h: Array
    ) -> Array:
        """Return dh (K, n); `ds` (K_mean, n) is d e^2."""
        _, alpha, gamma, beta = self.split(own)
        n, mean = len(s), len(ds)
        forcing = np.zeros((mean + self.size, n))
        load = self.presample_load(own)
        forcing[:, : len(load)] = ds0[:, None] * load
        for i, value in enumerate(alpha):
            forcing[:mean, i + 1 :] += value * ds[:, : n - i - 1]
        row = mean
        forcing[row] += 1.0
        for k in range(self.arch):
            forcing[row + 1 + k] += shift(s, k + 1, s0)
        row += self.arch
        for k, value in enumerate(gamma):
            assert down is not None
            forcing[:mean, k + 1 :] += value * (ds * (down > 0))[:, : n - k - 1]
            forcing[row + 1 + k] += shift(down, k + 1, 0.5 * s0)
        row += self.asymmetry
        for k in range(self.garch):
            forcing[row + 1 + k] += shift(h, k + 1, s0)
        return recursion(beta, forcing)

    def second(
        self, own: Array, e: Array, de: Array, down: Array | None, ds0: Array, dh: Array, a: Array
    ) -> tuple[Array, Array]:
        """Return sum_t a_t d2 h_t (K, K) but for d2 e_t, and the weights (n,) with which d2 e_t enters it."""
        _, alpha, gamma, beta = self.split(own)
        n, mean, K = len(e), len(de), len(de) + self.size
        back = adjoint(beta, a)
        load = self.presample_load(own)
        weight = float(back[: len(load)] @ load)
        squares = np.zeros(n)
        for i, value in enumerate(alpha):
            squares += value * lead(back, i + 1)
        for i, value in enumerate(gamma):
            assert down is not None
            squares += value * lead(back, i + 1) * (down > 0)
        found = np.zeros((K, K))
        if self.presample == "residuals":
            squares += weight / n
        elif self.presample == "steady":
            found[mean:, mean:] += weight * self.before_second(own)
        found[:mean, :mean] += 2.0 * (de * squares) @ de.T

        def cross(row: int, slopes: Array, k: int, first: Array) -> None:
            """Add the products of the parameter in `row` with the lagged slopes that it multiplies."""
            line = np.zeros(K)
            line[: len(slopes)] = slopes[:, : n - k] @ back[k:]
            line += first * back[:k].sum()
            found[row] += line
            found[:, row] += line

        ds = 2.0 * de * e
        row = mean + 1
        for k in range(self.arch):
            cross(row + k, ds, k + 1, ds0)
        row += self.arch
        for k in range(self.asymmetry):
            assert down is not None
            cross(row + k, ds * (down > 0), k + 1, 0.5 * ds0)
        row += self.asymmetry
        for k in range(self.garch):
            cross(row + k, dh, k + 1, ds0)
        return found, 2.0 * squares * e
