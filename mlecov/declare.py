"""`likelihood(...)`: match a user's function to parameters and data, choose the engine.

Arguments are matched by name: to a parameter, else to a constant, else to a column; a name that
could be two of these is refused.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import autodiff
from mlecov.data import Rows, Table, Weights, open_table, screen, term_weights
from mlecov.errors import (
    EvaluationError,
    NumericDerivativeWarning,
    SeparabilityError,
    SpecificationError,
    listing,
    suggestion,
)
from mlecov.formulas import Block, columns_used, linear_kind, materialize, unite
from mlecov.kinds import Kind, as_kind
from mlecov.likelihood.base import Facts, Likelihood
from mlecov.likelihood.chunked_blocks import cut
from mlecov.likelihood.chunked_source import Source
from mlecov.likelihood.design import Design, Equation
from mlecov.likelihood.expected import expected_information
from mlecov.likelihood.general import (
    AnalyticEngine,
    AutodiffEngine,
    Call,
    Engine,
    GeneralLikelihood,
    NumericEngine,
)
from mlecov.likelihood.index import IndexLikelihood
from mlecov.likelihood.traced import NumericRows, Signature, TracedRows
from mlecov.parameters import LinearKind, LinearTerms, ParameterSpace
from mlecov.streaming import open_source, stream, texts, weight_column

Array = npt.NDArray[np.float64]

CHECKED = 64
"""Consecutive rows on which separability is verified."""

MAX_INDEX_EQUATIONS = 12
"""Predictors up to which rows are differentiated one by one (cost grows with the square)."""


@dataclass(frozen=True)
class Declaration:
    """All that the user said, matched and checked, before an engine is chosen."""

    function: Callable[..., Any]
    name: str
    space: ParameterSpace
    rows: Rows
    weights: Weights | None
    blocks: dict[str, Block]
    columns: dict[str, npt.NDArray[Any]]
    constants: dict[str, Any]
    arguments: tuple[str, ...]
    drop_first: int
    simulator: Callable[..., Any] | None

    @property
    def n_terms(self) -> int:
        """The number of terms."""
        return self.rows.n_terms


def likelihood(
    function: Callable[..., Any],
    data: Any,
    params: Mapping[str, Any],
    *,
    score: Callable[..., Any] | None = None,
    hessian: Callable[..., Any] | None = None,
    information: Callable[..., Any] | None = None,
    moments: Sequence[Callable[..., Any]] | None = None,
    blocks: Sequence[Sequence[str]] | None = None,
    frequency_weights: Any = None,
    probability_weights: Any = None,
    analytic_weights: Any = None,
    missing: str = "raise",
    unit: str | None = None,
    constants: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    drop_first: int = 0,
    separable: bool | None = None,
    simulate: Callable[..., Any] | None = None,
    name: str | None = None,
) -> Likelihood:
    """Declare a likelihood from a function that returns the terms' log-likelihood contributions.

    Parameters
    ----------
    function :
        Returns `loglike_obs` (n,): one value per row (per unit with `unit=`), never their sum.
        Its arguments are matched by name to `params`, then to `constants`, then to columns of
        `data`. Written with jax.numpy it is differentiated exactly; with numpy alone, by differences.
    data :
        Dict of arrays, pandas, polars or pyarrow frame; or the path of a Parquet file or folder, a
        pyarrow dataset, a Dask frame: rows are then read block by block, in bounded memory.
    params :
        Parameters in order: a number or an array (real), `positive()`, `interval(lo, hi)`,
        `simplex(d)`, `ordered(d)`, `correlation(d)`, `covariance(d)`, `linear(formula)`,
        `fixed(value)`. Numbers inside are start values on the user's scale.
    score, hessian :
        Own derivatives with respect to the user's parameters in order of declaration: (n, m) or a
        dict name -> (n,) or (n, p), and (m, m). They are checked against differences.
    information :
        Own expected information: returns (m, m) on the user's scale, or a dict of expected row
        curvatures {("mu", "mu"): (n,), ...} of the predictors.
    moments, blocks :
        (mean, variance): functions returning the conditional mean and variance (n,), whose Gaussian
        expected information is used; `blocks` sets the information between groups of parameters to
        zero, as published GARCH benchmarks do: [["mu"], ["omega", "alpha", "beta"]].
    frequency_weights, probability_weights, analytic_weights :
        Column name or (n,) array; at most one.
    missing :
        "raise" (default) or "drop" rows with missing values in any column used.
    unit :
        Column of ids: a term is a unit; the function returns one value per unit in order of first
        appearance and receives `unit` (codes) and `n_units` where it names them.
    constants :
        Values that are not rows: quadrature nodes, scalars.
    columns :
        {argument: column} where the names differ.
    drop_first :
        The first p rows condition the others and are no terms themselves.
    separable :
        None: found out. True: demanded, and verified. False: not assumed.
    simulate :
        simulate(rng, **arguments) -> dict of outcome columns, for parametric bootstraps.

    Raises
    ------
    SpecificationError, DataError, EvaluationError, SeparabilityError
        Where names, shapes, types or values do not fit; the message names them.

    Example
    -------
    >>> import numpy as np
    >>> def loglike(y, mu): return -np.log(mu) - y / mu
    >>> import warnings; warnings.simplefilter("ignore")
    >>> likelihood(loglike, {"y": np.array([1.0, 2.0])}, {"mu": 1.0}).n_terms
    2
    """
    weights = {
        "frequency": frequency_weights,
        "probability": probability_weights,
        "analytic": analytic_weights,
    }
    source = open_source(data)
    if source is not None:
        _refuse_streamed(
            score=score, hessian=hessian, information=information, moments=moments, unit=unit, simulate=simulate,
            drop_first=drop_first or None,
        )
        door = DeclaredDoor(function, dict(params), dict(constants or {}), dict(columns or {}), weights, separable, name)
        return _streamed(source, door, missing)
    declaration = _declare(
        function, data, params, weights, missing, unit, constants, columns, drop_first, simulate, name
    )
    own = _own_functions(declaration, score, hessian)
    found = _with_engine(declaration, own, separable)
    if information is not None or moments is not None:
        return _with_expected(declaration, found, information, moments, blocks)
    if blocks is not None:
        raise SpecificationError("blocks= goes with moments=(mean, variance), which is not given.")
    return found


def _declare(
    function: Callable[..., Any],
    data: Any,
    params: Mapping[str, Any],
    weights: Mapping[str, Any],
    missing: str,
    unit: str | None,
    constants: Mapping[str, Any] | None,
    columns: Mapping[str, str] | None,
    drop_first: int,
    simulate: Callable[..., Any] | None,
    name: str | None,
) -> Declaration:
    table = open_table(data)
    constants, rename = dict(constants or {}), dict(columns or {})
    if not params:
        raise SpecificationError("params is empty: a likelihood has at least one parameter.")
    arguments = _match(function, params, constants, rename, table.columns, unit)
    given = {kind: value for kind, value in weights.items() if value is not None}
    if len(given) > 1:
        raise SpecificationError(f"weights of {len(given)} kinds were given ({listing(given)}); one is possible.")
    used = [rename.get(a, a) for a in arguments]
    for value in params.values():
        if isinstance(value, LinearTerms):
            used += sorted(columns_used(value, table))
    used += [value for value in given.values() if isinstance(value, str)]
    used += [unit] if unit is not None else []
    rows = screen(table, used, missing, unit, drop_first)
    own_weights = next((term_weights(rows, v, k) for k, v in given.items()), None)  # type: ignore[arg-type]
    blocks = {p: materialize(v, rows) for p, v in params.items() if isinstance(v, LinearTerms)}
    kinds = {p: linear_kind(blocks[p]) if p in blocks else as_kind(value) for p, value in params.items()}
    values: dict[str, npt.NDArray[Any]] = {a: rows.column(rename.get(a, a)) for a in arguments}
    if unit is not None:
        named = _argument_names(function)
        if "unit" in named:
            values["unit"] = rows.unit  # type: ignore[assignment]
        if "n_units" in named:
            constants["n_units"] = rows.n_terms
    space = ParameterSpace.of(kinds)
    if not space.k:
        raise SpecificationError("every parameter is fixed: nothing is left to estimate.")
    return Declaration(
        function,
        name or getattr(function, "__name__", "loglike"),
        space,
        rows,
        own_weights,
        blocks,
        values,
        constants,
        tuple(values),
        drop_first,
        simulate,
    )


def _argument_names(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the named arguments of `function`; *args has no names and is refused."""
    named = dict(inspect.signature(function).parameters)
    for key, parameter in named.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise SpecificationError(
                f"argument {key!r} of the function has no name to match; write every parameter and column as a "
                "named argument."
            )
    return {k: p for k, p in named.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}


def _match(
    function: Callable[..., Any],
    params: Mapping[str, Any],
    constants: Mapping[str, Any],
    rename: Mapping[str, str],
    columns: Mapping[str, Any],
    unit: str | None,
) -> tuple[str, ...]:
    """Return the arguments that are columns, after refusing every name that fits nowhere or twice."""
    named = _argument_names(function)
    not_taken = [p for p in params if p not in named]
    if not_taken:
        raise SpecificationError(
            f"parameter(s) {listing(map(repr, not_taken))} are declared, but the function does not take them; its "
            f"arguments are {listing(named, 20)}."
        )
    for key in rename:
        if key not in named:
            raise SpecificationError(f"columns={{{key!r}: ...}}: the function has no argument {key!r}.")
    found = []
    special = ("unit", "n_units") if unit is not None else ()
    for key, parameter in named.items():
        places = [
            place
            for place, holder in (("params", params), ("constants", constants), ("data", columns))
            if key in holder
        ]
        if key in rename:
            places = [place for place in places if place != "data"] + ["columns"]
        if key in special and not places:
            continue
        if len(places) > 1:
            raise SpecificationError(
                f"argument {key!r} is found in {' and in '.join(places)}; a name must mean one thing. Rename the "
                "parameter, or give the column another name with columns={...}."
            )
        if places and places[0] in ("data", "columns"):
            found.append(key)
        elif not places and parameter.default is inspect.Parameter.empty:
            known = [*params, *constants, *map(str, columns)]
            raise SpecificationError(
                f"argument {key!r} of the function is neither a parameter, nor a constant, nor a column."
                f"{suggestion(key, known)}"
            )
    return tuple(found)


def _own_functions(
    declaration: Declaration, score: Callable[..., Any] | None, hessian: Callable[..., Any] | None
) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    if hessian is not None and score is None:
        raise SpecificationError("hessian= was given without score=; give both, or neither.")
    return tuple(  # type: ignore[return-value]
        None if f is None else _bound(declaration, f) for f in (score, hessian)
    )


def _bound(declaration: Declaration, function: Callable[..., Any]) -> Callable[[Array, Any], Any]:
    """Return (raw, columns) -> function(...), its arguments matched by name as the likelihood's are."""
    call = _call(declaration)
    named = _argument_names(function)

    def run(raw: Array, columns: Any) -> Any:
        arguments = call.arguments(raw, columns, np)
        for key in named:
            if key not in arguments and key in declaration.rows.table:
                arguments[key] = declaration.rows.column(key)
        missing = [k for k, p in named.items() if k not in arguments and p.default is inspect.Parameter.empty]
        if missing:
            raise SpecificationError(
                f"argument(s) {listing(map(repr, missing))} of {getattr(function, '__name__', 'the function')} are "
                f"neither parameters nor columns.{suggestion(missing[0], list(arguments))}"
            )
        return function(**{key: arguments[key] for key in named if key in arguments})

    return lambda raw, columns: run(raw, columns)


def _call(declaration: Declaration) -> Call:
    return Call(
        declaration.function,
        declaration.space,
        declaration.arguments,
        declaration.constants,
        {name: f"X:{name}" for name in declaration.blocks},
        {name: f"offset:{name}" for name, b in declaration.blocks.items() if b.offset is not None},
        declaration.drop_first,
    )


def _all_columns(declaration: Declaration) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a general call: data, and the dense designs and offsets by their keys."""
    found = dict(declaration.columns)
    for name, block in declaration.blocks.items():
        found[f"X:{name}"] = block.matrix if block.is_dense else np.asarray(block.matrix.toarray())
        if block.offset is not None:
            found[f"offset:{name}"] = block.offset
    return found


def _predictors(space: ParameterSpace) -> tuple[dict[str, slice], list[tuple[str, str | None, int]]]:
    """Return each parameter's slice of eta, and the equations (name, block, first coefficient)."""
    slices, equations = {}, []
    for p in space:
        first = len(equations)
        if isinstance(p.kind, LinearKind):
            width = len(p.kind.columns)
            for j, equation in enumerate(p.kind.equations or ("",)):
                label = f"{p.name}.{equation}" if equation else p.name
                equations.append((label, p.name, p.free.start + j * width))
        else:
            labels = p.kind.free_labels(p.name)
            equations += [(label, None, p.free.start + j) for j, label in enumerate(labels)]
        slices[p.name] = slice(first, len(equations))
    return slices, equations


def _with_engine(
    declaration: Declaration,
    own: tuple[Callable[..., Any] | None, Callable[..., Any] | None],
    separable: bool | None,
) -> Likelihood:
    columns, call = _all_columns(declaration), _call(declaration)
    raw = declaration.space.raw(declaration.space.start())
    traceable = own[0] is None and _traceable(call, raw, columns, declaration.n_terms)
    by_rows = declaration.rows.unit is None and not declaration.drop_first
    if by_rows:
        by_rows = separable is not False and _verify_rows(
            declaration, call, columns, traceable, demanded=separable is True
        )
    elif separable and declaration.drop_first:
        raise SeparabilityError("separable=True can not hold with drop_first=: terms are conditioned on other rows.")
    if own[0] is not None:
        return _general(declaration, AnalyticEngine(call, own[0], own[1]), columns, by_rows)
    slices, equations = _predictors(declaration.space)
    if by_rows and len(equations) <= MAX_INDEX_EQUATIONS:
        return _index(declaration, slices, equations, traceable)
    engine: Engine = AutodiffEngine(call) if traceable else NumericEngine(call)
    return _general(declaration, engine, columns, by_rows)


def _traceable(call: Call, raw: Array, columns: Mapping[str, Any], n: int) -> bool:
    """Tell whether JAX can trace the function; refuse values of single precision inside it."""
    if not uses_jax(call.function):
        _warn_numeric(call.function, "it does not use jax")
        return False
    try:
        closed = autodiff.trace(lambda u, data: call(u, data, autodiff.jnp(), n), raw, dict(columns))
        kind = closed.out_avals[0].dtype
        if kind.kind != "f":
            raise EvaluationError(
                f"the log-likelihood returned values of type {kind}; expected real numbers (float64). Take the real part, "
                "or look for a comparison where an arithmetic expression was meant."
            )
    except EvaluationError:
        raise
    except Exception as error:
        if not autodiff.is_tracer_error(error):
            raise
        _warn_numeric(call.function, f"{type(error).__name__}")
        return False
    low = autodiff.single_precision(closed)
    if low:
        raise SpecificationError(
            f"the function computes in less than double precision: {listing(low, 3)}. Seven digits are too few for "
            "standard errors; make its constants float64 (numpy arrays, or pass them through constants={...})."
        )
    return True


def _warn_numeric(function: Callable[..., Any], why: str) -> None:
    warnings.warn(
        f"{getattr(function, '__name__', 'the function')} can not be traced by JAX ({why}): derivatives are had by "
        "extrapolated differences, slower and less exact. Write it with jax.numpy, or give score=.",
        NumericDerivativeWarning,
        stacklevel=6,
    )


def uses_jax(function: Callable[..., Any], depth: int = 3) -> bool:
    """Tell whether a function, or one that it calls by a global or closed-over name, refers to jax."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return True
    names = {*code.co_names}
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names |= set(constant.co_names)
    scope = getattr(function, "__globals__", {})
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    for value in [scope.get(name) for name in names] + cells:
        module = getattr(value, "__name__", "") if inspect.ismodule(value) else getattr(value, "__module__", "")
        if str(module).startswith(("jax", "mlecov.functions", "mlecov.autodiff")):
            return True
        if depth and inspect.isfunction(value) and value is not function and uses_jax(value, depth - 1):
            return True
    # Plain arithmetic on the arguments alone traces as well; it costs nothing to try.
    return not any(inspect.ismodule(scope.get(name)) for name in names)


def _verify_rows(
    declaration: Declaration, call: Call, columns: Mapping[str, Any], traceable: bool, demanded: bool
) -> bool:
    """Tell whether rows are separate: f(rows)[i] equals f(row i alone) at two interior points.

    A run of up to CHECKED consecutive rows is compared, so a recursion or a mean shows. The points
    are drawn around the start with a fixed seed, never the start itself: a first-order
    autoregression passes at rho = 0.
    """
    count = min(declaration.n_terms, CHECKED)
    few = {key: values[:count] for key, values in columns.items()}
    start = declaration.space.raw(declaration.space.start())
    compare = _traced_comparison(call, start, few, count) if traceable else _plain_comparison(call, few, count)
    rng = np.random.default_rng(1974)
    agreed = 0
    for attempt in range(12):
        spread = 0.5 / 2 ** (attempt // 2)
        raw = start + spread * rng.standard_normal(len(start)) * np.maximum(np.abs(start), 0.2)
        found = compare(raw) if compare is not None else None
        if found is None:
            different = np.ones(count, dtype=bool)
        else:
            whole, alone = found
            if not (np.isfinite(whole) & np.isfinite(alone)).any():
                continue
            scale = np.abs(whole) + np.abs(alone) + 1.0
            with np.errstate(invalid="ignore"):
                different = (np.abs(whole - alone) > 1e-9 * scale) | (np.isfinite(whole) != np.isfinite(alone))
        if different.any():
            if demanded:
                raise SeparabilityError(
                    f"separable=True, but the contribution of row {np.flatnonzero(different)[0]} depends on other "
                    "rows: alone it is another number than among them. Leave separable= out (a time series or a "
                    "panel is fitted as one), or use unit= where terms span rows."
                )
            return False
        agreed += 1
        if agreed == 2:
            return True
    return agreed > 0


Comparison = Callable[[Array], tuple[Array, Array] | None]


def _traced_comparison(
    call: Call, raw: Array, columns: Mapping[str, Any], count: int
) -> Comparison | None:
    """Return raw -> (f(rows), f(each row alone)), one compiled and kept program; None if a row alone fails."""
    jax, jnp = autodiff.jax(), autodiff.jnp()

    def both(u: Any, data: Any) -> Any:
        def alone(row: Any) -> Any:
            return call(u, {key: value[None] for key, value in row.items()}, jnp, 1)[0]

        return call(u, data, jnp, count), jax.vmap(alone)(data)

    used = {key: columns[key] for key in dict.fromkeys(call.all_columns)}
    try:
        closed = autodiff.trace(both, raw, used)
    except Exception:  # e.g. a recursion that needs two rows, or closed-over arrays of n rows
        return None
    program = autodiff.compile_and_keep(both, (raw, used), autodiff.program_key(closed, "separable"))

    def compare(u: Array) -> tuple[Array, Array]:
        with autodiff.x64():
            whole, alone = program(u, used)
        return np.asarray(whole), np.asarray(alone)

    return compare


def _plain_comparison(call: Call, columns: Mapping[str, Any], count: int) -> Comparison:
    """Return raw -> (f(rows), f(each row alone)) for a function of numpy arrays."""

    def compare(raw: Array) -> tuple[Array, Array] | None:
        found = np.empty(count)
        with np.errstate(all="ignore"):
            for i in range(count):
                part = {key: values[i : i + 1] for key, values in columns.items()}
                try:
                    result = np.asarray(call.function(**call.arguments(raw, part, np)), dtype=float)
                except Exception:  # e.g. a recursion that needs two rows
                    return None
                if result.shape != (1,):
                    return None
                found[i] = result[0]
            try:
                whole = np.asarray(call(raw, columns, np, count))
            except EvaluationError:
                raise
            except Exception:  # closed-over arrays of n rows
                return None
        return whole, found

    return compare


def _signature(declaration: Declaration) -> Signature:
    slices, _ = _predictors(declaration.space)
    kinds: dict[str, Kind] = {p.name: p.kind for p in declaration.space}
    return Signature(declaration.function, kinds, slices, declaration.arguments, declaration.constants)


def _index(
    declaration: Declaration,
    slices: dict[str, slice],
    equations: list[tuple[str, str | None, int]],
    traceable: bool,
) -> IndexLikelihood:
    design, made = _design(declaration, equations)
    signature = _signature(declaration)
    kind = TracedRows if traceable else NumericRows
    return IndexLikelihood(
        declaration.space,
        declaration.rows,
        declaration.weights,
        Facts(declaration.name, f"index, {'autodiff' if traceable else 'numeric'}", None, {"blocks": declaration.blocks}),
        design,
        made,
        kind(signature, len(made), declaration.simulator),
        declaration.columns,
    )


def _design(
    declaration: Declaration, equations: list[tuple[str, str | None, int]]
) -> tuple[Design, tuple[Equation, ...]]:
    """Return the union design and the equations that read it."""
    design, made = unite(
        declaration.blocks,
        [(name, block) for name, block, _ in equations],
        {name: start for name, _, start in equations},
        declaration.n_terms,
    )
    if not declaration.blocks:
        design = replace(design, matrix=np.empty((declaration.n_terms, 0)))  # type: ignore[type-var]
    return design, made


def _general(
    declaration: Declaration, engine: Engine, columns: dict[str, npt.NDArray[Any]], separable: bool
) -> GeneralLikelihood:
    found = GeneralLikelihood(
        declaration.space,
        declaration.rows,
        declaration.weights,
        Facts(declaration.name, engine.label, None, {"blocks": declaration.blocks}),
        engine,
        columns,
        separable or declaration.rows.unit is not None,
        declaration.n_terms,
        simulator=declaration.simulator,
    )
    if not found.separable:
        return found

    def resubset(terms: npt.NDArray[np.intp]) -> Likelihood:
        return subset_general(found, declaration, terms)

    return replace(found, resubset=resubset)


def subset_general(
    found: GeneralLikelihood, declaration: Declaration, terms: npt.NDArray[np.intp]
) -> GeneralLikelihood:
    """Return a separable general likelihood of some terms: rows, or whole units (renumbered)."""
    rows, constants = declaration.rows, dict(declaration.constants)
    base = np.arange(rows.table.n_rows) if rows.kept is None else rows.kept
    columns = dict(found.columns)
    if rows.unit is None:
        index, unit, labels = terms, None, None
    else:
        order = np.argsort(rows.unit, kind="stable")
        bounds = np.searchsorted(rows.unit[order], np.arange(rows.n_terms + 1))
        parts = [order[bounds[t] : bounds[t + 1]] for t in terms]
        index = np.concatenate(parts)
        unit = np.repeat(np.arange(len(terms)), [len(part) for part in parts])
        labels = None if rows.unit_labels is None else rows.unit_labels[terms]
        if "n_units" in constants:
            constants["n_units"] = len(terms)
    columns = {name: values[index] for name, values in columns.items()}
    if unit is not None and "unit" in columns:
        columns["unit"] = unit
    smaller = replace(
        declaration,
        rows=replace(rows, kept=base[index], unit=unit, unit_labels=labels, cache={}),
        weights=None if declaration.weights is None else declaration.weights.take(terms),
        constants=constants,
    )
    engine = replace(found.engine, call=replace(found.engine.call, constants=constants))  # type: ignore
    if isinstance(engine, AutodiffEngine):
        engine = replace(engine, kernels={})
    made = _general(smaller, engine, columns, separable=True)
    return made


def _with_expected(
    declaration: Declaration,
    found: Likelihood,
    information: Callable[..., Any] | None,
    moments: Sequence[Callable[..., Any]] | None,
    blocks: Sequence[Sequence[str]] | None,
) -> Likelihood:
    if information is not None and moments is not None:
        raise SpecificationError("information= and moments= were both given; one is possible.")
    own = None if information is None else _bound(declaration, information)
    columns, call = _all_columns(declaration), _call(declaration)
    expected = expected_information(own, moments, blocks, call, columns, declaration.weights)
    assert isinstance(found, (IndexLikelihood, GeneralLikelihood))
    return replace(found, expected_matrix=expected)


# --- data that stay in a file ---------------------------------------------------------------------------


def _refuse_streamed(**given: Any) -> None:
    """Raise SpecificationError for what a likelihood of streamed data does not take."""
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise SpecificationError(
            f"{listing(f'{name}=' for name in wrong)} can not be combined with data in a file: blocks of rows are "
            "evaluated one by one, with derivatives by JAX or by differences. Read the columns needed into memory."
        )


@dataclass(frozen=True)
class DeclaredDoor:
    """Builds the likelihood of a table: all of a declaration but its data."""

    function: Callable[..., Any]
    params: Mapping[str, Any]
    constants: Mapping[str, Any]
    columns: Mapping[str, str]
    weights: Mapping[str, Any]
    separable: bool | None
    name: str | None

    def declare(self, table: Table) -> Declaration:
        """Return the declaration for a table without missing values."""
        return _declare(
            self.function, table, self.params, self.weights, "raise", None, self.constants, self.columns, 0, None, self.name
        )

    def __call__(self, table: Table) -> Likelihood:
        return _with_engine(self.declare(table), (None, None), self.separable)


@dataclass(frozen=True)
class DeclaredBlocks:
    """Builds blocks like a template: the engine is chosen and its kernels compiled once."""

    door: DeclaredDoor
    shape: Likelihood

    def __call__(self, table: Table) -> Likelihood:
        declaration = self.door.declare(table)
        shape = self.shape
        if isinstance(shape, IndexLikelihood):
            design, made = _design(declaration, _predictors(declaration.space)[1])
            return replace(
                shape,
                rows=declaration.rows,
                weights=declaration.weights,
                design=design,
                equations=made,
                columns=declaration.columns,
            )
        assert isinstance(shape, GeneralLikelihood)
        return replace(
            shape,
            rows=declaration.rows,
            weights=declaration.weights,
            columns=_all_columns(declaration),
            count=declaration.n_terms,
        )


def _streamed(source: Source, door: DeclaredDoor, missing: str) -> Likelihood:
    arguments = [door.columns.get(name, name) for name in _argument_names(door.function)]
    options = {f"{kind}_weights": value for kind, value in door.weights.items()}
    words = [*arguments, *texts([list(door.params.values()), options])]
    return stream(
        source,
        words,
        door,
        weight_column(options),
        missing,
        lambda template: DeclaredBlocks(door, cut(template.subset(np.arange(1)), 1)),
        lambda table: door.declare(table).rows,
    )
