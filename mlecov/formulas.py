"""Formulas to designs: the only user of formulaic, and of tabmat's reading of it.

`offset(...)` and `exposure(...)` are parsed here. A plain sum of numeric columns needs no formula
library and is stacked directly.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlecov import factors
from mlecov.data import Rows, Table, is_missing, numeric
from mlecov.errors import DataError, SpecificationError, listing
from mlecov.lazy import lazy
from mlecov.likelihood.design import Columns, DenseDesign, Design, Equation, TabmatDesign, dense_part
from mlecov.parameters import LinearKind, LinearTerms
from mlecov.terms import NAME, coded, unquoted, usage

formulaic = lazy("formulaic")
pd = lazy("pandas")
tabmat = lazy("tabmat")

Array = npt.NDArray[np.float64]
T = TypeVar("T")

PLAIN = re.compile(r"^\s*[A-Za-z_]\w*(\s*\+\s*([A-Za-z_]\w*|1))*\s*$")
CALL = re.compile(r"\b(offset|exposure)\s*\(")
MANY_LEVELS = 24
"""Categorical levels from which a design is held by tabmat as codes rather than as dense columns."""


@dataclass(frozen=True)
class Formula:
    """A formula cut into its sides: outcome, regressors, offsets (with log for exposures)."""

    left: str | None
    right: str
    offsets: tuple[tuple[str, bool], ...]


def parse(text: str) -> Formula:
    """Return the parts of "y ~ x1 + x2 + offset(z) + exposure(w)".

    Raises
    ------
    SpecificationError
        For I(x^2), which in Python is exclusive or; x**2 or x^2 outside I(), which formula algebra reads
        as x; more than one "~"; or an offset that can not be read.
    """
    for inside in re.findall(r"I\(([^()]*)\)", text):
        if "^" in inside:
            raise SpecificationError(
                f"formula {text!r}: I({inside}) uses '^', which is not a power in Python; write "
                f"I({inside.replace('^', '**')})."
            )
    outer = text
    while "(" in (shorter := re.sub(r"\([^()]*\)", "", outer)) and shorter != outer:
        outer = shorter
    power = re.search(rf"(?<![\w\])`])({NAME})\s*(?:\*\*|\^)\s*(\d+)", re.sub(r"\([^()]*\)", "()", outer))
    if power:
        raise SpecificationError(
            f"formula {text!r}: {power.group()} means {power.group(1)} alone in formula algebra; for the power of a "
            f"column write I({power.group(1)}**{power.group(2)})."
        )
    sides = text.split("~")
    if len(sides) > 2:
        raise SpecificationError(f"formula {text!r} has {len(sides) - 1} '~'; one is expected.")
    right, offsets = _cut_offsets(sides[-1], text)
    left = sides[0].strip() if len(sides) == 2 else None
    return Formula(left or None, right.strip() or "1", tuple(offsets))


def _cut_offsets(right: str, whole: str) -> tuple[str, list[tuple[str, bool]]]:
    offsets: list[tuple[str, bool]] = []
    while match := CALL.search(right):
        depth, end = 1, match.end()
        while depth and end < len(right):
            depth += {"(": 1, ")": -1}.get(right[end], 0)
            end += 1
        if depth:
            raise SpecificationError(f"formula {whole!r}: {match.group()} is not closed.")
        before = right[: match.start()].rstrip()
        if before and before[-1] != "+":
            raise SpecificationError(f"formula {whole!r}: {match.group()}...) must be added with '+'.")
        offsets.append((right[match.end() : end - 1].strip(), match.group(1) == "exposure"))
        after = right[end:].lstrip()
        before = before.rstrip("+").rstrip()
        right = f"{before} {after}" if before else after.removeprefix("+").lstrip()
    return right, offsets


def variables(formula: str, table: Table | None = None) -> set[str]:
    """Return the names of the columns that one side of a formula reads.

    Columns inside transforms with a state, such as center(x), are found by their names in `table`.
    """
    if PLAIN.match(formula):
        return {name for name in re.split(r"[\s+]+", formula.strip()) if name != "1"}
    plain, quoted = unquoted(formula)  # the library would cut a name at its dots
    try:
        found = {str(name) for name in formulaic.Formula(plain).required_variables}
        words = re.findall(r"(?<![\w.'\"])[A-Za-z_]\w*(?!\s*[\w(.=])", plain)
        found |= {word for word in words if table is not None and word in table}
        return {name for name in found if name not in quoted} | set(quoted.values())
    except Exception as error:
        # formulaic marks the place with terminal colours; its first line says what is wrong
        raise SpecificationError(
            f"formula {formula!r} can not be read: {str(error).strip().splitlines()[0]} Expected terms joined by '+', "
            "such as 'x1 + x2 + C(group)'."
        ) from None


def columns_used(terms: LinearTerms, table: Table) -> set[str]:
    """Return the columns of `table` that a linear parameter reads."""
    if isinstance(terms.formula, str):
        formula = parse(terms.formula)
        if formula.left is not None:
            raise SpecificationError(
                f"linear({terms.formula!r}): a linear predictor has no left-hand side; the outcome is an "
                "argument of the function."
            )
        used = variables(formula.right, table)
        for offset, _ in formula.offsets:
            used |= variables(offset, table)
    else:
        used = set(terms.formula)
    if terms.offset is not None:
        used.add(terms.offset)
    unknown = {name for name in used if name not in table}
    for name in unknown:
        table.raw(name)
    return used


@dataclass(frozen=True)
class Block:
    """The design of one linear parameter: names of its columns, matrix, offset, and how to make it again."""

    names: tuple[str, ...]
    matrix: Any
    offset: Array | None
    terms: LinearTerms
    spec: Any = None

    @property
    def is_dense(self) -> bool:
        """Whether the matrix is a numpy array."""
        return isinstance(self.matrix, np.ndarray)


def materialize(terms: LinearTerms, rows: Rows) -> Block:
    """Return the design of a linear parameter over the rows kept.

    Raises
    ------
    DataError, SpecificationError
        For unknown or non-numeric columns and formulas that can not be read.
    """
    offset = _offset(terms, rows)
    if not isinstance(terms.formula, str):
        names, matrix = _stack(terms.formula, rows, intercept=False)
        return Block(names, matrix, offset, terms)
    right = parse(terms.formula).right
    if PLAIN.match(right):
        columns = [name for name in re.split(r"[\s+]+", right.strip()) if name != "1"]
        if all(map(rows.is_number, columns)):
            names, matrix = _stack(list(dict.fromkeys(columns)), rows, intercept=True)
            return Block(names, matrix, offset, terms)
    if right.strip() == "1":
        return Block(("Intercept",), np.ones((rows.n_rows, 1)), offset, terms)
    return _by_formulaic(right, rows, offset, terms)


def _stack(columns: Sequence[str], rows: Rows, intercept: bool) -> tuple[tuple[str, ...], Array]:
    names, parts = (["Intercept"], [np.ones(rows.n_rows)]) if intercept else ([], [])
    for name in columns:
        values = rows.column(name)
        if values.ndim == 2:
            names += [f"{name}[{j}]" for j in range(values.shape[1])]
            parts += list(values.T)
        else:
            names.append(name)
            parts.append(values)
    matrix = np.empty((rows.n_rows, len(parts)))
    for start in range(0, rows.n_rows, 4096):  # a few rows of all columns stay in the cache
        for j, values in enumerate(parts):
            matrix[start : start + 4096, j] = values[start : start + 4096]
    return tuple(names), matrix


def _offset(terms: LinearTerms, rows: Rows) -> Array | None:
    total: Array | None = None
    if terms.offset is not None:
        total = rows.column(terms.offset)
    if isinstance(terms.formula, str):
        for text, is_exposure in parse(terms.formula).offsets:
            part = rows.column(text) if text in rows.table else evaluate(text, rows)
            if is_exposure and not (part > 0).all():
                raise DataError(
                    f"exposure({text}) is not positive in row {int(np.argmin(part))}: its log enters the predictor."
                )
            part = np.log(part) if is_exposure else part
            total = part if total is None else total + part
    return total


def evaluate(text: str, rows: Rows) -> Array:
    """Return one column (n,) that an expression such as "np.log(y)" makes of the rows."""
    if text in rows.table:
        return rows.column(text)
    matrix = _model_matrix(f"0 + {text}", rows, variables(text, rows.table))
    array = np.asarray(matrix, dtype=float)
    if array.shape[1] != 1:
        raise DataError(f"{text!r} makes {array.shape[1]} columns; expected one number per row.")
    return array[:, 0]


def _model_matrix(right: str, rows: Rows, names: set[str]) -> Any:
    frame = _frame(right, rows, names)
    return _read(
        right,
        lambda: formulaic.Formula(right).get_model_matrix(
            frame, context={"np": np}, na_action="raise", ensure_full_rank=True
        ),
        frame,
    )


def _frame(
    right: str, rows: Rows, names: set[str], by_codes: bool = False, whole: Collection[str] = ()
) -> Any:
    """Return the columns of one side of a formula in types that its arithmetic can not overflow.

    Numbers are float64, where they are not labels; truth values are, where they are only summed or
    multiplied. `by_codes` is for tabmat, which makes columns of a truth value's own; `whole` are the
    columns whose levels were whole numbers in the fit.
    """
    frame, use = rows.frame(sorted(names)), usage(right)
    truths = set()
    for name in frame.columns:
        if name not in rows.table:  # one of a matrix's columns
            continue
        array = rows.raw(name)
        if array.dtype.kind == "b":
            if name in use.counted and name not in use.typed and not (by_codes and name in use.alone):
                frame[name] = array.astype(float)
            else:
                truths.add(name)
        elif name not in use.typed:
            if frame[name].dtype != np.float64 and (array.dtype.kind == "c" or rows.is_number(name)):
                frame[name] = numeric(name, array)
        elif pd.api.types.is_integer_dtype(frame[name].dtype) and frame[name].dtype.itemsize < 8:
            frame[name] = frame[name].astype(np.int64)
        elif by_codes and array.dtype.kind == "f" and name in whole:
            frame[name] = array.astype(np.int64)  # tabmat compares the text of levels: "1.0" is not "1"
    summed = use.summed_truths(truths)
    if summed:
        raise SpecificationError(
            f"formula {right!r}: {summed} sums truth values, which is 'or' in numpy, not a count; multiply "
            "each by 1 first: 1*(a) + 1*(b)."
        )
    return frame


def _read(right: str, read: Callable[[], T], frame: Any, anew: bool = False) -> T:
    """Return what the formula library makes of `right`, its failures told as ours; `anew` for new data."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused by its rows
            made = read()
            if not np.isfinite(_total(made)):
                _refuse_undefined(right, frame)
        return made
    except (DataError, SpecificationError):
        raise
    except Exception as error:
        _refuse_undefined(right, frame)
        if anew:
            raise DataError(
                f"the new data can not be put into formula {right!r}: {error} Give values where the terms are "
                "defined, such as those in the range of the fit's data (bs(..., extrapolation='extend') goes on "
                "beyond its knots), and numbers where the fit had numbers."
            ) from None
        raise SpecificationError(
            f"formula {right!r} can not be made into columns: {type(error).__name__}: {error}"
        ) from None


def _total(matrix: Any) -> float:
    """Return the sum of a matrix of the formula library's or of tabmat's: not finite where an entry is not."""
    if isinstance(matrix, pd.DataFrame):
        return float(np.asarray(matrix, dtype=float).sum())
    return float(matrix.matvec(np.ones(matrix.shape[1])).sum())


def _refuse_undefined(right: str, frame: Any) -> None:
    """Refuse expressions that are not finite somewhere, by their rows: np.log(x) of a negative x."""
    for term in dict.fromkeys(_expressions_of(right)):
        try:
            with np.errstate(all="ignore"):
                made = formulaic.Formula(f"0 + {term}").get_model_matrix(
                    frame, context={"np": np}, na_action="ignore"
                )
                bad = np.flatnonzero(~np.isfinite(np.asarray(made, dtype=float)).all(axis=1))
        except Exception:  # another failure, told by the caller
            continue
        if len(bad):
            read = sorted(variables(term) & set(frame.columns))
            where = ", ".join(f"{name} = {frame[name].iloc[bad[0]]}" for name in read)
            raise DataError(
                f"term {term} is missing or infinite in {len(bad)} of {len(frame)} rows: {listing(bad, 5)} "
                f"({where} in row {bad[0]}). Leave those rows out, or write a term that is defined there."
            )


def _expressions_of(right: str) -> list[str]:
    """Return the expressions of a formula that are evaluated, such as np.log(x)."""
    try:
        factors_of = [factor for term in formulaic.Formula(right) for factor in term.factors]
    except Exception:  # of a formula that can not be read nothing is known
        return []
    return [str(factor.expr) for factor in factors_of if "(" in str(factor.expr)]


def _coded_matrix(right: str, rows: Rows, names: set[str]) -> tuple[tuple[str, ...], Any, Any]:
    """Return (labels, tabmat's matrix, specification) of a formula with long factors."""

    def by_tabmat(frame: Any) -> Any:
        return tabmat.from_formula(
            right,
            frame,
            ensure_full_rank=True,
            na_action="raise",
            include_intercept=True,
            add_column_for_intercept=True,
            cat_threshold=MANY_LEVELS,
            categorical_format="{name}[T.{category}]",
            context={"np": np},
        )

    made = factors.model_matrix(right, rows, lambda head: _read(right, lambda: by_tabmat(head), head))
    if made is not None:
        return made
    frame = _frame(right, rows, names, by_codes=True)
    for name in coded(right, alone=True) & set(
        frame.columns
    ):  # numbers keep their own order, not that of their text
        frame[name] = pd.Categorical(frame[name])
    matrix = _read(right, lambda: by_tabmat(frame), frame)
    return tuple(str(name) for name in matrix.column_names), matrix, matrix.model_spec


def _by_formulaic(right: str, rows: Rows, offset: Array | None, terms: LinearTerms) -> Block:
    names = variables(right, rows.table)
    labels_of = (names & coded(right)) | {n for n in names if rows.is_text(n)}
    levels = [rows.n_levels(n) for n in labels_of]
    if max([*levels, 0]) >= MANY_LEVELS:
        labels, matrix, spec = _coded_matrix(right, rows, names)
        return Block(labels, matrix, offset, terms, spec)
    matrix = _model_matrix(right, rows, names)
    labels = tuple(str(name) for name in matrix.columns)
    values = np.ascontiguousarray(np.asarray(matrix, dtype=float))
    return Block(labels, values, offset, terms, matrix.model_spec)


def without_constant(block: Block, what: str) -> Block:
    """Return a design less its intercept; `what` names it where the other columns hold a constant too.

    Raises
    ------
    SpecificationError
        For a column that is the same in every row.
    """
    if block.names[:1] == ("Intercept",):
        matrix = block.matrix if block.is_dense else np.asarray(block.matrix.toarray())
        block = replace(block, names=block.names[1:], matrix=np.ascontiguousarray(matrix[:, 1:]))
    if block.is_dense and len(block.matrix) > 1:
        same = np.flatnonzero((block.matrix == block.matrix[0]).all(axis=0))
        if len(same):
            raise SpecificationError(
                f"{what} has no constant of its own (it would not be identified), but column "
                f"{block.names[same[0]]!r} is the same in every row; leave it out."
            )
    return block


def _read_anew(block: Block, rows: Rows) -> Any:
    """Return what the formula library makes of other rows, with the levels and knots of the fit."""
    right = parse(str(block.terms.formula)).right
    names = variables(right, rows.table)
    whole = set()
    for factor, (kind, state) in block.spec.encoder_state.items():
        name = factor if factor in rows.table else next(iter(coded(factor, alone=True)), None)
        if name is None or name not in rows.table:
            continue
        if "categories" in state:
            _known_levels(name, rows, state["categories"])
            if all(str(level).lstrip("-").isdigit() for level in state["categories"]):
                whole.add(name)
        elif factor == name and str(kind.value) == "numerical" and rows.is_text(name):
            numeric(name, rows.raw(name))
    frame = _frame(right, rows, names, not block.is_dense, whole)
    with warnings.catch_warnings():  # of levels that only evaluating an expression shows
        warnings.filterwarnings("error", message="Data has categories outside")
        return _read(right, lambda: block.spec.get_model_matrix(frame), frame, anew=True)


def _known_levels(name: str, rows: Rows, levels: Any) -> None:
    """Refuse levels that the fit has not seen: their columns would be those of the first level."""
    known, array = set(levels), rows.raw(name)
    texts = known if all(isinstance(level, str) for level in known) else ()
    unseen = [
        v
        for v in pd.unique(array[~is_missing(array)]).tolist()
        if v not in known and str(int(v) if isinstance(v, float) and v.is_integer() else v) not in texts
    ]
    if unseen:
        raise DataError(
            f"column {name!r} has level(s) that the fit has not seen: {listing(map(repr, unseen))}; it knows "
            f"{listing(levels, 20)}. Drop those rows, give them a known level, or fit with data that have them."
        )


def rebuild(block: Block, rows: Rows) -> Block:
    """Return the design of the same parameter for other rows (prediction): same columns, same codes.

    Raises
    ------
    DataError
        For levels that the fit has not seen, and values that a term can not be evaluated at.
    """
    if block.spec is None:
        made = materialize(block.terms, rows)
        if made.names == ("Intercept", *block.names):
            made = replace(made, names=block.names, matrix=made.matrix[:, 1:])
    else:
        matrix = _read_anew(block, rows)
        dense = np.asarray(matrix.toarray() if not block.is_dense else matrix, dtype=float)
        dense = dense[:, dense.shape[1] - len(block.names) :]  # less the intercept, where the block has none
        made = Block(
            block.names, np.ascontiguousarray(dense), _offset(block.terms, rows), block.terms, block.spec
        )
    if made.names != block.names:
        raise DataError(f"the new data make columns {made.names}; the fit has {block.names}.")
    return made


def unite(
    blocks: dict[str, Block], equations: Sequence[tuple[str, str | None]], starts: dict[str, int], n_rows: int
) -> tuple[Design, tuple[Equation, ...]]:
    """Return the union design of all blocks and the equations that read it.

    `equations` lists (name, block) in order, the block None for a constant alone; `starts` gives
    the first coefficient of each equation by name. Dense columns that several blocks share (same
    name, same numbers) stand in the union once.
    """
    columns: dict[str, Columns] = {}
    distinct: list[Block] = []
    for name, block in blocks.items():
        same = next((n for n, b in blocks.items() if b.matrix is block.matrix or _same(b, block)), name)
        if same != name and same in columns:
            columns[name] = columns[same]
            continue
        width = sum(len(b.names) for b in distinct)
        columns[name] = slice(width, width + len(block.names))
        distinct.append(block)
    if len(distinct) == 1 and distinct[0].is_dense:
        design: Design = DenseDesign(distinct[0].matrix)
    elif all(block.is_dense for block in distinct):
        design, columns = _unite_dense(blocks, n_rows)
    else:
        parts = [b.matrix if not b.is_dense else dense_part(b.matrix) for b in distinct]
        design = TabmatDesign(parts[0] if len(parts) == 1 else tabmat.hstack(parts))
    made = []
    for name, block_name in equations:
        if block_name is None:
            made.append(Equation(name, None, starts[name], starts[name] + 1))
        else:
            width = len(blocks[block_name].names)
            made.append(
                Equation(
                    name,
                    columns[block_name],
                    starts[name],
                    starts[name] + width,
                    blocks[block_name].offset,
                )
            )
    return design, tuple(made)


def _same(a: Block, b: Block) -> bool:
    if a.terms.formula != b.terms.formula or a.names != b.names:
        return False
    return isinstance(a.terms.formula, str) or (
        a.is_dense and b.is_dense and np.array_equal(a.matrix, b.matrix)
    )


def _unite_dense(blocks: dict[str, Block], n_rows: int) -> tuple[Design, dict[str, Columns]]:
    names: list[str] = []
    parts: list[Array] = []
    places: dict[str, Columns] = {}
    for name, block in blocks.items():
        place = []
        for j, label in enumerate(block.names):
            column = block.matrix[:, j]
            found = next(
                (i for i, n in enumerate(names) if n == label and np.array_equal(parts[i], column)), None
            )
            if found is None:
                found = len(names)
                names.append(label)
                parts.append(column)
            place.append(found)
        first = place[0] if place else 0
        contiguous = place == list(range(first, first + len(place)))
        places[name] = slice(first, first + len(place)) if contiguous else np.array(place, dtype=np.intp)
    matrix = np.ascontiguousarray(np.column_stack(parts)) if parts else np.empty((n_rows, 0))
    return DenseDesign(matrix), places


def linear_kind(block: Block) -> LinearKind:
    """Return the parameter kind of a block's coefficients."""
    kind = LinearKind(block.names, block.terms.equations)
    if block.terms.start is None:
        return kind
    return replace(kind, start_value=tuple(float(v) for v in kind.free(block.terms.start)))
