"""Greene's income example, written as a user would: an identity-type mean beta + x, three covariances."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
from jax.scipy.special import gammaln
from scipy import special

from mlecov import models
from mlecov.covariance import covariance, parse
from mlecov.declare import likelihood
from mlecov.kinds import positive
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.common import check_case

Array = npt.NDArray[np.float64]


def exponential(income: Any, educ: Any, beta: Any) -> Any:
    theta = beta + educ
    return -jnp.log(theta) - income / theta


def gamma(income: Any, educ: Any, beta: Any, rho: Any) -> Any:
    theta = beta + educ
    return -rho * jnp.log(theta) - gammaln(rho) - income / theta + (rho - 1) * jnp.log(income)


def expected_exponential(educ: Any, beta: Any) -> Any:
    return np.array([[np.sum(1 / (beta + educ) ** 2)]])


def expected_gamma(educ: Any, beta: Any, rho: Any) -> Any:
    inverse = 1 / (beta + educ)
    cross = inverse.sum()
    return np.array([[rho * (inverse**2).sum(), cross], [cross, len(educ) * special.polygamma(1, rho)]])


SPECS = {"hessian": "oim", "expected_information": "eim", "opg": "opg", "sandwich": "robust"}


def test_greene_exponential() -> None:
    """Greene, Econometric Analysis, 7th ed., Example 14.4: 46.16337, 44.2546, 100.5116."""
    case = load_case("greene_exponential")
    optimum = maximize(likelihood(exponential, case.data, {"beta": 0.0}, information=expected_exponential))
    check_case(optimum.theta, case.theta, 12, "estimate")
    assert optimum.evaluation.loglike == pytest.approx(case.loglik, rel=1e-13)
    for estimator, spec in SPECS.items():
        found = covariance(optimum, parse(spec))
        check_case(found.bse, case.bse(estimator), 11, estimator)
        if estimator in case.raw["published_variances"]:
            published = case.raw["published_variances"][estimator]
            assert found.matrix[0, 0] == pytest.approx(
                published, abs=0.51 * 10.0 ** -(7 - len(str(int(published))))
            )


def test_greene_gamma() -> None:
    """Greene, Table 14.1 and section 14.6.4, and his LIMDEP log, whose s.e. are BHHH."""
    case = load_case("greene_gamma")
    params = {"beta": 0.0, "rho": positive()}
    optimum = maximize(likelihood(gamma, case.data, params, information=expected_gamma))
    found = optimum.likelihood.space.report(optimum.theta)
    check_case(found, np.array(list(case.raw["estimates_full"].values())), 12, "estimates")
    check_case(found, case.theta, 8, "LIMDEP's estimates")
    # the case's own log-likelihood has ten digits; its LR statistic, below, has all
    assert optimum.evaluation.loglike == pytest.approx(case.loglik, rel=1e-9)
    for estimator, spec in SPECS.items():
        made = covariance(optimum, parse(spec))
        check_case(made.bse, case.bse(estimator), 8 if estimator == "opg" else 11, estimator)
        np.testing.assert_allclose(
            made.user, case.raw["covariances"][estimator], rtol=1e-10, err_msg=estimator
        )


def test_greene_tests_of_the_exponential_against_the_gamma() -> None:
    """LR, Wald by three covariances and LM by three, from the gamma and from rho fixed at one."""
    case = load_case("greene_gamma")
    lik = likelihood(gamma, case.data, {"beta": 0.0, "rho": positive()}, information=expected_gamma)
    free = maximize(lik)
    bound = maximize(lik, fixed={"rho": 1.0})
    tests = case.raw["tests_computed"]
    assert 2 * (free.evaluation.loglike - bound.evaluation.loglike) == pytest.approx(tests["LR"], rel=1e-10)
    rho = np.exp(free.theta[1])
    for estimator in ("expected", "hessian", "opg"):
        spec = {"expected": "eim", "hessian": "oim", "opg": "opg"}[estimator]
        wald = (rho - 1) ** 2 / covariance(free, parse(spec)).user[1, 1]
        assert wald == pytest.approx(tests[f"Wald_{estimator}"], rel=1e-9)
    at = np.array([bound.theta[0], 0.0])
    there = lik.evaluate(at, order=2, scores=True)
    gradient = there.gradient
    assert gradient is not None and there.scores is not None and there.hessian is not None
    assert gradient[1] == pytest.approx(case.raw["restricted"]["score_rho"], rel=1e-9)
    # log rho = 0: the user's Hessian in rho lacks the gradient that the log adds
    observed = there.information + np.diag([0.0, gradient[1]])
    informations = {"opg": there.scores.gram(), "hessian": observed, "expected": lik.information(at)}
    for estimator, matrix in informations.items():
        statistic = gradient @ np.linalg.solve(matrix, gradient)
        assert statistic == pytest.approx(tests[f"LM_{estimator}"], rel=1e-9)


def test_gamma_with_log_mean_holds_the_exponential() -> None:
    """The ready-made models: rho = 1 in the gamma is the exponential."""
    data = load_case("greene_gamma").data
    wide = maximize(models.gamma("income ~ educ", data))
    narrow = maximize(models.exponential("income ~ educ", data))
    bound = maximize(models.gamma("income ~ educ", data), fixed={"shape": 1.0})
    np.testing.assert_allclose(bound.theta, narrow.theta, rtol=1e-9)
    assert bound.evaluation.loglike == pytest.approx(narrow.evaluation.loglike, rel=1e-13)
    assert wide.evaluation.loglike > narrow.evaluation.loglike + 3
