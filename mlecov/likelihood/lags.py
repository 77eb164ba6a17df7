"""Sums over pairs of terms a few lags apart, from row blocks: windows, bands and Fourier transforms.

Each function returns sum over |i - j| <= L of c[|i - j|] s_i s_j' for the rows s_i that it is given,
c (L + 1,) starting at lag 0, never pairing terms of different series.

=========  ==============================  ==================================================
function   kernels                         cost in products S'S, 20 lags
=========  ==============================  ==================================================
windows    linear in the lag (Bartlett)    2-4: a Bartlett sum is a sum of squared moving sums
bands      any, up to a few hundred lags   about 1 per 5 lags: banded matrix products
fourier    any, any number of lags         n log n a column: (quadratic spectral, all lags)
=========  ==============================  ==================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mlecov.lazy import lazy
from mlecov.parallel import cores, map_parts, scratch

fft = lazy("scipy.fft")

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]
Blocks = Iterable[tuple[int, int, Array]]

STRIPE = 256
"""Rows in a stripe of the banded products."""

TRANSFORMED = 1 << 25
"""Scores transformed together, at most: the transforms of such a group take half a gigabyte, two are held."""


def triangles(kernel_weights: Array) -> list[tuple[float, int]] | None:
    """Return [(coefficient, window)] with c_j = sum coefficient * max(0, 1 - j/window), or None.

    Weights that are linear in the lag down to a last positive one are a mixture of two triangles:
    c_j = 1 - j/b for j <= L < b equals alpha B_L + (1 - alpha) B_(L+1), 1 - alpha = (L+1)(1 - L/b).
    """
    lags = len(kernel_weights) - 1
    if lags < 1 or kernel_weights[0] == 0:
        return None
    relative = kernel_weights / kernel_weights[0]
    slope = 1 - relative[1]
    linear = 1 - slope * np.arange(lags + 1)
    if slope <= 0 or np.abs(relative - linear).max() > 1e-14 or relative[-1] < 0:
        return None
    upper = (lags + 1) * relative[-1]
    if upper > 1 + 1e-12:
        return None
    pieces = [(kernel_weights[0] * upper, lags + 1), (kernel_weights[0] * (1 - upper), lags)]
    return [(coefficient, window) for coefficient, window in pieces if abs(coefficient) > 1e-14]


def moving_sums(rows: Array, window: int) -> Array:
    """Return the sums of `window` consecutive rows (b - window + 1, k), by doubling (no cancellation)."""
    doubled, size = rows, 1
    total: Array | None = None
    covered = 0
    while True:
        if window & size:
            if total is None:
                total, covered = doubled, size
            else:
                length = len(doubled) - covered
                total = total[size : size + length] + doubled[:length]
                covered += size
        size *= 2
        if size > window:
            break
        doubled = doubled[size // 2 :] + doubled[: len(doubled) - size // 2]
    assert total is not None
    return total


def window_gram(blocks: Blocks, k: int, pieces: list[tuple[float, int]], breaks: Codes | None) -> Array:
    """Return the kernel sum of a mixture of triangles: sum of coefficient/window * sum m m'.

    m runs over all sums of `window` consecutive terms, those that overhang the ends included: each
    series is followed by window - 1 rows of zeros.
    """
    longest = max(window for _, window in pieces) - 1
    total = np.zeros((k, k))
    past = np.zeros((longest, k))
    for rows in _padded(blocks, k, longest, breaks):
        joined = np.concatenate([past, rows])
        for coefficient, window in pieces:
            sums = moving_sums(joined[longest - window + 1 :], window)
            total += (coefficient / window) * (sums.T @ sums)
        past = joined[len(joined) - longest :]
    return total


def _padded(blocks: Blocks, k: int, gap: int, breaks: Codes | None) -> Iterator[Array]:
    """Yield the rows with `gap` rows of zeros after each series."""
    for start, stop, rows in blocks:
        low, high = (0, 0) if breaks is None else np.searchsorted(breaks, [start, stop])
        if breaks is None or low == high:
            yield rows
            continue
        at = np.searchsorted(breaks[low:high], np.arange(start, stop), side="right")
        wide = np.zeros((stop - start + gap * (high - low), k))
        wide[np.arange(stop - start) + gap * at] = rows
        yield wide
    yield np.zeros((gap, k))


def band_gram(blocks: Blocks, k: int, kernel_weights: Array, breaks: Codes | None) -> Array:
    """Return the kernel sum by products with the banded (Toeplitz) matrix of a stripe of rows."""
    lags = len(kernel_weights) - 1
    half = np.array(kernel_weights, dtype=float)
    half[0] *= 0.5
    distance = np.arange(STRIPE)[:, None] + lags - np.arange(STRIPE + lags)
    full = np.where((distance >= 0) & (distance <= lags), half[np.clip(distance, 0, lags)], 0.0)
    total = np.zeros((k, k))
    past = np.zeros((lags, k))
    for start, stop, rows in blocks:
        joined = np.concatenate([past, rows])
        for low in range(0, stop - start, STRIPE):
            high = min(low + STRIPE, stop - start)
            band = full[: high - low, : high - low + lags]
            if breaks is not None and len(breaks):
                # `joined` starts at term start - lags: terms before the first are zeros
                own = np.searchsorted(breaks, np.arange(start + low, start + high), side="right")
                seen = np.searchsorted(breaks, np.arange(start + low - lags, start + high), side="right")
                if own[-1] != seen[0]:
                    band = band * (own[:, None] == seen)
            total += rows[low:high].T @ (band @ joined[low : high + lags])
        past = joined[len(joined) - lags :]
    return total + total.T


def fourier_gram(columns: Callable[[int, int], Array], k: int, kernel_weights: Array, edges: Codes) -> Array:
    """Return the kernel sum by Parseval's identity: sum over frequencies of K(f) F(f) F(f)*.

    F are the Fourier transforms of the scores padded with zeros, K that of the kernel. `columns` gives
    columns low:high of the weighted scores (high - low, n); `edges` are the ends of the series.
    """
    longest = int(np.diff(edges).max())
    together = max(min(TRANSFORMED // longest, k), 1)
    total = np.zeros((k, k))
    for low in range(0, k, together):
        left = columns(low, min(low + together, k))
        for other in range(low, k, together):
            right = left if other == low else columns(other, min(other + together, k))
            block = np.zeros((len(left), len(right)))
            for start, stop in pairwise(edges):
                same = right is left
                pair = left[:, start:stop], None if same else right[:, start:stop]
                block += _spectral_product(*pair, kernel_weights[: stop - start])
            total[low : low + len(left), other : other + len(right)] = block
            if other != low:
                total[other : other + len(right), low : low + len(left)] = block.T
    return 0.5 * (total + total.T)


def _spectral_product(left: Array, right: Array | None, c: Array) -> Array:
    """Return sum_ij c[|i - j|] x_i y_j' of the rows x, y (., n) of a series; y = x where it is None."""
    size = fft.next_fast_len(left.shape[1] + len(c) - 1, real=True)
    ring = np.zeros(size)
    ring[: len(c)] = c
    ring[size - len(c) + 1 :] = c[1:][::-1]
    density = fft.rfft(ring).real / size
    density[1 : (size + 1) // 2] *= 2  # each stands for its conjugate too
    weights = np.repeat(density, 2)  # of the real and the imaginary part
    first = fft.rfft(left, size, workers=cores()).view(np.float64)
    second = first if right is None else fft.rfft(right, size, workers=cores()).view(np.float64)

    def part(start: int, stop: int) -> Array:
        total = np.zeros((len(first), len(second)))
        for low in range(start, stop, 8192):
            here = slice(low, min(low + 8192, stop))
            scaled = scratch(len(first), here.stop - low)
            np.multiply(first[:, here], weights[here], out=scaled)
            total += np.dot(scaled, second[:, here].T)
        return total

    return np.asarray(sum(map_parts(part, len(weights))))
