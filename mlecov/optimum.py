"""Optimum: a likelihood at its maximum, and the honest record of how it was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.likelihood.base import Evaluation, Likelihood

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One iteration: log-likelihood, g' I^-1 g (scale-free distance to the maximum), step length taken."""

    method: str
    iteration: int
    loglike: float
    decrement: float
    length: float
    seconds: float


@dataclass(frozen=True)
class Record:
    """How the maximum was found, and whether it was.

    `decrement` is g' I^-1 g at the end (I the observed information), twice the log-likelihood a
    Newton step could still gain; `gradient` the largest |g_j| / sqrt(I_jj). `criterion` says which
    test held, or why none did.
    """

    converged: bool
    criterion: str
    method: str
    iterations: int
    evaluations: int
    decrement: float
    gradient: float
    polished: bool
    seconds: float
    start: Array
    steps: tuple[Step, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the record under statsmodels' names and ours (`mle_retvals`)."""
        return {
            "converged": self.converged,
            "iterations": self.iterations,
            "fcalls": self.evaluations,
            "method": self.method,
            "criterion": self.criterion,
            "decrement": self.decrement,
            "gradient": self.gradient,
            "polished": self.polished,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Optimum:
    """A likelihood at its maximum: what every covariance, test and diagnostic reads."""

    likelihood: Likelihood
    theta: Array
    evaluation: Evaluation
    record: Record
