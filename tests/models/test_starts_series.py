"""Default starts of time series and mixed models on 100 simulated samples each, and what is said at bounds.

Where a parameter has run to its bound, that must be said; densities by other code bear it out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import linalg, signal, stats

from mlecov import models
from mlecov.optimize import maximize
from tests.models.starts import Bound, check_samples, fitted, income_and_age

Array = npt.NDArray[np.float64]
Density = Callable[[Array], float]
Draw = Callable[[np.random.Generator, int], tuple[Any, Array]]


def coefficients(rng: np.random.Generator, back: Array, centre: list[float]) -> Array:
    k = len(centre)
    return np.asarray(back[:k, :k] @ (np.array(centre) + 0.25 * rng.standard_normal(k)))


def mixed(n: int, random: str, least: float, most: float) -> Draw:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        unit = np.repeat(np.arange(n), rng.integers(2, 8, n))
        scale = 1.0 if seed % 4 < 3 else 20.0
        frame, back = income_and_age(rng, len(unit), seed)
        frame |= {"id": unit, "t": scale * rng.standard_normal(len(unit)), "y": np.arange(len(unit)) % 7.0}
        likelihood = models.linear_mixed("y ~ x1 + x2", pd.DataFrame(frame), unit="id", random=random)
        sd = rng.uniform(least, most, 2) / [1.0, scale]
        cor = 2 * np.arctanh(rng.uniform(-0.6, 0.6))
        inner = [*np.log(sd), cor] if "t" in random else [np.log(sd[0])]
        theta = np.concatenate([coefficients(rng, back, [1.0, 0.5, -0.4]), inner, [rng.normal(0, 0.3)]])
        return likelihood.simulate(rng, theta), theta

    return draw


def mixed_density(likelihood: Any) -> Density:
    """Return the normal densities unit by unit, of y drawn with the likelihood's sums of products."""
    columns, model = likelihood.columns, likelihood.model
    p, q = model.p, model.q
    # any rows with these sums have this density: the Cholesky factor of the sums of (X, Z, y) is such
    units = []
    for i, N in enumerate(columns["N"]):
        gram = np.block(
            [
                [columns["XX"][i], columns["XZ"][i], columns["Xy"][i][:, None]],
                [columns["XZ"][i].T, columns["ZZ"][i], columns["Zy"][i][:, None]],
                [columns["Xy"][i][None], columns["Zy"][i][None], columns["yy"][i : i + 1, None]],
            ]
        )
        length = np.sqrt(gram.diagonal())
        values, vectors = np.linalg.eigh(gram / np.outer(length, length))
        root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T * length
        top = root[-int(min(N, len(root))) :]
        rows = np.zeros((int(N), len(root)))
        rows[: len(top)] = top
        units.append(rows)

    def density(theta: Array) -> float:
        sd, sigma = np.exp(theta[p : p + q]), np.exp(theta[-1])
        R = np.eye(q)
        if q == 2:
            R[0, 1] = R[1, 0] = np.tanh(0.5 * theta[p + q])
        total = 0.0
        for rows in units:
            Z = rows[:, p : p + q]
            V = Z @ (np.outer(sd, sd) * R) @ Z.T + sigma**2 * np.eye(len(rows))
            e = rows[:, -1] - rows[:, :p] @ (theta[:p] - np.array(model.b0))
            factor = np.linalg.cholesky(V)
            z = linalg.solve_triangular(factor, e, lower=True)
            total -= 0.5 * (z @ z + len(e) * np.log(2 * np.pi)) + np.log(factor.diagonal()).sum()
        return float(total)

    return density


MIXED = {
    "intercept": (
        mixed(40, "1", 0.05, 1.0),
        (Bound(3, "Intercept is at its bound, zero", (0.0, -1.0, -2.0, -4.0)),),
    ),
    "slope": (
        mixed(40, "1 + t", 0.3, 1.2),
        tuple(
            Bound(5, words, tuple(sign * t for t in (2.0, 4.0, 6.0, 9.0)))
            for sign, words in ((1, "cor is at its bound, +1"), (-1, "cor is at its bound, -1"))
        ),
    ),
    "many_units": (mixed(150, "1 + t", 0.8, 1.6), ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXED)
def test_linear_mixed(name: str) -> None:
    check_samples(*MIXED[name], mixed_density)


def garch(n: int, **options: Any) -> Draw:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, n, seed)
        frame["y"] = np.arange(n) % 7.0
        likelihood = models.garch("y ~ x1", pd.DataFrame(frame), **options)
        scale = np.exp(rng.normal(0, 2))
        values: dict[str, Any] = {"mu": coefficients(rng, back, [0.3, 0.5]) * np.sqrt(scale)}
        alpha, gamma = rng.uniform(0.05, 0.25), rng.uniform(0.03, 0.2) if options.get("asymmetry") else 0.0
        beta = rng.uniform(0.5, 0.97 - alpha - gamma / 2)
        if options.get("p") == 0:
            alpha, beta = rng.uniform(0.1, 0.7), 0.0
        further = {"ar1": rng.uniform(0.2, 0.7), "ma1": rng.uniform(0.0, 0.5), "gamma": gamma}
        further |= {"nu": rng.uniform(3.5, 10.0), "beta": beta}
        values |= {"omega": scale * (1 - alpha - gamma / 2 - beta), "alpha": alpha}
        values |= {name: value for name, value in further.items() if name in likelihood.space.labels}
        theta = likelihood.space.pack(values)
        return likelihood.simulate(rng, theta), theta

    return draw


GARCH = {
    "garch": garch(1000),
    "steady": garch(1000, presample="steady"),
    "arch": garch(500, p=0),
    "gjr": garch(1000, asymmetry=1),
    "t": garch(1000, dist="t"),
    "arma": garch(800, ar=1, ma=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GARCH)
def test_garch(name: str) -> None:
    check_samples(GARCH[name])


def riskmetrics(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
    """Return a sample of h_t = alpha e^2 + (1 - alpha) h: omega is zero, or a ten-thousandth."""
    n, alpha, omega = 600, rng.uniform(0.03, 0.15), 1e-4 if seed % 2 else 1e-12
    y, h = np.empty(n), 1.0
    for t in range(n):
        y[t] = np.sqrt(h) * rng.standard_normal()
        h = omega + alpha * y[t] ** 2 + (1 - alpha) * h
    likelihood = models.garch(y)
    return likelihood, likelihood.space.pack({"mu": 0.0, "omega": omega, "alpha": alpha, "beta": 1 - alpha})


def garch_density(likelihood: Any) -> Density:
    y = likelihood.columns["y"]

    def density(theta: Array) -> float:
        mu, omega, alpha, beta = theta[0], np.exp(theta[1]), theta[2], theta[3]
        s = (y - mu) ** 2
        before = np.concatenate([[s.mean()], s[:-1]])
        h = signal.lfilter([1.0], [1.0, -beta], omega + alpha * before, zi=[beta * s.mean()])[0]
        return float(stats.norm.logpdf(y, mu, np.sqrt(h)).sum()) if h.min() > 0 else -np.inf

    return density


@pytest.mark.slow
def test_garch_without_omega() -> None:
    spread = (-6.0, -10.0, -16.0, -24.0)
    failures, told = [], 0
    for seed in range(100):
        likelihood, _ = riskmetrics(np.random.default_rng(seed), seed)
        optimum, said = fitted(likelihood)
        words = [str(e) for e in said]
        density = garch_density(likelihood)
        if not words:
            there = optimum.theta + np.array([0.0, -5.0, 0.0, 0.0])
            if density(there) > density(optimum.theta) - 1e-7:
                failures.append(f"{seed}: omega at its bound without a word: {optimum.theta}")
        elif all("omega is at its bound" in word for word in words):
            told += 1
            found = [density(np.array([*optimum.theta[:1], value, *optimum.theta[2:]])) for value in spread]
            scale = np.log(np.mean(likelihood.columns["y"] ** 2))
            if not (np.diff(found) > -1e-6).all() or abs(found[-1] - optimum.evaluation.loglike) > 1e-3:
                failures.append(f"{seed}: {found} {optimum.evaluation.loglike} {scale}")
        else:
            failures.append(f"{seed}: {words}")
    assert not failures, failures[:5]
    assert told > 10


def arma(n: int, p: int, q: int, **options: Any) -> Draw:
    """Return draws whose roots of the autoregression and the moving average are far from cancelling."""

    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, n, seed)
        frame["y"] = np.arange(n) % 7.0
        likelihood = models.arma("y ~ x1", pd.DataFrame(frame), p=p, q=q, **options)
        ar = -np.poly([*rng.uniform(0.5, 0.9, 1), *rng.uniform(-0.5, 0.3, 1)][:p])[1:] if p else []
        ma = np.poly([*rng.uniform(-0.8, -0.3, 1), *rng.uniform(-0.4, 0.2, 1)][:q])[1:] if q else []
        seasonal = [rng.uniform(-0.6, 0.6)] if "seasonal" in options else []
        b = coefficients(rng, back, [0.3, 0.5])
        theta = np.concatenate([b, ar, ma, seasonal, [rng.normal(0, 1)]])
        return likelihood.simulate(rng, theta), theta

    return draw


ARMA = {
    "ar2": arma(150, 2, 0),
    "ma2": arma(120, 0, 2),
    "seasonal": arma(120, 1, 0, seasonal=(0, 1, 1, 4)),
}


def arma_density(likelihood: Any, width: int, p: int) -> Density:
    """Return the normal density of the whole sample, by the autocovariances of a long moving average."""
    y, X, n = likelihood.columns["y"], likelihood.columns["data"][:, 1:], likelihood.n_terms

    def density(theta: Array) -> float:
        impulse = np.zeros(4 * n + 200)
        impulse[0] = 1.0
        ar, ma = theta[width : width + p], theta[width + p : -1]
        psi = signal.lfilter(np.append(1.0, ma), np.append(1.0, -ar), impulse)
        covariance = np.array([psi[k:] @ psi[: len(psi) - k] for k in range(n)])
        factor = np.linalg.cholesky(linalg.toeplitz(covariance))
        z = linalg.solve_triangular(factor, y - X @ theta[:width], lower=True) / np.exp(theta[-1])
        fixed = n * (theta[-1] + 0.5 * np.log(2 * np.pi))
        return float(-0.5 * z @ z - np.log(factor.diagonal()).sum() - fixed)

    return density


def on_the_circle(draw: Draw, p: int, samples: int) -> int:
    """Check each sample's fit: a moving average of one lag is at one exactly where that is said."""
    told, failures = 0, []
    for seed in range(samples):
        likelihood, theta = draw(np.random.default_rng(seed), seed)
        optimum, said = fitted(likelihood)
        from_truth = fitted_from(likelihood, theta)
        if optimum is None or optimum.evaluation.loglike < from_truth - 1e-6:
            failures.append(f"{seed}: {said} {from_truth}")
            continue
        density, here = arma_density(likelihood, 2, p), optimum.theta.copy()
        words = [str(e) for e in said]
        if not words:
            if abs(abs(here[2 + p]) - 1.0) < 1e-3:
                failures.append(f"{seed}: at one without a word: {here}")
            continue
        told += 1
        found = []
        for size in (0.9, 0.97, 0.99, 1.0):
            here[2 + p] = size * np.sign(optimum.theta[2 + p])
            found.append(density(here))
        if any("moving average has a root on the unit circle" not in word for word in words):
            failures.append(f"{seed}: {words}")
        elif not (np.diff(found) > 0).all() or abs(found[-1] - optimum.evaluation.loglike) > 1e-4:
            failures.append(f"{seed}: the profile {found}, claimed {optimum.evaluation.loglike}")
    assert not failures, f"{len(failures)} of {samples}: " + "\n".join(failures[:6])
    return told


def fitted_from(likelihood: Any, theta: Array) -> float:
    """Return the largest log-likelihood that a fit from theta leads to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(maximize(likelihood, start=theta).evaluation.loglike)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMA)
def test_arma(name: str) -> None:
    check_samples(ARMA[name])


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2])
def test_mixed_arma(p: int) -> None:
    on_the_circle(arma(100 + 50 * p, p, 1), p, 100)


@pytest.mark.slow
def test_moving_averages_on_the_unit_circle() -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, 50, seed)
        frame["y"] = np.arange(50) % 7.0
        likelihood = models.arma("y ~ x1", pd.DataFrame(frame), p=0, q=1)
        ma = rng.uniform(-0.95, 0.95)
        theta = np.concatenate([coefficients(rng, back, [0.3, 0.5]), [ma, rng.normal(0, 1)]])
        return likelihood.simulate(rng, theta), theta

    assert on_the_circle(draw, 0, 100) > 10


def switching(n: int, p: int, own_sigma: bool) -> Draw:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        likelihood = models.markov_switching(np.arange(n) % 7.0, p=p, own_sigma=own_sigma)
        scale = 1.0 if seed % 4 < 3 else 1000.0
        stay, sigma = rng.uniform(0.75, 0.95, 2), scale * np.exp(rng.normal(0, 0.15, 2))
        values = {"p00": stay[0], "p10": 1 - stay[1], "mu0": -1.5 * scale, "mu1": 1.5 * scale}
        values |= {"sigma0": sigma[0], "sigma1": sigma[1]} if own_sigma else {"sigma": sigma[0]}
        values |= {f"ar{j + 1}": rng.uniform(-0.2, 0.5) for j in range(p)}
        theta = likelihood.space.pack(values)
        return likelihood.simulate(rng, theta), theta

    return draw


@pytest.mark.slow
@pytest.mark.parametrize(("n", "p", "own_sigma"), [(200, 0, False), (150, 1, False), (200, 0, True)])
def test_markov_switching(n: int, p: int, own_sigma: bool) -> None:
    check_samples(switching(n, p, own_sigma))


def hamilton(y: Array, moves: Array, mu: Array, sigma: Array) -> float:
    """Return the log-likelihood of two regimes without lags, moves P(0 | 0) and P(0 | 1), by a plain loop."""
    T = np.array([moves, 1 - moves])
    ahead = np.array([moves[1], 1 - moves[0]]) / (1 - moves[0] + moves[1])
    total = 0.0
    for density in stats.norm.pdf(y[:, None], mu, sigma):
        joint = ahead * density
        total += np.log(joint.sum())
        ahead = T @ (joint / joint.sum())
    return float(total)


@pytest.mark.slow
def test_moves_between_regimes_that_never_happen() -> None:
    told, failures = 0, []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        y = 3.5 * (np.arange(60) % 6 == rng.integers(6)) + rng.standard_normal(60)
        likelihood = models.markov_switching(y)
        optimum, said = fitted(likelihood)
        assert optimum is not None
        *moves, mu0, mu1, sigma = likelihood.space.report(optimum.theta)
        away = np.minimum(moves, 1 - np.array(moves))
        words = [str(e) for e in said]
        if not words:
            if away.min() < 1e-5:
                failures.append(f"{seed}: at a bound without a word: {moves}")
            continue
        told += 1
        found = []
        for size in (1e-2, 1e-3, 1e-4, 1e-6):
            there = np.where(away < 1e-5, np.where(np.array(moves) > 0.5, 1 - size, size), moves)
            found.append(hamilton(y, there, np.array([mu0, mu1]), np.array([sigma, sigma])))
        if any("a transition probability is at its bound" not in word for word in words):
            failures.append(f"{seed}: {words}")
        elif not (np.diff(found[1:]) > 0).all() or abs(found[-1] - optimum.evaluation.loglike) > 1e-3:
            failures.append(f"{seed}: {found}, claimed {optimum.evaluation.loglike}")
    assert not failures, failures[:5]
    assert told > 50
