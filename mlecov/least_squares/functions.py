"""A user's residual function bound to names: values, exact Jacobian and second derivatives."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlecov import autodiff
from mlecov.errors import (
    DataError,
    EvaluationError,
    NumericDerivativeWarning,
    SpecificationError,
    listing,
    suggestion,
    warn,
)

Array = npt.NDArray[np.float64]

# (weight, offset) of the fourth-order central difference of a first derivative
_STENCIL = ((1 / 12, -2), (-2 / 3, -1), (2 / 3, 1), (-1 / 12, 2))
_STEP = float(np.finfo(np.float64).eps) ** 0.2


@dataclass(frozen=True)
class Packing:
    """Order of the free parameters: name -> (start, shape), and the flat labels `b`, `c[0]`, `D[0,1]`."""

    slots: Mapping[str, tuple[int, tuple[int, ...]]]
    labels: tuple[str, ...]

    def unpack(self, theta: Any) -> dict[str, Any]:
        """Return the parameters by name, in the user's shapes, from `theta` (k,)."""
        return {
            name: theta[start] if shape == () else theta[start : start + int(np.prod(shape))].reshape(shape)
            for name, (start, shape) in self.slots.items()
        }

    def positions(self, name: str) -> list[int]:
        """Return the places in theta of a parameter, or of one labelled entry of it."""
        if name in self.slots:
            start, shape = self.slots[name]
            return list(range(start, start + int(np.prod(shape))))
        if name in self.labels:
            return [self.labels.index(name)]
        raise SpecificationError(f"No parameter {name!r}.{suggestion(name, self.labels)}")


def pack(params: Mapping[str, Any]) -> tuple[Packing, Array]:
    """Return the packing of a dict of start values (scalars or arrays), and the starts as one vector."""
    slots: dict[str, tuple[int, tuple[int, ...]]] = {}
    labels: list[str] = []
    values: list[Array] = []
    for name, start in params.items():
        try:
            value = np.asarray(start, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise SpecificationError(f"The start of {name!r} is not numeric: {start!r}.") from error
        if not np.isfinite(value).all() or value.size == 0:
            raise SpecificationError(f"The start of {name!r} is empty or not finite: {start!r}.")
        slots[name] = (len(labels), value.shape)
        index = [",".join(map(str, place)) for place in np.ndindex(value.shape)]
        labels += [f"{name}[{place}]" if value.shape else name for place in index]
        values.append(value.ravel())
    if not values:
        raise SpecificationError("params is empty. Give start values by name: {'a': 1.0, 'b': [0.5, 2.0]}.")
    return Packing(slots, tuple(labels)), np.concatenate(values)


class ResidualFunction(ABC):
    """r(theta) (n,) with its Jacobian (n, k), sum_i w_i H_i (k, k) and all H_i (n, k, k)."""

    exact: bool

    @abstractmethod
    def value(self, theta: Array) -> Array:
        """Return the residuals (n,)."""

    @abstractmethod
    def jacobian(self, theta: Array) -> Array:
        """Return d r / d theta (n, k)."""

    @abstractmethod
    def weighted_hessian(self, theta: Array, w: Array) -> Array:
        """Return the sum over rows of w_i d2 r_i / d theta d theta' (k, k)."""

    @abstractmethod
    def accelerations(self, theta: Array) -> Array:
        """Return d2 r_i / d theta d theta' of every row (n, k, k)."""


class Traced(ResidualFunction):
    """Derivatives by JAX in float64, compiled once a fit."""

    exact = True

    def __init__(self, call: Callable[[Any, Any], Any], data: Mapping[str, Array]) -> None:
        jax, jnp = autodiff.jax(), autodiff.jnp()
        with autodiff.x64():
            self._data = {name: jnp.asarray(column) for name, column in data.items()}
            jacobian = jax.jacfwd(call)
            self._value, self._jacobian = jax.jit(call), jax.jit(jacobian)
            self._weighted = jax.jit(
                lambda t, d, w: jax.jacfwd(jax.grad(lambda s: jnp.vdot(w, call(s, d))))(t)
            )
            self._accelerations = jax.jit(jax.jacfwd(jacobian))

    def _run(self, function: Any, theta: Array, *rest: Any) -> Array:
        with autodiff.x64():
            return np.array(function(theta, self._data, *rest), dtype=np.float64)

    def value(self, theta: Array) -> Array:
        return self._run(self._value, theta)

    def jacobian(self, theta: Array) -> Array:
        return self._run(self._jacobian, theta)

    def weighted_hessian(self, theta: Array, w: Array) -> Array:
        return self._run(self._weighted, theta, w)

    def accelerations(self, theta: Array) -> Array:
        return self._run(self._accelerations, theta)


class Differenced(ResidualFunction):
    """Derivatives by fourth-order central differences, for functions that can not be traced."""

    exact = False

    def __init__(self, call: Callable[[Any, Any], Any], data: Mapping[str, Array]) -> None:
        self._call, self._data = call, data

    def value(self, theta: Array) -> Array:
        with np.errstate(all="ignore"):  # what is not finite is found and named by the caller
            return np.asarray(self._call(theta, self._data), dtype=np.float64)

    def jacobian(self, theta: Array) -> Array:
        return _difference(self.value, theta)

    def weighted_hessian(self, theta: Array, w: Array) -> Array:
        matrix = _difference(lambda t: self.jacobian(t).T @ w, theta)
        return (matrix + matrix.T) / 2

    def accelerations(self, theta: Array) -> Array:
        tensor = _difference(self.jacobian, theta)
        return np.asarray((tensor + tensor.swapaxes(-1, -2)) / 2)


def _difference(function: Callable[[Array], Array], theta: Array) -> Array:
    """Return the derivative of `function` in each entry of theta, stacked on a new last axis."""
    columns = []
    for j, center in enumerate(theta):
        step = _STEP * (abs(center) if center != 0 else 1.0)
        for _ in range(12):  # a step that leaves the support is shortened, not passed on as nan
            points = [
                np.where(np.arange(len(theta)) == j, center + place * step, theta) for _, place in _STENCIL
            ]
            values = [function(point) for point in points]
            if all(np.isfinite(value).all() for value in values):
                break
            step /= 8
        columns.append(sum(weight * v for (weight, _), v in zip(_STENCIL, values, strict=True)) / step)
    return np.stack(columns, axis=-1)


def bind(
    function: Callable[..., Any],
    packing: Packing,
    start: Array,
    data: Any,
    outcome: str | None,
    derivatives: Literal["auto", "autodiff", "numeric"],
) -> ResidualFunction:
    """Match the arguments of `function` by name to parameters and data, and choose its derivatives."""
    if derivatives not in ("auto", "autodiff", "numeric"):
        raise SpecificationError(
            f"Unknown derivatives {derivatives!r}. Known: 'auto', 'autodiff', 'numeric'."
        )
    columns = _columns(function, packing, data, outcome)
    taken = [name for name in columns if name != outcome or name in inspect.signature(function).parameters]

    def call(theta: Any, values: Mapping[str, Any]) -> Any:
        result = function(**packing.unpack(theta), **{name: values[name] for name in taken})
        return result if outcome is None else values[outcome] - result

    numeric = Differenced(call, columns)
    bound: ResidualFunction = numeric
    if derivatives != "numeric":
        try:
            with autodiff.x64():
                autodiff.jax().eval_shape(call, start, columns)
            bound = Traced(call, columns)
        except autodiff.jax().errors.JAXTypeError as error:
            if derivatives == "autodiff":
                raise SpecificationError(
                    f"{_name(function)} can not be traced by JAX: {str(error).splitlines()[0]} Write it with "
                    "jax.numpy in place of numpy, or ask for derivatives='numeric'."
                ) from error
            warn(
                f"{_name(function)} can not be traced by JAX, so its derivatives are had by central "
                "differences (about 11 digits in the Jacobian, 8 in the second derivatives). Write it with "
                "jax.numpy for exact ones, or ask for derivatives='numeric' to accept this.",
                NumericDerivativeWarning,
            )
    _check_start(bound.value(start), function, packing, start)
    return bound


def _columns(
    function: Callable[..., Any], packing: Packing, data: Any, outcome: str | None
) -> dict[str, Array]:
    frame = isinstance(data, pd.DataFrame)
    known = [str(name) for name in (data.columns if frame else data)]
    arguments = inspect.signature(function).parameters
    names = list(arguments)
    what = _name(function)
    for name in packing.slots:
        if name not in arguments:
            raise SpecificationError(
                f"{what} does not take the parameter {name!r}. Its arguments: {listing(names)}."
            )
        if name in known and (name in names or name == outcome):
            raise SpecificationError(
                f"{name!r} is both a parameter and a column of the data. Rename one of them."
            )
    wanted = [name for name in names if name not in packing.slots]
    missing = [
        name for name in wanted if name not in known and arguments[name].default is inspect.Parameter.empty
    ]
    if outcome is not None and outcome not in known:
        missing.append(outcome)
    if missing:
        raise SpecificationError(
            f"{what} needs {listing(missing)}: neither a parameter nor a column of the data. "
            f"Parameters: {listing(packing.slots)}. Columns: {listing(known, limit=40)}."
        )
    used = [name for name in wanted if name in known]
    if outcome is not None and outcome not in used:
        used.append(outcome)
    columns = {}
    for name in used:
        try:
            columns[name] = np.asarray(data[name], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"The column {name!r} is not numeric: {error}.") from error
        bad = np.flatnonzero(~np.isfinite(columns[name]).reshape(len(columns[name]), -1).all(axis=1))
        if bad.size:
            raise DataError(
                f"The column {name!r} is missing or infinite in row(s) {listing(bad)}. Expected finite "
                "numbers. Drop these rows from every column."
            )
    return columns


def _check_start(r: Array, function: Callable[..., Any], packing: Packing, start: Array) -> None:
    if r.ndim != 1:
        raise EvaluationError(
            f"{_name(function)} returned shape {r.shape}. Expected one residual a row, (n,). "
            "Flatten the result; sums and (n, 1) columns are refused."
        )
    bad = np.flatnonzero(~np.isfinite(r))
    if bad.size:
        at = listing(f"{name}={value:.6g}" for name, value in zip(packing.labels, start, strict=True))
        raise EvaluationError(
            f"{_name(function)} is not finite at the start in row(s) {listing(bad)}, at {at}. Expected "
            "finite residuals. Choose another start."
        )


def _name(function: Callable[..., Any]) -> str:
    return f"The function {getattr(function, '__name__', 'given')!r}"
