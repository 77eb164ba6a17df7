"""Quantities that are predicted: predictors, means, what models declare, any function of parameters and data.

A `Setting` is a set of rows at which something is predicted; a `Quantity` turns theta and a setting
into one number per row, or c of them, with derivatives in theta and along a change of the data.
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
from mlecov.errors import DataError, InferenceError, SpecificationError, listing, suggestion
from mlecov.inference.delta import differentiate, theta_steps
from mlecov.inference.settings import Setting, row_labels, setting
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.index import IndexLikelihood, pair_index
from mlecov.likelihood.known import KnownLikelihood
from mlecov.likelihood.traced import extrapolate
from mlecov.models.base import Model
from mlecov.models.predicted import Declared, OfNames, OfPoints, OfRows, OfSample, Sampled
from mlecov.models.units import UnitLikelihood
from mlecov.models.whole import WholeLikelihood
from mlecov.optimum import Optimum
from mlecov.parameters import LinearKind, ParameterSpace
from mlecov.separable import uses_jax

Array = npt.NDArray[np.float64]
SAMPLED = 2000
"""Rows whose curvature tells how far a predictor is moved."""


class Quantity(ABC):
    """One number per row of a setting, or one for each of the labels, as a function of theta (k,)."""

    name: str
    labels: tuple[str, ...]

    @abstractmethod
    def jacobian(self, theta: Array, at: Setting) -> tuple[Array, Array]:
        """Return h (n,) or (c, n) and dh/dtheta (..., k)."""

    @abstractmethod
    def slope(self, theta: Array, at: Setting, tangent: Setting) -> tuple[Array, Array]:
        """Return dh/dv (n,) along the tangent of a variable v, and its derivative in theta (n, k)."""

    def place(self, likelihood: Likelihood, data: Any) -> Setting:
        """Return the rows at which the quantity is taken: those of the fit, or of new data."""
        return setting(likelihood, data)

    def index(self, at: Setting) -> Any:
        """Return the labels of the values, None for numbers from zero."""
        return row_labels(at.rows)

    def variance(self, theta: Array, at: Setting) -> Array | None:
        """Return the variance (n,) or (c, n) that the quantity has at known parameters, None for none."""
        return None

    @property
    def single(self) -> Quantity:
        """This quantity, where it is one number a row.

        Raises
        ------
        SpecificationError
            Where it is several; the message shows how to name one.
        """
        if self.labels:
            shown = listing(f"'{self.name}[{label}]'" for label in self.labels)
            raise SpecificationError(
                f"{self.name!r} is {len(self.labels)} numbers a row; effects are of one: what= one of {shown}."
            )
        return self


@dataclass(frozen=True)
class RowQuantity(Quantity):
    """h = f(eta) for the E predictors of the index engine, f by row; differentiated in eta.

    A mean of a ready-made model is differenced (extrapolated, to about 1e-11); a predictor is exact.
    Without `offsets` the predictors leave offsets out.
    """

    name: str
    likelihood: IndexLikelihood
    space: ParameterSpace
    function: Callable[[Array, Mapping[str, Any]], Array]
    labels: tuple[str, ...] = ()
    offsets: bool = True

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
            if self.offsets and equation.columns is not None and owner in at.offsets:
                eta[e] += at.offsets[owner]
        return eta, rows

    def _value(self, eta: Array, at: Setting) -> Array:
        try:
            return np.asarray(self.function(eta, at.columns), dtype=float)
        except KeyError as error:
            raise DataError(
                f"the {self.name} needs the column {error}, which the data do not have."
            ) from None

    def _scale(self, raw: Array, eta: Array) -> Array:
        """Return the sizes (E, n) of steps: of eta, or of what the likelihood tells apart where that is less.

        A tobit's mean of 1000 has all that it does within a few sigma of a limit, whatever sigma is.
        """
        some = min(self.likelihood.n_terms, SAMPLED)
        columns = {name: values[:some] for name, values in self.likelihood.columns.items()}
        with np.errstate(all="ignore"):
            second = self.likelihood.model.derivatives(self.likelihood.predictors(raw, 0, some), columns, 2)[
                2
            ]
            assert second is not None
            own = [p for p, (e, f) in enumerate(pair_index(len(eta))) if e == f]
            width = 3.0 / np.sqrt(np.abs(second[own]).mean(axis=1, keepdims=True))
        size = np.maximum(np.abs(eta), 1.0)
        return np.where(np.isfinite(width), np.minimum(size, width), size)

    def _first(self, eta: Array, scale: Array, at: Setting) -> Array:
        return np.stack([_difference(lambda x: self._value(x, at), eta, e, scale) for e in range(len(eta))])

    def jacobian(self, theta: Array, at: Setting) -> tuple[Array, Array]:
        eta, rows = self._predictors(self.space.raw(theta), at)
        first, value = self._first(eta, self._scale(self.space.raw(theta), eta), at), self._value(eta, at)
        full = np.zeros((*value.shape, self.space.n_raw))
        for e, equation in enumerate(self.likelihood.equations):
            full[..., equation.start : equation.stop] += first[e][..., None] * rows[e]
        return value, _free(self.space, full)

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
            if self.offsets:
                change[e] += tangent.offsets.get(_owner(equation.name, at), 0.0)
        scale = self._scale(raw, eta)
        first = self._first(eta, scale, at)
        full = np.zeros((at.n, self.space.n_raw))
        for e, equation in enumerate(equations):
            full[:, equation.start : equation.stop] += first[e][:, None] * moves[e]
        for e, f in pair_index(len(eta)):
            second = _difference2(lambda x: self._value(x, at), eta, e, f, scale)
            for a, b in {(e, f), (f, e)}:
                part = equations[b]
                full[:, part.start : part.stop] += (second * change[a])[:, None] * rows[b]
        return np.einsum("en,en->n", first, change), _free(self.space, full)


def _owner(equation: str, at: Setting) -> str:
    """Return the linear parameter of an equation: "mu", or "mu" of "mu.b" where it has several."""
    return equation if equation in at.designs else equation.rpartition(".")[0]


def _difference(function: Callable[[Array], Array], eta: Array, e: int, sizes: Array) -> Array:
    scale = sizes[e]

    def moved(h: float) -> Array:
        found = eta.copy()
        found[e] += h * scale
        return function(found)

    return extrapolate(lambda h: (moved(h) - moved(-h)) / (2 * h * scale), 0.1)


def _difference2(function: Callable[[Array], Array], eta: Array, e: int, f: int, sizes: Array) -> Array:
    a, b = sizes[e], sizes[f]

    def moved(x: float, y: float) -> Array:
        found = eta.copy()
        found[e] += x * a
        found[f] += y * b
        return function(found)

    if e == f:
        middle = function(eta)
        return extrapolate(lambda h: (moved(h, 0) - 2 * middle + moved(-h, 0)) / (h * a) ** 2, 0.2)
    return extrapolate(
        lambda h: (moved(h, h) + moved(-h, -h) - moved(h, -h) - moved(-h, h)) / (4 * h * h * a * b),
        0.2,
    )


def _free(space: ParameterSpace, full: Array) -> Array:
    return full if space.matrix is None else np.asarray(full @ space.matrix)


@dataclass(frozen=True)
class FunctionQuantity(Quantity):
    """A function of parameters and columns by name; a linear parameter is its predictor (n,).

    The function's own names are used unless `arguments` (in order) are given.
    """

    name: str
    space: ParameterSpace
    function: Callable[..., Any]
    steps: Array
    arguments: tuple[str, ...] | None = None
    labels: tuple[str, ...] = ()

    def _arguments(self, theta: Any, at: Setting, xp: Any) -> dict[str, Any]:
        space = self.space
        raw = theta if space.matrix is None else space.matrix @ theta + space.origin
        names = {p.name for p in space}
        found: dict[str, Any] = {}
        defaults = dict.fromkeys(self.arguments or (), inspect.Parameter.empty)
        if self.arguments is None:
            signature = inspect.signature(self.function).parameters
            defaults = {key: parameter.default for key, parameter in signature.items()}
        for key, default in defaults.items():
            if key in names:
                p = space[key]
                part = raw[p.free]
                if isinstance(p.kind, LinearKind) and key in at.designs:
                    shaped = xp.reshape(part, p.kind.shape).T if p.kind.equations else part
                    found[key] = at.designs[key] @ shaped
                    if key in at.offsets:
                        found[key] = found[key] + at.offsets[key]
                else:
                    found[key] = p.kind.value(part, xp)
            elif key in at:
                found[key] = at.column(key)
            elif default is inspect.Parameter.empty:
                columns = [] if at.rows is None else [str(c) for c in at.rows.table.columns]
                raise SpecificationError(
                    f"argument {key!r} of {self.name} is neither a parameter nor a column."
                    f"{suggestion(key, [*names, *columns])}"
                )
        return found

    @property
    def _traceable(self) -> bool:
        """Whether to try JAX: not for what the package declares, which is numpy's."""
        return self.arguments is None and uses_jax(self.function)

    def _call(self, theta: Any, at: Setting, xp: Any) -> Any:
        values = self._arguments(theta, at, xp)
        given = self.function(**values) if self.arguments is None else self.function(*values.values())
        found = xp.asarray(given)
        if self.labels:
            return xp.broadcast_to(found, (len(self.labels), at.n))
        allowed = [(), (at.n,)] if self.arguments is None else [(), (1,), (at.n,)]
        if found.shape not in allowed:
            raise SpecificationError(
                f"{self.name} returned shape {found.shape}; expected one number per row ({at.n},), or a "
                "number."
            )
        return xp.broadcast_to(found, (at.n,))

    def jacobian(self, theta: Array, at: Setting) -> tuple[Array, Array]:
        value, jacobian, _ = differentiate(
            lambda t, xp: xp.ravel(self._call(t, at, xp)), theta, self.steps, self._traceable
        )
        shape = (len(self.labels), at.n) if self.labels else (at.n,)
        return value.reshape(shape), jacobian.reshape(*shape, -1)

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

        value, jacobian, _ = differentiate(along, theta, self.steps, self._traceable)
        return value, jacobian


@dataclass(frozen=True, eq=False)
class Moved(Setting):
    """A setting whose entries may be JAX tracers: a column is handed over as it is."""

    def column(self, name: str) -> Any:
        """Return a column (n,), a tracer where it is one."""
        return self.columns[name] if name in self.columns else super().column(name)


@dataclass(frozen=True)
class SampleQuantity(Quantity):
    """A quantity of the whole sample: a filter's path, a posterior; see `models.predicted.OfSample`."""

    name: str
    space: ParameterSpace
    declared: OfSample
    steps: Array
    column: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.declared.labels if self.column is None else ()

    def place(self, likelihood: Likelihood, data: Any) -> Setting:
        sample = likelihood.unrestricted
        if data is not None:
            if not self.declared.anew:
                raise SpecificationError(
                    f"the {self.name} of {sample.facts.name} is of the fit's own sample; leave data= out. For "
                    "periods to come use forecast(steps)."
                )
            assert isinstance(sample, (UnitLikelihood, WholeLikelihood))
            sample = sample.at(data)
        return Setting({}, {}, {}, sample.rows.n_rows, sample.rows, sample)

    def _found(self, theta: Array, at: Setting, order: int) -> Sampled:
        found = self.declared.function(at.sample, self.space.raw(theta), order)
        if self.column is None:
            return found
        parts = (found.values, found.jacobian, found.variance)
        return Sampled(*(None if part is None else part[self.column] for part in parts))  # type: ignore[arg-type]

    def jacobian(self, theta: Array, at: Setting) -> tuple[Array, Array]:
        found = self._found(theta, at, 1)
        if found.jacobian is not None:
            return found.values, _free(self.space, found.jacobian)
        value, jacobian, _ = differentiate(
            lambda t, xp: self._found(t, at, 0).values.ravel(), theta, self.steps, False
        )
        return value.reshape(found.values.shape), jacobian.reshape(*found.values.shape, -1)

    def variance(self, theta: Array, at: Setting) -> Array | None:
        return self._found(theta, at, 0).variance

    def index(self, at: Setting) -> Any:
        if isinstance(self.declared.index, tuple):
            return list(self.declared.index)
        assert at.rows is not None
        return row_labels(at.rows) if self.declared.index == "rows" else at.rows.labels

    def slope(self, theta: Array, at: Setting, tangent: Setting) -> tuple[Array, Array]:
        raise InferenceError(
            f"the {self.name} of a row depends on other rows, so that it has no effect of a variable; take "
            "effects on a parameter, or on a function of parameters and columns (what=)."
        )


def quantities_of(likelihood: Likelihood) -> Mapping[str, Declared]:
    """Return the quantities that the model of a likelihood declares, by name."""
    base = likelihood.unrestricted
    if isinstance(base, IndexLikelihood):
        return base.model.quantities if isinstance(base.model, Model) else {}
    if isinstance(base, WholeLikelihood):
        return base.model.quantities
    return base.quantities if isinstance(base, UnitLikelihood) else {}


def quantity(optimum: Optimum, what: str | Callable[..., Any], covariance: Covariance) -> Quantity:
    """Return the quantity named: one that the model declares, "predictor", a parameter, or a function.

    "probability[2]" is the entry labelled 2 of a quantity that is several numbers a row, "survival[10]"
    that of a quantity which is a function of a number.

    Raises
    ------
    SpecificationError
        For unknown names; the message lists those that the model has.
    """
    space, base = optimum.likelihood.space, optimum.likelihood.unrestricted
    steps = theta_steps(covariance)
    if callable(what):
        name = getattr(what, "__name__", "function")
        return FunctionQuantity("function" if name == "<lambda>" else name, space, what, steps)
    if not isinstance(what, str):
        raise SpecificationError(
            f"what is {type(what).__name__}; expected the name of a quantity or a function. For new data: "
            "predict('mean', data)."
        )
    known = quantities_of(base)
    head, _, tail = what.partition("[")
    if head in known and (not tail or tail.endswith("]")):
        declared = known[head]
        if isinstance(declared, OfPoints):
            declared, tail = OfRows(declared.at(head, tail[:-1])), ""
        column = _column(head, declared, tail[:-1]) if tail else None
        return _declared(what, declared, column, space, base, steps)
    linear = [p.name for p in space if isinstance(p.kind, LinearKind)]
    if what == "predictor":
        if not linear:
            raise SpecificationError(
                f"{base.facts.name} has no linear predictor; give a function of its parameters "
                f"({listing(p.name for p in space)}) and columns."
            )
        what = linear[0]
    if what in [p.name for p in space]:
        return FunctionQuantity(what, space, lambda value: value, steps, (what,))
    lambda_ = f"lambda {', '.join(p.name for p in list(space)[:3])}: ..."
    if what == "mean":
        if isinstance(base, KnownLikelihood):
            raise SpecificationError(
                f"{base.facts.name} holds no model, only its estimates. Reattach the likelihood: load_fit(path, "
                "likelihood=...)."
            )
        has = f" It has {listing(known)}." if known else ""
        raise SpecificationError(
            f"{base.facts.name} knows no mean.{has} Give what= as a function of parameters and columns by "
            f"name, such as {lambda_}, or one of {listing(p.name for p in space)}."
        )
    names = [*known, *(["predictor"] if linear else []), *(p.name for p in space)]
    raise SpecificationError(
        f"what={what!r} is no quantity of {base.facts.name}.{suggestion(what, names)} Or a function: {lambda_}."
    )


def _column(name: str, declared: OfRows | OfNames | OfSample, label: str) -> int:
    """Return the place of a label among those of a quantity."""
    if label in declared.labels:
        return declared.labels.index(label)
    if not declared.labels:
        raise SpecificationError(f"{name!r} is one number a row; leave [{label}] out.")
    raise SpecificationError(f"{name!r} has no entry {label!r}.{suggestion(label, declared.labels)}")


def _declared(
    name: str,
    declared: OfRows | OfNames | OfSample,
    column: int | None,
    space: ParameterSpace,
    base: Likelihood,
    steps: Array,
) -> Quantity:
    labels = declared.labels if column is None else ()

    def chosen(function: Callable[..., Any]) -> Callable[..., Any]:
        return function if column is None else lambda *values: function(*values)[column]

    if isinstance(declared, OfRows):
        assert isinstance(base, IndexLikelihood)
        return RowQuantity(name, base, space, chosen(declared.function), labels, declared.offsets)
    if isinstance(declared, OfNames):
        return FunctionQuantity(name, space, chosen(declared.function), steps, declared.arguments, labels)
    return SampleQuantity(name, space, declared, steps, column)
