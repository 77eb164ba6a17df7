"""One probit, declared in every way the package knows: the estimators must not see the difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm as jnorm
from scipy.stats import norm

import mlecov as ml
from mlecov.covariance import covariance, parse
from mlecov.optimize import maximize

N = 120


def frame() -> dict[str, np.ndarray]:
    """Return outcome, regressors, groups, times and places of N terms."""
    rng = np.random.default_rng(11)
    x, z = rng.standard_normal((2, N))
    firm = rng.permutation(np.repeat(np.arange(24), 5))
    year = rng.integers(0, 12, N)
    shock = rng.standard_normal(24)[firm] * 0.6 + rng.standard_normal(12)[year] * 0.4
    return {
        "y": (0.3 + 0.5 * x - 0.4 * z + shock + rng.standard_normal(N) > 0).astype(float),
        "one": np.ones(N),
        "x": x,
        "z": z,
        "firm": firm,
        "year": year,
        "t": rng.permutation(N),
        "east": rng.uniform(0, 10, N),
        "north": rng.uniform(0, 10, N),
        "w": rng.integers(1, 4, N).astype(float),
        "X": np.column_stack([np.ones(N), x, z]),
        "id": np.arange(N),
    }


def _rows(y: Any, mu: Any) -> Any:
    return jnorm.logcdf((2 * y - 1) * mu)


def _whole(y: Any, X: Any, beta: Any) -> Any:
    return jnorm.logcdf((2 * y - 1) * (X @ beta))


def _plain(y: Any, X: Any, beta: Any) -> Any:
    return norm.logcdf((2 * y - 1) * (X @ beta))


def _score(y: Any, X: Any, beta: Any) -> Any:
    q = 2 * y - 1
    mills = q * norm.pdf(X @ beta) / norm.cdf(q * (X @ beta))
    return mills[:, None] * X


def _unit(y: Any, X: Any, beta: Any, unit: Any, n_units: Any) -> Any:
    return jnp.zeros(n_units).at[unit].add(jnorm.logcdf((2 * y - 1) * (X @ beta)))


def ready(**options: Any) -> Any:
    """Return the ready-made model."""
    return ml.models.probit("y ~ x + z", frame(), **options)


KINDS: dict[str, Callable[..., Any]] = {
    "ready": ready,
    "index": lambda **o: ml.likelihood(_rows, frame(), {"mu": ml.linear("x + z")}, **o),
    "autodiff": lambda **o: ml.likelihood(_whole, frame(), {"beta": np.zeros(3)}, separable=False, **o),
    "analytic": lambda **o: ml.likelihood(
        _plain, frame(), {"beta": np.zeros(3)}, score=_score, separable=True, **o
    ),
    "unit": lambda **o: ml.likelihood(_unit, frame(), {"beta": np.zeros(3)}, unit="id", **o),
}


def estimate(optimum: Any, spec: Any) -> np.ndarray:
    """Return the (k, k) covariance of a spec or a name."""
    return covariance(optimum, parse(spec) if isinstance(spec, str) else spec).matrix


def optimum_of(kind: str, **options: Any) -> Any:
    """Return the maximum of one kind."""
    return maximize(KINDS[kind](**options))


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Assert equality relative to the largest entry."""
    expected = np.asarray(expected)
    assert np.abs(np.asarray(actual) - expected).max() <= tolerance * np.abs(expected).max()
