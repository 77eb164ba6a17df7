"""Kernels as data, and bandwidths chosen from the scores (Newey & West 1994; Andrews 1991)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlecov.errors import CovarianceError
from mlecov.likelihood.scores import Scores

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Kernel:
    """A kernel kappa(x), x = j / bandwidth, and the constants of its optimal bandwidth.

    `order` is the characteristic exponent q; the bandwidth is constant * (alpha(q) n)^(1 / (2q + 1)).
    `newey_west` is the exponent of (n / 100) in the lags that Newey & West's pilot uses.
    """

    title: str
    function: Callable[[Array], Array]
    order: int
    constant: float
    newey_west: float | None
    bounded: bool = True


def bartlett(x: Array) -> Array:
    """Return 1 - x on [0, 1]."""
    return np.maximum(1 - x, 0.0)


def parzen(x: Array) -> Array:
    """Return 1 - 6 x^2 + 6 x^3 up to 1/2, 2 (1 - x)^3 up to 1."""
    return np.where(x <= 0.5, 1 - 6 * x**2 + 6 * x**3, 2 * np.maximum(1 - x, 0.0) ** 3)


def tukey_hanning(x: Array) -> Array:
    """Return (1 + cos(pi x)) / 2 on [0, 1]."""
    return np.where(x <= 1, 0.5 * (1 + np.cos(np.pi * np.minimum(x, 1.0))), 0.0)


def truncated(x: Array) -> Array:
    """Return 1 on [0, 1]."""
    return (x <= 1).astype(float)


def quadratic_spectral(x: Array) -> Array:
    """Return 3 (sin z / z - cos z) / z^2 with z = 6 pi x / 5."""
    z = 1.2 * np.pi * x
    far = np.maximum(z, 0.05)
    # The difference cancels near zero; four terms of its series are exact there.
    near = 1 - z**2 / 10 * (1 - z**2 / 28 * (1 - z**2 / 54))
    return np.where(z < 0.05, near, 3 * (np.sin(far) / far - np.cos(far)) / far**2)


KERNELS: dict[str, Kernel] = {
    "bartlett": Kernel("Bartlett", bartlett, 1, 1.1447, 2 / 9),
    "parzen": Kernel("Parzen", parzen, 2, 2.6614, 4 / 25),
    "quadratic-spectral": Kernel("quadratic spectral", quadratic_spectral, 2, 1.3221, 2 / 25, bounded=False),
    "tukey-hanning": Kernel("Tukey-Hanning", tukey_hanning, 2, 1.7462, None),
    "truncated": Kernel("truncated", truncated, 2, 0.6611, None),
}


def kernel_weights(kernel: str, bandwidth: float, n: int) -> Array:
    """Return kappa(j / bandwidth) for lags j = 0 ... L (L + 1,), L the last lag below n with a weight."""
    entry = KERNELS[kernel]
    if bandwidth <= 0:
        return np.ones(1)
    last = n - 1 if not entry.bounded else min(int(np.floor(bandwidth)), n - 1)
    return np.asarray(np.trim_zeros(entry.function(np.arange(last + 1) / bandwidth), "b"))


def bandwidth_of_lags(kernel: str, lags: int) -> float:
    """Return the bandwidth whose last lag with a weight is `lags`."""
    if lags == 0:
        return 0.0
    return float(lags if kernel == "truncated" else lags + 1)


def choose_bandwidth(
    scores: Scores, kernel: str, rule: str, breaks: Codes | None, names: tuple[str, ...], prewhitened: int
) -> float:
    """Return the bandwidth that `rule` ("newey-west" or "andrews") finds for scores in time order.

    Newey & West weigh the columns alike, but for the constants of linear predictors, which count
    zero; for the Bartlett kernel the lags are rounded down, as their program and R's do. Andrews
    approximates each column by an AR(1).

    Raises
    ------
    CovarianceError
        Where the scores have no variance to measure.
    """
    same = _same_series(scores.n_terms, breaks)
    if rule == "andrews":
        return _andrews(scores, KERNELS[kernel], same)
    found = _newey_west(scores, kernel, same, names, prewhitened)
    return float(np.floor(found) + 1) if kernel == "bartlett" else found


def _same_series(n: int, breaks: Codes | None) -> Codes | None:
    return None if breaks is None or not len(breaks) else np.searchsorted(breaks, np.arange(n), side="right")


def _newey_west(
    scores: Scores, kernel: str, series: Codes | None, names: tuple[str, ...], prewhitened: int
) -> float:
    entry = KERNELS[kernel]
    assert entry.newey_west is not None
    weights = np.array([0.0 if name.endswith("[Intercept]") else 1.0 for name in names])
    if not weights.any():
        weights[:] = 1.0
    w = scores.term_weights()
    h = scores.right(weights)
    h = h if w is None else h * w
    n = len(h) + prewhitened
    pilot = min(int((3 if prewhitened else 4) * (n / 100) ** entry.newey_west), len(h) - 1)
    sigma = np.empty(pilot + 1)
    for j in range(pilot + 1):
        product = h[j:] * h[: len(h) - j]
        sigma[j] = (product if series is None else product[series[j:] == series[: len(h) - j]]).sum()
    lag = np.arange(1, pilot + 1)
    s0 = sigma[0] + 2 * sigma[1:].sum()
    sq = 2 * (lag**entry.order * sigma[1:]).sum()
    if not s0 > 0 and not s0 < 0:
        raise CovarianceError("the scores do not vary: no bandwidth can be chosen. Give a number.")
    return float(entry.constant * ((sq / s0) ** 2 * n) ** (1 / (2 * entry.order + 1)))


def _andrews(scores: Scores, entry: Kernel, series: Codes | None) -> float:
    top = bottom = 0.0
    for column in _columns(scores):
        now, past = column[1:], column[:-1]
        if series is not None:
            inside = series[1:] == series[:-1]
            now, past = now[inside], past[inside]
        now, past = now - now.mean(), past - past.mean()
        spread = float(past @ past)
        if not spread > 0:
            continue
        rho = float(np.clip(past @ now / spread, -0.97, 0.97))
        variance = float(np.mean((now - rho * past) ** 2))
        bottom += variance**2 / (1 - rho) ** 4
        square = 4 * rho**2 * variance**2
        top += square / ((1 - rho) ** 6 * (1 + rho) ** 2) if entry.order == 1 else square / (1 - rho) ** 8
    if not bottom > 0:
        raise CovarianceError("the scores do not vary: no bandwidth can be chosen. Give a number.")
    return float(entry.constant * (top / bottom * scores.n_terms) ** (1 / (2 * entry.order + 1)))


def _columns(scores: Scores) -> Iterator[Array]:
    """Yield the weighted columns (n,), a few formed at a time."""
    w = scores.term_weights()
    for low in range(0, scores.k, 4):
        for column in scores.right(np.eye(scores.k)[:, low : low + 4]).T:
            yield np.ascontiguousarray(column) if w is None else column * w
