"""Clustered covariances: any number of ways, with or without leverage corrections."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.factors import (
    Grouping,
    cluster_factor,
    final_scores,
    grouping,
    sandwich_of,
    warn_few,
)
from mlecov.covariance.leverage import (
    POWERS,
    Satterthwaite,
    adjusted_groups,
    adjusted_scores,
    dewhiten,
    refuse_working,
    which_curvature,
    whitener,
)
from mlecov.covariance.requests import Cluster
from mlecov.covariance.sandwich import estimator
from mlecov.data import factorize
from mlecov.errors import CovarianceError
from mlecov.likelihood.base import Curvature
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]


@estimator(Cluster)
def clustered(optimum: Optimum, spec: Cluster) -> Covariance:
    """Return the clustered covariance, one or several ways.

        V = I^-1 [ sum_a (-1)^(|a|+1) c_a sum_g t_ag t_ag' ] I^-1

    over non-empty subsets a of the ways; the groups of a subset are the intersections. Reference:
    Cameron, Gelbach & Miller (2011).
    """
    likelihood = optimum.likelihood
    ways = [grouping(likelihood, g, name) for g, name in zip(spec.groups, spec.names, strict=True)]
    terms = intersections(ways)
    factors, text = cluster_factor(
        optimum, spec.type, spec.small_sample, [term.size for term, _ in terms], spec.k
    )
    leverage = POWERS[spec.type] > 0
    kind = which_curvature(likelihood, spec.curvature) if leverage or spec.df == "satterthwaite" else None
    few = _smallest(ways)
    warn_few(few.size, f"groups of {few.name!r}", likelihood.space.k, spec.df == "satterthwaite")
    total = np.zeros((likelihood.space.k, likelihood.space.k))
    known: dict[int, Array] = {}
    for (term, sign), factor in zip(terms, factors, strict=True):
        # A refinement with as many groups is the same partition: nested ways cost and change nothing.
        if id(term.codes) not in known:
            known[id(term.codes)] = group_meat(optimum, term, spec.type, kind)
        total += sign * factor * known[id(term.codes)]
    df = _degrees(optimum, spec, ways, kind)
    label = _label(spec, ways, text, kind if leverage else None)
    details = {"groups": {way.name: way.size for way in ways}, "factors": factors, "curvature": kind}
    factor = factors[0] if len(factors) == 1 else 1.0
    return sandwich_of(optimum, total, label, spec.column, factor, df, spec.repair, **details)


def _smallest(ways: list[Grouping]) -> Grouping:
    return min(ways, key=lambda way: way.size)


def intersections(ways: list[Grouping]) -> list[tuple[Grouping, int]]:
    """Return every non-empty subset's intersection groups with its sign, single ways first."""
    made: dict[tuple[int, ...], Grouping] = {(j,): way for j, way in enumerate(ways)}
    for size in range(2, len(ways) + 1):
        for subset in combinations(range(len(ways)), size):
            made[subset] = _cross(made[subset[:-1]], made[subset[-1:]])
    return [(term, 1 if len(subset) % 2 else -1) for subset, term in made.items()]


def _cross(left: Grouping, right: Grouping) -> Grouping:
    codes, labels = _pairs(left, right)
    name = f"{left.name} x {right.name}"
    for nested in (left, right):
        if len(labels) == nested.size:
            return Grouping(name, nested.codes, nested.labels)
    return Grouping(name, codes, labels)


def _pairs(left: Grouping, right: Grouping) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return codes (n,) of the pairs that occur, and the pairs as left code * G_right + right code.

    One sort of (pair, term) packed into a word is several times faster than hashing the pairs.
    """
    n = len(left.codes)
    pair = left.codes * right.size + right.codes
    shift = int(n).bit_length()
    if left.size * right.size >= 2 ** (62 - shift):
        return factorize(pair)
    packed = np.sort((pair << shift) | np.arange(n))
    found = packed >> shift
    first = np.r_[True, found[1:] != found[:-1]]
    codes = np.empty(n, dtype=np.intp)
    codes[packed & ((1 << shift) - 1)] = np.cumsum(first) - 1
    return codes, found[first]


def group_meat(optimum: Optimum, term: Grouping, kind: str, curvature: Curvature | None) -> Array:
    """Return sum_g t_g t_g' (k, k), adjusted for leverage under CR2 and CR3."""
    scores = final_scores(optimum)
    p = POWERS[kind]
    if not p or curvature is None:
        return scores.group_gram(term.codes, term.size)
    if term.size == scores.n_terms:
        quick = adjusted_scores(optimum, p, curvature, rows_counted=False)
        if quick is not None:
            return quick.gram(power=2)
    w = whitener(optimum, curvature)
    total = np.zeros((scores.k, scores.k))
    for batch in adjusted_groups(optimum, term.codes, term.labels, p, curvature, w):
        total += batch.sums.T @ batch.sums
    return dewhiten(total, w)


def _degrees(
    optimum: Optimum, spec: Cluster, ways: list[Grouping], kind: Curvature | None
) -> float | Array | None:
    if spec.df == "normal":
        return None
    if spec.df == "t":
        return float(_smallest(ways).size - 1)
    if len(ways) > 1 or kind is None:
        raise CovarianceError(
            "df='satterthwaite' is defined for one way of clustering; use df='t' (smallest G - 1)."
        )
    refuse_working(kind)
    weights = optimum.likelihood.weights
    if weights is not None and weights.kind != "frequency":
        raise CovarianceError(
            f"df='satterthwaite' with {weights.kind} weights is not defined: the working covariance of a "
            "weighted score "
            "is not its curvature. Use df='t' (G - 1)."
        )
    p = POWERS[spec.type]
    w = whitener(optimum, kind)
    tally = Satterthwaite(optimum, w, p)
    for batch in adjusted_groups(optimum, ways[0].codes, ways[0].labels, p, kind, w):
        tally.add(batch, ways[0].labels)
    return tally.df


def _label(spec: Cluster, ways: list[Grouping], factor: str, kind: Curvature | None) -> str:
    named = " and ".join(f"{way.name} ({way.size} groups)" for way in ways)
    leverage = f", leverage by {kind} curvature" if kind else ""
    reference = {"normal": "", "t": f", t({_smallest(ways).size - 1})", "satterthwaite": ", Satterthwaite t"}[
        spec.df
    ]
    return (
        f"clustered by {named}, {spec.type}, factor {factor}{leverage}, "
        f"observed information as bread{reference}"
    )
