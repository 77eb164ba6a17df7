"""Spatial kernels: terms near each other may depend on each other; neighbours by a k-d tree, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.factors import final_scores, sandwich_of
from mlecov.covariance.requests import Conley
from mlecov.covariance.sandwich import estimator
from mlecov.covariance.specbase import label_of
from mlecov.data import numeric
from mlecov.errors import CovarianceError, DataError, listing
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.scores import DenseScores
from mlecov.optimum import Optimum

spatial = lazy("scipy.spatial")
sparse = lazy("scipy.sparse")

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

EARTH = 6371.0088
"""Mean radius of the earth in km (IUGG)."""
PAIRS = 2_000_000
"""Pairs of neighbours handled at a time."""


@estimator(Conley)
def conley(optimum: Optimum, spec: Conley) -> Covariance:
    """Return I^-1 [sum_ij kappa(d_ij / cutoff) w_i w_j s_i s_j'] I^-1.

    Distances on the sphere are had from chords in three dimensions. Terms at one place are added up
    first. The uniform kernel need not be positive semi-definite. Reference: Conley (1999).
    """
    points = coordinates(optimum.likelihood, spec)
    scores = final_scores(optimum)
    place, codes = np.unique(points, axis=0, return_inverse=True)
    codes = codes.reshape(-1)
    if 2 * len(place) <= len(points):
        points, scores = place, DenseScores(scores.group_sums(codes, len(place)))
    meat = np.zeros((scores.k, scores.k))
    pairs = 0
    for chosen, weights in neighbours(points, spec):
        own = np.concatenate([rows for _, _, rows in scores.take(chosen).weighted_blocks()])
        meat += own.T @ scores.left(weights)
        pairs += weights.nnz
    if len(place) == 1 or (spec.kernel == "uniform" and pairs == len(points) ** 2):
        raise CovarianceError(
            f"Conley: all terms lie within the cutoff of {spec.cutoff:g} of each other, like one cluster, so their "
            "scores add up to zero and leave no covariance. Give a smaller cutoff (in km under haversine)."
        )
    unit = " km" if spec.metric == "haversine" else ""
    label = (
        f"Conley, {spec.kernel} kernel, cutoff {spec.cutoff:g}{unit} ({spec.metric}), "
        f"{pairs / len(points):.3g} "
        f"neighbours on average, {len(place)} places, observed information as bread"
    )
    details = {"places": len(place), "pairs": pairs, "cutoff": spec.cutoff}
    return sandwich_of(optimum, meat, label, spec.column, repair=spec.repair, **details)


def coordinates(likelihood: Likelihood, spec: Conley) -> Array:
    """Return the points (n, d): on the unit sphere for haversine, as given for euclidean.

    Raises
    ------
    DataError
        For missing or infinite coordinates, and degrees outside their range.
    """
    if spec.coordinates is not None:
        given = spec.coordinates
        if isinstance(given, np.ndarray) and given.ndim == 2:
            given = list(given.T)
        elif type(given).__name__ == "DataFrame":
            given = [given[name] for name in given.columns]
        columns = [_column(likelihood, c, label_of(c, f"coordinates[{j}]")) for j, c in enumerate(given)]
        if spec.metric == "haversine" and len(columns) != 2:
            raise CovarianceError(
                f"haversine needs two coordinates (latitude, longitude); got {len(columns)}."
            )
    else:
        columns = [
            _column(likelihood, c, label_of(c, name)) for c, name in ((spec.lat, "lat"), (spec.lon, "lon"))
        ]
    if spec.metric == "euclidean":
        return np.column_stack(columns)
    for column, name, bound in ((columns[0], "latitude", 90), (columns[1], "longitude", 360)):
        bad = np.flatnonzero(np.abs(column) > bound)
        if len(bad):
            raise DataError(
                f"{name} is {column[bad[0]]:g} in term {bad[0]}; expected degrees within +-{bound}. For "
                "other "
                "coordinates use coordinates= with metric='euclidean'."
            )
    lat, lon = np.radians(columns[0]), np.radians(columns[1])
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def _column(likelihood: Likelihood, values: Any, name: str) -> Array:
    found = numeric(name, likelihood.rows.per_term(values, name))
    if np.isnan(found).any():
        raise DataError(f"{name}: missing in term(s) {listing(np.flatnonzero(np.isnan(found)))}.")
    return found


def neighbours(points: Array, spec: Conley) -> Iterator[tuple[Codes, Any]]:
    """Yield (terms (b,), sparse kernel weights (b, n)), so many terms at a time as PAIRS allows."""
    tree = spatial.cKDTree(points)
    sphere = spec.metric == "haversine"
    radius = spec.cutoff
    if sphere:
        angle = spec.cutoff / EARTH
        radius = 2.0 if angle >= np.pi else 2 * np.sin(angle / 2)
    # The search is a little wider than the cutoff; the kernel decides.
    radius *= 1 + 1e-9
    # In the order of the tree's leaves a block of terms is compact, and its own tree small.
    order = np.asarray(tree.indices, dtype=np.intp)
    points = points[order]
    counts = np.concatenate(
        [
            np.atleast_1d(tree.query_ball_point(points[low : low + 65536], radius, return_length=True))
            for low in range(0, len(points), 65536)
        ]
    )
    bounds = _cuts(np.cumsum(counts))
    for low, high in pairwise(bounds):
        found = spatial.cKDTree(points[low:high]).sparse_distance_matrix(tree, radius, output_type="ndarray")
        distance = found["v"]
        if sphere:
            distance = 2 * EARTH * np.arcsin(np.minimum(distance / 2, 1.0))
        ratio = distance / spec.cutoff
        weight = (
            np.where(ratio <= 1 + 1e-12, 1.0, 0.0) if spec.kernel == "uniform" else np.maximum(1 - ratio, 0)
        )
        used = weight > 0
        matrix = sparse.csr_array(
            (weight[used], (found["i"][used], found["j"][used])), shape=(high - low, len(points))
        )
        yield order[low:high], matrix


def _cuts(cumulated: Codes) -> list[int]:
    """Return the bounds of blocks of terms with about PAIRS pairs each, at least one term."""
    bounds = [0]
    while bounds[-1] < len(cumulated):
        done = cumulated[bounds[-1] - 1] if bounds[-1] else 0
        stop = int(np.searchsorted(cumulated, done + PAIRS, side="right"))
        bounds.append(max(stop, bounds[-1] + 1))
    return bounds
