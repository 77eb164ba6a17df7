"""Start values: check the declared ones, improve default ones, search where they fail."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlecov.errors import SupportError, listing
from mlecov.likelihood.base import Evaluation, Likelihood, require_finite

Array = npt.NDArray[np.float64]

GRID = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)


def improve(likelihood: Likelihood, theta: Array, entries: npt.NDArray[np.intp]) -> Array:
    """Return theta improved by one-dimensional searches over `entries`, twice through.

    Each entry tries a grid of moves, then finer ones; a point counts when the log-likelihood there
    is finite and higher. (Stata's `ml search` does the same for constants.)
    """
    best = theta.copy()
    value = likelihood.evaluate(best).loglike
    value = value if np.isfinite(value) else -np.inf
    for scale in (1.0, 4.0, 0.5, 0.25):
        for entry in entries:
            for move in GRID:
                trial = best.copy()
                trial[entry] += scale * move
                found = likelihood.evaluate(trial).loglike
                if np.isfinite(found) and found > value:
                    best, value = trial, found
        if scale == 4.0 and np.isfinite(value) and np.array_equal(best, theta):
            break
    return best


def search(likelihood: Likelihood, theta: Array, seed: int = 0) -> Array:
    """Return a point with a finite log-likelihood and finite derivatives near theta, by random moves.

    Raises
    ------
    EvaluationError
        Where none is found; the message names the rows at the start.
    """
    rng = np.random.default_rng(seed)
    best, value = theta, -np.inf
    for attempt in range(200):
        scale = 0.1 * 1.05**attempt
        trial = theta * rng.choice([1.0, 0.5, 0.0, 2.0]) + scale * rng.standard_normal(len(theta))
        found = likelihood.evaluate(trial).loglike
        if np.isfinite(found) and found > value:
            best, value = trial, found
        if np.isfinite(value) and attempt > 40:
            break
    if not np.isfinite(value):
        require_finite(
            likelihood, likelihood.evaluate(theta), "at the start values and wherever it was searched"
        )
    return best


def first_evaluation(likelihood: Likelihood, theta: Array, declared: bool) -> Evaluation:
    """Return the order-2 evaluation at the start, after a search where default values do not serve.

    Raises
    ------
    SupportError, EvaluationError
        Where the user's own start values lie outside the support, or derivatives are not finite.
    """
    found = likelihood.evaluate(theta, order=3 if likelihood.knows_third else 2)
    if found.is_finite:
        return found
    if declared and not np.isfinite(found.loglike):
        terms = likelihood.evaluate(theta).loglike_obs
        if terms is None:  # streamed terms, too many to hold
            terms = np.array([found.loglike])
        bad = np.flatnonzero(~np.isfinite(terms))
        values = likelihood.space.report(theta)
        shown = listing(f"{n}={v:.6g}" for n, v in zip(likelihood.space.labels, values, strict=True))
        raise SupportError(
            f"the start values lie outside the support: the log-likelihood is {terms[bad[0]]} in {len(bad)} of "
            f"{len(terms)} term(s), first {listing(bad, 5)}, at {shown}. Give other start values, or start=None "
            "for a search."
        )
    if np.isfinite(found.loglike):
        require_finite(likelihood, found, "at the start values")
    found = likelihood.evaluate(search(likelihood, theta), order=2)
    require_finite(likelihood, found, "at the start values")
    return found
