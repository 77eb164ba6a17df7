"""diagnose(): every finding on one page, each also as data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlecov.diagnostics.influence import Influence, ScoreOutliers, influence, score_outliers
from mlecov.diagnostics.point import (
    AtBound,
    Convergence,
    Identification,
    boundary,
    convergence,
    identification,
    separation,
)
from mlecov.diagnostics.residuals import quantile_residuals
from mlecov.errors import InferenceError, MlecovError
from mlecov.inference.results import Shown
from mlecov.linalg import try_factor
from mlecov.optimize.separation import Separation
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number

Array = npt.NDArray[np.float64]

HELD = 30_000_000
"""Numbers (n k^2) above which the page leaves out the influence of terms."""


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Shown):
    """The findings about a fit. `ok` tells whether none is a warning; `warnings` lists those that are."""

    title: str
    identification: Identification
    convergence: Convergence
    separation: Separation | None
    boundary: tuple[AtBound, ...]
    influence: Influence | None
    outliers: ScoreOutliers | None
    residuals: Array | None
    not_computed: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know, in words; empty where nothing is wrong."""
        found: list[str] = []
        if not self.convergence.ok:
            found += [s for s in self.convergence.sentences() if s.startswith(("NOT", "the Hessian"))]
        if not self.identification.ok:
            found += self.identification.sentences()[1:]
        if self.separation is not None:
            found.append(self.separation.sentence())
        found += [item.sentence() for item in self.boundary]
        if (
            self.influence is not None
            and (top := self.influence.top(1)).size
            and self.influence.cook[top[0]] > 1
        ):
            found.append(
                f"term {self.influence.labels[top[0]]} alone moves the estimates by more than their standard "
                "errors "
                f"(Cook's distance {self.influence.cook[top[0]]:.3g})"
            )
        if self.outliers is not None and len(self.outliers.terms):
            worst = self.outliers.terms[0]
            found.append(
                f"term {worst} holds {100 * self.outliers.share[worst]:.0f}% of a direction of the scores' "
                "outer "
                "product: robust and OPG standard errors rest on it"
            )
        return tuple(found)

    @property
    def ok(self) -> bool:
        """Whether there is no warning."""
        return not self.warnings

    def display(self) -> Display:
        """Return the page."""
        groups = [
            Group("convergence", tuple((s, "") for s in self.convergence.sentences())),
            Group("identification", tuple((s, "") for s in self.identification.sentences())),
            Group("separation", ((self._separated(), ""),)),
            Group(
                "bounds",
                tuple((b.sentence(), "") for b in self.boundary) or (("no parameter at its bound", ""),),
            ),
        ]
        c = self.convergence
        gradient = tuple(
            (f"gradient of {name}", f"{number(float(c.gradient[i]), 3)} (relative {c.relative[i]:.1e})")
            for i, name in enumerate(c.names[:12])
        )
        groups.append(Group("gradient at the optimum", gradient))
        if self.influence is not None:
            found = self.influence
            rows = tuple(
                (f"term {found.labels[i]}", f"Cook {found.cook[i]:.3g}, leverage {found.leverage[i]:.3g}")
                for i in found.top(5)
            )
            groups.append(Group("most influential terms", rows))
        if self.outliers is not None:
            order = np.argsort(-self.outliers.share, kind="stable")[:3]
            rows = tuple((f"term {i}", f"share of the scores {self.outliers.share[i]:.3g}") for i in order)
            groups.append(Group("largest scores", rows))
        if self.residuals is not None:
            groups.append(Group("quantile residuals (normal where the model is right)", self._moments()))
        verdict = (
            ("No warning.",) if self.ok else tuple(f"WARNING: {sentence}." for sentence in self.warnings)
        )
        records = tuple({"finding": sentence} for sentence in self.warnings)
        return Display(self.title, (), ("", ""), tuple(groups), (*verdict, *self.not_computed), records)

    def _separated(self) -> str:
        return "no outcomes separated" if self.separation is None else self.separation.sentence()

    def _moments(self) -> tuple[tuple[str, str], ...]:
        assert self.residuals is not None
        r = self.residuals
        z = (r - r.mean()) / r.std()
        return (
            ("mean, standard deviation", f"{r.mean():.3f}, {r.std():.3f}"),
            ("skewness, kurtosis", f"{(z**3).mean():.3f}, {(z**4).mean():.3f} (0 and 3)"),
            ("largest", f"{np.abs(r).max():.3f}"),
        )


def diagnose(optimum: Optimum) -> Diagnosis:
    """Return every finding about an optimum: prints as a page, each finding also data.

    Influence needs a positive definite information; quantile residuals a distribution function:
    where they are missing the page says so.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector")))
    >>> fit.diagnose().convergence.ok
    True
    """
    likelihood = optimum.likelihood
    missing: list[str] = []
    terms, outliers, residuals = None, None, None
    if likelihood.n_terms * likelihood.space.k**2 > HELD:
        missing.append("Influence is left out for its size; ask for influence(...) by itself.")
    elif optimum.evaluation.scores is None or try_factor(optimum.evaluation.information) is None:
        missing.append("Influence needs scores and a positive definite information.")
    else:
        terms = influence(optimum)
        try:
            outliers = score_outliers(optimum)
        except MlecovError as error:
            missing.append(f"Outlying scores: {error}")
    try:
        residuals = quantile_residuals(optimum)
    except InferenceError as error:
        missing.append(f"Quantile residuals: {error}")
    return Diagnosis(
        f"{likelihood.facts.name}: diagnosis",
        identification(optimum),
        convergence(optimum),
        separation(optimum),
        boundary(optimum),
        terms,
        outliers,
        residuals,
        tuple(missing),
    )
