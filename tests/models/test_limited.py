"""Limited outcomes and selection: reference cases, tails, derivatives and simulation."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from mlecov import models
from mlecov.covariance import covariance, parse
from mlecov.errors import DataError, SpecificationError, SupportError
from mlecov.models.limited import normal_mass
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.common import check_case, check_derivatives, check_model, check_simulation

Array = npt.NDArray[np.float64]
SPECS = {"hessian": "oim", "opg": "opg", "sandwich": "robust"}


def design(n: int, seed: int = 7) -> Array:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n), rng.standard_normal(n), rng.uniform(-1, 1, n)])


THETA = np.array([0.4, 0.8, -0.3, 0.2])


def test_mroz_tobit() -> None:
    """R 4.2.2, AER 1.2-10 tobit; Wooldridge, Table 17.2."""
    case = load_case("mroz_tobit")
    formula = "hours ~ nwincome + education + experience + I(experience**2) + age + youngkids + oldkids"
    optimum = maximize(models.tobit(formula, case.data))
    assert optimum.evaluation.loglike == pytest.approx(case.raw["loglik_computed"], rel=1e-13)
    check_case(optimum.theta, case.theta, case.digits["estimates"], "estimates")
    check_case(optimum.theta, np.array(list(case.raw["estimates_computed"].values())), 11, "estimates")
    for estimator, spec in SPECS.items():
        bse = np.sqrt(np.diag(covariance(optimum, parse(spec)).matrix))
        check_case(bse, case.bse(estimator), case.digits[estimator], estimator)
        check_case(
            bse, np.array(list(case.raw["std_errors_computed_nofactor"][estimator].values())), 10, estimator
        )


def test_tobit_one_and_two_limits() -> None:
    n = 20_000
    X = design(n)
    y = X @ THETA[:3] + np.random.default_rng(1).standard_normal(n)
    check_model(models.tobit(y, X), THETA)
    check_model(models.tobit(y, X, upper=1.5), THETA)
    limit = np.where(np.arange(n) % 3 == 0, np.nan, X[:, 2])
    check_model(models.tobit(y, X, lower=limit, upper=np.where(np.arange(n) % 5 == 0, np.inf, 1.2)), THETA)


def test_tobit_rows_are_scipys() -> None:
    y = np.array([-1.0, 0.0, 0.7, 2.0, 3.0])
    lik = models.tobit(y, np.ones((5, 1)), lower=0.0, upper=2.0)
    law = stats.norm(0.4, np.exp(0.2))
    expected = [law.logcdf(0), law.logcdf(0), law.logpdf(0.7), law.logsf(2), law.logsf(2)]
    theta = np.array([0.4, 0.2])
    np.testing.assert_allclose(lik.evaluate(theta).loglike_obs, expected, rtol=1e-13)
    eta = lik.predictors(theta, 0, 5)
    grid = np.linspace(-10, 12, 200_001)
    mean = np.sum(np.clip(grid, 0, 2) * law.pdf(grid)) * (grid[1] - grid[0])
    np.testing.assert_allclose(lik.model.mean(eta, lik.columns), mean, rtol=1e-8)
    low, high = lik.model.cdf(eta, lik.columns)
    np.testing.assert_allclose(low, [0, 0, law.cdf(0.7), law.cdf(2), law.cdf(2)], rtol=1e-13)
    np.testing.assert_allclose(high, [law.cdf(0), law.cdf(0), law.cdf(0.7), 1, 1], rtol=1e-13)


ENDS = [
    (-1.0, 0.5, 1e-13),
    (0.2, 0.2001, 1e-10),
    (8.0, 9.0, 1e-12),
    (-9.0, -8.0, 1e-12),
    (-30.0, -29.5, 2e-10),
    (30.0, 30.001, 1e-9),
    (-6.0, 6.0, 1e-12),
]


@pytest.mark.parametrize(("a", "b", "rtol"), ENDS)
def test_normal_mass_against_mpmath(a: float, b: float, rtol: float) -> None:
    """Value and derivatives of log(Phi((b - mu)/s) - Phi((a - mu)/s)) at mu = 0, log s = 0."""
    with mpmath.workdps(60):
        # in the left tail, where differences of Phi keep their digits
        sign = -1 if a > 0 else 1
        low, high = (mpmath.mpf(-b), mpmath.mpf(-a)) if a > 0 else (mpmath.mpf(a), mpmath.mpf(b))

        def exact(mu: Any, s: Any) -> Any:
            ends = [(end - sign * mu) / mpmath.exp(s) for end in (low, high)]
            return mpmath.log(mpmath.ncdf(ends[1]) - mpmath.ncdf(ends[0]))

        orders = [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
        expected = [float(exact(0, 0)), *(float(mpmath.diff(exact, (0, 0), order)) for order in orders)]
    value, first, second = normal_mass(np.zeros((2, 1)), np.array([a]), np.array([b]), 2)
    assert first is not None and second is not None
    found = np.concatenate([value, first[:, 0], second[:, 0]])
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


def test_interval_regression() -> None:
    n = 20_000
    rng = np.random.default_rng(3)
    X = design(n)
    y = X @ THETA[:3] + rng.standard_normal(n)
    kind = np.arange(n) % 4
    lower = np.select([kind == 0, kind == 1], [y, np.nan], np.floor(y))
    upper = np.select([kind == 0, kind == 2], [y, np.inf], np.floor(y) + 1)
    lik = models.interval_regression(lower, X, upper=upper)
    check_derivatives(lik.subset(np.arange(400)), THETA)
    check_simulation(lik, THETA)
    optimum = maximize(lik)
    frame = {"low": lower, "high": np.where(np.isinf(upper), np.nan, upper), "x1": X[:, 1], "x2": X[:, 2]}
    again = maximize(models.interval_regression("low ~ x1 + x2", frame, upper="high"))
    np.testing.assert_array_equal(optimum.theta, again.theta)


def test_interval_regression_of_points_is_least_squares_and_of_half_lines_tobit() -> None:
    X = design(200)
    y = X @ THETA[:3] + np.random.default_rng(5).standard_normal(200)
    theta = THETA
    points = models.interval_regression(y, X, upper=y).evaluate(theta, order=2)
    line = models.gaussian(y, X).evaluate(theta, order=2)
    np.testing.assert_allclose(points.hessian, line.hessian, rtol=1e-13)
    half = models.interval_regression(np.where(y <= 0, np.nan, y), X, upper=np.maximum(y, 0)).evaluate(
        theta, order=2
    )
    limit = models.tobit(y, X).evaluate(theta, order=2)
    np.testing.assert_allclose(half.hessian, limit.hessian, rtol=1e-13)
    assert half.loglike == limit.loglike


@pytest.mark.parametrize("limits", [{"lower": 0.0}, {"upper": 1.0}, {"lower": -0.5, "upper": 1.5}])
def test_truncated_regression(limits: dict[str, float]) -> None:
    n = 20_000
    X = design(n)
    check_model(models.truncated_regression(np.full(n, 0.5), X, **limits), THETA)


def test_truncated_density_is_scipys() -> None:
    y = np.array([0.1, 0.5, 1.4])
    lik = models.truncated_regression(y, np.ones((3, 1)), lower=0.0, upper=1.5)
    mu, sigma = 0.4, np.exp(0.2)
    law = stats.truncnorm((0 - mu) / sigma, (1.5 - mu) / sigma, mu, sigma)
    theta = np.array([0.4, 0.2])
    eta = lik.predictors(theta, 0, 3)
    np.testing.assert_allclose(lik.evaluate(theta).loglike_obs, law.logpdf(y), rtol=1e-12)
    np.testing.assert_allclose(lik.model.cdf(eta, lik.columns)[0], law.cdf(y), rtol=1e-12)
    np.testing.assert_allclose(lik.model.mean(eta, lik.columns), law.mean(), rtol=1e-12)


def test_refusals() -> None:
    X = np.ones((3, 1))
    y = np.array([0.5, 1.0, 2.0])
    with pytest.raises(SupportError, match="between the limits; it is 2 in row 2"):
        models.truncated_regression(y, X, upper=1.5)
    with pytest.raises(SpecificationError, match="without limits use gaussian"):
        models.truncated_regression(y, X)
    with pytest.raises(SupportError, match="no room: lower= is 0 and upper= is -1 in row 0"):
        models.tobit(y, X, lower=np.zeros(3), upper=np.array([-1.0, 5, 5]))
    with pytest.raises(SupportError, match="at a limit in every row"):
        models.tobit(-y, X)
    with pytest.raises(SupportError, match=r"must not exceed upper=; it is 1 against 0.5 in row 1"):
        models.interval_regression(y, X, upper=np.array([1.0, 0.5, 2.0]))
    with pytest.raises(SupportError, match=r"no end at all in 1 row\(s\), first 1"):
        models.interval_regression(np.array([0.5, np.nan, 2.0]), X, upper=np.array([1.0, np.nan, 2.0]))


def test_heckman_mroz_greene() -> None:
    """gretl 2022c heckit; Greene (2003), Table 22.8; Toomet & Henningsen (2008), s.e. BHHH and Hessian."""
    case = load_case("heckman_mroz_greene")
    frame = case.data.assign(kids=(case.data["youngkids"] + case.data["oldkids"] > 0).astype(float))
    lik = models.heckman(
        "wage ~ experience + I(experience**2) + education + city",
        frame,
        select="lfp ~ age + I(age**2) + faminc + kids + education",
    )
    optimum = maximize(lik)
    params = lik.space.report(optimum.theta)
    assert optimum.evaluation.loglike == pytest.approx(case.loglik, rel=1e-10)
    check_case(params, np.array(list(case.raw["estimates_computed"].values())), 9, "estimates")
    check_case(params, case.theta, 8, "gretl's estimates")
    for estimator, spec in SPECS.items():
        bse = covariance(optimum, parse(spec)).bse
        check_case(bse, case.bse(estimator), 7, f"gretl's {estimator}")
        check_case(
            bse, np.array(list(case.raw["std_errors_computed_nofactor"][estimator].values())), 9, estimator
        )
    greene = case.raw["published"]["greene_se (BHHH)"]
    bse = dict(zip(case.estimates, covariance(optimum, parse("opg")).bse, strict=True))
    for name, value in greene.items():
        assert bse[name] == pytest.approx(value, rel=0.01), name


def selection_frame(n: int) -> dict[str, Array]:
    rng = np.random.default_rng(2)
    X = design(n)
    return {
        "x1": X[:, 1],
        "x2": X[:, 2],
        "y": rng.standard_normal(n),
        "seen": (rng.random(n) < 0.5).astype(float),
    }


SELECTION = np.array([0.4, 0.8, -0.3, 0.2, 0.5, 0.6, 0.1, -1.2])


def test_heckman_derivatives_and_simulation() -> None:
    lik = models.heckman("y ~ x1 + x2", selection_frame(20_000), select="seen ~ x1 + x2")
    check_model(lik, SELECTION)
    varying = models.heckman("y ~ x1", selection_frame(20_000), select="seen ~ x1 + x2", sigma="x2", rho="x1")
    check_model(varying, np.array([0.4, 0.8, 0.2, 0.5, 0.6, 0.1, 0.2, -1.2, 0.4]))


def test_heckman_row_is_an_integral_of_the_bivariate_normal() -> None:
    frame = {"y": np.array([0.9, np.nan]), "one": np.ones(2)}
    lik = models.heckman("y ~ one - 1", frame, select="one - 1")
    mu, g, sigma, rho = 0.3, 0.2, 1.4, -0.6
    theta = np.array([mu, g, np.log(sigma), 2 * np.arctanh(rho)])
    law = stats.multivariate_normal([mu, 0], [[sigma**2, rho * sigma], [rho * sigma, 1]])
    grid = np.linspace(-g, 12, 200_001)
    seen = np.trapezoid(law.pdf(np.column_stack([np.full(len(grid), 0.9), grid])), grid)
    found = lik.evaluate(theta).loglike_obs
    np.testing.assert_allclose(found, [np.log(seen), stats.norm.logcdf(-g)], rtol=1e-9)


def test_heckman_outcomes_not_selected_do_not_matter() -> None:
    frame = selection_frame(300)
    blank = {**frame, "y": np.where(frame["seen"] == 1, frame["y"], np.nan)}
    junk = {**frame, "y": np.where(frame["seen"] == 1, frame["y"], 1e6)}
    fits = [
        maximize(models.heckman("y ~ x1", data, select=select))
        for data, select in ((blank, "seen ~ x1 + x2"), (junk, "seen ~ x1 + x2"), (blank, "x1 + x2"))
    ]
    for fit in fits[1:]:
        np.testing.assert_array_equal(fit.theta, fits[0].theta)
    logs = {**frame, "y": np.where(frame["seen"] == 1, np.exp(frame["y"]), np.nan)}
    again = maximize(models.heckman("np.log(y) ~ x1", logs, select="seen ~ x1 + x2"))
    np.testing.assert_allclose(again.theta, fits[0].theta, rtol=1e-8)


def test_heckman_refusals() -> None:
    frame = selection_frame(50)
    with pytest.raises(SupportError, match="seen in every row"):
        models.heckman("y ~ x1", {**frame, "seen": np.ones(50)}, select="seen ~ x1")
    with pytest.raises(SupportError, match="selection that is 0 or 1"):
        models.heckman("y ~ x1", {**frame, "seen": np.full(50, 3.0)}, select="seen ~ x1")
    missing = frame["y"].copy()
    missing[np.argmax(frame["seen"])] = np.nan
    with pytest.raises(DataError, match="missing values in 'y'"):
        models.heckman("y ~ x1", {**frame, "y": missing}, select="seen ~ x1")
    with pytest.raises(SpecificationError, match="needs formulas and a frame"):
        models.heckman(frame["y"], np.ones((50, 1)), select="seen ~ x1")
