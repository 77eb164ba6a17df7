"""Stacked fits and two-step estimation, against M-estimation written out and against simulation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

import mlecov as ml
from mlecov import functions
from mlecov.covariance.requests import HAC, Cluster
from mlecov.errors import CovarianceError, DataError, SpecificationError


def frame(n: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, z, v = rng.standard_normal((3, n))
    w = 0.5 * x + z + v
    d = (0.2 + 0.8 * x - 0.5 * z + 0.5 * v + rng.standard_normal(n) > 0).astype(float)
    count = rng.poisson(np.exp(0.3 + 0.4 * x + 0.3 * v)).astype(float)
    data = pd.DataFrame({"x": x, "z": z, "w": w, "d": d, "count": count})
    data["firm"] = [f"f{i % 20}" for i in range(n)]
    data.index = [f"row{i}" for i in range(n)]
    return data


def sandwich(bread: Any, scores: Any) -> Any:
    inverse = np.linalg.inv(bread)
    return inverse @ scores.T @ scores @ inverse.T


# --- stack ---------------------------------------------------------------------------------------


def parts() -> tuple[ml.Fit, ml.Fit]:
    data = frame()
    first = ml.fit(ml.models.probit("d ~ x + z", data))
    return first, ml.fit(ml.models.poisson("count ~ x", data.iloc[50:].sample(frac=1, random_state=1)))


def test_stack_is_the_sandwich_of_scores_side_by_side() -> None:
    a, b = parts()
    both = ml.stack(a, b)
    left = pd.DataFrame(a.scores.to_dense(), index=a.likelihood.rows.labels)
    right = pd.DataFrame(b.scores.to_dense(), index=b.likelihood.rows.labels)
    scores = pd.concat([left, right], axis=1).fillna(0.0)
    bread = np.zeros((5, 5))
    bread[:3, :3], bread[3:, 3:] = a.information, b.information
    npt.assert_allclose(both.cov("robust").matrix, sandwich(bread, scores.to_numpy()), rtol=1e-10)
    npt.assert_allclose(both.cov_params().to_numpy()[:3, :3], a.cov("robust").user, rtol=1e-10)
    assert list(both.params.index[:2]) == ["probit.mu[Intercept]", "probit.mu[x]"]
    assert both.params.index[-1] == "poisson.mu[x]"
    firms = frame().loc[scores.index, "firm"]
    sums = scores.groupby(firms).sum().to_numpy()
    for group in ("firm", firms.loc[both.likelihood.rows.labels].to_numpy()):
        npt.assert_allclose(both.cov(Cluster(group, type="CR0")).matrix, sandwich(bread, sums), rtol=1e-10)


def test_stack_tests_across_equations() -> None:
    a, b = parts()
    both = ml.stack(one=a, two=b)
    v = both.cov("robust").user
    r = np.array([0.0, 1.0, 0.0, 0.0, -1.0])
    found = both.wald("one.mu[x] = two.mu[x]")
    expected = (r @ both.params.to_numpy()) ** 2 / (r @ v @ r)
    npt.assert_allclose(found.statistic, expected, rtol=1e-10)
    assert "stack of one, two" in str(both.summary())


def test_a_fit_stacked_on_itself_has_a_singular_difference() -> None:
    a, _ = parts()
    v = ml.stack(a, a).cov("robust").user
    npt.assert_allclose(v[:3, :3], v[:3, 3:], rtol=1e-12)
    assert list(ml.stack(a, a).params.index[[0, 3]]) == ["probit1.mu[Intercept]", "probit2.mu[Intercept]"]


def test_disjoint_samples_are_independent() -> None:
    data = frame()
    a = ml.fit(ml.models.poisson("count ~ x", data.iloc[:150]))
    b = ml.fit(ml.models.poisson("count ~ x", data.iloc[150:]))
    both = ml.stack(a, b)
    assert both.nobs == 300
    npt.assert_array_equal(both.cov().user[:2, 2:], 0.0)
    npt.assert_allclose(both.cov().user[2:, 2:], b.cov("robust").user, rtol=1e-12)


def test_stack_keeps_weights_and_constraints() -> None:
    data = frame()
    data["p"] = np.random.default_rng(2).uniform(0.5, 2, len(data))
    a = ml.fit(
        ml.models.poisson("count ~ x + z", data, probability_weights="p"), constraints=["mu[x] = mu[z]"]
    )
    b = ml.fit(ml.models.probit("d ~ x", data))
    both = ml.stack(a, b)
    npt.assert_allclose(both.cov().user[:3, :3], a.cov("robust").user, rtol=1e-10)
    assert both.k == 4
    f = np.arange(len(data)) % 3 + 1
    c = ml.fit(ml.models.probit("d ~ x", data, frequency_weights=f))
    e = ml.fit(ml.models.poisson("count ~ z", data, frequency_weights=f))
    long = data.loc[data.index.repeat(f)].reset_index(drop=True)
    rows = ml.stack(ml.fit(ml.models.probit("d ~ x", long)), ml.fit(ml.models.poisson("count ~ z", long)))
    npt.assert_allclose(ml.stack(c, e).cov().user, rows.cov().user, rtol=1e-8)
    with pytest.raises(CovarianceError, match="one fit has none"):
        ml.stack(c, b)


def test_stack_refuses_what_has_no_meaning() -> None:
    a, b = parts()
    both = ml.stack(a, b)
    for name in ("oim", "opg", "eim", "bw"):
        with pytest.raises(CovarianceError, match="no likelihood"):
            both.cov(name)
    assert both.compare().columns == ("robust",)
    with pytest.raises(SpecificationError, match="two fits or more"):
        ml.stack(a)
    other = ml.fit(ml.models.probit(np.tile([0.0, 1.0, 1.0], 50), np.ones((150, 1))))
    with pytest.raises(DataError, match="others none"):
        ml.stack(a, other)


# --- two steps -----------------------------------------------------------------------------------


def second_loglike(count, w, x, z, pi, mu, rho):  # type: ignore[no-untyped-def]
    """Poisson with the first regression's residual among its regressors (a control function)."""
    eta = mu + rho * (w - pi[0] - pi[1] * x - pi[2] * z)
    return count * eta - jnp.exp(eta) - functions.gammaln(count + 1)


def steps(data: pd.DataFrame, later: pd.DataFrame | None = None) -> tuple[ml.Fit, Any]:
    first = ml.fit(ml.models.gaussian("w ~ x + z", data))
    params = {"pi": ml.estimated("mu", shape=3), "mu": ml.linear("x"), "rho": 0.0}
    return first, ml.likelihood(second_loglike, data if later is None else later, params)


def written_out(data: pd.DataFrame, first: ml.Fit, fit: ml.Fit) -> tuple[Any, Any]:
    """Return bread (7, 7) and scores (n, 7) of the joint equations (pi, log sigma, mu, rho)."""
    x, z, w, y = (data[c].to_numpy() for c in ("x", "z", "w", "count"))
    ones = np.ones(len(data))
    design = np.column_stack([ones, x, z])
    sigma = first.params["sigma"]
    e = w - design @ first.params.to_numpy()[:3]
    mu, rho = fit.params[["mu[Intercept]", "mu[x]"]].to_numpy(), fit.params["rho"]
    later = np.column_stack([ones, x, e])
    mean = np.exp(later @ np.append(mu, rho))
    s1 = np.column_stack([design * (e / sigma**2)[:, None], (e / sigma) ** 2 - 1])
    s2 = later * (y - mean)[:, None]
    bread = np.zeros((7, 7))
    bread[:3, :3] = design.T @ design / sigma**2
    bread[3, 3] = 2 * (e @ e) / sigma**2
    bread[:3, 3] = bread[3, :3] = 2 * design.T @ e / sigma**2
    bread[4:, 4:] = later.T @ (later * mean[:, None])
    # -d s2 / d pi: the residual moves by -design, in the regressor and in the mean
    bread[4:, :3] = -later.T @ (design * (mean * rho)[:, None])
    bread[6, :3] += design.T @ (y - mean)
    return bread, np.hstack([s1, s2])


def test_robust_two_step_is_joint_m_estimation_written_out() -> None:
    data = frame()
    first, second = steps(data)
    fit = ml.two_step(first, second)
    bread, scores = written_out(data, first, fit)
    joint = sandwich(bread, scores)
    keep = [0, 1, 2, 4, 5, 6]
    assert list(fit.params.index) == ["pi[0]", "pi[1]", "pi[2]", "mu[Intercept]", "mu[x]", "rho"]
    npt.assert_allclose(fit.cov("robust").user, joint[np.ix_(keep, keep)], rtol=1e-8, atol=1e-12)
    sums = pd.DataFrame(scores).groupby(data["firm"].to_numpy()).sum().to_numpy()
    clustered = fit.cov(Cluster("firm", type="CR0")).user
    npt.assert_allclose(clustered, sandwich(bread, sums)[np.ix_(keep, keep)], rtol=1e-8, atol=1e-12)
    assert np.isfinite(fit.cov(HAC("bartlett", 3)).bse).all()
    assert (fit.bse[["mu[Intercept]"]] > 0).all() and fit.cov_type.startswith("Murphy-Topel")


def test_murphy_topel_is_their_formula() -> None:
    data = frame()
    first, second = steps(data)
    fit = ml.two_step(first, second)
    bread, scores = written_out(data, first, fit)
    v1, v2 = np.linalg.inv(bread[:4, :4]), np.linalg.inv(bread[4:, 4:])
    c, r = -bread[4:, :4], scores[:, 4:].T @ scores[:, :4]
    # Murphy and Topel's R has the first likelihood's scores, their C the second's slopes in theta1
    expected = v2 + v2 @ (c @ v1 @ c.T + r @ v1 @ c.T + c @ v1 @ r.T) @ v2
    npt.assert_allclose(fit.cov("murphy-topel").user[3:, 3:], expected, rtol=1e-8)
    npt.assert_allclose(fit.cov().user[:3, :3], v1[:3, :3], rtol=1e-10)
    npt.assert_allclose(fit.cov().user[3:, :3], (v2 @ (r @ v1 + c @ v1))[:, :3], rtol=1e-7, atol=1e-10)
    naive = ml.fit(second, fixed={"pi": first.params.to_numpy()[:3]})
    npt.assert_allclose(naive.params.to_numpy(), fit.params.to_numpy(), rtol=1e-8)


def test_terms_are_matched_by_label_not_by_place() -> None:
    data = frame()
    shuffled = data.sample(frac=1, random_state=3)
    one, two = ml.two_step(*steps(data)), ml.two_step(*steps(data, shuffled))
    npt.assert_allclose(two.cov("robust").user, one.cov("robust").user, rtol=1e-9)
    npt.assert_allclose(two.cov().user, one.cov().user, rtol=1e-9)
    part = ml.two_step(*steps(data, data.iloc[100:]))  # a second step on some of the rows
    assert part.nobs == 300 and np.isfinite(part.bse).all()


def test_constraints_of_the_second_step_hold() -> None:
    data = frame()
    first, second = steps(data)
    fit = ml.two_step(first, second, constraints=["mu[x] = rho"])
    npt.assert_allclose(fit.params["mu[x]"], fit.params["rho"], rtol=1e-12)
    v = fit.cov("robust").user
    npt.assert_allclose(v[4, 4], v[5, 5], rtol=1e-10)
    assert "mu[x] = rho" in str(fit.summary()) and "pi =" not in str(fit.summary())


def test_two_step_refuses_what_does_not_fit() -> None:
    data = frame()
    first, second = steps(data)
    with pytest.raises(CovarianceError, match="known numbers"):
        ml.two_step(first, second).cov("oim")
    with pytest.raises(SpecificationError, match="takes nothing from the first"):
        ml.two_step(first, ml.models.poisson("count ~ x", data))
    wrong = {"pi": ml.estimated("beta", shape=3), "mu": ml.linear("x"), "rho": 0.0}
    with pytest.raises(SpecificationError, match="no parameter 'beta'"):
        ml.two_step(first, ml.likelihood(second_loglike, data, wrong))
    with pytest.raises(CovarianceError, match="two_step"):
        first.cov("murphy-topel")


@pytest.mark.slow
def test_two_step_covers_where_the_naive_covariance_does_not() -> None:
    rng = np.random.default_rng(7)
    hits = np.zeros((3, 2))
    runs, n = 150, 400
    for _ in range(runs):
        x, z, v = rng.standard_normal((3, n))
        w = 0.5 * x + 0.5 * z + v
        eta = 0.2 + 0.3 * x + 0.6 * v
        data = pd.DataFrame({"x": x, "z": z, "w": w, "count": rng.poisson(np.exp(eta)).astype(float)})
        first, second = steps(data)
        fit = ml.two_step(first, second)
        naive = ml.fit(second, fixed={"pi": first.params.to_numpy()[:3]})
        truth = pd.Series({"mu[x]": 0.3, "mu[Intercept]": 0.2})
        for row, table in enumerate(
            (fit.conf_int(), fit.conf_int(cov="robust"), naive.conf_int(cov="robust"))
        ):
            inside = (table[0] < truth.reindex(table.index)) & (truth.reindex(table.index) < table[1])
            hits[row] += inside[truth.index].to_numpy()
    cover = hits / runs
    assert (np.abs(cover[:2] - 0.95) < 0.05).all() and (cover[2] < cover[:2].min(axis=0)).all()
