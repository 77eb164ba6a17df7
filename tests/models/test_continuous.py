"""Continuous outcomes: reference cases, densities against scipy.stats, derivatives and simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from mlecov import models
from mlecov.covariance import covariance, parse
from mlecov.errors import SupportError
from mlecov.models.continuous import Beta, Gamma, Gaussian, StudentT
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
}


@pytest.mark.parametrize("name", list(MODELS))
def test_derivatives_simulation_and_recovery(name: str) -> None:
    function, theta, outcome = MODELS[name]
    n = 20_000
    check_model(function(np.full(n, outcome), design(n)), theta)


DENSITIES: list[tuple[Any, list[float], Any]] = [
    (Gaussian(), [0.3, -0.2], stats.norm(0.3, np.exp(-0.2))),
    (StudentT(), [0.3, -0.2, 1.1], stats.t(np.exp(1.1), 0.3, np.exp(-0.2))),
    (Gamma(), [0.3, 0.6], stats.gamma(np.exp(0.6), scale=np.exp(0.3 - 0.6))),
    (Beta(), [0.3, 1.6], stats.beta(np.exp(1.6) / (1 + np.exp(-0.3)), np.exp(1.6) / (1 + np.exp(0.3)))),
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
    for estimator, spec in [("expected_information", "eim"), ("hessian", "oim"), ("opg", "opg"), ("sandwich", "robust")]:
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
