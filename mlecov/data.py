"""The one door for frames: columns by name, missing values, units, weights, groups.

Whatever comes in (dict of arrays, pandas, polars, pyarrow) leaves as numpy arrays; nothing deeper in
the package sees a frame. Formulas have a room of their own next door (`formulas.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlecov.errors import DataError, MissingDataWarning, listing, suggestion, warn
from mlecov.lazy import lazy
from mlecov.parallel import map_parts

nw = lazy("narwhals")
pd = lazy("pandas")

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]
WeightKind = Literal["frequency", "probability", "analytic"]


@dataclass(frozen=True)
class Weights:
    """Weights (n,) and their kind, which decides their power in the meat."""

    values: Array
    kind: WeightKind

    @property
    def meat_power(self) -> int:
        """Power of w in sum w^p s s': 1 for frequency weights, 2 for all others."""
        return 1 if self.kind == "frequency" else 2

    def take(self, terms: npt.NDArray[np.intp]) -> Weights:
        """Return the weights of `terms`."""
        return replace(self, values=self.values[terms])


@dataclass(frozen=True)
class Table:
    """Columns by name, each (n,) or (n, p), in the order given; `labels` is the row index, if any."""

    columns: Mapping[str, Any]
    n_rows: int
    labels: Any = None

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def raw(self, name: str) -> npt.NDArray[Any]:
        """Return a column as a numpy array of whatever type it has."""
        if name not in self.columns:
            raise DataError(
                f"no column {name!r} in the data.{suggestion(name, [str(c) for c in self.columns])}"
            )
        return to_numpy(self.columns[name])

    def frame(self, names: Iterable[str]) -> Any:
        """Return some columns as a pandas DataFrame (for formulas), keeping categorical types."""
        parts: dict[str, Any] = {}
        for name in names:
            values = self.columns[name]
            if isinstance(values, np.ndarray) and values.ndim == 2:
                parts |= {f"{name}[{j}]": values[:, j] for j in range(values.shape[1])}
            elif _is_pandas_series(values) and str(values.dtype).startswith("string"):
                parts[name] = values.astype(object)  # formulaic takes pandas' nullable strings for numbers
            elif isinstance(values, np.ndarray) or _is_pandas_series(values):
                parts[name] = values
            else:
                parts[name] = values.to_pandas()
        return pd.DataFrame(parts).reset_index(drop=True)


def _is_pandas_series(values: Any) -> bool:
    return type(values).__module__.startswith("pandas")


def to_numpy(values: Any) -> npt.NDArray[Any]:
    """Return a column of any library as a numpy array (nulls of numeric columns become NaN)."""
    if isinstance(values, np.ndarray):
        return values
    if _is_pandas_series(values):
        if str(values.dtype) == "category":
            return np.asarray(values.astype(object))
        if pd.api.types.is_numeric_dtype(values.dtype) and not isinstance(values.dtype, np.dtype):
            return np.asarray(values.to_numpy(dtype=float, na_value=np.nan))
        return np.asarray(values)
    return np.asarray(values.to_numpy())


def index_of(values: Any) -> Any:
    """Return the index of a Series or DataFrame, None for anything else (pandas' bare arrays too)."""
    known = _is_pandas_series(values) and isinstance(values, (pd.Series, pd.DataFrame))
    return values.index if known else None


def same_rows(index: Any, values: Any, one: str, other: str, *, moved: bool = False) -> None:
    """Refuse a pandas object whose rows are not those of `index`, which positions would pair wrongly.

    `moved`: only where it has the same labels in another order.
    """
    theirs = index_of(values)
    if (
        theirs is None
        or index is None
        or theirs is index
        or len(theirs) != len(index)
        or theirs.equals(index)
    ):
        return
    if moved and not (theirs.isin(index).all() and index.isin(theirs).all()):
        return
    place = next((i for i, (a, b) in enumerate(zip(index, theirs, strict=True)) if a != b), 0)
    raise DataError(
        f"the indexes of {one} and {other} differ, first in row {place}: {index[place]} and {theirs[place]}. "
        "Rows are paired by position: bring them into one order (.loc, .reindex), or give .to_numpy() where the "
        "positions are right."
    )


def open_table(data: Any) -> Table:
    """Return the table of a dict of arrays, a pandas, polars or pyarrow frame, or a Table itself.

    Raises
    ------
    DataError
        For empty data, columns of unequal length, duplicate column names or a duplicate index.
    """
    if isinstance(data, Table):
        return data
    if isinstance(data, Mapping):
        return _table_of_mapping(data)
    kind = type(data).__module__.partition(".")[0]
    if kind == "pandas":
        return _table_of_pandas(data)
    if kind in ("polars", "pyarrow", "narwhals"):
        frame = nw.from_native(data, eager_only=True)
        if not frame.shape[0]:
            raise DataError("the data have no rows.")
        return Table({name: frame[name] for name in frame.columns}, int(frame.shape[0]))
    raise DataError(
        f"data of type {type(data).__name__} are not understood; expected a dict of arrays or a pandas, "
        "polars or pyarrow frame."
    )


def _table_of_mapping(data: Mapping[str, Any]) -> Table:
    columns: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    labels, first = None, ""
    for name, values in data.items():
        if _is_pandas_series(values) and values.ndim == 1:
            # a bare array of pandas' own has no index, and is held as the column it would be
            columns[name] = pd.Series(values) if index_of(values) is None else values
            if labels is None:
                labels, first = index_of(values), name
            same_rows(labels, values, f"data[{first!r}]", f"data[{name!r}]")
        else:
            array = np.asarray(values)
            if array.ndim == 0:
                raise DataError(
                    f"data[{name!r}] is a single value; columns have one entry per row. Values that are not "
                    "rows go through constants={...}."
                )
            columns[name] = array
        lengths[name] = len(columns[name])
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns differ in length: {listing(f'{k}: {v}' for k, v in lengths.items())}.")
    n_rows = next(iter(lengths.values()), 0)
    if not n_rows:
        raise DataError("the data have no rows.")
    return Table(columns, n_rows, labels)


def _table_of_pandas(data: Any) -> Table:
    if data.ndim != 2:
        raise DataError("data is a Series; expected a DataFrame (use data.to_frame()).")
    if not len(data):
        raise DataError("the data have no rows.")
    if not data.columns.is_unique:
        doubled = data.columns[data.columns.duplicated()].unique()
        raise DataError(f"column names occur twice: {listing(map(repr, doubled))}. Rename or drop them.")
    if not data.index.is_unique:
        doubled = data.index[data.index.duplicated()].unique()
        raise DataError(
            f"the index of the data has duplicates: {listing(map(repr, doubled), 5)}. Rows could not be told "
            "apart; use data.reset_index()."
        )
    return Table({str(name): data[name] for name in data.columns}, len(data), data.index)


def is_missing(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which rows of a column (n,) or (n, p) are missing: NaN, None, NaT or pandas' NA."""
    if values.dtype.kind == "f":
        if all_finite(values):
            return np.zeros(len(values), dtype=bool)
        found = np.isnan(values)
    elif values.dtype.kind in "iub":
        return np.zeros(len(values), dtype=bool)
    else:
        found = np.asarray(pd.isna(values))
    return np.asarray(found.any(axis=1) if found.ndim == 2 else found)


def all_finite(values: npt.NDArray[Any]) -> bool:
    """Tell whether a float array is surely finite: one pass, no temporaries (False may be an overflow)."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(sum(map_parts(lambda start, stop: values[start:stop].sum(), len(values)))))


def numeric(name: str, values: npt.NDArray[Any]) -> Array:
    """Return a column as float64, refusing text, infinities and complex numbers by name."""
    if values.dtype.kind == "c":
        raise DataError(
            f"column {name!r} holds complex numbers (for example {values.ravel()[0]!r}), whose imaginary part "
            "would be lost; give its .real, .imag or np.abs of it."
        )
    if values.dtype.kind not in "fiub":
        try:
            if values.dtype.kind != "O" or any(isinstance(v, str) for v in values.ravel()[:1000]):
                raise ValueError
            values = values.astype(float)
        except (ValueError, TypeError):
            example = next((v for v in values.ravel() if not isinstance(v, (int, float))), values.ravel()[0])
            raise DataError(
                f"column {name!r} is not numeric (for example {example!r}); convert it, or use it in a "
                f"formula as C({name})."
            ) from None
    array = np.asarray(values, dtype=float)
    if not all_finite(array) and np.isinf(array).any():
        rows = np.flatnonzero(np.isinf(array).reshape(len(array), -1).any(axis=1))
        raise DataError(f"column {name!r} is infinite in row(s) {listing(rows)}.")
    return array


def holds_numbers(values: npt.NDArray[Any]) -> bool:
    """Tell whether a column holds numbers, by its type or, as objects, one by one (missing ones apart)."""
    if values.dtype.kind != "O":
        return values.dtype.kind in "fiu"
    some = False
    for value in values.ravel():
        if isinstance(value, (int, float, Decimal, np.integer, np.floating)) and not isinstance(value, bool):
            some = True
        elif not (value is None or value is pd.NA or value is pd.NaT):
            return False
    return some


@dataclass(frozen=True)
class Rows:
    """What the door let through: the rows kept of a table, and how they form terms.

    `kept` (original rows) is None where all rows were kept. With units, `unit` (rows,) are the codes
    of the units in order of first appearance and a term is a unit; otherwise a term is a row, after
    the first `drop_first`.
    """

    table: Table
    kept: Codes | None = None
    unit: Codes | None = None
    unit_labels: npt.NDArray[Any] | None = None
    unit_name: str | None = None
    drop_first: int = 0
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    used: tuple[str, ...] = ()
    """Columns that were screened for missing values."""

    @property
    def n_rows(self) -> int:
        """Number of rows kept."""
        return self.table.n_rows if self.kept is None else len(self.kept)

    @property
    def n_terms(self) -> int:
        """Number of terms: units, or rows less the first `drop_first`."""
        return self.n_rows - self.drop_first if self.unit_labels is None else len(self.unit_labels)

    @property
    def labels(self) -> Any:
        """Labels of the terms: unit ids, or the index of the rows kept (None without an index)."""
        if self.unit_labels is not None:
            return self.unit_labels
        labels = self.table.labels
        if labels is None:
            return None
        rows = np.arange(self.table.n_rows) if self.kept is None else self.kept
        return np.asarray(labels[rows[self.drop_first :]])

    def raw(self, name: str) -> npt.NDArray[Any]:
        """Return a column's kept rows, in its own type."""
        values = self.table.raw(name)
        return values if self.kept is None else values[self.kept]

    def column(self, name: str) -> Array:
        """Return a numeric column's kept rows as float64."""
        if name not in self.cache:
            self.cache[name] = numeric(name, self.raw(name))
        return np.asarray(self.cache[name])

    def is_text(self, name: str) -> bool:
        """Whether a column holds labels rather than numbers."""
        values = self.table.columns[name]
        if _is_pandas_series(values) and values.dtype != object:
            return not pd.api.types.is_numeric_dtype(values.dtype)
        array = self.table.raw(name)
        return array.dtype.kind not in "fiubc" and not holds_numbers(array)

    def is_number(self, name: str) -> bool:
        """Whether a column holds numbers: not labels, truth values or categories."""
        array = self.table.raw(name)
        values = self.table.columns[name]
        return holds_numbers(array) and not (_is_pandas_series(values) and str(values.dtype) == "category")

    def n_levels(self, name: str) -> int:
        """Return how many values a column of labels takes (categories count, used or not)."""
        values = self.table.columns[name]
        if _is_pandas_series(values) and str(values.dtype) == "category":
            return len(values.cat.categories)
        array = self.raw(name)
        return len(factorize(array)[1]) if array.ndim == 1 else 0

    def frame(self, names: Iterable[str]) -> Any:
        """Return some columns' kept rows as a pandas DataFrame."""
        frame = self.table.frame(names)
        return frame if self.kept is None else frame.iloc[self.kept].reset_index(drop=True)

    def per_term(self, values: Any, what: str) -> npt.NDArray[Any]:
        """Return one value per term from a column name or an array.

        An array may have the original length (it passes through the same missing-value mask) or one
        entry per term. With units, a row-level column must not vary within a unit.

        Raises
        ------
        DataError
            For an unknown column, any other length, or a column that varies within a unit.
        """
        name = values if isinstance(values, str) else what
        array = self.table.raw(values) if isinstance(values, str) else to_numpy_any(values, what)
        if len(array) == self.n_terms and not isinstance(values, str) and self.n_terms != self.table.n_rows:
            return array
        if len(array) != self.table.n_rows:
            raise DataError(
                f"{what}: got {len(array)} values; expected a column name, {self.table.n_rows} values (one per "
                f"original row) or {self.n_terms} (one per term)."
            )
        same_rows(self.table.labels, values, "the data", what, moved=True)
        if self.kept is not None:
            array = array[self.kept]
        if self.unit is None:
            return array[self.drop_first :]
        first = first_positions(self.unit, self.n_terms)
        per_unit = array[first]
        same = (array == per_unit[self.unit]) | (is_missing(array) & is_missing(per_unit)[self.unit])
        if not same.all():
            assert self.unit_labels is not None
            units = self.unit_labels[np.unique(self.unit[~same])]
            raise DataError(
                f"{what}: {name!r} varies within units (of {self.unit_name!r}), for example in "
                f"{listing(units, 5)}. Terms are units here, so groups must hold whole units."
            )
        return per_unit

    def codes(self, values: Any, what: str) -> tuple[Codes, npt.NDArray[Any]]:
        """Return (codes (n,), labels (G,)) of the groups that `values` form over the terms.

        Raises
        ------
        DataError
            Where an id is missing; the message names the rows.
        """
        array = self.per_term(values, what)
        missing = is_missing(array)
        if missing.any():
            raise DataError(
                f"{what}: {missing.sum()} missing id(s), in term(s) {listing(np.flatnonzero(missing))}. Give "
                f"every term a group, or drop the rows (missing='drop' with {what!r} among the columns used)."
            )
        return factorize(array)


def to_numpy_any(values: Any, what: str) -> npt.NDArray[Any]:
    """Return an array, Series or list given by the user as a one-dimensional numpy array."""
    array = (
        np.asarray(values) if isinstance(values, (list, tuple)) or np.isscalar(values) else to_numpy(values)
    )
    if array.ndim != 1:
        raise DataError(f"{what}: expected one value per row; got an array of shape {array.shape}.")
    return array


def factorize(array: npt.NDArray[Any]) -> tuple[Codes, npt.NDArray[Any]]:
    """Return codes in order of first appearance and the labels, for numbers or text alike."""
    if array.dtype.kind in "iub" and len(array):
        low, high = int(array.min()), int(array.max())
        if high - low < 4 * len(array) + 64:
            return _factorize_integers(array.astype(np.intp) - low, high - low + 1, array)
    codes, labels = pd.factorize(array)
    return np.asarray(codes, dtype=np.intp), np.asarray(labels)


def _factorize_integers(shifted: Codes, size: int, array: npt.NDArray[Any]) -> tuple[Codes, npt.NDArray[Any]]:
    first = np.full(size, len(array), dtype=np.intp)
    first[shifted[::-1]] = np.arange(len(array))[::-1]
    present = np.flatnonzero(first < len(array))
    order = present[np.argsort(first[present], kind="stable")]
    rank = np.empty(size, dtype=np.intp)
    rank[order] = np.arange(len(order))
    return rank[shifted], array[first[order]]


def first_positions(codes: Codes, n_groups: int) -> Codes:
    """Return the first row of each group (G,)."""
    first = np.empty(n_groups, dtype=np.intp)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return first


def screen(
    table: Table,
    used: Sequence[str],
    missing: str,
    unit: str | None = None,
    drop_first: int = 0,
) -> Rows:
    """Screen all columns used, once, for missing values and return the rows that form the terms.

    Raises
    ------
    DataError
        Where values are missing and `missing` is not "drop"; where nothing is left.
    """
    if missing not in ("raise", "drop"):
        raise DataError(f"missing={missing!r} is not known; expected 'raise' or 'drop'.")
    absent: dict[str, npt.NDArray[np.bool_]] = {}
    ready: dict[str, Any] = {}
    for name in dict.fromkeys(used):
        values = table.raw(name)
        if values.dtype == np.float64 and all_finite(values):
            ready[name] = values
        else:
            absent[name] = is_missing(values)
    absent = {name: rows for name, rows in absent.items() if rows.any()}
    kept: Codes | None = None
    if absent:
        lost = np.logical_or.reduce(list(absent.values()))
        counts = listing(f"{name!r} ({int(rows.sum())})" for name, rows in absent.items())
        if missing == "raise":
            raise DataError(
                f"missing values in {counts}; {int(lost.sum())} of {table.n_rows} rows. Clean the data, or say "
                "missing='drop'."
            )
        kept = np.flatnonzero(~lost)
        warn(
            f"{int(lost.sum())} of {table.n_rows} rows dropped: missing values in {counts}.",
            MissingDataWarning,
        )
    n_rows = table.n_rows if kept is None else len(kept)
    if n_rows - drop_first <= 0:
        raise DataError(f"no terms are left: {n_rows} rows, of which the first {drop_first} are dropped.")
    if unit is None:
        cache = ready if kept is None else {}
        return Rows(table, kept, drop_first=drop_first, cache=cache, used=tuple(dict.fromkeys(used)))
    if drop_first:
        raise DataError("drop_first= and unit= can not be combined: with units the terms are units.")
    ids = table.raw(unit)
    codes, labels = factorize(ids if kept is None else ids[kept])
    return Rows(table, kept, codes, labels, unit, used=tuple(dict.fromkeys(used)))


def term_weights(rows: Rows, values: Any, kind: WeightKind) -> Weights:
    """Return the weights of the terms; analytic weights are scaled to have mean one.

    Raises
    ------
    DataError
        For missing, negative or all-zero weights, and frequency weights that are not whole numbers.
    """
    what = f"{kind}_weights"
    array = numeric(what, rows.per_term(values, what))
    if np.isnan(array).any() or (array < 0).any():
        bad = np.flatnonzero(~(array >= 0))
        raise DataError(f"{what}: missing or negative in term(s) {listing(bad)}; weights are >= 0.")
    if not array.sum() > 0:
        raise DataError(f"{what}: all weights are zero.")
    if kind == "frequency" and (array != np.round(array)).any():
        bad = np.flatnonzero(array != np.round(array))
        raise DataError(
            f"{what}: not whole numbers in term(s) {listing(bad)}. Frequencies count rows; use "
            "analytic_weights or probability_weights."
        )
    if kind == "analytic":
        array = array * (len(array) / array.sum())
    return Weights(array, kind)
