"""The first pass over streamed data: counts, missing rows, categories, a random sample, cover rows.

Cover rows are a few rows of the data in which every category of every column occurs, and the least
and the greatest value of every number. Appended to a block while it is made into a likelihood (and
cut off again), they give it the same columns, categories and limits as the whole data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Table, is_missing
from mlecov.errors import DataError, MissingDataWarning, listing, warn
from mlecov.lazy import lazy
from mlecov.likelihood.chunked_source import Source, complete, concatenate, take

pd = lazy("pandas")

SAMPLE = 200_000
"""Rows of the random sample on which start values are found."""

FEW_VALUES = 64
"""Different numbers in a column up to which each is covered, as if they were categories."""

MANY_LEVELS = 200_000
"""Categories that are refused: every block would carry a row of each."""


@dataclass(frozen=True)
class Survey:
    """What one pass has found of some blocks.

    `rows` and `kept` count the rows of each block and the complete ones among them, `missing` the
    missing entries by column. `total` is the sum of the weights, `categories` are those of dictionary
    columns, `coded` the numeric columns that are used as categories.
    """

    rows: tuple[int, ...]
    kept: tuple[int, ...]
    missing: dict[str, int]
    total: float
    sample: Table
    cover: Table
    categories: dict[str, Any]
    coded: tuple[str, ...]

    @property
    def lost(self) -> int:
        """Rows with a missing value in a column used."""
        return sum(self.rows) - sum(self.kept)

    @property
    def n_kept(self) -> int:
        """Rows with no missing value in any column used."""
        return sum(self.kept)


def merge(parts: Sequence[Survey]) -> Survey:
    """Return the survey of all blocks from those of consecutive ones."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    categories = {name: reduce(_union, [p.categories[name] for p in parts]) for name in first.categories}
    names = dict.fromkeys(name for p in parts for name in p.missing)
    cover = concatenate([p.cover for p in parts], categories)
    return Survey(
        tuple(n for p in parts for n in p.rows),
        tuple(n for p in parts for n in p.kept),
        {name: sum(p.missing.get(name, 0) for p in parts) for name in names},
        sum(p.total for p in parts),
        concatenate([p.sample for p in parts], categories),
        take(cover, cover_rows(cover, first.coded)),
        categories,
        first.coded,
    )


def _union(left: Any, right: Any) -> Any:
    return left if left.equals(right) else left.append(right.difference(left, sort=False))


@dataclass(frozen=True)
class Surveyor:
    """Surveys a block: columns used, those under C(), the column of weights, the share to sample."""

    used: tuple[str, ...]
    coded: tuple[str, ...]
    weight: str | None
    share: float

    def __call__(self, table: Table) -> Survey:
        missing = {name: int(is_missing(table.raw(name)).sum()) for name in self.used}
        missing = {name: count for name, count in missing.items() if count}
        kept = complete(table, self.used) if missing else table
        seed = np.random.SeedSequence([7, table.n_rows, _digest(table)])
        chosen = slice(0, kept.n_rows)
        sample = take(kept, chosen)
        if self.share < 1:
            sample = take(kept, np.random.default_rng(seed).random(kept.n_rows) < self.share)
        total = 0.0 if self.weight is None else float(np.sum(kept.raw(self.weight), dtype=float))
        categories = {
            name: values.cat.categories
            for name, values in kept.columns.items()
            if str(values.dtype) == "category"
        }
        cover = take(kept, cover_rows(kept, self.coded))
        return Survey((table.n_rows,), (kept.n_rows,), missing, total, sample, cover, categories, self.coded)


def _digest(table: Table) -> int:
    """Return a number that differs from block to block, from a few numbers in the block."""
    found = 0
    for values in table.columns.values():
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiu" and len(values):
            few = np.nan_to_num(values[:: max(len(values) // 7, 1)].astype(float), posinf=0.0, neginf=0.0)
            found = (found * 31 + hash(float(few.sum()))) % 2**32
    return found


def cover_rows(table: Table, coded: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return rows in which every category occurs, and the least and greatest of every number."""
    chosen: list[npt.NDArray[Any]] = []
    for name, values in table.columns.items():
        if not table.n_rows or np.ndim(values) != 1:
            continue
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
            with np.errstate(invalid="ignore"):
                chosen.append(np.array([np.argmin(values), np.argmax(values)]))
            few = len(pd.unique(values[:1000])) <= FEW_VALUES
            if name not in coded and not few:
                continue
            first = _first(values)
            if name in coded or len(first) <= FEW_VALUES:
                chosen.append(first)
        else:
            chosen.append(_first(values))
        if chosen and len(chosen[-1]) > MANY_LEVELS:
            raise DataError(
                f"column {name!r} has more than {MANY_LEVELS} categories: a design with as many columns can not be "
                "streamed. Use it as a group (Cluster), or combine categories."
            )
    return np.unique(np.concatenate(chosen)) if chosen else np.empty(0, np.intp)


def _first(values: Any) -> npt.NDArray[np.intp]:
    """Return the first row of each distinct value; a missing one has none."""
    codes, labels = pd.factorize(values)
    first = np.full(len(labels) + 1, len(codes), dtype=np.intp)
    np.minimum.at(first, codes, np.arange(len(codes)))
    return first[: len(labels)]


def survey(
    source: Source, used: Sequence[str], coded: Sequence[str], weight: str | None, missing: str, sample: int
) -> Survey:
    """Return what a pass over the columns used finds; rows with missing values raise or are dropped.

    Raises
    ------
    DataError
        Where values are missing and `missing` is not "drop"; where no row is left.
    """
    if missing not in ("raise", "drop"):
        raise DataError(f"missing={missing!r} is not known; expected 'raise' or 'drop'.")
    share = min(1.0, sample / max(source.n_rows, 1))
    surveyor = Surveyor(tuple(used), tuple(coded), weight, share)
    found: list[Survey] = []
    for part in source.map(surveyor, used):
        found.append(part)
        if len(found) == 32:
            found = [merge(found)]
    result = merge(found)
    if result.missing:
        counts = listing(f"{name!r} ({count})" for name, count in result.missing.items())
        if missing == "raise":
            raise DataError(
                f"missing values in {counts}; {result.lost} of {sum(result.rows)} rows. Clean the data, or say "
                "missing='drop'."
            )
        warn(
            f"{result.lost} of {sum(result.rows)} rows dropped: missing values in {counts}.",
            MissingDataWarning,
        )
    if not result.n_kept:
        raise DataError(f"no terms are left of {sum(result.rows)} rows: every one has a missing value.")
    return result
