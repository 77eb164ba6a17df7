"""Markov switching: Hamilton's GNP, sums over all paths, derivatives, simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from mlecov.covariance import covariance, parse
from mlecov.errors import DataError, SpecificationError
from mlecov.models.switching import markov_switching
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.whole import check_blocks, check_orders, check_simulation

CASE = load_case("hamilton_gnp")


@pytest.fixture(scope="module")
def gnp():
    return maximize(markov_switching("rgnp_growth", CASE.data, p=4))


def test_hamilton_gnp(gnp) -> None:
    # EViews' digits (Hamilton 1989, Table I): six of the estimates, seven decimals of the errors
    space = gnp.likelihood.space
    np.testing.assert_allclose(space.report(gnp.theta), CASE.theta, atol=2.5e-6)
    np.testing.assert_allclose(gnp.evaluation.loglike, CASE.loglik, atol=5e-6)
    printed = CASE.bse("hessian")
    own = covariance(gnp, parse("oim")).bse
    known = np.isfinite(printed)
    np.testing.assert_allclose(own[known], printed[known], atol=3e-7)


def test_hamilton_gnp_in_full(gnp) -> None:
    # the same filter by other code (JAX)
    values = list(CASE.raw["estimates_computed"].values())
    np.testing.assert_allclose(gnp.likelihood.space.report(gnp.theta), values, rtol=1e-9)
    for spec, theirs in (("oim", "hessian"), ("opg", "opg"), ("robust", "sandwich")):
        full = list(CASE.raw["std_errors_computed_nofactor"][theirs].values())
        np.testing.assert_allclose(covariance(gnp, parse(spec)).bse, full, rtol=1e-9)


Y = np.random.default_rng(3).standard_normal(30)
VARIANTS = {
    "mixture": {"p": 0},
    "two": {"p": 1, "own_sigma": True},
    "three": {"p": 2, "regimes": 3},
    "three_sigma": {"p": 0, "regimes": 3, "own_sigma": True},
}


def point(likelihood):
    k = likelihood.space.k
    return likelihood.start() + 0.1 * np.random.default_rng(k).standard_normal(k)


@pytest.mark.parametrize("name", VARIANTS)
def test_derivatives(name) -> None:
    likelihood = markov_switching(Y, **VARIANTS[name])
    check_orders(likelihood, point(likelihood))


@pytest.mark.parametrize("name", VARIANTS)
def test_sum_over_all_paths(name) -> None:
    options = VARIANTS[name]
    M, p, n = options.get("regimes", 2), options["p"], 5
    likelihood = markov_switching(Y[: n + 15], **options)
    theta = point(likelihood)
    values = likelihood.space.values(theta)
    if M == 2:
        T = np.array([[values["p00"], 1 - values["p00"]], [values["p10"], 1 - values["p10"]]])
    else:
        T = np.array([values[f"p{i}"] for i in range(M)])
    powers = np.linalg.matrix_power(T, 2000)[0]
    mu = np.array([values[f"mu{i}"] for i in range(M)])
    own = options.get("own_sigma", False)
    sigma = np.array([values[f"sigma{i}" if own else "sigma"] for i in range(M)])
    phi = np.array([values[f"ar{j + 1}"] for j in range(p)])
    total = np.zeros(n - p)
    for path in itertools.product(range(M), repeat=n):
        s = np.array(path)
        density = powers[s[0]] * np.prod(T[s[:p], s[1 : p + 1]])
        for t in range(p, n):
            mean = mu[s[t]] + sum(phi[j] * (Y[t - 1 - j] - mu[s[t - 1 - j]]) for j in range(p))
            density *= stats.norm.pdf(Y[t], mean, sigma[s[t]])
            # summing over the regimes after t, whose probabilities add up to one
            later = np.prod(T[s[t:-1], s[t + 1 :]])
            total[t - p] += density * later
            density *= T[s[t], s[t + 1]] if t + 1 < n else 1.0
    terms = np.diff(np.log(total), prepend=0.0)
    np.testing.assert_allclose(likelihood.evaluate(theta).loglike_obs[: n - p], terms, rtol=1e-10)


def test_curvature_blocks_add_up() -> None:
    likelihood = markov_switching(Y, p=1)
    check_blocks(likelihood, point(likelihood))


def test_simulation() -> None:
    likelihood = markov_switching(np.arange(1500.0) % 7, p=1, own_sigma=True)
    values = {"p00": 0.9, "p10": 0.2, "mu0": -1.0, "mu1": 2.0, "sigma0": 0.7, "sigma1": 1.2, "ar1": 0.4}
    check_simulation(likelihood, likelihood.space.pack(values), expected=False)


def test_simulation_of_three_regimes() -> None:
    likelihood = markov_switching(np.arange(1000.0) % 7, regimes=3)
    T = {"p0": [0.8, 0.1, 0.1], "p1": [0.1, 0.7, 0.2], "p2": [0.3, 0.1, 0.6]}
    values = {**T, "mu0": -3.0, "mu1": 0.0, "mu2": 3.0, "sigma": 0.8}
    check_simulation(likelihood, likelihood.space.pack(values), expected=False, recover=False)


def test_refusals() -> None:
    with pytest.raises(SpecificationError, match="regimes=1"):
        markov_switching(Y, regimes=1)
    with pytest.raises(SpecificationError, match="4096"):
        markov_switching(Y, regimes=4, p=6)
    with pytest.raises(SpecificationError, match="no regressors"):
        markov_switching(Y, np.ones((30, 2)))
    with pytest.raises(DataError, match="too few"):
        markov_switching(Y[:6], p=4)
