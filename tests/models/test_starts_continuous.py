"""Default starts of continuous, limited, duration and mixture models on 100 simulated samples each.

Parameters vary by sample, and every fourth has regressors on other scales. Where a parameter has run
to its bound that must be said, and densities of scipy.stats bear it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from mlecov import models
from mlecov.errors import BoundaryWarning, ConvergenceError, IdentificationError
from mlecov.optimize import maximize
from tests.models.starts import Bound, check_samples, fitted, income_and_age

Array = npt.NDArray[np.float64]
Density = Callable[[Array], float]
Draw = Callable[[np.random.Generator, int], tuple[Any, Array]]
Number = Callable[[np.random.Generator], float]


def coefficients(rng: np.random.Generator, back: Array, centre: list[float]) -> Array:
    k = len(centre)
    return np.asarray(back[:k, :k] @ (np.array(centre) + 0.25 * rng.standard_normal(k)))


def normal(mean: float, spread: float) -> Number:
    return lambda rng: float(rng.normal(mean, spread))


def uniform(low: float, high: float) -> Number:
    return lambda rng: float(rng.uniform(low, high))


def rows(name: str, n: int, centre: float, last: list[Number], **options: Any) -> Draw:
    """Return draws of a model of y ~ x1 + x2; `last` draws the further coordinates."""
    outcome = {"beta": 0.4}.get(name, 1.0)

    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, n, seed)
        frame["y"] = outcome * np.linspace(0.9, 1.1, n)
        likelihood = getattr(models, name)("y ~ x1 + x2", frame, **options)
        b = coefficients(rng, back, [centre, 0.5, -0.4])
        theta = np.concatenate([b, [number(rng) for number in last]])
        return likelihood.simulate(rng, theta), theta

    return draw


ORDINARY: dict[str, Draw] = {
    "gaussian": rows("gaussian", 300, 1.0, [normal(0.0, 1.0)]),
    "student_t": rows("student_t", 400, 1.0, [normal(0.0, 1.0), uniform(0.5, 1.8)]),
    "gamma": rows("gamma", 300, 1.0, [normal(0.7, 0.8)]),
    "beta": rows("beta", 300, 0.3, [normal(1.7, 0.8)]),
    "gev": rows("gev", 300, 1.0, [normal(0.4, 0.5), uniform(-0.3, 0.4)]),
    "generalized_pareto": rows("generalized_pareto", 300, 1.0, [uniform(-0.3, 0.5)]),
    "tobit": rows("tobit", 300, 0.4, [normal(0.2, 0.3)]),
    "tobit_two": rows("tobit", 300, 0.4, [normal(0.2, 0.3)], upper=1.5),
    "truncated": rows("truncated_regression", 400, 1.0, [normal(0.0, 0.3)], lower=0.0),
    "truncated_two": rows("truncated_regression", 500, 1.0, [normal(0.0, 0.2)], lower=0.0, upper=3.0),
    "frontier": rows("frontier", 400, 1.0, [uniform(-1.6, -0.5), uniform(-0.2, 0.4)]),
    "frontier_cost": rows("frontier", 400, 1.0, [uniform(-1.6, -0.5), uniform(-0.2, 0.4)], cost=True),
    "frontier_exponential": rows(
        "frontier", 400, 1.0, [uniform(-1.6, -0.5), uniform(-0.2, 0.4)], inefficiency="exponential"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_samples(name: str) -> None:
    check_samples(ORDINARY[name])


@pytest.mark.slow
def test_interval_regression() -> None:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        n = 300
        frame, back = income_and_age(rng, n, seed)
        low = np.floor(2 * rng.standard_normal(n))
        frame |= {"low": low, "high": np.where(np.arange(n) % 3, low + 2, np.inf)}
        likelihood = models.interval_regression("low ~ x1 + x2", frame, upper="high")
        theta = np.append(coefficients(rng, back, [0.4, 0.5, -0.4]), rng.normal(0.2, 0.3))
        return likelihood.simulate(rng, theta), theta

    check_samples(draw)


DURATIONS: dict[str, tuple[dict[str, Any], float, list[Number]]] = {
    "exponential": ({}, 0.6, []),
    "exponential_ph": ({"form": "ph"}, -0.6, []),
    "weibull": ({}, 0.6, [normal(-0.4, 0.3)]),
    "weibull_ph": ({"form": "ph"}, -0.6, [normal(0.3, 0.3)]),
    "lognormal": ({}, 0.6, [normal(-0.2, 0.3)]),
    "loglogistic": ({}, 0.6, [normal(-0.6, 0.3)]),
    "gompertz": ({}, -0.6, [uniform(0.2, 1.2)]),
    "generalized_gamma": ({}, 0.6, [normal(-0.4, 0.2), uniform(-0.8, 0.8)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("censored", [False, True])
@pytest.mark.parametrize("name", DURATIONS)
def test_durations(name: str, censored: bool) -> None:
    options, centre, last = DURATIONS[name]
    sign = -1.0 if "form" in options or name == "gompertz" else 1.0
    n = 800 if name == "generalized_gamma" else 400

    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, n, seed)
        event = np.arange(n) % 4
        frame["y"] = np.exp(rng.normal(0.5, 0.8, n))
        more = dict(options)
        if censored:
            frame |= {"event": event.astype(float), "upper": np.where(event == 3, 2 * frame["y"], np.nan)}
            more |= {"event": "event", "upper": "upper"}
        likelihood = getattr(models, name.removesuffix("_ph"))("y ~ x1 + x2", frame, **more)
        b = coefficients(rng, back, [centre, 0.5 * sign, -0.4 * sign])
        theta = np.concatenate([b, [number(rng) for number in last]])
        return likelihood.simulate(rng, theta), theta

    check_samples(draw)


def heckman(n: int, most: float, own: bool = True) -> Draw:
    """Return draws of selection models; `own` says that select has a column the outcome lacks."""

    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, n, seed)
        frame |= {"y": np.arange(n) % 7.0, "seen": np.arange(n) % 2.0, "z": rng.standard_normal(n)}
        right = "x1 + x2 + z" if own else "x1"
        likelihood = models.heckman("y ~ x1", frame, select=f"seen ~ {right}")
        b = coefficients(rng, back, [1.0, 0.5])
        g = coefficients(rng, back, [0.3, 0.6, -0.5][: 3 if own else 2])
        last = [rng.normal(0.8, 0.2)] if own else []
        rho = 2 * np.arctanh(rng.uniform(-most, most))
        theta = np.concatenate([b, g, last, [rng.normal(0, 0.8), rho]])
        return likelihood.simulate(rng, theta), theta

    return draw


@pytest.mark.slow
@pytest.mark.parametrize(("n", "most"), [(500, 0.95), (200, 0.85)])
def test_heckman(n: int, most: float) -> None:
    check_samples(heckman(n, most))


def mixture(n: int, name: str, apart: float) -> Draw:
    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        frame, back = income_and_age(rng, n, seed)
        frame["y"] = np.arange(n) % 9.0
        part = getattr(models, name)
        likelihood = models.finite_mixture(part("y ~ x1", frame), part("y ~ x1", frame))
        spread = [[rng.normal(0, 0.2)], [rng.normal(-0.2, 0.2)]] if name == "gaussian" else [[], []]
        one = coefficients(rng, back, [0.2, 0.5])
        two = coefficients(rng, back, [0.2 + apart, -0.4])
        theta = np.concatenate([one, spread[0], two, spread[1], [rng.normal(0, 0.6)]])
        return likelihood.simulate(rng, theta), theta

    return draw


@pytest.mark.slow
@pytest.mark.parametrize(("n", "name", "apart"), [(400, "gaussian", 4.0), (400, "poisson", 1.8)])
def test_finite_mixture(n: int, name: str, apart: float) -> None:
    check_samples(mixture(n, name, apart))


@pytest.mark.slow
def test_mixtures_of_few_rows() -> None:
    told, failures = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = np.where(rng.random(20) < 0.5, rng.standard_normal(20), rng.normal(2, 1, 20))
        likelihood = models.finite_mixture(*[models.gaussian(y, np.ones((20, 1)))] * 2)
        optimum, said = fitted(likelihood)
        if optimum is None:
            if "no information along" not in str(said[0]) or "log(sigma" not in str(said[0]):
                failures.append(f"{seed}: {said}")
            continue
        m1, s1, m2, s2, share = likelihood.space.report(optimum.theta)
        joint = np.stack([share * stats.norm.pdf(y, m1, s1), (1 - share) * stats.norm.pdf(y, m2, s2)])
        least = float((joint / joint.sum(axis=0)).sum(axis=1).min())
        words = [str(e) for e in said]
        told += bool(words)
        if (least < 3) != any("rests on" in word for word in words):
            failures.append(f"{seed}: {least} rows, {words}")
    assert not failures, failures[:5]
    assert told > 3


def test_a_component_of_zeros() -> None:
    y = np.concatenate([np.zeros(40), np.random.default_rng(0).poisson(5.0, 60)])
    likelihood = models.finite_mixture(*[models.poisson(y, np.ones((100, 1)))] * 2)
    with pytest.warns(BoundaryWarning, match=r"mu[12]\[x0\] is without bound"):
        optimum = maximize(likelihood)
    assert np.exp(optimum.theta[:2].min()) < 1e-6


@pytest.mark.slow
def test_student_t_without_heavy_tails() -> None:
    def density(likelihood: Any) -> Density:
        y, X = likelihood.columns["y"], np.asarray(likelihood.facts.extra["blocks"]["mu"].matrix)
        return lambda theta: float(stats.t.logpdf(y, np.exp(theta[4]), X @ theta[:3], np.exp(theta[3])).sum())

    draw = rows("student_t", 80, 1.0, [normal(0.0, 1.0), uniform(0.5, 3.7)])
    check_samples(draw, (Bound(4, "df is without bound", (1.0, 3.0, 5.0, 7.0, 9.0)),), density)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gev", "generalized_pareto"])
def test_shapes_below_a_half(name: str) -> None:
    last = [normal(0.4, 0.5), uniform(-0.4, 0.4)] if name == "gev" else [uniform(-0.4, 0.4)]
    draw, told, failures = rows(name, 60, 1.0, last), 0, []
    for seed in range(100):
        likelihood, _ = draw(np.random.default_rng(seed), seed)
        optimum, said = fitted(likelihood)
        if optimum is None or (optimum.theta[-1] <= -0.5) != any("at or below -1/2" in str(e) for e in said):
            failures.append(f"{seed}: {said}")
        told += bool(said)
    assert not failures, failures[:5]
    assert told > 3


def inefficiency_density(likelihood: Any) -> Density:
    """Return y as a skew normal (half-normal u) or an exponentially modified normal (exponential u)."""
    y, X = likelihood.columns["y"], np.asarray(likelihood.facts.extra["blocks"]["mu"].matrix)
    half = type(likelihood.model).__name__.startswith("Half")

    def density(theta: Array) -> float:
        e, v, u = y - X @ theta[:3], np.exp(theta[3]), np.exp(theta[4])
        if half:
            return float(stats.skewnorm.logpdf(e, -u / v, 0, np.hypot(u, v)).sum())
        return float(stats.exponnorm.logpdf(-e, u / v, 0, v).sum())

    return density


def skewed(kind: str, wrong: bool) -> Draw:
    """Return draws of small samples whose least-squares residuals are skewed the right, or the wrong, way."""
    plain = rows("frontier", 100, 1.0, [uniform(-1.6, -0.5), uniform(-2.0, -0.2)], inefficiency=kind)

    def draw(rng: np.random.Generator, seed: int) -> tuple[Any, Array]:
        while True:
            likelihood, theta = plain(rng, seed)
            y, X = likelihood.columns["y"], np.asarray(likelihood.facts.extra["blocks"]["mu"].matrix)
            e = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
            if ((e**3).sum() > 0) == wrong:
                return likelihood, theta

    return draw


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["half_normal", "exponential"])
def test_frontiers_with_little_noise_or_inefficiency(kind: str) -> None:
    failures, at_bound = [], 0
    for seed in range(100):
        likelihood, _ = skewed(kind, False)(np.random.default_rng(seed), seed)
        optimum, said = fitted(likelihood)
        words = [str(e) for e in said]
        density = inefficiency_density(likelihood)
        if not words:
            if abs(optimum.theta[3:]).max() > 9:
                failures.append(f"{seed}: at a bound without a word: {optimum.theta}")
            continue
        at_bound += 1
        rising, heights = [], []
        for name in ("sigma_v", "sigma_u"):
            if optimum is None or any(f"{name} is at its bound" in word for word in words):
                found = [maximize(likelihood, fixed={name: value}) for value in (0.4, 0.2, 0.1, 0.05)]
                heights = [density(there.likelihood.full(there.theta)) for there in found]
                rising.append(bool((np.diff(heights) > 0).all()))
        if not any(rising) or (optimum and optimum.evaluation.loglike < max(heights)):
            failures.append(f"{seed}: {words} {heights}")
    assert not failures, failures[:5]
    assert at_bound or kind == "exponential"


def test_frontiers_of_the_wrong_skewness() -> None:
    for seed in range(12):
        likelihood, theta = skewed("half_normal", True)(np.random.default_rng(seed), seed)
        with pytest.raises(ConvergenceError, match="Waldman"):
            maximize(likelihood)
        with pytest.warns(BoundaryWarning, match="sigma_u is at its bound, zero"):
            optimum = maximize(likelihood, start=theta)
        y, X = likelihood.columns["y"], np.asarray(likelihood.facts.extra["blocks"]["mu"].matrix)
        e = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
        least_squares = stats.norm.logpdf(e, 0, e.std()).sum()
        assert abs(optimum.evaluation.loglike - least_squares) < 1e-5


def test_rho_at_its_bound() -> None:
    likelihood, theta = heckman(200, 0.5)(np.random.default_rng(0), 0)
    assert likelihood.boundary(likelihood.evaluate(theta)) is None
    for sign in (1.0, -1.0):
        theta[-1] = sign * 35.0
        said = likelihood.boundary(likelihood.evaluate(theta))
        assert said is not None and f"rho is at its bound, {'+' if sign > 0 else '-'}1" in said


def test_an_unidentified_point_at_a_bound_names_the_bound() -> None:
    """Without a column of its own in select, rho runs to one: the error says so beside the flat directions."""
    rng = np.random.default_rng(26)
    x = rng.standard_normal(100)
    u = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.7], [0.7, 1.0]], 100)
    seen = (0.3 + 0.8 * x + u[:, 1] > 0).astype(float)
    frame = {"y": np.where(seen == 1, 1 + 0.5 * x + u[:, 0], 0.0), "x": x, "seen": seen}
    with pytest.raises(
        IdentificationError, match=r"(?s)no information along.*heckman: rho is at its bound, \+1"
    ):
        maximize(models.heckman("y ~ x", frame, select="seen ~ x"))
