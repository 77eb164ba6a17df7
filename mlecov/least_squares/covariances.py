"""Covariances of least-squares estimates, linear and nonlinear, read as Gaussian maximum likelihood.

Everything is written in the rows of the influence, L = A (A'A)^-1 (n, k), never in A'A: forming A'A
and inverting it squares the condition number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlecov.errors import CovarianceError, listing, suggestion
from mlecov.lazy import lazy

linalg = lazy("scipy.linalg")
Array = npt.NDArray[np.float64]

ALIASES = {
    "classic": "classical", "nonrobust": "oim", "hessian": "oim", "expected": "eim", "fisher": "eim",
    "bhhh": "opg", "robust": "HC0", "sandwich": "HC0", "white": "HC0", "qml": "HC0",
    "hc0": "HC0", "hc1": "HC1", "hc2": "HC2", "hc3": "HC3", "hc4": "HC4",
}  # fmt: skip
KINDS = ("classical", "oim", "eim", "opg", "HC0", "HC1", "HC2", "HC3", "HC4")
ROBUST = ("HC0", "HC1", "HC2", "HC3", "HC4")


def kind_of(name: str) -> str:
    """Return the canonical name of a covariance, or raise with the known ones."""
    kind = ALIASES.get(name.lower(), name)
    if kind not in KINDS:
        raise CovarianceError(f"Unknown covariance {name!r}.{suggestion(name, [*KINDS, *ALIASES])}")
    return kind


def residual_factors(kind: str, leverages: Array, k: int) -> Array:
    """Return the factor (n,) on each squared residual: 1, n/(n-k), 1/(1-h), 1/(1-h)^2, (1-h)^-delta.

    delta_i = min(4, n h_i / k) for HC4. Reference: MacKinnon and White (1985), J. Econometrics 29;
    Cribari-Neto (2004), Comput. Stat. Data Anal. 45 (HC4).
    """
    n = len(leverages)
    if kind == "HC0":
        return np.ones(n)
    if kind == "HC1":
        _need_dof(kind, n, k)
        return np.full(n, n / (n - k))
    rest = 1.0 - leverages
    exact = np.flatnonzero(rest <= 100 * n * np.finfo(np.float64).eps)
    if exact.size:
        raise CovarianceError(
            f"{kind} is not defined: row(s) {listing(exact)} have leverage 1 (each is fitted exactly by a "
            "parameter of its own), so 1 - h is zero. Drop them with their parameters, or ask for HC0 or HC1."
        )
    power = {"HC2": np.ones(n), "HC3": np.full(n, 2.0), "HC4": np.minimum(4.0, n * leverages / k)}[kind]
    return np.asarray(rest**-power)


def classical(L: Array, rss: float) -> Array:
    """Return s2 (A'A)^-1 with s2 = rss / (n - k), as L'L s2."""
    n, k = L.shape
    _need_dof("classical", n, k)
    return np.asarray(L.T @ L * (rss / (n - k)))


def sandwich(kind: str, L: Array, u: Array, leverages: Array) -> Array:
    """Return L' diag(factor u^2) L: White's covariance and its small-sample kin, for L (n, k), u (n,)."""
    weighted = L * (u * np.sqrt(residual_factors(kind, leverages, L.shape[1])))[:, None]
    return np.asarray(weighted.T @ weighted)


def scores(X: Array, u: Array, sigma2: float) -> Array:
    """Return the Gaussian scores (n, k + 1): x_i u_i / sigma2, and (u_i^2 / sigma2 - 1) / sigma."""
    return np.column_stack([X * (u / sigma2)[:, None], (u * u / sigma2 - 1.0) / np.sqrt(sigma2)])


def opg(Q: Array, T: Array, u: Array, sigma2: float) -> Array:
    """Return (S'S)^-1 (k + 1, k + 1) of the Gaussian scores, sigma last; computed in the basis Q.

    Reference: Berndt, Hall, Hall and Hausman (1974), Ann. Econ. Soc. Meas. 3.
    """
    n, k = Q.shape
    # in Q coordinates times sigma the scores have size one: only the data can make them singular
    S = scores(Q, u, sigma2) * np.sqrt(sigma2)
    gram = S.T @ S
    size = np.sqrt(np.diag(gram))
    correlation = gram / np.outer(size, size)
    if float(np.linalg.eigvalsh(correlation)[0]) <= max(n, k + 1) * np.finfo(np.float64).eps:
        raise CovarianceError(
            f"opg is singular: the scores of {n} rows do not span the {k + 1} parameters (sigma included). "
            "Ask for classical, oim or HC0."
        )
    middle = linalg.cho_solve(linalg.cho_factor(correlation), np.eye(k + 1)) / np.outer(size, size) * sigma2
    full = np.zeros((T.shape[0] + 1, k + 1))
    full[:-1, :-1], full[-1, -1] = T, 1.0
    return np.asarray(full @ middle @ full.T)


def need_noise(perfect: bool, what: str) -> None:
    """Raise where the fit is perfect, because the likelihood is unbounded as sigma goes to zero."""
    if perfect:
        raise CovarianceError(
            f"{what} is not defined: the fit is perfect to rounding, so the likelihood has no maximum in "
            "sigma. The least-squares solution stands; ask for classical (zero up to rounding), or look for "
            "an outcome that was computed from its regressors."
        )


def _need_dof(kind: str, n: int, k: int) -> None:
    if n <= k:
        raise CovarianceError(
            f"{kind} is not defined: n - k = {n} - {k} leaves no degree of freedom. Ask for HC0, or "
            "get more rows."
        )
