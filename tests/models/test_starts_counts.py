"""Default starts of count and binary models with further equations, on 100 simulated samples each.

Where a sample has no interior maximum, that must be said, and the density of scipy.stats bears it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special, stats

from mlecov import models
from mlecov.optimize import maximize
from tests.models.starts import Bound, check_samples, income_and_age

Array = npt.NDArray[np.float64]
Density = Callable[[Array], float]
TO_ZERO = (0.0, -2.0, -4.0, -7.0)
NO_ALPHA = Bound(3, "alpha is at its bound", TO_ZERO)
LOG_SERIES = Bound(3, "log(alpha)", (0.0, 2.0, 4.0, 6.0, 8.0), ("IdentificationError: the observed",))
"""Positive counts alone: as alpha grows and mu falls, NB2 tends to the logarithmic series (Fisher 1943)."""
NO_INFLATION = Bound(4, "inflate is at its bound", TO_ZERO)


def coefficients(rng: np.random.Generator, back: Array, centre: list[float], spread: float = 0.25) -> Array:
    return np.asarray(back @ (np.array(centre) + spread * rng.standard_normal(len(centre))))


def designs(likelihood: Any, theta: Array) -> Array:
    """Return the predictors at theta by the columns themselves."""
    blocks = likelihood.facts.extra["blocks"]
    found, first = [], 0
    for name in likelihood.model.equations:
        width = len(blocks[name].names) if name in blocks else 1
        X = blocks[name].matrix if name in blocks else np.ones((likelihood.n_terms, 1))
        found.append(np.asarray(X) @ theta[first : first + width])
        first += width
    return np.stack(found)


def nb2_density(likelihood: Any) -> Density:
    """Return the log-likelihood of a zero-inflated, hurdle or truncated NB2 by scipy.stats."""
    kind, y = likelihood.facts.name.removesuffix("_nb2"), likelihood.columns["y"]

    def density(theta: Array) -> float:
        mean, alpha = np.exp(designs(likelihood, theta)[:2])
        law = stats.nbinom(1 / alpha, 1 / (1 + alpha * mean))
        base = law.logpmf(y)
        if kind == "truncated":
            return float((base - law.logsf(likelihood.model.truncation)).sum())
        log_share, log_rest = special.log_expit(theta[-1]), special.log_expit(-theta[-1])
        if kind == "hurdle":
            return float(np.where(y > 0, log_share + base - law.logsf(0), log_rest).sum())
        return float(np.where(y > 0, log_rest + base, np.logaddexp(log_share, log_rest + base)).sum())

    return density


def counts(name: str, centre: float, n: int, last: list[tuple[float, float]], truncation: int = 0) -> Any:
    """Return draws of a count model: log alpha from about -0.8, `last` the further coordinates."""

    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, n, seed)
        option = {"truncation": truncation} if name.startswith("truncated") else {}
        frame["y"] = (truncation + 1 if option else 0) + np.arange(n) % 5.0
        likelihood = getattr(models, name)("y ~ x1 + x2", frame, **option)
        b = coefficients(rng, back, [centre, 0.5, -0.4])
        theta = np.concatenate([b, [rng.normal(*pair) for pair in last]])
        return likelihood.simulate(rng, theta), theta

    return draw


ALPHA = (-0.8, 0.8)
COUNTS = {
    "zero_inflated": counts("zero_inflated_nb2", 0.8, 500, [ALPHA, (-0.8, 0.4)]),
    "hurdle": counts("hurdle_nb2", 0.6, 500, [ALPHA, (0.6, 0.4)]),
    "truncated": counts("truncated_nb2", 0.6, 500, [ALPHA]),
    "truncated_at_one": counts("truncated_nb2", 1.0, 500, [ALPHA], truncation=1),
    "truncated_at_three": counts("truncated_nb2", 1.6, 500, [ALPHA], truncation=3),
    "truncated_low_means": counts("truncated_nb2", -0.3, 400, [(0.3, 0.8)]),
    "truncated_at_two_little_dispersion": counts("truncated_nb2", 1.2, 300, [(-3.0, 1.0)], truncation=2),
    "zero_inflated_little_dispersion": counts("zero_inflated_nb2", 0.8, 300, [(-3.0, 1.0), (-1.5, 0.5)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_negative_binomials_without_their_zeros_or_with_more(name: str) -> None:
    bounds = (NO_ALPHA, NO_INFLATION if name.startswith("zero") else LOG_SERIES)
    check_samples(COUNTS[name], bounds, nb2_density)


@pytest.mark.slow
@pytest.mark.parametrize("truncation", [1, 3])
def test_truncated_poisson(truncation: int) -> None:
    check_samples(counts("truncated_poisson", 0.4 * truncation, 400, [], truncation))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero_inflated_nb2", "hurdle_nb2"])
def test_zeros_with_regressors_of_their_own(name: str) -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, 800, seed)
        frame["y"] = np.arange(800) % 5.0
        b, alpha = coefficients(rng, back, [0.9, 0.5, -0.4]), rng.normal(-0.5, 0.4)
        if name == "hurdle_nb2":
            g = coefficients(rng, back, [0.5, 0.5, 0.8])
            likelihood = models.hurdle_nb2("y ~ x1 + x2", frame, hurdle="x1 + x2")
        else:
            g = coefficients(rng, np.eye(2), [-1.0, 0.8])
            likelihood = models.zero_inflated_nb2("y ~ x1 + x2", frame, inflate="d")
        theta = np.concatenate([b, [alpha], g])
        return likelihood.simulate(rng, theta), theta

    check_samples(draw)


@pytest.mark.slow
def test_beta_binomial() -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, 200, seed)
        frame |= {"y": np.arange(200) % 3.0, "n": rng.integers(2, 15, 200).astype(float)}
        likelihood = models.beta_binomial("y ~ x1 + x2", frame, trials="n")
        theta = np.append(coefficients(rng, back, [-0.5, 0.5, -0.4]), rng.normal(2.0, 1.5))
        return likelihood.simulate(rng, theta), theta

    def density(likelihood: Any) -> Density:
        y, trials = likelihood.columns["y"], likelihood.columns["trials"]

        def value(theta: Array) -> float:
            eta = designs(likelihood, theta)
            a, b = special.expit(eta[0]) * np.exp(eta[1]), special.expit(-eta[0]) * np.exp(eta[1])
            return float(stats.betabinom.logpmf(y, trials, a, b).sum())

        return value

    check_samples(draw, (Bound(3, "theta is without bound", (1.0, 3.0, 5.0, 7.0, 9.0)),), density)


@pytest.mark.slow
@pytest.mark.parametrize("n", [250, 1000])
def test_heteroskedastic_probit(n: int) -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, n, seed)
        frame |= {"y": np.arange(n) % 2.0, "z": rng.standard_normal(n)}
        sigma = ("d", "z", "d + z")[seed % 3]
        likelihood = models.heteroskedastic_probit("y ~ x1 + x2", frame, sigma=sigma)
        g = rng.normal(0.4, 0.3, 2 if "+" in sigma else 1)
        theta = np.concatenate([coefficients(rng, back, [0.3, 1.0, -0.8]), g])
        return likelihood.simulate(rng, theta), theta

    check_samples(draw)


def bivariate_density(likelihood: Any) -> Density:
    """Return the bivariate probit by Plackett's integral of d Phi2 / d rho = phi2 (not by Owen's T)."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    signs = 2 * np.stack([likelihood.columns["y"], likelihood.columns["y2"]]) - 1

    def density(theta: Array) -> float:
        x, z = signs * designs(likelihood, theta)[:2]
        top = signs[0] * signs[1] * np.arcsin(np.tanh(theta[-1] / 2))
        angle = 0.5 * top[:, None] * (nodes + 1)
        height = np.exp(
            -(x * x + z * z)[:, None] / (2 * np.cos(angle) ** 2)
            + (x * z)[:, None] * np.sin(angle) / np.cos(angle) ** 2
        )
        area = special.ndtr(x) * special.ndtr(z) + 0.5 * top * (height @ weights) / (2 * np.pi)
        return float(np.log(area).sum())

    return density


@pytest.mark.slow
@pytest.mark.parametrize(("n", "most"), [(600, 0.9), (200, 0.97)])
def test_bivariate_probit(n: int, most: float) -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, n, seed)
        frame |= {"y": np.arange(n) % 2.0, "y2": np.arange(n) // 2 % 2.0}
        likelihood = models.bivariate_probit("y ~ x1 + x2", frame, second="y2 ~ d")
        b, c = coefficients(rng, back, [0.3, 0.6, -0.5]), coefficients(rng, np.eye(2), [-0.3, 0.5])
        theta = np.concatenate([b, c, [2 * np.arctanh(rng.uniform(-most, most))]])
        return likelihood.simulate(rng, theta), theta

    said = (
        "BoundaryWarning",
        "ConvergenceWarning",
        "IdentificationWarning",
        "IdentificationError: the observed",
    )
    bounds = tuple(
        Bound(5, words, tuple(sign * t for t in (2.0, 4.0, 5.5, 7.0)), said)
        for sign, words in ((1, "rho is at its bound, +1"), (-1, "rho is at its bound, -1"))
    )
    check_samples(draw, bounds, bivariate_density)


@pytest.mark.parametrize("truncation", [0, 2])
def test_truncated_nb2_at_no_dispersion_is_the_poisson(truncation: int) -> None:
    rng = np.random.default_rng(2)
    X = np.column_stack([np.ones(50), rng.standard_normal(50)])
    y = truncation + 1.0 + rng.poisson(1.5, 50)
    plain = models.truncated_poisson(y, X, truncation=truncation).evaluate(np.array([0.3, 0.4]), order=1)
    for log_alpha in (-28.0, -34.0):
        both = models.truncated_nb2(y, X, truncation=truncation)
        found = both.evaluate(np.array([0.3, 0.4, log_alpha]), order=1)
        np.testing.assert_allclose(found.loglike, plain.loglike, rtol=2e-11)
        np.testing.assert_allclose(found.gradient[:2], plain.gradient, rtol=1e-9)
        assert abs(found.gradient[2]) < 1e-9


def test_start_of_a_truncated_count_is_near_the_maximum() -> None:
    # positive outcomes taken as complete start 56 below the maximum of this sample, and end at alpha = 0
    likelihood, theta = COUNTS["hurdle"](np.random.default_rng(26), 26)
    start = likelihood.evaluate(likelihood.start()).loglike
    assert start > maximize(likelihood, start=theta).evaluation.loglike - 2.0
