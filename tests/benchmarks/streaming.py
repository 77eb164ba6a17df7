"""Time and memory of a streamed logit beside reading the same file once.

    python tests/benchmarks/streaming.py logit.parquet [--workers 2]

Prints seconds of one read of the columns, of the fit (oim comes with it), of opg, robust and clusters,
the number of iterations and the peak resident memory. With --workers the blocks are held by as many
processes of a Dask cluster on this machine.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

import mlecov as ml
from mlecov.covariance.requests import Cluster

FORMULA = "y ~ " + " + ".join(f"x{j}" for j in range(1, 9))


def timed(label: str, work: Callable[[], Any]) -> Any:
    """Run and report seconds and peak resident memory so far."""
    began = time.perf_counter()
    found = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{label:28} {time.perf_counter() - began:8.2f} s   peak {peak:5.2f} GB", flush=True)
    return found


def read_once(path: Path) -> int:
    """Read all ten columns in the batches of the scanner, and keep nothing."""
    return sum(
        batch.num_rows for batch in ds.dataset(str(path)).to_batches(batch_readahead=1, fragment_readahead=1)
    )


def measure(path: Path, data: Any) -> None:
    """Fit and print."""
    began = time.perf_counter()
    likelihood = timed("survey and template", lambda: ml.models.logit(FORMULA, data))
    fit = timed("fit (with oim)", lambda: ml.fit(likelihood))
    timed("oim", lambda: fit.cov("oim"))
    timed("opg", lambda: fit.cov("opg"))
    timed("robust", lambda: fit.cov("robust"))
    cluster = timed("cluster", lambda: fit.cov(Cluster("firm")))
    print(
        f"in all {time.perf_counter() - began:.2f} s, {fit.record.iterations} iterations, "
        f"{fit.record.evaluations} evaluations; {cluster.label}"
    )
    print(fit.compare(["oim", "opg", "robust", Cluster("firm")]))


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--read", action="store_true", help="read the file once and nothing else")
    given = parser.parse_args()
    if given.read:
        timed("reading the file once", lambda: read_once(given.path))
        return
    subprocess.run(
        [sys.executable, __file__, str(given.path), "--read"], check=True
    )  # its memory is not ours
    if not given.workers:
        measure(given.path, given.path)
        return
    from dask.distributed import Client, LocalCluster

    with LocalCluster(n_workers=given.workers, threads_per_worker=1) as cluster, Client(cluster):
        measure(given.path, ml.distributed(given.path))


if __name__ == "__main__":
    main()
