"""Formulas of the special functions, written once for numpy and JAX.

The normal rests on d(t) = phi(t) / (1 - Phi(t)) - t, the gamma family on s = z + 1/2, log Gamma(z + 1) =
s (log s - 1) + log(2 pi) / 2 + a remainder; both remainders are rational functions on the whole half line
(`special_coefficients`), so a derivative costs a polynomial and nothing cancels in the tails. `functions`
is the public face.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import autodiff
from mlecov.errors import SpecificationError
from mlecov.special_coefficients import (
    CENTRAL,
    CURVE,
    EXCESS,
    STIRLING,
    STIRLING1,
    STIRLING2,
    STIRLING3,
    Rational,
)

Array = npt.NDArray[np.float64]
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
BLOCK = 8192  # rows at a time: powers and temporaries stay in the second-level cache


# Polynomials: in numpy the powers are formed once and shared, each polynomial is then one dot product.


def _rational_numpy(size: int) -> Callable[..., list[Any]]:
    workspace = np.empty((12, size))
    workspace[0] = 1.0

    def rational(w: Array, *tables: Rational) -> list[Any]:
        powers = workspace[:, : w.size]
        # 1, w, w^2, w^3, then four powers at a time
        np.copyto(powers[1], w)
        np.multiply(w, w, out=powers[2])
        np.multiply(powers[2], w, out=powers[3])
        fourth = powers[2] * powers[2]
        for j in range(4, max(len(table[0]) for table in tables), 4):
            np.multiply(powers[j - 4 : j], fourth, out=powers[j : j + 4])
        return [_dot(p, powers) / _dot(q, powers) for p, q in tables]

    return rational


def _dot(coefficients: tuple[float, ...], powers: Array) -> Array:
    result: Array = np.dot(_vector(coefficients), powers[: len(coefficients)])
    return result


@functools.cache
def _vector(coefficients: tuple[float, ...]) -> Array:
    return np.array(coefficients)


def rational_horner(w: Any, *tables: Rational) -> list[Any]:
    """Return each table's rational function at w by Horner's rule (JAX: no workspace)."""
    return [_horner(p, w) / _horner(q, w) for p, q in tables]


def _horner(coefficients: tuple[float, ...], w: Any) -> Any:
    result = coefficients[-1] * w + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        result = result * w + coefficient
    return result


def blocked(core: Callable[..., Sequence[Any]], order: int, *arguments: Any) -> tuple[Any, ...]:
    """Run `core` over blocks of the broadcast arguments; one array a derivative, in their shape."""
    if order not in (0, 1, 2, 3):
        raise SpecificationError(f"order of derivative: expected 0, 1, 2 or 3, got {order!r}.")
    arrays = [np.asarray(argument, dtype=np.float64) for argument in arguments]
    if len(arrays) > 1:
        arrays = list(np.broadcast_arrays(*arrays))
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    n = flat[0].size
    rational = _rational_numpy(min(n, BLOCK))
    # poles and infinite arguments are answered by the limits, as scipy.special does, in silence
    with np.errstate(all="ignore"):
        if n <= BLOCK and arrays[0].ndim == 1:
            return tuple(core(np, rational, *flat, order))
        out = np.empty((order + 1, n))
        for start in range(0, n, BLOCK):
            rows = slice(start, start + BLOCK)
            for target, value in zip(out, core(np, rational, *(f[rows] for f in flat), order), strict=True):
                target[rows] = value
    return tuple(row.reshape(arrays[0].shape)[()] for row in out)


def chooser(xp: Any, mask: Any) -> Callable[[Any, Any], Any]:
    """Return choose(a, b): a where the mask holds, b elsewhere, for float64 arrays of the mask's shape.

    In numpy by bits: `np.where` branches on every number, which costs 3 ns each where signs are random.
    """
    if xp is not np:
        return lambda a, b: xp.where(mask, a, b)
    bits = -mask.astype(np.int64)

    def choose(a: Array, b: Array) -> Array:
        other = b.view(np.int64)
        mixed = np.bitwise_xor(a.view(np.int64), other)
        mixed &= bits
        mixed ^= other
        return mixed.view(np.float64)

    return choose


# Cores: `xp` is numpy or jax.numpy, `rational` evaluates the tables at w.


def exp_half_square(xp: Any, t: Any) -> Any:
    """exp(-t^2 / 2) to rounding: t = r + rest with r^2 exact, for t^2 alone loses t^2 / 2 roundings."""
    t = xp.minimum(t, 40.0)
    if xp is np:  # the leading half of the digits
        r = np.bitwise_and(t.view(np.int64), -(1 << 27)).view(np.float64)
    else:
        r = xp.rint(t * 1048576.0) * (1.0 / 1048576.0)
    return xp.exp(-0.5 * r * r) * xp.exp(0.5 * (r - t) * (r + t))


def normal(xp: Any, rational: Any, x: Any, order: int) -> tuple[Any, ...]:
    """log Phi and its derivatives m, -m D, m (D^2 + m D - 1), with D = x + m = d(-x) left of zero."""
    left = chooser(xp, x < 0.0)
    size = xp.abs(x)
    t = xp.minimum(size, float(np.finfo(x.dtype).max) ** 0.25)  # beyond, products of limits would be 0 * inf
    w = 3.0 / (t + 3.0)
    tables = (EXCESS, CURVE) if order == 3 else (EXCESS,)
    ratios = rational(w, *tables)
    excess = w * ratios[0]
    hazard = t + excess
    density = INV_SQRT_2PI * exp_half_square(xp, t)
    upper = density / hazard  # Phi(-t)
    value = left(-0.5 * size * size - LOG_SQRT_2PI - xp.log(hazard), xp.log1p(-upper))
    if order == 0:
        return (value,)
    mills = left(hazard, density / (1.0 - upper))
    first = left(size + excess, mills)
    gap = left(excess, t + mills)
    second = -mills * gap
    if order < 3:
        return (value, first, second)[: order + 1]
    w2 = w * w
    curve = xp.where(x < -1.5, w2 * w2 * ratios[1], gap * gap - second - 1.0)
    return value, first, second, mills * curve


def _stirling(xp: Any, rational: Any, z: Any, first: int, last: int) -> list[Any]:
    """Return remainders `first` to `last` of log Gamma(z + 1), z >= 0, and CENTRAL when first = 0."""
    w = 1.5 / (z + 1.5)
    tables = (STIRLING, STIRLING1, STIRLING2, STIRLING3)[first : last + 1]
    ratios: list[Any] = rational(w, *tables, *((CENTRAL,) if first == 0 else ()))
    power = w
    for j in range(last + 1):
        if j >= first:
            ratios[j - first] = ratios[j - first] * power
        power = power * w
    return ratios


def gamma(xp: Any, rational: Any, z: Any, first: int, last: int) -> list[Any]:
    """lgamma, digamma, trigamma, tetragamma (numbers first to last) at z >= 0."""
    rest = _stirling(xp, rational, z, first, last)
    s = z + 0.5
    log_s = xp.log(s) if first < 2 else s
    out = []
    for j in range(first, last + 1):
        remainder = rest[j - first]
        if j == 0:
            # log z is bounded so that infinity is not inf - inf; CENTRAL keeps the zeros at 1 and 2 exact
            log_z = xp.log(xp.minimum(z, float(np.finfo(z.dtype).max) ** 0.9))
            far = s * (log_s - 1.0) + LOG_SQRT_2PI + remainder - log_z
            central = (z - 1.0) * (z - 2.0) * rest[-1]
            out.append(chooser(xp, (z > 0.5) & (z < 3.0))(central, far))
        elif j == 1:
            out.append(log_s - 1.0 / z + remainder)
        elif j == 2:
            out.append(1.0 / (z * z) + 1.0 / s + remainder)
        else:
            out.append(-2.0 / (z * z * z) - 1.0 / (s * s) + remainder)
    return out


SINE = tuple((-1.0) ** j / math.factorial(2 * j + 1) for j in range(9))
COSINE = tuple((-1.0) ** j / math.factorial(2 * j) for j in range(9))


def _sine_cosine(half: Any) -> tuple[Any, Any]:
    """Sine and cosine of 2 half, |half| <= pi / 4, by Taylor's series (XLA's own take 20 ns a number)."""
    square = half * half
    sine = half * _horner(SINE, square)
    return 2.0 * sine * _horner(COSINE, square), 1.0 - 2.0 * sine * sine


def gamma_reflected(xp: Any, rational: Any, z: Any, first: int, last: int) -> list[Any]:
    """Extend `gamma` to z < 0 by log Gamma(z) = log(pi / |sin(pi z)|) - log Gamma(1 - z)."""
    negative = z < 0.0
    values = gamma(xp, rational, xp.where(negative, 1.0 - z, z), first, last)
    sine, cosine = _sine_cosine(0.5 * math.pi * (z - xp.rint(z)))
    inverse = math.pi / xp.where(negative, sine, 1.0)  # finite also where not taken: JAX may multiply by zero
    out = []
    for j, value in zip(range(first, last + 1), values, strict=True):
        other = (
            lambda v: xp.log(xp.abs(inverse)) - v,
            lambda v: v - inverse * cosine,
            lambda v: inverse * inverse - v,
            lambda v: v - 2.0 * inverse * inverse * inverse * cosine,
        )[j](value)
        out.append(xp.where(negative, other, value))
    return out


def gamma_ratio(xp: Any, rational: Any, y: Any, m: Any, first: int, last: int) -> list[Any]:
    """Derivatives in m of lgamma(m + y) - lgamma(m), differences taken in closed form, y, m >= 0."""
    b = m + y
    at_m = _stirling(xp, rational, m, first, last)
    at_b = _stirling(xp, rational, b, first, last)
    s, sb = m + 0.5, b + 0.5
    out = []
    for j in range(first, last + 1):
        rest = at_b[j - first] - at_m[j - first]
        if j == 0:
            value = s * xp.log1p(y / s) - y + y * xp.log(sb) + rest - xp.log1p(y / m)
        elif j == 1:
            value = xp.log1p(y / s) + y / m / b + rest
        elif j == 2:
            value = -(y / m / b) * (1.0 / m + 1.0 / b) - y / (s * sb) + rest
        else:
            inner = 1.0 / (m * m) + 1.0 / (m * b) + 1.0 / (b * b)
            value = 2.0 * (y / m / b) * inner + (y / (s * sb)) * (1.0 / s + 1.0 / sb) + rest
        out.append(value)
    return out


def gamma_excess(xp: Any, rational: Any, x: Any, last: int) -> list[Any]:
    """lgamma(x) - x log x + x and its derivatives in x > 0, the large terms cancelled in closed form."""
    rest = _stirling(xp, rational, x, 0, last)
    s = x + 0.5
    out = []
    for j in range(last + 1):
        if j == 0:
            value = x * xp.log1p(0.5 / x) - 0.5 + LOG_SQRT_2PI + 0.5 * xp.log(s) - xp.log(x)
        elif j == 1:
            value = xp.log1p(0.5 / x) - 1.0 / x
        elif j == 2:
            value = 1.0 / (x * x) - 0.5 / (x * s)
        else:
            value = -2.0 / (x * x * x) + (x + 0.25) / (x * s) ** 2
        out.append(value + rest[j])
    return out


def normal_density(xp: Any, x: Any) -> Any:
    """phi(x)."""
    return INV_SQRT_2PI * exp_half_square(xp, xp.abs(x))


def normal_cdf(xp: Any, rational: Any, x: Any) -> Any:
    """Phi(x)."""
    t = xp.minimum(xp.abs(x), 40.0)
    w = 3.0 / (t + 3.0)
    upper = INV_SQRT_2PI * exp_half_square(xp, t) / (t + w * rational(w, EXCESS)[0])
    return chooser(xp, x < 0.0)(upper, 1.0 - upper)


def log1mexp(xp: Any, x: Any) -> Any:
    """log(1 - exp(x)), x <= 0: by expm1 near zero, by log1p beyond log 2."""
    return xp.where(x > -0.6931471805599453, xp.log(-xp.expm1(x)), xp.log1p(-xp.exp(x)))


NODES, WEIGHTS = (tuple(v.tolist()) for v in np.polynomial.legendre.leggauss(40))


def owens_t(ndtr: Any, h: Any, a: Any) -> Any:
    """Owen's T(h, a) for h, a >= 0 of JAX: Gauss-Legendre on [0, min(a, 1)], a > 1 by T(a h, 1 / a)."""
    xp = autodiff.jnp()
    big = a > 1.0
    inner, k = (
        xp.where(big, 1.0 / xp.where(big, a, 1.0), a),
        xp.where(big, xp.minimum(xp.minimum(a, 1e30) * h, 40.0), h),
    )
    total = 0.0 * inner
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        t = 0.5 * inner * (1.0 + node)
        square = 1.0 + t * t
        total = total + weight * xp.exp(-0.5 * k * k * square) / square
    total = total * inner / (4.0 * math.pi)
    upper = ndtr(-h), ndtr(-k)
    return xp.where(big, 0.5 * (upper[0] + upper[1]) - upper[0] * upper[1] - total, total)


def bivariate_cdf(xp: Any, ndtr: Any, owen: Any, x: Any, y: Any, r: Any) -> Any:
    """Phi(x, y; r) = (Phi(x) + Phi(y)) / 2 - T(x, a_x) - T(y, a_y), less 1 / 2 where the signs differ."""
    root = xp.sqrt((1.0 - r) * (1.0 + r))

    def term(u: Any, v: Any) -> Any:
        slope = xp.where(u == 0.0, xp.sign(v) * xp.inf, (v - r * u) / (xp.where(u == 0.0, 1.0, u) * root))
        return xp.sign(slope) * owen(ndtr, xp.abs(u), xp.abs(slope))

    opposite = (x * y < 0.0) | ((x * y == 0.0) & (x + y < 0.0))
    value = 0.5 * (ndtr(x) + ndtr(y)) - term(x, y) - term(y, x) - xp.where(opposite, 0.5, 0.0)
    centre = 0.25 + xp.arcsin(r) / (2.0 * math.pi)
    return xp.maximum(xp.where((x == 0.0) & (y == 0.0), centre, value), 0.0)
