"""Continuous outcomes: reference cases, densities against scipy.stats, derivatives and simulation."""

from __future__ import annotations

from functools import partial
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from mlecov import models
from mlecov.covariance import covariance, parse
from mlecov.errors import BoundaryWarning, ConvergenceError, SupportError
from mlecov.functions import gammaln_excess_derivatives
from mlecov.models.continuous import Beta, Gamma, Gaussian, StudentT
from mlecov.models.extreme import GEV, GeneralizedPareto, box_cox_inverse
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.common import check_case, check_model

Array = npt.NDArray[np.float64]


def design(n: int, seed: int = 7) -> Array:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n), rng.standard_normal(n), rng.uniform(-1, 1, n)])


MODELS: dict[str, tuple[Any, Array, float]] = {
    "gaussian": (models.gaussian, np.array([1.0, 0.5, -0.3, 0.4]), 1.0),
    "student_t": (models.student_t, np.array([1.0, 0.5, -0.3, 0.4, 1.4]), 1.0),
    "gamma": (models.gamma, np.array([1.0, 0.5, -0.3, 0.7]), 1.0),
    "beta": (models.beta, np.array([0.3, 0.5, -0.3, 1.7]), 0.4),
    "gev": (models.gev, np.array([1.0, 0.5, -0.3, 0.4, 0.15]), 1.0),
    "gev_bounded": (models.gev, np.array([1.0, 0.5, -0.3, 0.4, -0.2]), 1.0),
    "gev_gumbel": (models.gev, np.array([1.0, 0.5, -0.3, 0.4, 0.0]), 1.0),
    "generalized_pareto": (models.generalized_pareto, np.array([1.0, 0.5, -0.3, 0.2]), 1.0),
    "generalized_pareto_bounded": (models.generalized_pareto, np.array([1.0, 0.5, -0.3, -0.2]), 1.0),
    "frontier": (models.frontier, np.array([1.0, 0.5, -0.3, -0.7, 0.2]), 1.0),
    "frontier_cost": (partial(models.frontier, cost=True), np.array([1.0, 0.5, -0.3, -0.7, 0.2]), 1.0),
    "frontier_exponential": (
        partial(models.frontier, inefficiency="exponential"),
        np.array([1.0, 0.5, -0.3, -0.7, -0.1]),
        1.0,
    ),
    "frontier_exponential_cost": (
        partial(models.frontier, inefficiency="exponential", cost=True),
        np.array([1.0, 0.5, -0.3, -0.7, -0.1]),
        1.0,
    ),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_derivatives_simulation_and_recovery(name: str) -> None:
    function, theta, outcome = MODELS[name]
    n = 20_000
    # beside the end of a bounded support, differences need a short step
    likelihood = function(outcome * np.linspace(0.9, 1.1, n), design(n))
    check_model(likelihood, theta, step=0.004 if "bounded" in name else 0.02)


DENSITIES: list[tuple[Any, list[float], Any]] = [
    (Gaussian(), [0.3, -0.2], stats.norm(0.3, np.exp(-0.2))),
    (StudentT(), [0.3, -0.2, 1.1], stats.t(np.exp(1.1), 0.3, np.exp(-0.2))),
    (Gamma(), [0.3, 0.6], stats.gamma(np.exp(0.6), scale=np.exp(0.3 - 0.6))),
    (Beta(), [0.3, 1.6], stats.beta(np.exp(1.6) / (1 + np.exp(-0.3)), np.exp(1.6) / (1 + np.exp(0.3)))),
    (GEV(), [0.3, -0.2, 0.2], stats.genextreme(-0.2, 0.3, np.exp(-0.2))),
    (GEV(), [0.3, -0.2, -0.3], stats.genextreme(0.3, 0.3, np.exp(-0.2))),
    (GEV(), [0.3, -0.2, 0.0], stats.gumbel_r(0.3, np.exp(-0.2))),
    (GeneralizedPareto(), [0.3, 0.2], stats.genpareto(0.2, scale=np.exp(0.3))),
    (GeneralizedPareto(), [0.3, -0.4], stats.genpareto(-0.4, scale=np.exp(0.3))),
    (GeneralizedPareto(), [0.3, 0.0], stats.expon(scale=np.exp(0.3))),
]


@pytest.mark.parametrize(("model", "eta", "law"), DENSITIES, ids=lambda v: getattr(v, "name", ""))
def test_density_mean_and_distribution_are_scipys(model: Any, eta: list[float], law: Any) -> None:
    y = law.ppf(np.array([1e-6, 0.01, 0.2, 0.5, 0.9, 0.999]))
    full = np.repeat(np.array(eta)[:, None], len(y), axis=1)
    columns = {"y": y}
    np.testing.assert_allclose(model.derivatives(full, columns, 0)[0], law.logpdf(y), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.cdf(full, columns)[1], law.cdf(y), rtol=1e-10)
    np.testing.assert_allclose(model.mean(full, columns), law.mean(), rtol=1e-12)


def test_betareg_food() -> None:
    """Ferrari & Cribari-Neto (2004), Table 2; R betareg's example output (expected information)."""
    case = load_case("betareg_food")
    optimum = maximize(models.beta("I(food / income) ~ income + persons", case.data))
    params = optimum.likelihood.space.report(optimum.theta)
    check_case(params[:3], case.theta[:3], 5, "published estimates")
    check_case(params[3:], case.theta[3:], 4, "published phi")
    check_case(params, np.array(list(case.raw["estimates_computed"].values())), 10, "estimates")
    assert optimum.evaluation.loglike == pytest.approx(case.loglik, rel=1e-12)
    eim = covariance(optimum, parse("eim")).bse
    check_case(eim[:3], case.bse("expected_information")[:3], 4, "published eim")
    check_case(eim[3:], case.bse("expected_information")[3:], 3, "published eim of phi")
    for estimator, spec in [
        ("expected_information", "eim"),
        ("hessian", "oim"),
        ("opg", "opg"),
        ("sandwich", "robust"),
    ]:
        expected = np.array(list(case.raw["std_errors_computed_nofactor"][estimator].values()))
        check_case(covariance(optimum, parse(spec)).bse, expected, 9, estimator)


def test_outcomes_outside_the_support_are_refused_by_row() -> None:
    X = design(4)
    with pytest.raises(SupportError, match=r"gamma: the outcome 'y' must be positive; it is 0 in row 2"):
        models.gamma(np.array([1.0, 2.0, 0.0, 1.0]), X)
    with pytest.raises(SupportError, match="strictly between 0 and 1; it is 1 in row 1"):
        models.beta(np.array([0.2, 1.0, 0.3, 0.4]), X)


def test_student_t_starts_far_from_outliers() -> None:
    rng = np.random.default_rng(3)
    X = design(300)
    y = X @ np.array([1.0, 2.0, 3.0]) + rng.standard_t(1.2, 300)
    optimum = maximize(models.student_t(y, X))
    assert optimum.record.converged
    assert 0.8 < np.exp(optimum.theta[-1]) < 2


@pytest.mark.parametrize("s", [0.0, 1e-12, 1e-4, 0.05, -0.05, 0.3, -0.3])
@pytest.mark.parametrize("z", [-0.6, 0.1, 0.66, 2.5])
def test_box_cox_inverse_against_mpmath(z: float, s: float) -> None:
    """log(1 + s z)/s and its derivatives, across the seam between series and quotients."""
    with mpmath.workdps(60):

        def exact(a: Any, b: Any) -> Any:
            return mpmath.log1p(a * b) / b

        # the quotient is analytic at s = 0: differentiate about 1e-25 beside it
        point = (mpmath.mpf(z), mpmath.mpf(s) if s else mpmath.mpf(10) ** -15)
        orders = [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
        expected = [
            exact(*point),
            *(mpmath.diff(exact, point, order, h=mpmath.mpf(10) ** -18) for order in orders),
        ]
    found = [part[0] for part in box_cox_inverse(np.array([z]), np.array([s]), 2)]
    np.testing.assert_allclose(found, [float(v) for v in expected], rtol=1e-12, atol=1e-14)


def test_frontier_is_the_convolution_of_its_parts() -> None:
    e = np.array([-1.5, -0.2, 0.4, 1.1])
    sv, su = 0.6, 0.9
    grid = np.linspace(0, 40, 400_001)
    for inefficiency, law in (
        ("half_normal", stats.halfnorm(scale=su)),
        ("exponential", stats.expon(scale=su)),
    ):
        for cost in (False, True):
            lik = models.frontier(e, np.ones((4, 1)), inefficiency=inefficiency, cost=cost)
            shifted = e[:, None] + (-grid if cost else grid)
            density = np.trapezoid(stats.norm.pdf(shifted, scale=sv) * law.pdf(grid), grid, axis=1)
            theta = np.array([0.0, np.log(sv), np.log(su)])
            np.testing.assert_allclose(lik.evaluate(theta).loglike_obs, np.log(density), rtol=1e-7)
            eta = lik.predictors(theta, 0, 4)
            mean = law.mean() * (1 if cost else -1)
            np.testing.assert_allclose(lik.model.mean(eta, lik.columns), mean, rtol=1e-12)


def test_frontier_of_the_wrong_skewness_is_refused() -> None:
    X = design(200)
    y = X @ np.array([1.0, 2.0, 3.0]) + np.random.default_rng(1).exponential(size=200)
    with pytest.raises(ConvergenceError, match="not skewed to the left, as a production frontier's are"):
        maximize(models.frontier(y, X))
    with pytest.warns(BoundaryWarning, match="sigma_v is at its bound, zero"):  # as it is here
        assert maximize(models.frontier(y, X, cost=True)).record.converged


def test_gev_outside_the_support_is_minus_infinity() -> None:
    lik = models.gev(np.array([0.0, -20.0]), np.ones((2, 1)))
    assert lik.evaluate(np.array([0.0, 0.0, 0.2])).loglike_obs.tolist()[1] == -np.inf


def test_concentrated_densities_keep_their_digits() -> None:
    """Sums of log Gamma of size 1e9 leave numbers of size one: against 40 digits of mpmath."""
    y = 0.3
    with mpmath.workdps(40):
        a, m = mpmath.mpf(10) ** 8, mpmath.mpf("0.3") + mpmath.mpf(10) ** -5
        logit = mpmath.log(m / (1 - m))
        phi, b = a, (1 - m) * a
        point = mpmath.mpf(y)
        beta = mpmath.loggamma(phi) - mpmath.loggamma(m * phi) - mpmath.loggamma(b)
        beta += (m * phi - 1) * mpmath.log(point) + (b - 1) * mpmath.log(1 - point)
        gamma = (
            a * mpmath.log(a)
            - mpmath.loggamma(a)
            + (a - 1) * mpmath.log(point)
            - a * (point / m + mpmath.log(m))
        )
        student = mpmath.loggamma((a + 1) / 2) - mpmath.loggamma(a / 2) - mpmath.log(mpmath.pi * a) / 2
        student -= (a + 1) / 2 * mpmath.log1p(point**2 / a)
    columns = {"y": np.array([y])}

    def value(model: Any, *eta: Any) -> float:
        return float(model.derivatives(np.array([[float(e)] for e in eta]), columns, 0)[0][0])

    log_a = np.log(1e8)
    # the predictors' own rounding, times the slopes of size 1e3, is 1e-12
    assert value(Beta(), logit, log_a) == pytest.approx(float(beta), abs=3e-8)
    assert value(Gamma(), mpmath.log(m), log_a) == pytest.approx(float(gamma), abs=3e-8)
    assert value(StudentT(), 0, 0, log_a) == pytest.approx(float(student), rel=1e-14)


@pytest.mark.parametrize("x", [1e-3, 0.1, 0.5, 1.0, 3.3, 10.0, 1e3, 1e8])
def test_gammaln_excess_against_mpmath(x: float) -> None:
    with mpmath.workdps(50):
        z = mpmath.mpf(x)
        value = mpmath.loggamma(z) - z * mpmath.log(z) + z
        expected = [
            value,
            mpmath.digamma(z) - mpmath.log(z),
            mpmath.polygamma(1, z) - 1 / z,
            mpmath.polygamma(2, z) + z**-2,
        ]
    found = gammaln_excess_derivatives(x, 3)
    np.testing.assert_allclose(found, [float(v) for v in expected], rtol=3e-15)
