"""Finite mixtures: densities, derivatives, EM by other code, simulation, refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlecov.covariance import covariance, parse
from mlecov.errors import DataError, SpecificationError
from mlecov.models import gaussian, logit, poisson, student_t
from mlecov.models.mixture import finite_mixture
from mlecov.optimize import maximize
from tests.models.whole import check_orders, check_simulation

RNG = np.random.default_rng(41)
N = 80
FRAME = pd.DataFrame({"x": RNG.standard_normal(N), "z": RNG.standard_normal(N), "w": 1 + np.arange(N) % 2})
FRAME["y"] = np.where(RNG.random(N) < 0.4, -2 + FRAME.x, 3.0) + RNG.standard_normal(N)
FRAME["count"] = RNG.poisson(np.where(RNG.random(N) < 0.4, 1.0, 8.0))


def two(frame=FRAME, **options):
    return finite_mixture(gaussian("y ~ x", frame), gaussian("y ~ 1", frame), **options)


VARIANTS = {
    "gaussian": two,
    "share": lambda: two(share="1 + z"),
    "sigma_equation": lambda: finite_mixture(gaussian("y ~ x", FRAME, sigma="z"), student_t("y ~ z", FRAME)),
    "three": lambda: finite_mixture(*(poisson(f"count ~ {right}", FRAME) for right in ("x", "1", "x + z"))),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_derivatives(name) -> None:
    likelihood = VARIANTS[name]()
    theta = likelihood.start() + 0.1 * np.random.default_rng(1).standard_normal(likelihood.space.k)
    check_orders(likelihood, np.clip(theta, -3.0, 3.0))  # the degrees of freedom run off in 80 rows


def test_density() -> None:
    likelihood = two(share="1 + z")
    values = {"mu1": [1.0, 0.5], "sigma1": 0.7, "mu2": [2.0], "sigma2": 1.5, "share": [0.3, -0.4]}
    share = 1 / (1 + np.exp(-(0.3 - 0.4 * FRAME.z)))
    first = stats.norm.pdf(FRAME.y, 1 + 0.5 * FRAME.x, 0.7)
    density = share * first + (1 - share) * stats.norm.pdf(FRAME.y, 2.0, 1.5)
    found = likelihood.evaluate(likelihood.space.pack(values)).loglike_obs
    np.testing.assert_allclose(found, np.log(density), rtol=1e-12)


def test_three_shares() -> None:
    likelihood = VARIANTS["three"]()
    values = {"mu1": [0.1, 0.2], "mu2": [2.0], "mu3": [1.0, 0.1, 0.3], "share": [0.2, 0.5, 0.3]}
    mean = np.exp(np.stack([0.1 + 0.2 * FRAME.x, 2.0 + 0 * FRAME.x, 1.0 + 0.1 * FRAME.x + 0.3 * FRAME.z]))
    density = np.array([0.2, 0.5, 0.3]) @ stats.poisson.pmf(FRAME["count"].to_numpy(), mean)
    theta = likelihood.space.pack(values)
    np.testing.assert_allclose(likelihood.evaluate(theta).loglike_obs, np.log(density), rtol=1e-12)
    eta = likelihood.predictors(theta, 0, N)
    np.testing.assert_allclose(
        likelihood.model.mean(eta, likelihood.columns), [0.2, 0.5, 0.3] @ mean, rtol=1e-12
    )
    at = np.array([0.2, 0.5, 0.3]) @ stats.poisson.cdf(FRAME["count"].to_numpy(), mean)
    np.testing.assert_allclose(likelihood.model.cdf(eta, likelihood.columns)[1], at, rtol=1e-10)


def test_maximum_is_that_of_em() -> None:
    # expectation-maximisation to its fixed point, by other code
    y, X = FRAME.y.to_numpy(), np.column_stack([np.ones(N), FRAME.x])
    tau = (y < 0.5).astype(float)
    for _ in range(3000):
        b = np.linalg.solve((X.T * tau) @ X, X.T @ (tau * y))
        s1 = np.sqrt(tau @ (y - X @ b) ** 2 / tau.sum())
        m = (1 - tau) @ y / (1 - tau).sum()
        s2 = np.sqrt((1 - tau) @ (y - m) ** 2 / (1 - tau).sum())
        share = tau.mean()
        one, other = share * stats.norm.pdf(y, X @ b, s1), (1 - share) * stats.norm.pdf(y, m, s2)
        tau = one / (one + other)
    optimum = maximize(two())
    np.testing.assert_allclose(
        optimum.likelihood.space.report(optimum.theta), [*b, s1, m, s2, share], rtol=1e-7
    )
    np.testing.assert_allclose(optimum.evaluation.loglike, np.log(one + other).sum(), rtol=1e-12)


def test_weights_and_subsets() -> None:
    options = {"frequency_weights": "w"}
    weighted = finite_mixture(gaussian("y ~ x", FRAME, **options), gaussian("y ~ 1", FRAME, **options))
    repeated = two(FRAME.loc[FRAME.index.repeat(FRAME.w)].reset_index(drop=True))
    taken = two().subset(np.repeat(np.arange(N), FRAME.w))
    one, other, third = maximize(weighted), maximize(repeated), maximize(taken)
    np.testing.assert_allclose(one.theta, other.theta, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(one.theta, third.theta, rtol=1e-7, atol=1e-8)
    a, b = covariance(one, parse("opg")).matrix, covariance(other, parse("opg")).matrix
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_simulation() -> None:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"x": rng.standard_normal(4000), "y": rng.poisson(2.0, 4000).astype(float)})
    likelihood = finite_mixture(poisson("y ~ x", frame), poisson("y ~ 1", frame))
    values = {"mu1": [0.3, 0.5], "mu2": [2.3], "share": 0.6}
    check_simulation(likelihood, likelihood.space.pack(values), expected=False)


def test_refusals() -> None:
    with pytest.raises(SpecificationError, match="two or more"):
        finite_mixture(gaussian("y ~ x", FRAME))
    with pytest.raises(SpecificationError, match="component 2 is str"):
        finite_mixture(gaussian("y ~ x", FRAME), "poisson")
    with pytest.raises(DataError, match="different outcomes"):
        finite_mixture(gaussian("y ~ x", FRAME), poisson("count ~ x", FRAME))
    with pytest.raises(DataError, match="different outcomes"):
        finite_mixture(gaussian("y ~ x", FRAME), gaussian("y ~ x", FRAME[:50]))
    with pytest.raises(DataError, match="different weights"):
        finite_mixture(gaussian("y ~ x", FRAME), gaussian("y ~ x", FRAME, frequency_weights="w"))
    with pytest.raises(SpecificationError, match="name the columns"):
        finite_mixture(gaussian(FRAME.y, FRAME[["x"]].to_numpy()), gaussian(FRAME.y, FRAME[["z"]].to_numpy()))
    with pytest.raises(SpecificationError, match="for two components"):
        finite_mixture(*[gaussian("y ~ x", FRAME)] * 3, share="z")
    binary = FRAME.assign(b=(FRAME.y > 0).astype(float))
    with pytest.raises(DataError, match="missing values"):
        holes = binary.assign(z=binary.z.where(binary.index > 3))
        finite_mixture(logit("b ~ x", holes), logit("b ~ 1", holes), share="z")
