"""Forecasts: closed forms against enumeration and simulation, regressors, refusals (peers in test_declared)."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mlecov as ml
from mlecov.errors import DataError, SpecificationError
from mlecov.models.arma_filter import Lags, state_after
from mlecov.models.jets import Jets
from mlecov.models.predicted import psi_weights

MODELS = ml.models


def series(n: int = 300, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    e, u = rng.standard_normal(n), np.zeros(n)
    for t in range(1, n):
        u[t] = 0.7 * u[t - 1] + e[t]
    x = rng.standard_normal(n)
    return pd.DataFrame({"y": 1.0 + 0.5 * x + u, "x": x})


def test_autoregression_by_hand() -> None:
    data = series()
    fit = ml.fit(MODELS.ar("y ~ x", data))
    future = pd.DataFrame({"x": [0.3, -1.0, 2.0]})
    b, slope, phi, sigma = fit.params
    last = data["y"].iloc[-1] - b - slope * data["x"].iloc[-1]
    found = fit.forecast(3, future)
    np.testing.assert_allclose(
        found.mean, b + slope * future["x"] + last * phi ** np.arange(1, 4), rtol=1e-12
    )
    spread = sigma * np.sqrt(np.cumsum(phi ** (2 * np.arange(3))))
    np.testing.assert_allclose(found.std_error, spread, rtol=1e-12)
    np.testing.assert_allclose(found.upper - found.mean, stats.norm.ppf(0.975) * spread, rtol=1e-12)
    arrays = ml.fit(MODELS.ar(data["y"], np.c_[np.ones(len(data)), data["x"]]))
    again = arrays.forecast(3, np.c_[np.ones(3), future["x"]])
    np.testing.assert_allclose(again.mean, found.mean, rtol=1e-9)


def test_sampling_error_of_the_parameters() -> None:
    data = series()
    fit = ml.fit(MODELS.ar("y ~ x", data))
    future = pd.DataFrame({"x": [0.3, -1.0]})
    plain, whole = fit.forecast(2, future), fit.forecast(2, future, parameters=True)
    b, slope, phi, _ = fit.params
    u = data["y"].iloc[-1] - b - slope * data["x"].iloc[-1]
    x = data["x"].iloc[-1]
    J = np.array(
        [
            [1 - phi ** (k + 1), future["x"][k] - phi ** (k + 1) * x, (k + 1) * phi**k * u, 0.0]
            for k in range(2)
        ]
    )
    extra = np.einsum("hk,kl,hl->h", J, fit.cov().user, J)
    np.testing.assert_allclose(whole.std_error**2, plain.std_error**2 + extra, rtol=1e-8)
    robust = fit.forecast(2, future, parameters=True, cov="robust")
    assert "robust" in robust.method and "estimated parameters" in plain.method
    assert np.abs(robust.std_error / whole.std_error - 1).max() > 1e-5


@pytest.mark.parametrize("p", [0, 2])
def test_regimes_by_enumeration(p: int) -> None:
    """Mean and variance over every path of the chain, three periods ahead."""
    y = ml.load("gnp")["rgnp_growth"].to_numpy()
    fit = ml.fit(MODELS.markov_switching(y, p=p, own_sigma=True))
    values = fit.params
    model, columns = fit.likelihood.model, fit.likelihood.columns
    now = model._states(values.to_numpy(), columns["y"], _jets(fit))[1][0, -1]
    mu, sigma = values[["mu0", "mu1"]].to_numpy(), values[["sigma0", "sigma1"]].to_numpy()
    phi = values.to_numpy()[len(values) - p :]
    T = np.array([[values["p00"], values["p10"]], [1 - values["p00"], 1 - values["p10"]]])
    mass, first, second, chance = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    for state, weight in zip(model.states.T, now, strict=True):
        for path in itertools.product((0, 1), repeat=3):
            chain, probability = [*state[: max(p, 1)][::-1], *path], weight
            for step in range(3):
                probability *= T[path[step], chain[max(p, 1) + step - 1]]
            z = [y[len(y) - 1 - j] - mu[state[j]] for j in range(p)][::-1]
            noise = np.zeros((3, 3))
            for step in range(3):
                z.append(sum(phi[j] * z[-1 - j] for j in range(p)))
                noise[step, step] = sigma[path[step]]
                for j in range(min(p, step)):
                    noise[step] += phi[j] * noise[step - 1 - j]
            mean = mu[list(path)] + np.array(z[p:])
            mass += probability
            first += probability * mean
            second += probability * (mean**2 + (noise**2).sum(axis=1))
            chance += probability * np.array(path)
    found = fit.forecast(3)
    np.testing.assert_allclose(mass, 1.0, rtol=1e-12)
    np.testing.assert_allclose(found.mean, first, rtol=1e-11)
    np.testing.assert_allclose(found.std_error**2, second - first**2, rtol=1e-10)
    np.testing.assert_allclose(found.further["regime 1"], chance, rtol=1e-11)
    # the one-step mean is that which predict gives inside the sample
    assert fit.predict("mean").values[-1] == pytest.approx(
        model.ahead(values.to_numpy(), {"y": y[:-1]}, 1, np.ones((1, 1))).mean[0], rel=1e-11
    )


def _jets(fit: ml.Fit) -> Jets:
    return Jets(fit.k, 0)


def test_garch_by_simulation() -> None:
    """ARMA-GJR-GARCH: mean and variance of 40,000 continuations, within five of their standard errors."""
    fit = ml.fit(MODELS.garch("y", ml.load("dmbp")[:700], ar=1, ma=1, asymmetry=1))
    mu, phi, theta, omega, alpha, gamma, beta = fit.params
    e, _, _, h, _ = fit.likelihood.model.paths(fit.params.to_numpy(), fit.likelihood.columns)
    rng, n = np.random.default_rng(0), 40_000
    u = np.full(n, fit.likelihood.columns["y"][-1] - mu)
    noise, now = np.full(n, e[-1]), np.full(n, h[-1])
    found = fit.forecast(4)
    for k in range(4):
        now = omega + (alpha + gamma * (noise < 0)) * noise**2 + beta * now
        fresh = np.sqrt(now) * rng.standard_normal(n)
        u = phi * u + fresh + theta * noise
        noise = fresh
        assert abs(u.mean() + mu - found.mean[k]) < 5 * u.std() / np.sqrt(n)
        squared = (u - u.mean()) ** 2
        assert abs(squared.mean() - found.std_error[k] ** 2) < 5 * squared.std() / np.sqrt(n)
        assert abs(now.mean() - found.further["variance"][k]) <= 5 * now.std() / np.sqrt(n) + 1e-12


def test_intervals_of_t_errors_have_their_quantile() -> None:
    fit = ml.fit(MODELS.garch("y", ml.load("dmbp")[:700], dist="t"))
    nu, found = fit.params["nu"], fit.forecast(1, alpha=0.1)
    exact = stats.t(nu, found.mean[0], found.std_error[0] * np.sqrt((nu - 2) / nu)).ppf([0.05, 0.95])
    np.testing.assert_allclose([found.lower[0], found.upper[0]], exact, rtol=1e-9)
    assert stats.t(nu, 0, np.sqrt((nu - 2) / nu)).std() == pytest.approx(1.0)


def test_long_horizons_reach_the_unconditional_moments() -> None:
    fit = ml.fit(MODELS.arma("y", series(), p=1, q=1))
    mu, phi, theta, sigma = fit.params
    found = fit.forecast(200)
    assert found.mean[-1] == pytest.approx(mu, rel=1e-8)
    stationary = sigma**2 * (1 + (phi + theta) ** 2 / (1 - phi**2))
    assert found.std_error[-1] ** 2 == pytest.approx(stationary, rel=1e-8)
    assert np.sum(psi_weights(np.array([phi]), np.array([theta]), 400) ** 2) * sigma**2 == pytest.approx(
        stationary, rel=1e-10
    )


def test_table_frame_and_json() -> None:
    found = ml.fit(MODELS.garch("y", ml.load("dmbp")[:400])).forecast(3)
    assert list(found.frame().columns) == ["mean", "std_error", "lower", "upper", "variance"]
    assert list(found.frame().index) == [1, 2, 3]
    assert "Forecast of y" in str(found) and "at the estimated parameters" in " ".join(str(found).split())
    rows = json.loads(found.render("json"))["rows"]
    assert rows[2]["step"] == 3 and rows[2]["variance"] == found.further["variance"][2]
    np.testing.assert_array_equal(np.asarray(found), found.mean)


def test_refusals() -> None:
    data = series()
    fit = ml.fit(MODELS.ar("y ~ x", data))
    with pytest.raises(SpecificationError, match=r"needs the regressors.*Intercept, x.*2 row"):
        fit.forecast(2)
    with pytest.raises(SpecificationError, match=r"3 row\(s\); expected 2"):
        fit.forecast(2, data[:3])
    with pytest.raises(DataError, match="x"):
        fit.forecast(2, data[["y"]][:2])
    with pytest.raises(SpecificationError, match=r"steps=0: expected a whole number of at least 1"):
        fit.forecast(0)
    for other in (
        MODELS.probit("grade ~ gpa", ml.load("spector")),
        MODELS.linear_mixed("reaction ~ days", ml.load("sleepstudy"), unit="subject"),
        MODELS.conditional_logit("choice ~ gc", ml.load("modechoice"), unit="individual"),
    ):
        with pytest.raises(SpecificationError, match=r"has no time order.*predict\(what, data\)"):
            ml.fit(other).forecast(3)
    with pytest.raises(SpecificationError, match="has no regressors; leave data= out"):
        ml.fit(MODELS.ar("y", data)).forecast(2, data[:2])


@pytest.mark.parametrize("n", [6, 15, 400])
def test_state_after_the_sample_is_the_filter_s(n: int) -> None:
    """By the filter's own matrices, before and after it has become steady, seasonal lags and all."""
    lags = Lags((1,), (4,), (1,), (4,))
    params = np.array([0.5, 0.3, 0.4, -0.6])
    u = np.random.default_rng(0).standard_normal(n)
    found = state_after(params, lags, u)
    assert found is not None
    T, R, a, P = found
    mean, spread = (
        np.zeros(len(R)),
        np.linalg.solve(np.eye(len(R) ** 2) - np.kron(T, T), np.outer(R, R).ravel()).reshape(P.shape),
    )
    for value in u:
        column = spread[:, 0] / spread[0, 0]
        mean = T @ (mean + column * (value - mean[0]))
        spread = T @ (spread - np.outer(column, spread[0])) @ T.T + np.outer(R, R)
    np.testing.assert_allclose(a, mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(P, spread, rtol=1e-10, atol=1e-12)
    assert state_after(np.array([1.2, 0.3, 0.4, -0.6]), lags, u) is None
