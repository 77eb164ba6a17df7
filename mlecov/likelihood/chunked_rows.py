"""Rows that stay in a file: columns, group ids and weights as vectors that are read when they are needed.

A `FileVector` stands for a vector (n,) of numbers that is nowhere in memory; where an array is asked
for it is read (8 n bytes). `FileCodes` are group codes: the labels (G,) are held in an index, the codes of a
block are looked up when the block is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.lib.mixins
import numpy.typing as npt

from mlecov.data import Codes, Rows, Table, is_missing, numeric, to_numpy
from mlecov.errors import DataError, listing, suggestion
from mlecov.lazy import lazy

pd = lazy("pandas")

Array = npt.NDArray[np.float64]
ReadColumn = Callable[[str], Iterator[npt.NDArray[Any]]]
"""Yields a column's complete rows, block by block."""


class FileVector(numpy.lib.mixins.NDArrayOperatorsMixin):
    """A vector (n,) that is read where an array is asked for."""

    def __init__(self, parts: Callable[[], Iterable[npt.NDArray[Any]]], n: int, dtype: Any) -> None:
        self.parts, self.n, self.dtype = parts, n, np.dtype(dtype)
        self.ndim, self.shape = 1, (n,)

    def __len__(self) -> int:
        return self.n

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        found = np.empty(self.n, dtype=self.dtype)
        start = 0
        for part in self.parts():
            found[start : start + len(part)] = part
            start += len(part)
        return found if dtype is None else found.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        read = [np.asarray(part) if isinstance(part, FileVector) else part for part in inputs]
        return getattr(ufunc, method)(*read, **options)

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def sum(self) -> float:
        """Return the sum, read block by block."""
        return float(sum(float(part.sum()) for part in self.parts()))


class FileCodes(FileVector):
    """Codes (n,) of the groups that a column forms, in order of first appearance; `index` holds the G ids."""

    def __init__(self, name: str, index: Any, read: ReadColumn, n: int) -> None:
        super().__init__(lambda: (codes_of(values, index) for values in read(name)), n, np.intp)
        self.name, self.index = name, index


def codes_of(values: npt.NDArray[Any], index: Any) -> Codes:
    """Return the codes of ids that the index holds."""
    return np.asarray(index.get_indexer(values), dtype=np.intp)


def distinct(parts: Iterable[npt.NDArray[Any]], what: str) -> Any:
    """Return the index of the distinct ids of all blocks, in order of first appearance.

    Raises
    ------
    DataError
        Where an id is missing; the message names the rows.
    """
    index: Any = None
    start = 0
    for values in parts:
        _, found = pd.factorize(values)
        found = pd.Index(found)
        missing = is_missing(np.asarray(values))
        if missing.any():
            raise DataError(
                f"{what}: {missing.sum()} missing id(s) within terms {start} to {start + len(values)}, first "
                f"{listing(start + np.flatnonzero(missing))}. Give every term a group."
            )
        new = found if index is None else found[index.get_indexer(found) < 0]
        if len(new):
            index = new if index is None else index.append(new)
        start += len(values)
    return index


@dataclass(frozen=True)
class FileTable(Table):
    """The complete rows of the columns of a file: a column is read where it is asked for."""

    columns: Mapping[str, Any]
    n_rows: int
    labels: Any = None
    read: ReadColumn | None = None

    def raw(self, name: str) -> npt.NDArray[Any]:
        if name not in self.columns:
            raise DataError(f"no column {name!r} in the data.{suggestion(name, list(self.columns))}")
        assert self.read is not None
        return np.concatenate([np.asarray(to_numpy(part)) for part in self.read(name)])

    def frame(self, names: Iterable[str]) -> Any:
        return pd.DataFrame({name: self.raw(name) for name in names})


@dataclass(frozen=True)
class FileRows(Rows):
    """The complete rows of a file; groups named by a column are looked up block by block."""

    def column(self, name: str) -> Array:
        return numeric(name, self.raw(name))

    def codes(self, values: Any, what: str) -> tuple[Codes, npt.NDArray[Any]]:
        """Return (codes, labels) of the groups that a column forms; the codes stay in the file.

        The G labels are held in memory, the n codes are not; `values` may be an array (n,) as well.
        """
        table = self.table
        if not isinstance(values, str) or not isinstance(table, FileTable) or table.read is None:
            return super().codes(values, what)
        if values not in table:
            table.raw(values)
        key = f"groups:{values}"
        if key not in self.cache:
            self.cache[key] = distinct(table.read(values), what)
        index = self.cache[key]
        made = FileCodes(values, index, table.read, self.n_terms)
        return cast(Codes, made), np.asarray(index)
