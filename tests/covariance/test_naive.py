"""The estimators against naive loops over dense scores, written here."""

from __future__ import annotations

import warnings
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm

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
)
from mlecov.optimize import maximize
from tests.covariance.kinds import N, close, estimate, frame, ready


@cache
def fitted(weights: str | None = None) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the optimum, its weighted scores (n, k) and the inverse observed information."""
    found = maximize(ready(**({} if weights is None else {f"{weights}_weights": "w"})))
    scores = found.evaluation.scores.to_dense()
    w = np.ones(N) if found.likelihood.weights is None else found.likelihood.weights.values
    return found, scores * w[:, None], np.linalg.inv(-found.evaluation.hessian)


def group_sums(s: np.ndarray, ids: Any) -> np.ndarray:
    return np.array([s[[i for i in range(N) if ids[i] == g]].sum(axis=0) for g in dict.fromkeys(ids)])


@pytest.mark.parametrize("weights", [None, "probability", "analytic"])
@pytest.mark.parametrize("ways", [("firm",), ("firm", "year"), ("firm", "year", "odd")])
def test_multiway_clusters(ways: tuple[str, ...], weights: str | None) -> None:
    data = {**frame(), "odd": np.where(frame()["t"] % 3 == 0, "a", np.where(frame()["east"] > 5, "b", "c"))}
    found, s, bread = fitted(weights)
    meat = np.zeros((3, 3))
    for size in range(1, len(ways) + 1):
        for subset in combinations(ways, size):
            t = group_sums(s, list(zip(*(data[name] for name in subset), strict=True)))
            meat += (-1) ** (size + 1) * len(t) / (len(t) - 1) * t.T @ t
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ml.MlecovWarning)
        spec = Cluster(*(data[name] for name in ways))
        close(estimate(found, spec), bread @ meat @ bread)


def test_factors_of_the_systems() -> None:
    found, _, _ = fitted()
    base = estimate(found, Cluster("firm", small_sample="none"))
    for convention, factor in {
        "default": 24 / 23,
        "stata": 24 / 23,
        "sandwich": 24 / 23,
        "statsmodels": 24 / 23 * 119 / 117,
        "fixest": 24 / 23 * 119 / 117,
    }.items():
        got = covariance(found, Cluster("firm", small_sample=convention))
        close(got.matrix, factor * base, 1e-14)
        assert got.factor == pytest.approx(factor, rel=1e-15)
    close(estimate(found, Cluster("firm", small_sample="statsmodels", k=1)), 24 / 23 * base, 1e-14)
    with pytest.raises(ml.MlecovError, match="type='CR1'"):
        covariance(found, Cluster("firm", type="CR0", small_sample="stata"))
    with pytest.raises(ml.MlecovError, match="defines no CR2"):
        covariance(found, Cluster("firm", type="CR2", small_sample="fixest"))


def test_smallest_groups_scale_every_term_under_fixest() -> None:
    found, s, bread = fitted()
    data = frame()
    meat = sum(
        sign * t.T @ t
        for sign, ids in (
            (1, data["firm"]),
            (1, data["year"]),
            (-1, list(zip(data["firm"], data["year"], strict=True))),
        )
        for t in [group_sums(s, ids)]
    )
    close(
        estimate(found, Cluster("firm", "year", small_sample="fixest")),
        12 / 11 * 119 / 117 * bread @ meat @ bread,
    )


@pytest.mark.parametrize("kind", ["observed", "expected"])
@pytest.mark.parametrize("name", ["CR2", "CR3"])
def test_leverage_by_group(name: str, kind: Any) -> None:
    found, s, bread = fitted()
    second = found.likelihood.second_derivatives(found.theta, kind)[0]
    X = frame()["X"]
    total = -X.T @ (X * second[:, None])
    meat = np.zeros((3, 3))
    for g in range(24):
        rows = frame()["firm"] == g
        own = -X[rows].T @ (X[rows] * second[rows, None])
        adjust = np.linalg.inv(np.eye(3) - own @ np.linalg.inv(total))
        adjust = adjust if name == "CR3" else np.real(sqrtm(adjust))
        t = adjust @ s[rows].sum(axis=0)
        meat += np.outer(t, t)
    close(estimate(found, Cluster("firm", type=name, curvature=kind)), bread @ meat @ bread)


def test_satterthwaite_equals_bell_and_mccaffrey_in_full() -> None:
    rng = np.random.default_rng(3)
    firm = np.repeat(np.arange(9), [3, 4, 5, 6, 7, 8, 9, 10, 11])
    n = len(firm)
    X = np.column_stack([np.ones(n), rng.standard_normal(n), (firm % 3 == 0) * 1.0])
    y = X @ [1, 2, 3] + rng.standard_normal(n)
    found = maximize(ml.models.gaussian(y, X))
    for kind in ("CR1", "CR2", "CR3"):
        got = covariance(found, Cluster(firm, type=kind, df="satterthwaite")).df
        inverse = np.linalg.inv(X.T @ X)
        residual = np.eye(n) - X @ inverse @ X.T
        columns: list[np.ndarray] = []
        for g in range(9):
            rows = firm == g
            block = residual[np.ix_(rows, rows)]
            a = {
                "CR1": np.eye(rows.sum()),
                "CR2": np.linalg.inv(np.real(sqrtm(block))),
                "CR3": np.linalg.inv(block),
            }[kind]
            columns.append(residual[:, rows] @ a @ X[rows] @ inverse)
        for j in range(3):
            p = np.array([c[:, j] for c in columns]).T
            values = np.linalg.eigvalsh(p.T @ p)
            assert got[j] == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-10)


def kernel(name: str, x: float) -> float:
    if name == "quadratic-spectral":
        z = 6 * np.pi * x / 5
        return 1.0 if x == 0 else 3 / z**2 * (np.sin(z) / z - np.cos(z))
    if x > 1:
        return 0.0
    if name == "parzen":
        return 1 - 6 * x**2 + 6 * x**3 if x <= 0.5 else 2 * (1 - x) ** 3
    return {"bartlett": 1 - x, "tukey-hanning": (1 + np.cos(np.pi * x)) / 2, "truncated": 1.0}[name]


def loop(
    s: np.ndarray, name: str, bandwidth: float, same: Any = lambda i, j: True, time: Any = None
) -> np.ndarray:
    time = np.arange(len(s)) if time is None else time
    meat = np.zeros((s.shape[1], s.shape[1]))
    for i in range(len(s)):
        for j in range(len(s)):
            if same(i, j):
                meat += kernel(name, abs(time[i] - time[j]) / bandwidth) * np.outer(s[i], s[j])
    return meat


@pytest.mark.parametrize("bandwidth", [1.5, 5.0, 6.7])
@pytest.mark.parametrize("name", ["bartlett", "parzen", "quadratic-spectral", "tukey-hanning", "truncated"])
def test_kernels(name: str, bandwidth: float) -> None:
    found, s, bread = fitted("analytic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ml.MlecovWarning)
        got = estimate(found, HAC(name, bandwidth=bandwidth, order_by="t"))
    close(got, bread @ loop(s[np.argsort(frame()["t"])], name, bandwidth) @ bread)


def test_lags_and_bandwidth_say_the_same() -> None:
    found, _, _ = fitted()
    close(estimate(found, HAC("bartlett", lags=4)), estimate(found, HAC("bartlett", bandwidth=5)), 1e-15)
    with pytest.raises(ml.MlecovError, match="either bandwidth= or lags="):
        HAC("bartlett", bandwidth=5, lags=4)


def test_panel_pairs_terms_within_groups_alone() -> None:
    found, s, bread = fitted()
    data = frame()
    order = np.lexsort((data["t"], data["firm"]))
    rank = np.empty(N)
    rank[order] = np.arange(N)
    meat = loop(s, "bartlett", 3.0, lambda i, j: data["firm"][i] == data["firm"][j], rank)
    close(estimate(found, HAC(lags=2, order_by="t", group="firm", gaps="ignore")), bread @ meat @ bread)
    meat = loop(s, "parzen", 9.0, lambda i, j: data["firm"][i] == data["firm"][j], data["t"])
    got = estimate(found, HAC("parzen", bandwidth=9, order_by="t", group="firm", gaps="time"))
    close(got, bread @ meat @ bread)


def test_gaps_are_refused_ignored_or_counted() -> None:
    found, s, bread = fitted()
    time = np.arange(N) + 3 * (np.arange(N) > 50)
    with pytest.raises(ml.MlecovError, match=r"1 gap\(s\) in 'order_by', first between .*50.* and .*54"):
        covariance(found, HAC(lags=5, order_by=time))
    close(estimate(found, HAC(lags=5, order_by=time, gaps="ignore")), estimate(found, HAC(lags=5)))
    got = covariance(found, HAC(lags=5, order_by=time, gaps="time"))
    close(got.matrix, bread @ loop(s, "bartlett", 6.0, time=time) @ bread)
    assert "3 missing period(s) as zeros" in got.label
    months = np.datetime64("2001-01") + np.arange(N).astype("timedelta64[M]")
    for dates in (months.astype("datetime64[ns]"), (months + 1).astype("datetime64[D]") - 1):
        close(estimate(found, HAC(lags=5, order_by=dates)), estimate(found, HAC(lags=5)))
    with pytest.raises(ml.MlecovError, match="occur twice"):
        covariance(found, HAC(lags=5, order_by="year"))
    with pytest.raises(ml.MlecovError, match="text has no distances"):
        covariance(found, HAC(lags=5, order_by=np.array([f"q{i}" for i in range(N)])))


def test_prewhitening_recolours() -> None:
    found, s, bread = fitted()
    a = np.linalg.lstsq(s[:-1], s[1:], rcond=None)[0].T
    r = s[1:] - s[:-1] @ a.T
    d = np.linalg.inv(np.eye(3) - a)
    close(
        estimate(found, HAC("parzen", bandwidth=4, prewhiten=1)),
        bread @ d @ loop(r, "parzen", 4.0) @ d.T @ bread,
    )


def test_newey_west_and_andrews_bandwidths() -> None:
    found, s, _ = fitted()
    h = s[:, 1] + s[:, 2]
    sigma = [h[j:] @ h[: N - j] for j in range(int(4 * (N / 100) ** (2 / 9)) + 1)]
    s0, s1 = sigma[0] + 2 * sum(sigma[1:]), 2 * sum(j * v for j, v in enumerate(sigma))
    expected = np.floor(1.1447 * ((s1 / s0) ** 2 * N) ** (1 / 3)) + 1
    assert covariance(found, HAC(bandwidth="newey-west")).details["bandwidth"] == expected
    top = bottom = 0.0
    for column in s.T:
        now, past = column[1:] - column[1:].mean(), column[:-1] - column[:-1].mean()
        rho = past @ now / (past @ past)
        v = np.mean((now - rho * past) ** 2)
        top += 4 * rho**2 * v**2 / (1 - rho) ** 8
        bottom += v**2 / (1 - rho) ** 4
    expected = 1.3221 * (N * top / bottom) ** 0.2
    got = covariance(found, HAC("quadratic-spectral", bandwidth="andrews")).details["bandwidth"]
    assert got == pytest.approx(expected, rel=1e-12)


def test_cosines() -> None:
    found, s, bread = fitted()
    t = np.arange(1, N + 1)
    waves = np.array([np.sqrt(2) * np.cos(np.pi * j * (t - 0.5) / N) @ s for j in range(1, 9)])
    got = covariance(found, EWC(nu=8))
    close(got.matrix, bread @ (waves.T @ waves / 8) @ bread)
    assert got.df == 8


def test_driscoll_kraay() -> None:
    found, s, bread = fitted("probability")
    year = frame()["year"]
    sums = np.array([s[year == y].sum(axis=0) for y in range(12)])
    close(estimate(found, DriscollKraay("year", lags=3)), bread @ loop(sums, "bartlett", 4.0) @ bread)


@pytest.mark.parametrize("shape", ["uniform", "bartlett"])
def test_conley(shape: str) -> None:
    found, s, bread = fitted("probability")
    rng = np.random.default_rng(4)
    lat, lon = rng.uniform(45, 48, N), rng.uniform(-3, 3, N)
    lat[:9], lon[:9] = lat[9:18], lon[9:18]
    a, b = np.radians(lat), np.radians(lon)
    half = (
        np.sin((a[:, None] - a) / 2) ** 2 + np.cos(a[:, None]) * np.cos(a) * np.sin((b[:, None] - b) / 2) ** 2
    )
    distance = 2 * 6371.0088 * np.arcsin(np.sqrt(half))
    weight = (distance <= 60) * 1.0 if shape == "uniform" else np.maximum(1 - distance / 60, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ml.MlecovWarning)
        got = estimate(found, Conley(lat, lon, cutoff=60, kernel=shape))
    close(got, bread @ s.T @ weight @ s @ bread)
    with pytest.raises(ml.MlecovError, match="latitude is"):
        covariance(found, Conley(lat + 100, lon, cutoff=60))


def stratified(s: np.ndarray, strata: Any, psu: Any, rate: dict[Any, float], lonely: str) -> np.ndarray:
    pairs = list(dict.fromkeys(zip(strata, psu, strict=True)))
    sums = {p: sum(s[i] for i in range(N) if (strata[i], psu[i]) == p) for p in pairs}
    grand = sum(sums.values()) / len(sums)
    meat, single, regular = np.zeros((3, 3)), 0, 0
    for h in dict.fromkeys(strata):
        z = np.array([sums[p] for p in pairs if p[0] == h])
        if len(z) == 1:
            single += 1
            if lonely == "adjust":
                meat += (1 - rate[h]) * np.outer(z[0] - grand, z[0] - grand)
            continue
        regular += 1
        centred = z - z.mean(axis=0)
        meat += (1 - rate[h]) * len(z) / (len(z) - 1) * centred.T @ centred
    return meat * ((single + regular) / regular if lonely == "average" else 1)


@pytest.mark.parametrize("lonely", ["adjust", "certainty", "average"])
def test_survey(lonely: str) -> None:
    found, s, bread = fitted("probability")
    data = frame()
    strata, psu = np.where(data["firm"] == 3, 9, data["firm"] // 5), data["firm"]
    population = np.where(strata == 9, 4, 20 + 5 * strata).astype(float)
    count = {h: len(set(psu[strata == h])) for h in set(strata)}
    rate = {h: count[h] / (4 if h == 9 else 20 + 5 * h) for h in set(strata)}
    spec = Survey(strata=strata, psu=psu, fpc=population, lonely=lonely)
    got = covariance(found, spec)
    close(got.matrix, bread @ stratified(s, strata, psu, rate, lonely) @ bread)
    assert got.df == 24 - len(count)
    with pytest.raises(ml.MlecovError, match=r"stratum 9 has one PSU"):
        covariance(found, Survey(strata=strata, psu=psu))
    with pytest.raises(ml.MlecovError, match="varies within"):
        covariance(found, Survey(strata=strata, psu=psu, fpc=psu + 1.0, lonely=lonely))


def test_survey_without_strata_is_cluster() -> None:
    found, _, _ = fitted("probability")
    close(estimate(found, Survey(psu="firm")), estimate(found, Cluster("firm")))
    close(estimate(found, Survey(fpc=0.25)), 0.75 * N / (N - 1) * estimate(found, "robust"))


def test_exact_jackknife_refits() -> None:
    found, _, _ = fitted("probability")
    data = frame()
    thetas = []
    for g in range(24):
        kept = data["firm"] != g
        part = {name: values[kept] for name, values in data.items()}
        thetas.append(maximize(ml.models.probit("y ~ x + z", part, probability_weights="w")).theta)
    centred = np.array(thetas) - np.mean(thetas, axis=0)
    close(estimate(found, Jackknife("firm", exact=True)), 23 / 24 * centred.T @ centred, 1e-7)
    linear = np.sqrt(np.diag(estimate(found, Jackknife("firm", curvature="observed"))))
    assert np.abs(linear / np.sqrt(np.diag(estimate(found, Jackknife("firm", exact=True)))) - 1).max() < 0.1


def test_labels_say_what_was_computed() -> None:
    found, _, _ = fitted()
    assert covariance(found, Cluster("firm")).label == (
        "clustered by firm (24 groups), CR1, factor G/(G-1), observed information as bread"
    )
    assert "t(11)" in covariance(found, Cluster("firm", "year", df="t")).label
    assert "leverage by expected curvature" in covariance(found, HC("HC3")).label
    assert "bandwidth 5 (4 lags)" in covariance(found, HAC(lags=4)).label
