"""Checks of default start values on simulated samples, and of what is said where no maximum is inside."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from mlecov.errors import MlecovError, MlecovWarning
from mlecov.optimize import maximize

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Any, Array]]
"""(rng, seed) -> (a likelihood whose outcomes are drawn, the theta that they are drawn at)."""

FAR = 9.0
"""|theta_j| from which a coordinate counts as having run to its bound, said or not."""


@dataclass(frozen=True)
class Bound:
    """A coordinate theta[place] that may have no interior maximum, and what must then be said.

    `says` are words of the message; `inside` are values, ever nearer to the bound, at which the profile
    of the log-likelihood must lie below what is claimed. Without any, what is said is that the value of
    the log-likelihood is inexact; it must then differ from the exact one.
    """

    place: int
    says: str
    inside: tuple[float, ...]
    classes: tuple[str, ...] = ("BoundaryWarning",)


def income_and_age(rng: np.random.Generator, n: int, seed: int) -> tuple[dict[str, Any], Array]:
    """Return columns x1, x2, d, and T (3, 3): coefficients of (1, x1, x2) are T @ those of z-scores.

    In every fourth sample x1 is an income near 50,000 and x2 an age near 40.
    """
    z1, z2, d = rng.standard_normal(n), rng.uniform(-1, 1, n), (rng.random(n) < 0.4).astype(float)
    if seed % 4 < 3:
        return {"x1": z1, "x2": z2, "d": d}, np.eye(3)
    back = np.array([[1, -2.5, -2], [0, 1 / 20_000, 0], [0, 0, 1 / 20]])
    return {"x1": 50_000 + 20_000 * z1, "x2": 40 + 20 * z2, "d": d}, back


def fitted(likelihood: Any) -> tuple[Any, list[Exception]]:
    """Return the optimum from the default start (None where none was returned) and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            optimum = maximize(likelihood)
        except MlecovError as error:
            return None, [error]
    for warning in caught:
        if not issubclass(warning.category, MlecovWarning):
            raise AssertionError(f"{warning.category.__name__}: {warning.message}")
    return optimum, [w.message for w in caught if isinstance(w.message, Exception)]


def profile(density: Callable[[Array], float], theta: Array, place: int, value: float, A: Array) -> float:
    """Return the largest density with theta[place] at a value, by scipy's BFGS on scaled coordinates."""
    others = np.delete(np.arange(len(theta)), place)
    scale = 1 / np.sqrt(np.abs(A.diagonal())[others] + 1e-300)
    values, vectors = np.linalg.eigh(A[np.ix_(others, others)] * np.outer(scale, scale))
    step = scale[:, None] * vectors / np.sqrt(np.maximum(np.abs(values), 1e-6))

    def loss(phi: Array) -> float:
        there = theta.copy()
        there[place] = value
        there[others] += step @ phi
        with np.errstate(all="ignore"):
            found = -density(there)
        return found if np.isfinite(found) else 1e10

    return -float(optimize.minimize(loss, np.zeros(len(others)), method="BFGS").fun)


def untrue(likelihood: Any, density: Callable[[Array], float], bound: Bound, optimum: Any) -> str | None:
    """Return why a bound that was told of is not the sample's, by another density and another search."""
    here = likelihood.start() if optimum is None else optimum.theta
    if not bound.inside:
        error = abs(density(here) - optimum.evaluation.loglike)
        return None if optimum.record.converged and error > 1e-5 else f"the value is exact, to {error:.2g}"
    A = likelihood.evaluate(likelihood.start(), order=2).information
    if optimum is not None:
        A = A + optimum.evaluation.information  # at the bound alone some entries vanish
    found = [profile(density, here, bound.place, value, A) for value in bound.inside]
    if optimum is None:
        return None if (np.diff(found) > -1e-6).all() else f"the profile does not rise to the bound: {found}"
    claimed = optimum.evaluation.loglike
    if claimed < max(found) - 1e-6:
        return f"an interior point has {max(found)}, the bound {claimed}"
    if abs(found[-1] - claimed) > 0.1:
        return f"beside the bound the log-likelihood is {found[-1]}, not {claimed}"
    return None


def complaint(
    likelihood: Any,
    theta: Array,
    bounds: tuple[Bound, ...],
    density: Callable[[Any], Callable[[Array], float]] | None,
) -> str | None:
    """Return what is wrong with the fit of one sample, or None."""
    optimum, said = fitted(likelihood)
    if not said:
        if not optimum.record.converged:
            return f"not converged: {optimum.record.criterion}"
        if any(abs(optimum.theta[bound.place]) > FAR for bound in bounds):
            return f"at a bound without a word: {optimum.theta}"
        truth = maximize(likelihood, start=theta).evaluation.loglike
        below = truth - optimum.evaluation.loglike
        return f"{below:.3g} below the maximum from the true values" if below > 1e-6 else None
    words = [f"{type(e).__name__}: {e}" for e in said]
    told = [b for b in bounds if any(b.says in word for word in words)]
    if not told or density is None:
        return "; ".join(words)[:300]
    for bound in told:
        if any(not word.startswith(bound.classes) for word in words):
            return "; ".join(words)[:300]
        wrong = untrue(likelihood, density(likelihood), bound, optimum)
        if wrong is not None:
            return f"{bound.says!r} is untrue: {wrong}"
    return None


def check_samples(
    draw: Draw,
    bounds: tuple[Bound, ...] = (),
    density: Callable[[Any], Callable[[Array], float]] | None = None,
    samples: int = 100,
) -> None:
    """Check that default starts lead to the maximum of simulated samples, or to a true word on its absence.

    A clean fit must have converged, away from `bounds`, to as high a maximum as a start at the true
    values leads to. A fit that says something else must say it of one of `bounds`, by its class and
    words, and `density(likelihood)(theta)`, other code, must bear it out of that very sample.
    """
    failures = []
    for seed in range(samples):
        rng = np.random.default_rng(seed)
        likelihood, theta = draw(rng, seed)
        wrong = complaint(likelihood, theta, bounds, density)
        if wrong is not None:
            failures.append(f"{seed}: {wrong}")
    assert not failures, f"{len(failures)} of {samples} samples: " + "\n".join(failures[:8])
