"""What a Monte Carlo study found: bias, coverage and size with their own errors, as a table and as data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.lazy import lazy
from mlecov.rendering import Display, Group, number

pd = lazy("pandas")

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Replications:
    """What some replications gave: estimates (b, m), standard errors (C, b, m), misses and rejections."""

    estimates: Array
    std_errors: Array
    covered: Flags
    rejected: Flags
    failures: Counter[str]

    @staticmethod
    def join(parts: Sequence[Replications]) -> Replications:
        """Return the replications of several batches, one after another."""
        return Replications(
            np.concatenate([p.estimates for p in parts]),
            np.concatenate([p.std_errors for p in parts], axis=1),
            np.concatenate([p.covered for p in parts], axis=1),
            np.concatenate([p.rejected for p in parts], axis=1),
            sum((p.failures for p in parts), Counter[str]()),
        )


@dataclass(frozen=True, eq=False)
class MonteCarlo:
    """Results of R fits to simulated data; arrays are (R, m) and (C, R, m) for C covariances.

    `bias`, `empirical` (standard deviations of the estimates), `coverage`, `size` come with Monte
    Carlo standard errors (`..._error`). `failures` counts fits that are left out, by reason.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    truth: Array
    replications: Replications
    alpha: float
    seed: int
    n_terms: int
    name: str
    seconds: float
    requested: int
    ended: str = ""

    @property
    def reps(self) -> int:
        """Replications that were fitted and counted."""
        return len(self.replications.estimates)

    @property
    def failures(self) -> dict[str, int]:
        """Numbers of replications that failed, by reason."""
        return dict(self.replications.failures)

    @property
    def bias(self) -> Array:
        """Mean estimate less the truth (m,)."""
        return np.asarray(self.replications.estimates.mean(axis=0) - self.truth)

    @property
    def bias_error(self) -> Array:
        """Monte Carlo standard error of the bias (m,)."""
        return np.asarray(self.empirical / math.sqrt(self.reps))

    @property
    def empirical(self) -> Array:
        """Standard deviation of the estimates (m,): what standard errors estimate."""
        return np.asarray(self.replications.estimates.std(axis=0, ddof=1))

    @property
    def mean_std_errors(self) -> Array:
        """Root mean square of the estimated standard errors (C, m)."""
        return np.asarray(np.sqrt(np.mean(self.replications.std_errors**2, axis=1)))

    @property
    def ratio(self) -> Array:
        """Estimated over empirical standard errors (C, m); below one: too small."""
        return np.asarray(self.mean_std_errors / self.empirical)

    @property
    def coverage(self) -> Array:
        """Share of intervals that hold the truth (C, m)."""
        return np.asarray(self.replications.covered.mean(axis=1))

    @property
    def coverage_error(self) -> Array:
        """Monte Carlo standard error of the coverage (C, m)."""
        return share_error(self.coverage, self.reps)

    @property
    def size(self) -> Array:
        """Share of z or t tests of the truth that reject (C, m)."""
        return np.asarray(self.replications.rejected.mean(axis=1))

    @property
    def size_error(self) -> Array:
        """Monte Carlo standard error of the size (C, m)."""
        return share_error(self.size, self.reps)

    def verdict(self) -> str:
        """Return one sentence on which covariances can be trusted here."""
        nominal = 1 - self.alpha
        bar = 3 * math.sqrt(nominal * self.alpha / self.reps)
        worst = np.nanmax(np.abs(self.coverage - nominal), axis=1)
        order = np.argsort(worst, kind="stable")
        shown = ", ".join(f"{self.columns[c]} {100 * worst[c]:.1f}" for c in order)
        fine = [self.columns[c] for c in order if worst[c] <= bar]
        start = f"Largest distance of a coverage from {100 * nominal:g}%, in percentage points: {shown}."
        if not fine:
            nearest = self.columns[order[0]]
            return f"{start} None is within simulation error of the nominal coverage at this n; {nearest} is nearest."
        return f"{start} Within simulation error (three standard errors): {', '.join(fine)}."

    def records(self) -> list[dict[str, Any]]:
        """Return a row per parameter and covariance: the data of a table or a plot."""
        rows = []
        for i, label in enumerate(self.labels):
            for c, column in enumerate(self.columns):
                rows.append(
                    {
                        "term": label,
                        "covariance": column,
                        "truth": float(self.truth[i]),
                        "bias": float(self.bias[i]),
                        "bias_error": float(self.bias_error[i]),
                        "empirical_se": float(self.empirical[i]),
                        "mean_se": float(self.mean_std_errors[c, i]),
                        "ratio": float(self.ratio[c, i]),
                        "coverage": float(self.coverage[c, i]),
                        "coverage_error": float(self.coverage_error[c, i]),
                        "size": float(self.size[c, i]),
                        "size_error": float(self.size_error[c, i]),
                    }
                )
        return rows

    def frame(self) -> Any:
        """Return the records as a pandas DataFrame."""
        return pd.DataFrame(self.records())

    def display(self, digits: int = 4) -> Display:
        """Return the table: a group for each parameter, a row for each covariance."""
        groups = []
        records = self.records()
        for i, label in enumerate(self.labels):
            bias = f"{number(float(self.bias[i]), 2)} ({number(float(self.bias_error[i]), 2)})"
            truth = f"truth {number(float(self.truth[i]), digits)}"
            first = ("estimates", number(float(self.empirical[i]), digits), "", truth, f"bias {bias}")
            own = records[i * len(self.columns) : (i + 1) * len(self.columns)]
            groups.append(Group(label, (first, *(_row(record) for record in own))))
        facts = (
            ("replications", str(self.reps)),
            ("failed", str(sum(self.failures.values()))),
            ("terms each", str(self.n_terms)),
            ("seed", str(self.seed)),
            ("seconds", f"{self.seconds:.1f}"),
        )
        notes = [
            "estimates: their empirical standard deviation. Monte Carlo standard errors in parentheses.",
            self.verdict(),
        ]
        notes += [f"Left out: {count} ({reason})." for reason, count in self.failures.items()]
        notes += [self.ended] if self.ended else []
        shown = f"{100 * (1 - self.alpha):g}%"
        header = ("", "std. err.", "/ empirical", f"coverage {shown}", f"size {100 * self.alpha:g}%")
        return Display(
            f"Monte Carlo: {self.name}", facts, header, tuple(groups), tuple(notes), tuple(records)
        )

    def __str__(self) -> str:
        return self.display().text()

    def __repr__(self) -> str:
        return self.display().text()

    def _repr_html_(self) -> str:
        return self.display().html()


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    return (
        record["covariance"],
        number(record["mean_se"], 4),
        f"{record['ratio']:.3f}",
        f"{100 * record['coverage']:.1f} ({100 * record['coverage_error']:.1f})",
        f"{100 * record['size']:.1f} ({100 * record['size_error']:.1f})",
    )


def share_error(share: Array, count: int) -> Array:
    """Return sqrt(p (1 - p) / R) with p shrunk so that a share of 0 or 1 is not called certain."""
    p = (share * count + 2) / (count + 4)
    return np.asarray(np.sqrt(p * (1 - p) / (count + 4)))
