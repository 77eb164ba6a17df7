"""Outcomes observed in part: open interval ends, and outcomes missing where nothing is observed.

Done before the one door screens for missing values, so that what is missing by design passes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Table, is_missing, numeric, open_table
from mlecov.errors import DataError, SpecificationError
from mlecov.formulas import evaluate, parse

Array = npt.NDArray[np.float64]


def open_ends(
    data: Any, formula: Any, columns: dict[str, Any], key: str, sign: float
) -> tuple[Any, dict[str, Any]]:
    """Return (data, columns) with the ends `columns[key]` cut into numbers and flags of open ends.

    An end that is missing or sign * infinity is open: its number becomes 0 and its flag
    (`key`_open) 1. Without `columns[key]` nothing changes.
    """
    given = columns.get(key)
    if given is None:
        return data, columns
    if not isinstance(formula, str):
        values, flags = _cut(np.asarray(given), key, sign)
        return data, {**columns, key: values, f"{key}_open": flags}
    table = open_table(data)
    raw = table.raw(given) if isinstance(given, str) else np.asarray(given)
    label = f"{key}={given}" if isinstance(given, str) else key
    if len(raw) != table.n_rows:
        raise DataError(f"{key}: got {len(raw)} values; expected a column name or {table.n_rows} values.")
    values, flags = _cut(raw, label, sign)
    table = with_columns(table, {label: values, f"{label} (open)": flags})
    return table, {**columns, key: label, f"{key}_open": f"{label} (open)"}


def _cut(raw: npt.NDArray[Any], label: str, sign: float) -> tuple[Array, Array]:
    values = np.asarray(raw, dtype=object) if raw.dtype.kind not in "fiub" else raw
    missing = is_missing(values)
    filled = np.where(missing, 0.0, values).astype(float)
    missing |= filled == sign * np.inf
    return numeric(label, np.where(missing, 0.0, filled)), missing.astype(float)


def with_columns(table: Table, columns: dict[str, Array]) -> Table:
    """Return the table with columns replaced or added."""
    return Table({**table.columns, **columns}, table.n_rows, table.labels)


def change_outcome(
    formula: Any, data: Any, change: Callable[[Array], Array], observed: npt.NDArray[np.bool_] | None = None
) -> tuple[Any, Any]:
    """Return (formula, data) or (y, X) whose outcome is change(outcome), missing values included.

    With `observed`, the left-hand side is evaluated on those rows alone and is missing elsewhere.
    """
    if not isinstance(formula, str):
        return change(np.asarray(formula, dtype=float)), data
    left = parse(formula).left
    if left is None:
        raise SpecificationError(f"formula {formula!r} has no outcome; expected 'y ~ x1 + x2'.")
    table = open_table(data)
    if left in table:
        raw = table.raw(left)
        values = (
            np.where(is_missing(raw), np.nan, raw).astype(float)
            if raw.dtype.kind == "O"
            else raw.astype(float)
        )
    else:
        kept = None if observed is None else np.flatnonzero(observed)
        values = np.full(table.n_rows, np.nan)
        values[slice(None) if kept is None else kept] = evaluate(left, Rows(table, kept))
    return formula, with_columns(table, {left: change(values)})
