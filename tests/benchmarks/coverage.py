"""Coverage of 95 % intervals: some models at small n, each under several covariances.

    python tests/benchmarks/coverage.py [replications]

A row is a model: the coverage of the slope of x under each covariance, in per cent (Monte Carlo
standard error in the heading), then the seconds taken. The last rows fit a wrong variance.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import mlecov as ml

COLUMNS = ["oim", "eim", "opg", "robust", "HC1"]


def studies(n: int) -> dict[str, tuple[Any, Callable[[np.random.Generator], Any] | None, dict[str, Any]]]:
    """Return {name: (likelihood, simulate or None, truth)}."""
    rng = np.random.default_rng(20)
    x = rng.normal(size=n)
    X = np.column_stack([np.ones(n), x])
    binary, counts = np.arange(n) % 2.0, np.arange(n) % 4.0
    mean = np.exp(X @ [0.5, 0.3])

    def overdispersed(rng: np.random.Generator) -> dict[str, Any]:
        return {"y": rng.poisson(mean * rng.gamma(1.0, 1.0, n)).astype(float)}

    def heteroskedastic(rng: np.random.Generator) -> dict[str, Any]:
        return {"y": X @ [1.0, 0.5] + np.exp(0.5 * x) * rng.normal(size=n)}

    slope = {"mu": [0.2, 0.5]}
    return {
        "logit": (ml.models.logit(binary, X), None, slope),
        "probit": (ml.models.probit(binary, X), None, slope),
        "cloglog": (ml.models.cloglog(binary, X), None, {"mu": [-0.5, 0.5]}),
        "poisson": (ml.models.poisson(counts, X), None, {"mu": [0.5, 0.3]}),
        "nb2": (ml.models.nb2(counts, X), None, {"mu": [0.5, 0.3], "alpha": 0.5}),
        "gaussian": (ml.models.gaussian(x + counts, X), None, {"mu": [1.0, 0.5], "sigma": 1.0}),
        "poisson, overdispersed": (ml.models.poisson(counts, X), overdispersed, {"mu": [0.5, 0.3]}),
        "gaussian, heteroskedastic": (
            ml.models.gaussian(x + counts, X),
            heteroskedastic,
            {"mu": [1.0, 0.5], "sigma": math.exp(0.5)},
        ),
    }


def main(reps: int, n: int = 100) -> None:
    """Print the table."""
    error = 100 * math.sqrt(0.95 * 0.05 / reps)
    print(f"{reps} replications, n = {n}, Monte Carlo standard error {error:.1f}")
    print(f"{'':28}" + "".join(f"{c:>8}" for c in COLUMNS) + f"{'failed':>8}{'s':>7}")
    for name, (likelihood, simulate, truth) in studies(n).items():
        began = time.perf_counter()
        columns = [c for c in COLUMNS if c not in ("eim",) or likelihood.has_expected_information]
        found = ml.monte_carlo(simulate, likelihood, columns, reps, 1, truth=truth)
        shown = {c: f"{100 * found.coverage[j, 1]:.1f}" for j, c in enumerate(columns)}
        failed = sum(found.failures.values())
        seconds = time.perf_counter() - began
        print(
            f"{name:28}" + "".join(f"{shown.get(c, ''):>8}" for c in COLUMNS) + f"{failed:8d}{seconds:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
