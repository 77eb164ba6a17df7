"""Durations with right, left and interval censoring and delayed entry: the patterns, combined once.

With cumulative hazard H(t) = -log S(t) and hazard h = H', the contribution of a row is

    event at t            log h(t) - H(t)
    right-censored at t   -H(t)
    event in (l, u]       log(S(l) - S(u)) = -H(l) + log(1 - exp(-(H(u) - H(l)))),   H(0) = 0
    observed from t0 on   + H(t0)

so a distribution need only give H, and d log h - H where d is 1 for events, with derivatives.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives, pair_index
from mlecov.models.base import Model, build, outside
from mlecov.models.ends import open_ends
from mlecov.models.predicted import Declared, OfPoints, OfRows
from mlecov.models.working import row_weights

Array = npt.NDArray[np.float64]

RIGHT, EVENT, LEFT, BETWEEN = 0, 1, 2, 3
"""Codes of `event`, as R's Surv(type = "interval") has them."""


@dataclass(frozen=True)
class Duration(Model):
    """A duration model. Columns: y, log_y; event where not all are; lower and upper; entry.

    `complete` says that every row is an event at y observed from zero on: the expected information
    is then that of the distribution; under censoring it would need the censoring times of all rows.
    """

    complete: bool = False

    @abstractmethod
    def plain(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        """Return d log h(y) - H(y) and its derivatives; d is columns["event"], or 1 without it."""

    @abstractmethod
    def cumulative(self, eta: Array, t: Array, order: int) -> RowDerivatives:
        """Return H(t) and its derivatives at t > 0."""

    @abstractmethod
    def inverse(self, eta: Array, hazard: Array) -> Array:
        """Return the t at which H(t) is `hazard`."""

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        value, first, second = self.plain(eta, columns, order)
        if "upper" in columns:
            rows = np.flatnonzero(columns["upper"] > columns["lower"])
            if len(rows):
                part = self._between(eta[:, rows], columns["lower"][rows], columns["upper"][rows], order)
                for whole, piece in zip((value, first, second), part, strict=True):
                    if whole is not None:
                        whole[..., rows] = piece
        if "entry" in columns:
            rows = np.flatnonzero(columns["entry"] > 0)
            if len(rows):
                part = self.cumulative(eta[:, rows], columns["entry"][rows], order)
                for whole, piece in zip((value, first, second), part, strict=True):
                    if whole is not None and piece is not None:
                        whole[..., rows] += piece
        return value, first, second

    def _between(self, eta: Array, lower: Array, upper: Array, order: int) -> RowDerivatives:
        """Return log(S(lower) - S(upper)) and its derivatives."""
        positive = lower > 0
        low = self.cumulative(eta, np.where(positive, lower, 1.0), order)
        high = self.cumulative(eta, upper, order)
        h0 = np.where(positive, low[0], 0.0)
        gap = high[0] - h0
        value = np.log(-np.expm1(-gap)) - h0
        if low[1] is None or high[1] is None:
            return value, None, None
        d0 = np.where(positive, low[1], 0.0)
        d = high[1] - d0
        g = 1.0 / np.expm1(gap)
        first = g * d - d0
        if low[2] is None or high[2] is None:
            return value, first, None
        dd0 = np.where(positive, low[2], 0.0)
        second = g * (high[2] - dd0) - dd0
        for p, (e, f) in enumerate(pair_index(len(eta))):
            second[p] -= (g + g * g) * d[e] * d[f]
        return value, first, second

    def support(self, y: Array, exact: npt.NDArray[np.bool_]) -> str | None:
        """Return what is wrong with the times, or None; those of events are `exact`."""
        return outside(y, (y > 0) | (~exact & (y == 0)), "positive")

    def check(self, y: Array, columns: Columns) -> str | None:
        event = np.asarray(columns.get("event", np.ones(len(y))))
        if not np.isin(event, (RIGHT, EVENT, LEFT, BETWEEN)).all():
            bad = np.flatnonzero(~np.isin(event, (RIGHT, EVENT, LEFT, BETWEEN)))[0]
            return (
                "needs event= coded 0 (right-censored), 1 (event), 2 (left-censored) or 3 (interval, with "
                f"upper=); it is {event[bad]:g} in row {bad}."
            )
        code, lower, upper = codes(y, columns)
        wrong = self.support(y, code == EVENT)
        if wrong is not None:
            return wrong
        if (upper < lower).any():
            bad = int(np.argmax(upper < lower))
            return f"must not exceed upper=; it is {y[bad]:g} against {upper[bad]:g} in row {bad}."
        if (event == BETWEEN).any() and "upper" not in columns:
            return "has interval-censored rows (event 3) but upper= was not given."
        entry = columns.get("entry")
        if entry is not None and ((entry < 0) | (entry >= np.maximum(y, upper))).any():
            bad = int(np.argmax((entry < 0) | (entry >= np.maximum(y, upper))))
            return f"must lie after entry= (from 0 on); it is {y[bad]:g} against {entry[bad]:g} in row {bad}."
        if entry is not None and ((code > EVENT) & (entry > lower)).any():
            bad = int(np.argmax((code > EVENT) & (entry > lower)))
            ends = f"{lower[bad]:g} against {entry[bad]:g}"
            return f"has an interval that opens before entry= in row {bad}: {ends}."
        if (code == RIGHT).all():
            return "is right-censored in every row: without events there is no maximum. See event=, upper=."
        return None

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean, median and quantile[p], infinite where so many never end; survival[t] = S(t), hazard[t] and
        cumulative_hazard[t], without t at the row's own time (of its event, censoring or lower end).
        """

        def at(function: Any) -> OfPoints:
            return OfPoints(
                function, "a time t > 0", "10", lambda t: 0 < t < np.inf, lambda n, columns: (columns["y"],)
            )

        quantile = OfPoints(
            lambda eta, columns, p: self.inverse(eta, -np.log1p(-p)),
            "a probability between 0 and 1",
            "0.9",
            lambda p: 0 < p < 1,
        )
        return {
            **super().quantities,
            "median": OfRows(lambda eta, columns: self.inverse(eta, np.full(eta.shape[1], np.log(2)))),
            "quantile": quantile,
            "survival": at(lambda eta, columns, t: np.exp(-self._accumulated(eta, t))),
            "hazard": at(self._hazard),
            "cumulative_hazard": at(lambda eta, columns, t: self._accumulated(eta, t)),
        }

    def _accumulated(self, eta: Array, t: Array) -> Array:
        """Return H(t) at t >= 0."""
        return np.where(t > 0, self.cumulative(eta, np.where(t > 0, t, 1.0), 0)[0], 0.0)

    def _hazard(self, eta: Array, columns: Columns, t: Array) -> Array:
        """Return h(t), of an event's log h - H; NaN at zero, where rows have no time of their own."""
        there = np.where(t > 0, t, np.nan)
        log_density = self.plain(eta, {"y": there, "log_y": np.log(there)}, 0)[0]
        return np.asarray(np.exp(log_density + self.cumulative(eta, there, 0)[0]))

    @property
    def has_expected(self) -> bool:
        return False

    def times(self, likelihood: IndexLikelihood) -> tuple[Array, float]:
        """Return one positive time per row for start values, and the log of rows per event."""
        columns = likelihood.columns
        y = columns["y"]
        if "upper" in columns:
            y = np.where(columns["upper"] > columns["lower"], 0.5 * (columns["lower"] + columns["upper"]), y)
        w = row_weights(likelihood)
        events = float(w.sum() if "event" not in columns else w @ np.where(_closed(columns), 1.0, 0.0))
        positive = y[y > 0]
        least = 0.5 * float(positive.min()) if len(positive) else 1.0
        return np.maximum(y, least), float(np.log(w.sum() / max(events, 1e-300)))

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        before = np.zeros(eta.shape[1])
        if "entry" in columns:
            entered = columns["entry"] > 0
            before = np.where(
                entered, self.cumulative(eta, np.where(entered, columns["entry"], 1.0), 0)[0], 0.0
            )

        def distribution(t: Array) -> Array:
            inside = np.where(t > 0, self.cumulative(eta, np.where(t > 0, t, 1.0), 0)[0], 0.0)
            return np.asarray(-np.expm1(-np.maximum(inside - before, 0.0)))

        if "upper" in columns:
            low, high = distribution(columns["lower"]), distribution(columns["upper"])
        else:
            low = high = distribution(columns["y"])
        if "event" not in columns:
            return low, high
        return low, np.where(_closed(columns), high, 1.0)

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        """Draw durations under the observed design.

        Rows right-censored at y stay under observation until y; an interval row is inspected at its
        two ends, and known to have survived until its entry; an event row is followed to its event.
        Draws exceed the time of entry.
        """
        drawn: Array = np.asarray(rng.standard_exponential(eta.shape[1]))
        if "entry" in columns:
            entered = columns["entry"] > 0
            drawn += np.where(
                entered, self.cumulative(eta, np.where(entered, columns["entry"], 1.0), 0)[0], 0.0
            )
        t = self.inverse(eta, drawn)
        endless = np.isinf(t) & (columns["event"] == EVENT if "event" in columns else True)
        if endless.any():
            raise SpecificationError(
                f"{self.name}: at these parameters some durations never end (row {int(np.argmax(endless))}), "
                "and rows without a censoring time can not be drawn. Give the rows censoring times (event 0)."
            )
        if "event" not in columns:
            return {"y": t, "log_y": np.log(t)}
        lower, upper = columns.get("lower", columns["y"]), columns.get("upper", columns["y"])
        inspected = upper > lower
        censored = ~inspected & (columns["event"] == RIGHT)
        y = np.where(censored, np.minimum(t, columns["y"]), t)
        found = {"y": y, "event": np.where(censored & (t > columns["y"]), 0.0, 1.0)}
        if "upper" in columns:
            low = np.where(t <= lower, columns.get("entry", 0.0), np.where(t <= upper, lower, upper))
            high = np.where(t <= lower, lower, upper)
            found["lower"], found["upper"] = np.where(inspected, low, y), np.where(inspected, high, y)
            found["y"] = np.where(inspected, low, y)
            found["event"] = np.where(inspected, 0.0, found["event"])
        found["log_y"] = np.log(np.where(found["y"] > 0, found["y"], 1.0))
        return found


def _closed(columns: Columns) -> npt.NDArray[np.bool_]:
    """Return which rows have an event, at y or in an interval."""
    found = np.asarray(columns["event"] == EVENT)
    return found | (columns["upper"] > columns["lower"]) if "upper" in columns else found


def codes(y: Array, columns: Columns) -> tuple[npt.NDArray[np.intp], Array, Array]:
    """Return the code of each row and its interval [lower, upper] (both y outside intervals)."""
    code = np.asarray(columns.get("event", np.ones(len(y)))).astype(np.intp)
    upper = y.copy()
    if "upper" in columns:
        end, is_open = columns["upper"], columns["upper_open"] == 1
        between = code == BETWEEN if "event" in columns else is_open | (end != y)
        code = np.where(between, np.where(is_open, RIGHT, BETWEEN), code)
        upper = np.where(between & ~is_open, end, y)
        code = np.where((code == BETWEEN) & (upper == y), EVENT, code)
    return code, np.where(code == LEFT, 0.0, y), upper


def arrange(columns: Columns) -> dict[str, npt.NDArray[Any]]:
    """Return the columns a Duration reads, from those the user gave."""
    y = columns["y"]
    code, lower, upper = codes(y, columns)
    interval = code >= LEFT
    low = np.where(interval, lower, y)
    found = {"y": low, "log_y": np.log(np.where(low > 0, low, 1.0))}
    if not (code == EVENT).all():
        found["event"] = (code == EVENT).astype(float)
    if interval.any():
        found["lower"], found["upper"] = low, np.where(interval, upper, y)
    if "entry" in columns and columns["entry"].any():
        found["entry"] = columns["entry"]
    return found


def build_duration(
    model: Duration,
    formula: Any,
    data: Any,
    *,
    event: Any = None,
    upper: Any = None,
    entry: Any = None,
    equations: dict[str, str | None] | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of a duration model; see `duration.weibull` for the columns."""
    columns = {"event": event, "upper": upper, "entry": entry}
    data, columns = open_ends(data, formula, columns, "upper", 1.0)
    likelihood = build(model, formula, data, equations=equations, columns=columns, **options)
    arranged = arrange(likelihood.columns)
    complete = not {"event", "entry"} & set(arranged)
    return replace(likelihood, columns=arranged, model=replace(model, complete=complete))


def require_form(name: str, form: str) -> None:
    """Raise unless form is "aft" or "ph"."""
    if form not in ("aft", "ph"):
        raise SpecificationError(
            f"{name}: form={form!r} is not known; expected 'aft' (log duration) or 'ph' (log hazard)."
        )
