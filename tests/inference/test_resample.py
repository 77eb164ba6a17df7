"""Bootstraps: each against the loop it stands for; intervals and tests against their formulas."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest

import mlecov as ml
from mlecov.covariance import covariance, parse
from mlecov.covariance.requests import Cluster
from mlecov.errors import (
    CovarianceError,
    CovarianceWarning,
    EvaluationError,
    InferenceError,
    SeparabilityError,
)
from mlecov.inference.resample import bootstrap
from mlecov.inference.resample_intervals import acceleration, resampled_intervals
from mlecov.inference.resample_weights import all_signs, draw_weights, generator, multipliers
from mlecov.inference.wild_score import wild_score_test
from mlecov.optimize import maximize

N, G = 150, 10


def data(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(N)
    firm = np.array([f"f{i % G}" for i in range(N)])
    shock = rng.standard_normal(G)[np.arange(N) % G]
    return {
        "x": x,
        "firm": firm,
        "y": (0.3 + 0.7 * x + 0.5 * shock + rng.logistic(size=N) > 0).astype(float),
        "z": 1 + 0.5 * x + 0.5 * shock + rng.standard_normal(N),
        "f": rng.integers(1, 4, N),
    }


def logit(**options: Any) -> Any:
    return maximize(ml.models.logit("y ~ x", data(), **options))


def gaussian() -> Any:
    return maximize(ml.models.gaussian("z ~ x", data()))


KINDS = [
    ml.Bootstrap("pairs", reps=19, seed=3),
    ml.Bootstrap("cluster", reps=19, seed=3, group="firm"),
    ml.Bootstrap("block", reps=19, seed=3, block_length=7),
    ml.Bootstrap("stationary", reps=19, seed=3, block_length=7),
    ml.Bootstrap("bayesian", reps=19, seed=3),
    ml.Bootstrap("bayesian", reps=19, seed=3, group="firm"),
    ml.Bootstrap("parametric", reps=19, seed=3),
    ml.Bootstrap("score", reps=19, seed=3, weights="webb"),
    ml.Bootstrap("score", reps=19, seed=3, group="firm", weights="mammen"),
]


@pytest.mark.parametrize("spec", KINDS, ids=lambda s: s.column)
def test_seeds_reproduce_to_the_bit_and_the_covariance_is_that_of_the_replicates(spec: ml.Bootstrap) -> None:
    optimum = gaussian()
    first, second = bootstrap(optimum, spec), bootstrap(optimum, spec)
    other = bootstrap(optimum, replace(spec, seed=4))
    assert (first.details["thetas"] == second.details["thetas"]).all()
    assert (first.details["thetas"] != other.details["thetas"]).any()
    replicates = first.details["replicates"]
    assert replicates.shape == (19, 3) and (replicates[:, 2] > 0).all()
    npt.assert_allclose(first.user, np.cov(replicates.T), rtol=1e-12)
    npt.assert_allclose(first.matrix, np.cov(first.details["thetas"].T), rtol=1e-12)
    npt.assert_allclose(replicates[:, 2], np.exp(first.details["thetas"][:, 2]), rtol=1e-14)
    assert first.factor == 1 / 18 and "19 replications, seed 3" in first.label


def refit(rows: Any) -> Any:
    return maximize(ml.models.gaussian("z ~ x", {k: v[rows] for k, v in data().items()})).theta


def test_pairs_replicates_are_fits_of_the_rows_drawn() -> None:
    optimum = gaussian()
    found = bootstrap(optimum, ml.Bootstrap(reps=5, seed=8)).details["thetas"]
    index = generator(8).integers(N, size=(5, N))
    for r in range(5):
        npt.assert_allclose(found[r], refit(index[r]), atol=1e-9)


def test_cluster_replicates_are_fits_of_the_groups_drawn() -> None:
    optimum = gaussian()
    found = bootstrap(optimum, ml.Bootstrap("cluster", reps=5, seed=8, group="firm")).details["thetas"]
    groups = generator(8).integers(G, size=(5, G))
    for r in range(5):
        rows = np.concatenate([np.flatnonzero(np.arange(N) % G == g) for g in groups[r]])
        npt.assert_allclose(found[r], refit(rows), atol=1e-9)


def test_moving_blocks_are_fits_of_the_blocks_drawn() -> None:
    optimum = gaussian()
    found = bootstrap(optimum, ml.Bootstrap("block", reps=4, seed=8, block_length=7)).details["thetas"]
    starts = generator(8).integers(N - 7 + 1, size=(4, 22))
    for r in range(4):
        rows = np.concatenate([np.arange(s, s + 7) for s in starts[r]])[:N]
        npt.assert_allclose(found[r], refit(rows), atol=1e-9)


def test_stationary_blocks_have_the_asked_mean_length_and_wrap() -> None:
    spec = ml.Bootstrap("stationary", block_length=5)
    counts = draw_weights(spec, np.random.default_rng(0), 400, 50, None, None)
    npt.assert_allclose(counts.sum(axis=1), 50)
    # neighbours on the circle are drawn together with probability 1 - 1/5
    together = np.mean([np.minimum(c, np.roll(c, 1)).sum() / 50 for c in counts])
    assert 0.8 < together < 0.9
    npt.assert_allclose(counts.mean(axis=0), 1, atol=0.25)


def test_frequency_weights_stand_for_rows() -> None:
    weights = ml.models.logit("y ~ x", data(), frequency_weights="f").weights
    drawn = draw_weights(ml.Bootstrap(), np.random.default_rng(0), 2000, N, None, weights)
    npt.assert_allclose((drawn * weights.values).sum(axis=1), weights.values.sum())
    npt.assert_allclose((drawn * weights.values).var(axis=0).mean(), weights.values.mean(), rtol=0.02)
    scores = bootstrap(logit(frequency_weights="f"), ml.Bootstrap("score", reps=4000))
    npt.assert_allclose(scores.bse, covariance(logit(frequency_weights="f"), parse("robust")).bse, rtol=0.05)


@pytest.mark.parametrize("name, values", [("rademacher", 2), ("webb", 6), ("mammen", 2), ("normal", None)])
def test_multipliers_have_mean_zero_and_variance_one(name: str, values: int | None) -> None:
    drawn = multipliers(name, np.random.default_rng(0), (1000, 400)).ravel()
    npt.assert_allclose([drawn.mean(), (drawn**2).mean()], [0, 1], atol=0.01)
    if values:
        assert len(np.unique(drawn)) == values
    if name == "mammen":
        npt.assert_allclose((drawn**3).mean(), 1, atol=0.02)


def test_score_replicates_are_multiplied_scores() -> None:
    optimum = gaussian()
    found = bootstrap(optimum, ml.Bootstrap("score", reps=7, seed=2, group="firm")).details["thetas"]
    v = multipliers("rademacher", generator(2), (7, G))
    dense = optimum.evaluation.scores.to_dense()
    sums = np.array([dense[np.arange(N) % G == g].sum(axis=0) for g in range(G)])
    bread = np.linalg.inv(optimum.evaluation.information)
    npt.assert_allclose(found, optimum.theta + v @ sums @ bread, atol=1e-13)
    # over all sign vectors the covariance is the clustered sandwich exactly
    every = all_signs(G) @ sums @ bread
    cr0 = covariance(optimum, Cluster("firm", type="CR0")).matrix
    npt.assert_allclose(every.T @ every / len(every), cr0, rtol=1e-10)


def test_parametric_bootstrap_agrees_with_the_information() -> None:
    optimum = gaussian()
    found = bootstrap(optimum, ml.Bootstrap("parametric", reps=1500))
    npt.assert_allclose(found.bse, covariance(optimum, parse("oim")).bse, rtol=0.06)


def separated() -> Any:
    x = np.linspace(-1, 1, 30)
    y = (x > 0).astype(float)
    y[[2, 10, 27]] = 1 - y[[2, 10, 27]]
    return maximize(ml.models.logit(y, np.column_stack([np.ones(30), x])))


def test_failures_are_counted_and_too_many_are_an_error() -> None:
    optimum = separated()
    with pytest.warns(CovarianceWarning, match="keeps rising"):
        found = bootstrap(optimum, ml.Bootstrap(reps=200, max_failures=0.9))
    failed = sum(found.details["failed"].values())
    assert failed >= 2 and len(found.details["thetas"]) == 200 - failed
    assert f"200 replications, {failed} of them failed" in found.label
    with pytest.raises(EvaluationError, match="keeps rising"):
        bootstrap(optimum, ml.Bootstrap(reps=200, max_failures=0.001))


def ar1(z, c, rho, sigma):  # type: ignore[no-untyped-def]
    e = (z[1:] - c - rho * z[:-1]) / sigma
    return -0.5 * e**2 - 1.0 * _log(sigma)


def _log(value):  # type: ignore[no-untyped-def]
    import jax.numpy as jnp

    return jnp.log(value)


def test_dependent_terms_are_drawn_in_blocks_only() -> None:
    likelihood = ml.likelihood(
        ar1, {"z": data()["z"]}, {"c": 0.0, "rho": 0.0, "sigma": ml.positive()}, drop_first=1
    )
    optimum = maximize(likelihood)
    with pytest.raises(SeparabilityError, match="stationary"):
        bootstrap(optimum, ml.Bootstrap())
    assert np.isfinite(bootstrap(optimum, ml.Bootstrap("block", reps=5)).bse).all()


# --- intervals -----------------------------------------------------------------------------------


def test_percentile_and_basic_intervals() -> None:
    optimum = gaussian()
    found = bootstrap(optimum, ml.Bootstrap(reps=99, seed=1))
    ordered = np.sort(found.details["replicates"], axis=0)
    lower, upper = resampled_intervals(optimum, found, "percentile", 0.1)
    npt.assert_allclose(lower, ordered[4], rtol=1e-12)  # the (R+1) 0.05 = 5th of 99
    npt.assert_allclose(upper, ordered[94], rtol=1e-12)
    lower, upper = resampled_intervals(optimum, found, "basic", 0.1)
    estimates = optimum.likelihood.space.report(optimum.theta)
    npt.assert_allclose(lower[:2], 2 * estimates[:2] - ordered[94, :2], rtol=1e-12)
    npt.assert_allclose(upper[:2], 2 * estimates[:2] - ordered[4, :2], rtol=1e-12)
    npt.assert_allclose([lower[2], upper[2]], estimates[2] ** 2 / ordered[[94, 4], 2], rtol=1e-12)


def test_bca_moves_the_levels() -> None:
    from scipy.stats import norm

    optimum = gaussian()
    found = bootstrap(optimum, ml.Bootstrap(reps=199, seed=1))
    replicates, estimates = found.details["replicates"], optimum.likelihood.space.report(optimum.theta)
    dense = optimum.evaluation.scores.to_dense()
    jacobian = optimum.likelihood.space.jacobian(optimum.theta)
    u = dense @ np.linalg.inv(optimum.evaluation.information) @ jacobian.T
    a = (u**3).sum(0) / (6 * (u**2).sum(0) ** 1.5)
    npt.assert_allclose(acceleration(optimum, found), a, rtol=1e-10)
    lower, upper = resampled_intervals(optimum, found, "bca", 0.1)
    for j in range(3):
        z0 = norm.ppf((replicates[:, j] < estimates[j]).mean())
        levels = [norm.cdf(z0 + (z0 + z) / (1 - a[j] * (z0 + z))) for z in norm.ppf([0.05, 0.95])]
        ends = np.quantile(replicates[:, j], levels, method="weibull")
        npt.assert_allclose([lower[j], upper[j]], ends, rtol=1e-10)


@pytest.mark.parametrize("group", [None, "firm"])
def test_bootstrap_t_studentizes_each_replicate(group: str | None) -> None:
    optimum = gaussian()
    spec = ml.Bootstrap(reps=9, seed=1, group=group, studentize=True)
    found = bootstrap(optimum, spec)
    rng = generator(1)
    draws = rng.integers(N if group is None else G, size=(9, N if group is None else G))
    codes = np.arange(N) % G
    for r in range(3):
        rows = draws[r] if group is None else np.concatenate([np.flatnonzero(codes == g) for g in draws[r]])
        other = maximize(ml.models.gaussian("z ~ x", {k: v[rows] for k, v in data().items()}))
        ids = np.repeat(np.arange(G), N // G)
        spec_r = parse("robust") if group is None else Cluster(ids, type="CR0")
        npt.assert_allclose(found.details["std_errors"][r], covariance(other, spec_r).bse, rtol=1e-7)
    lower, upper = resampled_intervals(optimum, found, "t", 0.2)
    own = covariance(optimum, parse("robust") if group is None else Cluster(codes, type="CR0")).bse
    estimates = optimum.likelihood.space.report(optimum.theta)
    t = np.sort((found.details["replicates"] - estimates) / found.details["std_errors"], axis=0)
    npt.assert_allclose(lower[:2], (estimates - own * t[8])[:2], rtol=1e-10)
    npt.assert_allclose(upper[:2], (estimates - own * t[0])[:2], rtol=1e-10)
    assert 0 < lower[2] < estimates[2] < upper[2]


def test_requests_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"kind": "jackknive"},
        {"kind": "cluster"},
        {"reps": 1},
        {"seed": -1},
        {"block_length": 3},
        {"kind": "block", "group": "firm"},
        {"kind": "score", "studentize": True},
        {"weights": "gamma"},
    ):
        with pytest.raises(CovarianceError):
            ml.Bootstrap(**wrong)
    optimum = gaussian()
    with pytest.raises(InferenceError, match="needs replicates"):
        resampled_intervals(optimum, covariance(optimum, parse("oim")), "percentile")
    with pytest.raises(InferenceError, match="studentize=True"):
        resampled_intervals(optimum, bootstrap(optimum, ml.Bootstrap(reps=9)), "t")
    with pytest.raises(InferenceError, match="is not known"):
        resampled_intervals(optimum, bootstrap(optimum, ml.Bootstrap(reps=9)), "bc")
    with pytest.raises(CovarianceError, match=r"1 group\(s\)"):
        bootstrap(optimum, ml.Bootstrap(group=np.ones(N)))


def test_a_fit_takes_a_bootstrap_wherever_it_takes_a_name() -> None:
    fit = ml.fit(ml.models.gaussian("z ~ x", data()))
    spec = ml.Bootstrap("cluster", group="firm", reps=49)
    assert "cluster bootstrap of 10 groups in firm, 49" in str(fit.summary(cov=spec))
    assert "bootstrap (firm)" in str(fit.compare(["oim", "robust", spec, ml.Bootstrap("score", reps=49)]))
    found = fit.conf_int(cov=spec, kind="percentile")
    npt.assert_allclose(found.to_numpy().T, resampled_intervals(fit.optimum, fit.cov(spec), "percentile"))
    assert np.isfinite(fit.conf_int(cov=ml.Bootstrap(reps=49), kind="t").to_numpy()).all()
    npt.assert_array_equal(fit.bootstrap(reps=29).user, fit.cov(ml.Bootstrap(reps=29)).user)
    assert (fit.cov(ml.Bootstrap(reps=29, seed=1)).user != fit.cov(ml.Bootstrap(reps=29, seed=2)).user).any()


# --- wild score bootstrap ------------------------------------------------------------------------


def naive_wild(optimum: Any, null: Any, row: Any, codes: Any, v: Any) -> Any:
    """Return T(v) as Kline and Santos (2012) write it, one draw after another."""
    base = optimum.likelihood
    found = base.evaluate(null.likelihood.full(null.theta), order=2, scores=True)
    s = found.scores.to_dense() @ np.linalg.inv(found.information) @ row.T
    out = []
    for draw in v:
        star = s * draw[codes][:, None]
        centred = star - s.T @ draw[codes] / len(s)
        sums = np.array([centred[codes == g].sum(axis=0) for g in np.unique(codes)])
        total = star.sum(axis=0)
        out.append(total @ np.linalg.solve(sums.T @ sums, total))
    return np.array(out)


@pytest.mark.parametrize("hypothesis, q", [("mu[x] = 0.3", 1), ("mu[x] = 0.3, mu[Intercept] = 0", 2)])
def test_wild_score_statistics_equal_the_loop(hypothesis: str, q: int) -> None:
    optimum = gaussian()
    codes = np.arange(N) % G
    row = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])[:q]
    parts = [text.strip() for text in hypothesis.split(",")]
    null = maximize(optimum.likelihood, constraints=parts)
    every = np.array(list(itertools.product([1.0, -1.0], repeat=G)))
    found = wild_score_test(optimum, hypothesis, group="firm", reps=1024)
    assert found.enumerated and found.reps == 1024 and found.groups == G
    expected = naive_wild(optimum, null, row, codes, every)
    npt.assert_allclose(found.statistic, expected[0], rtol=1e-7)
    npt.assert_allclose(np.sort(found.distribution), np.sort(expected), rtol=1e-6)
    beyond = (expected > expected[0] * (1 + 1e-7)).mean()
    npt.assert_allclose(found.pvalue, beyond, atol=1e-12)
    drawn = wild_score_test(optimum, hypothesis, group="firm", reps=400, weights="webb", seed=5)
    v = multipliers("webb", generator(5), (400, G))
    npt.assert_allclose(drawn.distribution, naive_wild(optimum, null, row, codes, v), rtol=1e-6)
    assert "Wild score bootstrap test" in str(drawn) and "webb, 400 draws, seed 5" in str(drawn)


def test_wild_score_test_needs_groups() -> None:
    optimum = gaussian()
    with pytest.raises(InferenceError, match="can not test"):
        wild_score_test(optimum, "mu[x] = 0, mu[Intercept] = 0", group=np.arange(N) % 2)
    assert 0 < wild_score_test(optimum, "mu[x] = 0.4", reps=199).pvalue < 1


@pytest.mark.slow
def test_cluster_resampling_covers_nearer_to_nominal_than_cr0() -> None:
    """Ten clusters with a common shock: CR0 covers too seldom; bootstrap-t and the wild test do better."""
    rng = np.random.default_rng(11)
    hits = np.zeros(2)
    runs = 200
    codes = np.repeat(np.arange(G), 20)
    for _ in range(runs):
        x = rng.standard_normal(G)[codes] + 0.5 * rng.standard_normal(200)
        y = 1 + 0.5 * x + rng.standard_normal(G)[codes] + rng.standard_normal(200)
        fit = ml.fit(ml.models.gaussian(y, np.column_stack([np.ones(200), x])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            interval = fit.conf_int(cov=Cluster(codes, type="CR0")).loc["mu[x1]"]
            p = fit.wild_score_test("mu[x1] = 0.5", group=codes, reps=1024).pvalue
        hits += [interval[0] < 0.5 < interval[1], p > 0.05]
    cr0, wild = hits / runs
    assert abs(wild - 0.95) < abs(cr0 - 0.95) and cr0 < 0.93
