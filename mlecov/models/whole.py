"""Ready-made models in whole parameters: terms that depend on each other, or span rows.

A `WholeModel` gives, at the reported parameters (m), the terms' log-likelihood, their scores and the
weighted sum of their second derivatives, all in one pass; `WholeLikelihood` applies the transforms
of the parameter kinds and answers as any likelihood does. `read_series` is the door for time series.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Weights, numeric, open_table, screen, to_numpy
from mlecov.errors import (
    CovarianceError,
    DataError,
    SeparabilityError,
    SpecificationError,
    listing,
)
from mlecov.formulas import Block, columns_used, evaluate, linear_kind, materialize, parse, variables
from mlecov.kinds import Kind, real
from mlecov.likelihood.base import Curvature, Evaluation, Facts, Likelihood, no_expected_information
from mlecov.likelihood.index import collinear
from mlecov.likelihood.scores import Codes, DenseScores
from mlecov.models.predicted import Ahead, Declared
from mlecov.parameters import LinearTerms, ParameterSpace

Array = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]
Derivatives = tuple[Array, Array | None, Array | None]


class WholeModel(ABC):
    """Derivatives of a log-likelihood in the reported parameters (m)."""

    name: ClassVar[str]
    separable: ClassVar[bool] = False
    has_expected: ClassVar[bool] = False
    has_forecast: ClassVar[bool] = False

    @abstractmethod
    def derivatives(self, params: Array, columns: Columns, order: int, w: Array | None) -> Derivatives:
        """Return loglike_obs (n,), scores (n, m) if order >= 1, sum_i w_i d2 l_i (m, m) if order >= 2."""

    @abstractmethod
    def start(self, likelihood: WholeLikelihood) -> Array:
        """Return start values theta (k,)."""

    @abstractmethod
    def simulate(self, rng: np.random.Generator, params: Array, columns: Columns) -> dict[str, Array]:
        """Return the columns whose outcomes are drawn from the model."""

    def expected(self, params: Array, columns: Columns, w: Array | None) -> Array:
        """Return the expected information in the reported parameters (m, m)."""
        raise CovarianceError(no_expected_information(self.name))

    def boundary(self, likelihood: WholeLikelihood, evaluation: Evaluation) -> str | None:
        """Return what is to be said of parameters at a bound where the fit has ended, or None."""
        return None

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """What `predict` knows by name."""
        return {}

    def ahead(self, params: Array, columns: Columns, steps: int, X: Array) -> Ahead:
        """Return the mean and variance of the h = `steps` periods after the sample, regressors X (h, p)."""
        raise SpecificationError(f"{self.name} has no forecasts.")

    def at(self, likelihood: WholeLikelihood, data: Any) -> WholeLikelihood:
        """Return the likelihood over the rows of new data."""
        raise SpecificationError(f"{self.name} is not taken to new data.")

    def take(self, columns: Columns, terms: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of a choice of terms; for separable models whose terms are rows."""
        return {name: values[terms] for name, values in columns.items()}


@dataclass
class LastPass:
    """The last pass of a filter: evaluations at one point that differ by weights alone share it."""

    held: tuple[bytes, int, Array, Any] | None = None

    def get(self, params: Array, order: int, data: Array, run: Callable[[], Any]) -> Any:
        """Return run(), or what it returned last for these parameters, order and data."""
        held, key = self.held, params.tobytes()
        if held is not None and held[0] == key and held[1] == order and held[2] is data:
            return held[3]
        found = run()
        self.held = (key, order, data, found)
        return found


@dataclass(frozen=True)
class WholeLikelihood(Likelihood):
    """The likelihood of a `WholeModel`: S_theta = S_params J, H_theta = J'H J + sum_i g_i d2 params_i."""

    space: ParameterSpace
    rows: Rows
    weights: Weights | None
    facts: Facts
    model: WholeModel
    columns: Columns
    count: int

    @property
    def separable(self) -> bool:  # type: ignore[override]
        return self.model.separable

    @property
    def n_terms(self) -> int:
        return self.count

    @cached_property
    def start_values(self) -> Callable[[], Array]:
        """Says that the model has start values of its own."""
        return self.start

    def start(self) -> Array:
        return self.model.start(self)

    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        theta = np.asarray(theta, dtype=float)
        order = max(order, 1) if scores else order
        w = self.term_weights(weights)
        with np.errstate(all="ignore"):
            params = self.space.report(theta)
            terms, slopes, second = self.model.derivatives(params, self.columns, order, w)
            loglike = float(terms.sum() if w is None else w @ terms)
            if slopes is None:
                return Evaluation(theta, loglike, loglike_obs=terms)
            slope = slopes.sum(axis=0) if w is None else w @ slopes
            jacobian = None if self.space.is_identity else self.space.jacobian(theta)
            gradient, hessian = slope, second
            if jacobian is not None:
                gradient = jacobian.T @ slope
                if second is not None:
                    hessian = jacobian.T @ second @ jacobian + self.space.second(theta, slope)
            found = None
            if scores:
                found = DenseScores(slopes if jacobian is None else slopes @ jacobian, self.weights)
        return Evaluation(theta, loglike, gradient, hessian, found, terms)

    @property
    def has_expected_information(self) -> bool:
        return self.model.has_expected

    def information(self, theta: Array) -> Array:
        matrix = self.model.expected(self.space.report(theta), self.columns, self.term_weights(None))
        jacobian = self.space.jacobian(theta)
        return np.asarray(jacobian.T @ matrix @ jacobian)

    def subset(self, terms: npt.NDArray[np.intp]) -> WholeLikelihood:
        if not self.separable:
            raise SeparabilityError(
                f"{self.facts.name} is not separable (a term depends on the rows before it), so terms "
                "can not be drawn or left out one by one. Use a parametric bootstrap."
            )
        weights = None if self.weights is None else self.weights.take(terms)
        columns = self.model.take(self.columns, terms)
        return replace(
            self, weights=weights, columns=columns, count=len(terms), rows=take_terms(self.rows, terms)
        )

    def curvature_blocks(
        self, theta: Array, codes: Codes, n_groups: int, kind: Curvature
    ) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        """Stream each group's information: the curvature of the likelihood weighted by membership."""
        jacobian, params = self.space.jacobian(theta), self.space.report(theta)
        own = np.ones(self.count) if self.weights is None else self.weights.values
        for group in range(n_groups):
            member = (codes == group).astype(float)
            if kind == "expected":
                block = jacobian.T @ self.model.expected(params, self.columns, own * member) @ jacobian
            else:
                hessian = self.evaluate(theta, order=2, weights=member).hessian
                assert hessian is not None
                block = -hessian
            yield np.array([group], dtype=np.intp), block[None]

    @property
    def has_expected_blocks(self) -> bool:
        return self.model.has_expected

    def boundary(self, evaluation: Evaluation) -> str | None:
        return self.model.boundary(self, evaluation)

    def at(self, data: Any) -> WholeLikelihood:
        """Return this likelihood over the rows of new data, for quantities that are taken there."""
        return self.model.at(self, data)

    def simulate(self, rng: np.random.Generator, theta: Array) -> WholeLikelihood:
        drawn = self.model.simulate(rng, self.space.report(theta), self.columns)
        return replace(self, columns={**self.columns, **drawn})

    def singular_columns(self) -> str | None:
        found = []
        for block in self.facts.extra.get("blocks", {}).values():
            sentence = collinear(block.matrix, block.names)
            found += [sentence] if sentence else []
        return " ".join(found) or None


def take_terms(rows: Rows, terms: npt.NDArray[np.intp]) -> Rows:
    """Return the rows of a choice of terms: rows themselves, or all rows of the units chosen, renumbered."""
    base = np.arange(rows.table.n_rows) if rows.kept is None else rows.kept
    if rows.unit is None:
        return replace(rows, kept=base[terms], cache={})
    order = np.argsort(rows.unit, kind="stable")
    bounds = np.searchsorted(rows.unit[order], np.arange(rows.n_terms + 1))
    parts = [order[bounds[t] : bounds[t + 1]] for t in terms]
    unit = np.repeat(np.arange(len(terms)), [len(part) for part in parts])
    labels = None if rows.unit_labels is None else rows.unit_labels[terms]
    return replace(rows, kept=base[np.concatenate(parts)], unit=unit, unit_labels=labels, cache={})


@dataclass(frozen=True)
class Series:
    """A time series as it came through the door: outcome (N,), regressors (N, p) and their names.

    `constant` says that the regressors are a constant alone, reported as a scalar `mu`.
    """

    outcome: str
    rows: Rows
    y: Array
    block: Block
    constant: bool

    def kind(self, start: Array | None = None) -> Kind:
        """Return the kind of the mean's coefficients."""
        if self.constant:
            return real(0.0 if start is None else float(start[0]))
        kind = linear_kind(self.block)
        return kind if start is None else replace(kind, start_value=tuple(map(float, start)))


def read_series(name: str, y: Any, data: Any = None) -> Series:
    """Return the series of ("y ~ x", data), ("y", data), an array y, or arrays (y, X).

    A column or an array alone has a constant mean; "y ~ 0" has none. Rows are periods in order;
    missing values are refused, because dropping a row would shift the lags of all that follow.

    Raises
    ------
    DataError, SpecificationError
        For columns that are not there, missing, infinite, not numeric or of another length.
    """
    if not isinstance(y, str):
        return _series_of_arrays(name, y, data)
    if data is None:
        raise SpecificationError(
            f"{name}({y!r}): a formula or a column name needs data, the second argument."
        )
    table = open_table(data)
    parsed = parse(y if "~" in y else f"{y} ~ 1")
    if parsed.left is None:
        raise SpecificationError(f"formula {y!r} has no outcome; expected 'y ~ x1 + x2', 'y ~ 1' or 'y'.")
    if parsed.offsets:
        raise SpecificationError(f"{name}: offset() has no meaning here; subtract it from the outcome.")
    bare = parsed.right.replace(" ", "")
    terms = LinearTerms(parsed.right)
    used = [parsed.left] if parsed.left in table else sorted(variables(parsed.left))
    if bare not in ("0", "-1"):
        used += sorted(columns_used(terms, table))
    rows = screen(table, used, "raise")
    outcome = evaluate(parsed.left, rows)
    _refuse_infinite(parsed.left, outcome)
    if bare in ("0", "-1"):
        return Series(parsed.left, rows, outcome, _empty(len(outcome)), False)
    block = materialize(terms, rows)
    if not block.is_dense:
        block = replace(block, matrix=np.asarray(block.matrix.toarray(), dtype=float))
    return Series(parsed.left, rows, outcome, block, block.names == ("Intercept",))


def _empty(n: int) -> Block:
    return Block((), np.zeros((n, 0)), None, LinearTerms(()))


def _refuse_infinite(name: str, values: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"the outcome {name!r} is missing or infinite in row(s) {listing(bad, 5)}; a series must have "
            "no gaps. Cut the sample, or fill the gap."
        )


def _series_of_arrays(name: str, y: Any, X: Any) -> Series:
    outcome = to_numpy(y) if not isinstance(y, (list, tuple)) else np.asarray(y)
    if outcome.ndim != 1:
        raise DataError(f"y has shape {outcome.shape}; expected (n,). Pass y.ravel() or y[:, 0].")
    outcome = numeric("y", outcome)
    _refuse_infinite("y", outcome)
    columns: dict[str, Any] = {"y": outcome}
    if X is None:
        block = Block(("Intercept",), np.ones((len(outcome), 1)), None, LinearTerms("1"))
    else:
        matrix = numeric("X", np.asarray(X))
        if matrix.ndim != 2 or len(matrix) != len(outcome):
            raise DataError(f"X has shape {matrix.shape}; expected ({len(outcome)}, p).")
        labels = getattr(X, "columns", None)
        names = tuple(f"x{j}" for j in range(matrix.shape[1])) if labels is None else tuple(map(str, labels))
        block = Block(names, np.ascontiguousarray(matrix), None, LinearTerms(names))
        columns["X"] = matrix
    rows = screen(open_table(columns), list(columns), "raise")
    label = str(getattr(y, "name", None) or "y")
    return Series(label, rows, outcome, block, X is None)


def count(value: Any, what: str, smallest: int = 0) -> int:
    """Return a whole number of at least `smallest`, or raise naming the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < smallest:
        raise SpecificationError(f"{what}={value!r}: expected a whole number of at least {smallest}.")
    return int(value)


def refuse_constant(series: Series, name: str, least: int) -> None:
    """Raise DataError for a series that is too short, or does not vary."""
    n = len(series.y)
    if n < least:
        raise DataError(f"{name}: {n} rows are too few; at least {least} are needed for these lags.")
    if series.y.min() == series.y.max():
        raise DataError(f"{name}: the outcome {series.outcome!r} is {series.y[0]:g} in every row.")


def least_squares(X: Array, y: Array) -> Array:
    """Return the least-squares coefficients of y (n,) on X (n, p); p may be 0."""
    return np.asarray(np.linalg.lstsq(X, y, rcond=None)[0]) if X.shape[1] else np.zeros(0)


def lagged(x: Array, k: int) -> Array:
    """Return x (n,) shifted by k periods, zeros first."""
    return np.concatenate([np.zeros(k), x[: len(x) - k]])


def hannan_rissanen(u: Array, ar: tuple[int, ...], ma: tuple[int, ...]) -> tuple[Array, Array]:
    """Return start values of the coefficients at lags `ar` and `ma` of a series u (n,) of mean zero.

    A long autoregression gives residuals; u is then regressed on lags of itself and of them. The
    roots are pulled inside the unit circle by shrinking. Reference: Hannan & Rissanen (1982).
    """
    n = len(u)
    if ar or ma:
        long = min(max([*ar, *ma, int(10 * np.log10(n)) if ma else 0]) + 1, max(n // 4, 1))
        past = np.column_stack([lagged(u, k) for k in range(1, long + 1)])
        noise = u - past @ least_squares(past[long:], u[long:])
        noise[:long] = 0.0
        skip = min(long + max(ma, default=0), n // 2)
        design = np.column_stack([lagged(u, k) for k in ar] + [lagged(noise, k) for k in ma])
        found = least_squares(design[skip:], u[skip:])
    else:
        found = np.zeros(0)
    return _inside(found[: len(ar)], ar, -1.0), _inside(found[len(ar) :], ma, 1.0)


def _inside(coefficients: Array, lags: tuple[int, ...], sign: float) -> Array:
    """Return the coefficients of 1 + sign sum c_k L^k shrunk until all roots lie outside |z| = 1/0.95."""
    found = np.where(np.isfinite(coefficients), coefficients, 0.0)
    for _ in range(40):
        polynomial = np.zeros(max(lags, default=0) + 1)
        polynomial[0] = 1.0
        polynomial[list(lags)] = sign * found
        if np.abs(np.roots(polynomial)).max(initial=0.0) < 0.95:
            break
        found = 0.9 * found
    return found
