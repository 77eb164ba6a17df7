"""Matrix calculus: differentials, gradients and Jacobians; vec and vech from `vectorize`.

The differential dF of F(X) is the
part of F(X + dX) - F(X) that is linear in dX; the gradient of a scalar f is the matrix G with
df = tr(G'dX) = <G, dX>, of the shape of X; the Jacobian of F is d vec F / d (vec X)'. A function
`*_gradient(G, ...)` carries the gradient G of a scalar with respect to the result back to the
arguments. Every formula is from Magnus & Neudecker (2019), *Matrix Differential Calculus*, 3rd ed.,
chapters 2, 3, 5, 8 and 9, unless another source is named.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mlecov.errors import SpecificationError
from mlecov.vectorize import (
    Array,
    as_matrix,
    as_square,
    commutation_matrix,
    duplication_left_inverse,
    duplication_matrix,
    elimination_matrix,
    unvec,
    unvech,
    vec,
    vech,
    vech_indices,
)

__all__ = [
    "chain_hessian",
    "chain_jacobian",
    "commutation_matrix",
    "dense_layer",
    "dense_layer_gradients",
    "dense_layer_scores",
    "duplication_left_inverse",
    "duplication_matrix",
    "elimination_matrix",
    "hadamard_differential",
    "hadamard_gradient",
    "inverse_differential",
    "inverse_gradient",
    "kronecker_differential",
    "kronecker_gradient",
    "least_squares_gradient",
    "least_squares_hessian",
    "logdet_differential",
    "logdet_gradient",
    "logdet_hessian",
    "normal_hessian",
    "normal_information",
    "normal_scores",
    "product_differential",
    "product_gradient",
    "product_jacobian",
    "quadratic_gradient",
    "quadratic_hessian",
    "symmetric_gradient_direction",
    "symmetric_gradient_free",
    "trace_differential",
    "trace_gradient",
    "unvec",
    "unvech",
    "vec",
    "vech",
    "vech_indices",
]


def product_differential(A: Array, dA: Array, B: Array, dB: Array) -> Array:
    """Return d(AB) = (dA)B + A(dB), for A (p, q) and B (q, r).

    Proof: (A + dA)(B + dB) - AB = (dA)B + A(dB) + (dA)(dB), the last of second order.

    >>> product_differential([[2.0]], [[0.1]], [[3.0]], [[0.2]]).round(12).tolist()
    [[0.7]]
    """
    A, dA = _pair(A, dA, "product_differential")
    B, dB = _pair(B, dB, "product_differential")
    return dA @ B + A @ dB


def product_gradient(G: Array, A: Array, B: Array) -> tuple[Array, Array]:
    """Return the gradients G B' and A'G of f(AB) with respect to A and B, for G = gradient of f.

    Proof: df = tr(G'(dA)B) + tr(G'A dB) = <G B', dA> + <A'G, dB>.

    >>> [g.tolist() for g in product_gradient([[1.0]], [[2.0]], [[3.0]])]
    [[[3.0]], [[2.0]]]
    """
    A, B = as_matrix(A, "product_gradient"), as_matrix(B, "product_gradient")
    _same(G, (A.shape[0], B.shape[1]), "G of product_gradient")
    return G @ B.T, A.T @ G


def product_jacobian(A: Array, B: Array) -> tuple[Array, Array]:
    """Return d vec(AB)/d(vec A)' = B' x I and d vec(AB)/d(vec B)' = I x A, for A (p, q), B (q, r).

    Proof: vec(X Y Z) = (Z' x X) vec Y, applied to I (dA) B and to A (dB) I.

    >>> [J.tolist() for J in product_jacobian([[2.0]], [[3.0]])]
    [[[3.0]], [[2.0]]]
    """
    A, B = as_matrix(A, "product_jacobian"), as_matrix(B, "product_jacobian")
    return _kron(B.T, np.eye(A.shape[0])), _kron(np.eye(B.shape[1]), A)


def inverse_differential(A: Array, dA: Array) -> Array:
    """Return d(A^-1) = -A^-1 (dA) A^-1, for A (d, d).

    Proof: 0 = d(A A^-1) = (dA)A^-1 + A d(A^-1).

    >>> inverse_differential([[2.0]], [[1.0]]).tolist()
    [[-0.25]]
    """
    A, dA = _pair(as_square(A, "inverse_differential"), dA, "inverse_differential")
    return -np.linalg.solve(A, np.linalg.solve(A.T, dA.T).T)


def inverse_gradient(G: Array, A: Array) -> Array:
    """Return the gradient -A^-T G A^-T of f(A^-1), for G = gradient of f at A^-1.

    Proof: df = -tr(G'A^-1 (dA) A^-1) = <-A^-T G A^-T, dA>.

    >>> inverse_gradient([[1.0]], [[2.0]]).tolist()
    [[-0.25]]
    """
    return inverse_differential(as_square(A, "inverse_gradient").T, G)


def trace_differential(dX: Array) -> float:
    """Return d tr(X) = tr(dX); proof: the trace is linear.

    >>> trace_differential([[1.0, 5.0], [7.0, 2.0]])
    3.0
    """
    return float(np.trace(as_square(dX, "trace_differential")))


def trace_gradient(X: Array) -> Array:
    """Return the gradient I of tr(X), X (d, d); proof: tr(dX) = <I, dX>.

    >>> trace_gradient([[3.0]]).tolist()
    [[1.0]]
    """
    return np.eye(len(as_square(X, "trace_gradient")))


def quadratic_gradient(B: Array, x: Array) -> Array:
    """Return the gradient (B + B')x of x'Bx, for B (d, d), x (d,).

    Proof: d(x'Bx) = (dx)'Bx + x'B dx = ((B + B')x)'dx; 2Bx only for a symmetric B.

    >>> quadratic_gradient([[1.0, 2.0], [0.0, 3.0]], [1.0, 1.0]).tolist()
    [4.0, 8.0]
    """
    B, x = as_square(B, "quadratic_gradient"), np.asarray(x, dtype=np.float64)
    return quadratic_hessian(B) @ _same(x, (len(B),), "x of quadratic_gradient")


def quadratic_hessian(B: Array) -> Array:
    """Return the Hessian B + B' of x'Bx, for B (d, d); proof: the gradient (B + B')x is linear.

    >>> quadratic_hessian([[1.0, 2.0], [0.0, 3.0]]).tolist()
    [[2.0, 2.0], [2.0, 6.0]]
    """
    B = as_square(B, "quadratic_hessian")
    return B + B.T


def logdet_differential(X: Array, dX: Array) -> float:
    """Return d log|det X| = tr(X^-1 dX), for X (d, d).

    Proof: d det X = tr(adj(X) dX) by cofactors (Jacobi), and adj(X) = det(X) X^-1.

    >>> logdet_differential([[2.0]], [[1.0]])
    0.5
    """
    X, dX = _pair(as_square(X, "logdet_differential"), dX, "logdet_differential")
    return float(np.trace(np.linalg.solve(X, dX)))


def logdet_gradient(X: Array) -> Array:
    """Return the gradient X^-T of log|det X|, for X (d, d); proof: tr(X^-1 dX) = <X^-T, dX>.

    >>> logdet_gradient([[2.0, 0.0], [0.0, 4.0]]).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return _inverse(as_square(X, "logdet_gradient")).T


def logdet_hessian(X: Array) -> Array:
    """Return d2 log|det X| / d vec X d(vec X)' = -K (X^-T x X^-1), (d^2, d^2).

    Proof: d2 = -tr(X^-1 dX X^-1 dX) = -(vec dX')' (X^-T x X^-1) vec dX, and vec dX' = K vec dX.

    >>> logdet_hessian([[2.0]]).tolist()
    [[-0.25]]
    """
    P = _inverse(as_square(X, "logdet_hessian"))
    K: Any = commutation_matrix(len(P), len(P))
    return np.asarray(-(K @ _kron(P.T, P)), dtype=np.float64)


def kronecker_differential(A: Array, dA: Array, B: Array, dB: Array) -> Array:
    """Return d(A x B) = dA x B + A x dB, for A (p, q), B (r, s).

    Proof: the Kronecker product is linear in each of its factors.

    >>> kronecker_differential([[2.0]], [[0.5]], [[3.0, 1.0]], [[0.0, 1.0]]).tolist()
    [[1.5, 2.5]]
    """
    A, dA = _pair(A, dA, "kronecker_differential")
    B, dB = _pair(B, dB, "kronecker_differential")
    return _kron(dA, B) + _kron(A, dB)


def kronecker_gradient(G: Array, A: Array, B: Array) -> tuple[Array, Array]:
    """Return the gradients of f(A x B) with respect to A (p, q) and B (r, s), for G (pr, qs).

    Proof: block (i, j) of A x B is A_ij B, so dA_ij meets <G_ij, B> and dB meets sum_ij A_ij G_ij.

    >>> [g.tolist() for g in kronecker_gradient([[1.0, 2.0]], [[2.0]], [[3.0, 1.0]])]
    [[[5.0]], [[2.0, 4.0]]]
    """
    A, B = as_matrix(A, "kronecker_gradient"), as_matrix(B, "kronecker_gradient")
    (p, q), (r, s) = A.shape, B.shape
    blocks = _same(G, (p * r, q * s), "G of kronecker_gradient").reshape(p, r, q, s)
    return np.einsum("irjs,rs->ij", blocks, B), np.einsum("irjs,ij->rs", blocks, A)


def hadamard_differential(A: Array, dA: Array, B: Array, dB: Array) -> Array:
    """Return d(A∘B) = dA∘B + A∘dB, for A and B (p, q); proof: the product rule, entry by entry.

    >>> hadamard_differential([[2.0]], [[0.5]], [[3.0]], [[1.0]]).tolist()
    [[3.5]]
    """
    A, dA = _pair(A, dA, "hadamard_differential")
    B, dB = _pair(B, dB, "hadamard_differential")
    _same(B, A.shape, "B of hadamard_differential")
    return dA * B + A * dB


def hadamard_gradient(G: Array, A: Array, B: Array) -> tuple[Array, Array]:
    """Return the gradients G∘B and G∘A of f(A∘B); proof: <G, dA∘B> = <G∘B, dA>.

    >>> [g.tolist() for g in hadamard_gradient([[2.0]], [[3.0]], [[5.0]])]
    [[[10.0]], [[6.0]]]
    """
    A, B = _pair(A, B, "hadamard_gradient")
    G = _same(G, A.shape, "G of hadamard_gradient")
    return G * B, G * A


def chain_jacobian(*jacobians: Array) -> Array:
    """Return the Jacobian of a composition from its parts, outermost first: J_f J_g ... .

    Proof (Cauchy invariance): df = J_f dg and dg = J_g dx, so df = J_f J_g dx. Shapes (m, d), (d, k).

    >>> chain_jacobian([[2.0]], [[3.0]]).tolist()
    [[6.0]]
    """
    return functools.reduce(np.matmul, [as_matrix(jacobian, "chain_jacobian") for jacobian in jacobians])


def chain_hessian(gradient: Array, hessian: Array, jacobian: Array, second: Array) -> Array:
    """Return the Hessian J'HJ + sum_i g_i H_i of f(h(u)), (k, k).

    f has `gradient` g (d,) and `hessian` H (d, d) at h(u); h has the Jacobian J (d, k) and the
    second derivatives `second` (d, k, k). Proof: d2f = (dh)'H(dh) + g'd2h. At a maximum g = 0.

    >>> chain_hessian([1.0], [[2.0]], [[3.0]], [[[4.0]]]).tolist()
    [[22.0]]
    """
    J = as_matrix(jacobian, "chain_hessian")
    return J.T @ as_matrix(hessian, "chain_hessian") @ J + np.tensordot(gradient, second, axes=1)


def least_squares_gradient(A: Array, x: Array, b: Array) -> Array:
    """Return the gradient 2A'(Ax - b) of ||Ax - b||^2, for A (n, k), x (k,), b (n,).

    Proof: with e = Ax - b, d(e'e) = 2e'de = 2e'A dx; zero exactly at the normal equations.

    >>> least_squares_gradient([[1.0], [2.0]], [1.0], [0.0, 0.0]).tolist()
    [10.0]
    """
    A = as_matrix(A, "least_squares_gradient")
    x, b = _same(x, (A.shape[1],), "x of ||Ax - b||^2"), _same(b, (A.shape[0],), "b of ||Ax - b||^2")
    return 2.0 * (A.T @ (A @ x - b))


def least_squares_hessian(A: Array) -> Array:
    """Return the Hessian 2A'A of ||Ax - b||^2, for A (n, k).

    Proof: the gradient 2A'(Ax - b) is linear in x; v'A'Av = ||Av||^2 > 0 iff A has full column rank.

    >>> least_squares_hessian([[1.0], [2.0]]).tolist()
    [[10.0]]
    """
    A = as_matrix(A, "least_squares_hessian")
    return 2.0 * (A.T @ A)


def symmetric_gradient_free(G: Array) -> Array:
    """Return G + G' - G∘I: derivatives of f(X) by the free elements of a symmetric X (d, d).

    G is the gradient with all d^2 entries taken as free. Proof: moving X_ij moves X_ji too, so the
    derivative is G_ij + G_ji off the diagonal, G_ii on it; its vech is D'vec G, since
    d vec X = D d vech X. It is not a gradient in the space of matrices (off-diagonals count twice):
    Srinivasan & Panda (2023), Linear and Multilinear Algebra 71.

    >>> symmetric_gradient_free([[1.0, 2.0], [0.0, 3.0]]).tolist()
    [[1.0, 2.0], [2.0, 3.0]]
    """
    G = as_square(G, "symmetric_gradient_free")
    return G + G.T - np.diag(np.diag(G))


def symmetric_gradient_direction(G: Array) -> Array:
    """Return (G + G')/2: the gradient of f(X) in the space of symmetric matrices (d, d).

    Proof: for a symmetric dX, <G, dX> = <(G + G')/2, dX>, and it is itself symmetric: the
    projection. Its vech is D^+ vec G = (D'D)^-1 D'vec G, so that D'D vech(direction) = vech(free):
    the two differ by the metric D'D, which counts an off-diagonal pair twice.

    >>> symmetric_gradient_direction([[1.0, 2.0], [0.0, 3.0]]).tolist()
    [[1.0, 1.0], [1.0, 3.0]]
    """
    G = as_square(G, "symmetric_gradient_direction")
    return 0.5 * (G + G.T)


def dense_layer(W: Array, b: Array, X: Array) -> Array:
    """Return the rows W x_i + b as X W' + 1b' (n, q), for W (q, p), b (q,), X (n, p).

    Proof: row i of X W' is (W x_i)'. Reference: Goodfellow, Bengio & Courville (2016), section 6.5.

    >>> dense_layer([[1.0, 2.0]], [3.0], [[1.0, 1.0], [0.0, 1.0]]).tolist()
    [[6.0], [5.0]]
    """
    W, X = as_matrix(W, "dense_layer"), as_matrix(X, "dense_layer")
    return X @ W.T + _same(b, (W.shape[0],), "b of dense_layer")


def dense_layer_gradients(W: Array, X: Array, G: Array) -> tuple[Array, Array, Array]:
    """Return the gradients G'X (q, p), G'1 (q,) and G W (n, p) by W, b and X of sum_i f_i(W x_i + b).

    Row i of G (n, q) is the gradient g_i of f_i. Proof: df_i = g_i'(dW x_i + db + W dx_i), so
    gradients are the outer product g_i x_i', g_i and W'g_i; sum_i g_i x_i' = G'X.

    >>> [g.tolist() for g in dense_layer_gradients([[1.0, 2.0]], [[1.0, 1.0], [0.0, 1.0]], [[1.0], [2.0]])]
    [[[1.0, 3.0]], [3.0], [[1.0, 2.0], [2.0, 4.0]]]
    """
    W, X = as_matrix(W, "dense_layer_gradients"), as_matrix(X, "dense_layer_gradients")
    G = _same(G, (X.shape[0], W.shape[0]), "G of dense_layer_gradients")
    return G.T @ X, G.sum(axis=0), G @ W


def dense_layer_scores(X: Array, G: Array) -> tuple[Array, Array]:
    """Return, row by row, the outer products g_i x_i' (n, q, p) and g_i (n, q): scores by W and b.

    Proof: df_i = g_i'dW x_i = <g_i x_i', dW>; summed over rows they are `dense_layer_gradients`.

    >>> dense_layer_scores([[1.0, 1.0], [0.0, 1.0]], [[1.0], [2.0]])[0].tolist()
    [[[1.0, 1.0]], [[0.0, 2.0]]]
    """
    X, G = as_matrix(X, "dense_layer_scores"), as_matrix(G, "dense_layer_scores")
    _same(G, (X.shape[0], G.shape[1]), "G of dense_layer_scores")
    return G[:, :, None] * X[:, None, :], G.copy()


def normal_scores(Y: Array, mu: Array, Sigma: Array) -> Array:
    """Return the scores (n, d + d(d+1)/2) of rows Y (n, d) ~ N(mu, Sigma) by (mu, vech Sigma).

    With P = Sigma^-1 and e = y - mu: P e, and D'vec(P e e'P - P)/2. Proof: 2 loglike =
    -log det Sigma - e'P e + const, dP = -P(dSigma)P and d vec Sigma = D d vech Sigma.

    >>> normal_scores([[2.0]], [0.0], [[1.0]]).tolist()
    [[2.0, 1.5]]
    """
    Y, Sigma, P = _normal(Y, mu, Sigma, "normal_scores")
    rows, columns = vech_indices(len(P))
    Z = (Y - mu) @ P
    # D' adds the two entries of an off-diagonal pair, which cancels the half
    twice = np.where(rows == columns, 0.5, 1.0)
    return np.concatenate([Z, twice * (Z[:, rows] * Z[:, columns] - P[rows, columns])], axis=1)


def normal_hessian(Y: Array, mu: Array, Sigma: Array) -> Array:
    """Return the Hessian of the log-likelihood of rows Y (n, d) ~ N(mu, Sigma) by (mu, vech Sigma).

    Blocks -nP, -(z'x P)D and -D'(M x P + P x M - nP x P)D/2, with z = sum_i P e_i and M = sum_i P e_i e_i'P.
    Proof: differentiate P e and D'vec(P e e'P - P)/2 with dP = -P(dSigma)P, de = -dmu.

    >>> normal_hessian([[2.0]], [0.0], [[1.0]]).tolist()
    [[-1.0, -2.0], [-2.0, -3.5]]
    """
    Y, Sigma, P = _normal(Y, mu, Sigma, "normal_hessian")
    D, n, Z = duplication_matrix(len(P)), len(Y), (Y - mu) @ P
    M = Z.T @ Z
    cross = -_kron(Z.sum(axis=0)[None, :], P) @ D
    scale = -0.5 * _folded(_kron(M, P) + _kron(P, M) - n * _kron(P, P), len(P))
    return np.block([[-n * P, cross], [cross.T, scale]])


def normal_information(Sigma: Array, n: float = 1.0) -> Array:
    """Return the expected information n diag(P, D'(P x P)D/2) of (mu, vech Sigma), for n rows.

    Proof: E z = 0 and E M = nP in `normal_hessian`. Its inverse has the block 2 D^+(Sigma x Sigma)D^+'/n.

    >>> normal_information([[2.0]], n=4).tolist()
    [[2.0, 0.0], [0.0, 0.5]]
    """
    P = _inverse(as_square(Sigma, "normal_information"))
    d = len(P)
    m = d + d * (d + 1) // 2
    information = np.zeros((m, m))
    information[:d, :d] = n * P
    information[d:, d:] = 0.5 * n * _folded(_kron(P, P), d)
    return information


def _folded(M: Array, d: int) -> Array:
    """Return D'MD, for M (d^2, d^2)."""
    D: Any = duplication_matrix(d)
    return np.asarray(D.T @ M @ D, dtype=np.float64)


def _normal(Y: Array, mu: Array, Sigma: Array, where: str) -> tuple[Array, Array, Array]:
    Y, Sigma = as_matrix(Y, where), as_square(Sigma, where)
    _same(mu, (Y.shape[1],), f"mu of {where}")
    _same(Sigma, (Y.shape[1], Y.shape[1]), f"Sigma of {where}")
    P = _inverse(Sigma)
    return Y, Sigma, 0.5 * (P + P.T)


def _same(A: Array, shape: tuple[int, ...], what: str) -> Array:
    """Return A as float64 of `shape`; raise before numpy would broadcast it to another meaning."""
    A = np.asarray(A, dtype=np.float64)
    if A.shape != shape:
        raise SpecificationError(f"{what}: expected shape {shape}, got {A.shape}.")
    return A


def _kron(A: Array, B: Array) -> Array:
    return np.asarray(np.kron(A, B), dtype=np.float64)


def _inverse(A: Array) -> Array:
    return np.asarray(np.linalg.inv(A), dtype=np.float64)


def _pair(A: Array, dA: Array, where: str) -> tuple[Array, Array]:
    A = as_matrix(A, where)
    return A, _same(dA, A.shape, f"{where}, matrix and differential")
