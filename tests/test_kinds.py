"""Every parameter kind against JAX: round trip, Jacobian, second derivative; labels and refusals."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from mlecov.autodiff import jax, jnp, x64
from mlecov.errors import SpecificationError, SupportError
from mlecov.kinds import (
    Covariance,
    Kind,
    Link,
    Positive,
    Real,
    as_kind,
    correlation,
    covariance,
    estimated,
    fixed,
    interval,
    ordered,
    positive,
    real,
    simplex,
)
from mlecov.matrix import duplication_left_inverse, elimination_matrix

KINDS: list[Kind] = [
    real(),
    real(np.zeros((2, 3))),
    positive(),
    positive([0.5, 2.0]),
    interval(-1, 1),
    interval(0, 1, 0.2),
    interval(-5, 1),
    interval(1, 7, [2.0, 3.0]),
    interval(2, math.inf),
    interval(-math.inf, 3),
    simplex(2),
    simplex(4, [0.1, 0.2, 0.3, 0.4]),
    ordered(1),
    ordered(4, [-1.0, 0.0, 0.5, 3.0]),
    correlation(2),
    correlation(3, [[1.0, 0.5, -0.2], [0.5, 1.0, 0.3], [-0.2, 0.3, 1.0]]),
    correlation(5),
    covariance(1),
    covariance(2, [[2.0, -0.5], [-0.5, 1.0]]),
    covariance(4),
    fixed(2.0),
    fixed([1.0, 2.0]),
    estimated("beta", 3),
]
IDS = [f"{kind.title}{kind.shape}" for kind in KINDS]


def points(kind: Kind) -> list[np.ndarray]:
    """Return the start, the origin (where kinked formulas lose derivatives) and two draws."""
    rng = np.random.default_rng(20261123)
    return [kind.start_free(), np.zeros(kind.n_free), *rng.normal(size=(2, kind.n_free))]


def entries(kind: Kind, value):
    """Pick the reported entries out of a value, independently of `report`."""
    if kind.n_reported == math.prod(kind.shape):
        return value.reshape(-1)
    low = 0 if isinstance(kind, Covariance) else 1
    return value[tuple(np.array([(i, j) for j in range(kind.d) for i in range(j + low, kind.d)]).T)]


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_value_and_free_are_inverse(kind):
    for u in points(kind):
        value = kind.value(u)
        assert np.shape(value) == kind.shape
        np.testing.assert_allclose(kind.free(value), u, rtol=1e-12, atol=1e-12)
    if kind.start is not None:
        np.testing.assert_allclose(kind.value(kind.start_free()), kind.start, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_value_maps_over_points_and_derivatives_equal_autodiff(kind):
    weights = np.random.default_rng(7).normal(size=kind.n_reported)

    def report(u):
        return entries(kind, jnp().asarray(kind.value(u, jnp())))

    def everything(u):
        hessian = jax().jacfwd(jax().jacrev(lambda v: weights @ report(v)))
        return jnp().asarray(kind.value(u, jnp())), jax().jacfwd(report)(u), hessian(u)

    with x64():
        values, firsts, seconds = jax().jit(jax().vmap(everything))(np.stack(points(kind)))
    for u, value, first, second in zip(points(kind), values, firsts, seconds, strict=True):
        np.testing.assert_allclose(kind.value(u), value, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(kind.report(u), entries(kind, np.asarray(value)), rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(kind.jacobian(u), first, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(kind.second(u, weights), second, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_declared_sizes_agree(kind):
    assert len(kind.default_free()) == kind.n_free
    assert len(kind.labels("a")) == len(set(kind.labels("a"))) == kind.n_reported
    assert len(kind.free_labels("a")) == len(set(kind.free_labels("a"))) == kind.n_free
    assert len(kind.interval_links()) == len(kind.zero_on_bound) == kind.n_reported
    if kind.elementwise and kind.n_free:
        jacobian = kind.jacobian(points(kind)[2])
        np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_links_contain_the_entries_and_have_their_derivative(kind):
    for link, entry in zip(kind.interval_links(), kind.report(points(kind)[2]), strict=True):
        assert link.lo < entry < link.hi
        y = link.forward(entry)
        assert link.lo <= link.inverse(y - 50.0) < link.inverse(y) < link.inverse(y + 50.0) <= link.hi
        np.testing.assert_allclose(link.inverse(y), entry, rtol=1e-13)
        np.testing.assert_allclose(
            link.derivative(entry) * link.inverse_derivatives(np.asarray(y))[0], 1.0, rtol=1e-13
        )


def test_covariance_jacobian_is_the_matrix_formula():
    kind = covariance(3)
    u = np.random.default_rng(1).normal(size=6)
    factor = np.linalg.cholesky(kind.value(u))
    to_log = np.diag([factor[0, 0], 1.0, 1.0, factor[1, 1], 1.0, factor[2, 2]])
    formula = 2 * duplication_left_inverse(3) @ np.kron(factor, np.eye(3)) @ elimination_matrix(3).T.toarray()
    np.testing.assert_allclose(kind.jacobian(u), formula @ to_log, rtol=1e-12, atol=1e-12)


def test_correlation_of_two_is_tanh_and_three_are_partial_correlations():
    assert correlation(2).value(np.array([0.7]))[1, 0] == pytest.approx(math.tanh(0.7), rel=1e-15)
    u = np.array([0.4, -0.3, 0.9])
    matrix = correlation(3).value(u)
    r, s, t = matrix[1, 0], matrix[2, 0], matrix[2, 1]
    partial = (t - r * s) / math.sqrt((1 - r * r) * (1 - s * s))
    np.testing.assert_allclose(np.arctanh([r, s, partial]), u, rtol=1e-13)


def test_accuracy_is_kept_next_to_a_bound():
    assert interval(0, 1).value(np.array([-300.0])) == pytest.approx(math.exp(-300.0), rel=1e-13, abs=0)
    assert interval(-1, 1).value(np.array([1e-20])) == pytest.approx(5e-21, rel=1e-13, abs=0)
    assert interval(-1, 0).value(np.array([300.0])) == pytest.approx(-math.exp(-300.0), rel=1e-13, abs=0)
    u = np.array([0.3, 5.0, -4.0])
    np.testing.assert_allclose(correlation(3).free(correlation(3).value(u)), u, rtol=1e-7)
    np.testing.assert_array_equal(simplex(3).value(np.array([800.0, 0.0])), [1.0, 0.0, 0.0])


def test_labels_read_as_the_parameters_are_declared():
    assert positive().labels("sigma") == ["sigma"]
    assert positive().free_labels("sigma") == ["log(sigma)"]
    assert real([0.0, 0.0]).labels("beta") == real([0.0, 0.0]).free_labels("beta") == ["beta[0]", "beta[1]"]
    assert real(np.zeros((2, 2))).labels("B") == ["B[0,0]", "B[0,1]", "B[1,0]", "B[1,1]"]
    assert interval(-1, 1).free_labels("rho") == ["logit(rho)"]
    assert interval(2, math.inf).free_labels("nu") == ["log(nu - 2)"]
    assert interval(-math.inf, 3).free_labels("b") == ["-log(3 - b)"]
    assert simplex(3).free_labels("p") == ["log(p[0]/p[2])", "log(p[1]/p[2])"]
    assert ordered(3).free_labels("c") == ["c[0]", "log(c[1] - c[0])", "log(c[2] - c[1])"]
    assert correlation(3).labels("R") == ["R[1,0]", "R[2,0]", "R[2,1]"]
    assert correlation(3).free_labels("R") == ["atanh(R[1,0])", "atanh(R[2,0])", "atanh(R[2,1|0])"]
    assert covariance(2).labels("Sigma") == ["Sigma[0,0]", "Sigma[1,0]", "Sigma[1,1]"]
    assert covariance(2).free_labels("S") == ["log(chol(S)[0,0])", "chol(S)[1,0]", "log(chol(S)[1,1])"]
    assert fixed(1.0).labels("a") == ["a"]


def test_zero_is_no_hypothesis_on_or_beyond_a_bound():
    blank = [positive(), interval(0, 1), interval(-2, 0), interval(2, math.inf)]
    assert [kind.zero_on_bound for kind in blank] == [(True,)] * 4
    assert real().zero_on_bound == interval(-1, 1).zero_on_bound == (False,)
    assert simplex(2).zero_on_bound == (True, True)
    assert covariance(2).zero_on_bound == (True, False, True)
    assert correlation(3).zero_on_bound == ordered(3).zero_on_bound == (False,) * 3


def test_link_names():
    assert [link.name for link in covariance(2).interval_links()] == ["log", "identity", "log"]
    assert correlation(2).interval_links()[0].name == "logit(-1,1)"
    assert (Link(2.0).name, Link(-math.inf, 3.0).name) == ("log(2,inf)", "log(-inf,3)")


def test_kinds_are_frozen_values():
    assert positive([1.0, 2.0]) == positive([1.0, 2.0]) != positive([1.0, 3.0])
    assert hash(interval(0, 1)) == hash(interval(0, 1.0))
    assert positive(0.0 + 1.0) != real(1.0) and real([0.0]) != real([[0.0]])
    start = np.zeros(2)
    kind = real(start)
    start[0] = 5.0
    assert kind.start[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        kind.start[0] = 1.0
    with pytest.raises(AttributeError):
        kind.start = start
    assert all(pickle.loads(pickle.dumps(kind)) == kind for kind in KINDS)


def test_numbers_are_real_and_kinds_stay():
    assert as_kind(2) == Real(2.0) and as_kind(np.zeros(3)).shape == (3,)
    assert isinstance(as_kind(positive()), Positive)


def test_estimated_takes_its_value_later():
    kind = estimated("beta")
    with pytest.raises(SpecificationError, match=r"estimated\('beta'\) has no value yet"):
        _ = kind.n_free
    held = kind.with_value([1.0, 2.0])
    assert held.n_free == 2 and held.name == "beta" and held.start_free().tolist() == [1.0, 2.0]
    with pytest.raises(SpecificationError, match=r"expected \(3,\), got \(2,\)"):
        estimated("beta", shape=3).with_value([1.0, 2.0])


@pytest.mark.parametrize(
    ("declare", "error", "words"),
    [
        (lambda: positive(0.0), SupportError, r"range of positive: expected 0 < value < inf, got 0\.0"),
        (lambda: positive([1.0, -2.0]), SupportError, r"positive: .* got -2\.0"),
        (
            lambda: positive(math.nan),
            SpecificationError,
            r"positive\(start\): expected finite numbers, got nan",
        ),
        (lambda: positive("1"), SpecificationError, r"positive\(start\): expected a number .* got '1'"),
        (lambda: real(None), SpecificationError, r"real\(start\): expected a number .* got None"),
        (lambda: real([[1.0], [1.0, 2.0]]), SpecificationError, "expected a number or an array"),
        (lambda: real(True), SpecificationError, "got True"),
        (lambda: real(1j), SpecificationError, "got 1j"),
        (lambda: real([]), SpecificationError, r"got \[\]"),
        (lambda: fixed(math.inf), SpecificationError, r"fixed\(value\): expected finite"),
        (lambda: fixed(1.0).free(2.0), SupportError, r"fixed: expected the constant 1\.0, got 2\.0"),
        (lambda: interval(1, 1), SpecificationError, r"expected lo < hi.* lo=1, hi=1"),
        (lambda: interval(2, 1), SpecificationError, r"lo=2, hi=1"),
        (lambda: interval(math.nan, 1), SpecificationError, "lo=nan"),
        (lambda: interval("0", 1), SpecificationError, "lo='0'"),
        (lambda: interval(-math.inf, math.inf), SpecificationError, r"use real\(\)"),
        (lambda: interval(0, 1, 1.0), SupportError, r"interval\(0, 1\): expected 0 < value < 1, got 1\.0"),
        (
            lambda: simplex(1),
            SpecificationError,
            r"simplex\(d\): expected a whole number of at least 2, got 1",
        ),
        (lambda: simplex(3.0), SpecificationError, "got 3.0"),
        (lambda: simplex(2, [0.5, 0.6]), SupportError, r"sum to 1, got the sum 1\.1"),
        (lambda: simplex(2, [1.5, -0.5]), SupportError, r"share above 0, got -0\.5"),
        (lambda: simplex(3, [0.5, 0.5]), SpecificationError, r"expected \(3,\), got \(2,\)"),
        (lambda: ordered(0), SpecificationError, "at least 1, got 0"),
        (
            lambda: ordered(3, [0.0, 2.0, 1.0]),
            SupportError,
            "increasing entries, got 2 followed by 1 at entry 2",
        ),
        (lambda: correlation(1), SpecificationError, "at least 2, got 1"),
        (
            lambda: correlation(2, [[1, 2], [2, 1]]),
            SupportError,
            "positive definite matrix .to rounding., got smallest",
        ),
        (lambda: correlation(2, [[2, 0], [0, 1]]), SupportError, "ones on the diagonal"),
        (lambda: covariance(2, [[1, 2], [0, 1]]), SupportError, "symmetric matrix, got entries that differ"),
        (lambda: covariance(2, np.eye(3)), SpecificationError, r"expected \(2, 2\), got \(3, 3\)"),
        (lambda: covariance(True), SpecificationError, "got True"),
        (lambda: estimated(""), SpecificationError, "expected the name of a parameter"),
    ],
)
def test_refusals_say_what_was_expected_and_got(declare, error, words):
    with pytest.raises(error, match=words):
        declare()
