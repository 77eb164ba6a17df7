"""The parameter kinds: where a parameter may lie, and its transform from unconstrained numbers.

A kind maps d unconstrained coordinates u to the value that reaches the user's function, and to the
m reported entries, with the exact first and second derivatives of the latter, so that the delta
method and the chain rule for Hessians need no differences. Kinds are frozen values that compare by
content. A coordinate beyond +-709 overflows to inf as `exp` does; callers evaluate trial points
under their own `np.errstate`.
"""

from __future__ import annotations

import functools
import math
import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError, SupportError
from mlecov.matrix import vech_indices

Array = npt.NDArray[np.float64]
Start = float | Array


@dataclass(frozen=True, slots=True)
class Link:
    """The increasing map of the open interval (lo, hi) onto the whole line.

    Formula: identity on the line; log(x - lo) or -log(hi - x) with one finite end;
    logit = log((x - lo)/(hi - x)) with two. Reference: McCullagh & Nelder (1989), section 2.2.3.

    >>> link = Link(-1.0, 1.0)
    >>> link.name, round(float(link.inverse(link.forward(0.5))), 12)
    ('logit(-1,1)', 0.5)
    """

    lo: float = -math.inf
    hi: float = math.inf

    @property
    def name(self) -> str:
        """Return `identity`, `log`, `log(lo,inf)`, `log(-inf,hi)` or `logit(lo,hi)`."""
        if self.lo == 0 and self.hi == math.inf:
            return "log"
        bounds = f"({self.lo:g},{self.hi:g})"
        below, above = math.isfinite(self.lo), math.isfinite(self.hi)
        return f"logit{bounds}" if below and above else f"log{bounds}" if below or above else "identity"

    def forward(self, x: Any) -> Any:
        """Return the unconstrained number of `x`, elementwise."""
        lo, hi = self.lo, self.hi
        if lo == -math.inf:
            return x if hi == math.inf else -np.log(hi - x)
        if hi == math.inf:
            return np.log(x - lo)
        # atanh keeps the relative accuracy of values near zero
        return 2.0 * np.arctanh(x / hi) if lo == -hi else np.log(x - lo) - np.log(hi - x)

    def derivative(self, x: Any) -> Any:
        """Return d forward / d x: 1/(x - lo) + 1/(hi - x), a term for each finite end."""
        lo, hi = self.lo, self.hi
        if lo == -math.inf:
            return np.ones_like(x) if hi == math.inf else 1.0 / (hi - x)
        return 1.0 / (x - lo) if hi == math.inf else 1.0 / (x - lo) + 1.0 / (hi - x)

    def inverse(self, y: Any, xp: Any = np) -> Any:
        """Return the point of (lo, hi) whose unconstrained number is `y`, elementwise, traceably."""
        lo, hi = self.lo, self.hi
        if lo == -math.inf:
            return y if hi == math.inf else hi - xp.exp(-y)
        if hi == math.inf:
            return xp.exp(y) if lo == 0 else lo + xp.exp(y)
        if lo == -hi:
            return hi * xp.tanh(0.5 * y)
        # anchored at the end nearer to zero, where relative accuracy can be kept; logaddexp because
        # its derivatives are right at y = 0, where those of abs are not
        if abs(lo) <= abs(hi):
            return lo + (hi - lo) * xp.exp(-xp.logaddexp(0.0, -y))
        return hi - (hi - lo) * xp.exp(-xp.logaddexp(0.0, y))

    def inverse_derivatives(self, y: Array) -> tuple[Array, Array]:
        """Return first and second derivative of `inverse` at `y`: w ab and w ab(a - b) for the logit.

        Here w = hi - lo, b = 1/(1 + exp(-y)) and a = 1 - b.
        """
        lo, hi = self.lo, self.hi
        if lo == -math.inf:
            if hi == math.inf:
                return np.ones_like(y), np.zeros_like(y)
            slope = np.exp(-y)
            return slope, -slope
        if hi == math.inf:
            slope = np.exp(y)
            return slope, slope
        a, b = np.exp(-np.logaddexp(0.0, y)), np.exp(-np.logaddexp(0.0, -y))
        slope = (hi - lo) * a * b
        return slope, slope * np.tanh(-0.5 * y)


IDENTITY = Link()
LOG = Link(0.0)
UNIT = Link(0.0, 1.0)
SYMMETRIC = Link(-1.0, 1.0)


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
        array = np.asarray(_numbers(value, self.title))
        if array.shape != self.shape:
            raise SpecificationError(
                f"Value of {self.title} has the wrong shape: expected {self.shape}, got {array.shape}."
            )
        return array


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
        _set(self, start=_numbers(self.start, "real(start)"))


@dataclass(frozen=True, eq=False)
class Positive(_Elementwise):
    """A number or an array of numbers above zero: value = exp(u)."""

    start: Start = 1.0
    title: ClassVar[str] = "positive"
    link: ClassVar[Link] = LOG

    def __post_init__(self) -> None:
        _set(self, start=_numbers(self.start, "positive(start)"))
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
        _set(self, lo=lo, hi=hi)
        if self.start is not None:
            _set(self, start=_numbers(self.start, f"{self.title} start"))
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
            _set(self, declared_shape=tuple(_count(length, self.title, 1) for length in lengths))

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
        start = _numbers(value, self.title)
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
        _set(self, start=_numbers(self.start, "fixed(value)"))

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


@dataclass(frozen=True, eq=False)
class _Sized(Kind):
    """Kinds declared by a number of entries `d` and an optional start value."""

    d: int
    start: Start | None = None
    smallest: ClassVar[int] = 1

    def __post_init__(self) -> None:
        name = type(self).__name__.lower()
        _set(self, d=_count(self.d, f"{name}(d)", self.smallest))
        if self.start is not None:
            _set(self, start=_numbers(self.start, f"{self.title} start"))
            self.free(self.start)

    @property
    def title(self) -> str:
        return f"{type(self).__name__.lower()}({self.d})"


@dataclass(frozen=True, eq=False)
class Simplex(_Sized):
    """d shares above zero that sum to one: p = softmax(u_1, ..., u_(d-1), 0).

    Reference: Aitchison (1982), JRSS B 44, additive log ratios.
    """

    smallest: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.d,)

    @property
    def n_free(self) -> int:
        return self.d - 1

    def default_free(self) -> Array:
        return np.zeros(self.d - 1)

    def value(self, u: Any, xp: Any = np) -> Any:
        logits = xp.concatenate([u, xp.zeros(1)])
        # the maximum cancels from value and derivatives alike
        odds = xp.exp(logits - xp.max(logits))
        return odds / xp.sum(odds)

    def free(self, value: Any) -> Array:
        p = self._checked(value)
        if not (p > 0).all():
            raise self._outside("every share above 0", p.min())
        if abs(p.sum() - 1.0) > 1e-8:
            raise self._outside("shares that sum to 1", f"the sum {p.sum():.10g}")
        ratios: Array = np.log(p[:-1] / p[-1])
        return ratios

    def jacobian(self, u: Array) -> Array:
        p = self.report(u)
        return (np.diag(p) - np.outer(p, p))[:, :-1]

    def second(self, u: Array, weights: Array) -> Array:
        # from dp_i = p_i (e_i - p)' du, with w centred at its mean w'p
        p = self.report(u)
        slope = (p * (weights - weights @ p))[:-1]
        cross = np.outer(slope, p[:-1])
        return np.diag(slope) - cross - cross.T

    def free_labels(self, name: str) -> list[str]:
        return [f"log({name}[{i}]/{name}[{self.d - 1}])" for i in range(self.d - 1)]

    def interval_links(self) -> tuple[Link, ...]:
        return (UNIT,) * self.d

    @property
    def zero_on_bound(self) -> tuple[bool, ...]:
        return (True,) * self.d


@dataclass(frozen=True, eq=False)
class Ordered(_Sized):
    """d increasing numbers, such as cut points: c_0 = u_0, c_i = c_(i-1) + exp(u_i)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.d,)

    @property
    def n_free(self) -> int:
        return self.d

    def default_free(self) -> Array:
        return np.concatenate([[-0.5 * (self.d - 1)], np.zeros(self.d - 1)])

    def value(self, u: Any, xp: Any = np) -> Any:
        return xp.cumsum(xp.concatenate([u[:1], xp.exp(u[1:])]))

    def free(self, value: Any) -> Array:
        c = self._checked(value)
        steps = np.diff(c)
        if not (steps > 0).all():
            i = int(np.argmin(steps > 0))
            raise self._outside("increasing entries", f"{c[i]:g} followed by {c[i + 1]:g} at entry {i + 1}")
        return np.concatenate([c[:1], np.log(steps)])

    def jacobian(self, u: Array) -> Array:
        slope: Array = np.tri(self.d) * np.concatenate([[1.0], np.exp(u[1:])])
        return slope

    def second(self, u: Array, weights: Array) -> Array:
        later = np.cumsum(weights[::-1])[::-1]  # c_i and all after it move with u_i
        return np.diag(np.concatenate([[0.0], np.exp(u[1:]) * later[1:]]))

    def free_labels(self, name: str) -> list[str]:
        return [f"{name}[0]", *(f"log({name}[{i}] - {name}[{i - 1}])" for i in range(1, self.d))]


@dataclass(frozen=True, eq=False)
class Correlation(_Sized):
    """A d x d correlation matrix R = L L'; reported are its strictly lower entries by columns.

    Row i of L is tanh(u_i0), tanh(u_i1) sech(u_i0), ..., prod_k sech(u_ik): u are Fisher's z of the
    partial correlations of i and j given all before j, so that d = 2 gives rho = tanh(u).
    Reference: Lewandowski, Kurowicka & Joe (2009), J. Multivariate Analysis 100.
    """

    smallest: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.d, self.d)

    @property
    def n_free(self) -> int:
        return self.d * (self.d - 1) // 2

    @property
    def n_reported(self) -> int:
        return self.n_free

    def default_free(self) -> Array:
        return np.zeros(self.n_free)

    def value(self, u: Any, xp: Any = np) -> Any:
        factor = self._factor(u, xp)
        return factor @ factor.T

    def _factor(self, u: Any, xp: Any) -> Any:
        """Return L (d, d); entries off the triangle hold z = 0, whose sech is 1."""
        d = self.d
        z = xp.where(np.tri(d, k=-1) > 0, u[_positions(d, strict=True)], 0.0)
        log_sech = math.log(2.0) - xp.logaddexp(z, -z)
        before = xp.exp(log_sech @ np.triu(np.ones((d, d)), 1))  # product of sech left of each entry
        return (xp.tanh(z) + np.eye(d)) * before * np.tri(d)

    def free(self, value: Any) -> Array:
        matrix = self._checked(value)
        if np.abs(np.diag(matrix) - 1.0).max() > 1e-8:
            raise self._outside("ones on the diagonal", np.diag(matrix))
        factor = _cholesky(self, matrix)
        rows, columns = _strict_indices(self.d)
        # sinh(u_ij) = L_ij / (length of the rest of the row), accurate up to the bound
        rest = np.sqrt(np.cumsum(factor[:, ::-1] ** 2, axis=1)[:, ::-1])
        return np.arcsinh(factor[rows, columns] / rest[rows, columns + 1])

    def report(self, u: Array) -> Array:
        rows, columns = _strict_indices(self.d)
        matrix: Array = self.value(np.asarray(u, dtype=np.float64))
        return matrix[rows, columns]

    def _slopes(self, u: Array) -> tuple[Array, Array, Array]:
        """Return L, dL[a, b] / du_(row, col) as (d, d_free) rows of L moved, and tanh(u).

        Only row i of L moves with u_ij: entry k > j by -tanh(u_ij) L_ik, entry j by sech^2 P_ij.
        """
        rows, columns = _strict_indices(self.d)
        factor = self._factor(u, np)
        z = np.tanh(u)
        moved = np.where(np.arange(self.d)[:, None] > columns, -z * factor[rows].T, 0.0)
        moved[columns, np.arange(len(u))] = self._slope_own(u, factor)
        return factor, moved, z

    def _slope_own(self, u: Array, factor: Array) -> Array:
        """Return sech^2(u_ij) prod_(k<j) sech(u_ik): the rest of the row after j times sech(u_ij)."""
        rows, columns = _strict_indices(self.d)
        rest = np.sqrt(np.cumsum(factor[:, ::-1] ** 2, axis=1)[:, ::-1])
        slope: Array = rest[rows, columns + 1] * np.exp(math.log(2.0) - np.logaddexp(u, -u))
        return slope

    def jacobian(self, u: Array) -> Array:
        # dR_pq = (dL_p)'L_q + L_p'(dL_q), and du_ij moves row i alone
        u = np.asarray(u, dtype=np.float64)
        rows, columns = _strict_indices(self.d)
        factor, moved, _ = self._slopes(u)
        pull = factor @ moved  # (d, d_free): L_q'(dL_i / du_ij)
        slope: Array = (rows[:, None] == rows) * pull[columns] + (columns[:, None] == rows) * pull[rows]
        return slope

    def second(self, u: Array, weights: Array) -> Array:
        # sum w_pq L_p'L_q: rows p != q cross through w_pq dL_p'dL_q; within a row through d2 L_i
        u = np.asarray(u, dtype=np.float64)
        rows, columns = _strict_indices(self.d)
        factor, moved, z = self._slopes(u)
        symmetric = np.zeros((self.d, self.d))
        symmetric[rows, columns] = symmetric[columns, rows] = weights
        result = symmetric[rows[:, None], rows] * (moved.T @ moved)
        pull = (symmetric @ factor)[rows] * moved.T  # (d_free, d): gradient of L_i times dL_ik/du_ij
        same = rows[:, None] == rows
        later = np.arange(self.d) > columns[:, None]
        # d2 L_ik / du_ij du_il = -tanh(u_ij) dL_ik/du_il for j < l (and by symmetry) ...
        upper = same & (columns[:, None] < columns)
        cross = np.where(upper, -z[:, None] * pull.sum(axis=1), 0.0)
        result += cross + cross.T
        # ... and for j = l: (tanh^2 - sech^2) L_ik beyond j, -2 tanh(u) dL_ij/du at j itself
        gradient = (symmetric @ factor)[rows] * factor[rows]
        beyond = (2.0 * z**2 - 1.0) * np.where(later, gradient, 0.0).sum(axis=1)
        own = -2.0 * z * pull[np.arange(len(u)), columns]
        return result + np.diag(beyond + own)

    def labels(self, name: str) -> list[str]:
        return [f"{name}[{i},{j}]" for i, j in zip(*_strict_indices(self.d), strict=True)]

    def free_labels(self, name: str) -> list[str]:
        given = [",".join(map(str, range(j))) for j in range(self.d)]
        return [
            f"atanh({name}[{i},{j}|{given[j]}])" if j else f"atanh({name}[{i},0])"
            for i, j in zip(*_strict_indices(self.d), strict=True)
        ]

    def interval_links(self) -> tuple[Link, ...]:
        return (SYMMETRIC,) * self.n_reported


@dataclass(frozen=True, eq=False)
class Covariance(_Sized):
    """A d x d positive definite matrix Sigma = L L', reported as its vech.

    u = vech L with the logarithm of its diagonal. d vech Sigma = 2 D^+ (L x I) E' d vech L, with the
    duplication matrix D and the elimination matrix E. Reference: Pinheiro & Bates (1996), Statistics
    and Computing 6; Magnus & Neudecker (2019), chapter 3.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.d, self.d)

    @property
    def n_free(self) -> int:
        return self.d * (self.d + 1) // 2

    @property
    def n_reported(self) -> int:
        return self.n_free

    def default_free(self) -> Array:
        return np.zeros(self.n_free)

    def value(self, u: Any, xp: Any = np) -> Any:
        factor = self._factor(u, xp)
        return factor @ factor.T

    def _factor(self, u: Any, xp: Any) -> Any:
        """Return L (d, d); exp sees diagonal entries alone, so that no inf hides behind a mask."""
        entries = u[_positions(self.d, strict=False)]
        diagonal = np.eye(self.d) > 0
        exponents = xp.where(diagonal, entries, 0.0)
        return xp.where(diagonal, xp.exp(exponents), xp.where(np.tri(self.d) > 0, entries, 0.0))

    def free(self, value: Any) -> Array:
        factor = _cholesky(self, self._checked(value))
        rows, columns = vech_indices(self.d)
        u: Array = factor[rows, columns]
        u[rows == columns] = np.log(u[rows == columns])
        return u

    def report(self, u: Array) -> Array:
        rows, columns = vech_indices(self.d)
        matrix: Array = self.value(np.asarray(u, dtype=np.float64))
        return matrix[rows, columns]

    def jacobian(self, u: Array) -> Array:
        # dL = e_a e_b' gives dSigma = e_a l_b' + l_b e_a' (l_b column b of L): 2 D^+ (L x I) E' by entry
        rows, columns = vech_indices(self.d)
        factor = self._factor(np.asarray(u, dtype=np.float64), np)
        p, q = rows[:, None], columns[:, None]
        slope: Array = (p == rows) * factor[q, columns] + (q == rows) * factor[p, columns]
        slope *= self._stretch(factor)
        return slope

    def second(self, u: Array, weights: Array) -> Array:
        # w'vech(LL') = tr(A L L') with vec A = D^+' w: gradient 2AL, Hessian 2 E (I x A) E'
        rows, columns = vech_indices(self.d)
        factor = self._factor(np.asarray(u, dtype=np.float64), np)
        doubled = np.zeros((self.d, self.d))  # 2A
        doubled[rows, columns] = weights
        doubled = doubled + doubled.T
        stretch = self._stretch(factor)
        hessian: Array = doubled[rows[:, None], rows] * (columns[:, None] == columns)
        hessian *= np.outer(stretch, stretch)
        bend = np.where(rows == columns, (doubled @ factor)[rows, columns] * stretch, 0.0)
        hessian += np.diag(bend)
        return hessian

    def _stretch(self, factor: Array) -> Array:
        """Return d vech(L)_i / du_i: L_ii for the log diagonal, 1 elsewhere."""
        rows, columns = vech_indices(self.d)
        return np.where(rows == columns, factor[rows, columns], 1.0)

    def labels(self, name: str) -> list[str]:
        return [f"{name}[{i},{j}]" for i, j in zip(*vech_indices(self.d), strict=True)]

    def free_labels(self, name: str) -> list[str]:
        return [
            f"log(chol({name})[{i},{j}])" if i == j else f"chol({name})[{i},{j}]"
            for i, j in zip(*vech_indices(self.d), strict=True)
        ]

    def interval_links(self) -> tuple[Link, ...]:
        return tuple(LOG if variance else IDENTITY for variance in self.zero_on_bound)

    @property
    def zero_on_bound(self) -> tuple[bool, ...]:
        rows, columns = vech_indices(self.d)
        return tuple((rows == columns).tolist())


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


def _set(kind: Kind, **values: Any) -> None:
    """Write checked fields of a frozen kind while it is being made."""
    for name, value in values.items():
        object.__setattr__(kind, name, value)


def _numbers(value: Any, where: str) -> Start:
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


def _bound(value: Any) -> float:
    """Return a bound as a float, NaN for whatever is not a real number."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if number else math.nan


def _count(value: Any, where: str, smallest: int) -> int:
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


def _cholesky(kind: Kind, matrix: Array) -> Array:
    """Return the lower Cholesky factor of `matrix`, or raise naming what it lacks."""
    gap = float(np.abs(matrix - matrix.T).max())
    if gap > 1e-10 * float(np.abs(matrix).max()):
        raise kind._outside("a symmetric matrix", f"entries that differ from their mirror by {gap:.3g}")
    try:
        factor: Array = np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
        return factor
    except np.linalg.LinAlgError:
        smallest = float(np.linalg.eigvalsh(matrix)[0])
        raise kind._outside("a positive definite matrix", f"smallest eigenvalue {smallest:.3g}") from None


@functools.cache
def _strict_indices(d: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the d(d-1)/2 entries below the diagonal, column by column."""
    rows, columns = vech_indices(d)
    return rows[rows > columns], columns[rows > columns]


@functools.cache
def _positions(d: int, strict: bool) -> npt.NDArray[np.intp]:
    """Return (d, d) positions in u of the (strictly) lower entries; 0, to be masked, elsewhere."""
    rows, columns = _strict_indices(d) if strict else vech_indices(d)
    positions = np.zeros((d, d), dtype=np.intp)
    positions[rows, columns] = np.arange(len(rows))
    positions.flags.writeable = False
    return positions
