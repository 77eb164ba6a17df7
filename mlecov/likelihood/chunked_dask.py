"""Blocks on a cluster: made once, kept by the workers, recomputed where a worker is lost.

The only user of dask. Every block is a plain task of the scheduler: its rows are read (from the file or
the partition), made into a likelihood and kept; each pass sends theta and gets back k-sized sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlecov.data import Table
from mlecov.errors import SpecificationError
from mlecov.lazy import lazy
from mlecov.likelihood.chunked_source import FileSource, Held, Source, open_files, table_of_pandas

dask = lazy("dask")
distributed_ = lazy("distributed")

AT_ONCE = 512
"""Tasks given to the scheduler ahead of the result that is waited for."""


@dataclass(frozen=True)
class DaskSource(Source):
    """Parts of the data as delayed values: partitions of a Dask frame, or row groups of files."""

    names: tuple[str, ...]
    delayed_parts: Callable[[Sequence[str]], list[Any]]
    first: Callable[[Sequence[str], int], Table]
    client: Any

    @cached_property
    def n_rows(self) -> int:
        """Number of rows, counted by the workers."""
        return sum(self.map(count_rows, self.names[:1]))

    def head(self, names: Sequence[str], rows: int) -> Table:
        return self.first(names, rows)

    def map(self, function: Callable[[Table], Any], names: Sequence[str]) -> Iterator[Any]:
        tasks = [dask.delayed(function, pure=False)(part) for part in self.delayed_parts(names)]
        return in_order(self.client, self.client.compute(tasks))

    def hold(self, function: Callable[[Table], Any], names: Sequence[str], once: bool = False) -> Held:
        shared = dask.delayed(function, pure=False, traverse=False)
        tasks = [shared(part) for part in self.delayed_parts(names)]
        return DaskOnce(self.client, tasks) if once else DaskBlocks(self.client, self.client.compute(tasks))


def count_rows(table: Table) -> int:
    """Return the number of rows of a table."""
    return table.n_rows


def in_order(client: Any, futures: list[Any]) -> Iterator[Any]:
    """Yield results in order, releasing each."""
    del client
    for i in range(len(futures)):
        future, futures[i] = futures[i], None
        yield future.result()


@dataclass(frozen=True)
class DaskBlocks(Held):
    """Blocks that the workers keep, by their futures."""

    client: Any
    futures: list[Any]

    def map(self, function: Callable[..., Any], arguments: Callable[[int], tuple[Any, ...]]) -> Iterator[Any]:
        waiting = [
            self.client.submit(function, block, *arguments(i), pure=False)
            for i, block in enumerate(self.futures)
        ]
        return in_order(self.client, waiting)


@dataclass(frozen=True)
class DaskOnce(Held):
    """Blocks that are made for one pass and not kept."""

    client: Any
    tasks: list[Any]

    def map(self, function: Callable[..., Any], arguments: Callable[[int], tuple[Any, ...]]) -> Iterator[Any]:
        run = dask.delayed(function, pure=False)
        waiting = self.client.compute([run(block, *arguments(i)) for i, block in enumerate(self.tasks)])
        return in_order(self.client, waiting)


def is_dask(data: Any) -> bool:
    """Tell whether `data` is a Dask frame, without loading Dask."""
    return type(data).__module__.startswith(("dask.", "dask_expr.")) and type(data).__name__ == "DataFrame"


def _client(client: Any) -> Any:
    if client is not None:
        return client
    try:
        return distributed_.get_client()
    except ValueError:
        raise SpecificationError(
            "no Dask client is running. Start one: from dask.distributed import Client; client = Client() uses this "
            "machine's cores, Client('tcp://scheduler:8786') a cluster."
        ) from None


def open_dask(frame: Any, client: Any = None) -> DaskSource:
    """Return the source of a Dask frame: its partitions are the blocks."""
    names = tuple(str(name) for name in frame.columns)

    def parts(wanted: Sequence[str]) -> list[Any]:
        convert = dask.delayed(table_of_pandas, pure=False)
        return [convert(part) for part in frame[list(wanted)].to_delayed()]

    def head(wanted: Sequence[str], rows: int) -> Table:
        return table_of_pandas(frame[list(wanted)].head(rows, npartitions=-1))

    return DaskSource(names, parts, head, _client(client))


def distributed(data: Any, client: Any = None) -> DaskSource:
    """Return data to be evaluated by the workers of a Dask cluster: `data=ml.distributed("folder/")`.

    Parameters
    ----------
    data :
        A Parquet file or folder that every worker can read, a pyarrow dataset, or a Dask frame.
    client :
        A `dask.distributed.Client`; default: the current one.

    Raises
    ------
    SpecificationError
        Where no client is running.

    Example
    -------
    >>> from dask.distributed import Client                          # doctest: +SKIP
    >>> client = Client("tcp://scheduler:8786")                      # doctest: +SKIP
    >>> fit = ml.fit(ml.models.logit("y ~ x", ml.distributed("/data/folder")))  # doctest: +SKIP
    """
    if is_dask(data):
        return open_dask(data, client)
    source = data if isinstance(data, FileSource) else open_files(data)

    def parts(wanted: Sequence[str]) -> list[Any]:
        return [dask.delayed(part, pure=False, traverse=False)(list(wanted)) for part in source.parts]

    return DaskSource(source.names, parts, source.head, _client(client))
