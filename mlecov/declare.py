"""`likelihood(...)`: match a user's function to parameters and data, choose the engine.

Arguments are matched by name: to a parameter, else to a constant, else to a column; a name that
could be two of these is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Table, open_table, screen, term_weights
from mlecov.engines import (
    Declaration,
    all_columns,
    argument_names,
    own_functions,
    predictors,
    united_design,
    with_engine,
    with_expected,
)
from mlecov.errors import (
    SpecificationError,
    listing,
    suggestion,
)
from mlecov.formulas import columns_used, linear_kind, materialize
from mlecov.kinds import as_kind
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.chunked_blocks import cut
from mlecov.likelihood.chunked_source import Source
from mlecov.likelihood.general import (
    GeneralLikelihood,
)
from mlecov.likelihood.index import IndexLikelihood
from mlecov.parameters import LinearTerms, ParameterSpace
from mlecov.streaming import open_source, stream, texts, weight_column

Array = npt.NDArray[np.float64]


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
        simulate(rng, ...) -> dict of outcome columns, for parametric bootstraps and Monte Carlo; after the
        generator it names the arguments of `function` that it wants, as numpy arrays.

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
            score=score,
            hessian=hessian,
            information=information,
            moments=moments,
            unit=unit,
            simulate=simulate,
            drop_first=drop_first or None,
        )
        door = DeclaredDoor(
            function, dict(params), dict(constants or {}), dict(columns or {}), weights, separable, name
        )
        return _streamed(source, door, missing)
    declaration = _declare(
        function, data, params, weights, missing, unit, constants, columns, drop_first, simulate, name
    )
    own = own_functions(declaration, score, hessian)
    found = with_engine(declaration, own, separable)
    if information is not None or moments is not None:
        return with_expected(declaration, found, information, moments, blocks)
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
        raise SpecificationError(
            f"weights of {len(given)} kinds were given ({listing(given)}); one is possible."
        )
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
        named = argument_names(function)
        if "unit" in named:
            values["unit"] = rows.unit  # type: ignore[assignment]
        if "n_units" in named:
            constants["n_units"] = rows.n_terms
    space = ParameterSpace.of(kinds)
    if not space.k:
        raise SpecificationError("every parameter is fixed: nothing is left to estimate.")
    return Declaration(
        function,
        str(name or getattr(function, "__name__", "loglike")),
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


def _match(
    function: Callable[..., Any],
    params: Mapping[str, Any],
    constants: Mapping[str, Any],
    rename: Mapping[str, str],
    columns: Mapping[str, Any],
    unit: str | None,
) -> tuple[str, ...]:
    """Return the arguments that are columns, after refusing every name that fits nowhere or twice."""
    named = argument_names(function)
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
            self.function,
            table,
            self.params,
            self.weights,
            "raise",
            None,
            self.constants,
            self.columns,
            0,
            None,
            self.name,
        )

    def __call__(self, table: Table) -> Likelihood:
        return with_engine(self.declare(table), (None, None), self.separable)


@dataclass(frozen=True)
class DeclaredBlocks:
    """Builds blocks like a template: the engine is chosen and its kernels compiled once."""

    door: DeclaredDoor
    shape: Likelihood

    def __call__(self, table: Table) -> Likelihood:
        declaration = self.door.declare(table)
        shape = self.shape
        if isinstance(shape, IndexLikelihood):
            design, made = united_design(declaration, predictors(declaration.space)[1])
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
            columns=all_columns(declaration),
            count=declaration.n_terms,
        )


def _streamed(source: Source, door: DeclaredDoor, missing: str) -> Likelihood:
    arguments = [door.columns.get(name, name) for name in argument_names(door.function)]
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
