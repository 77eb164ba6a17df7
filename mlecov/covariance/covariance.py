"""Covariance: a matrix with the label of what was computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.errors import CovarianceError
from mlecov.linalg import symmetrize
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Covariance:
    """A covariance of theta (k, k) and, by the exact delta method, of params (m, m).

    `label` is computed from what was computed. `df` are the degrees of freedom of the reference t
    distribution (None: normal); a (m,) array where they differ by parameter. `details` hold what a
    reader may ask for: groups, bandwidth, curvature, eigenvalues. `user_matrix` replaces the delta
    method where replicates on the user's scale are at hand.
    """

    matrix: Array
    label: str
    column: str
    space: ParameterSpace
    theta: Array
    factor: float = 1.0
    df: float | Array | None = None
    details: dict[str, Any] = field(default_factory=dict)
    user_matrix: Array | None = None

    @cached_property
    def user(self) -> Array:
        """Covariance of params (m, m) on the user's scale: J V J'."""
        if self.user_matrix is not None:
            return self.user_matrix
        if self.space.is_identity:
            return self.matrix
        jacobian = self.space.jacobian(self.theta)
        return symmetrize(jacobian @ self.matrix @ jacobian.T)

    @cached_property
    def bse(self) -> Array:
        """Standard errors of params (m,); NaN for fixed entries, which have none."""
        variance = self.user.diagonal()
        if self.space.is_identity and variance.min(initial=0.0) >= 0:
            return np.sqrt(variance)
        variance = np.where(self.without_variance, np.nan, variance)
        if (variance < -1e-12 * np.abs(variance).max(initial=0)).any():
            bad = [self.space.labels[i] for i in np.flatnonzero(variance < 0)]
            raise CovarianceError(
                f"{self.label}: the variance of {', '.join(bad)} is negative. A difference of matrices (several "
                "ways of clustering, a kernel that is not positive) need not be positive semi-definite; ask for "
                'repair="eigen", or for a form that is positive by construction (one way of clustering; a '
                "Bartlett, Parzen or quadratic spectral kernel)."
            )
        return np.sqrt(np.maximum(variance, 0))

    @cached_property
    def without_variance(self) -> npt.NDArray[np.bool_]:
        """Which reported entries do not move with theta: fixed by declaration or constraint (m,)."""
        if self.space.is_identity:
            return np.zeros(self.space.m, dtype=bool)
        return np.asarray(~np.any(self.space.jacobian(self.theta) != 0, axis=1))

    @cached_property
    def rank(self) -> int:
        """Numerical rank of the covariance of theta."""
        scale = np.sqrt(np.maximum(np.diag(self.matrix), 1e-300))
        values = np.linalg.eigvalsh(self.matrix / np.outer(scale, scale))
        return int((values > len(values) * 64 * np.finfo(float).eps).sum())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The user-scale matrix, so that a Covariance can be used where an array is expected."""
        return np.array(self.user, dtype=dtype)
