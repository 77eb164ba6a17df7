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
from mlecov.inference.quantities import quantity, setting
from mlecov.inference.results import Shown
from mlecov.inference.table import critical_value
from mlecov.lazy import lazy
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number

pd = lazy("pandas")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Shown):
    """A predicted quantity (n,) with delta-method standard errors and intervals.

    Intervals hold for the quantity itself (a mean, a predictor), not for a new outcome.
    """

    name: str
    values: Array
    bse: Array
    lower: Array
    upper: Array
    alpha: float
    method: str
    index: Any = None

    def frame(self) -> Any:
        """Return values, standard errors and interval ends as a DataFrame, a row per row of the data."""
        data = {self.name: self.values, "std_error": self.bse, "lower": self.lower, "upper": self.upper}
        return pd.DataFrame(data, index=self.index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The predicted values, so that a Prediction can be used where an array is expected."""
        return np.array(self.values, dtype=dtype)

    def display(self) -> Display:
        """Return the first rows as a table."""
        shown = min(len(self.values), 10)
        labels = range(shown) if self.index is None else self.index[:shown]
        rows = tuple(
            (str(label), *(number(float(v[i])) for v in (self.values, self.bse, self.lower, self.upper)))
            for i, label in enumerate(labels)
        )
        level = f"{100 * (1 - self.alpha):g}%"
        notes = [f"Standard errors: delta method, {self.method}."]
        if shown < len(self.values):
            notes.insert(
                0,
                f"First {shown} of {len(self.values)} rows; mean of all {number(float(self.values.mean()))}.",
            )
        records = tuple(
            {"row": str(i), self.name: float(v), "std_error": float(s)}
            for i, (v, s) in enumerate(zip(self.values, self.bse, strict=True))
        )
        header = ("row", self.name, "std. err.", f"[{level}", "interval]")
        return Display(f"Prediction of {self.name}", (), header, (Group("", rows),), tuple(notes), records)


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
        "mean" (ready-made models), "predictor" (the first linear one), a parameter's name (a linear
        one is its predictor), or a function whose arguments are parameters and columns by name;
        a linear parameter reaches it as its predictor (n,).
    data :
        A frame (a matrix for fits from arrays); by default the rows of the fit.

    Reference: Wooldridge (2010), section 2.2.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector")))
    >>> fit.predict("mean", {"gpa": [3.0], "tuce": [20.0], "psi": [1.0]}).values.round(4)
    array([0.4546])
    """
    at = setting(optimum.likelihood, data)
    found = quantity(optimum, what, covariance)
    value, jacobian = found.jacobian(optimum.theta, at)
    variance = np.einsum("nk,kl,nl->n", jacobian, covariance.matrix, jacobian, optimize=True)
    if (variance < -1e-10 * np.abs(variance).max(initial=0)).any():
        raise InferenceError(
            f"variances of predictions are negative under '{covariance.label}'; use another covariance."
        )
    bse = np.sqrt(np.maximum(variance, 0))
    half = float(critical_value(alpha, scalar_df(covariance.df))) * bse
    labels = None if at.rows is None or at.rows.unit is not None else at.rows.labels
    return Prediction(found.name, value, bse, value - half, value + half, alpha, covariance.label, labels)
