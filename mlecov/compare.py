"""Estimators side by side: estimates, every covariance's standard errors, what the differences say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.sandwich import covariance, expected_where_known, observed_factor
from mlecov.covariance.specs import Basic, Spec
from mlecov.errors import CovarianceError
from mlecov.lazy import lazy
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number
from mlecov.summary import facts, grouped, title

pd = lazy("pandas")

Array = npt.NDArray[np.float64]


def default_specs(optimum: Optimum) -> list[Spec]:
    """Return the estimators that are defined for this likelihood without further arguments."""
    expected = expected_where_known(optimum) is not None
    if _sampled(optimum):
        return [Basic(name) for name in (["robust", "bw"] if expected else ["robust"])]
    names = ["oim", "eim", "opg", "robust", "bw"] if expected else ["oim", "opg", "robust"]
    return [Basic(name) for name in names if name not in optimum.likelihood.refused]


def _sampled(optimum: Optimum) -> bool:
    """Whether there are probability weights: only robust forms stand then, and no information equality."""
    weights = optimum.likelihood.weights
    return weights is not None and weights.kind == "probability"


def information_ratio(optimum: Optimum) -> float:
    """Return tr(I^-1 S'S) / k: one, but for chance, where the model is right (White 1982)."""
    assert optimum.evaluation.scores is not None
    inverse = observed_factor(optimum).inverse
    return float(np.sum(inverse * optimum.evaluation.meat) / len(inverse))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Estimates (m,) with standard errors under several covariances (m, C)."""

    optimum: Optimum
    covariances: tuple[Covariance, ...]
    ratio: float

    @cached_property
    def std_errors(self) -> Array:
        """Standard errors (m, C)."""
        return np.column_stack([c.bse for c in self.covariances])

    @cached_property
    def ratios(self) -> Array:
        """Standard errors over those of the first covariance (m, C)."""
        with np.errstate(all="ignore"):
            return np.asarray(self.std_errors / self.std_errors[:, :1])

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the covariances (C), made distinct."""
        names = [c.column for c in self.covariances]
        return tuple(
            f"{n} ({names[:i].count(n) + 1})" if names.count(n) > 1 else n for i, n in enumerate(names)
        )

    def sentence(self) -> str:
        """Return one plain sentence on what the differences suggest."""
        kinds = {c.column: j for j, c in enumerate(self.covariances)}
        base = kinds.get("oim", kinds.get("eim"))
        robust = [j for j, c in enumerate(self.covariances) if "sandwich" in c.label or "cluster" in c.label]
        if base is None or not robust:
            return ""
        with np.errstate(all="ignore"):
            moves = self.std_errors[:, robust] / self.std_errors[:, [base]]
        moves = np.where(np.isfinite(moves) & (moves > 0), moves, 1.0)
        far = np.unravel_index(int(np.argmax(np.abs(np.log(moves)))), moves.shape)
        size, label = float(moves[far]), self.optimum.likelihood.space.labels[far[0]]
        which = self.covariances[robust[int(far[1])]].column
        n, k = self.optimum.likelihood.n_obs, self.optimum.likelihood.space.k
        small = ""
        if n < 50 * k:
            count = "1 parameter" if k == 1 else f"{k} parameters"
            small = f" With {n:g} terms for {count}, differences of this kind can arise by chance alone."
        if abs(np.log(size)) < np.log(1.1):
            return (
                f"Robust and classical standard errors agree within 10% (largest ratio {size:.2f}, {label}): no sign "
                f"of misspecification in them.{small}"
            )
        word = "larger" if size > 1 else "smaller"
        return (
            f"The standard error of {label} under '{which}' is {size:.2f} times the classical one: {word} than the "
            "model allows for if it were right. Look for the reason (dependence, variance, functional form) "
            f"before choosing between them (King and Roberts 2015).{small}"
        )

    def display(self, digits: int = 6) -> Display:
        """Return the comparison as a table: estimates, standard errors, and their ratios below."""
        space = self.optimum.likelihood.space
        estimates = space.report(self.optimum.theta)
        groups, below = [], []
        for name, entries in grouped(space):
            rows = [
                (label, number(estimates[i], digits), *(number(v, digits) for v in self.std_errors[i]))
                for i, label in entries
            ]
            groups.append(Group(name, tuple(rows)))
            if len(self.covariances) > 1:
                below += [
                    (space.labels[i], "", *(f"{v:.3f}" if np.isfinite(v) else "" for v in self.ratios[i]))
                    for i, label in entries
                ]
        if below:
            groups.append(Group(f"ratio of standard errors to {self.columns[0]}", tuple(below)))
        pairs = zip(self.columns, self.covariances, strict=True)
        notes = [
            c.label + "." if c.label.startswith(f"{name},") else f"{name}: {c.label}." for name, c in pairs
        ]
        if not _sampled(self.optimum):
            notes.append(f"Information ratio tr(I^-1 S'S)/k = {self.ratio:.3f} (1 if the model is right).")
        sentence = self.sentence()
        if sentence:
            notes.append(sentence)
        if not self.optimum.record.converged:
            notes.append(
                f"NOT CONVERGED: {self.optimum.record.criterion}. The numbers above are not estimates."
            )
        records = tuple(
            {
                "term": space.labels[i],
                "estimate": float(estimates[i]),
                **{c: float(self.std_errors[i, j]) for j, c in enumerate(self.columns)},
            }
            for i in range(space.m)
        )
        return Display(
            title(self.optimum),
            facts(self.optimum),
            ("", "estimate", *self.columns),
            tuple(groups),
            tuple(notes),
            records,
        )

    def __str__(self) -> str:
        return self.display().text()

    def __repr__(self) -> str:
        return self.display().text()

    def _repr_html_(self) -> str:
        return self.display().html()

    def render(self, form: str) -> str:
        """Return the table as text, html, latex, csv or json."""
        return self.display().render(form)

    def frame(self) -> Any:
        """Return estimates and standard errors as a pandas DataFrame (m rows)."""
        data = {"estimate": self.optimum.likelihood.space.report(self.optimum.theta)}
        data |= dict(zip(self.columns, self.std_errors.T, strict=True))
        return pd.DataFrame(data, index=list(self.optimum.likelihood.space.labels))


def compare(optimum: Optimum, covariances: list[Covariance] | None = None) -> Comparison:
    """Return the comparison of covariances (default: all that need no arguments) at an optimum."""
    if covariances is None:
        covariances = [covariance(optimum, spec) for spec in default_specs(optimum)]
    if not covariances:
        raise CovarianceError(
            "compare: no covariance is named; give at least one, such as ['oim', 'robust']."
        )
    return Comparison(optimum, tuple(covariances), information_ratio(optimum))
