"""Forecasts: periods beyond the sample of models that have a time order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.errors import SpecificationError, listing
from mlecov.inference.delta import differentiate, theta_steps
from mlecov.inference.results import Shown
from mlecov.inference.settings import blocks_of, setting
from mlecov.inference.table import critical_value
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood
from mlecov.models.predicted import Ahead
from mlecov.models.whole import WholeLikelihood, count
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number

pd = lazy("pandas")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Forecast(Shown):
    """Mean (h,), standard error of the forecast (h,) and intervals for the outcomes of h periods to come.

    `further` holds what else the model says of them: the conditional variance, the regimes'
    probabilities (h,) each.
    """

    outcome: str
    mean: Array
    std_error: Array
    lower: Array
    upper: Array
    alpha: float
    method: str
    further: Mapping[str, Array] = field(default_factory=dict)

    def frame(self) -> Any:
        """Return the columns as a DataFrame, a row per period ahead, from 1."""
        data = {"mean": self.mean, "std_error": self.std_error, "lower": self.lower, "upper": self.upper}
        return pd.DataFrame({**data, **self.further}, index=pd.RangeIndex(1, len(self.mean) + 1, name="step"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The means, so that a Forecast can be used where an array is expected."""
        return np.array(self.mean, dtype=dtype)

    def display(self) -> Display:
        """Return the forecast as a table."""
        columns = (self.mean, self.std_error, self.lower, self.upper, *self.further.values())
        rows = tuple(
            (str(k + 1), *(number(float(part[k])) for part in columns)) for k in range(len(self.mean))
        )
        level = f"[{100 * (1 - self.alpha):g}%"
        header = ("step", "mean", "std. err.", level, "interval]", *self.further)
        names = ("mean", "std_error", "lower", "upper", *self.further)
        records = tuple(
            {"step": k + 1, **{name: float(part[k]) for name, part in zip(names, columns, strict=True)}}
            for k in range(len(self.mean))
        )
        return Display(
            f"Forecast of {self.outcome}", (), header, (Group("", rows),), (f"{self.method}.",), records
        )


def forecast(
    optimum: Optimum,
    covariance: Covariance,
    steps: int = 1,
    data: Any = None,
    *,
    parameters: bool = False,
    alpha: float = 0.05,
) -> Forecast:
    """Return mean, standard error and interval of the outcomes of the `steps` periods after the sample.

        y_{T+k} - E(y_{T+k} | y_1, ..., y_T):  variance V_k, plus J_k V J_k' under parameters=True

    Parameters
    ----------
    data :
        Regressors of those periods, where the model has any: a frame (a matrix for fits from arrays)
        of `steps` rows.
    parameters :
        Whether the standard errors hold the sampling error of the estimates (delta method). The
        usual ones (Stata, R, statsmodels, arch) do not.

    Intervals have the normal's critical value, under t errors the t's: exact one step ahead, and at
    all steps for Gaussian linear models; an approximation further ahead under GARCH or regimes.

    Raises
    ------
    SpecificationError
        For models without a time order, and without future regressors where there are some.

    Reference: Box & Jenkins (1976), chapter 5; Hamilton (1994), chapter 4.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.arma("wpi", ml.load("wpi1"), p=1, d=1, q=1))
    >>> fit.forecast(2).mean.round(3)
    array([118.359, 120.341])
    """
    likelihood, steps = optimum.likelihood, count(steps, "steps", 1)
    base = likelihood.unrestricted
    if not isinstance(base, WholeLikelihood) or not base.model.has_forecast:
        raise SpecificationError(
            f"{base.facts.name} has no time order, so that there is no next period to forecast. For other rows "
            "use predict(what, data)."
        )
    X, model, columns = _regressors(likelihood, steps, data), base.model, base.columns

    def ahead(theta: Array) -> Ahead:
        return model.ahead(likelihood.space.report(theta), columns, steps, X)

    found = ahead(optimum.theta)
    variance, method = found.variance, "Standard errors: of the forecast, at the estimated parameters"
    if parameters:
        jacobian = differentiate(
            lambda theta, xp: ahead(theta).mean, optimum.theta, theta_steps(covariance), False
        )[1]
        variance = variance + np.einsum("hk,kl,hl->h", jacobian, covariance.matrix, jacobian)
        method = f"Standard errors: of the forecast and of its parameters (delta method, {covariance.label})"
    root = np.sqrt(variance)
    scale = 1.0 if found.df is None else np.sqrt((found.df - 2.0) / found.df)
    half = float(critical_value(alpha, found.df)) * scale * root
    return Forecast(
        str(base.facts.outcome),
        found.mean,
        root,
        found.mean - half,
        found.mean + half,
        alpha,
        method,
        found.further,
    )


def _regressors(likelihood: Likelihood, steps: int, data: Any) -> Array:
    """Return the regressors (h, p) of the periods to come."""
    blocks = blocks_of(likelihood)
    names = blocks["mu"].names if "mu" in blocks else ()
    if not [name for name in names if name != "Intercept"]:
        if data is not None:
            raise SpecificationError("forecast: the model has no regressors; leave data= out.")
        return np.ones((steps, len(names)))
    if data is None:
        raise SpecificationError(
            f"a forecast needs the regressors of the periods to come ({listing(names)}): data=, a frame of "
            f"{steps} row(s)."
        )
    found = setting(likelihood, data)
    if found.n != steps:
        raise SpecificationError(f"forecast: data have {found.n} row(s); expected {steps}, one per step.")
    return found.designs["mu"]
