"""A small neural network as a likelihood: its gradient and maximum by three ways each; its singularities."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

import mlecov as ml
from mlecov import matrix as mx
from mlecov.errors import IdentificationError
from mlecov.likelihood.base import Likelihood

Array = npt.NDArray[np.float64]

START = {"W": np.array([[1.0, -0.5], [0.5, 1.0]]), "b": np.zeros(2), "v": np.array([1.0, -1.0]), "c": 0.0}


def network(y: Any, X: Any, W: Any, b: Any, v: Any, c: Any) -> Any:
    eta = jnp.tanh(X @ W.T + b) @ v + c
    return y * eta - jnp.logaddexp(0.0, eta)


def simulated() -> tuple[Array, Array]:
    rng = np.random.default_rng(12)
    X = rng.standard_normal((400, 2))
    hidden = np.tanh(X @ np.array([[1.5, -1.0], [0.8, 1.6]]).T + [0.3, -0.5])
    y = rng.random(400) < 1 / (1 + np.exp(-hidden @ [2.0, -1.5] - 0.2))
    return y.astype(float), X


def unpack(theta: Array) -> tuple[Array, Array, Array, float]:
    return theta[:4].reshape(2, 2), theta[4:6], theta[6:8], float(theta[8])


def identities(theta: Array, y: Array, X: Array) -> tuple[float, Array, Array]:
    """Return log-likelihood, gradient (9,) and scores (n, 9) by the matrix identities of the layers."""
    W, b, v, c = unpack(theta)
    hidden = np.tanh(mx.dense_layer(W, b, X))
    eta = mx.dense_layer(v[None, :], np.array([c]), hidden)
    r = y[:, None] - 1 / (1 + np.exp(-eta))
    to_v, to_c, to_hidden = mx.dense_layer_gradients(v[None, :], hidden, r)
    inner = to_hidden * (1 - hidden**2)
    to_W, to_b, _ = mx.dense_layer_gradients(W, X, inner)
    outer_W, outer_b = mx.dense_layer_scores(X, inner)
    outer_v, outer_c = mx.dense_layer_scores(hidden, r)
    scores = np.concatenate([outer_W.reshape(len(y), 4), outer_b, outer_v[:, 0], outer_c], axis=1)
    loglike = float(np.sum(y * eta[:, 0] - np.logaddexp(0, eta[:, 0])))
    return loglike, np.concatenate([to_W.ravel(), to_b, to_v.ravel(), to_c]), scores


def differences(function: Any, theta: Array, step: float = 2e-2) -> Array:
    """Return central differences extrapolated four times (Richardson)."""
    found = []
    for direction in np.eye(len(theta)):
        column = [
            (function(theta + h * direction) - function(theta - h * direction)) / (2 * h)
            for h in step / 2.0 ** np.arange(5)
        ]
        for order in range(1, 5):
            column = [(4**order * b - a) / (4**order - 1) for a, b in itertools.pairwise(column)]
        found.append(column[0])
    return np.array(found)


@pytest.fixture(scope="module")
def lik() -> Likelihood:
    y, X = simulated()
    return ml.likelihood(network, {"y": y, "X": X}, START)


def start(lik: Likelihood) -> Array:
    return lik.space.pack(START, lik.start())


def test_gradients_by_identities_autodiff_and_differences_agree(lik: Likelihood) -> None:
    y, X = simulated()
    for theta in (start(lik), start(lik) + np.random.default_rng(5).normal(0, 0.4, 9)):
        loglike, gradient, scores = identities(theta, y, X)
        found = lik.evaluate(theta, order=1, scores=True)
        assert found.gradient is not None and found.scores is not None
        scale = np.abs(gradient).max()
        assert found.loglike == pytest.approx(loglike, rel=1e-13)
        assert np.abs(found.gradient - gradient).max() < 1e-12 * scale
        assert np.abs(found.scores.to_dense() - scores).max() < 1e-12
        by_differences = differences(lambda t: lik.evaluate(t).loglike, theta)
        assert np.abs(by_differences - gradient).max() < 1e-10 * scale
        assert np.abs(scores.sum(axis=0) - gradient).max() < 1e-12 * scale


def test_gradient_descent_lowers_the_loss_at_every_step(lik: Likelihood) -> None:
    y, X = simulated()
    theta, losses = start(lik), []
    for _ in range(300):
        loglike, gradient, _ = identities(theta, y, X)
        losses.append(-loglike)
        theta = theta + 0.05 / len(y) * gradient
    assert (np.diff(losses) < 0).all()
    assert losses[-1] < losses[0] - 10


def test_newton_and_bhhh_reach_the_same_regular_maximum(lik: Likelihood) -> None:
    y, X = simulated()
    newton = ml.fit(lik, start=START)
    bhhh = ml.fit(lik, method="bhhh", start=START, polish=False)
    assert newton.converged and bhhh.converged
    assert newton.llf == pytest.approx(bhhh.llf, abs=1e-9)
    assert np.abs(newton.theta - bhhh.theta).max() < 1e-5
    _, gradient, scores = identities(newton.theta, y, X)
    assert np.abs(gradient).max() < 1e-9
    opg = np.linalg.inv(scores.T @ scores)
    assert np.abs(newton.cov("opg").user / opg - 1).max() < 1e-9


def test_exchanging_hidden_units_exchanges_their_standard_errors(lik: Likelihood) -> None:
    fit = ml.fit(lik, start=START)
    W, b, v, c = unpack(fit.theta)
    other = ml.fit(lik, start={"W": W[::-1], "b": b[::-1], "v": v[::-1], "c": c})
    order = [2, 3, 0, 1, 5, 4, 7, 6, 8]
    assert other.llf == pytest.approx(fit.llf, abs=1e-10)
    assert other.bse.to_numpy()[order] == pytest.approx(fit.bse.to_numpy(), rel=1e-7)


def test_two_units_alike_are_refused_along_the_difference_of_their_weights(lik: Likelihood) -> None:
    tied = ["W[0,0] = W[1,0]", "W[0,1] = W[1,1]", "b[0] = b[1]"]
    along = r"(?s)1 of 6.*no information along [+-]1\*v\[\d\] [+-]1\*v\[\d\]"
    with pytest.raises(IdentificationError, match=along):
        ml.fit(lik, start={"v": np.array([1.5, 0.5])}, constraints=tied)


def test_a_symmetric_start_ends_at_a_saddle_and_is_refused(lik: Likelihood) -> None:
    alike = {"W": np.array([[1.0, -1.0], [1.0, -1.0]]), "b": np.zeros(2), "v": np.ones(2), "c": 0.0}
    with pytest.raises(IdentificationError, match=r"(?s)negative curvature.*no information along [+-]1\*v"):
        ml.fit(lik, start=alike)


def test_a_unit_without_use_leaves_its_weights_without_information(lik: Likelihood) -> None:
    with pytest.raises(IdentificationError) as caught:
        ml.fit(lik, start=START, fixed={"v[1]": 0.0})
    message = str(caught.value)
    assert "3 of 8" in message
    for name in ("W[1,0]", "W[1,1]", "b[1]"):
        assert name in message
    assert "v[0]" not in message and "W[0," not in message
