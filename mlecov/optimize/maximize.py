"""maximize(): start, iterate, polish, and say honestly what was reached."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.errors import (
    BoundaryWarning,
    ConvergenceError,
    ConvergenceWarning,
    IdentificationError,
    IdentificationWarning,
    MlecovError,
    SeparationError,
    SpecificationError,
    suggestion,
    warn,
)
from mlecov.likelihood.base import Evaluation, Likelihood, require_finite
from mlecov.linalg import describe_direction, describe_singular
from mlecov.optimize.bounds import at_bounds, sentence
from mlecov.optimize.checkpoint import Checkpoint
from mlecov.optimize.newton import Loop, direction, evaluate, newton_loop
from mlecov.optimize.quasi_newton import METHODS, minimize_negative
from mlecov.optimize.record import Monitor
from mlecov.optimize.separation import find_separation
from mlecov.optimize.start import first_evaluation, improve
from mlecov.optimum import Optimum, Record, Step
from mlecov.parameters import LinearKind, restriction

Array = npt.NDArray[np.float64]
Method = str | Sequence[str | int]

NEWTON_METHODS = ("newton", "fisher", "bhhh")
CONVERGED = 1e-10
"""g' I^-1 g below which a point counts as the maximum (twice the log-likelihood still to gain)."""
POLISHED = 1e-20
ILL_CONDITIONED = 1e12
"""Condition number of the scaled information from which standard errors lose digits."""
MANY_TERMS = 100_000
"""Terms from which a fit on a random fraction of them comes first."""


def parse_method(method: Method) -> list[tuple[str, int | None]]:
    """Return [(name, iterations or None), ...] for "newton" or a sequence such as ("bhhh", 5, "newton")."""
    parts = [method] if isinstance(method, str) else list(method)
    known = [*NEWTON_METHODS, *METHODS]
    found: list[tuple[str, int | None]] = []
    for part in parts:
        if isinstance(part, str):
            name = {"nr": "newton", "newton-raphson": "newton", "lbfgs": "l-bfgs-b", "nm": "nelder-mead"}.get(
                part.lower(), part.lower()
            )
            if name not in known:
                raise SpecificationError(f"method {part!r} is not known.{suggestion(part, known)}")
            found.append((name, None))
        elif found and isinstance(part, int) and part > 0:
            found[-1] = (found[-1][0], part)
        else:
            raise SpecificationError(
                f"method {method!r} can not be read; expected names, each followed by how many iterations, "
                "such "
                'as ("bhhh", 5, "newton").'
            )
    if not found:
        raise SpecificationError(f"method is empty; expected one of {', '.join(known)}.")
    return found


def maximize(
    likelihood: Likelihood,
    *,
    method: Method = "newton",
    start: Mapping[str, Any] | Array | None = None,
    constraints: str | Sequence[str] = (),
    fixed: Mapping[str, Any] | None = None,
    max_iter: int = 200,
    polish: bool = True,
    trace: bool | Callable[[Step], None] = False,
    progress: bool | None = None,
    check: bool = True,
    resume: Any = None,
) -> Optimum:
    """Return the maximum of a likelihood, with its evaluation (order 2, scores) and record.

    Parameters
    ----------
    method :
        "newton" (observed information), "fisher" (expected), "bhhh" (outer product of gradients),
        one of scipy's ("bfgs", "l-bfgs-b", "nelder-mead", "trust-constr", ...), or a sequence that
        switches: ("bhhh", 5, "newton").
    start :
        Start values: {name: value on the user's scale} or theta (k,).
    constraints, fixed :
        Equalities between parameters as text, and values: see `restriction`.
    polish :
        After any method, exact Newton steps until g' I^-1 g <= 1e-20 or it stops falling.
    resume :
        Path of a small file that holds the state after every iteration; where it exists, go on from it.

    Raises
    ------
    ConvergenceError, IdentificationError, SeparationError, EvaluationError, SupportError
        Where there is no maximum to return; the message says what was found.

    Warns
    -----
    ConvergenceWarning
        Where the method stopped before its criterion held; `record.converged` is then False.
    """
    plan = parse_method(method)
    restricted = restriction(likelihood.space, constraints, fixed)
    if restricted is not None:
        likelihood = likelihood.restricted(*restricted)
    if likelihood.n_terms < likelihood.space.k:
        raise IdentificationError(
            f"{likelihood.n_terms} terms can not identify {likelihood.space.k} parameters "
            f"({', '.join(likelihood.space.free_labels[:8])}...). Give more data or fix parameters."
        )
    state = None if resume is None else Checkpoint.open(resume, likelihood)
    monitor = Monitor(trace, progress, checkpoint=state)
    begin = start if state is None or state.theta is None else state.theta
    theta, declared = _start(likelihood, begin, plan)
    if check:
        likelihood.check_derivatives(theta)
    try:
        # trial points overflow on the way; what counts is whether the point accepted is finite
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            evaluation = first_evaluation(likelihood, theta, declared)
            if state is not None:
                state.verify(evaluation)
                state.save(evaluation.theta, evaluation.loglike)
            _refuse_collinear(likelihood, evaluation)
            loop = _run(likelihood, evaluation, plan, monitor, max_iter)
            return _finish(likelihood, loop, evaluation.theta, plan, monitor, polish)
    finally:
        monitor.close()


def _start(
    likelihood: Likelihood, start: Mapping[str, Any] | Array | None, plan: list[tuple[str, int | None]]
) -> tuple[Array, bool]:
    """Return the start as theta and whether the user gave it."""
    if isinstance(start, Mapping):
        return likelihood.space.pack(start, likelihood.start()), True
    if start is not None:
        theta = np.asarray(start, dtype=float)
        if theta.shape != (likelihood.space.k,):
            raise SpecificationError(
                f"start has shape {theta.shape}; expected ({likelihood.space.k},), in the order "
                f"{', '.join(likelihood.space.free_labels)}; or a dict of values by name."
            )
        return theta.copy(), True
    nearer = _fraction_start(likelihood, plan)
    if nearer is not None:
        return nearer, False
    theta = likelihood.start()
    given = any(
        p.kind.start is not None and p.kind.n_free and not _is_default(p.kind) for p in likelihood.space
    )
    if not given and getattr(likelihood.unrestricted, "start_values", None) is None:
        names = likelihood.space.free_labels
        linear = {
            label
            for p in likelihood.space
            if isinstance(p.kind, LinearKind)
            for label in p.kind.labels(p.name)
        }
        constants = [j for j, name in enumerate(names) if name not in linear or name.endswith("[Intercept]")]
        if constants and len(constants) <= 40:
            theta = improve(likelihood.stand_in(), theta, np.array(constants, dtype=np.intp))
    return theta, given


def _fraction_start(likelihood: Likelihood, plan: list[tuple[str, int | None]]) -> Array | None:
    """Return the maximum of a random fraction of many separable terms, None where it does not serve.

    It lies within a few of its own standard errors, from where Newton needs two or three full
    passes instead of five or more.
    """
    n, k = likelihood.n_terms, likelihood.space.k
    count = max(n // 40, 500 * k)
    if not likelihood.separable or likelihood.rows.unit is not None or n < MANY_TERMS or count > n // 4:
        return None
    if plan[0][0] != "newton":
        return None
    try:
        part = likelihood.stand_in()
        if part is likelihood:
            # one term at random out of each of `count` runs of neighbours
            chosen = (np.arange(count) + np.random.default_rng(0).random(count)) * (n / count)
            part = likelihood.subset(np.minimum(chosen.astype(np.intp), n - 1))
        first = part.evaluate(part.start(), order=3 if part.knows_third else 2)
        loop = newton_loop(part, first, "newton", Monitor(), 20, 1e-6)
    except MlecovError:  # the fraction may lack a category or variation
        return None
    theta = loop.evaluation.theta
    return theta if loop.converged and np.isfinite(theta).all() else None


def _is_default(kind: Any) -> bool:
    """Tell whether a kind's start is the one of a bare declaration (0, positive() at 1, ...)."""
    return bool(np.all(kind.start_free() == kind.default_free()))


def _refuse_collinear(likelihood: Likelihood, evaluation: Evaluation) -> None:
    if evaluation.factor is not None:
        return
    sentence = likelihood.singular_columns()
    if sentence is not None:
        raise IdentificationError(f"the design has {sentence} Drop one of the columns named.")


def _run(
    likelihood: Likelihood,
    evaluation: Evaluation,
    plan: list[tuple[str, int | None]],
    monitor: Monitor,
    max_iter: int,
) -> Loop:
    """Run the methods of the plan in turn, cycling, until one converges or max_iter is used up."""
    left = max_iter
    turn = 0
    loop = Loop(evaluation, np.inf, "", False)
    while left > 0:
        name, count = plan[turn % len(plan)]
        count = min(left, count or left)
        before = len(monitor.steps)
        if name in NEWTON_METHODS:
            if name != "newton" or loop.evaluation.hessian is None:
                evaluation = evaluate(likelihood, loop.evaluation.theta, name, False, monitor)
            else:
                evaluation = loop.evaluation
            loop = newton_loop(likelihood, evaluation, name, monitor, count, CONVERGED)
        else:
            scale = max(likelihood.n_obs, 1.0)
            theta, success, message = minimize_negative(
                likelihood, loop.evaluation.theta, name, monitor, count, scale
            )
            loop = Loop(
                likelihood.evaluate(theta, order=2), np.inf, f"scipy's {name}: {message.rstrip('.')}", success
            )
        left -= max(len(monitor.steps) - before, count if plan[turn % len(plan)][1] else 1)
        turn += 1
        if loop.converged or len(plan) == 1:
            break
    return loop


def _finish(
    likelihood: Likelihood,
    loop: Loop,
    start: Array,
    plan: list[tuple[str, int | None]],
    monitor: Monitor,
    polish: bool,
) -> Optimum:
    polished = False
    evaluation = loop.evaluation
    if evaluation.hessian is None:
        evaluation = likelihood.evaluate(evaluation.theta, order=2)
    require_finite(likelihood, evaluation, "where the optimiser stopped")
    limit = "iteration limit" in loop.reason
    if polish and not limit:
        _refuse_flat(likelihood, evaluation)
        count = 12 if loop.converged else 30
        final = newton_loop(likelihood, evaluation, "newton", monitor, count, POLISHED)
        evaluation, polished = final.evaluation, True
    if evaluation.scores is None or evaluation.hessian is None:
        evaluation = likelihood.evaluate(evaluation.theta, order=2, scores=True)
        monitor.evaluations += 1
    if evaluation.third is not None:
        evaluation = replace(evaluation, third=None)
    assert evaluation.gradient is not None
    _, decrement, definite = direction(likelihood, evaluation, "newton")
    diagonal = np.sqrt(np.abs(np.diag(evaluation.information))) + 1e-300
    gradient = float(np.max(np.abs(evaluation.gradient) / diagonal, initial=0.0))
    converged = (
        definite and decrement <= CONVERGED and gradient <= 1e-4 and not (limit and not loop.converged)
    )
    method = "+".join(name for name, _ in plan) + (
        "+newton polish" if polished and plan[-1][0] != "newton" else ""
    )
    criterion = f"g' I^-1 g = {decrement:.2g}" if converged else loop.reason
    record = Record(
        converged,
        criterion,
        method,
        len(monitor.steps),
        monitor.evaluations,
        decrement,
        gradient,
        polished,
        time.perf_counter() - monitor.began,
        start,
        tuple(monitor.steps),
    )
    said = None
    if np.isfinite(evaluation.loglike):
        said = likelihood.boundary(evaluation) or sentence(at_bounds(likelihood, evaluation))
        said = None if said is None else f"{likelihood.facts.name}: {said}"
    _judge(likelihood, evaluation, record, definite, said)
    if said is not None:
        warn(said, BoundaryWarning)
    likelihood.check_final(evaluation)
    return Optimum(likelihood, evaluation.theta, evaluation, record)


def _refuse_flat(likelihood: Likelihood, evaluation: Evaluation) -> None:
    """Raise SeparationError where the likelihood rises for ever along a direction."""
    found = find_separation(likelihood, evaluation.theta, evaluation.scores)
    if found is None or set(np.flatnonzero(found.direction)) <= set(at_bounds(likelihood, evaluation)):
        return  # a range that ends is no separation
    raise SeparationError(
        f"the maximum does not exist: {found.sentence()}, and the log-likelihood keeps rising along it. "
        "Drop or "
        "combine the columns named, or use bias_reduced(likelihood), whose estimates are finite."
    )


def _judge(
    likelihood: Likelihood, evaluation: Evaluation, record: Record, definite: bool, said: str | None
) -> None:
    """Raise or warn where the point is no maximum; `said` is what the likelihood tells of bounds there."""
    if not definite and "iteration limit" not in record.criterion:
        message = describe_singular(
            evaluation.information, likelihood.space.free_labels, "the observed information at the last point"
        )
        flat = likelihood.singular_columns()
        reasons = (f"The design has {flat}" if flat else None, said)
        raise IdentificationError("\n".join([message, *(reason for reason in reasons if reason)]))
    if record.converged:
        _warn_near_singular(likelihood, evaluation)
        return
    if not np.isfinite(evaluation.loglike):
        raise ConvergenceError(f"the optimiser ended at a log-likelihood of {evaluation.loglike}.")
    advice = "raise max_iter, give start values, or try another method"
    if len(record.steps) > 20 and record.decrement > 0.5 * record.steps[0].decrement:
        names = likelihood.space.free_labels
        far = sorted(range(len(names)), key=lambda j: -abs(evaluation.theta[j]))[:3]
        advice = (
            f"the log-likelihood keeps rising with {', '.join(names[j] for j in far)}, so it may have no "
            "maximum: look at "
            "its sign and for parameters that it does not bound"
        )
    warn(
        f"not converged after {record.iterations} iterations: {record.criterion}; g' I^-1 g = "
        f"{record.decrement:.3g}. Standard errors at this point mean nothing; {advice}.",
        ConvergenceWarning,
    )


def _warn_near_singular(likelihood: Likelihood, evaluation: Evaluation) -> None:
    """Warn where the scaled information has a condition number of which double precision loses most "
    "digits."""
    found = evaluation.factor
    if (
        found is None
        or found.lower.diagonal().min(initial=1.0) ** 2 > 1e-9
        or found.condition < ILL_CONDITIONED
    ):
        return
    _, vectors = np.linalg.eigh(found.lower @ found.lower.T)
    worst = np.where(np.abs(vectors[:, 0]) < 1e-4, 0.0, vectors[:, 0]) * found.scale
    text = describe_direction(worst / np.abs(worst).max(), likelihood.space.free_labels)
    warn(
        f"the information is close to singular (condition number {found.condition:.2g} after scaling): "
        "hardly any "
        f"information along {text}. Standard errors in that direction hold to few digits; drop or combine "
        "the "
        "parameters named, or see fit.diagnose().",
        IdentificationWarning,
    )
