"""ParameterSpace: names, packing, transforms, fixed entries and constraints.

Three vectors describe one point:

* `theta` (k,): what the optimiser moves; unconstrained, after fixing and constraints;
* `raw` (K,): the unconstrained coordinates of all declared parameters, raw = R theta + r;
* `params` (m,): what the user named, on the user's scale, entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError, listing, suggestion
from mlecov.expressions import parse_linear, split_texts
from mlecov.kinds import Estimated, Fixed, Kind, Link, Real

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LinearTerms:
    """A parameter declared `linear`: one or more equations with one design, before it meets data."""

    formula: str | tuple[str, ...]
    offset: str | None = None
    equations: tuple[str, ...] = ()
    start: Any = None


def linear(
    formula: str | Sequence[str],
    offset: str | None = None,
    equations: Sequence[str] = (),
    start: Any = None,
) -> LinearTerms:
    """Declare a parameter that is a linear predictor X b of the data.

    Parameters
    ----------
    formula :
        The right-hand side of a formula ("kids + educ + C(region)", with an intercept unless "- 1"),
        or a list of columns, taken as they are (no intercept is added).
    offset :
        Name of a column added to the predictor with coefficient one.
    equations :
        Names of several equations with this formula; the function then receives (n, E).
    start :
        Start values of the coefficients, p numbers (or (E, p) for several equations).

    Example
    -------
    >>> linear("kids + educ").formula
    'kids + educ'
    """
    return LinearTerms(
        formula if isinstance(formula, str) else tuple(formula), offset, tuple(equations), start
    )


@dataclass(frozen=True)
class LinearKind(Kind):
    """Coefficients of E equations with p columns each: real numbers with the columns' names."""

    columns: tuple[str, ...]
    equations: tuple[str, ...] = ()
    start_value: tuple[float, ...] | None = None

    elementwise = True

    @property
    def n_free(self) -> int:
        return len(self.columns) * max(len(self.equations), 1)

    @property
    def n_reported(self) -> int:
        return self.n_free

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.equations), len(self.columns)) if self.equations else (len(self.columns),)

    @property
    def start(self) -> Any:  # type: ignore[override]
        return None if self.start_value is None else np.reshape(self.start_value, self.shape)

    @property
    def title(self) -> str:
        return "linear(...)"

    def default_free(self) -> Array:
        return np.zeros(self.n_free)

    def value(self, u: Any, xp: Any = np) -> Any:
        return xp.reshape(u, self.shape)

    def free(self, value: Any) -> Array:
        flat = np.asarray(value, dtype=float).reshape(-1)
        if len(flat) != self.n_free:
            raise SpecificationError(
                f"a linear parameter with columns {listing(self.columns)} takes {self.n_free} numbers; "
                f"got {len(flat)}."
            )
        return flat.copy()

    def report(self, u: Array) -> Array:
        return u

    def jacobian(self, u: Array) -> Array:
        return np.eye(self.n_free)

    def second(self, u: Array, weights: Array) -> Array:
        return np.zeros((self.n_free, self.n_free))

    def labels(self, name: str) -> list[str]:
        if not self.equations:
            return [f"{name}[{column}]" for column in self.columns]
        return [f"{name}.{equation}[{column}]" for equation in self.equations for column in self.columns]

    def free_labels(self, name: str) -> list[str]:
        return self.labels(name)

    def interval_links(self) -> tuple[Link, ...]:
        return (Link(),) * self.n_free

    @property
    def zero_on_bound(self) -> tuple[bool, ...]:
        return (False,) * self.n_free


@dataclass(frozen=True)
class Parameter:
    """One named parameter and where its coordinates sit in raw (`free`) and in params (`reported`)."""

    name: str
    kind: Kind
    free: slice
    reported: slice


@dataclass(frozen=True)
class ParameterSpace:
    """All declared parameters, and the affine map raw = R theta + r of fixing and constraints."""

    parameters: tuple[Parameter, ...]
    matrix: Array | None = None
    origin: Array | None = None
    restrictions: tuple[str, ...] = field(default=())

    @staticmethod
    def of(kinds: Mapping[str, Kind]) -> ParameterSpace:
        """Return the space of the named kinds, in order of declaration."""
        parameters, free, reported = [], 0, 0
        for name, kind in kinds.items():
            parameters.append(
                Parameter(
                    name,
                    kind,
                    slice(free, free + kind.n_free),
                    slice(reported, reported + kind.n_reported),
                )
            )
            free, reported = free + kind.n_free, reported + kind.n_reported
        return ParameterSpace(tuple(parameters))

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise SpecificationError(
            f"no parameter {name!r}.{suggestion(name, [p.name for p in self.parameters])}"
        )

    @cached_property
    def n_raw(self) -> int:
        """K, the number of unconstrained coordinates before constraints."""
        return self.parameters[-1].free.stop if self.parameters else 0

    @cached_property
    def m(self) -> int:
        """The number of reported entries."""
        return self.parameters[-1].reported.stop if self.parameters else 0

    @cached_property
    def k(self) -> int:
        """The number of free parameters."""
        return self.n_raw if self.matrix is None else self.matrix.shape[1]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the reported entries (m)."""
        return tuple(label for p in self.parameters for label in p.kind.labels(p.name))

    @cached_property
    def raw_labels(self) -> tuple[str, ...]:
        """Names of the unconstrained coordinates (K)."""
        return tuple(label for p in self.parameters for label in p.kind.free_labels(p.name))

    @cached_property
    def free_labels(self) -> tuple[str, ...]:
        """Names of theta (k): the unconstrained coordinates that constraints leave."""
        if self.matrix is None:
            return self.raw_labels
        names = []
        for j in range(self.k):
            own = np.flatnonzero((self.matrix[:, j] != 0) & ((self.matrix != 0).sum(axis=1) == 1))
            names.append(self.raw_labels[own[0]] if len(own) else f"theta[{j}]")
        return tuple(names)

    @cached_property
    def is_identity(self) -> bool:
        """Whether params and theta are the same numbers (only real and linear parameters, no constraint)."""
        return self.matrix is None and all(
            isinstance(p.kind, (Real, LinearKind, Estimated)) for p in self.parameters
        )

    def raw(self, theta: Array) -> Array:
        """Return R theta + r (K,)."""
        if self.matrix is None or self.origin is None:
            return theta
        return np.asarray(self.matrix @ theta + self.origin)

    def theta(self, raw: Array) -> Array:
        """Return the theta whose raw coordinates are nearest to `raw` (exact where it satisfies them)."""
        if self.matrix is None or self.origin is None:
            return np.array(raw, dtype=float)
        return np.asarray(np.linalg.lstsq(self.matrix, raw - self.origin, rcond=None)[0])

    def start(self) -> Array:
        """Return the declared or default start values, as theta."""
        parts = [p.kind.start_free() for p in self.parameters]
        return self.theta(np.concatenate(parts) if parts else np.zeros(0))

    def values(self, theta: Array) -> dict[str, Any]:
        """Return the nested values on the user's scale: name -> number or array."""
        raw = self.raw(theta)
        return {p.name: p.kind.value(raw[p.free]) for p in self.parameters}

    def pack(self, values: Mapping[str, Any], base: Array | None = None) -> Array:
        """Return theta for user-scale `values`, by parameter or by reported entry ("mu[x1]").

        What is not named keeps the value of `base`, or the start.
        """
        raw = np.array(self.raw(self.start() if base is None else base))
        for name, value in values.items():
            if name in self.labels and name not in [p.name for p in self.parameters]:
                entry = self.labels.index(name)
                owner = next(p for p in self if p.reported.start <= entry < p.reported.stop)
                if owner.kind.elementwise and owner.kind.n_free:
                    at = owner.free.start + entry - owner.reported.start
                    raw[at] = _free_entry(owner, entry, float(value))
                    continue
            parameter = self[name]
            raw[parameter.free] = parameter.kind.free(value)
        return self.theta(raw)

    def report(self, theta: Array) -> Array:
        """Return params (m,) on the user's scale."""
        raw = self.raw(theta)
        if self.is_identity:
            return np.array(raw)
        return np.concatenate([np.zeros(0), *[p.kind.report(raw[p.free]) for p in self.parameters]])

    def jacobian(self, theta: Array) -> Array:
        """Return d params / d theta (m, k)."""
        if self.is_identity:
            return np.eye(self.k)
        raw = self.raw(theta)
        full = np.zeros((self.m, self.n_raw))
        for p in self.parameters:
            if p.kind.n_free:
                full[p.reported, p.free] = p.kind.jacobian(raw[p.free])
        return full if self.matrix is None else np.asarray(full @ self.matrix)

    def second(self, theta: Array, weights: Array) -> Array:
        """Return sum_i weights_i d2 params_i / d theta d theta' (k, k)."""
        raw = self.raw(theta)
        full = np.zeros((self.n_raw, self.n_raw))
        for p in self.parameters:
            if p.kind.n_free:
                full[p.free, p.free] = p.kind.second(raw[p.free], weights[p.reported])
        return full if self.matrix is None else np.asarray(self.matrix.T @ full @ self.matrix)

    @cached_property
    def interval_links(self) -> tuple[Link, ...]:
        """The scale on which the interval of each reported entry is built (m)."""
        return tuple(link for p in self.parameters for link in p.kind.interval_links())

    @cached_property
    def zero_on_bound(self) -> npt.NDArray[np.bool_]:
        """Whether the hypothesis that a reported entry is zero lies on the bound of its range (m,)."""
        return np.array([flag for p in self.parameters for flag in p.kind.zero_on_bound], dtype=bool)

    def restrict(self, matrix: Array, origin: Array, texts: Sequence[str] = ()) -> ParameterSpace:
        """Return the space of phi with theta = matrix @ phi + origin."""
        if self.matrix is None:
            full, start = matrix, origin
        else:
            full, start = self.matrix @ matrix, self.raw(origin)
        return replace(
            self, matrix=np.asarray(full), origin=np.asarray(start), restrictions=(*self.restrictions, *texts)
        )


def restriction(
    space: ParameterSpace, constraints: str | Sequence[str] = (), fixed: Mapping[str, Any] | None = None
) -> tuple[Array, Array, tuple[str, ...]] | None:
    """Return (R, r, texts) with theta = R phi + r, or None where nothing is restricted.

    A constraint is an equality, linear in entries that are real or linear, or a tie of two entries
    of one kind ("sigma1 = sigma2"), or a value for an entry ("sigma = 1"); several may stand in one
    text, with commas between them. `fixed` maps a
    parameter or a reported entry to its value.

    Raises
    ------
    SpecificationError
        Where a constraint is not linear on the unconstrained scale, contradicts another, or leaves
        nothing to estimate.
    """
    given = [constraints] if isinstance(constraints, str) else list(constraints)
    texts = [text for several in given for text in _texts(several, space.labels)]
    rows = [_constraint_row(space, text) for text in texts]
    for name, value in (fixed or {}).items():
        rows += _fixed_rows(space, name, value)
        texts.append(f"{name} = {value}")
    if not rows:
        return None
    left, right = np.array([row for row, _ in rows]), np.array([value for _, value in rows])
    if space.matrix is not None:
        right, left = right - left @ space.origin, left @ space.matrix
    matrix, origin = _solve_affine(left, right, space, texts)
    return matrix, origin, tuple(texts)


def _constraint_row(space: ParameterSpace, text: str) -> tuple[Array, float]:
    """Return (a, b) on the raw scale for one constraint given as text."""
    coefficients, constant = parse_linear(text, space.labels)
    entries = np.flatnonzero(coefficients)
    owners = [next(p for p in space if p.reported.start <= i < p.reported.stop) for i in entries]
    if not len(entries):
        raise SpecificationError(f"constraint {text!r} names no parameter.")
    row = np.zeros(space.n_raw)
    if all(isinstance(p.kind, (Real, LinearKind, Estimated)) for p in owners):
        for i, p in zip(entries, owners, strict=True):
            row[p.free.start + i - p.reported.start] = coefficients[i]
        return row, constant
    links = [space.interval_links[i] for i in entries]
    separable = all(p.kind.elementwise and p.kind.n_free for p in owners)
    tie = len(entries) == 2 and coefficients[entries].sum() == 0 and constant == 0 and links[0] == links[1]
    if separable and (tie or len(entries) == 1):
        for i, p in zip(entries, owners, strict=True):
            row[p.free.start + i - p.reported.start] = np.sign(coefficients[i])
        if tie:
            return row, 0.0
        value = constant / coefficients[entries[0]]
        return np.abs(row), float(_free_entry(owners[0], int(entries[0]), value))
    raise SpecificationError(
        f"constraint {text!r} is not linear on the unconstrained scale of "
        f"{listing(p.name for p in owners)}. Expected real or linear entries, a tie of two entries of one "
        "kind, or one entry set to a value; else write the likelihood in the parameters that the "
        "constraint leaves."
    )


def _free_entry(parameter: Parameter, entry: int, value: float) -> float:
    """Return the raw coordinate of one entry of an elementwise parameter at a user-scale value."""
    kind = parameter.kind
    flat = np.array(kind.report(kind.default_free()), dtype=float)
    flat[entry - parameter.reported.start] = value
    return float(
        kind.free(flat.reshape(kind.shape) if kind.shape else flat[0])[entry - parameter.reported.start]
    )


def _texts(text: str, labels: Sequence[str]) -> list[str]:
    """Cut "a = b, c = 1" at its commas; a single constraint stays as it is written."""
    parts = split_texts(text, labels) if "," in text else [text]
    return [part.strip() for part in parts if part.strip()] if len(parts) > 1 else [text]


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise SpecificationError(f"fixed: {name!r} is held at {value!r}; expected a finite number.")
    return number


def _fixed_rows(space: ParameterSpace, name: str, value: Any) -> list[tuple[Array, float]]:
    known = [p.name for p in space]
    if name in known:
        parameter = space[name]
        raw = parameter.kind.free(value)
        rows = []
        for offset, target in enumerate(raw):
            row = np.zeros(space.n_raw)
            row[parameter.free.start + offset] = 1.0
            rows.append((row, float(target)))
        return rows
    if name in space.labels:
        entry = space.labels.index(name)
        parameter = next(p for p in space if p.reported.start <= entry < p.reported.stop)
        if not parameter.kind.elementwise:
            raise SpecificationError(
                f"fixed: entry {name!r} of a {type(parameter.kind).__name__.lower()} parameter can not be "
                f"fixed alone; fix all of {parameter.name!r}."
            )
        row = np.zeros(space.n_raw)
        row[parameter.free.start + entry - parameter.reported.start] = 1.0
        return [(row, _free_entry(parameter, entry, _number(name, value)))]
    raise SpecificationError(f"fixed: no parameter {name!r}.{suggestion(name, known + list(space.labels))}")


def _solve_affine(
    left: Array, right: Array, space: ParameterSpace, texts: Sequence[str]
) -> tuple[Array, Array]:
    """Return (R, r) of all x with left x = right, eliminating the last parameters first."""
    q, k = left.shape
    table = np.column_stack([left[:, ::-1], right])
    pivots: list[int] = []
    row = 0
    for column in range(k):
        if row == q:
            break
        best = row + int(np.argmax(np.abs(table[row:, column])))
        if abs(table[best, column]) < 1e-12 * max(1.0, float(np.abs(left).max())):
            continue
        table[[row, best]] = table[[best, row]]
        table[row] /= table[row, column]
        for other in range(q):
            if other != row:
                table[other] -= table[other, column] * table[row]
        pivots.append(column)
        row += 1
    if row < q and np.abs(table[row:, -1]).max() > 1e-10 * max(1.0, float(np.abs(right).max())):
        raise SpecificationError(f"constraints {listing(map(repr, texts))} contradict each other.")
    bound = [k - 1 - column for column in pivots]
    kept = [j for j in range(k) if j not in bound]
    if not kept:
        raise SpecificationError(f"constraints {listing(map(repr, texts))} leave no free parameter.")
    matrix, origin = np.zeros((k, len(kept))), np.zeros(k)
    matrix[kept, range(len(kept))] = 1.0
    for line, j in enumerate(bound):
        origin[j] = table[line, -1]
        matrix[j] = [-table[line, k - 1 - other] for other in kept]
    return matrix, origin


def fixed_names(space: ParameterSpace) -> list[str]:
    """Return the names of parameters declared with the kind `fixed`."""
    return [p.name for p in space if isinstance(p.kind, Fixed)]
