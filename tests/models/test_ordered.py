"""Ordered logit and probit: closed forms, simulation, Venables and Ripley's housing data, levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from mlecov.errors import DataError, SpecificationError, SupportError
from mlecov.models.binary import logit, probit
from mlecov.models.ordered import ordered_logit, ordered_probit
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.common import check_derivatives, check_model
from tests.models.reference import check_computed, check_errors, check_estimates

Array = npt.NDArray[np.float64]
MODELS = {"ordered_logit": (ordered_logit, stats.logistic), "ordered_probit": (ordered_probit, stats.norm)}


def design(n: int = 4000) -> Array:
    return np.random.default_rng(101).normal(size=(n, 2))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "theta", [[0.5, -0.8, 0.3], [0.5, -0.8, -1.0, 0.2, -0.3], [0.3, 0.2, -1.5, -0.4, -0.2, -0.5, 0.1]]
)
def test_derivatives_simulation_and_recovery(name: str, theta: list[float]) -> None:
    y = np.arange(4000) % (len(theta) - 1)
    check_model(MODELS[name][0](y, design()), np.array(theta), seed=3)


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_where_intervals_are_narrow_and_far(name: str) -> None:
    likelihood = MODELS[name][0](np.arange(300) % 4, design(300))
    check_derivatives(likelihood, np.array([2.0, -3.0, -6.0, -5.0, 1.9]), rtol=1e-6, step=0.005)


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_are_differences_of_the_distribution_function(name: str) -> None:
    model, distribution = MODELS[name]
    likelihood = model(np.arange(40) % 4, design(40))
    theta = np.array([0.5, -0.8, -1.0, 0.2, -0.3])
    eta = likelihood.predictors(theta, 0, 40)
    cuts = -1 + np.array([0, np.exp(0.2), np.exp(0.2) + np.exp(-0.3)])
    past = np.vstack([distribution.cdf(cuts[:, None] - eta[0]), np.ones(40)])
    exact = np.diff(np.vstack([np.zeros(40), past]), axis=0)
    np.testing.assert_allclose(likelihood.model.probabilities(eta), exact, rtol=1e-11)
    y = likelihood.columns["y"].astype(int)
    value = likelihood.model.derivatives(eta, likelihood.columns, 0)[0]
    np.testing.assert_allclose(value, np.log(exact[y, np.arange(40)]), rtol=1e-11)
    np.testing.assert_allclose(
        likelihood.model.cdf(eta, likelihood.columns)[1], past[y, np.arange(40)], rtol=1e-11
    )
    np.testing.assert_allclose(
        likelihood.model.mean(eta, likelihood.columns), np.arange(4) @ exact, rtol=1e-11
    )


@pytest.mark.parametrize(("model", "binary"), [(ordered_logit, logit), (ordered_probit, probit)])
def test_two_levels_are_the_binary_model(model: Callable[..., Any], binary: Callable[..., Any]) -> None:
    X = design(500)
    y = (X[:, 0] + np.random.default_rng(1).normal(size=500) > 0.3).astype(float)
    ordered, plain = maximize(model(y, X)), maximize(binary(y, np.column_stack([np.ones(500), X])))
    np.testing.assert_allclose(ordered.theta, [*plain.theta[1:], -plain.theta[0]], rtol=1e-9)


HOUSING = "sat ~ inflMedium + inflHigh + Apartment + Atrium + Terrace + cont"
NAMES = {
    "InflMedium": "mu[inflMedium]",
    "InflHigh": "mu[inflHigh]",
    "TypeApartment": "mu[Apartment]",
    "TypeAtrium": "mu[Atrium]",
    "TypeTerrace": "mu[Terrace]",
    "ContHigh": "mu[cont]",
    "Low|Medium": "cut[0]",
    "Medium|High": "cut[1]",
}


def housing(data: pd.DataFrame) -> pd.DataFrame:
    dummies = {f"infl{level}": (data.infl == level) * 1.0 for level in ("Medium", "High")}
    dummies |= {level: (data.type == level) * 1.0 for level in ("Apartment", "Atrium", "Terrace")}
    return data.drop(columns=["infl", "type"]).assign(cont=(data.cont == "High") * 1.0, **dummies)


LEVELS = ["Low", "Medium", "High"]


def test_housing_ordered_logit() -> None:
    case = load_case("housing_ologit")
    likelihood = ordered_logit(HOUSING, housing(case.data), levels=LEVELS, frequency_weights="freq")
    optimum = maximize(likelihood)
    assert likelihood.n_obs == 1681 and likelihood.space.k == case.raw["k"]
    check_estimates(optimum, case, NAMES, 6e-7, 1e-9)
    check_errors(optimum, case.std_errors["hessian"], NAMES, "oim", 6e-8)
    # opg and sandwich were recalculated per cell, not per resident: not those of frequency weights
    check_computed(optimum, case, NAMES, 1e-8, skip=("opg", "sandwich"))


def test_housing_repeated_rows_are_frequency_weights() -> None:
    data = housing(load_case("housing_ologit").data)
    long = data.loc[data.index.repeat(data.freq)].reset_index(drop=True)
    weighted = maximize(ordered_logit(HOUSING, data, levels=LEVELS, frequency_weights="freq"))
    repeated = maximize(ordered_logit(HOUSING, long, levels=LEVELS))
    np.testing.assert_allclose(weighted.theta, repeated.theta, rtol=1e-9)
    assert weighted.evaluation.scores is not None and repeated.evaluation.scores is not None
    np.testing.assert_allclose(
        weighted.evaluation.scores.meat(), repeated.evaluation.scores.meat(), rtol=1e-8
    )


def test_levels_come_from_numbers_categoricals_or_the_user() -> None:
    X = design(6)
    text = np.array(["low", "mid", "high", "mid", "low", "high"])
    with pytest.raises(DataError, match="text, whose order is not known"):
        ordered_logit(text, X)
    frame = {"y": pd.Series(pd.Categorical(text, ["low", "mid", "high"], ordered=True)), "x": X[:, 0]}
    np.testing.assert_array_equal(ordered_logit("y ~ x", frame).columns["y"], [0, 1, 2, 1, 0, 2])
    reverse = ordered_logit(text, X[:, :1], levels=["high", "mid", "low"])
    np.testing.assert_array_equal(reverse.columns["y"], [2, 1, 0, 1, 2, 0])
    numbers = ordered_logit(np.array([10.0, 20, 40, 20, 10, 40]), X[:, :1])
    np.testing.assert_array_equal(numbers.columns["y"], [0, 1, 2, 1, 0, 2])
    with pytest.raises(DataError, match="takes 'high', not among the levels"):
        ordered_logit(text, X, levels=["low", "mid"])
    with pytest.raises(SupportError, match=r"never takes the value.*'none'"):
        ordered_logit(text, X, levels=["none", "low", "mid", "high"])
    with pytest.raises(SpecificationError, match="'x0' is the same in every row"):
        ordered_logit(np.array([0, 1, 2]), np.ones((3, 1)))


@pytest.mark.parametrize("name", MODELS)
def test_far_intervals_keep_their_digits_on_both_sides(name: str) -> None:
    model, distribution = MODELS[name]
    likelihood = model(np.arange(6) % 3, np.ones((6, 1)) * np.array([[0.0], [1], [2], [3], [4], [5]]))
    eta = np.array([[-45.0] * 6, [-0.3] * 6, [0.2] * 6])
    y = np.array([0.0, 1.0, 2.0, 0.0, 1.0, 2.0])
    eta[0, 3:] = 45.0
    value = likelihood.model.derivatives(eta, {"y": y}, 0)[0]
    cut, top = -0.3, -0.3 + np.exp(0.2)
    for i, mu in ((1, -45.0), (4, 45.0)):
        # both ends in one tail, which underflows: logs of survival or of distribution functions
        tail = distribution.logsf if mu < 0 else distribution.logcdf
        low, high = sorted([float(tail(top - mu)), float(tail(cut - mu))])
        exact = high + np.log1p(-np.exp(low - high))
        np.testing.assert_allclose(value[i], exact, rtol=1e-9)
