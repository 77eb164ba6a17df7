"""The contract of a parameter kind, and the checks that all kinds share.

A kind maps d unconstrained coordinates u to the value that reaches the user's function, and to the
m reported entries, with the exact first and second derivatives of the latter, so that the delta
method and the chain rule for Hessians need no differences. Kinds are frozen values that compare by
content. A coordinate beyond +-709 overflows to inf as `exp` does; callers evaluate trial points
under their own `np.errstate`.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError, SupportError
from mlecov.links import IDENTITY, Link

Array = npt.NDArray[np.float64]
Start = float | Array


class Kind(ABC):
    """A parameter kind: d = `n_free` unconstrained coordinates, m = `n_reported` entries.

    Reference: Gill & Murray; Stan Reference Manual, "Constraint transforms", for the maps.
    """

    start: Start | None
    elementwise: ClassVar[bool] = False  # every reported entry depends on its own coordinate alone

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the value that reaches the user's function; () for a scalar."""

    @property
    @abstractmethod
    def n_free(self) -> int:
        """Number d of unconstrained coordinates."""

    @property
    def n_reported(self) -> int:
        """Number m of reported entries."""
        return math.prod(self.shape)

    @property
    @abstractmethod
    def title(self) -> str:
        """The declaration as the user would write it, for messages: `interval(-1, 1)`."""

    @abstractmethod
    def default_free(self) -> Array:
        """Return the (d,) unconstrained start used where the user gave none."""

    def start_free(self) -> Array:
        """Return the (d,) unconstrained coordinates of `start`, or `default_free()` without one."""
        return self.default_free() if self.start is None else self.free(self.start)

    @abstractmethod
    def value(self, u: Any, xp: Any = np) -> Any:
        """Return the value, of shape `shape`, at coordinates u (d,); traceable with xp = jax.numpy."""

    @abstractmethod
    def free(self, value: Any) -> Array:
        """Return the coordinates (d,) of `value`; raise where it lies outside the range."""

    def report(self, u: Array) -> Array:
        """Return the m reported entries at u (d,)."""
        return np.asarray(self.value(np.asarray(u, dtype=np.float64)), dtype=np.float64).ravel()

    @abstractmethod
    def jacobian(self, u: Array) -> Array:
        """Return d report / d u', (m, d)."""

    @abstractmethod
    def second(self, u: Array, weights: Array) -> Array:
        """Return sum_i weights_i d2 report_i / du du', (d, d), for weights (m,)."""

    def labels(self, name: str) -> list[str]:
        """Return the m reported names: `sigma`, `beta[0]`, `B[0,1]` row by row."""
        return _labels(name, self.shape)

    @abstractmethod
    def free_labels(self, name: str) -> list[str]:
        """Return the d names of the unconstrained coordinates: `log(sigma)`."""

    def interval_links(self) -> tuple[Link, ...]:
        """Return, per reported entry, the scale on which an interval stays inside the bounds."""
        return (IDENTITY,) * self.n_reported

    @property
    def zero_on_bound(self) -> tuple[bool, ...]:
        """Per reported entry: zero is a bound of the range, or outside it, so z and p are blank."""
        return (False,) * self.n_reported

    def _key(self) -> tuple[Any, ...]:
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return type(self), *((v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kind) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _outside(self, expected: str, got: object) -> SupportError:
        return SupportError(f"Value outside the range of {self.title}: expected {expected}, got {got}.")

    def _checked(self, value: Any) -> Array:
        """Return `value` as float64 of the declared shape, or raise."""
        array = np.asarray(as_numbers(value, self.title))
        if array.shape != self.shape:
            raise SpecificationError(
                f"Value of {self.title} has the wrong shape: expected {self.shape}, got {array.shape}."
            )
        return array


@dataclass(frozen=True, eq=False)
class Sized(Kind):
    """Kinds declared by a number of entries `d` and an optional start value."""

    d: int
    start: Start | None = None
    smallest: ClassVar[int] = 1

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        set_fields(self, d=as_count(self.d, f"{name}(d)", self.smallest))
        if self.start is not None:
            set_fields(self, start=as_numbers(self.start, f"{self.title} start"))
            self.free(self.start)

    @property
    def title(self) -> str:
        return f"{type(self).__name__.lower()}({self.d})"


def set_fields(kind: Kind, **values: Any) -> None:
    """Write checked fields of a frozen kind while it is being made."""
    for name, value in values.items():
        object.__setattr__(kind, name, value)


def as_numbers(value: Any, where: str) -> Start:
    """Return a finite float, or a read-only float64 copy of an array; raise on anything else."""
    if type(value) is float and math.isfinite(value):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # ragged lists
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or array.size == 0:
        raise SpecificationError(f"{where}: expected a number or an array of numbers, got {value!r}.")
    if not np.isfinite(array).all():
        raise SpecificationError(f"{where}: expected finite numbers, got {value!r}.")
    array = np.array(array, dtype=np.float64, order="C")
    array.flags.writeable = False
    return array if array.ndim else float(array)


def as_count(value: Any, where: str, smallest: int) -> int:
    """Return a dimension as an int of at least `smallest`, or raise."""
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = -1
    if count < smallest:
        raise SpecificationError(f"{where}: expected a whole number of at least {smallest}, got {value!r}.")
    return count


def _labels(name: str, shape: tuple[int, ...]) -> list[str]:
    if not shape:
        return [name]
    return [f"{name}[{','.join(map(str, index))}]" for index in product(*map(range, shape))]
