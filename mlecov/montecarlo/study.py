"""Coverage and size by simulation: which covariance can be trusted at this n?

Data are drawn R times from a known truth, the model is fitted to each, and every covariance asked for
is held against what the estimates really do.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.batch import Batch, Kind, maximize_batch, maximize_many, with_columns
from mlecov.covariance.resampling import Bootstrap
from mlecov.covariance.sandwich import covariance
from mlecov.covariance.specbase import Spec
from mlecov.covariance.specs import Basic, parse
from mlecov.errors import MlecovError, SpecificationError
from mlecov.inference.resample import bootstrap
from mlecov.inference.table import critical_value, intervals
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.index import IndexLikelihood
from mlecov.montecarlo.results import MonteCarlo, Replications, share_error
from mlecov.optimum import Optimum, Record
from mlecov.parameters import ParameterSpace

pd = lazy("pandas")

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Simulate = Callable[[np.random.Generator], Any]

ROWS = 1 << 19
"""Rows simulated together: a batch has about ROWS / n replications, and 2,000 at most."""

SUMS: dict[str, tuple[Kind, ...]] = {
    "oim": ("observed",),
    "eim": ("expected",),
    "opg": ("outer",),
    "robust": ("observed", "outer"),
    "HC1": ("observed", "outer"),
    "bw": ("expected", "outer"),
}
"""Sums that the basic estimators are made of."""

STREAM = 0x6D6C65
"""Sets the streams apart from `default_rng(seed)`, with which data are often made: it is that of [seed, 0]."""

FEWEST = 200
"""Replications before a precision may end the study."""


def generator(seed: int, r: int) -> np.random.Generator:
    """Return the generator of replication r."""
    return np.random.default_rng([seed, r, STREAM])


@dataclass(frozen=True)
class Study:
    """One experiment: how data are drawn, what is fitted, which covariances are tried against `truth` (m,)."""

    likelihood: Likelihood | Callable[[Any], Likelihood]
    simulate: Simulate | None
    specs: tuple[Spec, ...]
    start: Array | None
    truth: Array | None
    seed: int
    alpha: float

    def sampler(self) -> Callable[[int], Likelihood]:
        """Return the function of r that draws replication r; its random numbers depend on (seed, r) alone."""
        make: Callable[[np.random.Generator], Likelihood] = self._from_data
        if self.simulate is None:
            assert isinstance(self.likelihood, Likelihood) and self.start is not None
            make = self.likelihood.simulations(self.start)
        return lambda r: make(generator(self.seed, r))

    def _from_data(self, rng: np.random.Generator) -> Likelihood:
        assert self.simulate is not None
        data = self.simulate(rng)
        if isinstance(data, Likelihood):
            return data
        if isinstance(self.likelihood, Likelihood):
            columns = {name: np.asarray(values, dtype=float) for name, values in data.items()}
            return with_columns(self.likelihood, columns)
        return self.likelihood(data)


@dataclass(frozen=True)
class Outcomes(Sequence[Likelihood]):
    """Replications of an index likelihood that differ in outcomes: {column: (R, n)}, likelihoods on request."""

    likelihood: IndexLikelihood
    columns: dict[str, Array]

    @classmethod
    def draw(cls, study: Study, likelihood: IndexLikelihood, first: int, last: int) -> Outcomes:
        """Return replications first ... last - 1 of a study."""
        assert study.start is not None
        draw = likelihood.outcomes(study.start)
        columns: dict[str, Array] = {}
        for i, r in enumerate(range(first, last)):
            for name, values in draw(generator(study.seed, r)).items():
                if not i:
                    columns[name] = np.empty((last - first, *values.shape))
                columns[name][i] = values
        return cls(likelihood, columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, r: Any) -> Any:
        return with_columns(self.likelihood, {name: values[r] for name, values in self.columns.items()})


def run_batch(study: Study, first: int, last: int) -> Replications:
    """Return replications first ... last - 1: a task of its own, on this machine or another."""
    failures: Counter[str] = Counter()
    keep = tuple(dict.fromkeys(s for spec in study.specs if isinstance(spec, Basic) for s in SUMS[spec.kind]))
    drawn: Sequence[Likelihood]
    if study.simulate is None and isinstance(study.likelihood, IndexLikelihood):
        drawn = Outcomes.draw(study, study.likelihood, first, last)
        batch = maximize_batch(
            study.likelihood, outcomes=drawn.columns, start=study.start, keep=keep, progress=False
        )
    else:
        drawn = _draw_each(study, first, last, failures)
        if not drawn:
            empty = np.empty((len(study.specs), 0, 0))
            return Replications(np.empty((0, 0)), empty, empty.astype(bool), empty.astype(bool), failures)
        batch = maximize_many(drawn, start=study.start, keep=keep, progress=False)
    failures.update(batch.failures())
    good = np.flatnonzero(batch.converged)
    others = [spec for spec in study.specs if not isinstance(spec, Basic)]
    found = _one_by_one(drawn, batch, good, others, failures) if others else {}
    good = np.array([r for r in good if not others or r in found], dtype=np.intp)
    return _judged(study, drawn[0].space, batch, good, found, failures, drawn[0])


def _draw_each(study: Study, first: int, last: int, failures: Counter[str]) -> list[Likelihood]:
    """Return the likelihoods of replications first ... last - 1, refusals counted in `failures`."""
    draw, drawn = study.sampler(), []
    for r in range(first, last):
        try:
            drawn.append(draw(r))
        except MlecovError as error:
            failures[f"data refused: {str(error)[:80]}"] += 1
    return drawn


def _one_by_one(
    drawn: Sequence[Likelihood],
    batch: Batch,
    good: npt.NDArray[np.intp],
    specs: Sequence[Spec],
    failures: Counter[str],
) -> dict[int, list[tuple[Array, Any]]]:
    """Return {replication: [(standard errors (m,), df), ...]} of the estimators that are not sums alone."""
    found: dict[int, list[tuple[Array, Any]]] = {}
    for r in good:
        likelihood, theta = drawn[r], batch.thetas[r]
        record = Record(True, "batch", "newton", int(batch.iterations[r]), 0, 0.0, 0.0, False, 0.0, theta)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # counted as what they do to coverage, not said 10,000 times
                optimum = Optimum(likelihood, theta, likelihood.evaluate(theta, order=2, scores=True), record)
                made = [
                    bootstrap(optimum, s) if isinstance(s, Bootstrap) else covariance(optimum, s)
                    for s in specs
                ]
                found[int(r)] = [(cov.bse, cov.df) for cov in made]
        except MlecovError as error:
            failures[f"covariance refused: {str(error)[:80]}"] += 1
    return found


def _judged(
    study: Study,
    space: ParameterSpace,
    batch: Batch,
    good: npt.NDArray[np.intp],
    found: dict[int, list[tuple[Array, Any]]],
    failures: Counter[str],
    likelihood: Likelihood,
) -> Replications:
    """Return standard errors, whether intervals hold the truth, and whether its test rejects."""
    thetas = batch.thetas[good]
    estimates = np.array([space.report(t) for t in thetas]).reshape(len(good), space.m)
    truth = study.truth
    assert truth is not None
    jacobians = None if space.is_identity else [space.jacobian(t) for t in thetas]
    shape = (len(study.specs), len(good), space.m)
    std_errors, covered, rejected = np.empty(shape), np.empty(shape, dtype=bool), np.empty(shape, dtype=bool)
    others = 0
    for c, spec in enumerate(study.specs):
        df: Any = None
        if isinstance(spec, Basic):
            std_errors[c] = _basic(spec, batch, good, jacobians, likelihood)
        else:
            std_errors[c] = np.array([found[int(r)][others][0] for r in good]).reshape(shape[1:])
            df = [found[int(r)][others][1] for r in good]
            others += 1
        covered[c], rejected[c] = _tested(space, estimates, std_errors[c], truth, df, study.alpha)
    return Replications(estimates, std_errors, covered, rejected, failures)


def _basic(
    spec: Basic,
    batch: Batch,
    good: npt.NDArray[np.intp],
    jacobians: list[Array] | None,
    likelihood: Likelihood,
) -> Array:
    matrices = batch.covariances("robust" if spec.kind == "HC1" else spec.kind)[good]
    if spec.kind == "HC1":
        n, k = likelihood.n_obs, likelihood.space.k if spec.k is None else spec.k
        matrices = matrices * (n / (n - k))
    if jacobians is None:
        variances = np.diagonal(matrices, axis1=1, axis2=2)
    else:
        variances = np.array(
            [np.einsum("mk,kl,ml->m", j, v, j) for j, v in zip(jacobians, matrices, strict=True)]
        )
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.where(variances > 0, variances, np.nan))


def _tested(
    space: ParameterSpace, estimates: Array, std_errors: Array, truth: Array, df: Any, alpha: float
) -> tuple[Flags, Flags]:
    """Return whether intervals hold the truth and z tests of it reject, (b, m) each."""
    if df is None:
        critical: Any = critical_value(alpha, None)
    else:
        values = [np.broadcast_to(critical_value(alpha, d), truth.shape) for d in df]
        critical = np.array(values).reshape(estimates.shape)
    with np.errstate(invalid="ignore"):
        rejected = np.abs(estimates - truth) > critical * std_errors
        if all(math.isinf(link.lo) and math.isinf(link.hi) for link in space.interval_links):
            return ~rejected & np.isfinite(std_errors), rejected
        rows = np.broadcast_to(critical, estimates.shape)
        ends = [intervals(space, e, s, c) for e, s, c in zip(estimates, std_errors, rows, strict=True)]
        lower, upper = np.array([a for a, _ in ends]), np.array([b for _, b in ends])
        return (lower.reshape(estimates.shape) <= truth) & (truth <= upper.reshape(estimates.shape)), rejected


def monte_carlo(
    simulate: Simulate | None,
    likelihood: Likelihood | Callable[[Any], Likelihood],
    estimators: Sequence[Any] = ("oim", "opg", "robust"),
    reps: int = 1000,
    seed: int = 0,
    *,
    truth: Mapping[str, Any] | Array | None = None,
    alpha: float = 0.05,
    precision: float | None = None,
    client: Any = None,
) -> MonteCarlo:
    """Return bias, standard errors, coverage and size over `reps` fits to simulated data.

    Parameters
    ----------
    simulate :
        simulate(rng) -> data: a dict of outcome columns that replace those of `likelihood` (fast: all
        replications are fitted as one batch), data for `likelihood(data)`, or a likelihood. None: the
        likelihood's own model at `truth`.
    likelihood :
        A likelihood, or a function that makes one of simulated data.
    estimators :
        Covariances by name or spec: "oim", "opg", "robust", "HC3", Cluster("firm"), ...
    reps, seed :
        Replication r draws from the generator of (seed, r): the same numbers however many are run
        together, and wherever.
    truth :
        {parameter: value} on the user's scale, for every parameter; or theta (k,). What the estimates
        converge to, if the model fitted is not the one simulated.
    precision :
        Stop early when every coverage has a Monte Carlo standard error of at most this (0.005: half a
        percentage point).
    client :
        A `dask.distributed.Client`: batches are run by its workers.

    Raises
    ------
    SpecificationError
        Where the truth is not told in full, or the model can not be simulated.

    References
    ----------
    Morris, White & Crowther (2019), Statistics in Medicine 38, on the Monte Carlo errors.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.poisson(np.array([1.0, 2.0, 4.0, 0.0] * 20), np.ones((80, 1))))
    >>> study = ml.monte_carlo(None, fit.likelihood, ["oim", "robust"], reps=200, truth=fit.theta)
    >>> study.reps
    200
    """
    if reps < 2:
        raise SpecificationError(f"reps={reps}: expected at least 2 replications.")
    if precision is not None and not 0 < precision < 0.5:
        raise SpecificationError(
            f"precision={precision!r}: expected a standard error of a share, such as 0.005."
        )
    specs = tuple(parse(estimator) for estimator in estimators)
    if not specs:
        raise SpecificationError("estimators is empty: name at least one covariance, such as 'oim'.")
    critical_value(alpha, None)
    began = time.perf_counter()
    study = Study(likelihood, simulate, specs, None, None, seed, alpha)
    first = likelihood if isinstance(likelihood, Likelihood) else study.sampler()(0)
    theta = _truth(first, truth)
    study = Study(likelihood, simulate, specs, theta, first.space.report(theta), seed, alpha)
    step = int(min(max(ROWS // max(first.n_terms, 1), 20), 2000, reps))
    bounds = [(low, min(low + step, reps)) for low in range(0, reps, step)]
    parts: list[Replications] = []
    ended = ""
    for part in _parts(study, bounds, client):
        parts.append(part)
        if precision is None:
            continue
        count = sum(len(p.estimates) for p in parts)
        shares = sum(p.covered.sum(axis=1) for p in parts if len(p.estimates)) / max(count, 1)
        if count >= FEWEST and share_error(shares, count).max() <= precision and len(parts) < len(bounds):
            ended = f"Ended after {count} of {reps} replications: coverages are known to {precision:g}."
            break
    found = Replications.join([p for p in parts if len(p.estimates)] or parts[:1])
    every = sum((p.failures for p in parts), Counter[str]())
    found = Replications(found.estimates, found.std_errors, found.covered, found.rejected, every)
    if len(found.estimates) < 2:
        raise SpecificationError(
            f"no replication could be fitted: {dict(every)}. Look at the truth and at simulate()."
        )
    columns = tuple(spec.column for spec in specs)
    return MonteCarlo(
        first.space.labels,
        columns,
        first.space.report(theta),
        found,
        alpha,
        seed,
        first.n_terms,
        first.facts.name,
        time.perf_counter() - began,
        reps,
        ended,
    )


def _parts(study: Study, bounds: Sequence[tuple[int, int]], client: Any) -> Iterator[Replications]:
    """Yield the batches in order, computed here or by the client's workers, some ahead."""
    if client is None:
        for low, high in bounds:
            yield run_batch(study, low, high)
        return
    ahead = 2 * max(len(client.scheduler_info()["workers"]), 1)
    waiting: deque[Any] = deque()
    for low, high in bounds:
        waiting.append(client.submit(run_batch, study, low, high, pure=False))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _truth(likelihood: Likelihood, truth: Mapping[str, Any] | Array | None) -> Array:
    """Return the truth as theta (k,)."""
    space = likelihood.space
    if truth is None:
        raise SpecificationError(
            f"truth is missing: {{parameter: value}} for {', '.join(p.name for p in space)}, or theta ({space.k},)."
        )
    if isinstance(truth, Mapping):
        unknown = [name for name in truth if name not in [p.name for p in space]]
        absent = [p.name for p in space if p.name not in truth and p.kind.n_free]
        if unknown or absent:
            raise SpecificationError(
                f"truth must give a value for every parameter ({', '.join(p.name for p in space)}); "
                f"missing: {', '.join(absent) or 'none'}, not known: {', '.join(unknown) or 'none'}."
            )
        return space.pack(truth)
    theta = np.asarray(truth, dtype=float)
    if theta.shape != (space.k,):
        raise SpecificationError(
            f"truth has shape {theta.shape}; expected ({space.k},), or a dict of values by name."
        )
    return theta
