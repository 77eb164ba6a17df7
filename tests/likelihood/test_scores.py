"""SCORES x reductions == dense: every kind of scores against the matrix itself."""

from collections.abc import Callable

import numpy as np
import pytest

import mlecov as ml
from mlecov.data import Weights
from mlecov.likelihood import lags
from mlecov.likelihood.lags import band_gram
from mlecov.likelihood.scores import DenseScores, Scores

N = 5003  # two blocks, the last one ragged


def frame() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "y": rng.poisson(2.0, N).astype(float),
        "z": rng.standard_normal(N),
        "x": rng.standard_normal(N),
        "g": rng.integers(0, 60, N),
        "w": rng.integers(1, 4, N).astype(float),
    }


def gaussian_two_equations(kind: str | None) -> Scores:
    options = {} if kind is None else {f"{kind}_weights": "w"}
    lik = ml.models.gaussian("y ~ x + z", frame(), sigma="z", **options)
    found = lik.evaluate(np.array([1.9, 0.1, -0.2, 0.3, 0.05]), order=1, scores=True).scores
    assert found is not None
    return found


def categorical(kind: str | None) -> Scores:
    options = {} if kind is None else {f"{kind}_weights": "w"}
    lik = ml.models.poisson("y ~ x + C(g)", frame(), **options)
    assert not lik.design.is_dense
    found = lik.evaluate(0.1 * np.ones(lik.space.k) / lik.space.k, order=1, scores=True).scores
    assert found is not None
    return found


def dense(kind: str | None) -> Scores:
    rng = np.random.default_rng(6)
    return DenseScores(rng.standard_normal((N, 4)), None if kind is None else Weights(frame()["w"], kind))


def mapped(kind: str | None) -> Scores:
    rng = np.random.default_rng(7)
    base = gaussian_two_equations(kind)
    return base.map(rng.standard_normal((base.k, 3)))


KINDS: dict[str, Callable[[str | None], Scores]] = {
    "dense": dense,
    "index": gaussian_two_equations,
    "categorical": categorical,
    "mapped": mapped,
}


@pytest.fixture(params=[(k, w) for k in KINDS for w in (None, "frequency", "probability")], ids=str)
def scores(request: pytest.FixtureRequest) -> Scores:
    kind, weights = request.param
    return KINDS[kind](weights)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11 * np.abs(expected).max())


def weighted(scores: Scores) -> np.ndarray:
    S = scores.to_dense()
    return S if scores.weights is None else S * scores.weights.values[:, None]


def test_blocks_make_the_matrix(scores: Scores) -> None:
    S = scores.to_dense()
    assert S.shape == (N, scores.k)
    stops = [(start, stop, len(rows)) for start, stop, rows in scores.blocks()]
    assert all(stop - start == size for start, stop, size in stops)
    assert stops[0][0] == 0 and stops[-1][1] == N


def test_meat(scores: Scores) -> None:
    S = scores.to_dense()
    power = 0 if scores.weights is None else scores.weights.meat_power
    w = np.ones(N) if scores.weights is None else scores.weights.values**power
    close(scores.meat(), (S * w[:, None]).T @ S)
    if scores.weights is not None:
        expected = 1 if scores.weights.kind == "frequency" else 2
        assert scores.weights.meat_power == expected


def test_gram_with_other_scores_and_weights(scores: Scores) -> None:
    rng = np.random.default_rng(8)
    other, w = DenseScores(rng.standard_normal((N, 2))), rng.random(N)
    S, T = scores.to_dense(), other.to_dense()
    close(scores.gram(other, weights=w), (S * w[:, None]).T @ T)
    close(scores.gram(weights=w), (S * w[:, None]).T @ S)
    close(scores.gram(power=0), S.T @ S)


@pytest.mark.parametrize("order", ["sorted", "mixed", "some left out"])
def test_group_sums(scores: Scores, order: str) -> None:
    codes = np.random.default_rng(9).integers(0, 100, N)
    codes = np.sort(codes) if order == "sorted" else codes
    if order == "some left out":
        codes = np.where(codes == 7, -1, codes)
    member = (codes[None] == np.arange(100)[:, None]).astype(float)
    close(scores.group_sums(codes.astype(np.intp), 100), member @ weighted(scores))


def test_left_right_sum(scores: Scores) -> None:
    rng = np.random.default_rng(10)
    W, V = rng.standard_normal((3, N)), rng.standard_normal((scores.k, 2))
    close(scores.left(W), W @ weighted(scores))
    close(scores.right(V), scores.to_dense() @ V)
    close(scores.right(V[:, 0]), scores.to_dense() @ V[:, 0])
    close(scores.sum(), weighted(scores).sum(0))


@pytest.mark.parametrize("breaks", [None, [1000, 1001, 4097]])
@pytest.mark.parametrize("lags", [0, 1, 7, 600])
def test_kernel_gram_is_the_double_sum(scores: Scores, lags: int, breaks: list[int] | None) -> None:
    kernel = 1 - np.arange(lags + 1) / (lags + 1.5) ** 1.1
    S = weighted(scores)
    series = np.searchsorted([] if breaks is None else breaks, np.arange(N), side="right")
    expected = kernel[0] * S.T @ S
    for lag in range(1, lags + 1):
        same = (series[lag:] == series[:-lag]).astype(float)
        gamma = (S[lag:] * same[:, None]).T @ S[:-lag]
        expected += kernel[lag] * (gamma + gamma.T)
    found = scores.kernel_gram(kernel, None if breaks is None else np.array(breaks))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("held", [1, 2 * N + 1, 10**9])
def test_kernel_gram_by_groups_of_columns(scores: Scores, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = np.cos(np.arange(700) / 300) / (1 + np.arange(700) / 50)
    banded = band_gram(scores.weighted_blocks(), scores.k, kernel, np.array([1800]))
    monkeypatch.setattr(lags, "TRANSFORMED", held)
    found = scores.kernel_gram(kernel, np.array([1800]))
    np.testing.assert_allclose(found, banded, rtol=1e-11, atol=1e-12 * np.abs(banded).max())


def test_take(scores: Scores) -> None:
    terms = np.array([5, 5, 4999, 0])
    part = scores.take(terms)
    close(part.to_dense(), scores.to_dense()[terms])
    close(part.sum(), weighted(scores)[terms].sum(0))
