"""Bootstrap covariances: refits under resampling weights or simulated outcomes, or none at all.

All refits of a request run as one batched Newton (`batch.maximize_batch`); a failed replication is
counted and named in the label, and too many of them are an error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mlecov.batch import Batch, Kind, maximize_batch, maximize_many, require
from mlecov.covariance.covariance import Covariance
from mlecov.covariance.resampling import Bootstrap
from mlecov.covariance.sandwich import observed_factor
from mlecov.covariance.specbase import label_of
from mlecov.errors import CovarianceError, CovarianceWarning, SeparabilityError, warn
from mlecov.inference.resample_weights import block_length, draw_weights, generator, multipliers
from mlecov.linalg import symmetrize
from mlecov.optimum import Optimum
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

FEW_GROUPS = 6
"""Groups below which a bootstrap of groups is warned of."""

ENTRIES = 4_000_000
"""Entries of the weights (replications x terms) held at a time; part of what a seed means."""


def bootstrap(optimum: Optimum, spec: Bootstrap) -> Covariance:
    """Return the bootstrap covariance of an optimum, with its replicates in `details`.

        V = 1/(R-1) sum_r (b_r - mean b)(b_r - mean b)'

    on the user's scale, from the replicates b_r themselves (no delta method). `details` hold
    "replicates" (R, m), "thetas" (R, k), "failed" {reason: number}, "std_errors" (R, m) where the
    replicates were studentized, and what was drawn.

    Raises
    ------
    EvaluationError
        Where more than `max_failures` of the replications failed.
    SeparabilityError
        Where terms that depend on each other would be drawn one by one.
    CovarianceError
        Where there are fewer than two groups.

    References
    ----------
    Efron & Tibshirani (1993); Goncalves & White (2004); Kline & Santos (2012).
    """
    likelihood = optimum.likelihood
    codes, n_groups = _groups(optimum, spec)
    rng = generator(spec.seed)
    failed = ""
    errors: Array | None = None
    if spec.kind == "score":
        thetas = score_replicates(optimum, spec, rng, codes, n_groups)
        counts: dict[str, int] = {}
    else:
        batch = Batch.join(list(_refits(optimum, spec, rng, codes)))
        failed = require(batch, spec.max_failures, f"{spec.kind} bootstrap of {likelihood.facts.name}")
        thetas, counts = batch.thetas[batch.converged], batch.failures()
        if spec.studentize:
            errors = _standard_errors(optimum, spec, batch, codes, n_groups)
    if failed:
        warn(
            f"{spec.kind} bootstrap: replications failed and are left out ({failed}). The covariance is "
            "that of the others; it may be too small.",
            CovarianceWarning,
        )
    replicates = reported(likelihood.space, thetas)
    details = {
        "replicates": replicates,
        "thetas": thetas,
        "reps": spec.reps,
        "failed": counts,
        "seed": spec.seed,
        "kind": spec.kind,
        "codes": codes,
    }
    if n_groups is not None:
        details["groups"] = n_groups
    if errors is not None:
        details["std_errors"] = errors
    if spec.kind in ("block", "stationary"):
        details["block_length"] = block_length(spec, likelihood.n_terms)
    return Covariance(
        _covariance(thetas),
        _label(spec, likelihood.n_terms, n_groups, sum(counts.values())),
        spec.column,
        likelihood.space,
        optimum.theta,
        1 / (len(thetas) - 1),
        None,
        details,
        _covariance(replicates),
    )


def reported(space: ParameterSpace, thetas: Array) -> Array:
    """Return params (R, m) of thetas (R, k)."""
    if space.is_identity:
        return thetas.copy()
    return np.array([space.report(theta) for theta in thetas])


def _covariance(replicates: Array) -> Array:
    deviations = replicates - replicates.mean(axis=0)
    return symmetrize(deviations.T @ deviations / (len(replicates) - 1))


def _label(spec: Bootstrap, n: int, n_groups: int | None, failed: int) -> str:
    what = spec.kind
    if spec.kind in ("block", "stationary"):
        mean = "mean " if spec.kind == "stationary" else ""
        what += f" ({mean}length {block_length(spec, n)})"
    if spec.kind == "score":
        what += f" ({spec.weights} multipliers, no refits)"
    groups = "" if n_groups is None else f" of {n_groups} groups in {label_of(spec.group, 'groups')}"
    lost = f", {failed} of them failed" if failed else ""
    return f"{what} bootstrap{groups}, {spec.reps} replications{lost}, seed {spec.seed}, factor 1/(R-1)"


def _groups(optimum: Optimum, spec: Bootstrap) -> tuple[Codes | None, int | None]:
    likelihood = optimum.likelihood
    refits = spec.kind in ("pairs", "cluster", "bayesian")
    if refits and not likelihood.separable:
        likelihood.evaluate(
            optimum.theta, weights=np.ones(likelihood.n_terms)
        )  # a known point says so itself
        raise SeparabilityError(
            f"{likelihood.facts.name}: terms depend on each other's rows, so they can not be drawn one by "
            "one. Use kind='block' or 'stationary' (contributions drawn in blocks), 'parametric' or 'score'."
        )
    if spec.group is None:
        return None, None
    codes, labels = likelihood.rows.codes(spec.group, "group")
    if len(labels) < 2:
        name = label_of(spec.group, "group")
        raise CovarianceError(f"bootstrap: {name} has {len(labels)} group(s); at least 2 are needed.")
    if len(labels) < FEW_GROUPS:
        warn(
            f"bootstrap: only {len(labels)} groups of {label_of(spec.group, 'group')!r}, which have too few "
            "distinct samples for a covariance. Use Cluster(..., type='CR2', df='satterthwaite'), or "
            "wild_score_test(weights='webb').",
            CovarianceWarning,
        )
    return codes, len(labels)


def _portions(spec: Bootstrap, n: int) -> Iterator[int]:
    step = max(ENTRIES // max(n, 1), 1)
    for start in range(0, spec.reps, step):
        yield min(step, spec.reps - start)


def _refits(
    optimum: Optimum, spec: Bootstrap, rng: np.random.Generator, codes: Codes | None
) -> Iterator[Batch]:
    likelihood, n = optimum.likelihood, optimum.likelihood.n_terms
    keep: tuple[Kind, ...] = ("observed", "outer") if spec.studentize else ()
    for reps in _portions(spec, n):
        if spec.kind == "parametric":
            drawn = [likelihood.simulate(rng, optimum.theta) for _ in range(reps)]
            yield maximize_many(drawn, start=optimum.theta, keep=keep, progress=spec.progress)
            continue
        w = draw_weights(spec, rng, reps, n, codes, likelihood.weights)
        yield maximize_batch(likelihood, w, start=optimum.theta, keep=keep, progress=spec.progress)


def score_replicates(
    optimum: Optimum, spec: Bootstrap, rng: np.random.Generator, codes: Codes | None, n_groups: int | None
) -> Array:
    """Return thetas (R, k) = theta + I^-1 sum_g v_g s_g for multipliers v: no refits."""
    scores = optimum.evaluation.scores
    if scores is None:
        raise CovarianceError(
            "the score bootstrap needs scores; save the fit with scores, or reattach its likelihood."
        )
    bread = observed_factor(optimum).inverse
    own = optimum.likelihood.weights
    sums = None if codes is None or n_groups is None else scores.group_sums(codes, n_groups)
    found = []
    for reps in _portions(spec, scores.n_terms if n_groups is None else n_groups):
        if sums is not None:
            moves = multipliers(spec.weights, rng, (reps, len(sums))) @ sums
        else:
            v = multipliers(spec.weights, rng, (reps, scores.n_terms))
            if (
                own is not None and own.kind == "frequency"
            ):  # w rows with a multiplier each: variance w, not w^2
                v = np.divide(v, np.sqrt(own.values), out=np.zeros_like(v), where=own.values > 0)
            moves = scores.left(v)
        found.append(optimum.theta + moves @ bread)
    return np.concatenate(found)


def _standard_errors(
    optimum: Optimum, spec: Bootstrap, batch: Batch, codes: Codes | None, n_groups: int | None
) -> Array:
    """Return standard errors (R, m) of the replicates: sandwich, clustered, or of the model simulated."""
    good = batch.converged
    space = optimum.likelihood.space
    if codes is None or n_groups is None:
        matrices = batch.covariances("oim" if spec.kind == "parametric" else "robust")[good]
    else:
        matrices = _clustered(optimum, spec, batch, codes, n_groups)[good]
    if space.is_identity:
        return np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    found = []
    for theta, matrix in zip(batch.thetas[good], matrices, strict=True):
        jacobian = space.jacobian(theta)
        found.append(np.sqrt(np.einsum("mk,kl,ml->m", jacobian, matrix, jacobian)))
    return np.array(found)


def _clustered(optimum: Optimum, spec: Bootstrap, batch: Batch, codes: Codes, n_groups: int) -> Array:
    """Return sandwiches (R, k, k) in which each drawn copy of a group is a cluster of its own."""
    likelihood, n = optimum.likelihood, optimum.likelihood.n_terms
    rng = generator(spec.seed)  # the same draws again, group by group
    first = np.unique(codes, return_index=True)[1]
    found = np.full_like(batch.sums["observed"], np.nan)
    r = 0
    for reps in _portions(spec, n):
        for drawn in draw_weights(spec, rng, reps, n, codes, likelihood.weights)[:, first]:
            if batch.converged[r]:
                scores = likelihood.evaluate(batch.thetas[r], order=1, scores=True).scores
                assert scores is not None
                sums = scores.group_sums(codes, n_groups)
                bread = np.linalg.inv(batch.sums["observed"][r])
                found[r] = bread @ (sums.T * drawn) @ sums @ bread
            r += 1
    return found
