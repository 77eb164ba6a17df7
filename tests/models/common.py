"""Checks that every ready-made model passes: derivatives, simulation, recovery."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

from mlecov.errors import MlecovError
from mlecov.likelihood.index import IndexLikelihood
from mlecov.optimize import maximize

Array = npt.NDArray[np.float64]

Z_LIMIT = 5.0
"""Standard errors beyond which a mean is not zero: 6e-7 by chance, per mean."""


def extrapolated(function: Any, x: float, step: float) -> Array:
    """Return df/dx by central differences at four steps, extrapolated to zero (Richardson)."""
    steps = step / 2.0 ** np.arange(4)
    table = [(np.asarray(function(x + h)) - np.asarray(function(x - h))) / (2 * h) for h in steps]
    for j in range(1, len(table)):
        table = [(4.0**j * fine - coarse) / (4.0**j - 1) for coarse, fine in pairwise(table)]
    return np.asarray(table[0])


def check_derivatives(
    likelihood: IndexLikelihood, theta: Array, *, rtol: float = 1e-7, step: float = 0.02
) -> None:
    """Check the closed forms of order 1 and 2 against differences, at every row and predictor.

    Orders must agree too: the value at order 0, 1 and 2 is one value.
    """
    eta = likelihood.predictors(theta, 0, likelihood.n_terms)
    model, columns = likelihood.model, likelihood.columns
    value, first, second = model.derivatives(eta, columns, 2)
    assert first is not None and second is not None
    assert value.shape == eta.shape[1:] and first.shape == eta.shape
    assert second.shape == (len(likelihood.pairs), eta.shape[1])
    for order in (0, 1):
        found = model.derivatives(eta, columns, order)
        np.testing.assert_allclose(found[0], value, rtol=1e-12, atol=1e-12)
        if order:
            assert found[1] is not None
            np.testing.assert_allclose(found[1], first, rtol=1e-12, atol=1e-12)

    def moved(e: int, order: int, shift: float) -> Any:
        there = eta.copy()
        there[e] += shift
        found = model.derivatives(there, columns, order)[order]
        assert found is not None
        return found

    for e in range(len(eta)):
        by_difference = extrapolated(lambda h, e=e: moved(e, 0, h), 0.0, step)
        scale = 1.0 + np.abs(value) + np.abs(first[e])
        np.testing.assert_array_less(
            np.abs(by_difference - first[e]) / scale, rtol, f"first derivative, predictor {e}"
        )
        by_difference = extrapolated(lambda h, e=e: moved(e, 1, h), 0.0, step)
        for p, (left, right) in enumerate(likelihood.pairs):
            if e in (left, right):
                other = right if e == left else left
                scale = 1.0 + np.abs(first[other]) + np.abs(second[p])
                error = np.abs(by_difference[other] - second[p]) / scale
                np.testing.assert_array_less(error, rtol, f"second derivative, predictors {left} and {right}")


def _mean_is_zero(rows: Array, what: str) -> None:
    spread = rows.std() / np.sqrt(len(rows))
    assert abs(rows.mean()) <= Z_LIMIT * spread + 1e-12, f"{what}: mean {rows.mean():.3g}, s.e. {spread:.2g}"


def check_simulation(
    likelihood: IndexLikelihood, theta: Array, *, seed: int = 0, recover: bool = True, equality: bool = True
) -> None:
    """Check on simulated outcomes: scores of mean zero, information equality, expected curvature, recovery.

    `theta` should be a large sample's: the rows are the sample. Every mean is judged by its own
    standard error over the rows; the estimates by the likelihood-ratio quadratic form.
    """
    drawn = likelihood.simulate(np.random.default_rng(seed), theta)
    eta = drawn.predictors(theta, 0, drawn.n_terms)
    _, first, second = drawn.model.derivatives(eta, drawn.columns, 2)
    assert first is not None and second is not None
    for e in range(len(eta)):
        _mean_is_zero(first[e], f"score in predictor {e}")
    if equality:
        for p, (e, f) in enumerate(drawn.pairs):
            _mean_is_zero(first[e] * first[f] + second[p], f"information equality, predictors {e} and {f}")
    if drawn.model.has_expected:
        expected = drawn.model.expected(eta, drawn.columns)
        for p, (e, f) in enumerate(drawn.pairs):
            _mean_is_zero(second[p] - expected[p], f"expected curvature, predictors {e} and {f}")
    if recover:
        optimum = maximize(drawn)
        move = optimum.theta - theta
        distance = float(move @ optimum.evaluation.information @ move)
        assert distance < chdtri(len(theta), 1e-5), (
            f"estimates {optimum.theta} of {theta}: distance {distance:.1f}"
        )


def check_model(likelihood: IndexLikelihood, theta: Array, *, seed: int = 0, **options: Any) -> None:
    """Check a model's closed forms against differences, and its simulation, score and information.

    `likelihood` holds the design and fixed columns (limits, censoring); its outcomes are drawn at
    theta before the derivatives are checked. Options are those of the two checks.
    """
    theta = np.asarray(theta, dtype=float)
    of_derivatives = {key: options.pop(key) for key in ("rtol", "step") if key in options}
    drawn = likelihood.simulate(np.random.default_rng(seed + 1), theta)
    few = drawn.subset(np.arange(min(drawn.n_terms, 400), dtype=np.intp))
    check_derivatives(few, theta, **of_derivatives)
    check_simulation(likelihood, theta, seed=seed, **options)


def check_starts(build: Any, theta: Array, outcome: float, *, samples: int = 100, n: int = 400) -> None:
    """Check that default starts lead to a maximum on simulated samples about theta, of varied designs.

    `build(y, X)` makes the likelihood, X having a constant and two regressors.
    """
    failures = []
    for seed in range(samples):
        rng = np.random.default_rng(seed)
        X = np.column_stack([np.ones(n), rng.standard_normal(n), rng.uniform(-1, 1, n)])
        there = theta + rng.normal(0, 0.15, len(theta))
        likelihood = build(outcome * np.linspace(0.9, 1.1, n), X).simulate(rng, there)
        try:
            optimum = maximize(likelihood)
        except MlecovError as error:
            failures.append(f"{seed}: {type(error).__name__}: {error}"[:200])
            continue
        if not optimum.record.converged:
            failures.append(f"{seed}: {optimum.record.criterion}")
    assert not failures, f"{len(failures)} of {samples} samples: {failures[:5]}"


def check_case(found: Array, expected: Array, digits: float, what: str) -> None:
    """Check numbers against a case's to `digits` significant digits (NaN where the case prints none)."""
    printed = ~np.isnan(expected)
    np.testing.assert_allclose(
        found[printed], expected[printed], rtol=0.6 * 10.0 ** (1 - digits), err_msg=what
    )
