"""The linear mixed model: sleepstudy, densities unit by unit, derivatives, simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlecov.covariance import covariance, parse
from mlecov.errors import DataError, SpecificationError
from mlecov.models.mixed import linear_mixed
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.whole import check_orders, check_simulation

CASE = load_case("sleepstudy_lmm")


@pytest.fixture(scope="module")
def sleep():
    return maximize(linear_mixed("reaction ~ days", CASE.data, unit="subject", random="1 + days"))


def test_sleepstudy_lme4(sleep) -> None:
    # lme4 1.1-31: fixed effects to nine digits, variances to four (its optimiser stops early)
    values = sleep.likelihood.space.report(sleep.theta)
    np.testing.assert_allclose(values[:2], CASE.theta[:2], rtol=1e-10)
    np.testing.assert_allclose(values[2:], CASE.theta[2:], rtol=5e-5)
    assert 0 < sleep.evaluation.loglike - CASE.loglik < 2e-8  # the maximum is above where lme4 stopped
    assert sleep.likelihood.n_terms == 18
    # the errors of lme4 are those at its own, slightly different variances
    printed = list(CASE.std_errors["fixed effects (lme4 vcov = GLS)"].values())
    np.testing.assert_allclose(covariance(sleep, parse("eim")).bse[:2], printed, rtol=3e-5)


def test_sleepstudy_in_full(sleep) -> None:
    values = list(CASE.raw["estimates_computed"].values())
    np.testing.assert_allclose(sleep.likelihood.space.report(sleep.theta), values, rtol=1e-9)
    for spec, theirs in (("oim", "hessian"), ("opg", "opg"), ("robust", "sandwich")):
        full = list(CASE.raw["std_errors_computed_nofactor"][theirs].values())
        np.testing.assert_allclose(covariance(sleep, parse(spec)).bse, full, rtol=1e-9)


RNG = np.random.default_rng(31)
UNIT = np.repeat(np.arange(12), RNG.integers(1, 8, 12))
N = len(UNIT)
FRAME = pd.DataFrame(
    {"id": UNIT, "x": RNG.standard_normal(N), "z": RNG.standard_normal(N), "t": np.arange(N) % 5.0}
)
FRAME["y"] = (
    50
    + FRAME.x
    + RNG.standard_normal(12)[UNIT]
    + 0.5 * FRAME.t * RNG.standard_normal(12)[UNIT]
    + RNG.standard_normal(N)
)
FRAME = FRAME.sample(frac=1.0, random_state=1).reset_index(drop=True)
VARIANTS = ["1", "1 + t", "0 + t", "1 + t + z"]


def variant(random):
    likelihood = linear_mixed("y ~ x + t", FRAME, unit="id", random=random)
    return likelihood, likelihood.start() + 0.3 * np.random.default_rng(2).standard_normal(likelihood.space.k)


@pytest.mark.parametrize("random", VARIANTS)
def test_derivatives(random) -> None:
    check_orders(*variant(random), rtol=1e-6)


@pytest.mark.parametrize("random", VARIANTS)
def test_units_against_scipy(random) -> None:
    likelihood, theta = variant(random)
    values = likelihood.space.values(theta)
    Z = {"1": np.ones((N, 1)), "1 + t": FRAME.assign(o=1.0)[["o", "t"]], "0 + t": FRAME[["t"]]}
    Z |= {"1 + t + z": FRAME.assign(o=1.0)[["o", "t", "z"]]}
    z = np.asarray(Z[random])
    sd = np.array([value for name, value in values.items() if name.startswith("sd_")])
    cor = values.get("cor", np.eye(1))
    R = np.array([[1.0, cor], [cor, 1.0]]) if np.ndim(cor) == 0 else cor
    terms = likelihood.evaluate(theta).loglike_obs
    for i, label in enumerate(pd.unique(FRAME.id)):
        own = (FRAME.id == label).to_numpy()
        V = z[own] @ (np.outer(sd, sd) * R) @ z[own].T + values["sigma"] ** 2 * np.eye(own.sum())
        mean = np.column_stack([np.ones(N), FRAME.x, FRAME.t])[own] @ values["mu"]
        np.testing.assert_allclose(
            terms[i], stats.multivariate_normal.logpdf(FRAME.y[own], mean, V), rtol=1e-10
        )


def test_three_random_coefficients_are_named() -> None:
    likelihood, _ = variant("1 + t + z")
    assert likelihood.space.labels[3:] == (
        "sd_Intercept",
        "sd_t",
        "sd_z",
        "cor[1,0]",
        "cor[2,0]",
        "cor[2,1]",
        "sigma",
    )


def test_subsets_and_weights() -> None:
    w = np.arange(12) % 3 + 1.0
    codes = pd.factorize(FRAME.id)[0]
    weighted = linear_mixed("y ~ x", FRAME.assign(w=w[codes]), unit="id", frequency_weights="w")
    taken = linear_mixed("y ~ x", FRAME, unit="id").subset(np.repeat(np.arange(12), w.astype(int)))
    one, two = maximize(weighted), maximize(taken)
    np.testing.assert_allclose(one.theta, two.theta, rtol=1e-8, atol=1e-9)
    for spec in ("oim", "eim", "opg"):
        a, b = covariance(one, parse(spec)).matrix, covariance(two, parse(spec)).matrix
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)
    assert taken.rows.n_terms == int(w.sum())


def many(units: int) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    unit = np.repeat(np.arange(units), 5)
    return pd.DataFrame(
        {"id": unit, "x": rng.standard_normal(5 * units), "y": rng.standard_normal(5 * units)}
    )


def test_simulation() -> None:
    likelihood = linear_mixed("y ~ x", many(2000), unit="id", random="1 + x")
    values = {"mu": [10.0, 2.0], "sd_Intercept": 1.5, "sd_x": 0.8, "cor": -0.4, "sigma": 1.2}
    check_simulation(likelihood, likelihood.space.pack(values))


def test_refusals() -> None:
    with pytest.raises(DataError, match="unit of its own"):
        linear_mixed("y ~ x", FRAME.assign(own=np.arange(N)), unit="own")
    with pytest.raises(SpecificationError, match="collinear"):
        linear_mixed("y ~ x", FRAME.assign(u=2 * FRAME.t), unit="id", random="t + u")
    with pytest.raises(SpecificationError, match="no outcome"):
        linear_mixed("x", FRAME, unit="id")
    with pytest.raises(DataError, match="missing"):
        linear_mixed("y ~ x", FRAME.assign(x=FRAME.x.where(FRAME.index > 2)), unit="id")
