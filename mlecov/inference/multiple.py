"""Many tests at once: adjusted p-values, and bands that hold for all parameters together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.covariance.covariance import Covariance
from mlecov.errors import InferenceError, SpecificationError, suggestion
from mlecov.inference.delta import scalar_df
from mlecov.inference.results import Combinations
from mlecov.inference.table import intervals
from mlecov.lazy import lazy
from mlecov.linalg import symmetrize

pd = lazy("pandas")

Array = npt.NDArray[np.float64]

ADJUSTMENTS = {
    "bonferroni": "bonferroni",
    "holm": "holm",
    "sidak": "sidak",
    "holm-sidak": "holm-sidak",
    "bh": "fdr_bh",
    "fdr_bh": "fdr_bh",
    "by": "fdr_by",
    "fdr_by": "fdr_by",
}


def adjust_pvalues(pvalues: Any, method: str = "holm") -> Array:
    """Return p-values adjusted for multiple testing, NaN where they were.

    Parameters
    ----------
    method :
        "bonferroni", "holm", "sidak", "holm-sidak" (family-wise error); "bh" (Benjamini-Hochberg),
        "by" (Benjamini-Yekutieli) (false discovery rate). NaN entries are not counted as tests.

    Reference: Holm (1979); Benjamini & Hochberg (1995).

    >>> adjust_pvalues([0.01, 0.02, 0.03], "bonferroni").round(12).tolist()
    [0.03, 0.06, 0.09]
    """
    if method.lower() not in ADJUSTMENTS:
        raise SpecificationError(
            f"adjustment {method!r} is not known.{suggestion(method, list(ADJUSTMENTS))}"
        )
    given = np.asarray(pvalues, dtype=float)
    if given.ndim != 1 or (given[~np.isnan(given)] < 0).any() or (given[~np.isnan(given)] > 1).any():
        raise SpecificationError("p-values must be a vector of numbers between 0 and 1.")
    counted = np.flatnonzero(~np.isnan(given))
    order = counted[np.argsort(given[counted], kind="stable")]
    p, count = given[order], len(order)
    rank = np.arange(1, count + 1)
    kind = ADJUSTMENTS[method.lower()]
    if kind == "bonferroni":
        found = p * count
    elif kind == "sidak":
        found = -np.expm1(count * np.log1p(-p))
    elif kind == "holm":
        found = np.maximum.accumulate(p * (count - rank + 1))
    elif kind == "holm-sidak":
        found = np.maximum.accumulate(-np.expm1((count - rank + 1) * np.log1p(-p)))
    else:
        factor = float(np.sum(1 / rank)) if kind == "fdr_by" else 1.0
        found = np.minimum.accumulate((p * factor * count / rank)[::-1])[::-1]
    adjusted = np.full(len(given), np.nan)
    adjusted[order] = np.minimum(found, 1.0)
    return adjusted


def sup_t_critical(
    cov: Array, alpha: float = 0.05, df: float | None = None, draws: int = 200_000, seed: int = 2019
) -> float:
    """Return the 1 - alpha quantile of max_j |z_j|, z ~ N(0, corr(cov)) or multivariate t with df.

    Simulated, in blocks, from `seed`. It lies between the pointwise and the Sidak critical value.

    Reference: Montiel Olea & Plagborg-Moller (2019).
    """
    if not 0 < alpha < 1:
        raise InferenceError(f"alpha={alpha!r}: expected a number between 0 and 1, such as 0.05.")
    variance = np.diag(cov)
    if not (variance > 0).all():
        raise InferenceError(
            "a simultaneous band needs a positive variance of every entry; drop those that are fixed."
        )
    scale = 1 / np.sqrt(variance)
    values, vectors = np.linalg.eigh(symmetrize(cov) * np.outer(scale, scale))
    root = vectors * np.sqrt(np.maximum(values, 0))
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    block = max(1, 2_000_000 // len(root))
    for start in range(0, draws, block):
        stop = min(start + block, draws)
        z = rng.standard_normal((stop - start, len(root))) @ root.T
        if df is not None:
            z /= np.sqrt(rng.chisquare(df, size=(stop - start, 1)) / df)
        found[start:stop] = np.abs(z).max(axis=1)
    return float(np.quantile(found, 1 - alpha))


def sidak_critical(count: int, alpha: float = 0.05, df: float | None = None) -> float:
    """Return the critical value that would serve `count` independent intervals."""
    tail = -np.expm1(np.log1p(-alpha) / count) / 2
    return float(-special.ndtri(tail) if df is None else -special.stdtrit(df, tail))


def bands(
    covariance: Covariance,
    names: Sequence[str] | None = None,
    alpha: float = 0.05,
    draws: int = 200_000,
    seed: int = 2019,
) -> Any:
    """Return simultaneous (sup-t) intervals of reported entries as a DataFrame.

    All of them cover at once with probability 1 - alpha; those of bounded parameters are built on
    the scale of their link and stay inside. Fixed entries are left out.

    Parameters
    ----------
    names :
        Entries, or parameters whose entries all count; by default all that are estimated.
    """
    space = covariance.space
    chosen = entries(covariance, names)
    cov = covariance.user[np.ix_(chosen, chosen)]
    c = sup_t_critical(cov, alpha, scalar_df(covariance.df), draws, seed)
    estimates = space.report(covariance.theta)
    lower, upper = intervals(space, estimates, covariance.bse, c)
    frame = pd.DataFrame(
        {"estimate": estimates, "std_error": covariance.bse, "lower": lower, "upper": upper},
        index=list(space.labels),
    ).iloc[chosen]
    frame.attrs["critical_value"] = c
    return frame


def entries(covariance: Covariance, names: Sequence[str] | None) -> npt.NDArray[np.intp]:
    """Return positions of the entries named (labels or whole parameters), all that vary by default."""
    space = covariance.space
    if names is None:
        return np.flatnonzero(~covariance.without_variance)
    found: list[int] = []
    for name in [names] if isinstance(names, str) else names:
        if name in space.labels:
            found.append(space.labels.index(name))
        else:
            part = space[name].reported
            found += range(part.start, part.stop)
    return np.array(found, dtype=np.intp)


def simultaneous(combinations: Combinations, draws: int = 200_000, seed: int = 2019) -> Combinations:
    """Return the same combinations (lincom, nlcom, margins) with intervals that hold all at once."""
    c = sup_t_critical(combinations.cov, combinations.alpha, scalar_df(combinations.df), draws, seed)
    return Combinations(
        combinations.labels,
        combinations.estimates,
        combinations.cov,
        combinations.null,
        combinations.df,
        combinations.alpha,
        combinations.method,
        combinations.title,
        combinations.testable,
        (*combinations.notes, f"Intervals hold simultaneously (sup-t, critical value {c:.4f})."),
        c,
    )
