"""Checks that every model in whole parameters passes: derivatives against differences, simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance import covariance, parse
from mlecov.likelihood.base import Likelihood
from mlecov.optimize import maximize
from tests.cases import Case
from tests.models.common import extrapolated

Array = npt.NDArray[np.float64]


def check_orders(likelihood: Likelihood, theta: Array, *, rtol: float = 1e-7, step: float = 0.01) -> None:
    """Check scores, gradient and Hessian, weighted and not, against differences of the order below."""
    n, k = likelihood.n_terms, likelihood.space.k
    w = np.random.default_rng(1).uniform(0.5, 1.5, n)
    plain = likelihood.evaluate(theta, order=2, scores=True)
    weighed = likelihood.evaluate(theta, order=2, weights=w)
    assert plain.scores is not None and weighed.gradient is not None and weighed.hessian is not None
    assert plain.gradient is not None and plain.loglike_obs is not None
    scores = plain.scores.to_dense()
    assert scores.shape == (n, k) and plain.loglike_obs.shape == (n,)
    np.testing.assert_allclose(
        plain.gradient, scores.sum(axis=0), rtol=1e-10, atol=1e-10 * np.abs(scores).sum()
    )
    np.testing.assert_allclose(weighed.gradient, w @ scores, rtol=1e-10, atol=1e-10 * np.abs(scores).sum())
    np.testing.assert_allclose(plain.loglike, likelihood.evaluate(theta).loglike, rtol=1e-13)

    def moved(j: int, x: float) -> Array:
        return np.where(np.arange(k) == j, x, theta)

    for j in range(k):
        h = step * max(abs(theta[j]), 0.1)
        slope = extrapolated(lambda x: likelihood.evaluate(moved(j, x)).loglike_obs, theta[j], h)
        np.testing.assert_allclose(scores[:, j], slope, rtol=rtol, atol=rtol * np.abs(slope).max())
        line = extrapolated(
            lambda x: likelihood.evaluate(moved(j, x), order=1, weights=w).gradient, theta[j], h
        )
        scale = np.sqrt(np.abs(np.diag(weighed.hessian)) * abs(weighed.hessian[j, j]))
        assert np.all(np.abs(weighed.hessian[j] - line) <= rtol * scale), (j, weighed.hessian[j], line)


def check_simulation(
    likelihood: Likelihood,
    theta: Array,
    *,
    expected: bool = True,
    recover: bool = True,
    tolerance: float = 5.0,
) -> None:
    """Check at outcomes drawn at theta: scores of mean zero, -H = OPG (= expected), estimates near.

    Sums are judged in units of their own standard error: 5 of them happen by chance once in a million.
    """
    drawn = likelihood.simulate(np.random.default_rng(7), theta)
    found = drawn.evaluate(theta, order=2, scores=True)
    assert found.scores is not None and found.hessian is not None
    scores = found.scores.to_dense()
    size = np.sqrt((scores**2).sum(axis=0))
    assert np.all(np.abs(scores.sum(axis=0)) < tolerance * size), scores.sum(axis=0) / size
    outer = scores.T @ scores
    spread = np.sqrt((scores**2).T @ scores**2)  # of each entry of the outer product
    assert np.all(np.abs(outer + found.hessian) < tolerance * spread), (outer + found.hessian) / spread
    if expected:
        assert np.all(np.abs(outer - drawn.information(theta)) < tolerance * spread)
    if recover:
        optimum = maximize(drawn)
        assert optimum.record.converged
        error = optimum.theta - theta
        assert np.all(np.abs(error) < tolerance * np.sqrt(np.diag(np.linalg.inv(-found.hessian))))


def ratio(case: Case, estimator: str, optimum: Any, spec: str, order: list[int] | None = None) -> Array:
    """Return our standard errors over the printed ones, less one, where one is printed."""
    own = covariance(optimum, parse(spec)).bse
    own = own if order is None else own[order]
    printed = case.bse(estimator)
    return np.asarray((own / printed - 1.0)[np.isfinite(printed)])


def check_blocks(likelihood: Likelihood, theta: Array, groups: int = 5) -> None:
    """Check that the curvatures of groups add up to that of the whole, also after other outcomes."""
    n = likelihood.n_terms
    blocks = [b for _, b in likelihood.curvature_blocks(theta, np.arange(n) % groups, groups, "observed")]
    whole = likelihood.evaluate(theta, order=2).information
    total = np.concatenate(blocks).sum(axis=0)
    scale = np.sqrt(np.abs(np.outer(np.diag(whole), np.diag(whole))))
    assert np.all(np.abs(total - whole) <= 1e-10 * scale)
    drawn = likelihood.simulate(np.random.default_rng(1), theta)
    other = drawn.evaluate(theta, order=2).information
    assert not np.allclose(other, whole, rtol=1e-6, atol=0)
    np.testing.assert_array_equal(likelihood.evaluate(theta, order=2).information, whole)
