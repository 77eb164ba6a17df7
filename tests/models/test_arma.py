"""ARMA: Stata's examples, the density of the whole sample, derivatives, the steady state, simulation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, signal

from mlecov.covariance import covariance, parse
from mlecov.errors import DataError, SpecificationError
from mlecov.models import arma_filter
from mlecov.models.arma_filter import innovations
from mlecov.models.time_series import ar, arma
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.whole import check_blocks, check_orders, check_simulation

CASES = {
    "stata_arima_wpi1": lambda data: arma("wpi", data, p=1, q=1, d=1),
    "stata_arima_wpi1_seasonal": lambda data: arma("np.log(wpi)", data, p=1, q=(1, 4), d=1),
    "stata_arima_airline": lambda data: arma("np.log(air) ~ 0", data, p=0, q=1, d=1, seasonal=(0, 1, 1, 12)),
}


@pytest.mark.parametrize("name", CASES)
def test_stata(name) -> None:
    # Stata 12 [TS] arima, examples 1 to 3. It stopped early: covariances are compared at its own estimates
    case = load_case(name)
    likelihood = CASES[name](case.data)
    optimum = maximize(likelihood)
    assert likelihood.n_terms == case.raw["n"] and len(likelihood.space.labels) == case.raw["k"]
    np.testing.assert_allclose(likelihood.space.report(optimum.theta), case.theta, rtol=1e-3, atol=2e-5)
    theta = likelihood.space.pack(dict(zip((p.name for p in likelihood.space), case.theta, strict=True)))
    there = dataclasses.replace(
        optimum, theta=theta, evaluation=likelihood.evaluate(theta, order=2, scores=True)
    )
    np.testing.assert_allclose(there.evaluation.loglike, case.loglik, rtol=2e-7)
    for spec, theirs in (("opg", "opg"), ("oim", "hessian")):
        # printed to seven decimals; estimates of four to five digits (example 2) move the fifth digit
        own = covariance(there, parse(spec)).bse
        np.testing.assert_allclose(own, case.bse(theirs), rtol=2e-5, atol=6e-8)
    if "sandwich" in case.std_errors:
        n = likelihood.n_terms
        own = covariance(there, parse("robust")).bse[1:3] * np.sqrt(n / (n - 1))
        np.testing.assert_allclose(own, list(case.std_errors["sandwich"].values()), rtol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_exact_maximum(name) -> None:
    # the same likelihood by other code (a Kalman filter in JAX)
    case = load_case(name)
    optimum = maximize(CASES[name](case.data))
    values = list(case.raw["estimates_computed"].values())
    np.testing.assert_allclose(optimum.likelihood.space.report(optimum.theta), values, rtol=1e-10)
    np.testing.assert_allclose(optimum.evaluation.loglike, case.raw["loglik_computed"], rtol=1e-13)
    for spec, theirs in (("oim", "hessian"), ("opg", "opg"), ("robust", "sandwich")):
        full = list(case.raw["std_errors_computed_nofactor"][theirs].values())
        np.testing.assert_allclose(covariance(optimum, parse(spec)).bse, full, rtol=1e-10)


RNG = np.random.default_rng(5)
Y = signal.lfilter([1.0, 0.3], [1.0, -0.6], RNG.standard_normal(40)) + 1.0
X = RNG.standard_normal((40, 2))
VARIANTS = {
    "ar1": ({"p": 1}, [1.0, 0.9, 0.7]),
    "ma2": ({"p": 0, "q": 2}, [1.0, 0.5, 0.4, 0.9]),
    "arma_lags": ({"p": (1, 3), "q": (2,)}, [1.0, 0.5, 0.2, -0.3, 1.1]),
    "seasonal": ({"p": 1, "q": 1, "seasonal": (1, 0, 1, 4)}, [1.0, 0.5, 0.6, 0.3, -0.4, 0.8]),
    "regressors": ({"p": 2, "q": 1, "X": True}, [1.0, -0.5, 0.4, 0.3, -0.2, 1.2]),
}


def variant(name):
    options, values = VARIANTS[name]
    options = dict(options)
    likelihood = arma(Y, X if options.pop("X", False) else None, **options)
    return likelihood, np.append(values[:-1], np.log(values[-1]))


@pytest.mark.parametrize("name", VARIANTS)
def test_derivatives(name) -> None:
    check_orders(*variant(name))


@pytest.mark.parametrize("name", VARIANTS)
def test_density_of_the_whole_sample(name) -> None:
    # log N(y; X b, Gamma) with Gamma's autocovariances summed from the moving average of infinite order
    likelihood, theta = variant(name)
    params = likelihood.space.report(theta)
    lags = likelihood.model.lags
    width = likelihood.model.width
    phi, R = lags.polynomials(params[width:-1], arma_filter.Jets(lags.k, 0))
    impulse = signal.lfilter(R[0], np.append(1.0, -phi[0]), np.append(1.0, np.zeros(3000)))
    gamma = params[-1] ** 2 * np.array([impulse[: 3001 - k] @ impulse[k:] for k in range(40)])
    factor = linalg.cholesky(linalg.toeplitz(gamma), lower=True)
    data = likelihood.columns["data"]
    z = linalg.solve_triangular(factor, data[:, 0] - data[:, 1:] @ params[:width], lower=True)
    terms = -0.5 * np.log(2 * np.pi) - np.log(np.diag(factor)) - 0.5 * z**2
    np.testing.assert_allclose(likelihood.evaluate(theta).loglike_obs, terms, rtol=1e-10)


def test_steady_state(monkeypatch) -> None:
    # from some period on the filter has a constant gain, and linear filters take over
    data = np.random.default_rng(8).standard_normal((400, 3))
    lags = arma_filter.Lags((1, 2), (4,), (1,), (4,))
    params = np.array([0.5, 0.2, 0.3, 0.4, -0.3])
    fast = innovations(params, lags, data, 2)
    monkeypatch.setattr(arma_filter, "STEADY", -1.0)
    slow = innovations(params, lags, data, 2)
    for a, b in zip(fast[1:], slow[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_long_series_are_quick() -> None:
    calls = []
    data = np.random.default_rng(8).standard_normal((20000, 1))
    original = arma_filter._shifted
    arma_filter._shifted = lambda state: calls.append(1) or original(state)
    try:
        assert innovations(np.array([0.5, 0.4]), arma_filter.Lags((1,), (), (1,), ()), data, 2) is not None
    finally:
        arma_filter._shifted = original
    assert len(calls) < 100


def test_curvature_blocks_add_up() -> None:
    check_blocks(*variant("seasonal"))


def test_not_stationary() -> None:
    likelihood = arma(Y, p=1)
    assert np.isnan(likelihood.evaluate(np.array([0.0, 1.01, 0.0]), order=2).loglike)
    assert np.isfinite(likelihood.evaluate(np.array([0.0, 0.9999, 0.0]), order=2).loglike)


def test_ar_is_arma() -> None:
    one, two = ar(Y, p=2), arma(Y, p=2)
    theta = np.array([1.0, 0.3, 0.2, 0.0])
    assert one.evaluate(theta).loglike == two.evaluate(theta).loglike


def test_differences_keep_the_constant() -> None:
    frame = pd.DataFrame({"y": np.cumsum(Y), "x": np.cumsum(X[:, 0])})
    likelihood = arma("y ~ x", frame, p=1, d=1)
    np.testing.assert_allclose(likelihood.columns["data"][:, 0], Y[1:])
    assert likelihood.space.labels == ("mu[Intercept]", "mu[x]", "ar1", "sigma")
    np.testing.assert_array_equal(likelihood.columns["data"][:, 1], 1.0)
    np.testing.assert_allclose(likelihood.columns["data"][:, 2], X[1:, 0])
    assert likelihood.rows.labels[0] == 1


def test_simulation() -> None:
    x = np.column_stack([np.ones(3000), np.random.default_rng(1).standard_normal(3000)])
    likelihood = arma(np.arange(3000.0) % 5, x, p=1, q=1, seasonal=(1, 0, 0, 4))
    theta = np.array([1.0, -0.5, 0.6, 0.3, 0.4, np.log(0.8)])
    check_simulation(likelihood, theta, expected=False)


def test_simulation_starts_in_the_stationary_distribution() -> None:
    likelihood = arma(np.arange(5.0), p=2)
    theta, rng = np.array([0.0, 0.9, -0.3, 0.0]), np.random.default_rng(4)
    drawn = np.array([likelihood.simulate(rng, theta).columns["y"] for _ in range(4000)])
    variance = 1.3 / (0.7 * (1.3**2 - 0.81))  # Hamilton (1994), 3.4.30, at 0.9 and -0.3
    np.testing.assert_allclose(drawn.var(axis=0), variance, rtol=0.1)


def test_refusals() -> None:
    with pytest.raises(SpecificationError, match="increasing order"):
        arma(Y, p=(2, 1))
    with pytest.raises(SpecificationError, match="seasonal period"):
        arma(Y, seasonal=(1, 0, 0, 1))
    with pytest.raises(SpecificationError, match="use arma"):
        ar(Y, q=1)
    with pytest.raises(DataError, match="too few"):
        arma(Y[:5], p=4, d=1)
    with pytest.raises(DataError, match="no gaps"):
        arma(np.append(Y, np.nan))
    with pytest.raises(DataError, match="missing"):
        arma("y ~ x", pd.DataFrame({"y": Y, "x": np.append(np.nan, Y[1:])}))
