"""Optimisers: one maximum whatever the way, honest records, traces, start values."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import mlecov as ml
from mlecov.errors import ConvergenceWarning, SpecificationError, SupportError
from mlecov.optimize.maximize import maximize, parse_method
from mlecov.optimize.quasi_newton import METHODS


def poisson_likelihood() -> Any:
    rng = np.random.default_rng(2)
    X = np.column_stack([np.ones(200), rng.standard_normal((200, 2))])
    return ml.models.poisson(rng.poisson(np.exp(X @ [0.3, 0.5, -0.4])).astype(float), X)


@pytest.mark.parametrize(
    "method", ["newton", "fisher", "bhhh", *METHODS, ("nelder-mead", 3, "bfgs", 2, "newton")]
)
def test_every_method_ends_at_the_same_point(method: Any) -> None:
    reference = maximize(poisson_likelihood())
    found = maximize(poisson_likelihood(), method=method)
    assert found.record.converged and found.record.polished
    np.testing.assert_allclose(found.theta, reference.theta, rtol=1e-10)
    assert found.record.decrement <= 1e-16


def test_monotone_and_counted() -> None:
    steps = []
    found = maximize(poisson_likelihood(), start=np.array([3.0, -2.0, 2.0]), trace=steps.append)
    values = [step.loglike for step in steps]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(values))
    assert found.record.iterations == len(steps) == len(found.record.steps)
    assert found.record.evaluations >= len(steps)


def test_the_iteration_limit_is_no_convergence() -> None:
    with pytest.warns(ConvergenceWarning, match="iteration limit 2 reached.*Standard errors"):
        found = maximize(poisson_likelihood(), start=np.array([5.0, 0.0, 0.0]), max_iter=2)
    assert not found.record.converged and "iteration limit" in found.record.criterion
    fit = ml.fit(poisson_likelihood())
    assert "NOT CONVERGED" not in fit.summary().text()


def test_without_polish_the_summary_says_so() -> None:
    fit = ml.fit(poisson_likelihood(), method="newton", polish=False)
    assert fit.converged and not fit.record.polished
    assert "not polished" in fit.summary().text()


def test_parse_method() -> None:
    assert parse_method(("bhhh", 5, "nr")) == [("bhhh", 5), ("newton", None)]
    with pytest.raises(SpecificationError, match="'newtn' is not known. Did you mean 'newton'"):
        parse_method("newtn")
    with pytest.raises(SpecificationError, match="can not be read"):
        parse_method((5, "bhhh"))


def cauchy(y: Any, mu: Any, gamma: Any) -> Any:
    return -jnp.log(jnp.pi * gamma * (1 + ((y - mu) / gamma) ** 2))


def test_a_hilly_likelihood_from_poor_defaults() -> None:
    """A Cauchy sample far from zero: the default start is improved before Newton begins."""
    rng = np.random.default_rng(4)
    y = 30 + 0.5 * rng.standard_cauchy(100)
    fit = ml.fit(ml.likelihood(cauchy, {"y": y}, {"mu": 0.0, "gamma": ml.positive()}))
    assert fit.converged and abs(fit.params["mu"] - 30) < 0.5 and 0.3 < fit.params["gamma"] < 0.8


def truncated(y: Any, a: Any) -> Any:
    return jnp.log(1.0 / a) + jnp.where(y < a, 0.0, -jnp.inf)


def test_start_outside_the_support_is_refused_by_rows_and_values() -> None:
    def pareto(y: Any, a: Any, k: Any) -> Any:
        return jnp.log(a) + a * jnp.log(k) - (a + 1) * jnp.log(y - k)

    y = np.linspace(2.0, 5.0, 20)
    lik = ml.likelihood(pareto, {"y": y}, {"a": ml.positive(1.5), "k": ml.positive(3.0)})
    with pytest.raises(SupportError, match=r"start values lie outside the support.*of 20 term"):
        ml.fit(lik)


def test_start_by_name_and_by_vector() -> None:
    lik = poisson_likelihood()
    a = maximize(lik, start={"mu": [0.1, 0.1, 0.1]})
    b = maximize(lik, start=np.full(3, 0.1))
    np.testing.assert_array_equal(a.theta, b.theta)
    c = maximize(lik, start={"mu[x0]": 0.1, "mu[x1]": 0.1, "mu[x2]": 0.1})
    np.testing.assert_array_equal(a.theta, c.theta)
    with pytest.raises(SpecificationError, match=r"start has shape \(2,\); expected \(3,\)"):
        maximize(lik, start=np.zeros(2))


def test_two_starts_agree_to_rounding() -> None:
    """The polish: what is left is rounding, not the optimiser's tolerance."""
    lik = ml.likelihood(
        lambda y, mu, sigma: norm.logpdf(y, mu, sigma),
        {"y": np.random.default_rng(1).standard_normal(500)},
        {"mu": 0.0, "sigma": ml.positive()},
    )
    a, b = ml.fit(lik, start={"mu": 2.0, "sigma": 0.5}), ml.fit(lik, start={"mu": -1.0, "sigma": 5.0})
    # g' I^-1 g <= 1e-20 is 1e-10 of a standard error
    assert (np.abs(a.theta - b.theta) / a.cov("oim").matrix.diagonal() ** 0.5).max() < 2e-10


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_huge_and_tiny_scales(scale: float) -> None:
    rng = np.random.default_rng(6)
    x, e = rng.standard_normal((2, 100))
    base = ml.fit(ml.models.gaussian(1 + 2 * x + e, np.column_stack([np.ones(100), x])))
    scaled = ml.fit(ml.models.gaussian(scale * (1 + 2 * x + e), np.column_stack([np.ones(100), x / scale])))
    np.testing.assert_allclose(scaled.tvalues[:2], base.tvalues[:2], rtol=1e-8)
