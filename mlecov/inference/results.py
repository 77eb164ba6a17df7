"""What a test returns: a statistic with its reference distribution, or rows of estimates with theirs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import InferenceError
from mlecov.inference.table import critical_value, two_sided
from mlecov.lazy import lazy
from mlecov.rendering import Display, Group, number, pvalue

pd = lazy("pandas")

Array = npt.NDArray[np.float64]


class Shown:
    """A result that prints itself: text in a terminal, HTML in a notebook, LaTeX, CSV, JSON on request."""

    def display(self) -> Display:
        """Return the result as a table."""
        raise InferenceError(f"{type(self).__name__} has no table.")

    def __str__(self) -> str:
        return self.display().text()

    def __repr__(self) -> str:
        return self.display().text()

    def _repr_html_(self) -> str:
        return self.display().html()

    def render(self, form: str) -> str:
        """Return the table as text, html, latex, csv or json."""
        return self.display().render(form)


@dataclass(frozen=True, eq=False, repr=False)
class TestResult(Shown):
    """A test statistic with its reference distribution.

    `distribution` is "chi2" with `df` degrees of freedom, or "F" with `df` and `df_denom`; the
    statistic of an F test is the quadratic form over df. `hypotheses` lists (text, estimate, value
    under the null); `method` says which covariance or information was used, computed from it.
    """

    __test__ = False

    name: str
    statistic: float
    df: int
    pvalue: float
    distribution: str = "chi2"
    df_denom: float | None = None
    method: str = ""
    hypotheses: tuple[tuple[str, float, float], ...] = ()
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def df_num(self) -> int:
        """Number of restrictions tested (statsmodels' name)."""
        return self.df

    @property
    def fvalue(self) -> float:
        """The F statistic (statsmodels' name); of a chi2 test the statistic over df."""
        return self.statistic if self.distribution == "F" else self.statistic / self.df

    def display(self) -> Display:
        """Return the test as a table of its hypotheses with the statistic above."""
        letter = f"F({self.df}, {self.df_denom:g})" if self.df_denom is not None else f"chi2({self.df})"
        known = any(np.isfinite(value) for _, value, _ in self.hypotheses)
        rows = tuple(
            (t, number(value), number(null)) if known else (t,) for t, value, null in self.hypotheses
        )
        facts = (
            (letter, number(self.statistic)),
            (f"P > {letter[: letter.index('(')]}", pvalue(self.pvalue)),
        )
        notes = ((f"{self.method}.",) if self.method else ()) + self.notes
        record = {
            "test": self.name,
            "statistic": self.statistic,
            "df": self.df,
            "df_denom": self.df_denom,
            "distribution": self.distribution,
            "p_value": self.pvalue,
        }
        header = ("hypothesis", "estimate", "null") if known else ("hypothesis",)
        return Display(f"{self.name} test", facts, header, (Group("", rows),), notes, (record,))


def chi2_or_f(quadratic: float, df: int, df_denom: float | None) -> tuple[float, float, str]:
    """Return (statistic, p, distribution) of a quadratic form: chi2(df), or F(df, df_denom) of form/df."""
    if df_denom is None:
        return quadratic, float(special.chdtrc(df, quadratic)), "chi2"
    if not df_denom > 0:
        raise InferenceError(
            f"the covariance leaves {df_denom:g} degrees of freedom for an F test; expected more than 0. "
            "Ask for "
            "use_f=False for the chi-squared form, or for a covariance with more groups."
        )
    return quadratic / df, float(special.fdtrc(df, df_denom, quadratic / df)), "F"


@dataclass(frozen=True, eq=False, repr=False)
class Combinations(Shown):
    """Functions of the parameters (q,): estimates, standard errors, tests against `null`, intervals.

    `df` are the degrees of freedom of the t distribution (None: normal). The statistic and p are
    NaN where `testable` is False: the null lies on the bound of a parameter. Names of statsmodels'
    contrast results (`effect`, `sd`, `tvalue`, `df_denom`, `conf_int`) are kept.
    """

    labels: tuple[str, ...]
    estimates: Array
    cov: Array
    null: Array
    df: float | Array | None
    alpha: float
    method: str
    title: str
    testable: npt.NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    fixed_critical: float | None = None

    @cached_property
    def bse(self) -> Array:
        """Standard errors (q,)."""
        variance = np.diag(self.cov)
        if (variance < -1e-12 * np.abs(variance).max(initial=0)).any():
            bad = [self.labels[i] for i in np.flatnonzero(variance < 0)]
            raise InferenceError(
                f"the variance of {', '.join(bad)} is negative under '{self.method}': that covariance is not "
                "positive semi-definite. Use another, or ask it for a repair."
            )
        return np.sqrt(np.maximum(variance, 0))

    @cached_property
    def statistics(self) -> Array:
        """z or t statistics (q,) of estimate = null."""
        with np.errstate(all="ignore"):
            found = np.asarray((self.estimates - self.null) / self.bse)
        found = np.where(self.bse > 0, found, np.nan)
        return found if self.testable is None else np.where(self.testable, found, np.nan)

    @cached_property
    def pvalues(self) -> Array:
        """Two-sided p-values (q,)."""
        return two_sided(self.statistics, self.df)

    def conf_int(self, alpha: float | None = None) -> Array:
        """Return intervals (q, 2): estimate -+ critical value * standard error."""
        if self.fixed_critical is not None and alpha in (None, self.alpha):
            half = self.fixed_critical * self.bse
        else:
            half = critical_value(self.alpha if alpha is None else alpha, self.df) * self.bse
        return np.column_stack([self.estimates - half, self.estimates + half])

    @property
    def effect(self) -> Array:
        """The estimates (statsmodels' name)."""
        return self.estimates

    @property
    def sd(self) -> Array:
        """The standard errors (statsmodels' name)."""
        return self.bse

    @property
    def tvalue(self) -> Array:
        """The statistics (statsmodels' name)."""
        return self.statistics

    @property
    def statistic(self) -> Array:
        """The statistics (statsmodels' name)."""
        return self.statistics

    @property
    def pvalue(self) -> Array:
        """The p-values (statsmodels' name)."""
        return self.pvalues

    @property
    def df_denom(self) -> float | Array:
        """Degrees of freedom of the t distribution; inf where it is the normal."""
        return np.inf if self.df is None else self.df

    @property
    def distribution(self) -> str:
        """ "norm" or "t"."""
        return "norm" if self.df is None else "t"

    def frame(self) -> Any:
        """Return the rows as a pandas DataFrame."""
        return pd.DataFrame(self._records())

    def summary_frame(self, alpha: float | None = None) -> Any:
        """Return statsmodels' summary frame: coef, std err, statistic, p and interval."""
        letter = "z" if self.df is None else "t"
        ends = self.conf_int(alpha)
        return pd.DataFrame(
            {
                "coef": self.estimates,
                "std err": self.bse,
                letter: self.statistics,
                f"P>|{letter}|": self.pvalues,
                "Conf. Int. Low": ends[:, 0],
                "Conf. Int. Upp.": ends[:, 1],
            },
            index=list(self.labels),
        )

    def _records(self) -> tuple[dict[str, Any], ...]:
        ends = self.conf_int()
        return tuple(
            {
                "term": label,
                "estimate": float(self.estimates[i]),
                "std_error": float(self.bse[i]),
                "statistic": float(self.statistics[i]),
                "p_value": float(self.pvalues[i]),
                "conf_low": float(ends[i, 0]),
                "conf_high": float(ends[i, 1]),
            }
            for i, label in enumerate(self.labels)
        )

    def display(self) -> Display:
        """Return the rows as a table: estimate, standard error, statistic, p, interval."""
        letter = "z" if self.df is None else "t"
        rows = tuple(
            (
                str(record["term"]),
                number(record["estimate"]),
                number(record["std_error"]),
                "" if np.isnan(record["statistic"]) else f"{record['statistic']:.3f}",
                pvalue(record["p_value"]),
                number(record["conf_low"]),
                number(record["conf_high"]),
            )
            for record in self._records()
        )
        notes = [f"Standard errors: {self.method}."]
        if self.df is not None and np.ndim(self.df) == 0:
            notes.append(f"Reference distribution: t with {float(self.df):g} degrees of freedom.")
        level = f"{100 * (1 - self.alpha):g}%"
        header = ("", "estimate", "std. err.", letter, f"P>|{letter}|", f"[{level}", "interval]")
        return Display(self.title, (), header, (Group("", rows),), (*notes, *self.notes), self._records())
