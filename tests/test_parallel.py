"""Blocks in threads: in order, the same to the last bit as without, and equal to the plain formulas."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mlecov as ml
from mlecov import parallel
from mlecov.optimize.newton import bent
from mlecov.parallel import map_parts, pipeline, scratch

N, K = 70_001, 4
index = sys.modules["mlecov.likelihood.index"]


def sample(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(N), rng.standard_normal((N, K - 1))])
    y = (X @ [0.2, 0.5, -0.4, 0.1] + rng.standard_normal(N) > 0).astype(float)
    return y, X


@pytest.fixture(params=[1, 2, 5])
def with_cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    count = int(request.param)
    monkeypatch.setattr(parallel, "cores", lambda: count)
    return count


def test_pipeline_keeps_the_order_and_derives_in_the_calling_thread(with_cores: int) -> None:
    here, others = set(), set()

    def derive(start: int, stop: int) -> int:
        here.add(threading.get_ident())
        return stop - start

    def reduce(start: int, stop: int, derived: int) -> tuple[int, int]:
        others.add(threading.get_ident())
        return start, derived

    bounds = [(a, a + 1000) for a in range(0, 50_000, 1000)]
    assert pipeline(derive, reduce, bounds, 50_000) == [(a, 1000) for a, _ in bounds]
    assert here == {threading.get_ident()}
    assert (here == others) == (with_cores == 1)


def test_an_error_in_a_block_reaches_the_caller(with_cores: int) -> None:
    def fail(start: int, stop: int, derived: int) -> int:
        raise ZeroDivisionError(str(start))

    bounds = [(a, a + 1000) for a in range(0, 50_000, 1000)]
    with pytest.raises(ZeroDivisionError, match="^0$"):
        pipeline(lambda a, b: 0, fail, bounds, 50_000)
    with pytest.raises(ZeroDivisionError):
        pipeline(lambda a, b: 1 // 0, lambda a, b, d: 0, bounds, 50_000)


def test_workers_start_no_threads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)

    def inner(start: int, stop: int) -> set[int]:
        names = {threading.get_ident()}
        pipeline(
            lambda a, b: 0,
            lambda a, b, d: names.add(threading.get_ident()),
            [(a, a + 1000) for a in range(0, 50_000, 1000)],
            50_000,
        )
        return names

    for names in map_parts(inner, 3 * parallel.PART):
        assert len(names) == 1


def test_scratch_is_reused_and_of_each_thread() -> None:
    first = scratch(10, 3)
    assert first.shape == (10, 3) and scratch(5, 2).base is scratch(10, 3).base
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.append(scratch(10, 3)))
    other.start()
    other.join()
    assert not np.shares_memory(found[0], scratch(10, 3))


@pytest.mark.parametrize("model", ["probit", "logit", "poisson"])
def test_every_number_of_cores_gives_the_same_bits(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    y, X = sample()
    likelihood = getattr(ml.models, model)(y, X)
    theta = np.array([0.1, 0.2, -0.1, 0.3])
    found = []
    for count in (1, 2, 5):
        monkeypatch.setattr(parallel, "cores", lambda count=count: count)
        here = likelihood.evaluate(theta, order=2, scores=True)
        found.append((here.loglike, here.gradient.tobytes(), here.hessian.tobytes(), here.meat.tobytes()))
    assert found[0] == found[1] == found[2]


def plain(y: Any, X: Any, theta: Any, w: Any) -> dict[str, Any]:
    """Return what the row kernel computes, as one formula each on whole arrays (logit)."""
    p = 1 / (1 + np.exp(-X @ theta))
    return {
        "loglike": np.sum(w * np.where(y == 1, np.log(p), np.log1p(-p))),
        "gradient": X.T @ (w * (y - p)),
        "hessian": -(X * (w * p * (1 - p))[:, None]).T @ X,
        "meat": (X * (w * (y - p) ** 2)[:, None]).T @ X,
    }


WEIGHTS: dict[str, Callable[[Any], Any]] = {
    "none": lambda rng: None,
    "frequency": lambda rng: rng.integers(0, 4, N).astype(float),
}


@pytest.mark.parametrize("rows", [512, 16384, 10**6])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_kernel_equals_the_plain_formulas(
    rows: int, weights: str, with_cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "ROWS", rows)
    y, X = sample()
    given = WEIGHTS[weights](np.random.default_rng(3))
    w = np.ones(N) if given is None else given
    theta = np.array([0.1, 0.2, -0.1, 0.3])
    found = ml.models.logit(y, X, frequency_weights=given).evaluate(theta, order=2, scores=True)
    for name, value in plain(y, X, theta, w).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-11, err_msg=name)
    assert found.scores is not None
    codes = np.random.default_rng(4).integers(0, 300, N)
    p = 1 / (1 + np.exp(-X @ theta))
    sums = np.array([np.bincount(codes, w * (y - p) * column, 300) for column in X.T]).T
    np.testing.assert_allclose(found.scores.group_gram(codes, 300), sums.T @ sums, rtol=1e-10)


def test_the_start_from_a_fraction_leads_to_the_same_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    maximize = sys.modules["mlecov.optimize.maximize"]
    y, X = sample()
    monkeypatch.setattr(maximize, "MANY_TERMS", 10**9)
    whole = ml.fit(ml.models.probit(y, X))
    monkeypatch.setattr(maximize, "MANY_TERMS", 10_000)
    fraction = ml.fit(ml.models.probit(y, X))
    assert whole.record.start.tolist() != fraction.record.start.tolist()
    np.testing.assert_allclose(fraction.theta, whole.theta, rtol=1e-10, atol=1e-12)
    for name in ("oim", "opg", "robust"):
        np.testing.assert_allclose(fraction.cov(name).matrix, whole.cov(name).matrix, rtol=1e-10, atol=1e-16)


ONE_PREDICTOR: dict[str, Callable[..., Any]] = {
    "probit": ml.models.probit,
    "logit": ml.models.logit,
    "cloglog": ml.models.cloglog,
    "poisson": ml.models.poisson,
}


@pytest.mark.parametrize("model", ONE_PREDICTOR)
@pytest.mark.parametrize("restricted", [False, True])
def test_the_bend_is_what_newtons_step_leaves_of_the_gradient(
    model: str, restricted: bool, with_cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the third derivative along a step is the second-order difference of the gradient (Taylor)."""
    monkeypatch.setattr(index, "SMALL", 0)
    y, X = sample()
    w = np.random.default_rng(3).integers(0, 4, N).astype(float)
    likelihood: Any = ONE_PREDICTOR[model](y, X, frequency_weights=w, offset=0.1 * X[:, 1])
    theta, step = np.array([0.1, 0.2, -0.1, 0.3]), np.array([0.4, -0.3, 0.2, 0.5])
    if restricted:
        likelihood = likelihood.restricted(np.eye(4)[:, :3], np.array([0.0, 0.0, 0.0, 0.3]))
        theta, step = theta[:3], step[:3]
    assert likelihood.knows_third
    at = likelihood.evaluate(theta, order=3)
    h = 1e-3
    ahead, behind = (likelihood.evaluate(theta + s * h * step, order=1).gradient for s in (1, -1))
    expected = (ahead - 2 * at.gradient + behind) / (2 * h * h)
    np.testing.assert_allclose(likelihood.bend(at, step), expected, rtol=1e-5)


@pytest.mark.parametrize("model", ONE_PREDICTOR)
def test_bent_steps_reach_the_same_maximum_in_fewer_passes(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, X = sample()
    bent = ml.fit(ONE_PREDICTOR[model](y, X))
    monkeypatch.setattr(index, "SMALL", 10**9)
    plain = ml.fit(ONE_PREDICTOR[model](y, X))
    assert bent.record.evaluations <= plain.record.evaluations
    assert bent.record.decrement <= 1e-20
    assert bent.optimum.evaluation.third is None
    np.testing.assert_allclose(bent.theta, plain.theta, rtol=1e-10, atol=1e-12)
    for name in ("oim", "opg", "robust"):
        np.testing.assert_allclose(bent.cov(name).matrix, plain.cov(name).matrix, rtol=1e-10, atol=1e-16)


def test_a_step_is_not_bent_where_the_third_derivative_rules_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the maximum, or where the correction is not finite, Newton's own step is taken."""
    y, X = sample()
    likelihood = ml.models.poisson(y, X)
    near = likelihood.evaluate(ml.fit(likelihood).theta + 1e-3, order=3)
    assert near.newton is not None
    step, decrement = near.newton
    assert not np.array_equal(bent(likelihood, near, step, decrement), step)
    far = likelihood.evaluate(np.array([5.0, 0.0, 0.0, 0.0]), order=3)
    assert far.newton is not None
    assert bent(likelihood, far, *far.newton) is far.newton[0]
    monkeypatch.setattr(type(likelihood), "bend", lambda *_: np.full(4, np.nan))
    assert bent(likelihood, near, step, decrement) is step
