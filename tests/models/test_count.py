"""Count models: closed forms, simulation, the published and peer cases, limits and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import special, stats

from mlecov.errors import BoundaryWarning, SpecificationError, SupportError
from mlecov.models.count import generalized_poisson, nb1, nb2, poisson
from mlecov.models.count_truncated import truncated_nb2, truncated_poisson
from mlecov.models.count_zeros import (
    hurdle_nb2,
    hurdle_poisson,
    zero_inflated_nb2,
    zero_inflated_poisson,
)
from mlecov.models.proportions import beta_binomial
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.common import check_derivatives, check_model
from tests.models.reference import check_computed, check_errors, check_estimates

Array = npt.NDArray[np.float64]


def design(n: int = 4000, seed: int = 101) -> Array:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n), rng.normal(size=(n, 2))])


def outcomes(n: int = 4000, lowest: int = 0) -> Array:
    return np.arange(n) % 4 + float(lowest)


SLOPES = [0.5, 0.3, -0.2]
MODELS: dict[str, tuple[Callable[..., Any], dict[str, Any], list[float], int]] = {
    "poisson": (poisson, {}, [], 0),
    "nb2": (nb2, {}, [-0.6], 0),
    "nb1": (nb1, {}, [-0.6], 0),
    "gp2": (generalized_poisson, {}, [-1.2], 0),
    "gp1": (generalized_poisson, {"p": 1}, [-1.2], 0),
    "zip": (zero_inflated_poisson, {}, [-0.7], 0),
    "zinb": (zero_inflated_nb2, {}, [-0.6, -0.7], 0),
    "hurdle_poisson": (hurdle_poisson, {}, [0.4], 0),
    "hurdle_nb2": (hurdle_nb2, {}, [-0.6, 0.4], 0),
    "truncated_poisson": (truncated_poisson, {}, [], 1),
    "truncated_nb2": (truncated_nb2, {}, [-0.6], 1),
    "truncated_poisson_2": (truncated_poisson, {"truncation": 2}, [], 3),
    "truncated_nb2_2": (truncated_nb2, {"truncation": 2}, [-0.6], 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_simulation_and_recovery(name: str) -> None:
    model, options, extra, lowest = MODELS[name]
    check_model(model(outcomes(lowest=lowest), design(), **options), np.array(SLOPES + extra), seed=3)


def test_beta_binomial_derivatives_simulation_and_recovery() -> None:
    trials = 1.0 + np.arange(4000) % 12
    likelihood = beta_binomial(np.minimum(outcomes(), trials), design(), trials=trials)
    check_model(likelihood, np.array([-0.4, 0.3, -0.2, 1.2]), seed=3)


@pytest.mark.parametrize("name", ["nb2", "nb1", "gp2", "zinb", "truncated_nb2"])
@pytest.mark.parametrize("log_alpha", [-6.0, -9.21, -11.0, -30.0])
def test_derivatives_stay_exact_towards_the_poisson_limit(name: str, log_alpha: float) -> None:
    model, options, extra, lowest = MODELS[name]
    theta = np.array(SLOPES + extra)
    theta[3] = log_alpha
    likelihood = model(outcomes(400, lowest), design(400), **options)
    check_derivatives(likelihood, theta)
    if name in ("nb2", "nb1", "gp2"):
        # d l / d log alpha is alpha ((y - mu)^2 - y) / 2 (nb2) there: relative, not absolute, digits
        eta = likelihood.predictors(theta, 0, 400)
        first, y, mu = (
            likelihood.model.derivatives(eta, likelihood.columns, 1)[1],
            outcomes(400),
            np.exp(eta[0]),
        )
        leading = {
            "nb2": 0.5 * ((y - mu) ** 2 - y),
            "nb1": 0.5 * ((y - mu) ** 2 - y) / mu,
            "gp2": (y - mu) ** 2 - y,
        }[name]
        scale = np.exp(log_alpha)
        size = 30.0 * scale * (1 + y + mu) ** 3
        assert (np.abs(first[1] / scale - leading) < size + 1e-11 * (1 + y + mu) ** 2).all()


def density(name: str, y: Array, eta: Array) -> Array:
    """Return log-densities by scipy, at predictors (mu, log alpha, logit)."""
    mu = np.exp(eta[0])
    alpha = np.exp(eta[1]) if len(eta) > 1 else np.ones_like(mu)
    nb = stats.nbinom(1 / alpha, 1 / (1 + alpha * mu))
    base: Any = stats.poisson(mu) if "poisson" in name or name == "zip" else nb
    last = special.expit(eta[-1])
    if name == "nb1":
        return np.asarray(stats.nbinom(mu / alpha, 1 / (1 + alpha)).logpmf(y))
    if name in ("zip", "zinb"):
        return np.log(np.where(y == 0, last, 0) + (1 - last) * base.pmf(y))
    if name.startswith("hurdle"):
        return np.where(y == 0, np.log1p(-last), np.log(last) + base.logpmf(y) - base.logsf(0))
    if name.startswith("truncated"):
        return np.asarray(
            base.logpmf(y) - base.logsf(2 if name.endswith("2_2") or name.endswith("n_2") else 0)
        )
    return np.asarray(base.logpmf(y))


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("gp")])
def test_density_is_scipys(name: str) -> None:
    model, options, extra, lowest = MODELS[name]
    likelihood = model(outcomes(300, lowest), design(300), **options)
    eta = likelihood.predictors(np.array(SLOPES + extra), 0, 300)
    found = likelihood.model.derivatives(eta, likelihood.columns, 0)[0]
    np.testing.assert_allclose(found, density(name, likelihood.columns["y"], eta), rtol=1e-10)


def test_beta_binomial_density_is_scipys() -> None:
    y, trials = outcomes(300), 3.0 + np.arange(300) % 9
    likelihood = beta_binomial(y, design(300), trials=trials)
    eta = likelihood.predictors(np.array([-0.4, 0.3, -0.2, 1.2]), 0, 300)
    p, theta = special.expit(eta[0]), np.exp(eta[1])
    found = likelihood.model.derivatives(eta, likelihood.columns, 0)[0]
    np.testing.assert_allclose(
        found, stats.betabinom.logpmf(y, trials, p * theta, (1 - p) * theta), rtol=1e-11
    )


@pytest.mark.parametrize("name", MODELS)
def test_mean_and_distribution_function_are_sums_of_probabilities(name: str) -> None:
    model, options, extra, lowest = MODELS[name]
    likelihood = model(outcomes(40, lowest), design(40), **options)
    eta = likelihood.predictors(np.array(SLOPES + extra), 0, 40)
    below, at, mean = np.zeros(40), np.zeros(40), np.zeros(40)
    for j in range(lowest, 400):
        there = {"y": np.full(40, float(j))}
        probability = np.exp(likelihood.model.derivatives(eta, there, 0)[0])
        mean += j * probability
        below += np.where(j < likelihood.columns["y"], probability, 0)
        at += np.where(j <= likelihood.columns["y"], probability, 0)
    np.testing.assert_allclose(likelihood.model.mean(eta, likelihood.columns), mean, rtol=1e-9)
    found = likelihood.model.cdf(eta, likelihood.columns)
    np.testing.assert_allclose(found[0], below, atol=1e-12)
    np.testing.assert_allclose(found[1], at, atol=1e-12)


def named(
    prefix: str, columns: list[str], constant: str, further: dict[str, str] | None = None
) -> dict[str, str]:
    """Return case names -> labels for a linear predictor, its constant, and further entries."""
    return (
        {name: f"{prefix}[{name}]" for name in columns} | {constant: f"{prefix}[Intercept]"} | (further or {})
    )


@dataclass(frozen=True)
class Reference:
    """What is fitted for a case, under which names, and to how many digits."""

    model: Callable[[pd.DataFrame], Any]
    names: dict[str, str]
    estimates: float
    loglik: float = 1e-8
    errors: tuple[tuple[str, str, str, float], ...] = ()
    computed: float = 1e-8


BIOCHEM = "art ~ femWomen + marMarried + kid5 + phd + ment"


def biochemists(data: pd.DataFrame) -> pd.DataFrame:
    return data.assign(femWomen=(data.fem == "Women") * 1.0, marMarried=(data.mar == "Married") * 1.0)


COLUMNS = ["femWomen", "marMarried", "kid5", "phd", "ment"]
ZERO = {f"zero_{name}": f"inflate[{name}]" for name in COLUMNS} | {"zero_(Intercept)": "inflate[Intercept]"}
COUNT = {f"count_{name}": f"mu[{name}]" for name in COLUMNS} | {"count_(Intercept)": "mu[Intercept]"}
RAND = "lncoins + idp + lpi + fmde + physlm + disea + hlthg + hlthf + hlthp"
RAND_NAMES = named("mu", RAND.split(" + "), "_cons")
SHIPS = named("mu", ["yr_con", "op_75_79"], "_cons")
LNALPHA = {"lnalpha": "log(alpha)"}
DOCVIS = named("mu", ["aget", "totchr"], "_cons")
INNOVATION = {
    "(Intercept)": "mu[Intercept]",
    "institutions": "mu[institutions]",
    "log(capital/employment)": "mu[lk]",
    "log(sales)": "mu[ls]",
}


def innovation(data: pd.DataFrame) -> pd.DataFrame:
    return data.assign(lk=np.log(data.capital / data.employment), ls=np.log(data.sales))


def smokers(data: pd.DataFrame) -> pd.DataFrame:
    return data.assign(**{f"agecat{j}": (data.agecat == j) * 1.0 for j in range(2, 6)})


SMOKERS = "deaths ~ smokes + agecat2 + agecat3 + agecat4 + agecat5 + exposure(pyears)"
SMOKERS_NAMES = named("mu", ["smokes", "agecat2", "agecat3", "agecat4", "agecat5"], "_cons")

# estimates and errors: relative tolerances that the case's `digits` promise
REFERENCES: dict[str, Reference] = {
    "biochem_poisson": Reference(
        lambda d: poisson(BIOCHEM, biochemists(d)),
        named("mu", COLUMNS, "(Intercept)"),
        1e-12,
        errors=(
            ("hessian", "oim", "none", 1e-9),
            ("opg", "opg", "none", 1e-9),
            ("sandwich", "robust", "none", 1e-9),
        ),
    ),
    "biochem_negbin": Reference(
        lambda d: nb2(BIOCHEM, biochemists(d)),
        named("mu", COLUMNS, "(Intercept)", {"log_theta": "-log(alpha)"}),
        1e-9,
    ),
    # pscl stops early: 2 and 3 digits; the recalculated columns hold the full precision
    "biochem_zip": Reference(
        lambda d: zero_inflated_poisson(BIOCHEM, biochemists(d), inflate=BIOCHEM.split("~")[1]),
        COUNT | ZERO,
        5e-3,
        errors=(("hessian", "oim", "none", 5e-4),),
        computed=1e-6,
    ),
    "biochem_zinb": Reference(
        lambda d: zero_inflated_nb2(BIOCHEM, biochemists(d), inflate=BIOCHEM.split("~")[1]),
        COUNT | ZERO | {"log_theta": "-log(alpha)"},
        6e-4,
        loglik=2e-8,
        errors=(("hessian", "oim", "none", 1e-4),),
        computed=1e-6,
    ),
    # Stata held the regressors in single precision: its log-likelihood differs by 3e-5
    "randhie_poisson": Reference(
        lambda d: poisson(f"mdvis ~ {RAND}", d),
        RAND_NAMES,
        1e-7,
        loglik=4e-5,
        errors=(("hessian", "oim", "none", 2e-8),),
    ),
    "randhie_nb1": Reference(
        lambda d: nb1(f"mdvis ~ {RAND}", d),
        RAND_NAMES | {"alpha": "alpha"},
        6e-8,
        errors=(("hessian", "oim", "none", 4e-4),),
    ),
    "randhie_nb2": Reference(
        lambda d: nb2(f"mdvis ~ {RAND}", d),
        RAND_NAMES | {"alpha": "alpha"},
        2.1e-7,
        errors=(("hessian", "oim", "none", 3e-2),),
    ),
    # Stata's gnpoisson stopped early: 1e-4 in hlthf, whose estimate is small beside its s.e.
    "randhie_gp2": Reference(
        lambda d: generalized_poisson(f"mdvis ~ {RAND}", d),
        RAND_NAMES | {"alpha": "alpha"},
        1.2e-4,
        loglik=1e-5,
        errors=(("hessian", "oim", "none", 1.4e-6),),
    ),
    "innovation_poisson": Reference(
        lambda d: poisson("cites ~ institutions + lk + ls", innovation(d)),
        INNOVATION,
        2e-11,
        loglik=1e-5,
        errors=(
            ("hessian", "oim", "none", 1e-11),
            ("opg", "opg", "none", 1e-11),
            ("sandwich", "robust", "none", 1e-11),
        ),
    ),
    "stata_poisson_ships": Reference(
        lambda d: poisson("accident ~ yr_con + op_75_79", d),
        SHIPS,
        1e-11,
        errors=(("sandwich", "robust", "stata", 2e-9),),
    ),
    "stata_poisson_ships_exposure": Reference(
        lambda d: poisson("accident ~ yr_con + op_75_79", d, exposure="service"),
        SHIPS,
        1e-11,
        errors=(("hessian", "oim", "none", 1e-11), ("sandwich", "robust", "stata", 2e-9)),
    ),
    # Stata's nbreg stops at its own tolerance: 6e-7 in yr_con, which is small beside its s.e.
    "stata_negbin_ships": Reference(
        lambda d: nb2("accident ~ yr_con + op_75_79", d),
        SHIPS | LNALPHA,
        7e-7,
        errors=(("sandwich", "robust", "stata", 2e-7),),
        computed=1e-7,
    ),
    "stata_negbin_ships_exposure": Reference(
        lambda d: nb2("accident ~ yr_con + op_75_79 + exposure(service)", d),
        SHIPS | LNALPHA,
        1e-7,
        errors=(("hessian", "oim", "none", 2e-10),),
    ),
    "stata_poisson_smokers": Reference(
        lambda d: poisson(SMOKERS, smokers(d)),
        SMOKERS_NAMES,
        2e-10,
        errors=(("hessian", "oim", "none", 1e-10),),
    ),
    "stata_tpoisson": Reference(
        lambda d: truncated_poisson("docvis ~ aget + totchr", d[d.docvis > 0]),
        DOCVIS,
        2e-10,
        errors=(("hessian", "oim", "none", 1e-11),),
    ),
    "stata_tnbreg": Reference(
        lambda d: truncated_nb2("docvis ~ aget + totchr", d[d.docvis > 0]),
        DOCVIS | LNALPHA,
        9e-7,
        errors=(("hessian", "oim", "none", 9e-8),),
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_case(name: str) -> None:
    case, reference = load_case(name), REFERENCES[name]
    optimum = maximize(reference.model(case.data))
    assert optimum.likelihood.n_terms == case.raw["n"] and optimum.likelihood.space.k == case.raw["k"]
    check_estimates(optimum, case, reference.names, reference.estimates, reference.loglik)
    for printed, spec, convention, rtol in reference.errors:
        check_errors(optimum, case.std_errors[printed], reference.names, spec, rtol, convention)
    check_computed(optimum, case, reference.names, reference.computed)


def test_glm_nb_prints_expected_information_for_b_and_theta_alone() -> None:
    """MASS: b from the expected information; theta's s.e. from the observed curvature at fixed b."""
    case = load_case("biochem_negbin")
    names, printed = REFERENCES[case.name].names, dict(case.std_errors["expected_information (glm.nb)"])
    optimum = maximize(REFERENCES[case.name].model(case.data))
    alone = 1 / np.sqrt(optimum.evaluation.information[-1, -1])
    np.testing.assert_allclose(alone, printed.pop("log_theta"), rtol=5e-6)  # theta.ml's own tolerance
    check_errors(optimum, printed, names, "eim", 1e-6)


def test_stata_alpha_by_the_delta_method() -> None:
    case = load_case("stata_negbin_ships")
    optimum = maximize(REFERENCES[case.name].model(case.data))
    np.testing.assert_allclose(
        optimum.likelihood.space.report(optimum.theta)[-1], case.raw["alpha"], rtol=1e-7
    )
    check_errors(
        optimum, {"alpha": case.raw["alpha_se"]["robust"]}, {"alpha": "alpha"}, "robust", 2e-7, "stata"
    )


@pytest.mark.parametrize("which", ["agecat5=agecat4", "agecat5=agecat4+0.5"])
def test_stata_poisson_smokers_constrained(which: str) -> None:
    case = load_case("stata_poisson_smokers")
    printed = case.raw["constrained"][which]
    text = "mu[agecat5] - mu[agecat4] = " + ("0.5" if which.endswith("0.5") else "0")
    optimum = maximize(poisson(SMOKERS, smokers(case.data)), constraints=[text])
    found = dict(
        zip(optimum.likelihood.space.labels, optimum.likelihood.space.report(optimum.theta), strict=True)
    )
    for name, value in printed["estimates"].items():
        np.testing.assert_allclose(found[SMOKERS_NAMES[name]], value, rtol=1e-9)
    np.testing.assert_allclose(optimum.evaluation.loglike, printed["loglik"], atol=1e-9)
    for estimator, values in printed["std_errors"].items():
        spec = {"hessian": "oim", "sandwich": "robust"}[estimator]
        check_errors(optimum, values, SMOKERS_NAMES, spec, 1e-9, "stata")


def test_orobanche_beta_binomial() -> None:
    """Crowder (1978) in bbmle's parameters: the group probabilities and theta."""
    case = load_case("orob1_betabinomial")
    optimum = maximize(beta_binomial("m ~ 0 + C(dilution)", case.data, trials="n"))
    p, theta = special.expit(optimum.theta[:3]), float(np.exp(optimum.theta[3]))
    found = dict(zip(case.estimates, [*p, theta], strict=True))
    for name, value in case.raw["estimates_computed"].items():
        np.testing.assert_allclose(found[name], value, rtol=1e-7)
        np.testing.assert_allclose(found[name], case.estimates[name], rtol=1e-5)
    np.testing.assert_allclose(optimum.evaluation.loglike, case.loglik, atol=1e-10)
    bread = np.linalg.inv(optimum.evaluation.information)
    slope = np.append(p * (1 - p), theta)
    computed = case.raw["std_errors_computed_nofactor"]
    assert optimum.evaluation.scores is not None
    meat = optimum.evaluation.scores.meat()
    for name, matrix in (
        ("hessian", bread),
        ("opg", np.linalg.inv(meat)),
        ("sandwich", bread @ meat @ bread),
    ):
        np.testing.assert_allclose(slope * np.sqrt(np.diag(matrix)), list(computed[name].values()), rtol=1e-6)


@pytest.mark.parametrize("name", ["nb2", "nb1", "gp2"])
def test_underdispersion_ends_at_poisson_and_says_so(name: str) -> None:
    model = MODELS[name][0]
    rng = np.random.default_rng(7)
    y = rng.binomial(4, 0.4, 500).astype(float)
    with pytest.warns(BoundaryWarning, match="alpha is at its bound, zero"):
        optimum = maximize(model(y, design(500)))
    pooled = maximize(poisson(y, design(500)))
    np.testing.assert_allclose(optimum.theta[:3], pooled.theta, rtol=1e-8)
    np.testing.assert_allclose(optimum.evaluation.loglike, pooled.evaluation.loglike, rtol=1e-10)


def test_exposure_is_an_offset_of_its_log() -> None:
    y, X = outcomes(200), design(200)
    t = 1.0 + np.arange(200) % 5
    by_exposure, by_offset = maximize(poisson(y, X, exposure=t)), maximize(poisson(y, X, offset=np.log(t)))
    np.testing.assert_array_equal(by_exposure.theta, by_offset.theta)
    assert abs(by_exposure.theta - maximize(poisson(y, X)).theta).max() > 0.1


def test_second_equation_of_the_dispersion() -> None:
    X = design()
    frame = {"y": outcomes(), "a": X[:, 1], "b": X[:, 2]}
    likelihood = nb2("y ~ a", frame, alpha="b")
    assert likelihood.space.labels == ("mu[Intercept]", "mu[a]", "alpha[Intercept]", "alpha[b]")
    check_model(likelihood, np.array([0.5, 0.3, -0.4, 0.5]), seed=5)


@pytest.mark.parametrize(
    ("model", "y", "options", "message"),
    [
        (nb2, [0.0, 1.5, 2.0], {}, "must be a count.*1.5 in row 1"),
        (nb1, [0.0, -1.0, 2.0], {}, "must be a count.*-1 in row 1"),
        (poisson, [0.0, 0.0, 0.0], {}, "0 in every row"),
        (truncated_poisson, [0.0, 1.0, 2.0], {}, "above 0.*row 0"),
        (truncated_nb2, [3.0, 2.0, 4.0], {"truncation": 2}, "above 2.*row 1"),
        (truncated_poisson, [1.0, 1.0, 1.0], {}, "1 in every row"),
        (zero_inflated_poisson, [1.0, 1.0, 2.0], {}, "no zeros"),
        (hurdle_nb2, [1.0, 1.0, 2.0], {}, "no zeros"),
        (hurdle_poisson, [0.0, 1.0, 1.0], {}, "never above 1"),
        (beta_binomial, [0.0, 3.0, 1.0], {"trials": [2.0, 2.0, 2.0]}, "between 0 and the trials.*row 1"),
        (beta_binomial, [0.0, 1.0, 1.0], {"trials": [1.0, 1.0, 1.0]}, "one trial"),
    ],
)
def test_outcomes_outside_the_support_are_refused(
    model: Callable[..., Any], y: list[float], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SupportError, match=message):
        model(np.array(y), np.ones((3, 1)), **options)


def test_bad_options_are_refused() -> None:
    with pytest.raises(SpecificationError, match="expected a count c >= 0"):
        truncated_poisson(np.ones(3), np.ones((3, 1)), truncation=-1)
    with pytest.raises(SpecificationError, match="trials="):
        beta_binomial(np.ones(3), np.ones((3, 1)))
