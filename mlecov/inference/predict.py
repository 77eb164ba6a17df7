"""Predictions: a quantity for each row of the data, with delta-method standard errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.errors import InferenceError
from mlecov.inference.delta import scalar_df
from mlecov.inference.quantities import quantity
from mlecov.inference.results import Combinations, Shown
from mlecov.inference.settings import row_weights
from mlecov.inference.table import critical_value
from mlecov.lazy import lazy
from mlecov.linalg import symmetrize
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number

pd = lazy("pandas")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Shown):
    """A predicted quantity (n,), or (n, c) with a column for each of `labels`, and its intervals.

    Intervals hold for the quantity itself (a mean, a predictor), not for a new outcome. `average` is
    the (weighted) mean over the rows with its own delta-method standard error.
    """

    name: str
    values: Array
    bse: Array
    lower: Array
    upper: Array
    alpha: float
    method: str
    index: Any = None
    labels: tuple[str, ...] = ()
    average: Combinations | None = None

    def frame(self) -> Any:
        """Return values, standard errors and interval ends as a DataFrame, a row per row of the data.

        A quantity of several columns gives `name[label]`, `std_error[label]`, ... for each.
        """
        parts = {self.name: self.values, "std_error": self.bse, "lower": self.lower, "upper": self.upper}
        if not self.labels:
            return pd.DataFrame(parts, index=self.index)
        data = {
            f"{key}[{label}]": part[:, j]
            for key, part in parts.items()
            for j, label in enumerate(self.labels)
        }
        return pd.DataFrame(data, index=self.index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The predicted values, so that a Prediction can be used where an array is expected."""
        return np.array(self.values, dtype=dtype)

    def display(self) -> Display:
        """Return the first rows as a table."""
        shown, several = min(len(self.values), 10), len(self.labels) > 1
        names = list(range(shown)) if self.index is None else list(self.index[:shown])
        notes = [f"Standard errors: {self.method}."]
        if shown < len(self.values):
            middle = "" if several else f"; mean of all {number(float(self.values.mean()))}"
            notes.insert(0, f"First {shown} of {len(self.values)} rows{middle}.")
        if several:
            notes.append("Standard errors and intervals: frame().")
            header: tuple[str, ...] = ("row", *self.labels)
            table = self.values[:shown]
        else:
            header = (
                "row",
                *(self.labels or (self.name,)),
                "std. err.",
                f"[{100 * (1 - self.alpha):g}%",
                "interval]",
            )
            parts = (self.values, self.bse, self.lower, self.upper)
            table = np.column_stack([part[:shown] for part in parts])
        rows = tuple(
            (str(name), *(number(float(value)) for value in line))
            for name, line in zip(names, table, strict=True)
        )
        return Display(
            f"Prediction of {self.name}", (), header, (Group("", rows),), tuple(notes), self._records()
        )

    def _records(self) -> tuple[dict[str, Any], ...]:
        if self.labels:
            names = [f"{self.name}[{label}]" for label in self.labels]
            return tuple(
                {"row": str(i), **{name: float(v) for name, v in zip(names, row, strict=True)}}
                for i, row in enumerate(self.values)
            )
        return tuple(
            {"row": str(i), self.name: float(v), "std_error": float(s)}
            for i, (v, s) in enumerate(zip(self.values, self.bse, strict=True))
        )


def predict(
    optimum: Optimum,
    covariance: Covariance,
    what: str | Callable[..., Any] = "mean",
    data: Any = None,
    alpha: float = 0.05,
) -> Prediction:
    """Return a quantity for each row, with standard errors J V J' of the delta method.

    Parameters
    ----------
    what :
        A quantity that the model knows ("mean", and those its docstring names: "variance",
        "probability", "smoothed", ...; one label of several as "probability[2]"), "predictor" (the
        first linear one), a parameter's name (a linear one is its predictor), or a function whose
        arguments are parameters and columns by name; a linear parameter reaches it as its predictor.
    data :
        A frame (a matrix for fits from arrays); by default the rows of the fit.

    A predicted random effect has a variance of its own given the data, which is added to the delta
    method's (Kass & Steffey 1989).

    Reference: Wooldridge (2010), section 2.2.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector")))
    >>> fit.predict("mean", {"gpa": [3.0], "tuce": [20.0], "psi": [1.0]}).values.round(4)
    array([0.4546])
    """
    found = quantity(optimum, what, covariance)
    at = found.place(optimum.likelihood, data)
    value, jacobian = found.jacobian(optimum.theta, at)
    variance = np.einsum("...k,kl,...l->...", jacobian, covariance.matrix, jacobian, optimize=True)
    if (variance < -1e-10 * np.abs(variance).max(initial=0)).any():
        raise InferenceError(
            f"variances of predictions are negative under '{covariance.label}'; use another covariance."
        )
    method = f"delta method, {covariance.label}"
    own = found.variance(optimum.theta, at)
    if own is not None:
        method = f"variance given the data and delta method, {covariance.label}"
    bse = np.sqrt(np.maximum(variance, 0) + (0.0 if own is None else own))
    half = float(critical_value(alpha, scalar_df(covariance.df))) * bse
    weights = row_weights(optimum.likelihood) if data is None else None
    average = _average(found.name, found.labels, value, jacobian, weights, covariance, alpha)
    return Prediction(
        found.name,
        value.T,
        bse.T,
        (value - half).T,
        (value + half).T,
        alpha,
        method,
        found.index(at),
        found.labels,
        average,
    )


def _average(
    name: str,
    labels: tuple[str, ...],
    value: Array,
    jacobian: Array,
    weights: Array | None,
    covariance: Covariance,
    alpha: float,
) -> Combinations:
    """Return the mean over the rows, its gradient the mean of theirs: covariates taken as given."""
    n = value.shape[-1]
    w = np.full(n, 1.0 / n) if weights is None or len(weights) != n else weights / weights.sum()
    gradient = np.atleast_2d(np.einsum("...nk,n->...k", jacobian, w))
    return Combinations(
        tuple(f"{name}[{label}]" for label in labels) or (name,),
        np.atleast_1d(value @ w),
        symmetrize(gradient @ covariance.matrix @ gradient.T),
        np.zeros(len(gradient)),
        scalar_df(covariance.df),
        alpha,
        f"delta method, {covariance.label}",
        f"Average of {name}",
    )
