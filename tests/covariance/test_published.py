"""Numbers of Stata, R's sandwich and statsmodels; k= leaves out sigma where they do not count it."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

import mlecov as ml
from mlecov.covariance import HAC, HC, Cluster, DriscollKraay, Jackknife, covariance
from mlecov.covariance.specs import Basic
from mlecov.optimize import maximize
from tests.cases import load_case

FORMULAS = {
    "petersen": ("gaussian", "y ~ x"),
    "publicschools_hc": ("gaussian", "expenditure ~ I1 + I2"),
    "stata_grunfeld_ols": ("gaussian", "invest ~ 0 + value + capital + one"),
    "stata_macro_ols_hac": ("gaussian", "g_realinv ~ 0 + g_realgdp + L_realint + one"),
    "innovation_poisson": ("poisson", "cites ~ institutions + ratio + lsales"),
    "stata_poisson_ships": ("poisson", "accident ~ 0 + yr_con + op_75_79 + one"),
    "stata_negbin_ships": ("nb2", "accident ~ 0 + yr_con + op_75_79 + one"),
}


@cache
def fitted(name: str) -> tuple[Any, Any]:
    case = load_case(name)
    data = case.data.assign(one=1.0)
    if name == "publicschools_hc":
        data = data.dropna().assign(I1=data.income * 1e-4, I2=(data.income * 1e-4) ** 2)
    if name == "innovation_poisson":
        data = data.assign(ratio=np.log(data.capital / data.employment), lsales=np.log(data.sales))
    model, formula = FORMULAS[name]
    return case, maximize(getattr(ml.models, model)(formula, data))


NUMBERS: list[tuple[str, str, Any, float]] = [
    ("petersen", "hc0", Basic("robust"), 1e-12),
    ("petersen", "hc1", Basic("HC1", k=2), 1e-12),
    ("petersen", "hc2", HC("HC2"), 1e-12),
    ("petersen", "hc3", HC("HC3"), 1e-12),
    ("petersen", "cluster:firm", Cluster("firm", small_sample="fixest", k=2), 1e-12),
    ("petersen", "cluster:year", Cluster("year", small_sample="statsmodels", k=2), 1e-12),
    ("petersen", "cluster:firm+year", Cluster("firm", "year", small_sample="statsmodels", k=2), 1e-12),
    ("petersen", "cluster:firm nofactor", Cluster("firm", type="CR0"), 1e-12),
    ("petersen", "cluster:firm+year nofactor", Cluster("firm", "year", small_sample="none"), 1e-12),
    ("petersen", "cluster:firm+year each G/(G-1)", Cluster("firm", "year"), 1e-12),
    ("petersen", "cluster:firm CR2 (sandwich HC2)", Cluster("firm", type="CR2"), 1e-12),
    ("petersen", "cluster:firm CR3 (sandwich HC3)", Cluster("firm", type="CR3"), 1e-12),
    (
        "petersen",
        "panel newey-west PL (sandwich vcovPL default)",
        DriscollKraay("year", lags=1, small_sample="sandwich", k=2),
        1e-12,
    ),
    ("publicschools_hc", "HC0", Basic("robust"), 1e-9),
    ("publicschools_hc", "HC1", Basic("HC1", k=3), 1e-9),
    ("publicschools_hc", "HC2", HC("HC2"), 1e-9),
    ("publicschools_hc", "HC3", HC("HC3"), 1e-9),
    ("innovation_poisson", "sandwich", Basic("robust"), 1e-10),
    ("innovation_poisson", "cluster:company", Cluster("company", small_sample="none"), 1e-10),
    ("innovation_poisson", "cluster:company G/(G-1)", Cluster("company"), 1e-10),
    ("innovation_poisson", "cluster:industry G/(G-1)", Cluster("industry", small_sample="stata"), 1e-10),
    ("innovation_poisson", "cluster:year G/(G-1)", Cluster("year"), 1e-10),
    ("innovation_poisson", "cluster:company+year", Cluster("company", "year", small_sample="none"), 1e-10),
    ("innovation_poisson", "cluster:company+year each G/(G-1)", Cluster("company", "year"), 1e-10),
    ("stata_grunfeld_ols", "cluster:firm (regress)", Cluster("firm", small_sample="fixest", k=3), 2e-7),
    ("stata_grunfeld_ols", "cluster:firm nofactor (ivreg2)", Cluster("firm", type="CR0"), 2e-7),
    (
        "stata_grunfeld_ols",
        "cluster:firm+year nofactor (ivreg2)",
        Cluster("firm", "year", small_sample="none"),
        2e-7,
    ),
    (
        "stata_grunfeld_ols",
        "cluster:firm+year small (ivreg2 small, min G)",
        Cluster("firm", "year", small_sample="fixest", k=3),
        2e-7,
    ),
    ("stata_grunfeld_ols", "driscoll-kraay bw5 nofactor (ivreg2)", DriscollKraay("year", bandwidth=5), 2e-7),
    (
        "stata_grunfeld_ols",
        "driscoll-kraay bw5 small (ivreg2)",
        DriscollKraay("year", bandwidth=5, small_sample="stata", k=3),
        2e-7,
    ),
    (
        "stata_grunfeld_ols",
        "panel newey lag4 (newey, force)",
        HAC(lags=4, group="firm", order_by="year", small_sample="stata", k=3),
        2e-7,
    ),
    (
        "stata_grunfeld_ols",
        "cluster:firm CR3 (Stata hc3-type, see source)",
        Cluster("firm", type="CR3", small_sample="stata"),
        2e-7,
    ),
    ("stata_grunfeld_ols", "cluster:firm jackknife", Jackknife("firm"), 2e-7),
    ("stata_grunfeld_ols", "cluster:firm jackknife", Jackknife("firm", exact=True), 2e-7),
    ("stata_macro_ols_hac", "hc1 (regress, robust)", Basic("HC1", k=3), 1e-11),
    ("stata_macro_ols_hac", "newey lag4 (newey, n/(n-k))", HAC(lags=4, small_sample="stata", k=3), 1e-11),
    ("stata_macro_ols_hac", "hac bartlett bw5 nofactor (ivreg2)", HAC(bandwidth=5), 1e-11),
    ("stata_poisson_ships", "sandwich", Basic("robust", small_sample="stata"), 1e-9),
    ("stata_poisson_ships", "cluster:ship", Cluster("ship", small_sample="stata"), 1e-9),
    ("stata_negbin_ships", "cluster:ship", Cluster("ship", small_sample="stata"), 2e-6),
]


@pytest.mark.parametrize(
    ("name", "estimator", "spec", "tolerance"), NUMBERS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_published_standard_errors(name: str, estimator: str, spec: Any, tolerance: float) -> None:
    case, optimum = fitted(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ml.MlecovWarning)
        # sigma's equation comes last and is not printed by least-squares programs
        got = np.sqrt(np.diag(covariance(optimum, spec).matrix))[: len(case.estimates)]
    assert np.abs(got / case.bse(estimator) - 1).max() < tolerance


def panel(n: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(12)
    frame = pd.DataFrame({"x": rng.standard_normal(n), "z": rng.standard_normal(n)})
    frame["firm"], frame["year"] = np.repeat(np.arange(n // 20), 20), np.tile(np.arange(20), n // 20)
    frame["y"] = rng.poisson(
        np.exp(0.2 + 0.3 * frame.x - 0.2 * frame.z + 0.3 * rng.standard_normal(n // 20)[frame.firm])
    )
    return frame


STATSMODELS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "cluster": ("cluster", {"groups": "firm"}, Cluster("firm", small_sample="statsmodels")),
    "two-way": ("cluster", {"groups": ["firm", "year"]}, Cluster("firm", "year", small_sample="statsmodels")),
    "hac": ("HAC", {"maxlags": 6}, HAC(lags=6, small_sample="statsmodels")),
    "hac-panel": (
        "hac-panel",
        {"time": "year", "groups": "firm", "maxlags": 3},
        HAC(lags=3, group="firm", order_by="year", small_sample="statsmodels"),
    ),
    "hac-groupsum": (
        "hac-groupsum",
        {"time": "year", "maxlags": 3},
        DriscollKraay("year", lags=3, small_sample="statsmodels"),
    ),
    "HC0": ("HC0", {}, Basic("robust", small_sample="statsmodels")),
}


@pytest.mark.parametrize("name", STATSMODELS)
def test_statsmodels_cov_types(name: str) -> None:
    data = panel()
    kind, options, spec = STATSMODELS[name]
    options = {
        key: data[value].to_numpy() if isinstance(value, (str, list)) else value
        for key, value in options.items()
    }
    X = sm.add_constant(data[["x", "z"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = sm.Poisson(data.y, X).fit(disp=0, tol=1e-12, method="newton", cov_type=kind, cov_kwds=options)
    got = covariance(maximize(ml.models.poisson("y ~ x + z", data)), spec).matrix
    assert np.abs(got / np.asarray(peer.cov_params()) - 1).max() < 1e-9
