"""Sums of numeric columns and long factors: their columns straight from the codes.

A formula such as "y ~ x1 + x2 + C(firm)" over many rows costs formula libraries several copies of the
data. Here the library reads a few rows in which every level occurs, and says which columns there are;
those of all rows are then filled from the numbers and the codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, first_positions
from mlecov.lazy import lazy
from mlecov.likelihood.design import dense_part

pd = lazy("pandas")
tabmat = lazy("tabmat")

Array = npt.NDArray[np.float64]

TERM = r"(?:C\(\s*[A-Za-z_]\w*\s*\)|[A-Za-z_]\w*|0|1)"
MAIN_EFFECTS = re.compile(rf"^\s*{TERM}(?:\s*\+\s*{TERM})*\s*$")


@dataclass(frozen=True)
class Factor:
    """A categorical column of the formula: the codes of the levels that occur (n,), and their labels."""

    text: str
    column: Any
    codes: npt.NDArray[np.intp]
    levels: list[Any]

    @property
    def labels(self) -> list[str]:
        """The labels of the columns of all levels."""
        return [f"{self.text}[T.{level}]" for level in self.levels]


def model_matrix(
    right: str, rows: Rows, read: Callable[[Any], Any]
) -> tuple[tuple[str, ...], Any, Any] | None:
    """Return (labels (p,), tabmat's matrix (n, p), specification), None where the formula says more.

    Parameters
    ----------
    right :
        The right-hand side; names, C(name), 0 and 1 joined by plus signs are read here.
    read :
        The formula library: a function of a frame that returns tabmat's matrix of `right`.
    """
    if not MAIN_EFFECTS.match(right):
        return None
    words = [word.strip() for word in right.split("+")]
    names = {word: re.sub(r"^C\(\s*|\s*\)$", "", word) for word in words if word not in ("0", "1")}
    if len(set(names.values())) < len(words) - sum(word in ("0", "1") for word in words):
        return None
    if any(name not in rows.table or np.ndim(rows.table.columns[name]) != 1 for name in names.values()):
        return None
    factors = {
        name: _factor(word, name, rows)
        for word, name in names.items()
        if word.startswith("C(") or rows.is_text(name)
    }
    numbers = [name for name in names.values() if name not in factors]
    if not all(map(rows.is_number, numbers)):  # truth values: the library codes them
        return None
    head = _head(rows, factors, numbers)
    small = read(head)
    made = _fill(small, rows, factors, numbers)
    return None if made is None else (tuple(small.column_names), made, small.model_spec)


def _factor(text: str, name: str, rows: Rows) -> Factor:
    values = rows.table.frame([name])[name]
    column = pd.Categorical(values if rows.kept is None else values.iloc[rows.kept])
    codes = np.asarray(column.codes, dtype=np.intp)
    observed = np.flatnonzero(np.bincount(codes, minlength=len(column.categories)))
    rank = np.full(len(column.categories), -1, dtype=np.intp)
    rank[observed] = np.arange(len(observed))
    return Factor(text, column, rank[codes], list(column.categories[observed]))


def _head(rows: Rows, factors: dict[str, Factor], numbers: list[str]) -> Any:
    """Return a frame of a few rows in which every level of every factor occurs."""
    firsts = [first_positions(factor.codes, len(factor.levels)) for factor in factors.values()]
    chosen = np.unique(np.concatenate([np.arange(min(2, rows.n_rows)), *firsts]))
    parts = {name: rows.column(name)[chosen] for name in numbers}
    return pd.DataFrame(parts | {name: factor.column[chosen] for name, factor in factors.items()})


def _fill(small: Any, rows: Rows, factors: dict[str, Factor], numbers: list[str]) -> Any:
    """Return the matrix of all rows with the columns of `small`, None for a column that is not known."""
    made, places = [], []
    matrices = list(small.matrices) if isinstance(small, tabmat.SplitMatrix) else [small]
    indices = small.indices if len(matrices) > 1 else [np.arange(small.shape[1])]
    dummies = {label: (factor, j) for factor in factors.values() for j, label in enumerate(factor.labels)}
    for matrix, where in zip(matrices, indices, strict=True):
        if isinstance(matrix, tabmat.CategoricalMatrix):
            factor = next((f for f in factors.values() if set(matrix.column_names) <= set(f.labels)), None)
            if factor is None:  # labels that the library writes in its own way: dates
                return None
            column = pd.Categorical.from_codes(factor.codes, categories=range(len(factor.levels)))
            made.append(tabmat.CategoricalMatrix(column, drop_first=matrix.drop_first))
        elif isinstance(matrix, tabmat.DenseMatrix):
            dense = np.empty((rows.n_rows, len(where)), order="F")
            for j, label in enumerate(matrix.column_names):
                if label == "Intercept":
                    dense[:, j] = 1.0
                elif label in numbers:
                    dense[:, j] = rows.column(label)
                elif label in dummies:
                    coded, level = dummies[label]
                    np.equal(coded.codes, level, out=dense[:, j])
                else:
                    return None
            made.append(dense_part(dense))
        else:
            return None
        places.append(where)
    return made[0] if len(made) == 1 else tabmat.SplitMatrix(made, places)
