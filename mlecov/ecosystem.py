"""What other packages ask of a fit: statsmodels' summary_col, maketables' tables, marginaleffects' models.

Each speaks a protocol of its own; here are the answers, as functions of an optimum and a covariance.
`Fit` delegates to them and knows nothing else of these packages, none of which is needed to import this.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.specs import Spec
from mlecov.errors import SpecificationError
from mlecov.formulas import columns_used
from mlecov.inference.delta import scalar_df
from mlecov.inference.quantities import quantity
from mlecov.inference.settings import Setting, blocks_of, is_array_block
from mlecov.inference.table import coefficient_table
from mlecov.lazy import lazy
from mlecov.optimum import Optimum
from mlecov.summary import criteria

pd = lazy("pandas")
pl = lazy("polars")
margins_classes = lazy("marginaleffects.classes")

Array = npt.NDArray[np.float64]
Covariances = Callable[[Any], Covariance]


def frame(records: Sequence[Mapping[str, Any]], backend: str = "pandas") -> Any:
    """Return rows as a DataFrame of pandas or of polars (NaN as null there)."""
    if backend == "pandas":
        return pd.DataFrame(records)
    if backend == "polars":
        return pl.DataFrame(records).fill_nan(None)
    raise SpecificationError(f"backend={backend!r} is not known; expected 'pandas' or 'polars'.")


# --- statsmodels ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelNames:
    """The names that statsmodels' tables read from `result.model`."""

    endog_names: str
    exog_names: list[str]


def model_names(optimum: Optimum) -> ModelNames:
    """Return the outcome's name (the model's where there is none) and the labels of the params (m,)."""
    facts = optimum.likelihood.facts
    return ModelNames(facts.outcome or facts.name, list(optimum.likelihood.space.labels))


def model_infos(covariance: Covariance) -> dict[str, Callable[[Any], str]]:
    """Return the facts that `summary_col` prints under a column: text of a fit, by label."""
    return {
        "N": lambda fit: f"{fit.nobs:g}",
        "Log-likelihood": lambda fit: f"{fit.llf:.4f}",
        "AIC": lambda fit: f"{fit.aic:.4f}",
        "Covariance": lambda fit: covariance.column,
    }


# --- maketables ----------------------------------------------------------------------------------

DEFAULT_STATISTICS = ["N", "ll", "aic", "bic", "se_type"]
"""What a table shows under the coefficients unless the caller says otherwise."""


def maketables_coefficients(covariance: Covariance) -> Any:
    """Return b, se, t, p and the 95% interval as a DataFrame with a row per reported entry (m, 6)."""
    table = coefficient_table(covariance)
    columns = {
        "b": table.estimates,
        "se": table.bse,
        "t": table.statistics,
        "p": table.pvalues,
        "ci95l": table.lower,
        "ci95u": table.upper,
    }
    return pd.DataFrame(columns, index=pd.Index(list(table.labels), name="Coefficient"))


def maketables_statistic(optimum: Optimum, covariance: Covariance, key: str) -> Any:
    """Return a statistic by maketables' key, None where a likelihood has no such thing (r2)."""
    found = criteria(optimum)
    known: dict[str, Any] = {
        "N": int(found.nobs) if float(found.nobs).is_integer() else found.nobs,
        "ll": found.llf,
        "aic": found.aic,
        "bic": found.bic,
        "df_resid": found.nobs - optimum.likelihood.space.k,
        "se_type": covariance.column,
    }
    return known.get(key)


def maketables_covariance(covariance: Covariance) -> dict[str, Any]:
    """Return the label of the covariance, computed from what was computed."""
    return {"vcov_type": covariance.label, "clustervar": None}


# --- marginaleffects -----------------------------------------------------------------------------


def _read_by_the_fit(newdata: Any) -> Any:
    """Stand for the formula: a callable one is not parsed, and `get_exog` reads new rows itself."""
    raise SpecificationError("new rows are read by the fit.")


@functools.cache
def _adapter() -> type[Any]:
    """Return the class that marginaleffects takes for a model: its own base, answered by a fit."""

    class FitModel(margins_classes.ModelAbstract):  # type: ignore[misc, name-defined]
        """A quantity of a fit, on the free scale: theta (k,), its covariance (k, k), values (n,)."""

        def __init__(self, fit: Any, covariances: Covariances, spec: Spec, what: Any, vault: Any) -> None:
            self._quantity = quantity(fit.optimum, what, covariances(spec)).single
            self._likelihood, self._covariances, self._spec = fit.optimum.likelihood, covariances, spec
            self._read: list[tuple[Any, Setting]] = []
            super().__init__(fit, vault)

        def get_vcov(self, vcov: Any = True) -> Array | None:
            """Return the covariance (k, k): True the default, or any name or spec."""
            if vcov is False or vcov is None:
                return None
            return self._covariances(self._spec if vcov is True else vcov).matrix

        @property
        def df_resid(self) -> float:
            """Degrees of freedom of the default covariance's reference distribution (inf: normal)."""
            df = scalar_df(self._covariances(self._spec).df)
            return float("inf") if df is None else float(df)

        def get_exog(self, newdata: Any) -> Any:
            """Return new rows as they are: `get_predict` reads them."""
            return newdata

        def _rows(self, newdata: Any) -> Setting:
            """Return new rows as the fit's formulas read them, once: the same frame comes k times."""
            for known, rows in self._read:
                if known is newdata:
                    return rows
            self._read = [*self._read[-2:], (newdata, self._quantity.place(self._likelihood, newdata))]
            return self._read[-1][1]

        def get_predict(self, params: Array, newdata: Any) -> Any:
            """Return the quantity (n,) at theta = params (k,)."""
            value, _ = self._quantity.jacobian(np.asarray(params, dtype=float), self._rows(newdata))
            rows = pl.Series(np.arange(len(value)), dtype=pl.Int32)
            return pl.DataFrame({"rowid": rows, "estimate": value})

    return FitModel


def marginaleffects_model(fit: Any, covariances: Covariances, spec: Spec, what: Any = "mean") -> Any:
    """Return a fit as a model of the package marginaleffects: predictions, comparisons, slopes.

    Parameters
    ----------
    fit, covariances, spec :
        The fit, its function from specs to covariances, and the default covariance.
    what :
        The quantity: see `predict`.

    The coefficients it sees are theta (k,), on the free scale, so that the delta method is that of
    `fit.predict` and `fit.margins`; `vcov=` takes any covariance's name or spec.

    Raises
    ------
    SpecificationError
        For fits from arrays, which have no named columns.

    Reference: Arel-Bundock, Greifer & Heiss (2024), Journal of Statistical Software 111(9).
    """
    likelihood = fit.optimum.likelihood
    blocks = blocks_of(likelihood)
    if not blocks or any(is_array_block(block, likelihood.rows) for block in blocks.values()):
        raise SpecificationError(
            "marginaleffects varies columns by name; this fit was made from arrays. Fit from a formula and a "
            "frame, or use fit.margins()."
        )
    table, outcome = likelihood.rows.table, likelihood.facts.outcome
    names = sorted({name for block in blocks.values() for name in columns_used(block.terms, table)})
    if outcome in table:
        names = [outcome, *(name for name in names if name != outcome)]
    vault = margins_classes.ModelVault(
        coef=np.array(fit.theta),
        coefnames=np.array(likelihood.space.free_labels),
        formula=_read_by_the_fit,
        modeldata=pl.from_pandas(likelihood.rows.frame(names)),
        package="mlecov",
        variable_names=names if outcome in table else [outcome, *names],
    )
    return _adapter()(fit, covariances, spec, what, vault)
