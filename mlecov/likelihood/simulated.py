"""Outcomes from the user's `simulate(rng, **arguments)`: arguments matched by name, columns checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError, listing, suggestion

Array = npt.NDArray[np.float64]


def simulated(
    simulator: Callable[..., Any],
    rng: np.random.Generator,
    arguments: Mapping[str, Any],
    columns: Mapping[str, npt.NDArray[Any]],
) -> dict[str, Array]:
    """Return the outcome columns that the user's function draws, each of its column's shape.

    Parameters
    ----------
    arguments :
        What the log-likelihood is called with: the function takes those that it names after `rng`.
    columns :
        The columns that the likelihood reads.

    Raises
    ------
    SpecificationError
        For arguments that are not known, and for results that can not take the outcomes' place.
    """
    found = simulator(rng, **_wanted(simulator, arguments))
    if not isinstance(found, Mapping) or not found:
        raise SpecificationError(
            f"simulate returned {type(found).__name__}; expected a dict of outcome columns, such as {{'y': ...}}."
        )
    drawn = {}
    for name, values in found.items():
        if name not in columns:
            raise SpecificationError(
                f"simulate returned a column {name!r} that the likelihood does not read, so its outcomes would "
                f"not change.{suggestion(str(name), list(arguments))}"
            )
        array = np.asarray(values, dtype=float)
        if array.shape != columns[name].shape:
            raise SpecificationError(
                f"simulate returned {name!r} of shape {array.shape}; expected {columns[name].shape}, an entry "
                "per row."
            )
        if not np.isfinite(array).all():
            bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
            raise SpecificationError(
                f"simulate returned {name!r} that is not finite in row(s) {listing(bad)}."
            )
        drawn[name] = array
    return drawn


def _wanted(simulator: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that the function names after its first, all where it takes **arguments."""
    parameters = list(inspect.signature(simulator).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(arguments)
    unknown = [p.name for p in parameters if p.name not in arguments and p.default is p.empty]
    if unknown:
        raise SpecificationError(
            f"simulate takes {listing(unknown)}, which the log-likelihood does not; after the generator it may "
            f"name {listing(arguments)}, or take **arguments."
        )
    return {p.name: arguments[p.name] for p in parameters if p.name in arguments}
