"""KINDS x SPECS x identities, under small_sample="none" and observed curvature."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import mlecov as ml
from mlecov.covariance import (
    EWC,
    HAC,
    HC,
    Cluster,
    Conley,
    DriscollKraay,
    Jackknife,
    Survey,
    covariance,
    parse,
)
from mlecov.optimize import maximize
from tests.covariance.kinds import KINDS, N, close, estimate, frame, optimum_of, ready

SPECS: dict[str, Any] = {
    "cluster": Cluster("firm", small_sample="none"),
    "two-way": Cluster("firm", "year"),
    "CR2": Cluster("firm", type="CR2", curvature="observed"),
    "CR3": Cluster("firm", type="CR3", curvature="observed"),
    "HC2": HC("HC2", curvature="observed"),
    "HC3": HC("HC3", curvature="observed"),
    "jackknife": Jackknife(curvature="observed"),
    "jackknife group": Jackknife("firm", curvature="observed"),
    "bartlett": HAC("bartlett", lags=5, order_by="t"),
    "parzen": HAC("parzen", bandwidth=6.5, order_by="t"),
    "qs": HAC("quadratic-spectral", bandwidth=3.0, order_by="t"),
    "prewhitened": HAC("bartlett", lags=3, order_by="t", prewhiten=1),
    "panel": HAC("bartlett", lags=2, order_by="t", group="firm", gaps="ignore"),
    "ewc": EWC(nu=9, order_by="t"),
    "driscoll-kraay": DriscollKraay("year", lags=2),
    "conley": Conley(coordinates=["east", "north"], cutoff=1.5, kernel="bartlett"),
    "survey": Survey(strata="year", psu="firm", lonely="adjust"),
}
ORDERED = ("bartlett", "parzen", "qs", "prewhitened", "panel", "ewc")


@cache
def optimum(kind: str) -> Any:
    return optimum_of(kind)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ready"])
def test_every_kind_of_likelihood_gives_the_same_covariance(kind: str, spec: str) -> None:
    close(estimate(optimum(kind), SPECS[spec]), estimate(optimum("ready"), SPECS[spec]), 1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_singletons_and_zero_lags_give_the_robust_sandwich(kind: str) -> None:
    robust = estimate(optimum(kind), "robust")
    for spec in (
        Cluster("id", small_sample="none"),
        Cluster("id", "firm", type="CR0"),  # nested: firms hold whole rows
        HAC("bartlett", lags=0),
        HAC("truncated", bandwidth=0.5),
        HAC("quadratic-spectral", bandwidth=0),
        Conley(coordinates=["east", "north"], cutoff=1e-9),
        DriscollKraay("id", lags=0),
    ):
        expected = (
            robust
            if not (isinstance(spec, Cluster) and len(spec.groups) == 2)
            else estimate(optimum(kind), Cluster("firm", type="CR0"))
        )
        close(estimate(optimum(kind), spec), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_cluster_of_singletons_is_hc(kind: str) -> None:
    for cr, hc in (("CR2", "HC2"), ("CR3", "HC3")):
        close(
            estimate(optimum(kind), Cluster("id", type=cr, curvature="observed")),
            estimate(optimum(kind), HC(hc, curvature="observed")),
        )
    close(
        estimate(optimum(kind), Jackknife("id", curvature="observed")),
        estimate(optimum(kind), Jackknife(curvature="observed")),
    )


@pytest.mark.parametrize("spec", [name for name in SPECS if name not in ORDERED])
def test_row_order_does_not_matter(spec: str) -> None:
    order = np.random.default_rng(1).permutation(N)
    moved = {name: values[order] for name, values in frame().items()}
    again = maximize(ml.models.probit("y ~ x + z", moved))
    close(estimate(again, SPECS[spec]), estimate(optimum("ready"), SPECS[spec]), 1e-9)


@pytest.mark.parametrize("spec", ["bartlett", "parzen", "qs", "prewhitened", "ewc", "panel"])
def test_order_by_restores_the_order(spec: str) -> None:
    order = np.random.default_rng(1).permutation(N)
    moved = {name: values[order] for name, values in frame().items()}
    again = maximize(ml.models.probit("y ~ x + z", moved))
    close(estimate(again, SPECS[spec]), estimate(optimum("ready"), SPECS[spec]), 1e-9)


@pytest.mark.parametrize(
    "spec",
    ["cluster", "two-way", "CR2", "CR3", "HC2", "HC3", "jackknife", "jackknife group", "driscoll-kraay"],
)
@pytest.mark.parametrize("kind", ["ready", "analytic"])
def test_frequency_weight_two_is_the_row_twice(kind: str, spec: str) -> None:
    data = frame()
    weighted = (
        optimum_of(kind, frequency_weights="w")
        if kind == "analytic"
        else maximize(ready(frequency_weights="w"))
    )
    rows = np.repeat(np.arange(N), data["w"].astype(int))
    doubled = maximize(ml.models.probit("y ~ x + z", {name: values[rows] for name, values in data.items()}))
    close(estimate(weighted, SPECS[spec]), estimate(doubled, SPECS[spec]), 1e-8)


@pytest.mark.parametrize("spec", ["bartlett", "panel", "ewc", "survey"])
def test_frequency_weights_are_refused(spec: str) -> None:
    weighted = maximize(ready(frequency_weights="w"))
    with pytest.raises(ml.MlecovError, match="frequency weights"):
        covariance(weighted, SPECS[spec])


@pytest.mark.parametrize("spec", ["cluster", "CR3", "HC2", "HC3", "jackknife", "bartlett"])
def test_constraints_are_the_smaller_model(spec: str) -> None:
    small = maximize(ml.models.probit("y ~ x", frame()))
    fixed = maximize(ready(), fixed={"mu[z]": 0.0})
    close(estimate(fixed, SPECS[spec]), estimate(small, SPECS[spec]), 1e-9)


@pytest.mark.parametrize("spec", ["HC2", "HC3", "jackknife"])
def test_two_equations_term_by_term_equal_their_blocks(spec: str) -> None:
    data = {**frame(), "v": frame()["x"] + np.random.default_rng(2).standard_normal(N)}
    found = maximize(ml.models.gaussian("v ~ z", data, sigma="x"))
    for curvature in ("observed", "expected"):
        quick = {"HC2": HC("HC2", curvature=curvature), "HC3": HC("HC3", curvature=curvature)}.get(
            spec, Jackknife(curvature=curvature)
        )
        kind = {"HC2": Cluster("id", type="CR2", curvature=curvature), "HC3": None}.get(spec)
        slow = kind or (
            Cluster("id", type="CR3", curvature=curvature)
            if spec == "HC3"
            else Jackknife("id", curvature=curvature)
        )
        # A pair of equal codes keeps the grouped path from taking the short cut of singletons.
        close(estimate(found, quick), estimate(found, slow), 1e-10)


def test_names_are_parsed_once_at_the_door() -> None:
    for name in ("HC2", "HC3", "jackknife", "ewc"):
        assert parse(name).column == name.replace("hc", "HC")
    for name in ("cluster", "hac", "conley", "survey", "CR2"):
        with pytest.raises(ml.MlecovError, match=r"needs arguments; for example cov=ml\."):
            parse(name)
    with pytest.raises(ml.MlecovError, match="is a class"):
        parse(Cluster)
