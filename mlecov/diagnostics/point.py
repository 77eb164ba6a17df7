"""Findings about the point itself: identification, convergence and gradient, separation, boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlecov.linalg import describe_direction, symmetrize, try_factor
from mlecov.optimize.separation import Separation, find_separation
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]

NEAR_NULL = 1e-8
"""Eigenvalues of the equilibrated information below this times the largest are near null."""

WIDE = 3.0
"""Standard error on the unconstrained scale from which a parameter counts as next to its bound."""


@dataclass(frozen=True)
class Direction:
    """A direction (k,) of theta with little information: its eigenvalue (equilibrated) and its text."""

    eigenvalue: float
    direction: Array
    text: str
    null: bool


@dataclass(frozen=True)
class Identification:
    """What the information says of identification.

    `condition` and `condition_scaled` are the condition numbers of the observed information before
    and after scaling it to a unit diagonal; a large one that scaling removes is a matter of units.
    """

    condition: float
    condition_scaled: float
    directions: tuple[Direction, ...]
    design: str | None

    @property
    def ok(self) -> bool:
        """Whether no direction is null or near null."""
        return not self.directions

    def sentences(self) -> list[str]:
        """Return the finding in words."""
        found = [
            f"condition number of the information {self.condition:.3g}, {self.condition_scaled:.3g} after "
            "scaling"
        ]
        for d in self.directions:
            word = "no information" if d.null else "hardly any information"
            found.append(f"{word} along {d.text} (eigenvalue {d.eigenvalue:.2g} of the scaled information)")
        if self.design is not None:
            found.append(f"the design has {self.design}")
        if self.ok and self.condition > 1e8:
            found.append(
                "the large condition number is a matter of units: rescale regressors for readability only"
            )
        return found


def identification(optimum: Optimum) -> Identification:
    """Return null and near-null directions of the observed information, by parameter name."""
    information = symmetrize(optimum.evaluation.information)
    names = optimum.likelihood.space.free_labels
    size = np.sqrt(np.abs(np.diag(information)))
    scale = np.where(size > 0, 1 / np.where(size > 0, size, 1.0), 1.0)
    values, vectors = np.linalg.eigh(information * np.outer(scale, scale))
    plain = np.abs(np.linalg.eigvalsh(information))
    found = []
    for j in np.flatnonzero(values <= NEAR_NULL * values[-1]):
        # combinations in units of each parameter's own information, so that big units do not hide small ones
        direction = np.where(np.abs(vectors[:, j]) < 1e-4, 0.0, vectors[:, j]) * scale
        direction = direction / np.abs(direction).max()
        null = bool(values[j] <= len(values) * 64 * np.finfo(float).eps)
        found.append(Direction(float(values[j]), direction, describe_direction(direction, names), null))
    return Identification(
        float(plain.max() / plain.min()) if plain.min() > 0 else math.inf,
        float(values[-1] / values[0]) if values[0] > 0 else math.inf,
        tuple(found),
        optimum.likelihood.singular_columns() if found else None,
    )


@dataclass(frozen=True)
class Convergence:
    """How the optimiser ended, and the gradient there.

    `relative` is each g_j / sqrt(I_jj) (k,), the gradient in units of its own standard deviation;
    `definite` whether the observed information is positive definite.
    """

    converged: bool
    criterion: str
    method: str
    iterations: int
    decrement: float
    definite: bool
    names: tuple[str, ...]
    gradient: Array
    relative: Array

    @property
    def ok(self) -> bool:
        """Whether the criterion held at a point of negative definite Hessian."""
        return self.converged and self.definite

    def sentences(self) -> list[str]:
        """Return the finding in words."""
        worst = int(np.argmax(np.abs(self.relative)))
        state = "converged" if self.converged else "NOT CONVERGED"
        # at rounding it is chance which entry is the largest
        whose = f" ({self.names[worst]})" if np.abs(self.relative[worst]) > 1e-10 else ""
        found = [
            f"{state} by {self.method} after {self.iterations} iterations: {self.criterion}",
            f"largest relative gradient {self.relative[worst]:.2g}{whose}; g' I^-1 g = {self.decrement:.2g}",
        ]
        if not self.definite:
            found.append("the Hessian is not negative definite: this is no maximum")
        return found


def convergence(optimum: Optimum) -> Convergence:
    """Return the convergence record with the gradient at the optimum, parameter by parameter."""
    record, evaluation = optimum.record, optimum.evaluation
    gradient = np.zeros(len(optimum.theta)) if evaluation.gradient is None else evaluation.gradient
    size = np.sqrt(np.abs(np.diag(evaluation.information)))
    with np.errstate(all="ignore"):
        relative = np.where(size > 0, gradient / size, np.inf * np.sign(gradient))
    return Convergence(
        record.converged,
        record.criterion,
        record.method,
        record.iterations,
        record.decrement,
        try_factor(evaluation.information) is not None,
        optimum.likelihood.space.free_labels,
        gradient,
        np.nan_to_num(relative, posinf=np.inf, neginf=-np.inf),
    )


def separation(optimum: Optimum) -> Separation | None:
    """Return which outcomes a combination of columns fits perfectly, by linear programme, or None."""
    return find_separation(optimum.likelihood, optimum.theta, optimum.evaluation.scores)


@dataclass(frozen=True)
class AtBound:
    """A reported entry at, or next to, a bound of its range."""

    label: str
    estimate: float
    bound: float
    at: bool
    reason: str

    def sentence(self) -> str:
        """Return the finding in words."""
        word = "at" if self.at else "next to"
        return f"{self.label} = {self.estimate:.6g} is {word} its bound {self.bound:g}: {self.reason}"


def boundary(optimum: Optimum) -> tuple[AtBound, ...]:
    """Return the entries whose estimate lies at a bound (to rounding) or next to it.

    Next to: the standard error on the scale of the entry's link (log for a positive one) exceeds 3,
    so that the data do not keep the entry from the bound.
    """
    space = optimum.likelihood.space
    estimates, slopes = space.report(optimum.theta), space.jacobian(optimum.theta)
    factored = try_factor(optimum.evaluation.information)
    inverse = None if factored is None else factored.inverse
    found = []
    for i, link in enumerate(space.interval_links):
        if math.isinf(link.lo) and math.isinf(link.hi):
            continue
        estimate = float(estimates[i])
        gaps = [abs(estimate - bound) for bound in (link.lo, link.hi)]
        bound = (link.lo, link.hi)[int(np.argmin(gaps))]
        width = link.hi - link.lo if math.isfinite(link.hi - link.lo) else 1.0
        if min(gaps) <= 1e-7 * width:
            found.append(AtBound(space.labels[i], estimate, bound, True, "its standard error has no meaning"))
        elif inverse is not None and slopes[i].any():
            error = math.sqrt(max(float(slopes[i] @ inverse @ slopes[i]), 0.0))
            wide = error * abs(float(link.derivative(np.float64(estimate))))
            if wide > WIDE:
                reason = f"its standard error is {wide:.3g} on the unconstrained scale"
                found.append(AtBound(space.labels[i], estimate, bound, False, reason))
    return tuple(found)
