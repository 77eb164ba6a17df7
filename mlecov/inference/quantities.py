"""Quantities that are predicted: predictors, means, and any function of parameters and data.

A `Setting` is a set of rows at which something is predicted; a `Quantity` turns theta and a setting
into one number per row, with derivatives in theta and along a change of the data.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import autodiff
from mlecov.covariance.covariance import Covariance
from mlecov.data import Rows, numeric, open_table, screen
from mlecov.errors import DataError, SpecificationError, listing, suggestion
from mlecov.formulas import Block, columns_used, rebuild
from mlecov.inference.delta import differentiate, theta_steps
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.index import IndexLikelihood, pair_index
from mlecov.likelihood.traced import extrapolate
from mlecov.models.base import Model
from mlecov.optimum import Optimum
from mlecov.parameters import LinearKind, ParameterSpace
from mlecov.separable import uses_jax

pd = lazy("pandas")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Setting:
    """Rows at which something is predicted: designs and offsets of the linear parameters, columns.

    As a `tangent` the same fields hold derivatives along a change of one variable.
    """

    designs: Mapping[str, Array]
    offsets: Mapping[str, Array]
    columns: Mapping[str, npt.NDArray[Any]]
    n: int
    rows: Rows | None = None

    def column(self, name: str) -> Array:
        """Return a numeric column (n,)."""
        if name in self.columns:
            return np.asarray(self.columns[name], dtype=float)
        assert self.rows is not None
        return self.rows.column(name)

    def __contains__(self, name: str) -> bool:
        return name in self.columns or (self.rows is not None and name in self.rows.table)


def blocks_of(likelihood: Likelihood) -> dict[str, Block]:
    """Return the designs of the linear parameters by name."""
    return dict(likelihood.unrestricted.facts.extra.get("blocks", {}))


def own_setting(likelihood: Likelihood) -> Setting:
    """Return the rows that the likelihood was fitted to."""
    rows, base = likelihood.rows, likelihood.unrestricted
    blocks = {
        name: block if block.matrix.shape[0] == rows.n_rows else rebuild(block, rows)  # a choice of terms
        for name, block in blocks_of(likelihood).items()
    }
    columns = dict(base.columns) if isinstance(base, IndexLikelihood) else {}
    return _of_blocks(blocks, columns, rows)


def _of_blocks(blocks: Mapping[str, Block], columns: Mapping[str, Any], rows: Rows) -> Setting:
    designs = {
        name: np.asarray(b.matrix if b.is_dense else b.matrix.toarray(), dtype=float)
        for name, b in blocks.items()
    }
    offsets = {name: b.offset for name, b in blocks.items() if b.offset is not None}
    return Setting(designs, offsets, columns, rows.n_rows, rows)


def is_array_block(block: Block, rows: Rows) -> bool:
    """Tell whether a design came as a matrix, not from named columns of a frame."""
    return not isinstance(block.terms.formula, str) and any(n not in rows.table for n in block.terms.formula)


def setting(likelihood: Likelihood, data: Any = None) -> Setting:
    """Return the rows of new data as the fit's formulas read them; without data the fit's own rows.

    A fit from arrays (y, X) takes a matrix X (n, p) as new data.

    Raises
    ------
    DataError
        For missing columns or values, and levels that the fit has not seen.
    """
    if data is None:
        return own_setting(likelihood)
    blocks = blocks_of(likelihood)
    arrays = [name for name, block in blocks.items() if is_array_block(block, likelihood.rows)]
    if arrays:
        return _from_matrix(blocks, arrays[0], data)
    table = open_table(data)
    used = sorted({name for block in blocks.values() for name in columns_used(block.terms, table)})
    rows = screen(table, used, "raise")
    base = likelihood.unrestricted
    known = base.columns if isinstance(base, IndexLikelihood) else {}
    columns = {name: numeric(name, rows.raw(name)) for name in known if name in table}
    return _of_blocks({name: rebuild(block, rows) for name, block in blocks.items()}, columns, rows)


def _from_matrix(blocks: Mapping[str, Block], name: str, data: Any) -> Setting:
    matrix, width = np.asarray(data, dtype=float), len(blocks[name].names)
    if matrix.ndim != 2 or matrix.shape[1] != width:
        raise DataError(
            f"the fit was made from arrays: new data must be a matrix (n, {width}) with the columns "
            f"{listing(blocks[name].names)}; got shape {matrix.shape}."
        )
    if not np.isfinite(matrix).all():
        raise DataError("the new data hold values that are missing or infinite.")
    if blocks[name].offset is not None:
        raise DataError(
            "the fit has an offset, which a matrix of new data does not hold; fit from a frame to predict."
        )
    return Setting({name: matrix}, {}, {}, len(matrix))


class Quantity(ABC):
    """One number per row of a setting, as a function of theta (k,)."""

    name: str

    @abstractmethod
    def jacobian(self, theta: Array, at: Setting) -> tuple[Array, Array]:
        """Return h (n,) and dh/dtheta (n, k)."""

    @abstractmethod
    def slope(self, theta: Array, at: Setting, tangent: Setting) -> tuple[Array, Array]:
        """Return dh/dv (n,) along the tangent of a variable v, and its derivative in theta (n, k)."""


@dataclass(frozen=True)
class RowQuantity(Quantity):
    """h = f(eta) for the E predictors of the index engine, f by row; differentiated in eta.

    A mean of a ready-made model is differenced (extrapolated, to about 1e-11); a predictor is exact.
    """

    name: str
    likelihood: IndexLikelihood
    space: ParameterSpace
    function: Callable[[Array, Mapping[str, Any]], Array]

    def _rows(self, at: Setting) -> list[Array]:
        return [
            np.ones((at.n, 1)) if e.columns is None else at.designs[_owner(e.name, at)]
            for e in self.likelihood.equations
        ]

    def _predictors(self, raw: Array, at: Setting) -> tuple[Array, list[Array]]:
        rows = self._rows(at)
        eta = np.empty((len(rows), at.n))
        for e, equation in enumerate(self.likelihood.equations):
            eta[e] = rows[e] @ raw[equation.start : equation.stop]
            owner = _owner(equation.name, at)
            if equation.columns is not None and owner in at.offsets:
                eta[e] += at.offsets[owner]
        return eta, rows

    def _value(self, eta: Array, at: Setting) -> Array:
        try:
            return np.asarray(self.function(eta, at.columns), dtype=float)
        except KeyError as error:
            raise DataError(
                f"the {self.name} needs the column {error}, which the data do not have."
            ) from None

    def _first(self, eta: Array, at: Setting) -> Array:
        return np.stack([_difference(lambda x: self._value(x, at), eta, e) for e in range(len(eta))])

    def jacobian(self, theta: Array, at: Setting) -> tuple[Array, Array]:
        eta, rows = self._predictors(self.space.raw(theta), at)
        first = self._first(eta, at)
        full = np.zeros((at.n, self.space.n_raw))
        for e, equation in enumerate(self.likelihood.equations):
            full[:, equation.start : equation.stop] += first[e][:, None] * rows[e]
        return self._value(eta, at), _free(self.space, full)

    def slope(self, theta: Array, at: Setting, tangent: Setting) -> tuple[Array, Array]:
        raw = self.space.raw(theta)
        eta, rows = self._predictors(raw, at)
        zero = replace(
            tangent, designs={k: np.zeros_like(v) for k, v in at.designs.items()} | dict(tangent.designs)
        )
        moves = self._rows(zero)
        equations = self.likelihood.equations
        change = np.zeros_like(eta)
        for e, equation in enumerate(equations):
            if equation.columns is None:
                moves[e] = np.zeros((at.n, 1))
            change[e] = moves[e] @ raw[equation.start : equation.stop]
            change[e] += tangent.offsets.get(_owner(equation.name, at), 0.0)
        first = self._first(eta, at)
        full = np.zeros((at.n, self.space.n_raw))
        for e, equation in enumerate(equations):
            full[:, equation.start : equation.stop] += first[e][:, None] * moves[e]
        for e, f in pair_index(len(eta)):
            second = _difference2(lambda x: self._value(x, at), eta, e, f)
            for a, b in {(e, f), (f, e)}:
                part = equations[b]
                full[:, part.start : part.stop] += (second * change[a])[:, None] * rows[b]
        return np.einsum("en,en->n", first, change), _free(self.space, full)


def _owner(equation: str, at: Setting) -> str:
    """Return the linear parameter of an equation: "mu", or "mu" of "mu.b" where it has several."""
    return equation if equation in at.designs else equation.rpartition(".")[0]


def _difference(function: Callable[[Array], Array], eta: Array, e: int) -> Array:
    scale = np.maximum(np.abs(eta[e]), 1.0)

    def moved(h: float) -> Array:
        found = eta.copy()
        found[e] += h * scale
        return function(found)

    return extrapolate(lambda h: (moved(h) - moved(-h)) / (2 * h * scale), 0.1)


def _difference2(function: Callable[[Array], Array], eta: Array, e: int, f: int) -> Array:
    a, b = np.maximum(np.abs(eta[e]), 1.0), np.maximum(np.abs(eta[f]), 1.0)

    def moved(x: float, y: float) -> Array:
        found = eta.copy()
        found[e] += x * a
        found[f] += y * b
        return function(found)

    if e == f:
        middle = function(eta)
        return extrapolate(lambda h: (moved(h, 0) - 2 * middle + moved(-h, 0)) / (h * a) ** 2, 0.2)
    return extrapolate(
        lambda h: (moved(h, h) + moved(-h, -h) - moved(h, -h) - moved(-h, h)) / (4 * h * h * a * b), 0.2
    )


def _free(space: ParameterSpace, full: Array) -> Array:
    return full if space.matrix is None else np.asarray(full @ space.matrix)


@dataclass(frozen=True)
class FunctionQuantity(Quantity):
    """A user's function of parameters and columns by name; a linear parameter is its predictor (n,)."""

    name: str
    space: ParameterSpace
    function: Callable[..., Any]
    steps: Array

    def _arguments(self, theta: Any, at: Setting, xp: Any) -> dict[str, Any]:
        space = self.space
        raw = theta if space.matrix is None else space.matrix @ theta + space.origin
        names = {p.name for p in space}
        found: dict[str, Any] = {}
        for key, parameter in inspect.signature(self.function).parameters.items():
            if key in names:
                p = space[key]
                part = raw[p.free]
                if isinstance(p.kind, LinearKind):
                    shaped = xp.reshape(part, p.kind.shape).T if p.kind.equations else part
                    found[key] = at.designs[key] @ shaped
                    if key in at.offsets:
                        found[key] = found[key] + at.offsets[key]
                else:
                    found[key] = p.kind.value(part, xp)
            elif key in at:
                found[key] = at.column(key)
            elif parameter.default is inspect.Parameter.empty:
                columns = [] if at.rows is None else [str(c) for c in at.rows.table.columns]
                raise SpecificationError(
                    f"argument {key!r} of {self.name} is neither a parameter nor a column."
                    f"{suggestion(key, [*names, *columns])}"
                )
        return found

    def _call(self, theta: Any, at: Setting, xp: Any) -> Any:
        found = xp.asarray(self.function(**self._arguments(theta, at, xp)))
        if found.shape not in ((), (at.n,)):
            raise SpecificationError(
                f"{self.name} returned shape {found.shape}; expected one number per row ({at.n},), or a "
                "number."
            )
        return xp.broadcast_to(found, (at.n,))

    def jacobian(self, theta: Array, at: Setting) -> tuple[Array, Array]:
        traceable = uses_jax(self.function)
        value, jacobian, _ = differentiate(lambda t, xp: self._call(t, at, xp), theta, self.steps, traceable)
        return value, jacobian

    def slope(self, theta: Array, at: Setting, tangent: Setting) -> tuple[Array, Array]:
        def moved(t: Any, x: Any) -> Setting:
            designs = {
                k: v + x * tangent.designs[k] if k in tangent.designs else v for k, v in at.designs.items()
            }
            offsets = {
                k: v + x * tangent.offsets[k] if k in tangent.offsets else v for k, v in at.offsets.items()
            }
            columns = {k: at.column(k) + x * v for k, v in tangent.columns.items()}
            return Moved(designs, offsets, {**at.columns, **columns}, at.n, at.rows)

        def along(t: Any, xp: Any) -> Any:
            if xp is np:
                return extrapolate(
                    lambda h: (self._call(t, moved(t, h), np) - self._call(t, moved(t, -h), np)) / (2 * h),
                    0.02,
                )
            jax = autodiff.jax()
            return jax.jvp(lambda x: self._call(t, moved(t, x), xp), (0.0,), (1.0,))[1]

        value, jacobian, _ = differentiate(along, theta, self.steps, uses_jax(self.function))
        return value, jacobian


@dataclass(frozen=True, eq=False)
class Moved(Setting):
    """A setting whose entries may be JAX tracers: a column is handed over as it is."""

    def column(self, name: str) -> Any:
        """Return a column (n,), a tracer where it is one."""
        return self.columns[name] if name in self.columns else super().column(name)


def quantity(optimum: Optimum, what: str | Callable[..., Any], covariance: Covariance) -> Quantity:
    """Return the quantity named: "mean", "predictor", an equation, or a function of names.

    Raises
    ------
    SpecificationError
        For unknown names, and a mean that the likelihood does not know.
    """
    space, base = optimum.likelihood.space, optimum.likelihood.unrestricted
    if callable(what):
        name = getattr(what, "__name__", "function")
        return FunctionQuantity(
            "function" if name == "<lambda>" else name, space, what, theta_steps(covariance)
        )
    linear = [p.name for p in space if isinstance(p.kind, LinearKind)]
    if what == "predictor":
        if not linear:
            raise SpecificationError(
                f"{base.facts.name} has no linear predictor; give a function of its parameters "
                f"({listing(p.name for p in space)}) and columns."
            )
        what = linear[0]
    if what == "mean":
        if not isinstance(base, IndexLikelihood) or not isinstance(base.model, Model):
            raise SpecificationError(
                f"{base.facts.name} knows no mean; give what= as a function of parameters and columns by "
                "name, such as "
                f"lambda {', '.join(p.name for p in list(space)[:3])}: ..., or one of "
                f"{listing(p.name for p in space)}."
            )
        return RowQuantity("mean", base, space, base.model.mean)
    if what not in [p.name for p in space]:
        raise SpecificationError(
            f"what={what!r} is not known.{suggestion(what, ['mean', 'predictor', *[p.name for p in space]])}"
        )
    return FunctionQuantity(what, space, _identity(what), theta_steps(covariance))


def _identity(name: str) -> Callable[..., Any]:
    """Return a function of one argument called `name` that returns it."""

    def same(**arguments: Any) -> Any:
        return arguments[name]

    parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
    same.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    same.__name__ = name
    return same
