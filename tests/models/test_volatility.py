"""GARCH: the Fiorentini-Calzolari-Panattoni benchmark, derivatives, densities, simulation, refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from mlecov.covariance import covariance, parse
from mlecov.errors import DataError, SeparabilityError, SpecificationError
from mlecov.models.volatility import garch, normal_density, student_density, student_information
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.whole import check_blocks, check_orders, check_simulation, ratio

CASE = load_case("fcp_garch")
Y = CASE.data["y"].to_numpy()


@pytest.fixture(scope="module")
def benchmark():
    return maximize(garch("y", CASE.data))


def test_fcp_estimates(benchmark) -> None:
    # Fiorentini, Calzolari & Panattoni (1996); the 13 digits of bgfcp.tsp
    space = benchmark.likelihood.space
    assert space.labels == tuple(CASE.estimates)
    np.testing.assert_allclose(space.report(benchmark.theta), CASE.theta, rtol=1e-11)
    np.testing.assert_allclose(benchmark.evaluation.loglike, CASE.loglik, rtol=1e-14)


@pytest.mark.parametrize(
    ("estimator", "spec", "rtol"),
    [
        ("hessian", "oim", 2e-6),  # six digits printed
        ("opg", "opg", 7e-6),
        ("sandwich", "robust", 2e-8),  # consensus of the programs: 8 to 10 digits
        ("expected_information", "eim", 5e-9),
        ("bollerslev_wooldridge", "bw", 2e-9),
    ],
)
def test_fcp_standard_errors(benchmark, estimator, spec, rtol) -> None:
    assert np.abs(ratio(CASE, estimator, benchmark, spec)).max() < rtol


@pytest.mark.parametrize(("name", "spec"), [("hessian", "oim"), ("opg", "opg"), ("sandwich", "robust")])
def test_fcp_covariances_in_full(benchmark, name, spec) -> None:
    # recomputed with JAX by other code: every entry of the matrix
    full = np.array(CASE.raw["covariances_computed"][name])
    size = np.sqrt(np.outer(np.diag(full), np.diag(full)))
    assert np.abs((covariance(benchmark, parse(spec)).user - full) / size).max() < 1e-10


@pytest.mark.parametrize(
    ("name", "spec"), [("expected_information_full_not_block", "eim"), ("bw_full_not_block", "bw")]
)
def test_fcp_without_zero_block(name, spec) -> None:
    optimum = maximize(garch(Y, block_diagonal=False))
    full = np.array(list(CASE.raw["std_errors_full_computed"][name].values()))
    np.testing.assert_allclose(covariance(optimum, parse(spec)).bse, full, rtol=1e-9)


@pytest.mark.parametrize(("name", "presample"), [("h0_ols", "ols"), ("h0_steady", "steady")])
def test_fcp_other_startups(name, presample) -> None:
    # TSP's bg44.tsp, five to six digits
    found = CASE.raw["alternative_startups"][name]
    optimum = maximize(garch("y ~ 1", CASE.data, presample=presample))
    values = optimum.likelihood.space.report(optimum.theta)
    np.testing.assert_allclose(values[1:], list(found["estimates"].values())[1:], atol=6e-7)
    np.testing.assert_allclose(values[0], found["estimates"]["mu"], atol=6e-9)
    np.testing.assert_allclose(optimum.evaluation.loglike, found["loglik"], atol=6e-6)
    bse = covariance(optimum, parse("robust")).bse
    np.testing.assert_allclose(bse[1:], list(found["sandwich"].values())[1:], atol=6e-7)


X = np.random.default_rng(3).standard_normal((len(Y), 2))
VARIANTS = {
    "garch11": {},
    "arch2": {"p": 0, "q": 2},
    "garch21": {"p": 2, "q": 1},
    "garch12_steady": {"q": 2, "presample": "steady"},
    "ols": {"presample": "ols"},
    "gjr": {"asymmetry": 1},
    "gjr_two_steady": {"asymmetry": 2, "q": 2, "p": 2, "presample": "steady"},
    "t": {"dist": "t"},
    "arma_gjr_t": {"dist": "t", "ar": 2, "ma": 2, "asymmetry": 1},
    "ma_steady": {"ma": 1, "presample": "steady"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_derivatives(name) -> None:
    likelihood = garch(Y[:200], X[:200] if "arma" in name or name == "t" else None, **VARIANTS[name])
    theta = likelihood.start()
    theta = theta + 0.02 * np.random.default_rng(2).standard_normal(len(theta))
    assert np.isfinite(likelihood.evaluate(theta).loglike)
    # e^2 1(e < 0) has a jump in its second derivative, which a residual that changes sign steps over
    small = bool(VARIANTS[name].get("asymmetry"))
    check_orders(likelihood, theta, step=5e-4 if small else 0.01, rtol=1e-6 if small else 1e-7)


def test_curvature_blocks_add_up() -> None:
    likelihood = garch(Y[:100], asymmetry=1)
    check_blocks(likelihood, likelihood.start())


def recursion_by_hand(y, mu, omega, alpha, gamma, beta, nu):
    e, h, total = y - mu, [], []
    s0 = np.mean(e**2)
    for t in range(len(y)):
        past, down, before = (
            (e[t - 1] ** 2, e[t - 1] ** 2 * (e[t - 1] < 0), h[t - 1]) if t else (s0, s0 / 2, s0)
        )
        h.append(omega + alpha * past + gamma * down + beta * before)
        total.append(stats.t.logpdf(e[t], nu, scale=np.sqrt(h[t] * (nu - 2) / nu)))
    return np.array(total)


def test_gjr_t_against_scipy() -> None:
    likelihood = garch(Y[:300], asymmetry=1, dist="t")
    values = {"mu": 0.01, "omega": 0.02, "alpha": 0.05, "gamma": 0.1, "beta": 0.8, "nu": 6.0}
    found = likelihood.evaluate(likelihood.space.pack(values)).loglike_obs
    np.testing.assert_allclose(found, recursion_by_hand(Y[:300], *values.values()), rtol=1e-12)


def test_arma_mean_by_hand() -> None:
    likelihood = garch(Y[:60], ar=2, ma=1)
    values = {"mu": 0.1, "ar1": 0.5, "ar2": -0.2, "ma1": 0.4, "omega": 0.1, "alpha": 0.1, "beta": 0.7}
    u, e = Y[:60] - 0.1, np.zeros(60)
    for t in range(2, 60):
        e[t] = u[t] - 0.5 * u[t - 1] + 0.2 * u[t - 2] - 0.4 * (e[t - 1] if t > 2 else 0.0)
    plain = garch(e[2:], np.zeros((58, 0)))
    here = likelihood.evaluate(likelihood.space.pack(values)).loglike_obs
    there = plain.evaluate(plain.space.pack({k: values[k] for k in ("omega", "alpha", "beta")})).loglike_obs
    assert likelihood.n_terms == 58
    np.testing.assert_allclose(here, there, rtol=1e-12)


@pytest.mark.parametrize("nu", [2.5, 7.0, 60.0])
def test_student_information(nu) -> None:
    def expectation(pick):
        def integrand(e):
            parts = student_density(np.array([e]), np.ones(1), nu, 2)
            return -pick(parts)[0] * np.exp(parts[0][0]) if np.ndim(pick(parts)) else -pick(parts)

        return 2 * integrate.quad(integrand, 0, np.inf, epsabs=1e-13, limit=400)[0]

    found = [expectation(lambda parts, i=i: parts[i]) for i in (4, 6, 8, 9)]
    np.testing.assert_allclose(student_information(nu), found, rtol=1e-6, atol=1e-9)


def test_normal_density_is_the_limit() -> None:
    e, h = np.array([0.3, -2.0]), np.array([0.5, 1.5])
    normal, student = normal_density(e, h, 2), student_density(e, h, 1e7, 2)
    for a, b in ((0, 0), (1, 1), (2, 2), (3, 4), (4, 5), (5, 6)):
        np.testing.assert_allclose(student[b], normal[a], rtol=2e-6)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({}, {"mu": 0.1, "omega": 0.1, "alpha": 0.1, "beta": 0.8}),
        (
            {"dist": "t", "asymmetry": 1, "ar": 1, "block_diagonal": False},
            {"mu": 0.5, "ar1": 0.4, "omega": 0.1, "alpha": 0.05, "gamma": 0.1, "beta": 0.75, "nu": 8.0},
        ),
    ],
)
def test_simulation(options, values) -> None:
    likelihood = garch(np.arange(6000.0) % 7, **options)
    check_simulation(likelihood, likelihood.space.pack(values))


def test_rows_condition_the_terms() -> None:
    frame = pd.DataFrame({"y": Y[:100]}, index=pd.RangeIndex(5, 105))
    likelihood = garch("y", frame, ar=3)
    assert likelihood.n_terms == 97 and likelihood.rows.labels[0] == 8


def test_refusals() -> None:
    with pytest.raises(SpecificationError, match="not identified"):
        garch(Y, q=0)
    with pytest.raises(SpecificationError, match="dist='cauchy'"):
        garch(Y, dist="cauchy")
    with pytest.raises(SpecificationError, match="presample"):
        garch(Y, presample="zero")
    with pytest.raises(SpecificationError, match="p=-1"):
        garch(Y, p=-1)
    with pytest.raises(DataError, match="every row"):
        garch(np.ones(50))
    with pytest.raises(DataError, match="too few"):
        garch(Y[:4])
    with pytest.raises(DataError, match="no gaps"):
        garch(np.append(Y[:50], np.nan))
    with pytest.raises(SeparabilityError, match="parametric bootstrap"):
        garch(Y).subset(np.arange(3))
