"""Run the benchmarks: `python -m tests.benchmarks [--only TEXT] [--list] [--quick]`.

Every row is timed in this run on the same data: mlecov and each peer in turn, three turns each, the
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

ROUNDS = 3
"""Turns that each entry gets: a machine's slow moment falls on all of them alike."""

PAUSE = 0.3
"""Seconds before each turn: for a tenth of one, the BLAS threads of the entry before wait at full speed."""


def clock(function: Callable[[], object], least: float) -> list[float]:
    """Return the seconds of each run of a function, run for at least `least` seconds in all."""
    times: list[float] = []
    began = time.perf_counter()
    while not times or (time.perf_counter() - began < least and len(times) < 200):
        start = time.perf_counter()
        result = function()
        wall = time.perf_counter() - start
        times.append(float(result) if isinstance(result, Reported) else wall)
    return times


def seconds(value: float) -> str:
    return f"{value * 1e3:.2f} ms" if value < 0.1 else f"{value:.2f} s"


def run(job: Job, least: float) -> list[str]:
    """Return the lines of one job."""
    entries = job.prepare()
    times: dict[str, list[float]] = {name: [] for name in entries}
    for turn in range(ROUNDS):
        for name, function in entries.items():
            if turn and not times[name]:
                continue
            try:
                if not turn:
                    function()  # compiles, and fills caches
                time.sleep(PAUSE)
                times[name] += clock(function, least / ROUNDS)
            except ImportError as error:
                print(f"  ({name} left out: {error})")
    medians = {name: statistics.median(values) for name, values in times.items() if values}
    own = medians.pop("mlecov")
    lines = [f"{job.name}", f"    {'mlecov':34s} {seconds(own):>12s}"]
    for name, value in medians.items():
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
