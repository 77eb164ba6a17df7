"""What a ready-made model is, and how a formula or arrays become its likelihood.

A model of the index engine is a `Model`: the derivatives of its log-density in the predictors, a
check of the outcome's support, start values, mean and simulation. `build` does the rest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.data import (
    Rows,
    Table,
    index_of,
    is_missing,
    numeric,
    open_table,
    same_rows,
    screen,
    term_weights,
    to_numpy,
)
from mlecov.errors import DataError, SpecificationError, SupportError, listing
from mlecov.formulas import (
    Block,
    Formula,
    columns_used,
    evaluate,
    linear_kind,
    materialize,
    parse,
    unite,
    variables,
    without_constant,
)
from mlecov.kinds import Kind
from mlecov.likelihood.base import Facts
from mlecov.likelihood.design import DenseDesign, Equation
from mlecov.likelihood.index import Columns, IndexLikelihood, RowModel
from mlecov.linalg import try_factor
from mlecov.models.predicted import Declared, OfRows
from mlecov.parameters import LinearKind, LinearTerms, ParameterSpace

Array = npt.NDArray[np.float64]


class Model(RowModel):
    """A ready-made row model. `equations` names its predictors in order.

    The first equation is the formula's right-hand side. Every further one is a scalar of the kind
    given, or gets a formula of its own by keyword; its predictor is then the kind's unconstrained
    coordinate (log sigma for a positive sigma).
    """

    name: ClassVar[str]
    equations: Mapping[str, Kind | None]
    without_constant: ClassVar[tuple[str, ...]] = ()
    """Equations whose formula has no constant (cut points or another equation hold it)."""

    @property
    def several(self) -> Mapping[str, tuple[str, ...]]:
        """Linear parameters that are several equations of one formula, with the equations' names."""
        return {}

    @abstractmethod
    def check(self, y: Array, columns: Columns) -> str | None:
        """Return what is wrong with the outcomes, or None: "must be 0 or 1"."""

    def start(self, likelihood: IndexLikelihood) -> Array:
        """Return start values theta (k,)."""
        return likelihood.space.start()

    def mean(self, eta: Array, columns: Columns) -> Array:
        """Return E[y | x] (n,) at predictors eta (E, n)."""
        raise SpecificationError(f"{self.name} has no mean function.")

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """What `predict` knows by name: the mean, to which a model adds its own."""
        return {"mean": OfRows(self.mean)}

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return (F(y-), F(y)) (n,) each: equal for continuous outcomes (quantile residuals)."""
        raise SpecificationError(f"{self.name} has no distribution function.")


def least_squares_start(likelihood: IndexLikelihood, z: Array, weights: Array | None = None) -> Array:
    """Return the least-squares coefficients of the first equation on a working response z (n,)."""
    theta = likelihood.space.start()
    equation = likelihood.equations[0]
    response = z if equation.offset is None else z - equation.offset
    w = np.ones(len(response)) if weights is None else weights
    if likelihood.weights is not None:
        w = w * likelihood.weights.values
    if equation.columns is None:
        theta[equation.start] = float(w @ response / w.sum())
        return theta
    gram = likelihood.design.sandwich(w, equation, equation)
    factor = try_factor(gram)
    right = likelihood.design.transpose_dot(w * response, equation)
    if factor is not None:
        theta[equation.start : equation.stop] = factor.solve(right)
    return theta


def set_constant(likelihood: IndexLikelihood, theta: Array, index: int, value: float) -> None:
    """Set the constant of equation `index` in theta (k,): the scalar itself, or a first column of ones."""
    equation = likelihood.equations[index]
    if equation.columns is None or begins_with_constant(likelihood, index):
        theta[equation.start] = value


def begins_with_constant(likelihood: IndexLikelihood, index: int) -> bool:
    """Tell whether equation `index` is a constant, or has a first column of ones."""
    equation = likelihood.equations[index]
    if equation.columns is None or equation.stop == equation.start:
        return equation.columns is None
    unit = np.eye(equation.stop - equation.start)[0]
    return bool((likelihood.design.dot(unit, equation) == 1).all())


def build(
    model: Model,
    formula: Any,
    data: Any = None,
    *,
    equations: Mapping[str, str | None] | None = None,
    columns: Mapping[str, Any] | None = None,
    offset: str | None = None,
    exposure: str | None = None,
    missing: str = "raise",
    frequency_weights: Any = None,
    probability_weights: Any = None,
    analytic_weights: Any = None,
) -> IndexLikelihood:
    """Return the likelihood of `model` from ("y ~ x1 + x2", data) or from arrays (y, X).

    `equations` gives formulas for further equations by name; `columns` further columns that the
    model reads (name or array). Arrays X are taken as they are: no constant is added.

    Raises
    ------
    DataError, SpecificationError, SupportError
        For columns, formulas or outcomes that do not fit, by name.
    """
    weights = {
        "frequency": frequency_weights,
        "probability": probability_weights,
        "analytic": analytic_weights,
    }
    given = {kind: value for kind, value in weights.items() if value is not None}
    if len(given) > 1:
        raise SpecificationError(
            f"weights of {len(given)} kinds were given ({listing(given)}); one is possible."
        )
    further = {key: text for key, text in (equations or {}).items() if text is not None}
    if isinstance(formula, str):
        if data is None:
            raise SpecificationError(
                f"{model.name}({formula!r}): a formula needs data, as the second argument."
            )
        made = _from_formula(model, formula, data, further, columns, offset, exposure, missing, given)
    else:
        made = _from_arrays(model, formula, data, further, columns, offset, exposure, missing, given)
    outcome, rows, blocks, extra = made
    return _assemble(model, outcome, rows, blocks, extra, given)


def _from_formula(
    model: Model,
    formula: str,
    data: Any,
    further: Mapping[str, str],
    columns: Mapping[str, Any] | None,
    offset: str | None,
    exposure: str | None,
    missing: str,
    weights: Mapping[str, Any],
) -> tuple[str, Rows, dict[str, Block], dict[str, Array]]:
    table = open_table(data)
    parsed = parse(formula)
    if parsed.left is None:
        raise SpecificationError(f"formula {formula!r} has no outcome; expected 'y ~ x1 + x2'.")
    first = next(iter(model.equations))
    terms = {first: _terms(parsed, offset, exposure)}
    terms |= {key: LinearTerms(text) for key, text in further.items()}
    used = [parsed.left] if parsed.left in table else sorted(variables(parsed.left))
    for part in terms.values():
        used += sorted(columns_used(part, table))
    named = {key: value for key, value in (columns or {}).items() if isinstance(value, str)}
    used += [*named.values(), *(v for v in weights.values() if isinstance(v, str))]
    rows = screen(table, used, missing)
    outcome = evaluate(parsed.left, rows)
    blocks = {key: materialize(part, rows) for key, part in terms.items()}
    extra = {
        key: _row_column(rows, key, value) for key, value in (columns or {}).items() if value is not None
    }
    return parsed.left, rows, blocks, {"y": outcome, **extra}


def _terms(parsed: Formula, offset: str | None, exposure: str | None) -> LinearTerms:
    right = parsed.right
    for text, is_exposure in parsed.offsets:
        right += f" + {'exposure' if is_exposure else 'offset'}({text})"
    if exposure is not None:
        right += f" + exposure({exposure})"
    return LinearTerms(right, offset)


def _row_column(rows: Rows, key: str, value: Any) -> Array:
    if isinstance(value, str):
        return rows.column(value)
    return numeric(key, rows.per_term(value, key))


def _from_arrays(
    model: Model,
    y: Any,
    X: Any,
    further: Mapping[str, str],
    columns: Mapping[str, Any] | None,
    offset: Any,
    exposure: Any,
    missing: str,
    weights: Mapping[str, Any],
) -> tuple[str, Rows, dict[str, Block], dict[str, Array]]:
    if X is None:
        raise SpecificationError(f"{model.name}(y, X): X is missing; give a matrix, or a formula and data.")
    if further:
        raise SpecificationError(
            f"formulas for {listing(further)} need data in a frame, with a formula for the outcome."
        )
    same_rows(index_of(y), X, "y", "X")
    outcome, names, matrix = _outcome(y), _column_names(X), _matrix(X)
    if len(outcome) != len(matrix):
        raise DataError(f"y has {len(outcome)} entries, X has {len(matrix)} rows.")
    if not len(outcome):
        raise DataError("the data have no rows.")
    held: dict[str, Any] = {"y": outcome, "X": matrix}
    own = {"offset": offset, "exposure": exposure, **(columns or {})}
    held |= {key: np.asarray(value, dtype=float) for key, value in own.items() if value is not None}
    for key, values in held.items():
        if not values.ndim:
            raise DataError(
                f"{key}: expected one value per row, got the number {float(values):g}; give np.full(n, value)."
            )
    lengths = {key: len(values) for key, values in held.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"arrays differ in length: {listing(f'{k}: {v}' for k, v in lengths.items())}.")
    rows = screen(Table(held, len(outcome), index_of(y)), list(held), missing)
    label = str(getattr(y, "name", None) or "y")
    shift = None
    if offset is not None or exposure is not None:
        shift = np.zeros(rows.n_rows)
        shift = shift + (rows.column("offset") if offset is not None else 0.0)
        shift = shift + (np.log(rows.column("exposure")) if exposure is not None else 0.0)
    first = next(iter(model.equations))
    terms = LinearTerms(names)
    blocks = {first: Block(names, rows.column("X"), shift, terms)}
    extra = {key: rows.column(key) for key in (columns or {}) if key in held}
    return label, rows, blocks, {"y": rows.column("y"), **extra}


def _outcome(y: Any) -> Array:
    array = to_numpy(y) if not isinstance(y, (list, tuple)) else np.asarray(y)
    if array.ndim != 1:
        raise DataError(
            f"y has shape {array.shape}; expected (n,). A column (n, 1) would broadcast against predictors (n,) to "
            "an n x n table: pass y.ravel() or y[:, 0]."
        )
    return array if array.dtype == np.float64 else numeric("y", array)


def _matrix(X: Any) -> Array:
    array = np.asarray(X)
    if array.ndim != 2:
        raise DataError(f"X has shape {array.shape}; expected (n, p).")
    return np.ascontiguousarray(array if array.dtype == np.float64 else numeric("X", array))


def _column_names(X: Any) -> tuple[str, ...]:
    labels = getattr(X, "columns", None)
    if labels is not None:
        return tuple(str(label) for label in labels)
    return tuple(f"x{j}" for j in range(np.shape(X)[1])) if np.ndim(X) == 2 else ()


def _assemble(
    model: Model,
    outcome: str,
    rows: Rows,
    blocks: dict[str, Block],
    columns: dict[str, Array],
    weights: Mapping[str, Any],
) -> IndexLikelihood:
    kinds: dict[str, Kind] = {}
    for key in set(model.without_constant) & set(blocks):
        blocks[key] = without_constant(blocks[key], f"{model.name}: equation {key!r}")
    for key, labels in model.several.items():
        blocks[key] = replace(blocks[key], terms=replace(blocks[key].terms, equations=labels))
    for key, kind in model.equations.items():
        if key in blocks:
            kinds[key] = linear_kind(blocks[key])
        elif kind is None:
            raise SpecificationError(f"{model.name}: equation {key!r} needs a formula: {key}='x1 + x2'.")
        else:
            kinds[key] = kind
    unknown = [key for key in blocks if key not in model.equations]
    if unknown:
        raise SpecificationError(
            f"{model.name} has no equation {listing(map(repr, unknown))}; it has {listing(model.equations)}."
        )
    space = ParameterSpace.of(kinds)
    made: tuple[Equation, ...]
    single = len(blocks) == 1 and len(kinds) == 1 and not model.several
    if single and isinstance(next(iter(blocks.values())).matrix, np.ndarray):
        block = next(iter(blocks.values()))
        design: Any = DenseDesign(block.matrix)
        width = len(block.names)
        made = (Equation(space.parameters[0].name, slice(0, width), 0, width, block.offset),)
    else:
        predictors = _predictors(space)
        design, made = unite(
            blocks,
            [(name, block) for name, block, _ in predictors],
            {name: start for name, _, start in predictors},
            rows.n_rows,
        )
    wrong = model.check(columns["y"], columns)
    if wrong is not None:
        raise SupportError(f"{model.name}: the outcome {outcome!r} {wrong}")
    own = next((term_weights(rows, value, kind) for kind, value in weights.items()), None)  # type: ignore[arg-type]
    return IndexLikelihood(
        space,
        rows,
        own,
        Facts(model.name, "index, closed form", outcome, {"blocks": blocks}),
        design,
        made,
        model,
        columns,
        start_values=model.start,
    )


def _predictors(space: ParameterSpace) -> list[tuple[str, str | None, int]]:
    """Return the equations (name, block, first coefficient): one per linear predictor or coordinate."""
    found: list[tuple[str, str | None, int]] = []
    for p in space:
        if isinstance(p.kind, LinearKind):
            width = len(p.kind.columns)
            names = [f"{p.name}.{equation}" for equation in p.kind.equations] or [p.name]
            found += [(name, p.name, p.free.start + j * width) for j, name in enumerate(names)]
        elif p.kind.n_free == 1:
            found.append((p.name, None, p.free.start))
        else:
            found += [(label, None, p.free.start + j) for j, label in enumerate(p.kind.free_labels(p.name))]
    return found


def constant_outcome(y: Array, values: Sequence[float] = ()) -> str | None:
    """Return the complaint of an outcome that does not vary, or None."""
    if len(y) > 1 and (y == y[0]).all():
        return (
            f"is {y[0]:g} in every row: nothing varies, and the coefficients have no maximum. Look at the "
            "selection of rows."
        )
    del values
    return None


def outside(y: Array, allowed: npt.NDArray[np.bool_], expected: str) -> str | None:
    """Return the complaint of outcomes outside the support, naming rows, or None."""
    if allowed.all():
        return None
    bad = np.flatnonzero(~allowed)
    return f"must be {expected}; it is {y[bad[0]]:g} in row {bad[0]} ({len(bad)} row(s): {listing(bad, 5)})."


__all__ = [
    "Columns",
    "IndexLikelihood",
    "Model",
    "build",
    "constant_outcome",
    "is_missing",
    "least_squares_start",
    "outside",
    "set_constant",
]
