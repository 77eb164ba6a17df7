"""Time as the user has it: numbers, dates or periods made integers; order, gaps and panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.specbase import label_of, shown
from mlecov.data import is_missing
from mlecov.errors import CovarianceError, DataError, listing
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood

pd = lazy("pandas")

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

STRETCH = 20
"""How many times longer than the data a series with its gaps filled may be."""


@dataclass(frozen=True)
class Timeline:
    """Terms in time order, series after series.

    `order` (n',) are terms, -1 where a period is missing; `breaks` the first positions of the series
    after the first, or None for one series; `note` says what was done about gaps.
    """

    order: Codes
    breaks: Codes | None
    note: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether no term was moved and nothing inserted."""
        return len(self.order) == 0 or bool((np.diff(self.order) == 1).all())


def timeline(likelihood: Likelihood, order_by: Any, group: Any, gaps: str) -> Timeline:
    """Return the terms in the order of `order_by` within each group.

    Raises
    ------
    CovarianceError
        For times that occur twice within a group, and for gaps unless `gaps` says what to do.
    DataError
        For missing times or ids, and times that are no numbers or dates.
    """
    n = likelihood.n_terms
    codes = None
    if group is not None:
        codes, labels = likelihood.rows.codes(group, label_of(group, "group"))
    if order_by is None:
        order = np.arange(n) if codes is None else np.argsort(codes, kind="stable")
        return Timeline(order, _breaks(codes, order))
    name = label_of(order_by, "order_by")
    raw = likelihood.rows.per_term(order_by, name)
    times = time_index(raw, name)
    order = np.argsort(times, kind="stable") if codes is None else np.lexsort((times, codes))
    breaks = _breaks(codes, order)
    step = np.diff(times[order]).astype(float)
    inside = np.ones(n - 1, dtype=bool)
    if breaks is not None:
        inside[breaks - 1] = False
    doubled = inside & (step == 0)
    if doubled.any():
        at = int(np.flatnonzero(doubled)[0])
        where = "" if codes is None else f" within group {shown(labels[codes[order[at]]])}"
        raise CovarianceError(
            f"{name!r}: {int(doubled.sum())} time(s) occur twice, first {shown(raw[order[at]])}{where}. "
            "Terms "
            "of one period "
            "have no order: give group= for panels, or use DriscollKraay."
        )
    return with_gaps(Timeline(order, breaks), step, inside, gaps, name, raw)


def _breaks(codes: Codes | None, order: Codes) -> Codes | None:
    if codes is None:
        return None
    sorted_ = codes[order]
    return np.flatnonzero(sorted_[1:] != sorted_[:-1]) + 1


def with_gaps(
    line: Timeline, step: Array, inside: npt.NDArray[np.bool_], gaps: str, name: str, raw: Any
) -> Timeline:
    """Return the timeline with gaps refused, ignored or filled; `step` (n - 1,) between neighbours."""
    if not inside.any():
        return line
    unit = float(step[inside].min())
    wide = inside & (step > unit * (1 + 1e-9))
    if not wide.any():
        return line
    at = int(np.flatnonzero(wide)[0])
    before, after = raw[line.order[at]], raw[line.order[at + 1]]
    first = f"{int(wide.sum())} gap(s) in {name!r}, first between {shown(before)} and {shown(after)}"
    if gaps == "raise":
        raise CovarianceError(
            f"{first}. Say gaps='time' (lags are distances in time, missing periods are zeros) or "
            "gaps='ignore' "
            "(neighbours count as consecutive)."
        )
    if gaps == "ignore":
        return Timeline(line.order, line.breaks, f", {int(wide.sum())} gap(s) ignored")
    units = np.where(inside, step / unit, 1.0)
    whole = np.round(units)
    if np.abs(units - whole).max() > 1e-6:
        raise CovarianceError(
            f"{first}; the distances are no multiples of the shortest ({unit:g}), so that periods can "
            "not be counted. "
            "Give order_by as whole periods, or say gaps='ignore'."
        )
    place = np.r_[0, np.cumsum(whole)].astype(np.intp)
    if place[-1] + 1 > STRETCH * len(line.order):
        raise CovarianceError(
            f"{first}; with all of them filled there would be {place[-1] + 1} periods for "
            f"{len(line.order)} terms. Give "
            "order_by in a wider unit, or say gaps='ignore'."
        )
    order = np.full(place[-1] + 1, -1, dtype=np.intp)
    order[place] = line.order
    breaks = None if line.breaks is None else place[line.breaks]
    return Timeline(order, breaks, f", {len(order) - len(line.order)} missing period(s) as zeros")


def time_index(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return times as numbers: integers where they are whole, dates in the widest unit that fits.

    Raises
    ------
    DataError
        For missing values and for text.
    """
    missing = is_missing(values)
    if missing.any():
        raise DataError(
            f"{name}: {int(missing.sum())} missing time(s), in term(s) {listing(np.flatnonzero(missing))}."
        )
    if values.dtype.kind == "O" and len(values) and isinstance(values[0], pd.Period):
        return np.array([period.ordinal for period in values], dtype=np.int64)
    if values.dtype.kind == "O" and len(values) and not isinstance(values[0], (str, int, float)):
        values = np.asarray(pd.to_datetime(pd.Series(values)))
    if values.dtype.kind == "M":
        return _dates(values)
    try:
        if values.dtype.kind in "OUST":
            raise ValueError
        number = values.astype(float)
    except (ValueError, TypeError):
        raise DataError(
            f"{name}: {shown(values[0])} is no time: text has no distances. Convert it to numbers or with "
            "pandas.to_datetime."
        ) from None
    if not np.isfinite(number).all():
        raise DataError(
            f"{name}: infinite time(s), in term(s) {listing(np.flatnonzero(~np.isfinite(number)))}."
        )
    return values.astype(np.int64) if (number == np.round(number)).all() else number


def _dates(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return dates as whole years, months (first or last days), days or nanoseconds."""
    for unit in ("Y", "M", "D"):
        wide = values.astype(f"datetime64[{unit}]")
        if (wide.astype(values.dtype) == values).all():
            return wide.astype(np.int64)
        days = values.astype("datetime64[D]")
        if unit == "M" and ((wide + 1).astype("datetime64[D]") - 1 == days).all():
            return wide.astype(np.int64)
    return values.astype("datetime64[ns]").astype(np.int64)
