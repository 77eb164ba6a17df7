"""Matrix calculus against JAX autodiff, and the identities between its parts."""

from __future__ import annotations

import numpy as np
import pytest

from mlecov import matrix as mx
from mlecov.autodiff import jax, jnp, x64
from mlecov.errors import SpecificationError
from mlecov.vectorize import Array

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def square(seed: int, d: int) -> Array:
    """Return a well-conditioned matrix that is not symmetric."""
    return draw(seed, (d, d))[0] + 4.0 * np.eye(d)


def positive_definite(seed: int, d: int) -> Array:
    root = square(seed, d)
    return root @ root.T / d


def jvp(function, at, directions):
    """Differential of a function of several matrices by forward mode."""
    with x64():
        return np.asarray(jax().jit(lambda a, d: jax().jvp(function, a, d)[1])(tuple(at), tuple(directions)))


def grad(function, *at, argnums=0):
    """Gradients by reverse mode: an array, or a list of them for several arguments."""
    with x64():
        gradients = jax().jit(jax().grad(function, argnums=argnums))(*at)
    return [np.asarray(g) for g in gradients] if isinstance(argnums, tuple) else np.asarray(gradients)


def hessian(function, at):
    with x64():
        return np.asarray(jax().jit(jax().hessian(function))(at))


def jvec(A):
    """vec for traced matrices, written apart from the package's."""
    return A.T.reshape(-1)


def test_vec_stacks_columns_and_comes_back():
    (A,) = draw(0, (2, 3))
    assert mx.vec(A).tolist() == [A[i, j] for j in range(3) for i in range(2)]
    np.testing.assert_array_equal(mx.unvec(mx.vec(A), 2, 3), A)
    row = A[:1]
    mx.vec(row)[0] = 99.0
    assert row[0, 0] != 99.0


def test_vech_stacks_the_lower_triangle_and_comes_back():
    A = np.array([[1.0, -1.0, -2.0], [2.0, 4.0, -3.0], [3.0, 5.0, 6.0]])
    assert mx.vech(A).tolist() == [1, 2, 3, 4, 5, 6]
    assert mx.unvech(mx.vech(A)).tolist() == [[1, 2, 3], [2, 4, 5], [3, 5, 6]]


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_duplication_and_elimination(d):
    A = draw(d, (d, d))[0]
    S = A + A.T
    D, E, P = mx.duplication_matrix(d), mx.elimination_matrix(d), mx.duplication_left_inverse(d)
    np.testing.assert_array_equal(D @ mx.vech(S), mx.vec(S))
    np.testing.assert_array_equal(E @ mx.vec(A), mx.vech(A))
    np.testing.assert_array_equal((E @ D).toarray(), np.eye(len(mx.vech(A))))
    np.testing.assert_array_equal((P @ D).toarray(), np.eye(len(mx.vech(A))))
    np.testing.assert_allclose(P @ mx.vec(A), mx.vech(S) / 2, **TOLERANCE)
    K = mx.commutation_matrix(d, d)
    np.testing.assert_array_equal((D @ P).toarray(), 0.5 * (np.eye(d * d) + K.toarray()))


@pytest.mark.parametrize(("p", "q", "r", "s"), [(2, 3, 4, 2), (1, 3, 2, 1), (3, 3, 2, 2)])
def test_commutation(p, q, r, s):
    A, B = draw(p, (p, q), (r, s))
    K = mx.commutation_matrix(p, q)
    np.testing.assert_array_equal(K @ mx.vec(A), mx.vec(A.T))
    np.testing.assert_array_equal(K.T.toarray(), mx.commutation_matrix(q, p).toarray())
    swapped = mx.commutation_matrix(r, p) @ np.kron(A, B) @ mx.commutation_matrix(q, s)
    np.testing.assert_allclose(swapped, np.kron(B, A), **TOLERANCE)


@pytest.mark.parametrize("make", [mx.duplication_matrix, mx.elimination_matrix])
def test_a_caller_can_not_change_the_cached_matrices(make):
    make(3).data[:] = 7.0
    make(3).indices[:] = 0
    mine = make(3)
    mine *= 2.0
    assert make(3).sum() == (9 if make is mx.duplication_matrix else 6)
    assert make(3).indices.max() > 0
    with pytest.raises(ValueError, match="read-only"):
        mx.vech_indices(3)[0][0] = 1


def test_product_rule():
    A, dA, B, dB, G = draw(1, (2, 3), (2, 3), (3, 4), (3, 4), (2, 4))
    expected = jvp(lambda a, b: a @ b, (A, B), (dA, dB))
    np.testing.assert_allclose(mx.product_differential(A, dA, B, dB), expected, **TOLERANCE)
    gradients = grad(lambda a, b: jnp().sum(G * (a @ b)), A, B, argnums=(0, 1))
    for ours, theirs in zip(mx.product_gradient(G, A, B), gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)
    by_A, by_B = mx.product_jacobian(A, B)
    np.testing.assert_allclose(by_A @ mx.vec(dA) + by_B @ mx.vec(dB), mx.vec(expected), **TOLERANCE)


def test_inverse():
    A, (dA, G) = square(2, 4), draw(3, (4, 4), (4, 4))
    expected = jvp(lambda a: jnp().linalg.inv(a), (A,), (dA,))
    np.testing.assert_allclose(mx.inverse_differential(A, dA), expected, **TOLERANCE)
    expected = grad(lambda a: jnp().sum(G * jnp().linalg.inv(a)), A)
    np.testing.assert_allclose(mx.inverse_gradient(G, A), expected, **TOLERANCE)


def test_trace():
    X, dX = draw(4, (3, 3), (3, 3))
    np.testing.assert_allclose(
        mx.trace_differential(dX), jvp(lambda x: jnp().trace(x), (X,), (dX,)), **TOLERANCE
    )
    np.testing.assert_allclose(mx.trace_gradient(X), grad(lambda x: jnp().trace(x), X), **TOLERANCE)


def test_quadratic_form_of_a_matrix_that_is_not_symmetric():
    B, x = draw(5, (4, 4), (4,))
    np.testing.assert_allclose(mx.quadratic_gradient(B, x), grad(lambda v: v @ B @ v, x), **TOLERANCE)
    np.testing.assert_allclose(mx.quadratic_hessian(B), hessian(lambda v: v @ B @ v, x), **TOLERANCE)


def test_log_determinant():
    X, (dX,) = square(6, 3), draw(7, (3, 3))

    def logdet(x):
        return jnp().linalg.slogdet(x)[1]

    np.testing.assert_allclose(mx.logdet_differential(X, dX), jvp(logdet, (X,), (dX,)), **TOLERANCE)
    np.testing.assert_allclose(mx.logdet_gradient(X), grad(logdet, X), **TOLERANCE)
    expected = hessian(lambda v: logdet(v.reshape(3, 3).T), mx.vec(X))
    np.testing.assert_allclose(mx.logdet_hessian(X), expected, **TOLERANCE)


def test_kronecker_product():
    A, dA, B, dB, G = draw(8, (2, 3), (2, 3), (4, 2), (4, 2), (8, 6))
    expected = jvp(lambda a, b: jnp().kron(a, b), (A, B), (dA, dB))
    np.testing.assert_allclose(mx.kronecker_differential(A, dA, B, dB), expected, **TOLERANCE)
    gradients = grad(lambda a, b: jnp().sum(G * jnp().kron(a, b)), A, B, argnums=(0, 1))
    for ours, theirs in zip(mx.kronecker_gradient(G, A, B), gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)


def test_hadamard_product():
    A, dA, B, dB, G = draw(9, *[(2, 3)] * 5)
    expected = jvp(lambda a, b: a * b, (A, B), (dA, dB))
    np.testing.assert_allclose(mx.hadamard_differential(A, dA, B, dB), expected, **TOLERANCE)
    gradients = grad(lambda a, b: jnp().sum(G * a * b), A, B, argnums=(0, 1))
    for ours, theirs in zip(mx.hadamard_gradient(G, A, B), gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)


def test_chain_rule_by_jacobians():
    """F(X) = (XX')^-1: the Jacobian of the inverse times that of XX', (I + K)(X x I)."""
    X = np.concatenate([square(10, 3), draw(10, (3, 1))[0]], axis=1)
    M = np.linalg.inv(X @ X.T)
    of_inverse = -np.kron(M.T, M)
    of_square = (np.eye(9) + mx.commutation_matrix(3, 3).toarray()) @ np.kron(X, np.eye(3))

    def composed(v):
        return jvec(jnp().linalg.inv(v.reshape(4, 3).T @ v.reshape(4, 3)))

    with x64():
        expected = np.asarray(jax().jit(jax().jacobian(composed))(mx.vec(X)))
    np.testing.assert_allclose(mx.chain_jacobian(of_inverse, of_square), expected, **TOLERANCE)


def test_chain_rule_for_hessians():
    C, u, B = draw(11, (3, 2), (2,), (3, 3))

    def inner(v):
        return jnp().exp(jnp().asarray(C) @ v)

    h = np.exp(C @ u)
    ours = mx.chain_hessian(
        gradient=mx.quadratic_gradient(B, h),
        hessian=mx.quadratic_hessian(B),
        jacobian=h[:, None] * C,
        second=h[:, None, None] * C[:, :, None] * C[:, None, :],
    )
    np.testing.assert_allclose(ours, hessian(lambda v: inner(v) @ B @ inner(v), u), rtol=1e-12)


def test_least_squares():
    A, x, b = draw(12, (7, 3), (3,), (7,))

    def squares(v):
        return jnp().sum((A @ v - b) ** 2)

    np.testing.assert_allclose(mx.least_squares_gradient(A, x, b), grad(squares, x), **TOLERANCE)
    np.testing.assert_allclose(mx.least_squares_hessian(A), hessian(squares, x), **TOLERANCE)
    solution = np.linalg.lstsq(A, b)[0]
    np.testing.assert_allclose(mx.least_squares_gradient(A, solution, b), 0.0, atol=1e-12)


def test_symmetric_gradients_and_the_duplication_matrix_between_them():
    S, (A,) = positive_definite(13, 4), draw(14, (4, 4))
    D = mx.duplication_matrix(4)
    dense = D.toarray()

    def function(X):
        return jnp().trace(A @ X @ X) + jnp().linalg.slogdet(X)[1]

    G = np.asarray(grad(function, S))
    free, direction = mx.symmetric_gradient_free(G), mx.symmetric_gradient_direction(G)
    by_vech = grad(lambda v: function((dense @ v).reshape(4, 4).T), mx.vech(S))
    np.testing.assert_allclose(mx.vech(free), by_vech, **TOLERANCE)
    np.testing.assert_allclose(D.T @ mx.vec(G), by_vech, **TOLERANCE)
    H = A + A.T  # a direction within the symmetric matrices
    np.testing.assert_allclose(np.sum(direction * H), jvp(function, (S,), (H,)), **TOLERANCE)
    np.testing.assert_array_equal(direction, direction.T)
    np.testing.assert_allclose((D.T @ D) @ mx.vech(direction), mx.vech(free), **TOLERANCE)
    np.testing.assert_allclose(mx.duplication_left_inverse(4) @ mx.vec(G), mx.vech(direction), **TOLERANCE)


def test_dense_layer_and_its_outer_products():
    W, b, X = draw(15, (2, 3), (2,), (5, 3))

    def loss_obs(w, c, x):
        return jnp().sum(jnp().tanh(w @ x + c) ** 2)

    Y = mx.dense_layer(W, b, X)
    np.testing.assert_allclose(Y, [W @ x + b for x in X], **TOLERANCE)
    G = 2.0 * np.tanh(Y) * (1.0 - np.tanh(Y) ** 2)
    total = grad(
        lambda w, c, x: jnp().sum(jax().vmap(loss_obs, (None, None, 0))(w, c, x)), W, b, X, argnums=(0, 1, 2)
    )
    for ours, theirs in zip(mx.dense_layer_gradients(W, X, G), total, strict=True):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)
    with x64():
        by_row = jax().jit(jax().vmap(jax().grad(loss_obs, argnums=(0, 1)), (None, None, 0)))(W, b, X)
    for ours, theirs in zip(mx.dense_layer_scores(X, G), by_row, strict=True):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_normal_scores_hessian_and_information(d):
    Sigma, (Y, mu) = positive_definite(16, d), draw(17, (6, d), (d,))
    dense = mx.duplication_matrix(d).toarray()

    def loglike(theta, y):
        S, e = (dense @ theta[d:]).reshape(d, d), y - theta[:d]
        quadratic = e @ jnp().linalg.solve(S, e)
        return -0.5 * (d * np.log(2 * np.pi) + jnp().linalg.slogdet(S)[1] + quadratic)

    theta = np.concatenate([mu, mx.vech(Sigma)])
    with x64():
        scores = jax().jit(jax().vmap(jax().grad(loglike), (None, 0)))(theta, Y)
        second = jax().jit(jax().vmap(jax().hessian(loglike), (None, 0)))(theta, Y)
    np.testing.assert_allclose(mx.normal_scores(Y, mu, Sigma), scores, **TOLERANCE)
    np.testing.assert_allclose(mx.normal_hessian(Y, mu, Sigma), np.asarray(second).sum(axis=0), **TOLERANCE)
    # the expectation, exactly: Y whose mean and second moment are those of the distribution
    root = np.linalg.cholesky(Sigma) * np.sqrt(d)
    matched = mu + np.concatenate([root.T, -root.T])
    information = mx.normal_information(Sigma, n=2 * d)
    np.testing.assert_allclose(information, -mx.normal_hessian(matched, mu, Sigma), **TOLERANCE)
    P = mx.duplication_left_inverse(d)
    inverse = 2.0 * P @ np.kron(Sigma, Sigma) @ P.T / (2 * d)
    np.testing.assert_allclose(np.linalg.inv(information)[d:, d:], inverse, **TOLERANCE)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mx.vec(np.zeros(3)), r"vec: expected a matrix, got an array of shape \(3,\)"),
        (lambda: mx.unvec(np.zeros(5), 2, 3), r"expected v of shape \(6,\), got \(5,\)"),
        (lambda: mx.vech(np.zeros((2, 3))), r"vech: expected a square matrix, got shape \(2, 3\)"),
        (lambda: mx.unvech(np.zeros(4)), r"1, 3, 6, .*got shape \(4,\)"),
        (lambda: mx.unvech(np.zeros(0)), r"got shape \(0,\)"),
        (lambda: mx.duplication_matrix(0), "at least 1, got 0"),
        (lambda: mx.product_differential(*np.zeros((2, 1, 1)), np.zeros((1, 2)), np.zeros(2)), r"got \(2,\)"),
        (lambda: mx.hadamard_gradient(np.ones((1, 1)), np.eye(2), np.eye(2)), r"expected shape \(2, 2\)"),
        (lambda: mx.least_squares_gradient(np.eye(2), np.zeros(2), np.zeros((2, 1))), r"b of .*\(2, 1\)"),
        (lambda: mx.quadratic_gradient(np.eye(2), np.zeros((2, 1))), r"x of .*got \(2, 1\)"),
        (lambda: mx.dense_layer(np.eye(2), 1.0, np.eye(2)), r"b of dense_layer: expected shape \(2,\)"),
        (lambda: mx.normal_scores(np.zeros((3, 2)), np.zeros(1), np.eye(2)), "mu of normal_scores"),
    ],
)
def test_shapes_that_numpy_would_broadcast_are_refused(call, words):
    with pytest.raises(SpecificationError, match=words):
        call()
