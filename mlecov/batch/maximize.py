"""Many maximisations at once: one Newton loop over R weight vectors, outcomes or fixed values.

    theta_r = argmax sum_i w_ri l_i(theta; y_ri),   r = 1, ..., R

All R replications step together; those that have converged drop out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlecov.batch.evaluators import Evaluator, Problem, Sums, evaluator_of, with_columns
from mlecov.errors import EvaluationError, SpecificationError
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood, Restricted, no_expected_information
from mlecov.likelihood.general import GeneralLikelihood
from mlecov.likelihood.index import IndexLikelihood
from mlecov.linalg import SINGULAR

tqdm = lazy("tqdm.auto")

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]
Kind = Literal["observed", "expected", "outer"]

TOLERANCE = 1e-10
"""g' I^-1 g at which a replication takes its last step; the step leaves an error of about 1e-10."""
EXACT = 1e-18
"""The same where sums at the maximum are kept: they are then exact to about nine digits."""

REASONS = (
    "converged",
    "iteration limit",
    "no step raises the log-likelihood",
    "the information is not positive definite",
    "the log-likelihood keeps rising (separation, or a parameter at the end of its range)",
    "the log-likelihood is not finite at the start",
)
CONVERGED, ITERATIONS, STUCK, INDEFINITE, RISING, INFINITE = range(len(REASONS))
RUNNING = -1


@dataclass(frozen=True, eq=False)
class Batch:
    """R maximisations: thetas (R, k), log-likelihoods (R,), and how each ended.

    `sums` holds (R, k, k) matrices at the maxima where they were asked for: "observed" and
    "expected" information, "outer" sums of w^p s s'.
    """

    thetas: Array
    loglike: Array
    status: Codes
    iterations: Codes
    sums: dict[str, Array] = field(default_factory=dict)

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """Which replications reached a maximum (R,)."""
        return np.asarray(self.status == CONVERGED)

    def failures(self) -> dict[str, int]:
        """Return how many replications failed, by reason."""
        return {
            reason: int((self.status == code).sum())
            for code, reason in enumerate(REASONS)
            if code != CONVERGED and (self.status == code).any()
        }

    def covariances(self, name: str) -> Array:
        """Return covariances (R, k, k) of the replications: "oim", "eim", "opg", "robust" or "bw".

        NaN for replications that failed. Needs the sums the name is made of (`keep=`).
        """
        if name not in ("oim", "eim", "opg", "robust", "bw"):
            raise SpecificationError(f"batch covariance {name!r} is not known: oim, eim, opg, robust, bw.")
        bread = {"oim": "observed", "robust": "observed", "opg": "outer"}.get(name, "expected")
        needed = [bread, "outer"] if name in ("robust", "bw") else [bread]
        absent = [part for part in needed if part not in self.sums]
        if absent:
            raise SpecificationError(f"{name!r} needs keep={tuple(absent)} when the batch is maximised.")
        found = np.full_like(self.sums[bread], np.nan)
        good = self.converged
        inverse = np.linalg.inv(self.sums[bread][good])
        found[good] = inverse @ self.sums["outer"][good] @ inverse if name in ("robust", "bw") else inverse
        return found

    @staticmethod
    def join(parts: Sequence[Batch]) -> Batch:
        """Return the batch of several batches, one after another."""
        return Batch(
            np.concatenate([p.thetas for p in parts]),
            np.concatenate([p.loglike for p in parts]),
            np.concatenate([p.status for p in parts]),
            np.concatenate([p.iterations for p in parts]),
            {name: np.concatenate([p.sums[name] for p in parts]) for name in parts[0].sums},
        )


def maximize_batch(
    likelihood: Likelihood,
    weights: Array | None = None,
    *,
    outcomes: Mapping[str, Array] | None = None,
    fixed: Mapping[str, Array] | None = None,
    start: Array | None = None,
    keep: Sequence[Kind] = (),
    weight_power: int = 1,
    max_iter: int = 50,
    progress: bool | None = None,
) -> Batch:
    """Maximise a likelihood under R weight vectors, R sets of outcomes, or R fixed values at once.

    Parameters
    ----------
    weights :
        (R, n) factors on top of the likelihood's own weights (resampling).
    outcomes :
        {column: (R, n)} that replace columns of the data (Monte Carlo, parametric bootstrap).
    fixed :
        {reported entry: (R,) values} held fixed, a value per replication (profiles).
    start :
        theta (k,) for all or (R, k); default: the likelihood's own start. With `fixed`, theta of the
        likelihood before fixing.
    keep :
        Sums at the maxima: "observed", "expected" (information), "outer" (sums of w^p s s').
    weight_power :
        p of the weights given in "outer": 1 for replication counts (a row, w times), 2 for
        multipliers.

    Raises
    ------
    SpecificationError
        Where shapes do not agree.

    Example
    -------
    >>> import numpy as np
    >>> import mlecov as ml
    >>> lik = ml.models.poisson(np.array([1.0, 2.0, 4.0]), np.ones((3, 1)))
    >>> batch = maximize_batch(lik, np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]]))
    >>> np.exp(batch.thetas).ravel().round(10).tolist()
    [2.3333333333, 1.3333333333]
    """
    problem = replace(
        _problem(likelihood, weights, dict(outcomes or {}), dict(fixed or {})),
        power=weight_power,
        outer="outer" in keep,
    )
    if "expected" in keep and not likelihood.has_expected_information:
        raise SpecificationError(no_expected_information(likelihood.facts.name))
    evaluator = evaluator_of(problem)
    starts = _starts(likelihood, problem, start)
    state = _newton(evaluator, starts, max_iter, EXACT if keep else TOLERANCE, progress)
    good = np.flatnonzero(state.status == CONVERGED)
    sums: dict[str, Array] = {}
    for kind in keep:
        sums[kind] = np.full_like(state.sums.information, np.nan)
        if kind == "expected" and len(good):
            sums[kind][good] = evaluator.expected(state.thetas[good], good)
        elif kind != "expected":
            found = state.sums.information if kind == "observed" else state.sums.outer
            assert found is not None
            sums[kind][good] = found[good]
    return Batch(state.thetas, state.sums.value, state.status, state.iterations, sums)


def maximize_many(
    likelihoods: Sequence[Likelihood],
    *,
    start: Array | None = None,
    keep: Sequence[Kind] = (),
    max_iter: int = 50,
    progress: bool | None = None,
) -> Batch:
    """Maximise many likelihoods of one structure (a Monte Carlo study), together where that is possible.

    Likelihoods that differ in columns of their data alone (those that `simulate` returns) are one
    batch; others are maximised one after another. `start`, `keep`: see `maximize_batch`.
    """
    first, count = likelihoods[0], len(likelihoods)
    columns = _differing_columns(likelihoods)
    if columns is not None:
        outcomes = {k: np.stack([_unwrapped(lik).columns[k] for lik in likelihoods]) for k in columns}
        weights = None if outcomes else np.ones((count, first.n_terms))
        return maximize_batch(
            first, weights, outcomes=outcomes, start=start, keep=keep, max_iter=max_iter, progress=progress
        )
    starts = [
        lik.start() if start is None else np.broadcast_to(start, (count, len(lik.start())))[i]
        for i, lik in enumerate(likelihoods)
    ]
    return Batch.join(
        [
            maximize_batch(lik, np.ones((1, lik.n_terms)), start=begin, keep=keep, max_iter=max_iter)
            for lik, begin in zip(likelihoods, starts, strict=True)
        ]
    )


def _unwrapped(likelihood: Likelihood) -> Any:
    return likelihood.base if isinstance(likelihood, Restricted) else likelihood


def _differing_columns(likelihoods: Sequence[Likelihood]) -> list[str] | None:
    """Return the columns in which the likelihoods differ, or None where they differ in more."""
    first = _unwrapped(likelihoods[0])
    if not isinstance(first, IndexLikelihood | GeneralLikelihood) or not first.columns:
        return None
    shared = ["space", "weights"]
    shared += ["model", "equations", "design"] if isinstance(first, IndexLikelihood) else ["engine"]
    differing: dict[str, None] = {}
    for likelihood in likelihoods[1:]:
        other = _unwrapped(likelihood)
        if type(other) is not type(first) or type(likelihood) is not type(likelihoods[0]):
            return None
        if any(getattr(other, name) is not getattr(first, name) for name in shared):
            return None
        differing |= {k: None for k, values in first.columns.items() if other.columns[k] is not values}
    return list(differing)


def _problem(
    likelihood: Likelihood, weights: Array | None, outcomes: dict[str, Array], fixed: dict[str, Array]
) -> Problem:
    counts = {len(part) for part in (weights, *outcomes.values(), *fixed.values()) if part is not None}
    if len(counts) != 1:
        raise SpecificationError(
            "weights, outcomes and fixed values must agree on the number of replications; got "
            f"{sorted(counts) or 'none'}."
        )
    count = counts.pop()
    n = likelihood.n_terms
    if weights is not None and np.shape(weights) != (count, n):
        raise SpecificationError(f"weights have shape {np.shape(weights)}; expected (R, {n}): one per term.")
    base: Any = likelihood
    matrix = origins = None
    if isinstance(likelihood, Restricted):
        base, matrix = likelihood.base, likelihood.matrix
        origins = np.broadcast_to(likelihood.origin, (count, len(likelihood.origin)))
    if outcomes:
        with_columns(base, {})
        for name, values in outcomes.items():
            expected = (count, *np.shape(base.columns[name])) if name in base.columns else None
            if expected != np.shape(values):
                got = np.shape(values)
                raise SpecificationError(f"outcomes[{name!r}] has shape {got}; expected {expected}.")
    if fixed:
        matrix, origins = _fixed(base, matrix, origins, fixed, count)
    return Problem(base, count, weights, outcomes, matrix, origins)


def _fixed(
    base: Likelihood, matrix: Array | None, origins: Array | None, fixed: dict[str, Array], count: int
) -> tuple[Array, Array]:
    """Return (R, r (count, K)) with the entries of `fixed` held at a value per replication."""
    from_space = base.space
    if matrix is not None:
        raise SpecificationError("fixed values in a batch go with a likelihood without constraints.")
    held, columns = [], []
    for name, values in fixed.items():
        if name not in from_space.labels:
            raise SpecificationError(f"fixed: no entry {name!r}; entries are {', '.join(from_space.labels)}.")
        entry = from_space.labels.index(name)
        parameter = next(p for p in from_space if p.reported.start <= entry < p.reported.stop)
        if not parameter.kind.elementwise or not parameter.kind.n_free:
            raise SpecificationError(f"fixed: {name!r} can not be held alone.")
        held.append(parameter.free.start + entry - parameter.reported.start)
        link = from_space.interval_links[entry]
        columns.append([float(link.forward(np.float64(value))) for value in values])
    kept = np.setdiff1d(np.arange(from_space.k), held)
    if not len(kept):
        raise SpecificationError("fixed values leave no free parameter.")
    origin = np.zeros((count, from_space.k))
    origin[:, held] = np.array(columns).T
    return np.eye(from_space.k)[:, kept], origin


def _starts(likelihood: Likelihood, problem: Problem, start: Array | None) -> Array:
    given = np.asarray(likelihood.start() if start is None else start, dtype=float)
    k = likelihood.space.k
    if given.shape not in ((k,), (problem.count, k)):
        raise SpecificationError(f"start has shape {given.shape}; expected ({k},) or ({problem.count}, {k}).")
    given = np.broadcast_to(given, (problem.count, k))
    if problem.matrix is not None and problem.matrix.shape[1] != k:
        given = given @ problem.matrix
    return np.array(given)


def directions(matrices: Array, gradients: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Return (steps A^-1 g (a, k), decrements g' A^-1 g (a,), which A are positive definite).

    Where an A is not, the eigenvalues of the equilibrated matrix are replaced by their absolute
    values, floored, so that the step still ascends.
    """
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    size = np.sqrt(np.abs(diagonal))
    scale = 1 / np.where(size > 0, size, np.maximum(size.max(axis=1, initial=0.0, keepdims=True), 1e-300))
    equal = matrices * (scale[:, :, None] * scale[:, None, :])
    if (diagonal > 0).all():
        try:
            lower = np.linalg.cholesky(equal)
        except np.linalg.LinAlgError:
            pass
        else:
            if np.diagonal(lower, axis1=1, axis2=2).min() > 1e-4:
                steps = np.asarray(np.linalg.solve(matrices, gradients[:, :, None])[:, :, 0], dtype=float)
                return steps, np.einsum("ak,ak->a", steps, gradients), np.ones(len(steps), dtype=np.bool_)
    values, vectors = np.linalg.eigh(equal)
    definite = np.asarray(values[:, 0] > values.shape[1] * SINGULAR, dtype=np.bool_)
    largest = np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-300)
    values = np.where(definite[:, None], values, np.maximum(np.abs(values), 1e-6 * largest))
    half = np.einsum("aki,ak->ai", vectors, scale * gradients)
    steps = scale * np.einsum("aki,ai->ak", vectors, half / values)
    return steps, np.einsum("ai,ai->a", half, half / values), definite


@dataclass
class _State:
    """Where the replications are; rows of those that ended no longer change."""

    thetas: Array
    sums: Sums
    status: Codes
    iterations: Codes


def _newton(
    evaluator: Evaluator, starts: Array, max_iter: int, tolerance: float, progress: bool | None
) -> _State:
    """Step all replications together until g' I^-1 g <= tolerance in each, then once more."""
    count = len(starts)
    sums = evaluator.first(starts)
    status = np.where(np.isfinite(sums.value) & sums.finite, RUNNING, INFINITE).astype(np.intp)
    state = _State(starts, sums, status, np.zeros(count, dtype=np.intp))
    previous = np.full(count, np.inf)
    slow = np.zeros(count, dtype=np.intp)
    shown = _Progress(count, progress)
    for iteration in range(max_iter + 1):
        live = np.flatnonzero(state.status == RUNNING)
        shown.update(count - len(live))
        if not len(live):
            break
        step, decrement, definite = directions(sums.information[live], sums.gradient[live])
        ended = (decrement <= tolerance) | ((decrement <= 1e-12) & (decrement > 0.5 * previous[live]))
        # Newton squares the distance; falling by a fixed factor means the maximum is at infinity.
        before = previous[live]
        creeping = (before < 1e-2) & (decrement > 0.1 * before) & (before > 1e-12)
        slow[live] += creeping
        rising = ended & (creeping | (slow[live] >= 5))
        state.status[live[ended]] = np.where(rising, RISING, np.where(definite, CONVERGED, INDEFINITE))[ended]
        good = ended & definite & ~rising
        state.thetas[live[good]] += step[good]
        if iteration == max_iter:
            state.status[live[~ended]] = ITERATIONS
            break
        previous[live] = decrement
        state.iterations[live[~ended]] += 1
        going = live[~ended]
        step, decrement = step[~ended], decrement[~ended]
        if len(going) and sums.third is not None:
            step = _corrected(evaluator, sums, going, step, decrement, definite[~ended])
        _search(evaluator, state, going, step, decrement)
    shown.close()
    return state


def _corrected(
    evaluator: Evaluator,
    sums: Sums,
    live: Codes,
    step: Array,
    decrement: Array,
    definite: npt.NDArray[np.bool_],
) -> Array:
    """Return the steps with the third derivatives along them (Chebyshev's), where those are small beside Newton's.

    The distance to the maximum falls to its third power instead of its square: an evaluation less.
    Reference: Traub (1964), Iterative Methods for the Solution of Equations, section 5.
    """
    assert sums.third is not None
    left = evaluator.bend(sums.third[live], step, live)
    more = np.linalg.solve(
        np.where(definite[:, None, None], sums.information[live], np.eye(step.shape[1])), left[:, :, None]
    )[:, :, 0]
    small = definite & (np.einsum("ak,ak->a", more, left) < 0.1 * decrement)
    return np.where(small[:, None], step + more, step)


def _search(evaluator: Evaluator, state: _State, live: Codes, step: Array, decrement: Array) -> None:
    """Move the live replications along their steps, each halved until its log-likelihood rises."""
    length = 1.0
    noise = 8 * np.finfo(float).eps * (np.abs(state.sums.value[live]) + 1.0)
    for _ in range(40):
        if not len(live):
            return
        trial = state.thetas[live] + length * step
        found = evaluator.evaluate(trial, live)
        gain = found.value - state.sums.value[live]
        wanted = np.where(length * decrement > 8 * noise, 1e-4 * length * decrement, -noise)
        taken = found.finite & (gain >= wanted)
        state.thetas[live[taken]] = trial[taken]
        state.sums.put(live[taken], found, taken)
        live, step, decrement, noise = live[~taken], step[~taken], decrement[~taken], noise[~taken]
        length *= 0.5
    state.status[live] = STUCK


class _Progress:
    """A bar that counts replications, on long runs in a terminal or on request."""

    def __init__(self, total: int, wanted: bool | None) -> None:
        self.total, self.wanted, self.began, self.bar = total, wanted, time.perf_counter(), None

    def update(self, done: int) -> None:
        """Show that `done` replications have ended."""
        slow = time.perf_counter() - self.began > 2 and sys.stderr.isatty()
        if self.bar is None and (slow if self.wanted is None else self.wanted):
            self.bar = tqdm.tqdm(total=self.total, unit=" rep", desc="replications", leave=False)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()


def require(batch: Batch, share: float, what: str) -> str:
    """Return a text that counts failures, or raise where more than `share` of replications failed.

    Raises
    ------
    EvaluationError
        Naming the reasons and their numbers.
    """
    failed = batch.failures()
    total, count = sum(failed.values()), len(batch.status)
    text = "; ".join(f"{number} of {count}: {reason}" for reason, number in failed.items())
    if total > share * count or count - total < 2:
        raise EvaluationError(
            f"{what}: {total} of {count} replications failed ({text}). What is left is no sample of the "
            "estimator's distribution. Look for separation or weak identification; the 'score' bootstrap "
            f"fits nothing again; or allow more with max_failures= (now {share:g})."
        )
    return text
