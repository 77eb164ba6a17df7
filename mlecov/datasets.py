"""The data sets that travel with the package: folders of `data.csv` and `README.md`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from mlecov.errors import DataError, suggestion

_PACKAGE = Path(__file__).resolve().parent


def _root() -> Path:
    """Return the folder of folders: inside an installed wheel, or beside the package in a checkout."""
    for root in (_PACKAGE / "_datasets", _PACKAGE.parent / "datasets"):
        # The index file is asked for because another distribution may own a directory called `datasets`.
        if (root / "README.md").is_file():
            return root
    raise DataError(
        f"the data sets are missing: looked for _datasets in {_PACKAGE} and datasets in {_PACKAGE.parent}. "
        "The installation is incomplete; install the package again."
    )


def _names(root: Path) -> list[str]:
    return sorted(file.parent.name for file in root.glob("*/data.csv"))


def _front(folder: Path) -> dict[str, str]:
    """Return title and the `- key: value` lines that open the README of a data set."""
    title, *lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    front = {"title": title.removeprefix("# ").strip()}
    for line in lines:
        if line.startswith("- "):
            key, _, value = line.removeprefix("- ").partition(": ")
            front[key] = value.strip()
        elif line:
            break
    return front


def _column(text: tuple[str, ...]) -> pd.Series:
    """Return integers if every entry is one, else correctly rounded numbers, else the text itself."""
    for kind in (np.int64, np.float64):
        try:
            return pd.Series(np.array(text, dtype=kind))
        except ValueError:
            continue
    return pd.Series(text)


def _levels(declaration: str) -> dict[str, pd.CategoricalDtype]:
    """Read `sat: Low < High; type: Tower, Atrium`: the order of categories, `<` where it has a meaning."""
    kinds = {}
    for part in filter(None, declaration.split("; ")):
        column, _, levels = part.partition(": ")
        ordered = " < " in levels
        kinds[column] = pd.CategoricalDtype(levels.split(" < " if ordered else ", "), ordered=ordered)
    return kinds


def read(file: Path) -> pd.DataFrame:
    """Read a table of comma-separated values exactly: pandas may miss the nearest double by one unit."""
    with file.open(encoding="utf-8", newline="") as lines:
        head, *rows = csv.reader(lines)
    columns = zip(*rows, strict=True)
    return pd.DataFrame({label: _column(text) for label, text in zip(head, columns, strict=True)})


def path(name: str) -> Path:
    """Return the folder of a data set, which holds its `data.csv` and `README.md`.

    >>> path("spector").name
    'spector'
    """
    root = _root()
    names = _names(root)
    if name not in names:
        raise DataError(f"there is no data set {name!r}.{suggestion(str(name), names)}")
    return root / name


def load(name: str) -> pd.DataFrame:
    """Load a data set as a new frame, changes to which do not reach the next call.

    Numbers are rounded correctly, so that reference values hold to their last digit. Columns of categories
    have them in the order of the data set's README: the first is the base of formulas.

    References
    ----------
    The README in `path(name)` names source, licence, variables and the papers that used the data.

    Examples
    --------
    >>> load("greene").columns.tolist()
    ['obs', 'income', 'educ']
    """
    folder = path(name)
    return read(folder / "data.csv").astype(_levels(_front(folder).get("levels", "")))


def datasets() -> pd.DataFrame:
    """List the data sets: name, rows, columns, title, source and licence, a row each.

    >>> datasets().columns.tolist()
    ['name', 'rows', 'columns', 'title', 'source', 'licence']
    """
    root = _root()
    table = []
    for name in _names(root):
        # One record a line (a test holds the files to it): counted without reading the numbers.
        head, *records = (root / name / "data.csv").read_text(encoding="utf-8").splitlines()
        front = _front(root / name)
        table.append(
            {"name": name, "rows": len(records), "columns": head.replace(",", ", ")}
            | {key: front[key] for key in ("title", "source", "licence")}
        )
    return pd.DataFrame(table)
