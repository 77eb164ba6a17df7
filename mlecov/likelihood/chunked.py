"""A likelihood whose rows are in a file or on a cluster: the sums of those of its blocks.

    loglike = sum_b loglike_b,   gradient, Hessian, S'S and group sums likewise

Blocks are made of a source (`chunked_source`) by the same doors as likelihoods in memory, with a few
cover rows (`chunked_survey`) so that all have the same columns. Sums come back, never rows, unless
somebody asks for rows. Blocks are added in order: results do not depend on who computed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Table, WeightKind, Weights
from mlecov.errors import CovarianceError, SpecificationError
from mlecov.likelihood.base import Curvature, Evaluation, Facts, Likelihood, no_expected_information
from mlecov.likelihood.chunked_blocks import (
    BlockMaker,
    curvature_block,
    evaluate_block,
    gram_block,
    group_block,
    information_block,
    left_block,
    look_up,
    rows_of,
    scores_block,
    weights_block,
)
from mlecov.likelihood.chunked_rows import FileCodes, FileRows, FileTable, FileVector
from mlecov.likelihood.chunked_source import Held, Source, concatenate
from mlecov.likelihood.chunked_survey import Survey
from mlecov.likelihood.scores import Codes, DenseScores, Scores
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]

KEPT_TERMS = 2**25
"""Terms up to which an evaluation of order 0 returns the contributions themselves (8 bytes each)."""

DENSE_ENTRIES = 2**27
"""Entries (n k) up to which scores are formed in another order than that of the file (1 GB)."""

CURVATURE_ENTRIES = 2**24
"""Entries (G k k) of groups' informations that are added up in one pass."""


@dataclass(frozen=True, eq=False)
class ChunkedLikelihood(Likelihood):
    """A separable likelihood over the blocks of a source; a term is a row.

    `template` is the same likelihood of a random sample of the rows, in memory: it gives names,
    start values and checks. `maker` makes a block of a table; `held` are the blocks.
    """

    template: Likelihood
    source: Source
    maker: BlockMaker
    survey: Survey
    held: Held
    weight: tuple[str, WeightKind] | None = None
    separable = True
    cache: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", self.template.space)
        facts = self.template.facts
        extra = {"source": type(self.source).__name__, "blocks_read": len(self.survey.kept)}
        object.__setattr__(
            self, "facts", Facts(facts.name, f"{facts.engine}, streamed", facts.outcome, extra)
        )
        object.__setattr__(self, "bounds", np.r_[0, np.cumsum(self.survey.kept)])
        table = FileTable(dict.fromkeys(self.source.names), self.survey.n_kept, None, self.read)
        object.__setattr__(self, "rows", FileRows(table))
        values: Any = FileVector(lambda: self.map(weights_block), self.n_terms, float)
        object.__setattr__(self, "weights", None if self.weight is None else Weights(values, self.weight[1]))

    space: ParameterSpace = field(init=False)
    facts: Facts = field(init=False)
    rows: Rows = field(init=False)
    weights: Weights | None = field(init=False)
    bounds: npt.NDArray[np.intp] = field(init=False)

    @property
    def n_terms(self) -> int:
        return self.survey.n_kept

    @property
    def n_obs(self) -> float:
        if self.weight is not None and self.weight[1] == "frequency":
            return self.survey.total
        return float(self.n_terms)

    @property
    def start_values(self) -> Any:
        """The model's own start values, where it has them."""
        return getattr(self.template, "start_values", None)

    def start(self) -> Array:
        return self.template.start()

    def stand_in(self) -> Likelihood:
        return self.template

    # --- passes over the blocks ----------------------------------------------------------------------

    def map(
        self, function: Callable[..., Any], arguments: Callable[[int], tuple[Any, ...]] | None = None
    ) -> Iterator[Any]:
        """Yield function(block, *arguments(i)) of every block in order."""
        return self.held.map(function, arguments or (lambda i: ()))

    def sliced(self, values: Any, i: int) -> Any:
        """Return the entries of a vector (n,) that belong to block i (None stays None)."""
        return None if values is None else values[self.bounds[i] : self.bounds[i + 1]]

    def read(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """Yield a column's complete rows, block by block."""
        screened = self.maker.used if self.survey.lost else ()
        names = tuple(dict.fromkeys([name, *screened]))
        return self.source.map(ColumnReader(name, tuple(screened)), names)

    def further(self, name: str) -> Held:
        """Return the blocks, each with the values of a further column beside it ("": the rows alone)."""
        names = tuple(dict.fromkeys([*self.maker.used, *([name] if name else [])]))
        return self.source.hold(replace(self.maker, extra=name), names, once=True)

    # --- the contract ----------------------------------------------------------------------------------

    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        """Evaluate block by block; see `Likelihood.evaluate`.

        `loglike_obs` comes back at order 0 for up to 2^25 terms. The scores hold theta and S'S, and
        are read off the file again for any other reduction.
        """
        theta = np.array(theta, dtype=float)
        order = max(order, 1) if scores else order
        keep = order == 0 and self.n_terms <= KEPT_TERMS
        parts = self.map(
            evaluate_block,
            lambda i: (theta, order, scores and weights is None, keep, self.sliced(weights, i)),
        )
        loglike, sums, terms = 0.0, None, []
        for value, matrices, contributions in parts:
            loglike += value
            terms.append(contributions)
            sums = (
                matrices
                if sums is None
                else [None if a is None else a + b for a, b in zip(sums, matrices, strict=True)]
            )
        assert sums is not None
        gradient, hessian, meat = sums
        found = ChunkedScores(self, theta, meat) if scores else None
        return Evaluation(theta, loglike, gradient, hessian, found, np.concatenate(terms) if keep else None)

    def subset(self, terms: npt.NDArray[np.intp]) -> Likelihood:
        """Return the likelihood of some terms, in memory."""
        terms = np.asarray(terms, dtype=np.intp)
        chosen, place = np.unique(terms, return_inverse=True)
        ends = np.searchsorted(chosen, self.bounds)
        picked = [(chosen[ends[i] : ends[i + 1]] - self.bounds[i],) for i in range(len(self.bounds) - 1)]
        parts = [table for table in self.further("").map(rows_of, picked.__getitem__) if table.n_rows]
        block = self.maker.make(concatenate(parts, self.survey.categories))
        return block.subset(place)

    def information(self, theta: Array) -> Array:
        if not self.has_expected_information:
            raise CovarianceError(no_expected_information(self.facts.name))
        return np.asarray(sum(self.map(information_block, lambda i: (theta,))))

    @property
    def has_expected_information(self) -> bool:
        return self.template.has_expected_information

    @property
    def has_expected_blocks(self) -> bool:
        return self.template.has_expected_blocks

    def curvature_blocks(
        self, theta: Array, codes: Codes, n_groups: int, kind: Curvature
    ) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        """Stream I_g of batches of groups, one pass over the data for each batch."""
        k = self.space.k
        codes = np.asarray(codes)
        batch = max(CURVATURE_ENTRIES // (k * k), 1)
        for low in range(0, n_groups, batch):
            high = min(low + batch, n_groups)
            total = np.zeros((high - low, k, k))
            arguments = [
                (theta, self.sliced(codes, i), low, high, kind) for i in range(len(self.survey.kept))
            ]
            for groups, blocks in self.map(curvature_block, arguments.__getitem__):
                total[groups] += blocks
            yield np.arange(low, high, dtype=np.intp), total

    def singular_columns(self) -> str | None:
        return self.template.singular_columns()

    def separation(self, theta: Array) -> str | None:
        return self.template.separation(theta)

    def check_derivatives(self, theta: Array) -> None:
        self.template.check_derivatives(theta)

    def simulate(self, rng: np.random.Generator, theta: Array) -> Likelihood:
        raise SpecificationError(
            f"{self.facts.name}: outcomes of streamed data are not simulated. Simulate from a part in memory: "
            "likelihood.subset(terms)."
        )


@dataclass(frozen=True)
class ColumnReader:
    """Reads one column's complete rows of a table."""

    name: str
    used: tuple[str, ...]

    def __call__(self, table: Table) -> npt.NDArray[Any]:
        from_complete = BlockMaker.screened(table, self.used)
        return from_complete.raw(self.name)


@dataclass(frozen=True, eq=False)
class ChunkedScores(Scores):
    """Scores of streamed terms: theta and the blocks, from which every reduction is computed anew.

    `outer` is S'S (with the weights' power of the meat), had at the last evaluation.
    """

    likelihood: ChunkedLikelihood
    theta: Array
    outer: Array | None = None
    in_memory: ClassVar[bool] = False

    @property
    def n_terms(self) -> int:  # type: ignore[override]
        return self.likelihood.n_terms

    @property
    def k(self) -> int:  # type: ignore[override]
        return len(self.theta)

    @property
    def weights(self) -> Weights | None:  # type: ignore[override]
        return self.likelihood.weights

    def meat(self) -> Array:
        return super().meat() if self.outer is None else self.outer

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        bounds = self.likelihood.bounds
        for i, rows in enumerate(self.likelihood.map(scores_block, lambda i: (self.theta,))):
            yield int(bounds[i]), int(bounds[i + 1]), rows

    def weighted_blocks(self) -> Iterator[tuple[int, int, Array]]:
        bounds = self.likelihood.bounds
        for i, rows in enumerate(self.likelihood.map(scores_block, lambda i: (self.theta, True))):
            yield int(bounds[i]), int(bounds[i + 1]), rows

    def take(self, terms: npt.NDArray[np.intp]) -> DenseScores:
        part = self.likelihood.subset(terms)
        found = part.evaluate(self.theta, order=1, scores=True).scores
        assert found is not None
        own = self.likelihood.weights
        weights = None if own is None else Weights(np.asarray(own.values)[terms], own.kind)
        return DenseScores(found.to_dense(), weights)

    def gram(self, other: Scores | None = None, power: int = 1, weights: Array | None = None) -> Array:
        if other is not None:
            return super().gram(other, power, weights)
        if self.outer is not None and weights is None and self._is_meat(power):
            return self.outer
        arguments = self.likelihood.sliced
        parts = self.likelihood.map(gram_block, lambda i: (self.theta, power, arguments(weights, i)))
        return np.asarray(sum(parts))

    def _is_meat(self, power: int) -> bool:
        return self.weights is None or power == self.weights.meat_power

    def group_sums(self, codes: Codes, n_groups: int) -> Array:
        total = np.zeros((n_groups, self.k))
        codes_given: Any = codes
        if isinstance(codes_given, FileCodes):
            arguments = (self.theta, codes_given.index)
            parts = self.likelihood.further(codes_given.name).map(look_up, lambda i: arguments)
        else:
            slices = self.likelihood.sliced
            parts = self.likelihood.map(group_block, lambda i: (self.theta, slices(codes, i), n_groups))
        for groups, sums in parts:
            total[groups] += sums
        return total

    def left(self, W: Array) -> Array:
        bounds = self.likelihood.bounds
        parts = self.likelihood.map(left_block, lambda i: (self.theta, W[:, bounds[i] : bounds[i + 1]]))
        return np.asarray(sum(parts))

    def ordered(self, order: Codes) -> Scores:
        """Return the scores in another order: themselves where it is the file's, else a copy in memory.

        Raises
        ------
        CovarianceError
            Where the copy would be large.
        """
        if len(order) == self.n_terms and np.array_equal(order, np.arange(self.n_terms)):
            return self
        if self.n_terms * self.k > DENSE_ENTRIES:
            raise CovarianceError(
                f"the scores of {self.n_terms} streamed terms are needed in another order than that of the file. Sort "
                "the file by group and time; it is then read in order."
            )
        own = self.weights
        dense = DenseScores(
            self.to_dense(), None if own is None else Weights(np.asarray(own.values), own.kind)
        )
        return dense.ordered(order)
