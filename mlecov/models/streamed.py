"""Ready-made models of data that stay in a file or on a cluster: the same call, with a path as data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlecov.data import Table
from mlecov.errors import SpecificationError
from mlecov.likelihood.base import Likelihood
from mlecov.streaming import open_source, stream, texts, weight_column


@dataclass(frozen=True)
class ModelDoor:
    """Builds a model's likelihood of a table: the model's function and all options of the call."""

    function: Callable[..., Any]
    formula: str
    options: Mapping[str, Any]

    def __call__(self, table: Table) -> Likelihood:
        return self.function(self.formula, table, **self.options)  # type: ignore[no-any-return]


@functools.cache
def streamable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a model's function that also takes a path, a pyarrow dataset or a Dask frame as data."""

    @functools.wraps(function)
    def run(formula: Any, data: Any = None, *arguments: Any, **options: Any) -> Any:
        source = open_source(data)
        if source is None:
            return function(formula, data, *arguments, **options)
        if arguments or not isinstance(formula, str):
            raise SpecificationError(
                f"{function.__name__}: with data in a file give a formula, the data, and options by keyword."
            )
        missing = options.pop("missing", "raise")
        weight = weight_column(options)
        door = ModelDoor(function, formula, options)
        return stream(source, list(texts([formula, options])), door, weight, missing)

    return run
