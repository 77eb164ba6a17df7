"""Work on blocks of the rows in threads, where the BLAS would leave cores idle.

Two shapes: `map_parts` runs one function on parts of the rows; `pipeline` derives block after block in the
calling thread (many short operations, which threads would only pass the interpreter's lock around for)
and hands each block's matrix products (few long operations) to another. Blocks depend on the number of
rows alone, and their results come back in order, so that sums do not depend on the number of cores.
Products use `np.dot`, which releases the lock; `@` on matrices holds it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlecov.lazy import lazy

threadpoolctl = lazy("threadpoolctl")

Array = npt.NDArray[np.float64]
S = TypeVar("S")
T = TypeVar("T")

SMALL = 8192
"""Rows up to which nothing is cut or limited."""

PART = 65536
"""Rows in a part."""

KEPT = 1 << 22
"""Numbers of a thread's scratch array that are kept between calls: 32 MB."""

AHEAD = 2
"""Blocks derived ahead of their products, for each thread that forms products."""

_local = threading.local()


@functools.cache
def cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)


@functools.cache
def _controller() -> Any:
    return threadpoolctl.ThreadpoolController()


@functools.cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Return the pool of so many threads of this process (a fork starts its own)."""
    del process
    return ThreadPoolExecutor(workers, thread_name_prefix="mlecov", initializer=mark_worker)


def mark_worker() -> None:
    """Mark this thread as one of several at work: what it calls starts no threads, and overflows in silence."""
    _local.worker = True
    np.seterr(all="ignore")


def _alone() -> bool:
    """Tell whether there is no second core to use, or this thread is itself one of several."""
    return cores() < 2 or getattr(_local, "worker", False)


def single_threaded() -> Any:
    """Return a context in which the BLAS uses one thread: small blocks lose by sharing.

    Every operation on many rows runs in it: for a tenth of a second after a shared product OpenBLAS's
    own threads wait for the next one at full speed, and take a core from ours.
    """
    return _controller().limit(limits=1, user_api="blas")


def small_blocks(n: int) -> Any:
    """Return the context for work on n rows block by block: a single-threaded BLAS where n is large."""
    return single_threaded() if n > SMALL else contextlib.nullcontext()


@functools.cache
def keep_pages() -> None:
    """Let freed temporaries of up to 24 MB stay with the process, once.

    The GNU allocator maps blocks above a threshold anew each time, at a page fault every 4 KB, and moves
    the threshold up to the largest such block ever freed; untouched, the block itself costs nothing.
    """
    np.empty(3 << 20)


def scratch(rows: int, columns: int) -> Array:
    """Return an uninitialised (rows, columns) array of this thread, valid until the thread's next call.

    For the function that asks alone: large temporaries made anew cost a page fault every 4 KB.
    """
    size = rows * columns
    if size > KEPT:
        return np.empty((rows, columns))
    held: Array | None = getattr(_local, "held", None)
    if held is None or held.size < size:
        held = _local.held = np.empty(size)
    return held[:size].reshape(rows, columns)


def map_parts(function: Callable[[int, int], T], n: int) -> list[T]:
    """Return [function(start, stop), ...] for the parts of range(n), in order.

    Parts run in threads, each with a single-threaded BLAS.
    """
    keep_pages()
    if n <= SMALL:
        return [function(0, n)]
    bounds = [(start, min(start + PART, n)) for start in range(0, n, PART)]
    with single_threaded():
        if len(bounds) < 2 or _alone():
            return [function(start, stop) for start, stop in bounds]
        return list(_pool(os.getpid(), cores()).map(lambda part: function(*part), bounds))


def pipeline(
    derive: Callable[[int, int], S],
    reduce: Callable[[int, int, S], T],
    bounds: Sequence[tuple[int, int]],
    n: int,
) -> list[T]:
    """Return [reduce(start, stop, derive(start, stop)), ...] for the blocks, in order; n rows in all.

    `derive` runs in the calling thread, `reduce` in others, at most `AHEAD` blocks behind for each.
    """
    keep_pages()
    if n <= SMALL:
        return [reduce(start, stop, derive(start, stop)) for start, stop in bounds]
    with single_threaded():
        if len(bounds) < 3 or _alone():
            return [reduce(start, stop, derive(start, stop)) for start, stop in bounds]
        workers = cores() - 1
        pool, room = _pool(os.getpid(), workers), AHEAD * workers
        done: list[T] = []
        waiting: deque[Future[T]] = deque()
        for start, stop in bounds:
            derived = derive(start, stop)
            if len(waiting) == room:
                done.append(waiting.popleft().result())
            waiting.append(pool.submit(reduce, start, stop, derived))
        return done + [future.result() for future in waiting]
