"""The summary of a fit: rows by equation, on the user's scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlecov.covariance.covariance import Covariance
from mlecov.inference.table import CoefficientTable, coefficient_table
from mlecov.optimum import Optimum
from mlecov.parameters import LinearKind, Parameter, ParameterSpace
from mlecov.rendering import Display, Group, number, pvalue


@dataclass(frozen=True)
class Criteria:
    """Log-likelihood, counts and information criteria of an optimum."""

    llf: float
    nobs: float
    k: int

    @property
    def aic(self) -> float:
        """Akaike's criterion -2 llf + 2 k."""
        return -2 * self.llf + 2 * self.k

    @property
    def bic(self) -> float:
        """Schwarz's criterion -2 llf + k log n."""
        return -2 * self.llf + self.k * float(np.log(self.nobs))

    @property
    def hqic(self) -> float:
        """Hannan and Quinn's criterion -2 llf + 2 k log log n."""
        return -2 * self.llf + 2 * self.k * float(np.log(np.log(self.nobs)))


def criteria(optimum: Optimum) -> Criteria:
    """Return the criteria of an optimum; k counts the free parameters."""
    return Criteria(optimum.evaluation.loglike, optimum.likelihood.n_obs, optimum.likelihood.space.k)


def entry_label(parameter: Parameter, label: str) -> str:
    """Return a reported entry's name inside its group: `educ` for `mu[educ]`."""
    if isinstance(parameter.kind, LinearKind) and label.endswith("]"):
        return label[label.index("[") + 1 : -1]
    return label


def grouped(space: ParameterSpace) -> list[tuple[str, list[tuple[int, str]]]]:
    """Return [(title, [(entry, short label), ...])]: an equation each, the rest together."""
    groups: list[tuple[str, list[tuple[int, str]]]] = []
    loose: list[tuple[int, str]] = []
    for parameter in space:
        labels = parameter.kind.labels(parameter.name)
        entries = [
            (parameter.reported.start + i, entry_label(parameter, label)) for i, label in enumerate(labels)
        ]
        if not isinstance(parameter.kind, LinearKind):
            loose += [(index, label) for (index, _), label in zip(entries, labels, strict=True)]
        elif parameter.kind.equations:
            width = len(parameter.kind.columns)
            for j, equation in enumerate(parameter.kind.equations):
                groups.append((f"{parameter.name}.{equation}", entries[j * width : (j + 1) * width]))
        else:
            groups.append((parameter.name, entries))
    if loose:
        groups.append(("" if not groups else "parameters", loose))
    return groups


def summary(optimum: Optimum, covariance: Covariance, alpha: float = 0.05) -> Display:
    """Return the summary of an optimum under a covariance.

    z (or t) and p are blank where the hypothesis zero lies on the bound of the parameter; fixed
    entries have no standard error.
    """
    table = coefficient_table(covariance, alpha)
    letter = "z" if covariance.df is None else "t"
    level = f"{100 * (1 - alpha):g}%"
    header = ("", "estimate", "std. err.", letter, f"P>|{letter}|", f"[{level}", "interval]")
    groups = tuple(
        Group(title, tuple(_row(table, i, label) for i, label in entries))
        for title, entries in grouped(optimum.likelihood.space)
    )
    return Display(
        title(optimum),
        facts(optimum),
        header,
        groups,
        tuple(notes(optimum, covariance)),
        tuple(records(table)),
    )


def _row(table: CoefficientTable, i: int, label: str) -> tuple[str, ...]:
    statistic = table.statistics[i]
    return (
        label,
        number(table.estimates[i]),
        number(table.bse[i]) or "(fixed)",
        "" if np.isnan(statistic) else f"{statistic:.3f}",
        pvalue(table.pvalues[i]),
        number(table.lower[i]),
        number(table.upper[i]),
    )


def records(table: CoefficientTable) -> list[dict[str, object]]:
    """Return the table as rows of a tidy frame (R's broom names where they exist)."""
    return [
        {
            "term": table.labels[i],
            "estimate": float(table.estimates[i]),
            "std_error": float(table.bse[i]),
            "statistic": float(table.statistics[i]),
            "p_value": float(table.pvalues[i]),
            "conf_low": float(table.lower[i]),
            "conf_high": float(table.upper[i]),
        }
        for i in range(len(table.labels))
    ]


def title(optimum: Optimum) -> str:
    """Return the heading: the model and its outcome."""
    likelihood = optimum.likelihood
    outcome = f" of {likelihood.facts.outcome}" if likelihood.facts.outcome else ""
    penalised = "penalised " if optimum.record.method.startswith("bias-reduced") else ""
    return f"{likelihood.facts.name}{outcome}: {penalised}maximum likelihood"


def facts(optimum: Optimum) -> tuple[tuple[str, str], ...]:
    """Return the facts above a table: log-likelihood, counts, criteria, derivatives, method."""
    found = criteria(optimum)
    likelihood = optimum.likelihood
    unit = "units" if likelihood.rows.unit is not None else "observations"
    return (
        ("log-likelihood", f"{found.llf:.10g}"),
        (unit, f"{found.nobs:g}"),
        ("AIC", f"{found.aic:.8g}"),
        ("BIC", f"{found.bic:.8g}"),
        ("derivatives", likelihood.facts.engine),
        ("method", f"{optimum.record.method}, {optimum.record.iterations} iterations"),
    )


def notes(optimum: Optimum, covariance: Covariance) -> list[str]:
    """Return the notes under a table: what the covariance is, and what the reader must know."""
    found = [f"Standard errors: {covariance.label}."]
    if covariance.df is not None and np.ndim(covariance.df) == 0:
        found.append(f"Reference distribution: t with {float(covariance.df):g} degrees of freedom.")
    likelihood = optimum.likelihood
    if likelihood.space.restrictions:
        found.append(f"Constraints: {'; '.join(likelihood.space.restrictions)}.")
    if likelihood.weights is not None:
        found.append(f"Weights: {likelihood.weights.kind}.")
    if likelihood.rows.kept is not None:
        lost = likelihood.rows.table.n_rows - len(likelihood.rows.kept)
        if lost > 0:
            found.append(f"{lost} rows dropped because of missing values.")
    if covariance.space.zero_on_bound.any():
        found.append("z and p are blank where zero lies on the bound of a parameter.")
    if not optimum.record.converged:
        found.append(f"NOT CONVERGED: {optimum.record.criterion}. The numbers above are not estimates.")
    elif not optimum.record.polished:
        found.append("The optimum was not polished (polish=False).")
    return found
