"""Is a function traceable, and are its rows separate? Found out, never assumed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import autodiff
from mlecov.errors import (
    EvaluationError,
    NumericDerivativeWarning,
    SeparabilityError,
    SpecificationError,
    listing,
    warn,
)
from mlecov.likelihood.general import Call

Array = npt.NDArray[np.float64]

CHECKED = 64
"""Consecutive rows on which separability is verified."""


def traceable(call: Call, raw: Array, columns: Mapping[str, Any], n: int) -> bool:
    """Tell whether JAX can trace the function; refuse values of single precision inside it."""
    if not uses_jax(call.function):
        _warn_numeric(call.function, "it does not use jax")
        return False
    try:
        closed = autodiff.trace(lambda u, data: call(u, data, autodiff.jnp(), n), raw, dict(columns))
        kind = closed.out_avals[0].dtype
        if kind.kind != "f":
            raise EvaluationError(
                f"the log-likelihood returned values of type {kind}; expected real numbers (float64). Take the real part, "
                "or look for a comparison where an arithmetic expression was meant."
            )
    except EvaluationError:
        raise
    except Exception as error:
        if not autodiff.is_tracer_error(error):
            raise
        _warn_numeric(call.function, f"{type(error).__name__}")
        return False
    low = autodiff.single_precision(closed)
    if low:
        raise SpecificationError(
            f"the function computes in less than double precision: {listing(low, 3)}. Seven digits are too few for "
            "standard errors; make its constants float64 (numpy arrays, or pass them through constants={...})."
        )
    return True


def _warn_numeric(function: Callable[..., Any], why: str) -> None:
    warn(
        f"{getattr(function, '__name__', 'the function')} can not be traced by JAX ({why}): derivatives are had by "
        "extrapolated differences, slower and less exact. Write it with jax.numpy, or give score=.",
        NumericDerivativeWarning,
    )


def uses_jax(function: Callable[..., Any], depth: int = 3) -> bool:
    """Tell whether a function, or one that it calls by a global or closed-over name, refers to jax."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return True
    names = {*code.co_names}
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names |= set(constant.co_names)
    scope = getattr(function, "__globals__", {})
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    for value in [scope.get(name) for name in names] + cells:
        module = (
            getattr(value, "__name__", "") if inspect.ismodule(value) else getattr(value, "__module__", "")
        )
        if str(module).startswith(("jax", "mlecov.functions", "mlecov.autodiff")):
            return True
        if depth and inspect.isfunction(value) and value is not function and uses_jax(value, depth - 1):
            return True
    # Plain arithmetic on the arguments alone traces as well; it costs nothing to try.
    return not any(inspect.ismodule(scope.get(name)) for name in names)


def verify_rows(
    call: Call, columns: Mapping[str, Any], n_terms: int, is_traceable: bool, demanded: bool
) -> bool:
    """Tell whether rows are separate: f(rows)[i] equals f(row i alone) at two interior points.

    A run of up to CHECKED consecutive rows is compared, so a recursion or a mean shows. The points
    are drawn around the start with a fixed seed, never the start itself: a first-order
    autoregression passes at rho = 0.
    """
    count = min(n_terms, CHECKED)
    few = {key: values[:count] for key, values in columns.items()}
    start = call.space.raw(call.space.start())
    compare = (
        _traced_comparison(call, start, few, count) if is_traceable else _plain_comparison(call, few, count)
    )
    rng = np.random.default_rng(1974)
    agreed = 0
    for attempt in range(12):
        spread = 0.5 / 2 ** (attempt // 2)
        raw = start + spread * rng.standard_normal(len(start)) * np.maximum(np.abs(start), 0.2)
        found = compare(raw) if compare is not None else None
        if found is None:
            different = np.ones(count, dtype=bool)
        else:
            whole, alone = found
            if not (np.isfinite(whole) & np.isfinite(alone)).any():
                continue
            scale = np.abs(whole) + np.abs(alone) + 1.0
            with np.errstate(invalid="ignore"):
                different = (np.abs(whole - alone) > 1e-9 * scale) | (
                    np.isfinite(whole) != np.isfinite(alone)
                )
        if different.any():
            if demanded:
                raise SeparabilityError(
                    f"separable=True, but the contribution of row {np.flatnonzero(different)[0]} depends on other "
                    "rows: alone it is another number than among them. Leave separable= out (a time series or a "
                    "panel is fitted as one), or use unit= where terms span rows."
                )
            return False
        agreed += 1
        if agreed == 2:
            return True
    return agreed > 0


Comparison = Callable[[Array], tuple[Array, Array] | None]


def _traced_comparison(call: Call, raw: Array, columns: Mapping[str, Any], count: int) -> Comparison | None:
    """Return raw -> (f(rows), f(each row alone)), one compiled and kept program; None if a row alone fails."""
    jax, jnp = autodiff.jax(), autodiff.jnp()

    def both(u: Any, data: Any) -> Any:
        def alone(row: Any) -> Any:
            return call(u, {key: value[None] for key, value in row.items()}, jnp, 1)[0]

        return call(u, data, jnp, count), jax.vmap(alone)(data)

    used = {key: columns[key] for key in dict.fromkeys(call.all_columns)}
    try:
        closed = autodiff.trace(both, raw, used)
    except Exception:  # e.g. a recursion that needs two rows, or closed-over arrays of n rows
        return None
    program = autodiff.compile_and_keep(both, (raw, used), autodiff.program_key(closed, "separable"))

    def compare(u: Array) -> tuple[Array, Array]:
        with autodiff.x64():
            whole, alone = program(u, used)
        return np.asarray(whole), np.asarray(alone)

    return compare


def _plain_comparison(call: Call, columns: Mapping[str, Any], count: int) -> Comparison:
    """Return raw -> (f(rows), f(each row alone)) for a function of numpy arrays."""

    def compare(raw: Array) -> tuple[Array, Array] | None:
        found = np.empty(count)
        with np.errstate(all="ignore"):
            for i in range(count):
                part = {key: values[i : i + 1] for key, values in columns.items()}
                try:
                    result = np.asarray(call.function(**call.arguments(raw, part, np)), dtype=float)
                except Exception:  # e.g. a recursion that needs two rows
                    return None
                if result.shape != (1,):
                    return None
                found[i] = result[0]
            try:
                whole = np.asarray(call(raw, columns, np, count))
            except EvaluationError:
                raise
            except Exception:  # closed-over arrays of n rows
                return None
        return whole, found

    return compare
