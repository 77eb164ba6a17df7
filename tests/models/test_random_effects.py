"""Random-effects probit and logit: against dense integration in JAX, quadrature order, simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special
from scipy.special import chdtri

from mlecov import autodiff
from mlecov.errors import QuadratureWarning, SpecificationError, SupportError
from mlecov.models.binary import logit, probit
from mlecov.models.random_effects import RandomEffects, random_effects_logit, random_effects_probit
from mlecov.optimize import maximize

Array = npt.NDArray[np.float64]
MODELS: dict[str, Callable[..., RandomEffects]] = {
    "probit": random_effects_probit,
    "logit": random_effects_logit,
}
THETA = np.array([0.2, 0.5, -0.4, np.log(0.9)])


def panel(n: int, name: str, seed: int = 5, **options: Any) -> RandomEffects:
    """Return an unbalanced panel (2 to 8 rows a unit) with outcomes drawn at THETA."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(n), 2 + np.arange(n) % 7)
    X = np.column_stack([np.ones(len(unit)), rng.normal(size=(len(unit), 2))])
    made = MODELS[name](np.arange(len(unit)) % 2.0, X, unit=unit, **options)
    return made.simulate(np.random.default_rng(seed + 1), THETA)


GRID = np.linspace(-10, 10, 1201)


def dense(name: str, likelihood: RandomEffects, theta: Array) -> tuple[Array, Array, Array]:
    """Return loglike_obs, scores and Hessian by the trapezoidal rule on 1,201 points in JAX."""
    jax, jnp = autodiff.jax(), autodiff.jnp()
    data = likelihood.data
    sign = 2 * data.y - 1

    def terms(t: Any) -> Any:
        eta = sign[:, None] * ((data.matrix @ t[:-1])[:, None] + jnp.exp(t[-1]) * GRID)
        log_f = jax.scipy.stats.norm.logcdf(eta) if name == "probit" else jax.nn.log_sigmoid(eta)
        joint = jax.ops.segment_sum(log_f, data.codes, likelihood.n_terms) - 0.5 * GRID**2
        return jax.scipy.special.logsumexp(joint, axis=1) + np.log((GRID[1] - GRID[0]) / np.sqrt(2 * np.pi))

    with autodiff.x64():
        found = jax.jit(
            lambda t: (terms(t), jax.jacfwd(terms)(t), jax.jacfwd(jax.jacfwd(lambda u: terms(u).sum()))(t))
        )
        return tuple(np.asarray(part) for part in found(theta))  # type: ignore[return-value]


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_dense_integration(name: str) -> None:
    likelihood = panel(12, name)
    found = likelihood.evaluate(THETA, order=2, scores=True)
    terms, scores, hessian = dense(name, likelihood, THETA)
    assert found.scores is not None
    np.testing.assert_allclose(found.loglike_obs, terms, rtol=1e-10)
    np.testing.assert_allclose(found.scores.to_dense(), scores, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.hessian, hessian, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found.gradient, scores.sum(axis=0), rtol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_more_nodes_change_nothing(name: str) -> None:
    few, many = maximize(panel(200, name, nodes=12)), maximize(panel(200, name, nodes=40))
    np.testing.assert_allclose(few.theta, many.theta, rtol=1e-5)
    usual = maximize(panel(200, name))
    np.testing.assert_allclose(usual.theta, many.theta, rtol=1e-7)


@pytest.mark.parametrize("nodes", [3, 8, 20])
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_sum_itself_however_coarse(name: str, nodes: int) -> None:
    likelihood, theta = panel(30, name, nodes=nodes), THETA + np.array([0.0, 0.0, 0.0, 1.0])
    found = likelihood.evaluate(theta, order=1, scores=True)
    assert found.scores is not None
    for j, column in enumerate(found.scores.to_dense().T):
        move = 1e-5 * np.eye(4)[j]
        up, down = (likelihood.evaluate(theta + s * move).loglike_obs for s in (1, -1))
        assert up is not None and down is not None
        np.testing.assert_allclose(column, (up - down) / 2e-5, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("index", [2.5, 3.0, 3.5])
def test_modes_are_found_from_a_flat_side(index: float) -> None:
    # three outcomes of seven against a prediction of all: plain Newton steps for the mode never settle
    unit, y, sigma = np.repeat([0, 1], 7), np.array([1.0, 1, 1, 0, 0, 0, 0] * 2), 2.0
    X = np.repeat([1.0, -1.0], 7)[:, None]
    likelihood = random_effects_logit(np.where(unit, 1 - y, y), X, unit=unit)
    eta = (2 * likelihood.data.y - 1)[:, None] * (index * X + sigma * GRID)
    joint = np.add.reduceat(special.log_expit(eta), [0, 7]) - 0.5 * GRID**2
    exact = special.logsumexp(joint, axis=1) + np.log((GRID[1] - GRID[0]) / np.sqrt(2 * np.pi))
    found = likelihood.evaluate(np.array([index, np.log(sigma)])).loglike_obs
    assert found is not None
    np.testing.assert_allclose(found, exact, rtol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_simulation_and_recovery(name: str) -> None:
    likelihood = panel(1500, name)
    found = likelihood.evaluate(THETA, order=2, scores=True)
    assert found.scores is not None and found.hessian is not None
    s = found.scores.to_dense()
    assert (np.abs(s.mean(axis=0)) < 5 * s.std(axis=0) / np.sqrt(len(s))).all()
    spread = np.sqrt(((s[:, :, None] * s[:, None, :]) ** 2).sum(axis=0))
    assert (np.abs(s.T @ s + found.hessian) < 6 * spread).all()
    optimum = maximize(likelihood)
    move = optimum.theta - THETA
    assert optimum.record.converged
    assert move @ optimum.evaluation.information @ move < chdtri(4, 1e-5)


@pytest.mark.parametrize(("name", "pooled"), [("probit", probit), ("logit", logit)])
def test_no_spread_is_the_pooled_model(name: str, pooled: Callable[..., Any]) -> None:
    likelihood = panel(50, name)
    plain = pooled(likelihood.data.y, likelihood.data.matrix).evaluate(THETA[:-1], order=1)
    found = likelihood.evaluate(np.append(THETA[:-1], -25.0), order=1)
    np.testing.assert_allclose(found.loglike, plain.loglike, rtol=1e-12)
    np.testing.assert_allclose(found.gradient[:-1], plain.gradient, rtol=1e-9)


def test_weights_subsets_and_groups_add_up() -> None:
    likelihood = panel(30, "probit")
    whole = likelihood.evaluate(THETA, order=2, scores=True)
    chosen = np.array([5, 2, 5])
    part = likelihood.subset(chosen).evaluate(THETA, order=2, scores=True)
    assert whole.loglike_obs is not None and whole.scores is not None and part.scores is not None
    np.testing.assert_allclose(part.loglike_obs, whole.loglike_obs[chosen], rtol=1e-12)
    np.testing.assert_allclose(part.scores.to_dense(), whole.scores.to_dense()[chosen], rtol=1e-9, atol=1e-12)
    weights = np.bincount(chosen, minlength=30).astype(float)
    weighted = likelihood.evaluate(THETA, order=2, weights=weights)
    np.testing.assert_allclose(weighted.hessian, part.hessian, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(weighted.gradient, part.gradient, rtol=1e-9)
    blocks = [b for _, b in likelihood.curvature_blocks(THETA, np.arange(30) % 4, 4, "observed")]
    np.testing.assert_allclose(np.concatenate(blocks).sum(axis=0), -whole.hessian, rtol=1e-10, atol=1e-10)


def test_large_spread_and_long_panels_need_nodes_and_say_so() -> None:
    rng = np.random.default_rng(3)
    unit = np.repeat(np.arange(40), 60)
    X = np.column_stack([np.ones(2400), rng.normal(size=2400)])
    theta = np.array([0.5, 1.0, np.log(3.0)])
    likelihood = random_effects_probit(np.arange(2400) % 2.0, X, unit=unit).simulate(rng, theta)
    eta = (2 * likelihood.data.y - 1)[:, None] * ((likelihood.data.matrix @ theta[:-1])[:, None] + 3.0 * GRID)
    joint = likelihood.data.sums(special.log_ndtr(eta)) - 0.5 * GRID**2
    exact = special.logsumexp(joint, axis=1) + np.log((GRID[1] - GRID[0]) / np.sqrt(2 * np.pi))
    many = random_effects_probit(likelihood.data.y, X, unit=unit, nodes=120)
    np.testing.assert_allclose(many.evaluate(theta).loglike_obs, exact, rtol=1e-9)
    few = random_effects_probit(likelihood.data.y, X, unit=unit, nodes=8)
    assert np.abs(few.evaluate(theta).loglike_obs - exact).max() > 1e-3
    with pytest.warns(QuadratureWarning, match="with 16 quadrature points instead of 8"):
        maximize(few)


def test_what_has_no_random_effect_is_refused() -> None:
    X = np.ones((4, 1))
    with pytest.raises(SpecificationError, match="needs unit="):
        random_effects_probit(np.array([0.0, 1, 0, 1]), X)
    with pytest.raises(SpecificationError, match="every unit has one row"):
        random_effects_logit(np.array([0.0, 1, 0, 1]), X, unit=np.arange(4))
    with pytest.raises(SupportError, match="must be 0 or 1; it is 2"):
        random_effects_logit(np.array([0.0, 2, 0, 1]), X, unit=np.array([0, 0, 1, 1]))
    with pytest.raises(SpecificationError, match="nodes=1; expected"):
        random_effects_logit(np.array([0.0, 1, 0, 1]), X, unit=np.array([0, 0, 1, 1]), nodes=1)
