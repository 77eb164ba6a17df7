"""The user's simulate(rng, ...): arguments by name, results that can not serve refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import mlecov as ml
from mlecov.errors import SpecificationError

N = 200
RNG = np.random.default_rng(0)
X = RNG.standard_normal(N)
FRAME = {"y": 1 + X + 0.5 * RNG.standard_normal(N), "x": X}


def rows(y: Any, mu: Any, sigma: Any) -> Any:
    return norm.logpdf(y, mu, sigma)


def chained(y: Any, c: Any, sigma: Any) -> Any:
    return norm.logpdf(y, c + 0.0 * jnp.roll(y, 1), sigma)


def traced(simulate: Any) -> ml.Fit:
    params = {"mu": ml.linear("x"), "sigma": ml.positive()}
    return ml.fit(ml.likelihood(rows, FRAME, params, simulate=simulate))


def general(simulate: Any) -> ml.Fit:
    params = {"c": 0.0, "sigma": ml.positive()}
    return ml.fit(ml.likelihood(chained, {"y": FRAME["y"]}, params, simulate=simulate))


DRAWS: dict[str, Callable[..., Any]] = {
    "named": lambda rng, mu, sigma: {"y": rng.normal(mu, sigma)},
    "in another order": lambda rng, sigma, mu: {"y": rng.normal(mu, sigma)},
    "all": lambda rng, **a: {"y": rng.normal(a["mu"], a["sigma"], len(a["y"]))},
    "with a default": lambda rng, mu, sigma, scale=1.0: {"y": rng.normal(mu, scale * sigma)},
}


@pytest.mark.parametrize("name", DRAWS)
def test_arguments_come_by_name(name: str) -> None:
    fit = traced(DRAWS[name])
    found = fit.cov(ml.Bootstrap("parametric", reps=400, seed=1)).bse
    np.testing.assert_allclose(found, fit.cov("oim").bse, rtol=0.15)
    assert fit.monte_carlo(reps=30, seed=0).reps == 30


def test_functions_of_whole_parameters_are_simulated_too() -> None:
    fit = general(lambda rng, c, sigma, y: {"y": rng.normal(c, sigma, len(y))})
    found = fit.cov(ml.Bootstrap("parametric", reps=400, seed=1)).bse
    np.testing.assert_allclose(found, fit.cov("oim").bse, rtol=0.15)


@pytest.mark.parametrize(
    ("simulate", "says"),
    [
        (lambda rng, mu, sigma: {"Y": mu}, "column 'Y' that the likelihood does not read.*Did you mean 'y'"),
        (lambda rng, mu: {"y": mu[:10]}, r"'y' of shape \(10,\); expected \(200,\)"),
        (lambda rng, mu: mu, "returned ndarray; expected a dict"),
        (lambda rng, m: {"y": m}, "simulate takes m, which the log-likelihood does not.*mu, sigma, y"),
        (lambda rng, mu: {"y": np.where(mu > mu[1], np.nan, mu)}, "'y' that is not finite in row"),
    ],
)
def test_what_can_not_take_the_outcomes_place_is_refused(simulate: Any, says: str) -> None:
    fit = traced(simulate)
    with pytest.raises(SpecificationError, match=says):
        fit.cov(ml.Bootstrap("parametric", reps=20, seed=0))
    with pytest.raises(SpecificationError, match=says):
        fit.monte_carlo(reps=20)
