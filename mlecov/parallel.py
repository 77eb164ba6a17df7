"""Work on parts of the rows in threads, where the BLAS would leave cores idle.

The parts depend on the number of rows alone, and their results are added in order, so that sums do
not depend on the number of cores.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from mlecov.lazy import lazy

threadpoolctl = lazy("threadpoolctl")

T = TypeVar("T")

SMALL = 8192
"""Rows up to which nothing is cut or limited."""

PART = 65536
"""Rows in a part."""

FEWEST_CORES = 4
"""Cores from which parts run in threads: on two the work waits for memory, and threads gained nothing."""


@functools.cache
def cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)


@functools.cache
def _controller() -> Any:
    return threadpoolctl.ThreadpoolController()


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the pool of this process (a fork starts its own)."""
    del process
    return ThreadPoolExecutor(cores(), thread_name_prefix="mlecov")


def single_threaded() -> Any:
    """Return a context in which the BLAS uses one thread: small blocks lose by sharing."""
    return _controller().limit(limits=1, user_api="blas")


def small_blocks(n: int) -> Any:
    """Return the context for work on n rows block by block: a single-threaded BLAS where n is large."""
    return single_threaded() if n > SMALL else contextlib.nullcontext()


def map_parts(function: Callable[[int, int], T], n: int, threads: bool = True) -> list[T]:
    """Return [function(start, stop), ...] for the parts of range(n), in order.

    Parts run in threads, each with a single-threaded BLAS; numpy and BLAS release the interpreter.
    """
    if n <= SMALL:
        return [function(0, n)]
    bounds = [(start, min(start + PART, n)) for start in range(0, n, PART)]
    with single_threaded():
        if not threads or len(bounds) < 2 or cores() < FEWEST_CORES:
            return [function(start, stop) for start, stop in bounds]
        return list(_pool(os.getpid()).map(lambda part: function(*part), bounds))
