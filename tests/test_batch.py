"""Batched maximisation against the readable one: the same estimates, sums and failures, one by one."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

import mlecov as ml
from mlecov import batch, functions
from mlecov.batch import evaluators
from mlecov.batch.maximize import directions
from mlecov.covariance import covariance, parse
from mlecov.errors import EvaluationError, SpecificationError
from mlecov.optimize import maximize

N, R = 200, 7


def columns(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    x, z = rng.standard_normal((2, N))
    return {
        "x": x,
        "z": z,
        "t": rng.uniform(1, 2, N),
        "binary": (0.3 + 0.5 * x + rng.logistic(size=N) > 0).astype(float),
        "count": rng.negative_binomial(2, 2 / (2 + np.exp(0.5 + 0.3 * x))).astype(float),
        "real": 1 + 0.5 * x + np.exp(0.2 * z) * rng.standard_normal(N),
    }


def nb2(count, mu, alpha):  # type: ignore[no-untyped-def]
    mean, size = jnp.exp(mu), 1 / alpha
    return (
        functions.gammaln(count + size)
        - functions.gammaln(size)
        - functions.gammaln(count + 1)
        + size * jnp.log(size / (size + mean))
        + count * jnp.log(mean / (size + mean))
    )


def ar1(real, c, rho, sigma):  # type: ignore[no-untyped-def]
    e = (real[1:] - c - rho * real[:-1]) / sigma
    return -0.5 * e**2 - jnp.log(sigma)


MODELS: dict[str, Any] = {
    "logit": lambda d: ml.models.logit("binary ~ x + z", d),
    "probit": lambda d: ml.models.probit("binary ~ x + z", d),
    "poisson, offset": lambda d: ml.models.poisson("count ~ x + exposure(t)", d),
    "gaussian": lambda d: ml.models.gaussian("real ~ x", d),
    "gaussian, two equations": lambda d: ml.models.gaussian("real ~ x", d, sigma="z"),
    "weighted": lambda d: ml.models.logit("binary ~ x", d, frequency_weights=np.arange(N) % 3 + 1),
    "nb2 by JAX": lambda d: ml.likelihood(nb2, d, {"mu": ml.linear("x"), "alpha": ml.positive()}),
    "AR(1), not separable": lambda d: ml.likelihood(
        ar1, d, {"c": 0.0, "rho": 0.0, "sigma": ml.positive()}, drop_first=1
    ),
}


def counts(seed: int = 5, n: int = N) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=R).astype(float)


class Reweighted:
    """Maximise one replication by the readable path: evaluate(weights=) inside a general optimiser."""

    def __init__(self, likelihood: Any, w: Any, start: Any) -> None:
        theta = start
        for _ in range(60):
            found = likelihood.evaluate(theta, order=2, weights=w)
            theta = theta - np.linalg.solve(found.hessian, found.gradient)
        self.theta, self.found = theta, likelihood.evaluate(theta, order=2, weights=w, scores=True)


@pytest.mark.parametrize("name", MODELS)
def test_weights_give_the_estimates_of_one_by_one(name: str) -> None:
    likelihood = MODELS[name](columns())
    w = counts(n=likelihood.n_terms)
    start = maximize(likelihood).theta
    found = batch.maximize_batch(likelihood, w, start=start, keep=("observed", "outer"))
    assert found.converged.all()
    for r in range(R):
        alone = Reweighted(likelihood, w[r], start)
        npt.assert_allclose(found.thetas[r], alone.theta, rtol=0, atol=1e-9)
        npt.assert_allclose(found.loglike[r], alone.found.loglike, rtol=1e-11)
        npt.assert_allclose(found.sums["observed"][r], alone.found.information, rtol=1e-7, atol=1e-7)
        scores = alone.found.scores
        own = 1.0 if likelihood.weights is None else likelihood.weights.values
        outer = scores.to_dense().T @ (scores.to_dense() * (w[r] * own)[:, None])
        npt.assert_allclose(found.sums["outer"][r], outer, rtol=1e-7, atol=1e-7)


def test_pairs_weights_equal_drawing_the_rows() -> None:
    data = columns()
    rng = np.random.default_rng(1)
    index = rng.integers(N, size=(3, N))
    w = np.stack([np.bincount(row, minlength=N) for row in index]).astype(float)
    found = batch.maximize_batch(MODELS["gaussian, two equations"](data), w)
    for r in range(3):
        drawn = {key: values[index[r]] for key, values in data.items()}
        alone = maximize(MODELS["gaussian, two equations"](drawn))
        npt.assert_allclose(found.thetas[r], alone.theta, atol=1e-9)


def test_outcomes_and_covariances_are_those_of_single_fits() -> None:
    likelihood = MODELS["probit"](columns())
    rng = np.random.default_rng(3)
    drawn = [likelihood.simulate(rng, np.array([0.2, 0.5, -0.3])) for _ in range(R)]
    found = batch.maximize_many(drawn, keep=("observed", "outer", "expected"))
    for r, other in enumerate(drawn):
        optimum = maximize(other)
        npt.assert_allclose(found.thetas[r], optimum.theta, atol=1e-10)
        for name in ("oim", "opg", "robust", "eim", "bw"):
            expected = covariance(optimum, parse(name)).matrix
            npt.assert_allclose(found.covariances(name)[r], expected, rtol=1e-8)


def test_likelihoods_of_other_structure_are_taken_one_by_one() -> None:
    pair = [MODELS["logit"](columns(1)), MODELS["logit"](columns(2))]
    found = batch.maximize_many(pair)
    for r, other in enumerate(pair):
        npt.assert_allclose(found.thetas[r], maximize(other).theta, atol=1e-9)


def test_fixed_values_give_profiles() -> None:
    likelihood = MODELS["gaussian"](columns())
    values = np.array([0.8, 1.0, 1.7])
    found = batch.maximize_batch(likelihood, fixed={"sigma": values})
    for value, theta, loglike in zip(values, found.thetas, found.loglike, strict=True):
        alone = maximize(likelihood, fixed={"sigma": value})
        npt.assert_allclose(theta, alone.theta, atol=1e-9)
        npt.assert_allclose(loglike, alone.evaluation.loglike, rtol=1e-12)


def test_constraints_are_kept() -> None:
    likelihood = MODELS["logit"](columns())
    optimum = maximize(likelihood, constraints=["mu[x] = mu[z]"])
    w = counts(n=likelihood.n_terms)
    found = batch.maximize_batch(optimum.likelihood, w, start=optimum.theta, keep=("outer",))
    alone = Reweighted(optimum.likelihood, w[0], optimum.theta)
    npt.assert_allclose(found.thetas[0], alone.theta, atol=1e-10)
    dense = alone.found.scores.to_dense()
    npt.assert_allclose(found.sums["outer"][0], dense.T @ (dense * w[0][:, None]), rtol=1e-8)


def test_blocks_and_loop_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    likelihood, w = MODELS["gaussian, two equations"](columns()), counts()
    whole = batch.maximize_batch(likelihood, w, keep=("observed", "outer"))
    monkeypatch.setattr(evaluators, "ROWS", 2 * 2 * N)
    blocks = batch.maximize_batch(likelihood, w, keep=("observed", "outer"))
    monkeypatch.setattr(evaluators, "LIMIT", 0)
    loop = batch.maximize_batch(likelihood, w, keep=("observed", "outer"))
    for other in (blocks, loop):
        npt.assert_allclose(other.thetas, whole.thetas, atol=1e-11)
        for kind in ("observed", "outer"):
            npt.assert_allclose(other.sums[kind], whole.sums[kind], rtol=1e-9, atol=1e-9)


def test_separation_is_a_failure_with_a_name() -> None:
    x = np.linspace(-1, 1, 40)
    y = (x > 0).astype(float)
    y[:2] = 1.0
    likelihood = ml.models.logit(y, np.column_stack([np.ones(40), x]))
    w = np.ones((2, 40))
    w[1, :2] = 0.0  # without these two rows x separates the outcomes
    found = batch.maximize_batch(likelihood, w)
    assert found.converged.tolist() == [True, False]
    assert any("keeps rising" in reason or "definite" in reason for reason in found.failures())
    with pytest.raises(EvaluationError, match="1 of 2 replications failed"):
        batch.require(found, 0.1, "test")


def test_indefinite_information_still_gives_ascent() -> None:
    matrices = np.array([np.eye(2), np.diag([1.0, -2.0])])
    gradients = np.array([[1.0, 1.0], [1.0, 1.0]])
    steps, decrements, definite = directions(matrices, gradients)
    assert definite.tolist() == [True, False]
    assert (np.einsum("ak,ak->a", steps, gradients) > 0).all() and (decrements > 0).all()


def test_shapes_are_refused() -> None:
    likelihood = MODELS["logit"](columns())
    with pytest.raises(SpecificationError, match="one per term"):
        batch.maximize_batch(likelihood, np.ones((2, N - 1)))
    with pytest.raises(SpecificationError, match="agree on the number"):
        batch.maximize_batch(likelihood)
    with pytest.raises(SpecificationError, match=r"outcomes\['y'\] has shape"):
        batch.maximize_batch(likelihood, outcomes={"y": np.ones((2, 3))})
    with pytest.raises(SpecificationError, match="start has shape"):
        batch.maximize_batch(likelihood, np.ones((2, N)), start=np.zeros(2))
    with pytest.raises(SpecificationError, match="needs keep="):
        batch.maximize_batch(likelihood, np.ones((2, N))).covariances("oim")


@pytest.mark.parametrize("outcomes", ["zeros and ones", "counts"])
def test_one_start_for_all_outcomes(outcomes: str) -> None:
    """Zeros and ones at a shared start are derived once; the evaluation is that of each replication."""
    rng = np.random.default_rng(21)
    X = np.column_stack([np.ones(90), rng.standard_normal((90, 2))])
    binary = outcomes == "zeros and ones"
    model = ml.models.probit if binary else ml.models.poisson
    w = rng.integers(1, 4, 90).astype(float)
    likelihood = model(np.arange(90) % 2.0, X, frequency_weights=w)
    Y = rng.integers(0, 2 if binary else 4, (50, 90)).astype(float)
    theta = np.array([0.2, -0.1, 0.3])
    problem = evaluators.Problem(likelihood, 50, outcomes={"y": Y}, outer=True)
    found = evaluators.IndexEvaluator(problem).first(np.tile(theta, (50, 1)))
    for r in (0, 13, 49):
        alone = model(Y[r], X, frequency_weights=w).evaluate(theta, order=2, scores=True)
        expected = (alone.loglike, alone.gradient, alone.information, alone.meat)
        for ours, theirs in zip(
            (found.value, found.gradient, found.information, found.outer), expected, strict=True
        ):
            assert ours is not None
            np.testing.assert_allclose(ours[r], theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["logit", "probit", "poisson, offset", "weighted"])
@pytest.mark.parametrize("fixed", [False, True])
def test_bent_steps_take_fewer_iterations_to_the_same_maxima(
    name: str, fixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    likelihood = MODELS[name](columns())
    label = likelihood.space.labels[-1]
    held = {label: np.linspace(-0.2, 0.4, R)} if fixed else None
    options: dict[str, Any] = {"weights": counts(), "fixed": held, "keep": ("observed", "outer")}
    bent = batch.maximize_batch(likelihood, **options)
    monkeypatch.setattr(type(likelihood.model), "third", lambda *_: None)
    plain = batch.maximize_batch(likelihood, **options)
    assert bent.converged.all() and plain.converged.all()
    assert bent.iterations.sum() < plain.iterations.sum()
    npt.assert_allclose(bent.thetas, plain.thetas, rtol=1e-9, atol=1e-11)
    for kind, found in plain.sums.items():
        npt.assert_allclose(bent.sums[kind], found, rtol=1e-7, err_msg=kind)


def test_a_replication_whose_third_derivative_is_not_finite_takes_newtons_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    likelihood = MODELS["probit"](columns())
    plain = batch.maximize_batch(likelihood, counts())
    monkeypatch.setattr(
        type(likelihood.model), "third", lambda self, eta, c, first, second: np.full(eta.shape[1], np.nan)
    )
    lamed = batch.maximize_batch(likelihood, counts())
    assert lamed.converged.all()
    npt.assert_allclose(lamed.thetas, plain.thetas, rtol=1e-9)
