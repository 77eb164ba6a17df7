"""The parameter kinds: where a parameter may lie, and how a user declares it.

`real`, `positive`, `interval`, `simplex`, `ordered`, `correlation`, `covariance`, `fixed` and
`estimated` build the frozen values `Real`, `Positive`, ... whose contract is `Kind`.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mlecov.errors import SpecificationError
from mlecov.kindbase import Array, Kind, Start, as_count, as_numbers, set_fields
from mlecov.kinds_vector import Correlation, Covariance, Ordered, Simplex
from mlecov.links import IDENTITY, LOG, Link

__all__ = [
    "Correlation",
    "Covariance",
    "Estimated",
    "Fixed",
    "Interval",
    "Kind",
    "Link",
    "Ordered",
    "Positive",
    "Real",
    "Simplex",
    "as_kind",
    "correlation",
    "covariance",
    "estimated",
    "fixed",
    "interval",
    "ordered",
    "positive",
    "real",
    "simplex",
]


class _Elementwise(Kind):
    """Entries that are each the inverse link of their own coordinate."""

    elementwise: ClassVar[bool] = True
    start: Start | None

    @property
    @abstractmethod
    def link(self) -> Link:
        """The map of the range onto the whole line."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.start.shape if isinstance(self.start, np.ndarray) else ()

    @property
    def n_free(self) -> int:
        return math.prod(self.shape)

    def default_free(self) -> Array:
        return np.zeros(self.n_free)

    def value(self, u: Any, xp: Any = np) -> Any:
        shape = self.shape
        return self.link.inverse(u.reshape(shape) if shape else u[0], xp)

    def free(self, value: Any) -> Array:
        array, link = self._checked(value), self.link
        inside = (array > link.lo) & (array < link.hi)
        if not inside.all():
            raise self._outside(f"{link.lo:g} < value < {link.hi:g}", array[~inside].ravel()[0])
        return np.asarray(link.forward(array), dtype=np.float64).reshape(-1)

    def jacobian(self, u: Array) -> Array:
        return np.diag(self.link.inverse_derivatives(np.asarray(u, dtype=np.float64))[0])

    def second(self, u: Array, weights: Array) -> Array:
        return np.diag(weights * self.link.inverse_derivatives(np.asarray(u, dtype=np.float64))[1])

    def free_labels(self, name: str) -> list[str]:
        link, labels = self.link, self.labels(name)
        if link.name == "identity":
            return labels
        if link.lo == -math.inf:
            return [f"-log({link.hi:g} - {label})" for label in labels]
        if link.hi == math.inf:
            return [f"log({label} - {link.lo:g})" if link.lo else f"log({label})" for label in labels]
        return [f"logit({label})" for label in labels]

    def interval_links(self) -> tuple[Link, ...]:
        return (self.link,) * self.n_reported

    @property
    def zero_on_bound(self) -> tuple[bool, ...]:
        return (not self.link.lo < 0 < self.link.hi,) * self.n_reported


@dataclass(frozen=True, eq=False)
class Real(_Elementwise):
    """A number or an array of numbers without bounds: value = u."""

    start: Start = 0.0
    title: ClassVar[str] = "real"
    link: ClassVar[Link] = IDENTITY

    def __post_init__(self) -> None:
        set_fields(self, start=as_numbers(self.start, "real(start)"))


@dataclass(frozen=True, eq=False)
class Positive(_Elementwise):
    """A number or an array of numbers above zero: value = exp(u)."""

    start: Start = 1.0
    title: ClassVar[str] = "positive"
    link: ClassVar[Link] = LOG

    def __post_init__(self) -> None:
        set_fields(self, start=as_numbers(self.start, "positive(start)"))
        self.free(self.start)


@dataclass(frozen=True, eq=False)
class Interval(_Elementwise):
    """A number or an array strictly between lo and hi: value = lo + (hi - lo)/(1 + exp(-u)).

    On (-1, 1) this is tanh(u/2); with one infinite end lo + exp(u) or hi - exp(-u).
    """

    lo: float
    hi: float
    start: Start | None = None

    def __post_init__(self) -> None:
        lo, hi = (_bound(end) for end in (self.lo, self.hi))
        one_infinite = math.isinf(lo) != math.isinf(hi)
        if not (lo < hi and (one_infinite or math.isfinite(hi - lo))):
            raise SpecificationError(
                f"Bad bounds in interval(lo, hi): expected lo < hi, at least one of them finite, "
                f"got lo={self.lo!r}, hi={self.hi!r}. Without bounds, use real()."
            )
        set_fields(self, lo=lo, hi=hi)
        if self.start is not None:
            set_fields(self, start=as_numbers(self.start, f"{self.title} start"))
            self.free(self.start)

    @property
    def title(self) -> str:
        return f"interval({self.lo:g}, {self.hi:g})"

    @functools.cached_property
    def link(self) -> Link:
        return Link(self.lo, self.hi)


@dataclass(frozen=True, eq=False)
class Estimated(_Elementwise):
    """A parameter of an earlier fit: real numbers whose value, and so shape, `with_value` sets."""

    name: str
    declared_shape: tuple[int, ...] | None = None
    start: Start | None = None
    link: ClassVar[Link] = IDENTITY

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SpecificationError(
                f"estimated(name) expected the name of a parameter of the earlier fit, got {self.name!r}."
            )
        if self.declared_shape is not None:
            shape = self.declared_shape
            lengths = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
            set_fields(self, declared_shape=tuple(as_count(length, self.title, 1) for length in lengths))

    @property
    def title(self) -> str:
        return f"estimated({self.name!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        if self.start is not None:
            return np.shape(self.start)
        if self.declared_shape is None:
            raise SpecificationError(
                f"{self.title} has no value yet: expected the earlier fit's estimate, got none. "
                "Call with_value(value), or declare estimated(name, shape=...)."
            )
        return self.declared_shape

    def with_value(self, value: Any) -> Estimated:
        """Return this placeholder holding `value`, which must fit a declared shape.

        >>> estimated("beta").with_value([1.0, 2.0]).labels("b")
        ['b[0]', 'b[1]']
        """
        start = as_numbers(value, self.title)
        if self.declared_shape is not None and np.shape(start) != self.declared_shape:
            raise SpecificationError(
                f"Value of {self.title} has the wrong shape: expected {self.declared_shape}, "
                f"got {np.shape(start)}."
            )
        return Estimated(self.name, self.declared_shape, start)


@dataclass(frozen=True, eq=False)
class Fixed(Kind):
    """A constant: no coordinates (d = 0), reported without uncertainty."""

    start: Start
    elementwise: ClassVar[bool] = True
    title: ClassVar[str] = "fixed"
    n_free: ClassVar[int] = 0

    def __post_init__(self) -> None:
        set_fields(self, start=as_numbers(self.start, "fixed(value)"))

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.start)

    def default_free(self) -> Array:
        return np.zeros(0)

    def value(self, u: Any, xp: Any = np) -> Any:
        return self.start

    def free(self, value: Any) -> Array:
        if not np.array_equal(self._checked(value), self.start):
            raise self._outside(f"the constant {self.start}", value)
        return np.zeros(0)

    def jacobian(self, u: Array) -> Array:
        return np.zeros((self.n_reported, 0))

    def second(self, u: Array, weights: Array) -> Array:
        return np.zeros((0, 0))

    def free_labels(self, name: str) -> list[str]:
        return []


def real(start: Any = 0.0) -> Real:
    """Declare a number, or an array of numbers of the shape of `start`, without bounds.

    >>> real([0.0, 0.0]).labels("beta")
    ['beta[0]', 'beta[1]']
    """
    return Real(start)


def positive(start: Any = 1.0) -> Positive:
    """Declare a number, or an array of the shape of `start`, above zero: exp(u).

    >>> positive(2.0).free_labels("sigma")
    ['log(sigma)']
    """
    return Positive(start)


def interval(lo: float, hi: float, start: Any = None) -> Interval:
    """Declare a number, or an array of the shape of `start`, strictly between `lo` and `hi`.

    One of the ends may be infinite: interval(2, inf) for degrees of freedom.

    >>> float(interval(-1, 1).value(np.zeros(1)))
    0.0
    """
    return Interval(lo, hi, start)


def simplex(d: int, start: Any = None) -> Simplex:
    """Declare `d` positive shares that sum to one, d - 1 of them free.

    >>> simplex(4).value(np.zeros(3)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return Simplex(d, start)


def ordered(d: int, start: Any = None) -> Ordered:
    """Declare `d` increasing numbers, such as the cut points of an ordered outcome.

    >>> ordered(3).value(ordered(3).default_free()).tolist()
    [-1.0, 0.0, 1.0]
    """
    return Ordered(d, start)


def correlation(d: int, start: Any = None) -> Correlation:
    """Declare a `d` x `d` correlation matrix, reported by its entries below the diagonal.

    >>> correlation(3).labels("R")
    ['R[1,0]', 'R[2,0]', 'R[2,1]']
    """
    return Correlation(d, start)


def covariance(d: int, start: Any = None) -> Covariance:
    """Declare a `d` x `d` positive definite matrix, reported by its vech.

    >>> covariance(2).labels("Sigma")
    ['Sigma[0,0]', 'Sigma[1,0]', 'Sigma[1,1]']
    """
    return Covariance(d, start)


def fixed(value: Any) -> Fixed:
    """Declare a constant: not estimated, reported without uncertainty.

    >>> fixed(1.0).n_free
    0
    """
    return Fixed(value)


def estimated(name: str, shape: Any = None) -> Estimated:
    """Declare an argument that is the parameter `name` of an earlier fit (for `two_step`).

    >>> estimated("beta", shape=2).n_free
    2
    """
    return Estimated(name, shape)


def as_kind(declared: Any) -> Kind:
    """Return a declaration as a kind: kinds as they are, numbers and arrays as real.

    >>> as_kind([0.0, 1.0]).shape
    (2,)
    """
    return declared if isinstance(declared, Kind) else Real(declared)


def _bound(value: Any) -> float:
    """Return a bound as a float, NaN for whatever is not a real number."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if number else math.nan
