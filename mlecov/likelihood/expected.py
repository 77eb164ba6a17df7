"""Expected information from what the user knows: a matrix, row curvatures, or two moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import autodiff
from mlecov.data import Weights
from mlecov.errors import SpecificationError, listing
from mlecov.likelihood.general import Call
from mlecov.likelihood.traced import extrapolate
from mlecov.parameters import LinearKind, ParameterSpace

Array = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]


def expected_information(
    own: Callable[[Array, Columns], Any] | None,
    moments: Sequence[Callable[..., Any]] | None,
    blocks: Sequence[Sequence[str]] | None,
    call: Call,
    columns: Columns,
    weights: Weights | None,
) -> Callable[[Array], Array]:
    """Return the function theta -> expected information (K, K) on the free scale.

    With `own`, J' I J for a matrix I (m, m) on the user's scale, or the sum over rows of expected
    curvatures {(a, b): (n,)} of predictors a and b times their designs (the expected score is zero,
    so no second derivative of a transform enters).

    With `moments` m and h (mean and variance given the past), that of the Gaussian quasi-likelihood,

        sum_i [ dm dm' / h + dh dh' / (2 h^2) ]        (Bollerslev & Wooldridge 1992),

    with zeros between the groups of parameters named in `blocks`.
    """
    if own is not None:
        return lambda theta: _from_own(own(theta, columns), theta, call, columns, weights)
    if moments is None or len(moments) != 2 or not all(callable(m) for m in moments):
        raise SpecificationError("moments= takes two functions: (mean, variance), each returning (n,).")
    mask = _block_mask(call.space, blocks)
    mean, variance = moments
    return lambda theta: mask * _gaussian(mean, variance, theta, call, columns, weights)


def _from_own(given: Any, theta: Array, call: Call, columns: Columns, weights: Weights | None) -> Array:
    space = call.space
    jacobian = space.jacobian(theta)
    if not isinstance(given, Mapping):
        matrix = np.asarray(given, dtype=float)
        if matrix.shape != (space.m, space.m):
            raise SpecificationError(
                f"information returned shape {matrix.shape}; expected ({space.m}, {space.m}), in the order "
                f"{listing(space.labels)}."
            )
        return np.asarray(jacobian.T @ matrix @ jacobian)
    total = np.zeros((space.m, space.m))
    w = None if weights is None else weights.values
    for (a, b), rows in given.items():
        left, right = _design(space, a, columns, call), _design(space, b, columns, call)
        curvature = np.asarray(rows, dtype=float) if w is None else np.asarray(rows, dtype=float) * w
        block = left.T @ (np.broadcast_to(curvature, (len(left),))[:, None] * right)
        total[space[a].reported, space[b].reported] = block
        total[space[b].reported, space[a].reported] = block.T
    return np.asarray(jacobian.T @ total @ jacobian)


def _design(space: ParameterSpace, name: str, columns: Columns, call: Call) -> Array:
    """Return the (n, p) rows d predictor / d parameter: the design, or ones for a scalar."""
    if isinstance(space[name].kind, LinearKind):
        return np.asarray(columns[call.designs[name]])
    n = len(next(iter(columns.values())))
    return np.ones((n, space[name].kind.n_reported))


def _block_mask(space: ParameterSpace, blocks: Sequence[Sequence[str]] | None) -> Array:
    mask = np.ones((space.n_raw, space.n_raw))
    if blocks is None:
        return mask
    group = {name: g for g, names in enumerate(blocks) for name in names}
    unnamed = [p.name for p in space if p.kind.n_free and p.name not in group]
    unknown = [name for name in group if name not in [p.name for p in space]]
    if unnamed or unknown:
        raise SpecificationError(
            f"blocks= must name every parameter once: missing {listing(unnamed) or 'none'}, unknown "
            f"{listing(unknown) or 'none'}."
        )
    for p in space:
        for q in space:
            if p.kind.n_free and q.kind.n_free and group[p.name] != group[q.name]:
                mask[p.free, q.free] = 0.0
    return mask


def _gaussian(
    mean: Callable[..., Any],
    variance: Callable[..., Any],
    theta: Array,
    call: Call,
    columns: Columns,
    weights: Weights | None,
) -> Array:
    m, m_slope = moment(mean, theta, call, columns)
    h, h_slope = moment(variance, theta, call, columns)
    del m
    w = 1.0 if weights is None else weights.values
    return np.asarray((m_slope.T * (w / h)) @ m_slope + (h_slope.T * (w / (2 * h**2))) @ h_slope)


def moment(function: Callable[..., Any], theta: Array, call: Call, columns: Columns) -> tuple[Array, Array]:
    """Return a conditional moment (n,) and its derivative (n, K) at theta."""
    own = replace(call, function=named_call(function), drop_first=0)

    def value(raw: Any, xp: Any) -> Any:
        found = xp.asarray(own.function(**own.arguments(raw, columns, xp)))
        n = len(next(iter(columns.values())))
        found = xp.broadcast_to(found, (n,)) if found.ndim == 0 else found
        return found[call.drop_first :] if len(found) == n else found

    if autodiff.traceable(lambda u: value(u, autodiff.jnp()), theta):
        found, slope = autodiff.value_and_jacobian(lambda u: value(u, autodiff.jnp()), theta)
        return found, slope
    slopes = np.empty((len(value(theta, np)), len(theta)))
    for j in range(len(theta)):
        step = 0.02 * max(abs(theta[j]), 1.0)
        unit = np.zeros(len(theta))
        unit[j] = step

        def quotient(h: float, unit: Array = unit, step: float = step) -> Array:
            up, down = np.asarray(value(theta + h * unit, np)), np.asarray(value(theta - h * unit, np))
            return np.asarray((up - down) / (2 * h * step))

        slopes[:, j] = extrapolate(quotient, 1.0)
    return np.asarray(value(theta, np), dtype=float), slopes


def named_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` taking any keyword, passing on those that it names."""
    import_names = function.__code__.co_varnames[
        : function.__code__.co_argcount + function.__code__.co_kwonlyargcount
    ]

    def call(**arguments: Any) -> Any:
        return function(**{name: arguments[name] for name in import_names if name in arguments})

    return call
