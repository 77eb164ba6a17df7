"""Binary models: closed forms, simulation, tails, the published and peer cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from mlecov.errors import SpecificationError, SupportError
from mlecov.models.binary import Cloglog, cloglog, heteroskedastic_probit, logit, probit
from mlecov.models.bivariate import bivariate_probit, log_bivariate_cdf
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.common import check_derivatives, check_model
from tests.models.reference import check_computed, check_errors, check_estimates

Array = npt.NDArray[np.float64]


def frame(n: int = 4000, seed: int = 101) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    y, z = rng.integers(0, 2, size=(2, n)).astype(float)
    return {"a": rng.normal(size=n), "b": rng.normal(size=n), "y": y, "z": z}


MODELS: dict[str, tuple[Callable[..., Any], dict[str, Any], list[float]]] = {
    "probit": (probit, {}, [-0.4, 0.3, -0.2]),
    "logit": (logit, {}, [-0.4, 0.3, -0.2]),
    "cloglog": (cloglog, {}, [-0.4, 0.3, -0.2]),
    "heteroskedastic_probit": (heteroskedastic_probit, {"sigma": "b"}, [-0.4, 0.9, -0.8, 0.4]),
    "bivariate_probit": (bivariate_probit, {"second": "z ~ b"}, [-0.2, 0.5, -0.4, -0.3, 0.6, 1.2]),
}


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_simulation_and_recovery(name: str) -> None:
    model, options, theta = MODELS[name]
    check_model(model("y ~ a + b", frame(), **options), np.array(theta), seed=3)


@pytest.mark.parametrize("constant", [-30.0, -6.0, -1.0, 3.0])
def test_cloglog_in_its_tails(constant: float) -> None:
    likelihood = cloglog("y ~ a", frame(100))
    theta = np.array([constant, 0.1])
    check_derivatives(likelihood, theta, step=0.002)
    eta = likelihood.predictors(theta, 0, 100)
    value, _, second = likelihood.model.derivatives(eta, likelihood.columns, 2)
    assert second is not None
    mpmath.mp.dps = 40
    for i in range(5):
        u = mpmath.e ** mpmath.mpf(eta[0, i])
        y = likelihood.columns["y"][i]
        exact = mpmath.log(1 - mpmath.e**-u) if y else -u
        ratio = u / mpmath.expm1(u)
        bend = ratio * (1 - u - ratio) if y else -u
        np.testing.assert_allclose(value[i], float(exact), rtol=1e-12)
        np.testing.assert_allclose(second[0, i], float(bend), rtol=1e-10)


def test_bivariate_probit_in_its_tails() -> None:
    check_derivatives(
        bivariate_probit("y ~ a + b", frame(300), second="z ~ b"),
        np.array([0.2, 2.0, -3.0, -0.3, 3.0, -2.5]),
        rtol=1e-6,
        step=0.01,
    )


@pytest.mark.parametrize(
    ("x", "y", "rho"),
    [
        (-6.0, -7.0, 0.3),
        (-9.0, 2.0, -0.8),
        (-5.0, -5.0, 0.95),
        (-6.0, 7.0, -0.9),
        (4.0, -11.0, 0.99),
        (0.3, 0.1, 0.5),
    ],
)
def test_bivariate_normal_probability_by_mpmath(x: float, y: float, rho: float) -> None:
    mpmath.mp.dps = 25
    root = mpmath.sqrt(1 - mpmath.mpf(rho) ** 2)
    panels = list(np.linspace(x - 20, x, 120))
    exact = mpmath.quad(lambda t: mpmath.npdf(t) * mpmath.ncdf((y - rho * t) / root), panels)
    found = log_bivariate_cdf(np.array([x]), np.array([y]), np.array([rho]))[0]
    np.testing.assert_allclose(found, float(mpmath.log(exact)), rtol=1e-9)


def test_bivariate_density_is_scipys() -> None:
    likelihood = bivariate_probit("y ~ a", frame(20), second="z ~ b")
    eta = likelihood.predictors(np.array([0.2, 0.3, -0.1, 0.4, 1.1]), 0, 20)
    value = likelihood.model.derivatives(eta, likelihood.columns, 0)[0]
    rho, sign, sign2 = np.tanh(0.55), 2 * likelihood.columns["y"] - 1, 2 * likelihood.columns["y2"] - 1
    for i in range(20):
        r = sign[i] * sign2[i] * rho
        exact = stats.multivariate_normal.cdf(
            [sign[i] * eta[0, i], sign2[i] * eta[1, i]], cov=[[1, r], [r, 1]]
        )
        np.testing.assert_allclose(value[i], np.log(exact), rtol=1e-7)


def test_bivariate_without_correlation_is_two_probits() -> None:
    data = frame(600)
    both = maximize(bivariate_probit("y ~ a", data, second="z ~ b"), fixed={"rho": 0.0})
    first, second = maximize(probit("y ~ a", data)), maximize(probit("z ~ b", data))
    np.testing.assert_allclose(both.theta, np.concatenate([first.theta, second.theta]), rtol=1e-8)
    np.testing.assert_allclose(
        both.evaluation.loglike, first.evaluation.loglike + second.evaluation.loglike, rtol=1e-12
    )


def test_heteroskedastic_probit_leaves_the_constant_out_and_nests_the_probit() -> None:
    data = frame(600)
    likelihood = heteroskedastic_probit("y ~ a + b", data, sigma="a + b")
    assert likelihood.space.labels[3:] == ("sigma[a]", "sigma[b]")
    nested = maximize(likelihood, fixed={"sigma": [0.0, 0.0]})
    np.testing.assert_allclose(nested.theta, maximize(probit("y ~ a + b", data)).theta, rtol=1e-8)
    with pytest.raises(SpecificationError, match="'one' is the same in every row"):
        heteroskedastic_probit("y ~ a", {**data, "one": np.ones(600)}, sigma="one + b")
    with pytest.raises(SpecificationError, match="needs a formula for log sigma"):
        heteroskedastic_probit("y ~ a", data)


def single(data: pd.DataFrame) -> pd.DataFrame:
    """Return the Spector data with gpa in single precision, as Stata held it."""
    return data.assign(gpa=data.gpa.astype(np.float32).astype(float))


def affairs(data: pd.DataFrame) -> pd.DataFrame:
    return data.assign(any=(data.affairs > 0) * 1.0)


def mroz(data: pd.DataFrame) -> pd.DataFrame:
    return data.assign(squared=data.experience**2.0)


SPECTOR = {name: f"mu[{name}]" for name in ("gpa", "tuce", "psi")}
AFFAIRS = ["age", "yearsmarried", "religiousness", "occupation", "rating"]
MROZ = ["nwincome", "education", "experience", "age", "youngkids", "oldkids"]
WITH_R = {"(Intercept)": "mu[Intercept]"}
WITH_STATA = {"_cons": "mu[Intercept]"}

# name -> (model, entries, rtol of the estimates, tolerance of the log-likelihood, printed errors)
CASES: dict[
    str, tuple[Callable[[pd.DataFrame], Any], dict[str, str], float, float, list[tuple[str, str, float]]]
] = {
    "affairs_probit": (
        lambda d: probit(f"any ~ {' + '.join(AFFAIRS)}", affairs(d)),
        {name: f"mu[{name}]" for name in AFFAIRS} | WITH_R,
        2e-8,
        1e-9,
        [
            ("expected_information (R glm vcov)", "eim", 1e-6),
            ("opg", "opg", 7e-8),
            ("sandwich with EXPECTED bread (R)", "bw", 1e-6),
        ],
    ),
    "mroz_logit": (
        lambda d: logit(
            "lfp ~ nwincome + education + experience + squared + age + youngkids + oldkids", mroz(d)
        ),
        {name: f"mu[{name}]" for name in MROZ} | {"I(experience^2)": "mu[squared]"} | WITH_R,
        1e-11,  # g' I^-1 g <= 1e-20 is 1e-10 of a standard error
        1e-9,
        [("hessian", "oim", 1e-9), ("opg", "opg", 1e-9), ("sandwich", "robust", 1e-9)],
    ),
    "spector_logit": (
        lambda d: logit("grade ~ gpa + tuce + psi", d),
        SPECTOR | WITH_STATA,
        2e-7,
        1e-6,
        [("hessian", "oim", 1e-7)],
    ),
    "spector_probit": (
        lambda d: probit("grade ~ gpa + tuce + psi", d),
        SPECTOR | WITH_STATA,
        2e-7,
        1e-6,
        [("hessian", "oim", 1e-7)],
    ),
    "spector_logit_R": (
        lambda d: logit("grade ~ gpa + tuce + psi", d),
        SPECTOR | WITH_R,
        1e-12,
        1e-10,
        [("hessian", "oim", 1e-9), ("opg", "opg", 1e-9), ("sandwich", "robust", 1e-9)],
    ),
    "spector_probit_R": (
        lambda d: probit("grade ~ gpa + tuce + psi", d),
        SPECTOR | WITH_R,
        1e-8,
        1e-10,
        [
            ("expected_information", "eim", 1e-6),
            ("opg", "opg", 1e-8),
            ("sandwich with EXPECTED bread (R)", "bw", 1e-6),
        ],
    ),
    "stata_auto_logit": (
        lambda d: logit("foreign ~ weight + mpg", d),
        {"weight": "mu[weight]", "mpg": "mu[mpg]"} | WITH_STATA,
        2e-5,
        1e-6,
        [("hessian", "oim", 6e-5)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_reference_case(name: str) -> None:
    case, (model, names, rtol, loglik, errors) = load_case(name), CASES[name]
    optimum = maximize(model(case.data))
    assert optimum.likelihood.n_terms == case.raw["n"] and optimum.likelihood.space.k == case.raw["k"]
    check_estimates(optimum, case, names, rtol, loglik)
    for printed, spec, tolerance in errors:
        check_errors(optimum, case.std_errors[printed], names, spec, tolerance)
    check_computed(optimum, case, names, 1e-7)


@pytest.mark.parametrize(("name", "rtol"), [("spector_logit", 1e-11), ("spector_probit", 1.2e-9)])
def test_stata_digits_belong_to_gpa_in_single_precision(name: str, rtol: float) -> None:
    """Stata's probit stopped 1e-9 short of the maximum of the data that it held."""
    case, (model, names, *_) = load_case(name), CASES[name]
    optimum = maximize(model(single(case.data)))
    check_estimates(optimum, case, names, rtol, 1e-6)
    check_errors(optimum, case.std_errors["hessian"], names, "oim", rtol)


def test_gretl_sandwich_of_the_spector_probit() -> None:
    case = load_case("spector_probit")
    optimum = maximize(CASES[case.name][0](case.data))
    printed = case.raw["peer_gretl"]["sandwich (observed bread)"]
    check_errors(optimum, printed, SPECTOR | WITH_STATA, "robust", 1e-6)


@pytest.mark.parametrize("model", [probit, logit, cloglog])
def test_outcomes_outside_the_support_are_refused(model: Callable[..., Any]) -> None:
    with pytest.raises(SupportError, match="must be 0 or 1; it is 2 in row 1"):
        model(np.array([0.0, 2.0, 1.0]), np.ones((3, 1)))
    with pytest.raises(SupportError, match="is 1 in every row"):
        model(np.ones(3), np.ones((3, 1)))


def test_bivariate_probit_refuses_what_it_can_not_read() -> None:
    data = frame(50)
    with pytest.raises(SpecificationError, match="formula of the second outcome"):
        bivariate_probit("y ~ a", data)
    with pytest.raises(SupportError, match="second outcome: must be 0 or 1"):
        bivariate_probit("y ~ a", data, second="a ~ b")


def test_heteroskedastic_outcomes_are_drawn_at_the_scaled_index() -> None:
    rng = np.random.default_rng(12)
    data = pd.DataFrame(
        {"x": rng.standard_normal(40), "z": rng.standard_normal(40), "y": np.arange(40) % 2.0}
    )
    likelihood = heteroskedastic_probit("y ~ x", data, sigma="z")
    theta = np.array([0.5, 1.0, -0.8])
    draw = likelihood.simulations(theta)
    share = np.mean([draw(np.random.default_rng([3, r])).columns["y"] for r in range(4000)], axis=0)
    p = stats.norm.cdf((0.5 + data.x) * np.exp(0.8 * data.z))
    np.testing.assert_allclose(share, p, atol=4.5 * 0.5 / np.sqrt(4000))
    again = likelihood.simulate(np.random.default_rng([3, 7]), theta).columns["y"]
    np.testing.assert_array_equal(draw(np.random.default_rng([3, 7])).columns["y"], again)


def test_cloglog_of_a_success_that_is_certain_many_times_over() -> None:
    """exp(eta) is infinite there: derivatives are those of the limit, and the fit that without the row."""
    model = Cloglog()
    eta, columns = np.array([[-800.0, 0.3, 700.0, 720.0, 1e6]]), {"y": np.ones(5)}
    with np.errstate(over="ignore"):
        value, first, second = model.derivatives(eta, columns, 2)
        expected = model.expected(eta, columns)
    assert first is not None and second is not None
    assert np.isfinite(value).all() and np.isfinite(first).all() and np.isfinite(second).all()
    assert (value[0], first[0, 0], second[0, 0]) == (-800.0, 1.0, pytest.approx(0.0, abs=1e-300))
    assert value[3:].tolist() == [0.0, 0.0] and first[0, 3:].tolist() == [0.0, 0.0]
    assert np.isfinite(expected).all()
    rng = np.random.default_rng(0)
    x = rng.standard_normal(300)
    y = (x + rng.logistic(size=300) > 0).astype(float)
    x[np.flatnonzero(y == 1)[0]] = 1e4
    fit = maximize(cloglog(y, np.column_stack([np.ones(300), x])))
    rest = x < 1e3
    alone = maximize(cloglog(y[rest], np.column_stack([np.ones(rest.sum()), x[rest]])))
    assert fit.record.converged
    np.testing.assert_allclose(fit.theta, alone.theta, rtol=1e-9)
