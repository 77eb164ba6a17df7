"""Row models from a user's function: derivatives in the predictors by JAX, or by differences.

The function meets rows in blocks of length one (vmapped), so that nothing can leak between rows.
One kernel per structure gives value, gradient and curvature together; it is compiled for fixed
block sizes (the last block is padded with a valid row and sliced), so a new n never recompiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import autodiff
from mlecov.accurate import accurate
from mlecov.errors import EvaluationError
from mlecov.kinds import Kind
from mlecov.likelihood.index import Columns, RowDerivatives, RowModel, pair_index
from mlecov.likelihood.simulated import simulated
from mlecov.parameters import LinearKind

Array = npt.NDArray[np.float64]
Simulate = Callable[..., Any]

SIZES = (64, 1024, 8192)
"""Block sizes that kernels are compiled for."""

VALUES_BEFORE_OWN_KERNEL = 200
"""Values of order 0 asked for before a kernel of their own is worth compiling."""


@dataclass(frozen=True)
class Signature:
    """How a user's function is called: which arguments are parameters, columns or constants.

    `predictors` gives for each parameter the slice of eta that it is made of.
    """

    function: Callable[..., Any]
    kinds: Mapping[str, Kind]
    predictors: Mapping[str, slice]
    columns: tuple[str, ...]
    constants: Mapping[str, Any]

    def arguments(self, eta: Any, columns: Mapping[str, Any], xp: Any) -> dict[str, Any]:
        """Return the call's arguments for predictors eta (E, b): b rows seen as a block."""
        found: dict[str, Any] = dict(self.constants)
        for name, kind in self.kinds.items():
            part = eta[self.predictors[name]]
            if isinstance(kind, LinearKind):
                found[name] = part.T if kind.equations else part[0]
            else:
                found[name] = kind.value(part[:, 0], xp)
        found.update({name: columns[name] for name in self.columns})
        return found


@dataclass(frozen=True)
class TracedRows(RowModel):
    """A user's function of length-one blocks, differentiated by JAX in its E predictors."""

    signature: Signature
    n_equations: int
    simulator: Simulate | None = None
    kernels: dict[tuple[int, int], Any] = field(default_factory=dict, repr=False, compare=False)
    calls: dict[int, int] = field(default_factory=dict, repr=False, compare=False)
    thread_safe = False  # XLA has threads of its own

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "kernels": {},
            "calls": {},
        }  # compiled programs do not travel; they are loaded again

    def row_function(self) -> Callable[[Any, Any], Any]:
        """Return f(eta (E, b), columns) -> (b,), the function vmapped over rows seen one at a time."""
        jax, jnp = autodiff.jax(), autodiff.jnp()

        def one(eta: Any, columns: Any) -> Any:
            block = {name: value[None] for name, value in columns.items()}
            result = jnp.asarray(
                self.signature.function(**self.signature.arguments(eta[:, None], block, jnp))
            )
            if result.shape != (1,):
                raise EvaluationError(
                    f"the log-likelihood returned shape {result.shape} for a block of one row; expected (1,), one "
                    "value per row. Return the contributions, neither their sum nor a column."
                )
            return result[0]

        return lambda eta, columns: jax.vmap(one, in_axes=(1, 0))(eta, columns)

    def _kernel(self, size: int, order: int, columns: Columns) -> Any:
        """Return the compiled kernel for blocks of `size` rows: order 0, or 2 (all at once).

        A value alone is read off the kernel of order 2 until many have been asked for.
        """
        self.calls[order] = self.calls.get(order, 0) + 1
        order = 2 if order or self.calls.get(0, 0) < VALUES_BEFORE_OWN_KERNEL else 0
        if (size, order) not in self.kernels:
            jax, jnp = autodiff.jax(), autodiff.jnp()
            example = (
                jax.ShapeDtypeStruct((self.n_equations, size), np.float64),
                {
                    name: jax.ShapeDtypeStruct((size, *values.shape[1:]), np.float64)
                    for name, values in columns.items()
                },
            )
            closed = autodiff.trace(self.row_function(), *example)
            rows = accurate(self.row_function())
            pairs = pair_index(self.n_equations)

            def kernel(eta: Any, data: Any) -> Any:
                if not order:
                    return (rows(eta, data),)

                def slope(e: Any) -> Any:
                    def total(q: Any) -> Any:
                        terms = rows(q, data)
                        return terms.sum(), terms

                    return jax.grad(total, has_aux=True)(e)

                first, push, value = jax.linearize(slope, eta, has_aux=True)
                columns_of = [push(jnp.zeros_like(eta).at[f].set(1.0)) for f in range(self.n_equations)]
                return value, first, jnp.stack([columns_of[f][e] for e, f in pairs])

            if autodiff.has_custom_rules(closed):  # their derivatives show in the kernel's own program
                closed = autodiff.trace(kernel, *example)
            key = autodiff.program_key(closed, "rows", size, order)
            self.kernels[size, order] = autodiff.compile_and_keep(kernel, example, key)
        return self.kernels[size, order]

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        n = eta.shape[1]
        size = next((s for s in SIZES if s >= n), SIZES[-1])
        used = {name: columns[name] for name in self.signature.columns}
        kernel = self._kernel(size, order, used)
        value = np.empty(n)
        first = np.empty((self.n_equations, n)) if order else None
        second = np.empty((self.n_equations * (self.n_equations + 1) // 2, n)) if order > 1 else None
        with autodiff.x64():
            for start in range(0, n, size):
                stop = min(start + size, n)
                part = _padded(eta.T[start:stop], size).T
                block = {name: _padded(values[start:stop], size) for name, values in used.items()}
                result = kernel(np.ascontiguousarray(part), block)
                value[start:stop] = np.asarray(result[0])[: stop - start]
                if first is None:
                    continue
                first[:, start:stop] = np.asarray(result[1])[:, : stop - start]
                if second is not None:
                    second[:, start:stop] = np.asarray(result[2])[:, : stop - start]
        return value, first, second

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return run_simulator(self.simulator, self.signature, rng, eta, columns)


def _padded(rows: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return `rows` (b, ...) as (size, ...), the last row repeated."""
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.broadcast_to(rows[-1:], (size - len(rows), *rows.shape[1:]))])


@dataclass(frozen=True)
class NumericRows(RowModel):
    """A numpy function of rows, differentiated in its E predictors by extrapolated differences.

    Only E(E+1)/2 differences are taken whatever the number of columns, all rows at once. Central
    differences at steps h, h/2, h/4, h/8 are extrapolated (Ridders 1982); each row keeps the
    column of its tableau with the smallest change.
    """

    signature: Signature
    n_equations: int
    simulator: Simulate | None = None
    thread_safe = False

    def value(self, eta: Array, columns: Columns) -> Array:
        """Return l (b,)."""
        used = {name: columns[name] for name in self.signature.columns}
        arguments = self.signature.arguments(eta, used, np)
        result = np.asarray(self.signature.function(**arguments), dtype=float)
        if result.shape != (eta.shape[1],):
            raise EvaluationError(
                f"the log-likelihood returned shape {result.shape} for {eta.shape[1]} rows; expected "
                f"({eta.shape[1]},), one value per row."
            )
        return result

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        value = self.value(eta, columns)
        if not order:
            return value, None, None
        count = self.n_equations
        scale = np.maximum(np.abs(eta), 1.0)

        def at(*moves: tuple[int, Array]) -> Array:
            moved = eta.copy()
            for e, move in moves:
                moved[e] += move
            return self.value(moved, columns)

        first = np.empty((count, eta.shape[1]))
        for e in range(count):

            def slope(h: float, e: int = e) -> Array:
                step = h * scale[e]
                return np.asarray((at((e, step)) - at((e, -step))) / (2 * step))

            first[e] = extrapolate(slope, 0.1)
        if order < 2:
            return value, first, None
        second = np.empty((count * (count + 1) // 2, eta.shape[1]))
        for p, (e, f) in enumerate(pair_index(count)):

            def bend(h: float, e: int = e, f: int = f) -> Array:
                return _mixed(at, value, e, f, h, scale)

            second[p] = extrapolate(bend, 0.2)
        return value, first, second

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        return run_simulator(self.simulator, self.signature, rng, eta, columns)


def _mixed(at: Callable[..., Array], value: Array, e: int, f: int, h: float, scale: Array) -> Array:
    """Return the second difference of l in predictors e and f at relative step h."""
    step_e, step_f = h * scale[e], h * scale[f]
    if e == f:
        return np.asarray((at((e, step_e)) - 2 * value + at((e, -step_e))) / step_e**2)
    plus = at((e, step_e), (f, step_f)) + at((e, -step_e), (f, -step_f))
    minus = at((e, step_e), (f, -step_f)) + at((e, -step_e), (f, step_f))
    return np.asarray((plus - minus) / (4 * step_e * step_f))


def extrapolate(difference: Callable[[float], Array], step: float, levels: int = 6) -> Array:
    """Return the limit h -> 0 of a difference quotient with an even error expansion.

    Richardson's tableau with step ratio 2; each entry takes the tableau's value that changed least
    from its neighbours (Ridders 1982). A step at which the quotient is not finite is passed over.
    """
    with np.errstate(all="ignore"):
        rows: list[list[Array]] = []
        best = np.asarray(difference(step), dtype=float)
        error = np.full(best.shape, np.inf)
        rows.append([best])
        for i in range(1, levels):
            row = [np.asarray(difference(step / 2**i), dtype=float)]
            for j in range(1, i + 1):
                ratio = 4.0**j
                row.append((ratio * row[j - 1] - rows[i - 1][j - 1]) / (ratio - 1))
                change = np.maximum(np.abs(row[j] - row[j - 1]), np.abs(row[j] - rows[i - 1][j - 1]))
                better = (change < error) | (~np.isfinite(best) & np.isfinite(row[j]))
                best = np.where(better, row[j], best)
                error = np.where(better & np.isfinite(change), change, error)
            rows.append(row)
    return best


def run_simulator(
    simulator: Simulate | None, signature: Signature, rng: np.random.Generator, eta: Array, columns: Columns
) -> dict[str, Array]:
    """Return the outcome columns drawn by the user's `simulate(rng, **arguments)`."""
    if simulator is None:
        return RowModel.simulate(TracedRows(signature, len(eta)), rng, eta, columns)
    return simulated(simulator, rng, signature.arguments(eta, columns, np), columns)
