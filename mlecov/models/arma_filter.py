"""The Kalman filter of a stationary ARMA process as a recursion of jets: exact derivatives.

In Harvey's form the state is a_t (r,), y_t = a_t[0], a_{t+1} = T a_t + R e_{t+1} with the
coefficients phi in T's first column, ones above its diagonal and R = (1, theta_1, ...). Because y_t is the
first entry of the state, the filtered covariance has a zero first row and the update is a shift:

    P_{t+1}[i, j] = P_t[i+1, j+1] - P_t[i+1, 0] P_t[0, j+1] / P_t[0, 0] + R_i R_j.

Reference: Harvey (1989), Forecasting, Structural Time Series Models, section 3.3; Gardner, Harvey &
Phillips (1980), Applied Statistics 29, algorithm AS 154.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlecov.models.garch_filters import recursion
from mlecov.models.jets import Jets

Array = npt.NDArray[np.float64]

STEADY = 1e-15
"""Change of P and its derivatives, relative, below which the filter has reached its steady state."""


@dataclass(frozen=True)
class Lags:
    """Which lags carry coefficients: phi(L) Phi(L^s) u = theta(L) Theta(L^s) e.

    `ar` and `seasonal_ar` have minus signs in their polynomials, `ma` and `seasonal_ma` plus signs.
    """

    ar: tuple[int, ...]
    seasonal_ar: tuple[int, ...]
    ma: tuple[int, ...]
    seasonal_ma: tuple[int, ...]

    @property
    def k(self) -> int:
        """Number of coefficients, in the order ar, sar, ma, sma."""
        return len(self.ar) + len(self.seasonal_ar) + len(self.ma) + len(self.seasonal_ma)

    @property
    def order(self) -> int:
        """r, the length of the state."""
        p = max(self.ar, default=0) + max(self.seasonal_ar, default=0)
        q = max(self.ma, default=0) + max(self.seasonal_ma, default=0)
        return max(p, q + 1)

    def polynomials(self, params: Array, jets: Jets) -> tuple[Array, Array]:
        """Return the jets of phi (D, r) and R = (1, theta) (D, r)."""
        parts, first = [], 0
        for lags, sign in (
            (self.ar, -1.0),
            (self.seasonal_ar, -1.0),
            (self.ma, 1.0),
            (self.seasonal_ma, 1.0),
        ):
            found = np.zeros((jets.size, self.order + 1))
            found[0, 0] = 1.0
            for j, lag in enumerate(lags):
                found[0, lag] = sign * params[first + j]
                if jets.order:
                    found[1 + first + j, lag] = sign
            parts.append(found)
            first += len(lags)
        ar = jets.bilinear(parts[0], parts[1], _convolve)
        ma = jets.bilinear(parts[2], parts[3], _convolve)
        return -ar[:, 1:], ma[:, :-1]


def _convolve(a: Array, b: Array) -> Array:
    """Return the products of polynomials a and b (D or 1, r + 1), cut to the same length."""
    width = a.shape[-1]
    size = max(len(a), len(b)) if len(a) and len(b) else 0
    found = np.zeros((size, width))
    for i in range(width):
        found[:, i:] += a[:, [i]] * b[:, : width - i]
    return found


def stationary(phi: Array, R: Array, jets: Jets) -> Array | None:
    """Return the jet P (D, r, r) of the solution of P = T P T' + R R', or None where phi is not stationary.

    By doubling: P = sum_j T^j Q T'^j, the sum of 2^i terms from that of 2^(i-1) (Smith 1968). Each
    derivative solves the same equation with a right-hand side of lower derivatives.
    """
    r = phi.shape[1]
    T = np.zeros((r, r))
    T[:, 0] = phi[0]
    T[np.arange(r - 1), np.arange(1, r)] = 1.0
    powers, power = [], T
    for _ in range(60):
        powers.append(power)
        size = np.abs(power).max()
        if not size < 1e10:
            return None
        if size < 1e-17:
            break
        power = power @ power
    else:
        return None

    def solve(Q: Array) -> Array:
        for A in powers:
            Q = Q + A @ Q @ A.T
        return Q

    def moved(d: Array, P: Array) -> Array:
        """Return dT P T' + T P dT', where dT = d e_1' moves the first column alone."""
        half = d[..., :, None] * (P[..., 0, :] @ T.T)[..., None, :]
        return np.asarray(half + np.swapaxes(half, -1, -2))

    outer = jets.multiply(R[:, :, None], R[:, None, :])
    P = np.empty((jets.size, r, r))
    P[0] = solve(outer[0])
    if jets.order:
        k = jets.k
        d = phi[1 : 1 + k]
        P[1 : 1 + k] = solve(outer[1 : 1 + k] + moved(d, P[:1]))
        if jets.order > 1:
            left, right = jets.pairs
            right_side = outer[1 + k :] + moved(phi[1 + k :], P[:1])
            right_side += moved(d[left], P[1 + right]) + moved(d[right], P[1 + left])
            corner = P[0, 0, 0] * (d[left][:, :, None] * d[right][:, None, :])
            right_side += corner + np.swapaxes(corner, -1, -2)
            P[1 + k :] = solve(right_side)
    return P


def innovations(params: Array, lags: Lags, data: Array, order: int) -> tuple[Jets, Array, Array] | None:
    """Return jets V (D, n, c) and F (D, n): prediction errors of the columns of data (n, c), variances.

    Variances are in units of sigma^2. None where the autoregression is not stationary.
    """
    jets = Jets(lags.k, order)
    phi, R = lags.polynomials(params, jets)
    P = stationary(phi, R, jets)
    if P is None:
        return None
    n, c = data.shape
    noise = jets.multiply(R[:, :, None], R[:, None, :])
    state = np.zeros((jets.size, lags.order, c))
    V, F = np.empty((jets.size, n, c)), np.empty((jets.size, n))
    for t in range(n):
        F[:, t] = P[:, 0, 0]
        V[:, t] = -state[:, 0]
        V[0, t] += data[t]
        column = P[:, 1:, 0]
        gain = jets.multiply(column, jets.reciprocal(P[:, :1, 0]))
        following = noise.copy()
        following[:, :-1, :-1] += P[:, 1:, 1:] - jets.multiply(gain[:, :, None], column[:, None, :])
        state = _shifted(state) + phi[:, :, None] * data[t]
        state[:, :-1] += jets.multiply(gain[:, :, None], V[:, None, t])
        if t >= lags.order and (np.abs(following - P) <= STEADY * (1.0 + np.abs(P))).all():
            F[:, t + 1 :] = following[:, 0, :1]
            _steady(jets, phi, gain, data, V, t + 1)
            break
        P = following
    return jets, V, F


def state_after(params: Array, lags: Lags, u: Array) -> tuple[Array, Array, Array, Array] | None:
    """Return T (r, r), R (r,) and the state a (r,), P (r, r) predicted for the period after u (n,).

    P is in units of sigma^2. The state is a sum over the last r periods, because T shifts:
    a_{t+1}[i] = a_t[i+1] + phi_i y_t + gain_t[i] v_t. None where the autoregression is not stationary.
    """
    found = innovations(params, lags, u[:, None], 0)
    if found is None:
        return None
    jets, v, r, n = found[0], found[1][0, :, 0], lags.order, len(u)
    phi, R = (part[0] for part in lags.polynomials(params, jets))
    first = stationary(phi[None], R[None], jets)
    assert first is not None
    P, noise, gains = first[0], np.outer(R, R), []
    for t in range(n):
        gains.append(P[1:, 0] / P[0, 0])
        following = noise.copy()
        following[:-1, :-1] += P[1:, 1:] - np.outer(gains[-1], P[1:, 0])
        settled = t >= r and (np.abs(following - P) <= STEADY * (1.0 + np.abs(P))).all()
        P = following
        if settled:
            break
    a = np.zeros(r)
    for t in range(max(n - r, 0), n):
        a = np.append(a[1:], 0.0) + phi * u[t]
        a[:-1] += gains[min(t, len(gains) - 1)] * v[t]
    T = np.zeros((r, r))
    T[:, 0] = phi
    T[np.arange(r - 1), np.arange(1, r)] = 1.0
    return T, R, a, P


def _shifted(state: Array) -> Array:
    found = np.zeros_like(state)
    found[:, :-1] = state[:, 1:]
    return found


def _steady(jets: Jets, phi: Array, gain: Array, data: Array, V: Array, first: int) -> None:
    """Fill V[:, first:] by the filter of constant gain v_t = y_t - sum phi_i y_{t-i} - sum g_j v_{t-j}."""
    n = len(data)
    rows = slice(first, n)

    def past(x: Array, lag: int) -> Array:
        return x[..., first - lag : n - lag, :]

    feedback = -gain[0]

    def run(entries: Sequence[int], forcing: Array) -> None:
        """Filter the forcing (m, n', c) of some entries of the jet, continuing from V before `first`."""
        for j, value in enumerate(feedback):
            ahead = min(j + 1, n - first)
            forcing[:, :ahead] += value * V[entries, first - j - 1 : first - j - 1 + ahead]
        V[entries, rows] = np.moveaxis(recursion(feedback, np.moveaxis(forcing, 1, -1)), -1, 1)

    def driven(entries: Sequence[int]) -> Array:
        """Return y_t (for the value) - sum phi_i y_{t-i} of some entries of the jet."""
        found = np.zeros((len(entries), n - first, data.shape[1]))
        for i in range(phi.shape[1]):
            if np.any(phi[entries, i]):
                found -= phi[entries, i][:, None, None] * past(data, i + 1)
        return found

    k = jets.k
    value = driven([0])
    value[0] += data[rows]
    run([0], value)
    if not jets.order:
        return
    singles = list(range(1, 1 + k))
    forcing = driven(singles)
    for j in range(gain.shape[1]):
        forcing -= gain[singles, j][:, None, None] * past(V[0], j + 1)
    run(singles, forcing)
    if jets.order < 2:
        return
    left, right = jets.pairs[0] + 1, jets.pairs[1] + 1
    doubles = list(range(1 + k, jets.size))
    forcing = driven(doubles)
    for j in range(gain.shape[1]):
        forcing -= gain[doubles, j][:, None, None] * past(V[0], j + 1)
        forcing -= gain[left, j][:, None, None] * past(V[right], j + 1)
        forcing -= gain[right, j][:, None, None] * past(V[left], j + 1)
    run(doubles, forcing)
