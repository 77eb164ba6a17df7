"""Where something is predicted: the rows of the fit, or new data as the fit's formulas read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, numeric, open_table, screen
from mlecov.errors import DataError, listing
from mlecov.formulas import Block, columns_used, rebuild
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.index import IndexLikelihood

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Setting:
    """Rows at which something is predicted: designs and offsets of the linear parameters, columns.

    As a `tangent` the same fields hold derivatives along a change of one variable. `sample` is the
    likelihood over these rows, for quantities of a whole sample.
    """

    designs: Mapping[str, Array]
    offsets: Mapping[str, Array]
    columns: Mapping[str, npt.NDArray[Any]]
    n: int
    rows: Rows | None = None
    sample: Likelihood | None = None

    def column(self, name: str) -> Array:
        """Return a numeric column (n,)."""
        if name in self.columns:
            return np.asarray(self.columns[name], dtype=float)
        assert self.rows is not None
        return self.rows.column(name)

    def __contains__(self, name: str) -> bool:
        return name in self.columns or (self.rows is not None and name in self.rows.table)


def blocks_of(likelihood: Likelihood) -> dict[str, Block]:
    """Return the designs of the linear parameters by name."""
    return dict(likelihood.unrestricted.facts.extra.get("blocks", {}))


def own_setting(likelihood: Likelihood) -> Setting:
    """Return the rows that the likelihood was fitted to."""
    rows, base = likelihood.rows, likelihood.unrestricted
    blocks = {
        name: block if block.matrix.shape[0] == rows.n_rows else rebuild(block, rows)  # a choice of terms
        for name, block in blocks_of(likelihood).items()
    }
    columns = dict(base.columns) if isinstance(base, IndexLikelihood) else {}
    return _of_blocks(blocks, columns, rows)


def _of_blocks(blocks: Mapping[str, Block], columns: Mapping[str, Any], rows: Rows) -> Setting:
    designs = {
        name: np.asarray(b.matrix if b.is_dense else b.matrix.toarray(), dtype=float)
        for name, b in blocks.items()
    }
    offsets = {name: b.offset for name, b in blocks.items() if b.offset is not None}
    return Setting(designs, offsets, columns, rows.n_rows, rows)


def is_array_block(block: Block, rows: Rows) -> bool:
    """Tell whether a design came as a matrix, not from named columns of a frame."""
    return not isinstance(block.terms.formula, str) and any(n not in rows.table for n in block.terms.formula)


def setting(likelihood: Likelihood, data: Any = None) -> Setting:
    """Return the rows of new data as the fit's formulas read them; without data the fit's own rows.

    A fit from arrays (y, X) takes a matrix X (n, p) as new data.

    Raises
    ------
    DataError
        For missing columns or values, and levels that the fit has not seen.
    """
    if data is None:
        return own_setting(likelihood)
    blocks = blocks_of(likelihood)
    arrays = [name for name, block in blocks.items() if is_array_block(block, likelihood.rows)]
    if arrays:
        return _from_matrix(blocks, arrays[0], data)
    table = open_table(data)
    used = sorted({name for block in blocks.values() for name in columns_used(block.terms, table)})
    rows = screen(table, used, "raise")
    base = likelihood.unrestricted
    known = base.columns if isinstance(base, IndexLikelihood) else {}
    columns = {name: numeric(name, rows.raw(name)) for name in known if name in table}
    return _of_blocks({name: rebuild(block, rows) for name, block in blocks.items()}, columns, rows)


def _from_matrix(blocks: Mapping[str, Block], name: str, data: Any) -> Setting:
    matrix, width = np.asarray(data, dtype=float), len(blocks[name].names)
    if matrix.ndim != 2 or matrix.shape[1] != width:
        raise DataError(
            f"the fit was made from arrays: new data must be a matrix (n, {width}) with the columns "
            f"{listing(blocks[name].names)}; got shape {matrix.shape}."
        )
    if not np.isfinite(matrix).all():
        raise DataError("the new data hold values that are missing or infinite.")
    if blocks[name].offset is not None:
        raise DataError(
            "the fit has an offset, which a matrix of new data does not hold; fit from a frame to predict."
        )
    return Setting({name: matrix}, {}, {}, len(matrix))


def row_labels(rows: Rows | None) -> Any:
    """Return the index of the rows kept, units or not (None without an index)."""
    if rows is None or rows.table.labels is None:
        return None
    return rows.table.labels if rows.kept is None else rows.table.labels[rows.kept]


def row_weights(likelihood: Likelihood) -> Array | None:
    """Return the weights of the rows (n_rows,): a unit's weight on each of its rows; None without."""
    rows, weights = likelihood.rows, likelihood.weights
    if weights is None:
        return None
    if rows.unit is not None:
        return weights.values[rows.unit]
    return weights.values if len(weights.values) == rows.n_rows else None
