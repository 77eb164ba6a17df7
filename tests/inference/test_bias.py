"""Firth's penalty and Cox and Snell's bias against closed forms, every engine, and simulation."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import mlecov as ml
from mlecov.errors import InferenceError, SeparationError


def binary(n: int = 60, seed: int = 0, separated: bool = False) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    eta = X @ [0.2, 1.0, -0.5]
    y = (X[:, 1] > 0.1) if separated else (rng.random(n) < special.expit(eta))
    return y.astype(float), X


def firth_by_modified_score(y: Any, X: Any, family: str) -> Any:
    """Solve X'(y - p + h (1/2 - p)) = 0 (logit), X'(y - m + h / 2) = 0 (Poisson): Firth (1993), (3.1)."""
    b = np.zeros(X.shape[1])
    for _ in range(2000):
        m = special.expit(X @ b) if family == "logit" else np.exp(X @ b)
        w = m * (1 - m) if family == "logit" else m
        information = X.T @ (w[:, None] * X)
        h = w * np.einsum("ij,jk,ik->i", X, np.linalg.inv(information), X)
        b = b + np.linalg.solve(information, X.T @ (y - m + h * ((0.5 - m) if family == "logit" else 0.5)))
    return b


@pytest.mark.parametrize("separated", [False, True])
def test_firth_logit_is_the_modified_score(separated: bool) -> None:
    y, X = binary(separated=separated)
    fit = ml.bias_reduced(ml.models.logit(y, X))
    assert fit.converged and "bias-reduced" in fit.record.method
    np.testing.assert_allclose(fit.theta, firth_by_modified_score(y, X, "logit"), rtol=1e-8)
    p = special.expit(X @ fit.theta)
    information = X.T @ ((p * (1 - p))[:, None] * X)
    np.testing.assert_allclose(fit.bse, np.sqrt(np.diag(np.linalg.inv(information))), rtol=1e-10)
    assert "penalised maximum likelihood" in str(fit)


def test_separated_data_have_no_maximum_but_a_bias_reduced_fit() -> None:
    y, X = binary(separated=True)
    with pytest.raises(SeparationError, match=r"bias_reduced\(likelihood\)"):
        ml.fit(ml.models.logit(y, X))
    for model in (ml.models.logit, ml.models.probit, ml.models.cloglog):
        assert np.abs(ml.bias_reduced(model(y, X)).theta).max() < 30


def test_firth_poisson_is_the_modified_score() -> None:
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(40), rng.standard_normal(40)])
    y = rng.poisson(np.exp(0.3 * X[:, 1])).astype(float)
    fit = ml.bias_reduced(ml.models.poisson(y, X))
    np.testing.assert_allclose(fit.theta, firth_by_modified_score(y, X, "poisson"), rtol=1e-8)


def test_every_engine_gives_the_same_penalised_fit() -> None:
    """A user's logit knows its observed information, which is the expected one."""

    def loglike(y: Any, X: Any, b: Any) -> Any:
        return -jnp.logaddexp(0.0, -(2 * y - 1) * (X @ b))

    y, X = binary(separated=True)
    ready = ml.bias_reduced(ml.models.logit(y, X)).theta
    for separable in (None, False):
        own = ml.likelihood(loglike, {"y": y, "X": X}, {"b": np.zeros(3)}, separable=separable)
        np.testing.assert_allclose(ml.bias_reduced(own).theta, ready, rtol=1e-7)


def test_cox_snell_logit_in_closed_form() -> None:
    """b = (X'WX)^-1 X' h (p - 1/2): Cordeiro & McCullagh (1991)."""
    y, X = binary()
    fit = ml.fit(ml.models.logit(y, X))
    p = special.expit(X @ fit.theta)
    inverse = np.linalg.inv(X.T @ ((p * (1 - p))[:, None] * X))
    h = p * (1 - p) * np.einsum("ij,jk,ik->i", X, inverse, X)
    found = fit.bias()
    np.testing.assert_allclose(found.theta_bias, inverse @ X.T @ (h * (p - 0.5)), rtol=1e-8)
    np.testing.assert_allclose(found.corrected, fit.params - found.bias, rtol=1e-14)
    assert "first-order bias" in str(found)


def test_cox_snell_of_a_gaussian_is_least_squares_known_bias() -> None:
    """b is unbiased; E sigma - sigma is -(p + 1/2) sigma / (2 n) to first order, p regressors."""
    rng = np.random.default_rng(1)
    X = np.column_stack([np.ones(50), rng.standard_normal(50)])
    fit = ml.fit(ml.models.gaussian(rng.standard_normal(50), X))
    found = fit.bias()
    np.testing.assert_allclose(found.bias[:2], 0.0, atol=1e-10)
    assert found.bias[2] == pytest.approx(-(2 + 0.5) * fit.params["sigma"] / (2 * 50), rel=1e-7)


def test_cox_snell_of_a_rate_on_the_users_scale() -> None:
    """The rate of an exponential, n / sum(y), has mean rate n / (n - 1): bias rate / n."""
    y = np.random.default_rng(2).exponential(0.5, 25)

    def loglike(y: Any, rate: Any) -> Any:
        return jnp.log(rate) - rate * y

    n = len(y)
    for kind in (ml.positive(1.0), 1.0):
        lik = ml.likelihood(loglike, {"y": y}, {"rate": kind}, information=lambda rate: [[n / rate**2]])
        fit = ml.fit(lik)
        assert fit.bias().bias[0] == pytest.approx(fit.params["rate"] / n, rel=1e-7)
    observed = ml.fit(ml.likelihood(loglike, {"y": y}, {"rate": 1.0})).bias()
    # in the rate itself H_i is constant, so the covariance term is zero and both forms agree
    assert observed.bias[0] == pytest.approx(n / y.sum() / n, rel=1e-7)


def test_frequency_two_is_the_row_twice() -> None:
    y, X = binary()
    once = ml.fit(ml.models.logit(y, X, frequency_weights=np.full(len(y), 2))).bias().bias
    twice = ml.fit(ml.models.logit(np.r_[y, y], np.r_[X, X])).bias().bias
    np.testing.assert_allclose(once, twice, rtol=1e-9)


def test_refusals() -> None:
    y, X = binary()
    weighted = ml.fit(ml.models.logit(y, X, probability_weights=np.linspace(1, 2, len(y))))
    with pytest.raises(InferenceError, match="first-order bias is not defined under probability weights"):
        weighted.bias()

    def autoregression(y: Any, rho: Any) -> Any:
        before = jnp.concatenate([jnp.zeros(1), y[:-1]])
        return -0.5 * (y - rho * before) ** 2

    series = np.random.default_rng(0).standard_normal(80).cumsum() * 0.3
    with pytest.raises(InferenceError, match="not separable"):
        ml.fit(ml.likelihood(autoregression, {"y": series}, {"rho": 0.1})).bias()


@pytest.mark.slow
def test_the_bias_is_the_simulated_one() -> None:
    rng = np.random.default_rng(7)
    X = np.column_stack([np.ones(80), rng.standard_normal(80)])
    beta = np.array([0.5, 1.0])
    draws, reduced, predicted = [], [], []
    for _ in range(2000):
        y = (rng.random(80) < special.expit(X @ beta)).astype(float)
        lik = ml.models.logit(y, X)
        fit = ml.fit(lik)
        draws.append(fit.theta)
        predicted.append(fit.bias().bias)
        reduced.append(ml.bias_reduced(lik).theta)
    bias, error = np.mean(draws, axis=0) - beta, np.std(draws, axis=0) / np.sqrt(2000)
    assert bias[1] > 5 * error[1]
    assert np.mean(predicted, axis=0)[1] == pytest.approx(bias[1], abs=3 * error[1] + 0.02)
    assert np.abs(np.mean(reduced, axis=0) - beta)[1] < 3 * error[1]
