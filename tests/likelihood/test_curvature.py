"""Curvature blocks and subsets: groups add up to the whole, for every kind of likelihood."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.scipy.stats import norm

import mlecov as ml
from mlecov.likelihood.base import Likelihood

N = 240


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    x, z = rng.standard_normal((2, N))
    return {
        "y": 1 + x + np.exp(0.2 * z) * rng.standard_normal(N),
        "x": x,
        "z": z,
        "id": np.repeat(np.arange(40), 6),
    }


def index_jax(y: Any, mu: Any, sigma: Any) -> Any:
    return norm.logpdf(y, mu, sigma)


def arrays(y: Any, X: Any, b: Any, sigma: Any) -> Any:
    return norm.logpdf(y, X @ b, sigma)


def by_unit(y: Any, mu: Any, sigma: Any, unit: Any, n_units: Any) -> Any:
    return jax.ops.segment_sum(norm.logpdf(y, mu, sigma), unit, n_units)


def likelihoods() -> dict[str, Likelihood]:
    d = data()
    X = np.column_stack([np.ones(N), d["x"]])
    many = np.column_stack([X, np.random.default_rng(4).standard_normal((N, 12))])
    return {
        "ready-made": ml.models.gaussian("y ~ x", d, sigma="z"),
        "ready-made, weights": ml.models.gaussian("y ~ x", d, probability_weights=np.arange(1.0, N + 1)),
        "index": ml.likelihood(index_jax, d, {"mu": ml.linear("x"), "sigma": ml.positive()}),
        "small array": ml.likelihood(
            arrays, {"y": d["y"], "X": X}, {"b": np.zeros(2), "sigma": ml.positive()}
        ),
        "large array": ml.likelihood(
            arrays, {"y": d["y"], "X": many}, {"b": np.zeros(14), "sigma": ml.positive()}
        ),
        "units": ml.likelihood(by_unit, d, {"mu": ml.linear("x"), "sigma": ml.positive()}, unit="id"),
    }


NAMES = list(likelihoods())


@pytest.mark.parametrize("name", NAMES)
def test_group_curvatures_add_up(name: str) -> None:
    lik = likelihoods()[name]
    theta = ml.fit(lik).theta + 0.05
    whole = lik.evaluate(theta, order=2).hessian
    assert whole is not None
    codes = np.random.default_rng(1).integers(0, 9, lik.n_terms).astype(np.intp)
    total = np.zeros_like(whole)
    seen = []
    for groups, blocks in lik.curvature_blocks(theta, codes, 9, "observed"):
        assert blocks.shape == (len(groups), lik.space.k, lik.space.k)
        total += blocks.sum(0)
        seen += list(groups)
    assert seen == list(range(9))
    np.testing.assert_allclose(total, -whole, rtol=1e-9, atol=1e-9 * np.abs(whole).max())
    member = codes == 4
    one = next(b[list(g).index(4)] for g, b in lik.curvature_blocks(theta, codes, 9, "observed") if 4 in g)
    part = lik.subset(np.flatnonzero(member)).evaluate(theta, order=2).hessian
    np.testing.assert_allclose(one, -part, rtol=1e-9, atol=1e-9 * np.abs(whole).max())


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_the_whole(name: str) -> None:
    """The evaluations of two parts add up to that of the whole: sums, scores and terms."""
    lik = likelihoods()[name]
    theta = ml.fit(lik).theta + 0.03
    whole = lik.evaluate(theta, order=2, scores=True)
    terms = np.arange(lik.n_terms)
    parts = [lik.subset(terms[: lik.n_terms // 3]), lik.subset(terms[lik.n_terms // 3 :])]
    found = [part.evaluate(theta, order=2, scores=True) for part in parts]
    assert sum(f.loglike for f in found) == pytest.approx(whole.loglike, rel=1e-12)
    np.testing.assert_allclose(sum(f.gradient for f in found), whole.gradient, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(sum(f.hessian for f in found), whole.hessian, rtol=1e-10, atol=1e-9)
    stacked = np.vstack([f.scores.to_dense() for f in found])
    np.testing.assert_allclose(stacked, whole.scores.to_dense(), rtol=1e-10, atol=1e-10)


def test_all_kinds_agree() -> None:
    """The same Gaussian regression by four engines: theta, Hessian and scores to 1e-10."""
    liks = likelihoods()
    first = ml.fit(liks["index"])
    for name in ("small array", "units"):
        other = ml.fit(liks[name])
        np.testing.assert_allclose(other.theta, first.theta, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(
            other.hessian, first.hessian, rtol=1e-8, atol=1e-8 * np.abs(first.hessian).max()
        )


def test_frequency_weights_are_repeated_rows() -> None:
    d = data()
    w = np.random.default_rng(2).integers(1, 4, N)
    repeated = {key: np.repeat(values, w) for key, values in d.items()}
    a = ml.fit(ml.models.gaussian("y ~ x", d, frequency_weights=w))
    b = ml.fit(ml.models.gaussian("y ~ x", repeated))
    assert a.nobs == b.nobs == w.sum()
    for name in ("oim", "eim", "opg", "robust", "HC1"):
        np.testing.assert_allclose(a.cov(name).user, b.cov(name).user, rtol=1e-9, atol=1e-15, err_msg=name)


def test_probability_weights_square_in_the_meat() -> None:
    d = data()
    w = np.random.default_rng(2).random(N) + 0.2
    fit = ml.fit(ml.models.gaussian("y ~ x", d, probability_weights=w))
    assert "sandwich" in fit.cov_type
    S, bread = fit.scores.to_dense(), np.linalg.inv(fit.information)
    np.testing.assert_allclose(fit.cov().matrix, bread @ (S.T * w**2) @ S @ bread, rtol=1e-9)


def test_analytic_weights_do_not_depend_on_their_scale() -> None:
    d = data()
    w = np.random.default_rng(2).random(N) + 0.2
    a = ml.fit(ml.models.gaussian("y ~ x", d, analytic_weights=w))
    b = ml.fit(ml.models.gaussian("y ~ x", d, analytic_weights=100 * w))
    np.testing.assert_allclose(a.bse, b.bse, rtol=1e-10)
    assert a.nobs == N
