"""Parameters that have run to a bound of their range: what a model says where its fit ends."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from mlecov.likelihood.base import Evaluation, Likelihood
from mlecov.likelihood.index import IndexLikelihood
from mlecov.models.base import Model

Array = npt.NDArray[np.float64]

FLAT = 1e-6
"""A fall of the log-likelihood, on the way to a bound, that is none."""


def runs(likelihood: Likelihood, evaluation: Evaluation, place: int, move: float) -> bool:
    """Tell whether theta[place] has run to its bound: moved on by `move` the log-likelihood does not fall."""
    theta = evaluation.theta.copy()
    theta[place] += move
    return bool(likelihood.evaluate(theta).loglike > evaluation.loglike - FLAT)


class BoundedModel(Model):
    """A model of rows with a parameter that may run to a bound."""

    @abstractmethod
    def boundary(self, likelihood: IndexLikelihood, evaluation: Evaluation) -> str | None:
        """Return what is to be said of parameters at a bound where the fit has ended, or None."""


@dataclass(frozen=True)
class BoundedRows(IndexLikelihood):
    """The likelihood of a `BoundedModel`, which tells where the fit has ended at a bound."""

    def boundary(self, evaluation: Evaluation) -> str | None:
        assert isinstance(self.model, BoundedModel)
        return self.model.boundary(self, evaluation)


def bounded(likelihood: IndexLikelihood) -> BoundedRows:
    """Return the likelihood that tells where its fit ends at a bound."""
    return BoundedRows(**{f.name: getattr(likelihood, f.name) for f in fields(likelihood)})


def scalar(likelihood: IndexLikelihood, equation: int) -> int | None:
    """Return the place in theta of an equation that is one number for all rows, None where it has a formula."""
    found = likelihood.equations[equation]
    return found.start if found.columns is None else None
