"""Cost by rows: `python -m tests.benchmarks.growth [--plot FILE.svg]`, seconds and peak memory of a probit.

Each size runs in a process of its own, so that the peak resident memory is its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)

ONE = """
import resource, sys, time
import numpy as np
import mlecov as ml
n = int(sys.argv[1])
rng = np.random.default_rng(0)
X = rng.standard_normal((n, 20))
X[:, 0] = 1.0
y = (X @ np.linspace(-0.3, 0.3, 20) + rng.standard_normal(n) > 0).astype(float)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
fit = ml.fit(ml.models.probit(y, X))
for name in ("oim", "opg", "robust"):
    fit.cov(name).bse
seconds = time.perf_counter() - start
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seconds, (after - before) / 1024, X.nbytes / 2**20)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", help="write log-log plots of seconds and memory by rows to this file")
    options = parser.parse_args()
    print(f"{'rows':>10} {'seconds':>9} {'us a row':>9} {'extra MB':>9} {'data MB':>8}")
    times, peaks, sizes = [], [], []
    for n in SIZES:
        done = subprocess.run(
            [sys.executable, "-c", ONE, str(n)], check=True, capture_output=True, text=True
        ).stdout
        seconds, extra, data = map(float, done.split())
        times.append(seconds)
        peaks.append(extra)
        sizes.append(data)
        print(f"{n:>10} {seconds:>9.3f} {1e6 * seconds / n:>9.3f} {extra:>9.0f} {data:>8.0f}", flush=True)
    if options.plot:
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.2), layout="constrained")
        left.loglog(SIZES, times, "o-", color="0.1")
        left.set(xlabel="rows", ylabel="seconds", title="time")
        right.loglog(SIZES, sizes, "o--", color="0.55")
        right.loglog(SIZES, peaks, "o-", color="0.1")
        right.set(xlabel="rows", ylabel="MB", title="memory")
        right.annotate("the data", (SIZES[-1], sizes[-1]), (-8, 0), textcoords="offset points", ha="right")
        right.annotate("besides", (SIZES[-1], peaks[-1]), (-2, -18), textcoords="offset points", ha="right")
        figure.savefig(options.plot)


if __name__ == "__main__":
    main()
