"""The information-matrix test of a Gaussian regression, split into three parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import InferenceError
from mlecov.inference.results import Shown
from mlecov.lazy import lazy
from mlecov.likelihood.index import IndexLikelihood
from mlecov.models.continuous import Gaussian
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number, pvalue

linear_algebra = lazy("scipy.linalg")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class CameronTrivedi(Shown):
    """Heteroskedasticity, skewness and kurtosis parts of the information-matrix test, and their total."""

    statistics: dict[str, float]
    df: dict[str, int]
    pvalues: dict[str, float]

    def display(self) -> Display:
        """Return the decomposition as a table."""
        rows = tuple(
            (name, number(value), str(self.df[name]), pvalue(self.pvalues[name]))
            for name, value in self.statistics.items()
        )
        records = tuple(
            {"test": name, "statistic": value, "df": self.df[name], "p_value": self.pvalues[name]}
            for name, value in self.statistics.items()
        )
        return Display(
            "Cameron-Trivedi decomposition of the information-matrix test",
            (),
            ("source", "chi2", "df", "P > chi2"),
            (Group("", rows),),
            (),
            records,
        )


def cameron_trivedi(optimum: Optimum) -> CameronTrivedi:
    """Split the information-matrix test of a Gaussian regression into three orthogonal parts.

        heteroskedasticity  n R^2 of e^2 on the regressors, their squares and cross products
        skewness            n R^2 (uncentred) of e^3 - 3 s^2 e on the regressors
        kurtosis            n R^2 (uncentred) of e^4 - 6 s^2 e^2 + 3 s^4 on a constant

    with s^2 = RSS / n (Stata's `estat imtest`).

    Raises
    ------
    InferenceError
        For anything but models.gaussian with a constant sigma, without weights.

    Reference: Cameron & Trivedi (1990), University of California Davis, discussion paper 372.
    """
    likelihood = optimum.likelihood
    if (
        not isinstance(likelihood, IndexLikelihood)
        or not isinstance(likelihood.model, Gaussian)
        or likelihood.equations[1].columns is not None
        or likelihood.weights is not None
    ):
        raise InferenceError(
            "the Cameron-Trivedi decomposition is defined for models.gaussian with a constant sigma, without "
            "weights or "
            f"constraints; this is {likelihood.facts.name}. Use information_matrix_test(form='white')."
        )
    equation = likelihood.equations[0]
    X = likelihood.design.dot(np.eye(equation.stop - equation.start), equation)
    e = likelihood.columns["y"] - likelihood.predictors(optimum.theta, 0, likelihood.n_terms)[0]
    s2 = float(e @ e) / len(e)
    k = X.shape[1]
    ones = np.ones((len(e), 1))
    products = [X[:, i] * X[:, j] for i in range(k) for j in range(i, k)]
    levels = _independent(np.column_stack([ones, X, *products]))
    centred = e**2 - s2
    statistics = {
        "heteroskedasticity": len(e) * _share(levels, centred),
        "skewness": len(e) * _share(X, e**3 - 3 * s2 * e),
        "kurtosis": len(e) * _share(ones, e**4 - 6 * s2 * e**2 + 3 * s2**2),
    }
    constant = bool(_share(X, np.ones(len(e))) > 1 - 1e-10)
    df = {"heteroskedasticity": levels.shape[1] - 1, "skewness": k - int(constant), "kurtosis": 1}
    statistics["total"], df["total"] = sum(statistics.values()), sum(df.values())
    return CameronTrivedi(
        statistics, df, {name: float(special.chdtrc(df[name], statistics[name])) for name in df}
    )


def _independent(columns: Array) -> Array:
    """Return a basis of the column space, rank by pivoted QR of columns of length one."""
    size = np.linalg.norm(columns, axis=0)
    scaled = columns[:, size > 0] / size[size > 0]
    basis, triangle, _ = linear_algebra.qr(scaled, mode="economic", pivoting=True)
    rank = int((np.abs(np.diag(triangle)) > 1e-10).sum())
    return np.asarray(basis[:, :rank])


def _share(columns: Array, values: Array) -> float:
    """Return the uncentred R^2 of values (n,) on columns (n, p)."""
    basis = _independent(columns)
    projected = basis.T @ values
    return float(projected @ projected) / float(values @ values)
