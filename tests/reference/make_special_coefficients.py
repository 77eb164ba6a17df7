"""Make mlecov/special_coefficients.py: rational interpolants at Chebyshev nodes, in 60 digits (mpmath).

Each function of t >= 0 is written w^k P(w) / Q(w) with w = c / (t + c), Q(0) = 1, and solved for at
Chebyshev nodes of w, which is within a small factor of the best relative error. Run from the root:
`python tests/reference/make_special_coefficients.py > mlecov/special_coefficients.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp

HEADER = '''"""Coefficients of the rational functions behind `functions`.

Made by tests/reference/make_special_coefficients.py, not by hand.

Each entry is (P, Q), ascending powers of w = c / (t + c), for a function w^k P(w) / Q(w) of t >= 0:
normal, c = 3: EXCESS (k = 1) h(t) - t, h the hazard phi / (1 - Phi); CURVE (k = 4, t >= 1.5)
d^2 + h d - 1 with d = EXCESS, the third derivative of log Phi at -t over h.
gamma, c = 1.5, s = t + 1/2: STIRLING (k = 1) lgamma(t + 1) - s (log s - 1) - log(2 pi) / 2 and its first
three derivatives STIRLING1..3 (k = 2, 3, 4); CENTRAL (k = 0, 0.5 <= t <= 3) lgamma(t) / ((t - 1)(t - 2)).
"""

from __future__ import annotations
'''


def excess(t: Any) -> Any:
    """Hazard of the normal minus its argument: a continued fraction in the tail, else by erfc."""
    if t < 30:
        return mp.npdf(t) / (mp.erfc(t / mp.sqrt(2)) / 2) - t
    value = mp.mpf(0)
    for j in range(600, 0, -1):
        value = j / (t + value)
    return value


def curve(t: Any) -> Any:
    """Third derivative of log Phi at -t over the hazard; 90 digits, for it cancels like t^-4."""
    with mp.workdps(90):
        d = excess(t)
        return 2 * d**2 + t * d - 1


def stirling(order: int) -> Callable[[Any], Any]:
    """Derivative number `order` of lgamma(t + 1) - s (log s - 1) - log(2 pi) / 2, s = t + 1/2."""

    def value(t: Any) -> Any:
        s = t + mp.mpf(1) / 2
        if order == 0:
            return mp.loggamma(t + 1) - s * (mp.log(s) - 1) - mp.log(2 * mp.pi) / 2
        return mp.psi(order - 1, t + 1) - (mp.log(s), 1 / s, -1 / s**2)[order - 1]

    return value


def central(t: Any) -> Any:
    """lgamma without its two zeros (the nodes never fall on them)."""
    return mp.loggamma(t) / ((t - 1) * (t - 2))


def interpolate(f: Callable[[Any], Any], k: int, c: Any, degree: int, low: Any, high: Any) -> Any:
    """Solve f = w^k P / Q at 2 degree + 1 Chebyshev nodes of t in [low, high]."""
    size = 2 * degree + 1
    ends = c / (high + c), c / (low + c)
    matrix, right = mp.matrix(size, size), mp.matrix(size, 1)
    for i in range(size):
        w = ends[0] + (ends[1] - ends[0]) * (1 - mp.cos(mp.pi * (2 * i + 1) / (2 * size))) / 2
        g = f(c / w - c) / w**k
        for j in range(degree + 1):
            matrix[i, j] = w**j
            if j:
                matrix[i, degree + j] = -g * w**j
        right[i] = g
    x = [float(value) for value in mp.lu_solve(matrix, right)]
    return x[: degree + 1], [1.0, *x[degree + 1 :]]


def show(values: list[float]) -> str:
    """Wrap the numbers four to a line."""
    lines = [", ".join(repr(v) for v in values[i : i + 4]) for i in range(0, len(values), 4)]
    return "    (\n        " + ",\n        ".join(lines) + ",\n    ),\n"


def main() -> None:
    """Print the module."""
    mp.mp.dps = 60
    inf, three = mp.inf, mp.mpf(3)
    table = [
        ("EXCESS", excess, 1, three, 11, mp.mpf(0), inf),
        ("CURVE", curve, 4, three, 10, three / 2, inf),
        ("STIRLING", stirling(0), 1, three / 2, 9, mp.mpf(0), inf),
        ("STIRLING1", stirling(1), 2, three / 2, 9, mp.mpf(0), inf),
        ("STIRLING2", stirling(2), 3, three / 2, 9, mp.mpf(0), inf),
        ("STIRLING3", stirling(3), 4, three / 2, 10, mp.mpf(0), inf),
        ("CENTRAL", central, 0, three / 2, 8, mp.mpf(1) / 2, three),
    ]
    print(HEADER)
    print("Rational = tuple[tuple[float, ...], tuple[float, ...]]")
    for name, f, k, c, degree, low, high in table:
        p, q = interpolate(f, k, c, degree, low, high)
        print(f"\n{name}: Rational = (\n{show(p)}{show(q)})", end="\n")


if __name__ == "__main__":
    main()
