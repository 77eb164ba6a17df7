"""Default starts of choices, panels, systems and autoregressions, on 100 simulated samples each.

Where a spread between units has no interior maximum, that must be said, and other code bears it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special

from mlecov import models
from tests.models.starts import Bound, check_samples, income_and_age

Array = npt.NDArray[np.float64]
Density = Callable[[Array], float]
NO_SPREAD = (0.0, -1.0, -2.0, -4.0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [80, 400])
def test_conditional_logit(n: int) -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        unit = np.repeat(np.arange(n), rng.integers(2, 6, n))
        N = len(unit)
        scale = np.array([1.0, 1.0, 1.0] if seed % 4 < 3 else [1000.0, 1.0, 0.01])
        X = scale * np.column_stack([rng.gamma(2, 1, N), rng.standard_normal(N), rng.random(N) < 0.5])
        y = np.diff(unit, prepend=-1).astype(float)
        theta = (np.array([-0.8, 0.8, 0.5]) + 0.25 * rng.standard_normal(3)) / scale
        return models.conditional_logit(y, X, unit=unit).simulate(rng, theta), theta

    check_samples(draw)


PERSONS, SITUATIONS, DRAWS = 120, 4, 25


def mixed_logit(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
    shape = (PERSONS, SITUATIONS, 3)
    N = int(np.prod(shape))
    person, situation = np.arange(N) // (3 * SITUATIONS), np.arange(N) // 3
    scale = np.array([1.0, 1.0, 1.0] if seed % 4 < 3 else [100.0, 1.0, 0.1])
    X = scale * np.column_stack([rng.gamma(2, 1, N), rng.standard_normal(N), rng.random(N) < 0.5])
    y = (np.arange(N) % 3 == 0).astype(float)
    b = (np.array([-0.8, 0.8, 0.5]) + 0.25 * rng.standard_normal(3)) / scale
    sd = rng.uniform(0.4, 1.5, 2) / scale[1:]
    made = models.mixed_logit(
        y, X, unit=person, situation=situation, random=["x1", "x2"], draws=DRAWS, seed=seed
    )
    theta = np.append(b, np.log(sd))
    return made.simulate(rng, theta), theta


def mixed_logit_density(likelihood: Any) -> Density:
    """Return the simulated log-likelihood by arrays (persons, situations, alternatives, draws)."""
    X = likelihood.data.matrix.reshape(PERSONS, SITUATIONS, 3, 3)
    chosen = likelihood.data.y.reshape(PERSONS, SITUATIONS, 3).argmax(axis=2)[:, :, None, None]

    def density(theta: Array) -> float:
        tastes = theta[1:3] + np.exp(theta[3:]) * likelihood.draws
        utility = (X[..., :1] * theta[0]) + np.einsum("psaq,prq->psar", X[..., 1:], tastes)
        logs = np.take_along_axis(utility, chosen, axis=2)[:, :, 0] - special.logsumexp(utility, axis=2)
        return float((special.logsumexp(logs.sum(axis=1), axis=1) - np.log(DRAWS)).sum())

    return density


@pytest.mark.slow
def test_mixed_logit() -> None:
    bounds = (
        Bound(3, "the standard deviation of x1 is at its bound", NO_SPREAD),
        Bound(4, "the standard deviation of x2 is at its bound", NO_SPREAD),
    )
    check_samples(mixed_logit, bounds, mixed_logit_density)


def random_effects_density(name: str) -> Callable[[Any], Density]:
    """Return log-likelihoods by the trapezoidal rule (error exp(-2 pi^2 / (h sigma)), below 1e-13)."""
    nodes = np.linspace(-10, 10, 121)
    share = np.exp(-0.5 * nodes**2) / np.sqrt(2 * np.pi) * (nodes[1] - nodes[0])
    log_f = special.log_ndtr if name == "random_effects_probit" else special.log_expit

    def of(likelihood: Any) -> Density:
        data = likelihood.data

        def density(theta: Array) -> float:
            eta = (data.matrix @ theta[:-1])[:, None] + np.exp(theta[-1]) * nodes
            joint = np.zeros((likelihood.n_terms, len(nodes)))
            np.add.at(joint, data.codes, log_f((2 * data.y - 1)[:, None] * eta))
            return float(special.logsumexp(joint, axis=1, b=share).sum())

        return density

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least", "most"), [(150, 0.4, 1.6), (80, 0.05, 1.0)])
@pytest.mark.parametrize("name", ["random_effects_probit", "random_effects_logit"])
def test_random_effects(name: str, n: int, least: float, most: float) -> None:
    logistic = 1.7 if name == "random_effects_logit" else 1.0  # the same share of variance

    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        unit = np.repeat(np.arange(n), rng.integers(2, 8, n))
        N = len(unit)
        scale = np.array([1.0, 1.0, 1.0] if seed % 4 < 3 else [1.0, 1000.0, 0.01])
        own = rng.standard_normal(n)[unit]
        X = scale * np.column_stack([np.ones(N), rng.standard_normal(N) + own, rng.random(N)])
        b = logistic * (np.array([0.2, 0.5, -0.4]) + 0.2 * rng.standard_normal(3)) / scale
        theta = np.append(b, np.log(logistic * rng.uniform(least, most)))
        made = getattr(models, name)(np.arange(N) % 2.0, X, unit=unit)
        return made.simulate(rng, theta), theta

    bounds = (
        Bound(3, "sigma is at its bound", NO_SPREAD),
        Bound(3, "quadrature points instead of", (), ("QuadratureWarning",)),
    )
    check_samples(draw, bounds, random_effects_density(name))


def spread(rng: np.random.Generator, d: int) -> Array:
    """Return a random covariance matrix (d, d)."""
    A = rng.standard_normal((d, d))
    return np.asarray(A @ A.T + 0.05 * np.eye(d))


@pytest.mark.slow
def test_multivariate_normal() -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        d = 2 + seed % 4
        scale = 10.0 ** rng.integers(-3, 4, d) if seed % 4 == 3 else np.ones(d)
        mean, Sigma = rng.normal(0, 2, d) * scale, spread(rng, d) * np.outer(scale, scale)
        Y = mean + rng.standard_normal((20 + 20 * d, d)) @ np.linalg.cholesky(Sigma).T
        made = models.multivariate_normal(Y)
        return made, made.space.pack({"mu": mean, "Sigma": Sigma})

    check_samples(draw)


@pytest.mark.slow
def test_sur() -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, 60, seed)
        frame |= {"x3": rng.standard_normal(60), "a": np.arange(60.0), "b": np.arange(60.0) % 7}
        frame["c"] = np.sin(np.arange(60.0))
        made = models.sur(["a ~ x1", "b ~ x2 + x3", "c ~ x1 + x2"], frame)
        one, two, three = (back @ rng.normal(0, 1, 3) for _ in range(3))
        size = 1e4 if seed % 4 == 3 else 1.0  # the third outcome in another unit
        scale = np.array([1.0, 1.0, size])
        values = {"a": one[:2], "b": [*two[[0, 2]], rng.normal()], "c": size * three}
        values["Sigma"] = spread(rng, 3) * np.outer(scale, scale)
        theta = made.space.pack(values)
        return made.simulate(rng, theta), theta

    check_samples(draw)


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 200])
def test_ar(n: int) -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        p = 1 + seed % 3
        made = models.ar(np.arange(float(n)) % 5, p=p)
        # inverse roots anywhere within the unit circle, some of them close to it
        coefficients = -np.poly(rng.uniform(-0.5, 0.98, p))[1:]
        values = {f"ar{j + 1}": value for j, value in enumerate(coefficients)}
        theta = made.space.pack({"mu": rng.normal(0, 20), "sigma": np.exp(rng.normal(0, 1)), **values})
        return made.simulate(rng, theta), theta

    check_samples(draw)
