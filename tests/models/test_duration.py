"""Durations: reference cases, censoring patterns against scipy.stats, derivatives and simulation."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy import integrate, stats

from mlecov import models
from mlecov.covariance import covariance, parse
from mlecov.errors import SpecificationError, SupportError
from mlecov.likelihood.index import IndexLikelihood
from mlecov.models.duration_aft import Lognormal
from mlecov.models.duration_gamma import survival
from mlecov.optimize import maximize
from mlecov.optimum import Optimum
from tests.cases import load_case
from tests.models.common import check_case, check_derivatives, check_model, check_simulation

Array = npt.NDArray[np.float64]
SPECS = {"hessian": "oim", "opg": "opg", "sandwich": "robust"}


def free_bse(optimum: Optimum, spec: str) -> Array:
    return np.asarray(np.sqrt(np.diag(covariance(optimum, parse(spec)).matrix)))


@pytest.mark.parametrize("form", ["aft", "ph"])
def test_lung_weibull(form: str) -> None:
    """R 4.2.2 survival 3.5-3, survreg(..., robust=TRUE); the hazard form gives the same maximum."""
    case = load_case("lung_weibull")
    frame = case.data.assign(died=case.data["status"] == 2)
    optimum = maximize(models.weibull("time ~ age + sex + ph_ecog", frame, event="died", form=form))
    assert optimum.evaluation.loglike == pytest.approx(case.raw["loglik_computed"], rel=1e-13)
    if form == "ph":
        sigma = np.exp(-optimum.theta[-1])
        check_case(-optimum.theta[:-1] * sigma, case.theta[:-1], 9, "coefficients of the AFT form")
        return
    check_case(optimum.theta, case.theta, case.digits["estimates"], "estimates")
    check_case(optimum.theta, np.array(list(case.raw["estimates_computed"].values())), 11, "estimates")
    for estimator in ("hessian", "sandwich"):
        check_case(
            free_bse(optimum, SPECS[estimator]), case.bse(estimator), case.digits[estimator], estimator
        )
    for estimator, spec in SPECS.items():
        expected = np.array(list(case.raw["std_errors_computed_nofactor"][estimator].values()))
        check_case(free_bse(optimum, spec), expected, 11, estimator)


@pytest.mark.parametrize("name", ["exponential", "weibull"])
def test_strikes(name: str) -> None:
    """R 4.2.2, survreg; Kennan's 62 strikes."""
    case = load_case(f"strikes_{name}")
    optimum = maximize(getattr(models, name)("duration ~ iprod", case.data))
    assert case.loglik is not None
    assert optimum.evaluation.loglike == pytest.approx(case.loglik, rel=1e-12)
    check_case(optimum.theta, case.theta, min(case.digits["estimates"], 11), "estimates")
    for estimator, spec in SPECS.items():
        if estimator in case.std_errors:
            check_case(
                free_bse(optimum, spec), case.bse(estimator), min(case.digits[estimator], 11), estimator
            )


GREENE = {"exponential": "oim", "weibull": "opg", "loglogistic": "opg", "lognormal": "opg"}


@pytest.mark.parametrize("name", list(GREENE))
def test_strikes_greene(name: str) -> None:
    """Greene (2003), Table 22.8: lambda and p; s.e. are OPG but for the exponential's."""
    case = load_case("strikes_greene")
    optimum = maximize(getattr(models, name)("duration ~ 1", case.data))
    assert optimum.evaluation.loglike == pytest.approx(case.raw["loglik_by_model"][name], rel=1e-12)
    # lambda = exp(-mu), p = 1 / sigma
    found = np.exp(-optimum.theta)
    labels = [f"{name}:lambda", f"{name}:p"][: len(found)]
    check_case(found, np.array([case.estimates[label] for label in labels]), 9, "estimates")

    def bse(spec: str) -> Array:
        return found * free_bse(optimum, spec)

    published = np.array(case.raw["published"][name]["std_errors"])
    np.testing.assert_allclose(bse(GREENE[name]), published, rtol=0, atol=1.01e-5, err_msg="published")
    for estimator, spec in SPECS.items():
        table = case.raw["std_errors_computed_nofactor"][estimator]
        check_case(bse(spec), np.array([table[label] for label in labels]), 9, estimator)


def design(n: int, seed: int = 7) -> Array:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n), rng.standard_normal(n), rng.uniform(-1, 1, n)])


MODELS: dict[str, tuple[Any, dict[str, Any], Array]] = {
    "exponential": (models.exponential, {}, np.array([0.4, 0.5, -0.3])),
    "exponential_ph": (models.exponential, {"form": "ph"}, np.array([-0.4, 0.5, -0.3])),
    "weibull": (models.weibull, {}, np.array([0.4, 0.5, -0.3, -0.4])),
    "weibull_ph": (models.weibull, {"form": "ph"}, np.array([-0.4, 0.5, -0.3, 0.3])),
    "lognormal": (models.lognormal, {}, np.array([0.4, 0.5, -0.3, -0.2])),
    "loglogistic": (models.loglogistic, {}, np.array([0.4, 0.5, -0.3, -0.6])),
    "gompertz": (models.gompertz, {}, np.array([-0.6, 0.5, -0.3, 0.9])),
    "generalized_gamma": (models.generalized_gamma, {}, np.array([0.4, 0.5, -0.3, -0.3, 0.6])),
    "generalized_gamma_below": (models.generalized_gamma, {}, np.array([0.4, 0.5, -0.3, -0.7, -0.5])),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_complete_durations(name: str) -> None:
    function, options, theta = MODELS[name]
    n = 20_000
    likelihood = function(np.ones(n), design(n), **options)
    check_model(likelihood, theta)
    assert likelihood.has_expected_information
    assert not function(np.ones(4), design(4), event=[1, 1, 1, 0], **options).has_expected_information


def mixed(function: Any, options: dict[str, Any], n: int) -> IndexLikelihood:
    """Rows of every pattern: events, right, left and interval censoring, half of them entered late."""
    rng = np.random.default_rng(11)
    event = rng.integers(0, 4, n).astype(float)
    t = rng.uniform(0.8, 2.0, n)
    upper = np.where(event == 3, t + rng.uniform(0.2, 2.0, n), np.nan)
    entry = np.where((rng.random(n) < 0.5) & (event != 2), rng.uniform(0.1, 0.7, n), 0.0)
    found: IndexLikelihood = function(t, design(n), event=event, upper=upper, entry=entry, **options)
    return found


@pytest.mark.parametrize("name", list(MODELS))
def test_censored_durations(name: str) -> None:
    function, options, theta = MODELS[name]
    check_derivatives(mixed(function, options, 400), theta)
    check_simulation(mixed(function, options, 4_000 if "gamma" in name else 20_000), theta)


@pytest.mark.parametrize("name", ["weibull", "lognormal", "loglogistic", "gompertz", "exponential"])
def test_censoring_patterns_are_those_of_scipys_distributions(name: str) -> None:
    t, upper, entry = 1.3, 2.1, 0.6
    mu, sigma = 0.4, 0.7
    law, theta = {
        "weibull": (stats.weibull_min(1 / sigma, scale=np.exp(mu)), [mu, np.log(sigma)]),
        "lognormal": (stats.lognorm(sigma, scale=np.exp(mu)), [mu, np.log(sigma)]),
        "loglogistic": (stats.fisk(1 / sigma, scale=np.exp(mu)), [mu, np.log(sigma)]),
        "exponential": (stats.expon(scale=np.exp(mu)), [mu]),
        "gompertz": (stats.gompertz(np.exp(-0.5) / 0.8, scale=1 / 0.8), [-0.5, 0.8]),
    }[name]
    event = np.array([1, 0, 2, 3, 3, 1, 0, 3])
    entries = np.array([0, 0, 0, 0, 0, entry, entry, entry])
    ends = np.array([np.nan, np.nan, np.nan, upper, np.inf, np.nan, np.nan, upper])
    function = getattr(models, name)
    likelihood = function(np.full(8, t), np.ones((8, 1)), event=event, upper=ends, entry=entries)
    between = np.log(law.cdf(upper) - law.cdf(t))
    expected = np.array([law.logpdf(t), law.logsf(t), law.logcdf(t), between, law.logsf(t)] * 2)[
        [0, 1, 2, 3, 4, 0, 1, 3]
    ]
    expected[5:] -= law.logsf(entry)
    found = likelihood.evaluate(np.array(theta)).loglike_obs
    if name == "exponential":
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    eta = likelihood.predictors(np.array(theta), 0, 8)
    low, high = likelihood.model.cdf(eta, likelihood.columns)
    np.testing.assert_allclose(low[:4], [law.cdf(t), law.cdf(t), 0, law.cdf(t)], rtol=1e-12)
    np.testing.assert_allclose(high[:4], [law.cdf(t), 1, law.cdf(t), law.cdf(upper)], rtol=1e-12)
    np.testing.assert_allclose(likelihood.model.mean(eta, likelihood.columns)[0], law.mean(), rtol=1e-8)


def test_gompertz_near_constant_hazard() -> None:
    """The growth function and its derivatives are integrals of s^j exp(x s) over (0, 1)."""
    from_series = models.gompertz(np.array([0.3, 0.9, 2.0]), np.ones((3, 1)))
    exponential = models.exponential(np.array([0.3, 0.9, 2.0]), np.ones((3, 1)), form="ph")
    for drift in (0.0, 1e-14, -1e-9):
        found = from_series.evaluate(np.array([0.2, drift]), order=2)
        expected = exponential.evaluate(np.array([0.2]), order=2)
        assert found.loglike == pytest.approx(expected.loglike, rel=1e-8)
    moments = [integrate.quad(lambda s, j=j: s**j * np.exp(0.7 * s), 0, 1)[0] for j in range(3)]
    lik = models.gompertz(np.array([0.7]), np.ones((1, 1)), event=np.array([1]))
    hessian = lik.evaluate(np.array([0.0, 1.0]), order=2).hessian
    assert hessian is not None
    np.testing.assert_allclose(-hessian[1, 1], 0.7**3 * moments[2], rtol=1e-12)


def test_weibull_expected_information_is_that_of_both_forms() -> None:
    """b_ph = -b / sigma, shape = 1 / sigma: one form's information carried over by the Jacobian."""
    y, X = np.linspace(0.5, 2.0, 60), design(60)
    theta = np.array([0.4, 0.5, -0.3, -0.4])
    sigma = np.exp(theta[-1])
    there = np.append(-theta[:3] / sigma, -theta[-1])
    jacobian = -np.eye(4)
    jacobian[:3, :3] *= sigma  # b = -b_ph exp(-log shape)
    jacobian[:3, 3] = -theta[:3]
    expected = jacobian.T @ models.weibull(y, X).information(theta) @ jacobian
    found = models.weibull(y, X, form="ph").information(there)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_durations_without_end_are_not_drawn() -> None:
    endless = models.gompertz(np.ones(50), np.ones((50, 1)))
    with pytest.raises(SpecificationError, match="some durations never end"):
        endless.simulate(np.random.default_rng(0), np.array([-0.5, -1.0]))


def test_upper_alone_tells_events_from_censoring() -> None:
    t = np.array([1.0, 2.0, 0.0, 1.5])
    upper = np.array([1.0, np.inf, 2.0, 2.5])
    X = np.ones((4, 1))
    by_codes = models.weibull(
        np.array([1.0, 2.0, 2.0, 1.5]), X, event=np.array([1, 0, 2, 3]), upper=np.array([1, 1, 1, 2.5])
    )
    theta = np.array([0.3, 0.1])
    by_ends = models.weibull(t, X, upper=upper).evaluate(theta).loglike_obs
    np.testing.assert_array_equal(by_ends, by_codes.evaluate(theta).loglike_obs)
    frame = {"t": t, "u": np.array([1.0, np.nan, 2.0, 2.5]), "one": np.ones(4)}
    from_frame = models.weibull("t ~ one - 1", frame, upper="u").evaluate(theta).loglike_obs
    np.testing.assert_array_equal(by_ends, from_frame)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"event": [1, 0, 5]}, "coded 0 .right-censored.*it is 5 in row 2"),
        ({"event": [0, 0, 0]}, "right-censored in every row"),
        ({"event": [1, 3, 0]}, "upper= was not given"),
        (
            {"event": [1, 3, 0], "upper": [1.0, 0.5, 1.0]},
            "must not exceed upper=; it is 2 against 0.5 in row 1",
        ),
        ({"entry": [0.0, 2.5, 0.0]}, "must lie after entry=.*2 against 2.5 in row 1"),
    ],
)
def test_impossible_patterns_are_refused(columns: dict[str, Any], message: str) -> None:
    arrays = {key: np.asarray(value, dtype=float) for key, value in columns.items()}
    with pytest.raises(SupportError, match=message):
        models.weibull(np.array([1.0, 2.0, 3.0]), np.ones((3, 1)), **arrays)


def test_forms_and_their_ancillary_parameters() -> None:
    y, X = np.array([1.0, 2.0, 3.0]), np.ones((3, 1))
    with pytest.raises(SpecificationError, match="expected 'aft'"):
        models.weibull(y, X, form="po")
    with pytest.raises(SpecificationError, match="give shape='z'"):
        models.weibull(y, X, form="ph", sigma="z")


@pytest.mark.parametrize(("name", "kappa"), [("weibull", 1.0), ("lognormal", 0.0)])
def test_generalized_gamma_holds_its_special_cases(name: str, kappa: float) -> None:
    """Value, gradient and Hessian in (mu, log sigma), under every censoring pattern."""
    theta = np.array([0.4, 0.5, -0.3, -0.2])
    narrow = mixed(getattr(models, name), {}, 400).evaluate(theta, order=2, scores=True)
    wide = mixed(models.generalized_gamma, {}, 400).evaluate(np.append(theta, kappa), order=2, scores=True)
    assert narrow.hessian is not None and wide.hessian is not None
    np.testing.assert_allclose(wide.loglike_obs, narrow.loglike_obs, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(wide.hessian[:4, :4], narrow.hessian, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("k", [1.8, 0.31, 0.14, 1e-3, 0.0, -1e-3, -0.6, -1.8])
def test_generalized_gamma_tails_against_mpmath(k: float) -> None:
    """H = -log S and its derivatives in (w, k), by incomplete gamma functions of 60 digits."""
    points = np.array([-6.0, -2.0, -1e-3, 0.4, 2.5, 5.0])
    found = survival(points, np.full(6, k), 2)
    parts = [found.value, found.w, found.k, found.ww, found.wk, found.kk]
    with mpmath.workdps(60):

        def cumulative(w: Any, q: Any) -> Any:
            g = 1 / q**2
            ends = {"a": g * mpmath.exp(q * w)} if q > 0 else {"a": 0, "b": g * mpmath.exp(q * w)}
            return -mpmath.log(mpmath.gammainc(g, regularized=True, **ends))

        centre = mpmath.mpf(k) if k else mpmath.mpf("1e-3")
        orders = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
        for j, w in enumerate(points):
            if (
                abs(k) < 0.01
            ):  # g is 1e6 or infinite there: the lognormal's neighbourhood is checked elsewhere
                continue
            point = (mpmath.mpf(w), centre)
            expected = [
                float(cumulative(*point)),
                *(float(mpmath.diff(cumulative, point, o)) for o in orders[1:]),
            ]
            got = [float(part[j]) for part in parts if part is not None]
            np.testing.assert_allclose(got, expected, rtol=2e-11, atol=1e-14, err_msg=f"w = {w}")
    if abs(k) < 0.01:
        normal = Lognormal().hazard(points, 2)
        for part, limit in zip((found.value, found.w, found.ww), normal, strict=True):
            np.testing.assert_allclose(part, limit, rtol=1e-11 if k == 0 else 0.2)
        # the density of w is analytic in k: differences through zero agree with the derivatives
        there = [survival(points, np.full(6, k + h), 1) for h in (-1e-4, 1e-4)]
        for got, name in ((found.k, "value"), (found.wk, "w"), (found.kk, "k")):
            slope = (getattr(there[1], name) - getattr(there[0], name)) / 2e-4
            np.testing.assert_allclose(got, slope, rtol=1e-5, atol=1e-9, err_msg=name)
