"""From a matched declaration to a likelihood: the engine is chosen, the designs are united."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Weights
from mlecov.errors import SeparabilityError, SpecificationError, listing, suggestion
from mlecov.formulas import Block, unite
from mlecov.kinds import Kind
from mlecov.likelihood.base import Facts, Likelihood
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
from mlecov.parameters import LinearKind, ParameterSpace
from mlecov.separable import traceable, verify_rows

Array = npt.NDArray[np.float64]

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


def argument_names(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the named arguments of `function`; *args has no names and is refused."""
    named = dict(inspect.signature(function).parameters)
    for key, parameter in named.items():
        if (
            parameter.kind is inspect.Parameter.VAR_POSITIONAL
            or parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        ):
            raise SpecificationError(
                f"argument {key!r} of the function has no name to match; write every parameter and column as a "
                "named argument."
            )
    return {k: p for k, p in named.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}


def own_functions(
    declaration: Declaration, score: Callable[..., Any] | None, hessian: Callable[..., Any] | None
) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    """Return the user's score and Hessian as functions of (raw, columns), None where not given."""
    if hessian is not None and score is None:
        raise SpecificationError("hessian= was given without score=; give both, or neither.")
    return tuple(  # type: ignore[return-value]
        None if f is None else bound(declaration, f) for f in (score, hessian)
    )


def bound(declaration: Declaration, function: Callable[..., Any]) -> Callable[[Array, Any], Any]:
    """Return (raw, columns) -> function(...), its arguments matched by name as the likelihood's are."""
    call = call_of(declaration)
    named = argument_names(function)

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


def call_of(declaration: Declaration) -> Call:
    """Return how the general engines call the function: from raw coordinates and columns."""
    return Call(
        declaration.function,
        declaration.space,
        declaration.arguments,
        declaration.constants,
        {name: f"X:{name}" for name in declaration.blocks},
        {name: f"offset:{name}" for name, b in declaration.blocks.items() if b.offset is not None},
        declaration.drop_first,
    )


def all_columns(declaration: Declaration) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a general call: data, and the dense designs and offsets by their keys."""
    found = dict(declaration.columns)
    for name, block in declaration.blocks.items():
        found[f"X:{name}"] = block.matrix if block.is_dense else np.asarray(block.matrix.toarray())
        if block.offset is not None:
            found[f"offset:{name}"] = block.offset
    return found


def predictors(space: ParameterSpace) -> tuple[dict[str, slice], list[tuple[str, str | None, int]]]:
    """Return each parameter's slice of eta, and the equations (name, block, first coefficient)."""
    slices: dict[str, slice] = {}
    equations: list[tuple[str, str | None, int]] = []
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


def with_engine(
    declaration: Declaration,
    own: tuple[Callable[..., Any] | None, Callable[..., Any] | None],
    separable: bool | None,
) -> Likelihood:
    """Return the likelihood of a declaration with the engine that fits it."""
    columns, call = all_columns(declaration), call_of(declaration)
    raw = declaration.space.raw(declaration.space.start())
    by_jax = own[0] is None and traceable(call, raw, columns, declaration.n_terms)
    by_rows = declaration.rows.unit is None and not declaration.drop_first
    if by_rows:
        by_rows = separable is not False and verify_rows(
            call, columns, declaration.n_terms, by_jax, demanded=separable is True
        )
    elif separable and declaration.drop_first:
        raise SeparabilityError(
            "separable=True can not hold with drop_first=: terms are conditioned on other rows."
        )
    if own[0] is not None:
        return general(declaration, AnalyticEngine(call, own[0], own[1]), columns, by_rows)
    slices, equations = predictors(declaration.space)
    if by_rows and len(equations) <= MAX_INDEX_EQUATIONS:
        return index_likelihood(declaration, slices, equations, by_jax)
    engine: Engine = AutodiffEngine(call) if by_jax else NumericEngine(call)
    return general(declaration, engine, columns, by_rows)


def signature_of(declaration: Declaration) -> Signature:
    """Return how the row engines call the user's function."""
    slices, _ = predictors(declaration.space)
    kinds: dict[str, Kind] = {p.name: p.kind for p in declaration.space}
    return Signature(declaration.function, kinds, slices, declaration.arguments, declaration.constants)


def index_likelihood(
    declaration: Declaration,
    slices: dict[str, slice],
    equations: list[tuple[str, str | None, int]],
    by_jax: bool,
) -> IndexLikelihood:
    """Return the index likelihood of a declaration whose rows are separate."""
    design, made = united_design(declaration, equations)
    signature = signature_of(declaration)
    kind = TracedRows if by_jax else NumericRows
    return IndexLikelihood(
        declaration.space,
        declaration.rows,
        declaration.weights,
        Facts(
            declaration.name,
            f"index, {'autodiff' if by_jax else 'numeric'}",
            None,
            {"blocks": declaration.blocks},
        ),
        design,
        made,
        kind(signature, len(made), declaration.simulator),
        declaration.columns,
    )


def united_design(
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


def general(
    declaration: Declaration, engine: Engine, columns: dict[str, npt.NDArray[Any]], separable: bool
) -> GeneralLikelihood:
    """Return the general likelihood of a declaration; separable ones can be cut into terms."""
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
    made = general(smaller, engine, columns, separable=True)
    return made


def with_expected(
    declaration: Declaration,
    found: Likelihood,
    information: Callable[..., Any] | None,
    moments: Sequence[Callable[..., Any]] | None,
    blocks: Sequence[Sequence[str]] | None,
) -> Likelihood:
    """Return the likelihood with the expected information of a matrix or of two moments."""
    if information is not None and moments is not None:
        raise SpecificationError("information= and moments= were both given; one is possible.")
    own = None if information is None else bound(declaration, information)
    columns, call = all_columns(declaration), call_of(declaration)
    expected = expected_information(own, moments, blocks, call, columns, declaration.weights)
    assert isinstance(found, (IndexLikelihood, GeneralLikelihood))
    text = (
        "as given by information=" if moments is None else "of the Gaussian quasi-likelihood of two moments"
    )
    if blocks is not None:
        text += ", zero between " + " and ".join("{" + ", ".join(group) + "}" for group in blocks)
    facts = replace(found.facts, extra={**found.facts.extra, "expected": text})
    return replace(found, expected_matrix=expected, facts=facts)


# --- data that stay in a file ---------------------------------------------------------------------------
