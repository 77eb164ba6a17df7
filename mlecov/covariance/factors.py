"""Small-sample factors of the systems, to the digit, and the checks that go with dependent terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.sandwich import assemble, observed_factor
from mlecov.covariance.specbase import shown
from mlecov.errors import CovarianceError, CovarianceWarning, listing, warn
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.scores import Scores
from mlecov.linalg import symmetrize
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

FEW = 10
"""Groups below which a clustered covariance is called into question (Cameron, Gelbach & Miller 2008)."""


@dataclass(frozen=True)
class Grouping:
    """A partition of the terms: codes (n,), the labels of the G groups, and what it is called."""

    name: str
    codes: Codes
    labels: npt.NDArray[Any]

    @property
    def size(self) -> int:
        """The number of groups G."""
        return len(self.labels)


def grouping(likelihood: Likelihood, group: Any, name: str) -> Grouping:
    """Return the partition that a column or an array of ids makes of the terms.

    Raises
    ------
    DataError
        Where ids are missing, of another length, or vary within a unit.
    CovarianceError
        Where there is one group only.
    """
    codes, labels = likelihood.rows.codes(group, name)
    if len(labels) < 2:
        raise CovarianceError(
            f"{name!r} has one group only ({shown(labels[0])}): the scores add up to zero over all "
            "terms, and "
            "so would the "
            "covariance. Give a variable with several groups."
        )
    return Grouping(name, codes, labels)


def final_scores(optimum: Optimum) -> Scores:
    """Return the scores at the optimum."""
    assert optimum.evaluation.scores is not None
    return optimum.evaluation.scores


def counted(optimum: Optimum, k: int | None) -> tuple[float, int]:
    """Return n and the k that (n-1)/(n-k) counts.

    Raises
    ------
    CovarianceError
        Where n <= k or k is no count.
    """
    n, own = optimum.likelihood.n_obs, optimum.likelihood.space.k
    used = own if k is None else k
    if used < 0 or used != int(used):
        raise CovarianceError(f"k={k!r}: expected a whole number of parameters.")
    if n <= used:
        raise CovarianceError(f"the factor (n-1)/(n-k) needs n > k; there are n = {n:g} and k = {used}.")
    return n, int(used)


def cluster_factor(
    optimum: Optimum, kind: str, convention: str, sizes: Sequence[int], k: int | None
) -> tuple[list[float], str]:
    """Return the factor of each term of the inclusion-exclusion, and its text.

    Parameters
    ----------
    kind :
        "CR0" ... "CR3".
    sizes :
        Numbers of groups of the terms, ways first.

    Raises
    ------
    CovarianceError
        Where the convention defines the estimator with no such factor.
    """
    ones = [1.0] * len(sizes)
    if convention == "none" or (convention == "default" and kind != "CR1"):
        return ones, "1"
    if kind == "CR0":
        raise CovarianceError(
            f"CR0 has factor 1; the cluster covariance of {convention!r} is Cluster(..., type='CR1', "
            f"small_sample={convention!r})."
        )
    if kind in ("CR2", "CR3"):
        if kind == "CR3" and convention == "stata":
            return [(size - 1) / size for size in sizes], "(G-1)/G"
        if convention in ("sandwich", "stata"):
            return ones, "1"
        raise CovarianceError(
            f"{convention!r} defines no {kind}; use small_sample='default', 'sandwich' or 'stata'."
        )
    plain = [size / (size - 1) for size in sizes]
    if convention in ("default", "stata", "sandwich"):
        return plain, "G/(G-1)" + (" per term" if len(sizes) > 1 else "")
    n, used = counted(optimum, k)
    rest = (n - 1) / (n - used)
    if convention == "statsmodels":
        return [factor * rest for factor in plain], "G/(G-1) (n-1)/(n-k)" + (
            " per term" if len(sizes) > 1 else ""
        )
    smallest = min(sizes)
    text = "G/(G-1) (n-1)/(n-k)" + (f" with the smallest G ({smallest})" if len(sizes) > 1 else "")
    return [rest * smallest / (smallest - 1)] * len(sizes), text


def serial_factor(
    optimum: Optimum, convention: str, kind: str, periods: int, k: int | None
) -> tuple[float, str]:
    """Return the factor of a kernel estimator and its text; `kind` is "hac", "panel" or "period".

    periods is T for one series and for Driscoll-Kraay, G for within-panel sums.
    """
    if convention in ("default", "none") or (convention == "statsmodels" and kind == "hac"):
        return 1.0, "1"
    n, used = counted(optimum, k)
    if (kind == "period" and convention != "sandwich") or convention == "fixest":
        letter = "G" if kind == "panel" else "T"
        factor = periods / (periods - 1) * (n - 1) / (n - used)
        return factor, f"{letter}/({letter}-1) (n-1)/(n-k)"
    return n / (n - used), "n/(n-k)"


def sandwich_of(
    optimum: Optimum,
    meat: Array,
    label: str,
    column: str,
    factor: float = 1.0,
    df: float | Array | None = None,
    repair: str | None = None,
    **details: Any,
) -> Covariance:
    """Return I^-1 meat I^-1 with observed information; `meat` (k, k) carries its factor already."""
    bread = observed_factor(optimum).inverse
    matrix, found = positive(symmetrize(bread @ meat @ bread), label, repair)
    if found.size and repair == "eigen":
        label += f", {len(found)} negative eigenvalue(s) set to zero"
    if found.size:
        details["negative_eigenvalues"] = found
    return assemble(optimum, matrix, label, column, factor, df, **{"bread": "observed", **details})


def positive(matrix: Array, label: str, repair: str | None) -> tuple[Array, Array]:
    """Return the matrix, repaired where asked, and its negative eigenvalues (r,).

    The sign is judged on the matrix scaled to a unit diagonal; by Sylvester's law of inertia the
    number of negative eigenvalues is the same. The repair is that of Cameron, Gelbach & Miller (2011).
    """
    size = np.sqrt(np.abs(np.diag(matrix)))
    size[size == 0] = 1.0
    if np.linalg.eigvalsh(matrix / np.outer(size, size))[0] >= -1e-10:
        return matrix, np.empty(0)
    values, vectors = np.linalg.eigh(matrix)
    negative = values[values < 0]
    if repair == "eigen":
        matrix = symmetrize((vectors * np.maximum(values, 0)) @ vectors.T)
        done = "They were set to zero, as asked."
    else:
        done = "Ask for repair='eigen' to set them to zero, or allow for less dependence."
    warn(
        f"{label}: not positive semi-definite; negative eigenvalue(s) "
        f"{listing(f'{v:.3g}' for v in negative)} beside "
        f"a largest of {values[-1]:.3g}. {done}",
        CovarianceWarning,
    )
    return matrix, negative


def warn_few(count: int, what: str, k: int, corrected: bool = False) -> None:
    """Warn where groups are fewer than parameters, or few and the reference distribution takes no notice."""
    if count <= k:
        warn(
            f"{count} {what} for {k} parameters: the covariance has rank {count - 1} at most, and no "
            "test of more "
            "restrictions than that exists. Cluster on a finer variable, or test few restrictions by a "
            "wild score "
            "bootstrap.",
            CovarianceWarning,
        )
    elif count < FEW and not corrected:
        warn(
            f"only {count} {what}: the covariance is biased downwards and z values are too large. Use "
            "type='CR2' with "
            "df='satterthwaite', or a bootstrap.",
            CovarianceWarning,
        )
