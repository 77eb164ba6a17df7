"""Linear least squares to certified digits: solution, Hessian 2A'A, conditioning and covariances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlecov.errors import CovarianceError, DataError, IdentificationError, SpecificationError, listing
from mlecov.least_squares import covariances
from mlecov.least_squares.compensated import Pair, cross, scale_rows, split
from mlecov.least_squares.geometry import EPS, Plane, Refined, equation, plane, refine
from mlecov.likelihood.index import IndexLikelihood
from mlecov.models.continuous import gaussian

Array = npt.NDArray[np.float64]

# Above this condition number double precision alone leaves fewer than 12 digits in the standard
# errors, so the rows of A (A'A)^-1 are refined as well (k further solutions).
_REFINE_INVERSE = 1e-12 / EPS


@dataclass(frozen=True)
class LeastSquares:
    """The minimum of ||W^(1/2) (A x - b)||^2, and what it says as a Gaussian log-likelihood.

    `params` (k,), `residuals` b - A x (n,), `rss` the weighted sum of squares, `sigma2` rss/n (maximum
    likelihood), `s2` rss/(n - k) (None without degrees of freedom), `gradient` 2A'W(Ax - b),
    `hessian` 2A'WA, its `definiteness` and `rank`, `null_directions` (k, k - rank) by column name,
    `condition` of A, `condition_scaled` of A with columns of length one, `condition_normal` of A'A,
    `digits_lost` by orthogonal factors and `digits_lost_normal` by the normal equations (out of 15.95, in
    double precision), `refinements` made and the relative size of the last correction, `leverages` (n,),
    `perfect` where the residuals are rounding alone, `minimum_norm` where an SVD solution of deficient rank
    was asked for.
    """

    names: tuple[str, ...]
    params: pd.Series
    residuals: Array
    rss: float
    sigma2: float
    s2: float | None
    gradient: pd.Series
    hessian: pd.DataFrame
    rank: int
    definiteness: str
    null_directions: pd.DataFrame
    condition: float
    condition_scaled: float
    condition_normal: float
    digits_lost: float
    digits_lost_normal: float
    leverages: Array
    method: str
    refinements: int
    last_correction: float
    perfect: bool
    minimum_norm: bool
    _influence: Array = field(repr=False)
    _plane: Plane = field(repr=False)
    _whitened: Array = field(repr=False)
    _rows: tuple[Array, Array] = field(repr=False)

    def likelihood(self) -> IndexLikelihood:
        """Return the Gaussian log-likelihood of the same rows (times w_i^(1/2) where there are weights).

        Its maximum is `params` with sigma^2 = rss/n; its information A'A / sigma^2 is `hessian` /
        (2 sigma^2), its robust covariance White's. Every covariance of the package applies to it.
        Reference: Greene (2018), Econometric Analysis, section 14.9.1.

        >>> import mlecov as ml
        >>> line = least_squares([[1.0, 1.0], [1.0, 2.0], [1.0, 4.0], [1.0, 5.0]], [1.0, 2.0, 3.0, 5.0])
        >>> bool(np.allclose(ml.fit(line.likelihood()).params.iloc[:2], line.params))
        True
        """
        A, b = self._rows
        return gaussian(b, pd.DataFrame(A, columns=list(self.names)))

    @property
    def nobs(self) -> int:
        """Number of rows n."""
        return len(self.residuals)

    @property
    def df_resid(self) -> int:
        """Degrees of freedom n - rank."""
        return self.nobs - self.rank

    def information(self, kind: Literal["observed", "expected", "opg"] = "observed") -> pd.DataFrame:
        """Return the information matrix (k + 1, k + 1) of the Gaussian log-likelihood, sigma last.

        Observed and expected agree at the maximum: A'WA / sigma2 and 2n / sigma2, cross block zero.
        `opg` is S'S of the scores a_i u_i / sigma2, (u_i^2 / sigma2 - 1) / sigma.
        Reference: Greene (2018), Econometric Analysis, section 14.9.1.
        """
        covariances.need_noise(self.perfect, "The information matrix")
        k = len(self.names)
        labels = [*self.names, "sigma"]
        if kind == "opg":
            A_rows = self._plane.basis @ np.linalg.lstsq(self._plane.back, np.eye(k))[0]
            S = covariances.scores(A_rows, self._whitened, self.sigma2)
            return pd.DataFrame(S.T @ S, labels, labels)
        if kind not in ("observed", "expected"):
            raise SpecificationError(f"Unknown information {kind!r}. Known: observed, expected, opg.")
        matrix = np.zeros((k + 1, k + 1))
        matrix[:k, :k] = self.hessian.to_numpy() / (2 * self.sigma2)
        matrix[k, k] = 2 * self.nobs / self.sigma2
        return pd.DataFrame(matrix, labels, labels)

    def cov(self, kind: str = "classical") -> pd.DataFrame:
        """Return the covariance (k, k) of `params`.

        `classical` s2 (A'A)^-1, s2 = rss/(n-k); `oim` = `eim` sigma2 (A'A)^-1, sigma2 = rss/n; `opg` the
        block of (S'S)^-1 with sigma among the parameters; `HC0` (White, `robust`, `sandwich`) sum of l_i l_i'
        u_i^2 with l_i = (A'A)^-1 a_i; `HC1` times n/(n-k); `HC2`, `HC3`, `HC4` by the leverages.
        Reference: White (1980), Econometrica 48; MacKinnon and White (1985), J. Econometrics 29.
        """
        kind = covariances.kind_of(kind)
        if self.rank < len(self.names):
            raise CovarianceError(
                "The minimum-norm solution has no covariance: the parameters are not identified along "
                f"{listing(_equations(self.null_directions))}. Drop one column of each direction."
            )
        L = self._influence
        if kind == "classical":
            matrix = covariances.classical(L, self.rss)
        elif kind in ("oim", "eim"):
            matrix = L.T @ L * self.sigma2
        elif kind == "opg":
            covariances.need_noise(self.perfect, "opg")
            T = L.T @ self._plane.basis
            matrix = covariances.opg(self._plane.basis, T, self._whitened, self.sigma2)[:-1, :-1]
        else:
            matrix = covariances.sandwich(kind, L, self._whitened, self.leverages)
        return pd.DataFrame(matrix, self.names, self.names)

    def bse(self, kind: str = "classical") -> pd.Series:
        """Return standard errors (k,): square roots of the diagonal of `cov(kind)`."""
        matrix = self.cov(kind)
        return pd.Series(np.sqrt(np.diag(matrix)), index=matrix.index, name=kind)


def least_squares(
    A: Any,
    b: Any,
    weights: Any = None,
    method: Literal["qr", "svd"] = "qr",
    names: Sequence[str] | None = None,
) -> LeastSquares:
    """Minimise the sum of w_i (b_i - a_i'x)^2 over x (k,), for A (n, k) and b (n,).

    The columns are scaled to length one and factored by QR with column pivoting (`method="svd"`: by
    singular values); residuals and solution are then refined together, with residuals in twice the working
    precision, so that the solution is the one of the numbers given, to rounding. Where double precision
    would leave fewer than 12 digits in the standard errors, (A'A)^-1 is refined in the same way. An `A` wider
    than float64 (`numpy.longdouble`) is taken with all its digits. `weights` (n,) are precisions: Var(b_i) =
    sigma2 / w_i, as in weighted least squares; covariances are those of the rows times w_i^(1/2).

    A rank-deficient A raises `IdentificationError`, naming the null directions; `method="svd"` returns
    the solution of minimum norm instead, marked `minimum_norm`, without covariances.

    Reference: Bjorck (1996), Numerical Methods for Least Squares Problems, sections 2.9 and 6.6.

    >>> fit = least_squares([[1.0, 1.0], [1.0, 2.0], [1.0, 4.0]], [1.0, 2.0, 3.0], names=["const", "x"])
    >>> fit.params.round(4).to_dict()
    {'const': 0.5, 'x': 0.6429}
    """
    if method not in ("qr", "svd"):
        raise SpecificationError(f"Unknown method {method!r}. Known: 'qr', 'svd'.")
    columns, pair_A, pair_b = _door(A, b, names)
    root = _root_weights(weights, len(pair_b[0]))
    if root is not None:
        pair_A, pair_b = scale_rows(pair_A, root), scale_rows(pair_b, root)
    factor = plane(pair_A[0], method)
    k = len(columns)
    null = pd.DataFrame(factor.null, list(columns), [f"null{j}" for j in range(k - factor.rank)])
    if factor.rank < k and method == "qr":
        raise IdentificationError(
            f"The {k} columns have rank {factor.rank}: {listing(_equations(null))}. Expected independent "
            "columns. Drop one column of each equation, or ask for method='svd' (minimum norm, no "
            "covariances)."
        )
    deficient = factor.rank < k
    solved = _plain(pair_A, factor, pair_b) if deficient else refine(pair_A, factor, pair_b, np.zeros(k))
    influence = factor.basis @ factor.back.T
    if not deficient and factor.condition > _REFINE_INVERSE:
        influence = _refined_influence(pair_A, factor)
    return _result(columns, method, pair_A, pair_b, root, factor, null, solved, influence)


def _plain(A: Pair, factor: Plane, b: Pair) -> Refined:
    x = factor.back @ (factor.basis.T @ b[0])
    r = b[0] - A[0] @ x
    return Refined((r, np.zeros_like(r)), (x, np.zeros_like(x)), 0, float("nan"))


def _refined_influence(A: Pair, factor: Plane) -> Array:
    n, k = A[0].shape
    zero = (np.zeros(n), np.zeros(n))
    # in units of the columns: the corrections of all entries then have one size
    return np.column_stack([-refine(A, factor, zero, -np.eye(k)[j]).r[0] for j in range(k)])


def _result(
    names: tuple[str, ...],
    method: str,
    A: Pair,
    b: Pair,
    root: Array | None,
    factor: Plane,
    null: pd.DataFrame,
    solved: Refined,
    influence: Array,
) -> LeastSquares:
    n, k = A[0].shape
    whitened = solved.r[0]
    rss = float(whitened @ whitened)
    product = cross(A, solved.r)
    gradient = -2 * (product[0] + product[1])
    values = factor.singular_raw
    full = factor.rank == k
    condition = float(values[0] / values[-1]) if full and values[-1] > 0 else float("inf")
    lost = min(-np.log10(EPS / 2), float(np.log10(factor.condition)))
    labels = list(names)
    return LeastSquares(
        names=names,
        params=pd.Series(solved.x[0], index=labels, name="params"),
        residuals=whitened if root is None else whitened / root,
        rss=rss,
        sigma2=rss / n,
        s2=rss / (n - factor.rank) if n > factor.rank else None,
        gradient=pd.Series(gradient, index=labels, name="gradient"),
        hessian=pd.DataFrame(2 * A[0].T @ A[0], labels, labels),
        rank=factor.rank,
        definiteness="positive definite" if full else "positive semidefinite",
        null_directions=null,
        condition=condition,
        condition_scaled=factor.condition,
        condition_normal=condition**2,
        digits_lost=lost,
        digits_lost_normal=min(-np.log10(EPS / 2), 2 * lost),
        leverages=(factor.basis**2).sum(axis=1),
        method=method,
        refinements=solved.steps,
        last_correction=solved.correction,
        perfect=bool(np.sqrt(rss) <= 4 * EPS * float(np.linalg.norm(b[0]))),
        minimum_norm=not full,
        _influence=influence,
        _plane=factor,
        _whitened=whitened,
        _rows=(A[0], b[0]),
    )


def _equations(null: pd.DataFrame) -> list[str]:
    return [equation(null[name].to_numpy(), list(null.index)) for name in null.columns]


def _door(A: Any, b: Any, names: Sequence[str] | None) -> tuple[tuple[str, ...], Pair, Pair]:
    if isinstance(A, pd.DataFrame) and isinstance(b, pd.Series) and not A.index.equals(b.index):
        raise DataError(
            "A and b have different index labels. Expected the same rows in the same order. Align them "
            "(b.loc[A.index]), or pass arrays."
        )
    if names is None and isinstance(A, pd.DataFrame):
        names = [str(name) for name in A.columns]
    matrix, outcome = _numeric(A, "A"), _numeric(b, "b")
    if matrix.ndim != 2 or outcome.ndim != 1 or len(matrix) != len(outcome) or 0 in matrix.shape:
        raise DataError(
            f"A has shape {matrix.shape} and b {outcome.shape}. Expected (n, k) and (n,), not empty. "
            "Reshape a single column with A[:, None]."
        )
    names = [f"x{j}" for j in range(matrix.shape[1])] if names is None else [str(name) for name in names]
    if len(names) != matrix.shape[1] or len(set(names)) != len(names):
        raise SpecificationError(
            f"A has {matrix.shape[1]} columns; got {len(set(names))} distinct names: {listing(names)}."
        )
    for label, values in (("A", matrix), ("b", outcome)):
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if bad.size:
            raise DataError(
                f"{label} is missing or infinite in row(s) {listing(bad)}. Expected finite numbers. "
                "Drop these rows of A and b."
            )
    return tuple(names), split(matrix), split(outcome)


def _numeric(values: Any, label: str) -> npt.NDArray[np.floating]:
    array = np.asarray(values)
    if array.dtype == np.longdouble:
        return array
    try:
        return np.array(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{label} is not numeric: {error}. Code categories as columns of numbers.") from error


def _root_weights(weights: Any, n: int) -> Array | None:
    if weights is None:
        return None
    w = np.asarray(_numeric(weights, "weights"), dtype=np.float64)
    if w.shape != (n,):
        raise DataError(f"weights have shape {w.shape}. Expected ({n},), one a row.")
    bad = np.flatnonzero(~(np.isfinite(w) & (w > 0)))
    if bad.size:
        raise DataError(
            f"weights are not positive in row(s) {listing(bad)}. Expected precisions above zero. "
            "Drop the rows that should not count."
        )
    return np.sqrt(w)
