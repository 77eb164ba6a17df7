"""Terms of several likelihoods side by side: matched by label, with their scores and columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Table, Weights, is_missing
from mlecov.errors import CovarianceError, DataError, listing
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.scores import BLOCK, Scores
from mlecov.optimum import Optimum

pd = lazy("pandas")

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]


@dataclass(frozen=True)
class JoinedScores(Scores):
    """Scores of several equations side by side; `positions` (P, n) says where term i is in each, -1: not.

    Weights of the parts are multiplied in (`scales`), but frequency weights, which are the terms' own.
    """

    parts: tuple[Scores, ...]
    positions: Codes
    scales: tuple[Array | None, ...]
    weights: Weights | None = None

    @property
    def n_terms(self) -> int:  # type: ignore[override]
        return int(self.positions.shape[1])

    @property
    def k(self) -> int:  # type: ignore[override]
        return sum(part.k for part in self.parts)

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        for start in range(0, max(self.n_terms, 1), BLOCK):
            stop = min(start + BLOCK, self.n_terms)
            block = np.zeros((stop - start, self.k))
            column = 0
            for part, places, scale in zip(self.parts, self.positions, self.scales, strict=True):
                present = np.flatnonzero(places[start:stop] >= 0)
                terms = places[start:stop][present]
                if len(terms):
                    rows = part.take(terms).to_dense()
                    block[present, column : column + part.k] = (
                        rows if scale is None else rows * scale[terms, None]
                    )
                column += part.k
            yield start, stop, block

    def take(self, terms: npt.NDArray[np.intp]) -> JoinedScores:
        weights = None if self.weights is None else self.weights.take(terms)
        return replace(self, positions=self.positions[:, terms], weights=weights)


def match_terms(likelihoods: Sequence[Likelihood]) -> tuple[Codes, Any]:
    """Return positions (P, n) of the union of terms in each likelihood (-1: absent), and its labels.

    Terms are matched by the index labels of their rows (unit ids with units), and by their place in
    the data where these have no index.

    Raises
    ------
    DataError
        Where some have labels and others of another length have none; where labels occur twice.
    """
    rows = [likelihood.rows for likelihood in likelihoods]
    labels = [r.labels for r in rows]
    units = {r.unit_name for r in rows}
    if len(units) > 1:
        raise DataError(
            f"the terms are of different kinds (rows, units): {listing(map(repr, units))}; expected one kind."
        )
    if any(found is None for found in labels):
        sizes = {r.table.n_rows for r in rows}
        if len(sizes) > 1 and any(found is not None for found in labels):
            raise DataError(
                "some fits have an index to match terms by, others none, and their data differ in length "
                f"({listing(sorted(sizes))}). Fit all to frames with an index."
            )
        labels = [_places(r) for r in rows]
    if all(np.array_equal(found, labels[0]) for found in labels[1:]):
        n = len(labels[0])
        return np.tile(np.arange(n, dtype=np.intp), (len(labels), 1)), labels[0]
    codes, union = pd.factorize(np.concatenate([np.asarray(found, dtype=object) for found in labels]))
    positions = np.full((len(labels), len(union)), -1, dtype=np.intp)
    start = 0
    for p, found in enumerate(labels):
        own = codes[start : start + len(found)]
        start += len(found)
        if len(np.unique(own)) < len(own):
            raise DataError(
                f"fit {p + 1} has index labels that occur twice; terms can not be matched by them."
            )
        positions[p, own] = np.arange(len(own))
    return positions, union


def _places(rows: Rows) -> Codes:
    kept = np.arange(rows.table.n_rows, dtype=np.intp) if rows.kept is None else rows.kept
    return kept[rows.drop_first :]


def _joint_rows(likelihoods: Sequence[Likelihood], positions: Codes, labels: Any) -> Rows:
    """Return rows of the union of terms with the columns of all data (but those that disagree)."""
    n = positions.shape[1]
    columns: dict[str, npt.NDArray[Any]] = {}
    clashing: set[str] = set()
    for likelihood, places in zip(likelihoods, positions, strict=True):
        present = np.flatnonzero(places >= 0)
        for name in likelihood.rows.table.columns:
            values = _term_column(likelihood.rows, name)
            if values is None:
                continue
            values = values[places[present]]
            if name not in columns:
                fill = np.nan if values.dtype.kind in "fiu" and len(present) < n else None
                kind = values.dtype if len(present) == n else (float if fill is not None else object)
                columns[name] = np.full(n, fill, dtype=kind) if len(present) < n else np.empty(n, kind)
                columns[name][present] = values
                continue
            held = columns[name][present]
            absent = is_missing(held)
            if not (absent | (held == values)).all():
                clashing.add(name)
            columns[name][present[absent]] = values[absent]
    kept = {name: values for name, values in columns.items() if name not in clashing}
    return Rows(Table(kept, n, pd.Index(labels)))


def _term_column(rows: Rows, name: str) -> npt.NDArray[Any] | None:
    """Return a column per term, or None where it is no such column (a matrix, rows within units)."""
    if rows.table.raw(name).ndim != 1:
        return None
    try:
        return rows.per_term(name, name)
    except DataError:
        return None


def join(optima: Sequence[Optimum]) -> tuple[JoinedScores, Rows]:
    """Return the scores (n, k_1 + k_2 + ...) of several optima over the union of their terms.

    Raises
    ------
    CovarianceError
        Where a fit holds no scores, or frequency weights differ between the fits.
    """
    likelihoods = [optimum.likelihood for optimum in optima]
    parts = [optimum.evaluation.scores for optimum in optima]
    if any(part is None for part in parts):
        raise CovarianceError(
            "a fit without scores can not be joined; save it with scores, or reattach its data."
        )
    positions, labels = match_terms(likelihoods)
    weights = _common_frequencies(likelihoods, positions)
    scales = [
        None if weights is not None or w is None else w.values for w in (lik.weights for lik in likelihoods)
    ]
    found = JoinedScores(tuple(part for part in parts if part is not None), positions, tuple(scales), weights)
    return found, _joint_rows(likelihoods, positions, labels)


def _common_frequencies(likelihoods: Sequence[Likelihood], positions: Codes) -> Weights | None:
    kinds = [None if lik.weights is None else lik.weights.kind for lik in likelihoods]
    if "frequency" not in kinds:
        return None
    values = np.full(positions.shape[1], np.nan)
    for likelihood, places in zip(likelihoods, positions, strict=True):
        present = np.flatnonzero(places >= 0)
        own = likelihood.weights
        if own is None or own.kind != "frequency":
            raise CovarianceError("frequency weights must be the same in all fits; one fit has none.")
        given = own.values[places[present]]
        if not (np.isnan(values[present]) | (values[present] == given)).all():
            raise CovarianceError(
                "frequency weights differ between the fits: a term stands for one number of rows."
            )
        values[present] = given
    return Weights(values, "frequency")
