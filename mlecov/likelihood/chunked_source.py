"""Where streamed data come from: Parquet files, folders and pyarrow datasets, block by block in order."""

from __future__ import annotations

import os
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlecov.data import Table, is_missing
from mlecov.errors import DataError, suggestion
from mlecov.lazy import lazy
from mlecov.parallel import cores, mark_worker, single_threaded

pa = lazy("pyarrow")
ds = lazy("pyarrow.dataset")
pd = lazy("pandas")

T = TypeVar("T")

BLOCK_ROWS = 65_536
"""Rows in a block: large against the cost of starting one, small enough for the third-level cache."""

AHEAD = 2
"""Blocks that wait, read and made ready, while another is computed with."""


class Source(ABC):
    """Rows that stay where they are and are read in blocks, always in the same order."""

    names: tuple[str, ...]

    @abstractmethod
    def map(self, function: Callable[[Table], T], names: Sequence[str]) -> Iterator[T]:
        """Yield function(table) of every block, in order; `names` are the columns to read."""

    @abstractmethod
    def hold(self, function: Callable[[Table], Any], names: Sequence[str], once: bool = False) -> Held:
        """Return the blocks function(table), to be mapped over many times (or `once`)."""

    @abstractmethod
    def head(self, names: Sequence[str], rows: int) -> Table:
        """Return the first rows."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Number of rows."""


class Held(ABC):
    """Blocks made of a source: read again on every pass, or kept by the workers of a cluster."""

    @abstractmethod
    def map(self, function: Callable[..., Any], arguments: Callable[[int], tuple[Any, ...]]) -> Iterator[Any]:
        """Yield function(block, *arguments(i)) of every block i, in order."""


def read_ahead(items: Iterator[T], depth: int = AHEAD) -> Iterator[T]:
    """Yield `items`, which a thread makes while the caller works with those before."""
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[bool, Any]) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:  # handed over to the reader's thread, and raised there
            put((False, error))

    thread = threading.Thread(target=work, name="mlecov-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = waiting.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
            del item  # else it would live on while the next block is awaited
    finally:
        stopped.set()
        thread.join()


def map_in_order(
    function: Callable[[int, T], Any], items: Iterator[T], threads: bool = True
) -> Iterator[Any]:
    """Yield function(i, item) in order, computed in as many threads as there are cores, a few items ahead.

    The BLAS has one thread meanwhile: blocks, not products, are what is shared out.
    """
    if not threads:
        for i, item in enumerate(items):
            yield function(i, item)
        return
    pending: deque[Future[Any]] = deque()
    with (
        single_threaded(),
        ThreadPoolExecutor(cores(), thread_name_prefix="mlecov-block", initializer=mark_worker) as pool,
    ):
        for i, item in enumerate(items):
            pending.append(pool.submit(function, i, item))
            del item
            if len(pending) > cores():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# --- tables -------------------------------------------------------------------------------------------


def table_of_arrow(part: Any) -> Table:
    """Return the columns of an arrow table as `pandas.read_parquet` would give them."""
    columns: dict[str, Any] = {}
    for name, column in zip(part.column_names, part.columns, strict=True):
        kind = column.type
        plain = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        columns[name] = column.to_numpy() if plain and not column.null_count else column.to_pandas()
        if not isinstance(columns[name], np.ndarray) and columns[name].dtype.kind in "fiub":
            columns[name] = columns[name].to_numpy()
    return Table(columns, int(part.num_rows))


def table_of_pandas(frame: Any) -> Table:
    """Return the columns of a pandas frame, numeric ones as arrays."""
    columns: dict[str, Any] = {}
    for name in frame.columns:
        values = frame[name].reset_index(drop=True)
        numeric = isinstance(values.dtype, np.dtype) and values.dtype.kind in "fiub"
        columns[str(name)] = values.to_numpy() if numeric else values
    return Table(columns, len(frame))


def take(table: Table, rows: npt.NDArray[Any] | slice) -> Table:
    """Return a choice of rows (a mask, indices or a slice)."""
    made = {
        name: values[rows] if isinstance(values, np.ndarray) else values.iloc[rows].reset_index(drop=True)
        for name, values in table.columns.items()
    }
    if isinstance(rows, slice):
        return Table(made, len(range(*rows.indices(table.n_rows))))
    return Table(made, int(rows.sum()) if rows.dtype == bool else len(rows))


def concatenate(tables: Sequence[Table], categories: Mapping[str, Any]) -> Table:
    """Return tables one below another; columns in `categories` are categoricals of those."""
    if len(tables) == 1:
        return with_categories(tables[0], categories)
    columns: dict[str, Any] = {}
    for name in tables[0].columns:
        parts = [with_categories(table, categories).columns[name] for table in tables]
        if all(isinstance(part, np.ndarray) for part in parts):
            columns[name] = np.concatenate(parts)
        else:
            joined = pd.concat([pd.Series(part) for part in parts], ignore_index=True)
            numeric = isinstance(joined.dtype, np.dtype) and joined.dtype.kind in "fiub"
            columns[name] = joined.to_numpy() if numeric else joined
    return Table(columns, sum(table.n_rows for table in tables))


def with_categories(table: Table, categories: Mapping[str, Any]) -> Table:
    """Return the table with the same categories in every block (dictionaries differ from file to file)."""
    if not categories:
        return table
    columns = {
        name: values.cat.set_categories(categories[name]) if name in categories else values
        for name, values in table.columns.items()
    }
    return Table(columns, table.n_rows)


def complete(table: Table, used: Sequence[str]) -> Table:
    """Return the rows with no missing value in the columns used."""
    lost: npt.NDArray[np.bool_] | None = None
    for name in used:
        absent = is_missing(table.raw(name))
        if absent.any():
            lost = absent if lost is None else lost | absent
    return table if lost is None else take(table, ~lost)


# --- files --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Consecutive fragments (row groups) of a dataset, read together in tables of `rows` rows."""

    schema: Any
    fragments: tuple[Any, ...]
    rows: int

    def read(self, names: Sequence[str]) -> Iterator[Table]:
        """Yield tables of exactly `rows` rows, the last one of a part excepted."""
        held: list[Any] = []
        count = 0
        for fragment in self.fragments:
            batches = fragment.to_batches(
                schema=self.schema,
                columns=list(names),
                batch_size=self.rows,
                batch_readahead=1,
                fragment_readahead=1,
                **_local_options(fragment),
            )
            for batch in batches:
                held.append(batch)
                count += batch.num_rows
                while count >= self.rows:
                    joined = pa.Table.from_batches(held)
                    yield table_of_arrow(joined.slice(0, self.rows))
                    held, count = joined.slice(self.rows).to_batches(), count - self.rows
        if count:
            yield table_of_arrow(pa.Table.from_batches(held))

    def __call__(self, names: Sequence[str]) -> Table:
        """Return all rows of the part as one table."""
        return concatenate(list(self.read(names)), {})


@dataclass(frozen=True)
class FileSource(Source):
    """A pyarrow dataset: a Parquet file, a folder of them, hive partitions."""

    dataset: Any
    block_rows: int = BLOCK_ROWS

    @cached_property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the columns, those of the partitions among them."""
        return tuple(self.dataset.schema.names)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Row groups in order; small neighbours are read together."""
        found: list[Part] = []
        held: list[Any] = []
        count = 0
        for fragment, size in self._row_groups():
            if held and count + size > self.block_rows:
                found.append(Part(self.dataset.schema, tuple(held), self.block_rows))
                held, count = [], 0
            held.append(fragment)
            count += size
        if held:
            found.append(Part(self.dataset.schema, tuple(held), self.block_rows))
        return tuple(found)

    def _row_groups(self) -> Iterator[tuple[Any, int]]:
        for fragment in self.dataset.get_fragments():
            if isinstance(fragment, ds.ParquetFileFragment):
                for group in fragment.split_by_row_group():
                    size = sum(part.num_rows for part in group.row_groups)
                    if size:
                        yield group, size
            else:
                yield fragment, int(fragment.count_rows())

    @cached_property
    def n_rows(self) -> int:
        """Number of rows, from the files' own records."""
        return int(self.dataset.count_rows())

    def _tables(self, names: Sequence[str]) -> Iterator[Table]:
        for part in self.parts:
            yield from part.read(names)

    def map(self, function: Callable[[Table], T], names: Sequence[str]) -> Iterator[T]:
        return map_in_order(lambda i, table: function(table), read_ahead(self._tables(names)))

    def hold(self, function: Callable[[Table], Any], names: Sequence[str], once: bool = False) -> Held:
        return Reread(self, function, tuple(names), getattr(function, "threads", True))

    def head(self, names: Sequence[str], rows: int) -> Table:
        found: list[Table] = []
        for table in self._tables(names):  # not dataset.head(), which reads far ahead
            found.append(take(table, slice(0, rows - sum(t.n_rows for t in found))))
            if sum(t.n_rows for t in found) >= rows:
                break
        return concatenate(found, {})


@dataclass(frozen=True)
class Reread(Held):
    """Blocks read and made anew on every pass: one thread reads, the others work, a block each."""

    source: FileSource
    function: Callable[[Table], Any]
    names: tuple[str, ...]
    threads: bool = True

    def map(self, function: Callable[..., Any], arguments: Callable[[int], tuple[Any, ...]]) -> Iterator[Any]:
        tables = read_ahead(self.source._tables(self.names))
        return map_in_order(
            lambda i, table: function(self.function(table), *arguments(i)), tables, self.threads
        )


def _local_options(fragment: Any) -> dict[str, Any]:
    """Return options that read a local Parquet file with little memory; remote ones are fetched ahead."""
    if (
        not isinstance(fragment, ds.ParquetFileFragment)
        or type(fragment.filesystem).__name__ != "LocalFileSystem"
    ):
        return {}
    options = ds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
    return {"use_threads": False, "fragment_scan_options": options}


def open_files(data: Any, block_rows: int = BLOCK_ROWS) -> FileSource:
    """Return the source of a path (file or folder of Parquet) or of a pyarrow dataset.

    Raises
    ------
    DataError
        Where there is no such file, or it holds no rows.
    """
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        if not path.exists():
            raise DataError(
                f"there is no file or folder {str(path)!r}.{suggestion(path.name, _siblings(path))} data= takes "
                "a frame, a dict of arrays, or the path of a Parquet file or folder."
            )
        try:
            data = ds.dataset(str(path), format="parquet", partitioning="hive")
        except Exception as error:
            raise DataError(f"{str(path)!r} can not be read as Parquet: {error}") from None
    source = FileSource(data, block_rows)
    if not source.n_rows:
        raise DataError("the data have no rows.")
    return source


def _siblings(path: Path) -> list[str]:
    folder = path.parent
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def is_dataset(data: Any) -> bool:
    """Tell whether `data` is a pyarrow dataset, without loading pyarrow."""
    return type(data).__module__.startswith("pyarrow") and any(
        base.__name__ == "Dataset" for base in type(data).__mro__
    )
