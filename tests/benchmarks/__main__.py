"""Run the benchmarks: `python -m tests.benchmarks [--only TEXT] [--list] [--quick]`.

Every row is timed in this run on the same data: mlecov and each peer in turn, several times, the
median of each printed with the ratio to mlecov. Peers that are not installed are left out and named.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

from tests.benchmarks.jobs import JOBS, Job
from tests.benchmarks.peers import Reported


def clock(function: Callable[[], object], least: float) -> tuple[float, int]:
    """Return (median seconds, runs) of a function, run for at least `least` seconds in all."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < least and len(times) < 200):
        start = time.perf_counter()
        result = function()
        wall = time.perf_counter() - start
        times.append(float(result) if isinstance(result, Reported) else wall)
        if sum(times) > 20 * max(least, 1.0):
            break
    return statistics.median(times), len(times)


def seconds(value: float) -> str:
    return f"{value * 1e3:.2f} ms" if value < 0.1 else f"{value:.2f} s"


def run(job: Job, least: float) -> list[str]:
    """Return the lines of one job."""
    entries = job.prepare()
    medians: dict[str, float] = {}
    for name, function in entries.items():
        try:
            function()
            medians[name], _ = clock(function, least)
        except ImportError as error:
            medians[name] = float("nan")
            print(f"  ({name} left out: {error})")
    own = medians.pop("mlecov")
    lines = [f"{job.name}", f"    {'mlecov':34s} {seconds(own):>12s}"]
    for name, value in medians.items():
        if value == value:
            lines.append(f"    {name:34s} {seconds(value):>12s}   {value / own:8.2f} x mlecov")
    lines.append(f"    goal: {job.goal}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="run the jobs whose names contain this text")
    parser.add_argument("--list", action="store_true", help="list the jobs")
    parser.add_argument("--quick", action="store_true", help="three runs of each")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for job in JOBS:
        if options.only.lower() not in job.name.lower():
            continue
        if options.list:
            print(job.name)
            continue
        print("\n".join(run(job, 0.0 if options.quick else 1.0)), flush=True)


if __name__ == "__main__":
    main()
