"""A likelihood known at one point alone: fits saved to a file, or made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Weights
from mlecov.errors import SpecificationError
from mlecov.likelihood.base import Curvature, Evaluation, Facts, Likelihood
from mlecov.likelihood.scores import Codes
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KnownLikelihood(Likelihood):
    """An evaluation at one theta that stands for a likelihood; anything else is refused."""

    space: ParameterSpace
    rows: Rows
    weights: Weights | None
    facts: Facts
    known: Evaluation
    count: int
    expected: Array | None = None
    separable = False

    @property
    def n_terms(self) -> int:
        return self.count

    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        if weights is not None or not np.array_equal(theta, self.known.theta):
            raise SpecificationError(
                f"{self.facts.name} is known at its estimates only, so it can not be evaluated elsewhere (profile, "
                "bootstrap, exact refits). Reattach the likelihood: load_fit(path, likelihood=...)."
            )
        if scores and self.known.scores is None:
            raise SpecificationError(f"{self.facts.name} holds no scores; save the fit with scores=True.")
        return self.known

    def subset(self, terms: npt.NDArray[np.intp]) -> Likelihood:
        raise SpecificationError(
            f"{self.facts.name} holds no data, so terms can not be drawn or left out. Reattach the likelihood."
        )

    @property
    def has_expected_information(self) -> bool:
        return self.expected is not None

    def information(self, theta: Array) -> Array:
        return super().information(theta) if self.expected is None else self.expected

    def curvature_blocks(
        self, theta: Array, codes: Codes, n_groups: int, kind: Curvature
    ) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        raise SpecificationError(
            f"{self.facts.name} holds no curvature by group (CR2, CR3, HC2, HC3 need it). Reattach the likelihood."
        )
