"""Write a Parquet file for the streaming benchmark: a logit of ten columns, rows in clusters.

    python tests/benchmarks/make_parquet.py 10000000 logit.parquet

The file belongs in a temporary folder: 1e7 rows take about 0.8 GB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COEFFICIENTS = np.array([-0.3, 0.5, -0.5, 0.25, -0.25, 0.1, -0.1, 0.0, 0.3])
ROW_GROUP = 1_000_000


def make(rows: int, path: Path, clusters: int = 100_000, seed: int = 1) -> None:
    """Write y, x1 ... x8 and firm: ten columns, P(y = 1) = 1 / (1 + exp(-x'b - u_firm))."""
    rng = np.random.default_rng(seed)
    effects = 0.3 * rng.standard_normal(clusters)
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, ROW_GROUP):
        b = min(ROW_GROUP, rows - start)
        x = rng.standard_normal((8, b))
        firm = rng.integers(0, clusters, b)
        eta = COEFFICIENTS[0] + COEFFICIENTS[1:] @ x + effects[firm]
        y = (rng.random(b) * (1 + np.exp(-eta)) < 1).astype(float)
        columns = {"y": y, **{f"x{j + 1}": x[j] for j in range(8)}, "firm": firm}
        part = pa.table(columns)
        if writer is None:
            writer = pq.ParquetWriter(path, part.schema, compression="snappy", use_dictionary=["y"])
        writer.write_table(part, row_group_size=ROW_GROUP)
    assert writer is not None
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=float)
    parser.add_argument("path", type=Path)
    parser.add_argument("--clusters", type=int, default=100_000)
    given = parser.parse_args()
    make(int(given.rows), given.path, given.clusters)
