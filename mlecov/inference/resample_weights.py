"""Resampling weights: how often each term is drawn in each replication, and multipliers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mlecov.covariance.resampling import Bootstrap
from mlecov.data import Weights
from mlecov.errors import CovarianceError

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

WEBB = np.array([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]) * np.sqrt([1.5, 1.0, 0.5, 0.5, 1.0, 1.5])


def generator(seed: int) -> np.random.Generator:
    """Return the generator of a seed, unlike that of `numpy.random.default_rng(seed)`.

    Data are often simulated from small seeds; the same stream here would draw the same numbers again.
    """
    return np.random.default_rng([seed, 0x6D6C65])


def block_length(spec: Bootstrap, n: int) -> int:
    """Return the length of the blocks: as asked, else n^(1/3) rounded up.

    Raises
    ------
    CovarianceError
        Where blocks are as long as the sample: every replication would be the sample itself.
    """
    length = spec.block_length or math.ceil(n ** (1 / 3))
    if length >= n:
        raise CovarianceError(
            f"block_length={length} for {n} terms: every replication would be the sample itself. Give a length "
            f"well below n; the default is n^(1/3), {math.ceil(n ** (1 / 3))}."
        )
    return length


def draw_weights(
    spec: Bootstrap, rng: np.random.Generator, reps: int, n: int, codes: Codes | None, own: Weights | None
) -> Array:
    """Return the factors (reps, n) on the terms' weights in each replication; their mean is one.

    With frequency weights f a pairs bootstrap draws sum f observations, each row with probability
    f / sum f; the factor of a row is its number of draws over f.
    """
    if spec.kind in ("block", "stationary"):
        index = _block_index(spec, rng, reps, n)
        return _counts(index, n)
    if spec.kind == "pairs" and own is not None and own.kind == "frequency":
        total = int(own.values.sum())
        drawn = rng.multinomial(total, own.values / total, size=reps).astype(float)
        found: Array = np.divide(drawn, own.values, out=np.zeros_like(drawn), where=own.values > 0)
        return found
    size = n if codes is None else int(codes.max()) + 1
    if spec.kind == "bayesian":
        found = rng.standard_exponential((reps, size))
        found /= found.mean(axis=1, keepdims=True)
    else:
        found = _counts(rng.integers(size, size=(reps, size)), size)
    return found if codes is None else found[:, codes]


def _counts(index: npt.NDArray[np.int64], n: int) -> Array:
    """Return how often each of 0..n-1 occurs in each row of `index` (reps, .), as (reps, n)."""
    reps = len(index)
    flat = (index + np.arange(reps)[:, None] * n).ravel()
    return np.bincount(flat, minlength=reps * n).reshape(reps, n).astype(float)


def _block_index(spec: Bootstrap, rng: np.random.Generator, reps: int, n: int) -> npt.NDArray[np.int64]:
    """Return the terms drawn (reps, n): moving blocks, or blocks of geometric length on the circle."""
    length = block_length(spec, n)
    if spec.kind == "block":
        blocks = -(-n // length)
        starts = rng.integers(n - length + 1, size=(reps, blocks))
        return (starts[:, :, None] + np.arange(length)).reshape(reps, -1)[:, :n]
    fresh = rng.random((reps, n)) < 1 / length
    fresh[:, 0] = True
    starts = rng.integers(n, size=(reps, n))
    position = np.arange(n)
    begun = np.maximum.accumulate(np.where(fresh, position, 0), axis=1)
    return (np.take_along_axis(starts, begun, axis=1) + position - begun) % n


def multipliers(name: str, rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Return independent multipliers with mean 0 and variance 1.

    rademacher: -1, 1; webb: +-sqrt(1/2), +-1, +-sqrt(3/2) (Webb 2023; for few groups); mammen:
    (1 -+ sqrt 5)/2 with third moment 1; normal.
    """
    if name == "rademacher":
        return np.asarray(2.0 * rng.integers(2, size=shape) - 1.0)
    if name == "webb":
        return np.asarray(WEBB[rng.integers(6, size=shape)])
    if name == "mammen":
        root = math.sqrt(5.0)
        low = rng.random(shape) < (root + 1) / (2 * root)
        return np.where(low, (1 - root) / 2, (1 + root) / 2)
    return rng.standard_normal(shape)


def all_signs(count: int) -> Array:
    """Return every vector of signs, (2^count, count): the whole set of Rademacher multipliers."""
    bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    return np.asarray(1.0 - 2.0 * bits, dtype=float)
