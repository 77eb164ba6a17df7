"""Outcomes that are categories: their levels, and the numbers 0, 1, ... that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Table, factorize, is_missing, open_table, to_numpy
from mlecov.errors import DataError, SpecificationError, listing
from mlecov.formulas import parse


def encode(
    name: str, formula: Any, data: Any, levels: Sequence[Any] | None, *, in_order: bool
) -> tuple[Any, tuple[Any, ...], Any]:
    """Return (formula or y, levels, data) with the outcome replaced by its level's number.

    `in_order` says that the order of the levels matters, so that text needs to declare it.

    Raises
    ------
    DataError, SpecificationError
        For text without an order, outcomes that are not among the levels, or fewer than two levels.
    """
    if not isinstance(formula, str):
        codes, found = _codes(name, "y", formula, levels, in_order)
        return codes, found, data
    if data is None:
        raise SpecificationError(f"{name}({formula!r}): a formula needs data, as the second argument.")
    left = parse(formula).left
    table = open_table(data)
    if left is None or left not in table:
        raise SpecificationError(
            f"{name}({formula!r}): expected a column on the left-hand side, got {left!r}; "
            "categories are not computed."
        )
    codes, found = _codes(name, left, table.columns[left], levels, in_order)
    columns: Mapping[str, Any] = {**table.columns, left: codes}
    coded: Table = replace(table, columns=dict(columns))
    return formula, found, coded


def _codes(
    name: str, outcome: str, values: Any, levels: Sequence[Any] | None, in_order: bool
) -> tuple[npt.NDArray[np.float64], tuple[Any, ...]]:
    array = to_numpy(values) if not isinstance(values, (list, tuple)) else np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{outcome!r} has shape {array.shape}; expected (n,).")
    codes, labels = factorize(array)
    lost = is_missing(labels)
    known = [None if absent else label for label, absent in zip(labels.tolist(), lost, strict=True)]
    present = [label for label in known if label is not None]
    if levels is None:
        categories = getattr(getattr(values, "cat", None), "categories", None)
        if categories is not None:
            levels = [level for level in list(categories) if level in present]
        elif in_order and array.dtype.kind not in "fiub":
            raise DataError(
                f"{name}: the outcome {outcome!r} is text, whose order is not known. Say "
                f"levels={sorted(map(str, present))[:6]!r} in the right order, or make it an "
                "ordered categorical."
            )
        else:
            levels = sorted(present)
    found = tuple(levels)
    if len(found) < 2 or len(set(found)) < len(found):
        raise DataError(
            f"{name}: the outcome {outcome!r} has levels {listing(map(repr, found))}; expected two or more."
        )
    strange = [label for label in present if label not in found]
    if strange:
        raise DataError(
            f"{name}: the outcome {outcome!r} takes {listing(map(repr, strange), 5)}, not among the levels "
            f"{listing(map(repr, found))}."
        )
    number = {level: float(j) for j, level in enumerate(found)}
    numbers = np.array([np.nan if label is None else number[label] for label in known] + [np.nan])
    return numbers[codes], found
