"""Blocks of streamed data as small likelihoods, and what is computed of each: functions that travel.

Everything here can be pickled: the same functions run in this process or on the workers of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Table, WeightKind, Weights
from mlecov.errors import MlecovError, SpecificationError
from mlecov.likelihood.base import Curvature, Facts, Likelihood
from mlecov.likelihood.chunked_source import complete, concatenate, take
from mlecov.likelihood.design import DenseDesign
from mlecov.likelihood.general import GeneralLikelihood
from mlecov.likelihood.index import IndexLikelihood
from mlecov.likelihood.scores import BLOCK, Codes, DenseScores, Scores

Array = npt.NDArray[np.float64]
Door = Callable[[Table], Likelihood]


@dataclass(frozen=True, eq=False)
class Block:
    """The likelihood of a block of rows; one of the general engine may be padded beyond `count` rows."""

    likelihood: Likelihood | None
    count: int

    @property
    def padded(self) -> int:
        """Rows that only fill the block up."""
        return 0 if self.likelihood is None else self.likelihood.n_terms - self.count

    def term_weights(self, extra: Array | None) -> Array | None:
        """Return the weights to evaluate with: zero for the rows that only fill up."""
        if not self.padded:
            return extra
        return np.concatenate([np.ones(self.count) if extra is None else extra, np.zeros(self.padded)])

    def scores(self, theta: Array) -> Scores | None:
        """Return the scores of the block's terms at theta."""
        if self.likelihood is None:
            return None
        found = self.likelihood.evaluate(theta, order=1, scores=True, weights=self.term_weights(None)).scores
        return None if found is None else self.cut(found)

    def cut(self, scores: Scores) -> Scores:
        """Return scores less the rows that only fill up."""
        if not self.padded or not isinstance(scores, DenseScores):
            return scores
        own = scores.weights
        return DenseScores(scores.matrix[: self.count], own and Weights(own.values[: self.count], own.kind))


@dataclass(frozen=True)
class BlockMaker:
    """Makes a block of a table: drop rows with missing values, append the cover, make, cut it off.

    `labels` are the parameters' names, that every block must have. `weight` is the column of weights,
    their kind, and the factor that scales analytic weights to mean one over all rows. `threads`: blocks may
    be worked on in several threads at once. `extra`: a
    further column whose values are returned beside the block.
    """

    door: Door
    used: tuple[str, ...]
    cover: Table
    categories: dict[str, Any]
    labels: tuple[str, ...]
    lost: bool
    weight: tuple[str, WeightKind, float] | None = None
    threads: bool = True
    extra: str | None = None
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def screened(table: Table, used: tuple[str, ...]) -> Table:
        """Return the complete rows of a table."""
        return complete(table, used) if used else table

    def __call__(self, table: Table) -> Any:
        kept = self.screened(table, self.used if self.lost else ())
        if self.extra == "":
            return kept
        if not kept.n_rows:
            block = Block(None, 0)
        else:
            block = Block(pad(self.make(kept)), kept.n_rows)
        return block if self.extra is None else (block, kept.raw(self.extra))

    def make(self, table: Table) -> Likelihood:
        """Return the likelihood of a table's rows, with the columns of the whole data."""
        n = table.n_rows
        narrow = Table({name: table.columns[name] for name in self.cover.columns}, n)
        try:
            made = cut(self.door(concatenate([narrow, self.cover], self.categories)), n)
        except MlecovError as error:
            where = f"in a block of {n} rows of streamed data (rows are counted from its first)"
            raise type(error)(f"{where}: {error}") from None
        if made.space.labels != self.labels:
            raise SpecificationError(
                f"a block of the data makes the parameters {made.space.labels}; the others have {self.labels}."
            )
        if self.weight is not None and self.weight[1] == "analytic":
            values = np.asarray(table.raw(self.weight[0]), dtype=float) * self.weight[2]
            made = replace(made, weights=Weights(values, "analytic"))  # type: ignore[type-var]
        return made


def cut(likelihood: Likelihood, n: int) -> Likelihood:
    """Return the likelihood of the first n rows, holding nothing of the table it was made of."""
    weights = likelihood.weights and Weights(likelihood.weights.values[:n], likelihood.weights.kind)
    facts = Facts(likelihood.facts.name, likelihood.facts.engine, likelihood.facts.outcome)
    rows = Rows(Table({}, n))
    if isinstance(likelihood, GeneralLikelihood):
        columns = {name: values[:n] for name, values in likelihood.columns.items()}
        return replace(
            likelihood,
            rows=rows,
            weights=weights,
            facts=facts,
            columns=columns,
            count=n,
            resubset=None,
            design=None,
        )
    assert isinstance(likelihood, IndexLikelihood)
    dense = isinstance(likelihood.design, DenseDesign)
    return replace(
        likelihood,
        rows=rows,
        weights=weights,
        facts=facts,
        design=DenseDesign(likelihood.design.matrix[:n]) if dense else likelihood.design.take(np.arange(n)),  # type: ignore
        equations=tuple(
            e if e.offset is None else replace(e, offset=e.offset[:n]) for e in likelihood.equations
        ),
        columns={name: values[:n] for name, values in likelihood.columns.items()},
    )


def pad(likelihood: Likelihood) -> Likelihood:
    """Return a general likelihood filled up to one of few sizes: its kernels are compiled for each size."""
    if not isinstance(likelihood, GeneralLikelihood):
        return likelihood
    n = likelihood.n_terms
    size = BLOCK
    while size < n:
        size *= 2
    if size == n:
        return likelihood
    last = np.r_[np.arange(n), np.full(size - n, n - 1)]
    return replace(
        likelihood,
        rows=Rows(Table({}, size)),
        weights=likelihood.weights and likelihood.weights.take(last),
        columns={name: values[last] for name, values in likelihood.columns.items()},
        count=size,
    )


# --- what is computed of a block ----------------------------------------------------------------------

Sums = tuple[float, list[Array | None], Array | None]


def evaluate_block(
    block: Block, theta: Array, order: int, scores: bool, keep: bool, weights: Array | None
) -> Sums:
    """Return loglike, [gradient, Hessian, S'S] as far as asked for, and the contributions where kept."""
    k = len(theta)
    if block.likelihood is None:
        zeros = [np.zeros(k) if order else None, np.zeros((k, k)) if order > 1 else None, None]
        return 0.0, [*zeros[:2], np.zeros((k, k)) if scores else None], np.empty(0) if keep else None
    found = block.likelihood.evaluate(theta, order=order, scores=scores, weights=block.term_weights(weights))
    meat = None if found.scores is None else block.cut(found.scores).meat()
    terms = found.loglike_obs[: block.count] if keep and found.loglike_obs is not None else None
    return found.loglike, [found.gradient, found.hessian, meat], terms


def gram_block(block: Block, theta: Array, power: int, weights: Array | None) -> Array:
    """Return S' diag(w^power) S (k, k)."""
    found = block.scores(theta)
    return np.zeros((len(theta), len(theta))) if found is None else found.gram(None, power, weights)


def scores_block(block: Block, theta: Array, weighted: bool = False) -> Array:
    """Return the scores (b, k) themselves."""
    found = block.scores(theta)
    if found is None:
        return np.empty((0, len(theta)))
    w = found.term_weights() if weighted else None
    dense = found.to_dense()
    return dense if w is None else dense * w[:, None]


def group_block(block: Block, theta: Array, codes: Codes, n_groups: int) -> tuple[Codes | slice, Array]:
    """Return the groups (g,) present in the block and their sums (g, k) of w s."""
    found = block.scores(theta)
    if found is None:
        return np.empty(0, np.intp), np.empty((0, len(theta)))
    if n_groups <= 2 * len(codes):
        return slice(None), found.group_sums(codes, n_groups)
    present, local = np.unique(codes, return_inverse=True)
    if len(present) and present[0] < 0:
        present, local = present[1:], local - 1
    sums = found.group_sums(np.asarray(local, dtype=np.intp), len(present))
    return present, sums


def look_up(made: tuple[Block, npt.NDArray[Any]], theta: Array, index: Any) -> tuple[Codes | slice, Array]:
    """Return the group sums of a block whose ids came along; `index` holds all ids."""
    block, ids = made
    return group_block(block, theta, np.asarray(index.get_indexer(ids), dtype=np.intp), len(index))


def left_block(block: Block, theta: Array, W: Array) -> Array:
    """Return W diag(w) S (R, k)."""
    found = block.scores(theta)
    return np.zeros((W.shape[0], len(theta))) if found is None else found.left(W)


def information_block(block: Block, theta: Array) -> Array:
    """Return the expected information (k, k)."""
    return (
        np.zeros((len(theta), len(theta)))
        if block.likelihood is None
        else block.likelihood.information(theta)
    )


def curvature_block(
    block: Block, theta: Array, codes: Codes, low: int, high: int, kind: Curvature
) -> tuple[Codes, Array]:
    """Return the groups low <= g < high of the block, less low, and their informations (g, k, k)."""
    k = len(theta)
    inside = (codes >= low) & (codes < high)
    present, local = np.unique(codes[inside], return_inverse=True)
    total = np.zeros((len(present), k, k))
    if block.likelihood is None or not len(present):
        return present - low, total
    own = np.full(block.likelihood.n_terms, -1, dtype=np.intp)
    own[: block.count][inside] = local
    for groups, blocks in block.likelihood.curvature_blocks(theta, own, len(present), kind):
        total[groups] += blocks
    return present - low, total


def weights_block(block: Block) -> Array:
    """Return the weights of the block's terms."""
    own = None if block.likelihood is None else block.likelihood.weights
    return np.empty(0) if own is None else own.values[: block.count]


def rows_of(table: Table, rows: npt.NDArray[np.intp]) -> Table:
    """Return a choice of rows."""
    return take(table, rows)
