"""Refits with some entries held at values, each started from the nearest one known."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mlecov.covariance.sandwich import covariance
from mlecov.covariance.specs import Basic
from mlecov.errors import (
    ConvergenceWarning,
    InferenceError,
    MlecovError,
    SpecificationError,
    listing,
    suggestion,
)
from mlecov.links import Link
from mlecov.optimize.maximize import maximize
from mlecov.optimum import Optimum
from mlecov.parameters import restriction

Array = npt.NDArray[np.float64]


@dataclass
class Refits:
    """Maxima of a likelihood with some entries held at values, each started from the nearest known one.

    Entries are held on the scale of their link (log for a positive one), where they are free to go
    anywhere.
    """

    optimum: Optimum
    labels: tuple[str, ...]
    links: tuple[Link, ...] = field(init=False)
    center: Array = field(init=False)
    scale: Array = field(init=False)
    known: list[tuple[Array, Array, float]] = field(init=False)
    failure: str = field(init=False, default="")

    def __post_init__(self) -> None:
        space = self.optimum.likelihood.space
        refuse_pseudo(self.optimum)
        if not self.optimum.record.converged:
            raise InferenceError(
                f"the fit did not converge ({self.optimum.record.criterion}), so there is no maximum to "
                "profile from."
            )
        for label in self.labels:
            if label not in space.labels:
                names = [p.name for p in space if p.kind.n_reported > 1 and p.name == label]
                hint = (
                    f" Give one of its entries: {listing(space[label].kind.labels(label), 8)}."
                    if names
                    else ""
                )
                raise SpecificationError(
                    f"no entry {label!r} to profile.{hint or suggestion(label, space.labels)}"
                )
        positions = [space.labels.index(label) for label in self.labels]
        found = covariance(self.optimum, Basic("oim"))
        if found.without_variance[positions].any():
            raise InferenceError(f"{listing(self.labels)}: an entry that is fixed can not be profiled.")
        self.links = tuple(space.interval_links[i] for i in positions)
        values = space.report(self.optimum.theta)[positions]
        self.center = np.array(
            [float(k.forward(np.float64(v))) for k, v in zip(self.links, values, strict=True)]
        )
        slope = np.array(
            [float(k.derivative(np.float64(v))) for k, v in zip(self.links, values, strict=True)]
        )
        self.scale = slope * found.bse[positions]
        self.known = [(self.center, self.optimum.theta, self.optimum.evaluation.loglike)]

    @property
    def top(self) -> float:
        """The unrestricted maximum of the log-likelihood."""
        return self.optimum.evaluation.loglike

    def values(self, u: Array) -> Array:
        """Return the entries' values on the user's scale at link-scale coordinates u."""
        return np.array([float(k.inverse(np.float64(v))) for k, v in zip(self.links, u, strict=True)])

    def place(self, value: float) -> float:
        """Return the link-scale coordinate of a value of the first entry.

        Raises
        ------
        InferenceError
            Where the value lies on a bound of the entry's range, or outside it.
        """
        link, label = self.links[0], self.labels[0]
        if not link.lo < value < link.hi:
            raise InferenceError(
                f"{label} = {value:g} lies on or outside the range of {label}: "
                f"{link.lo:g} < {label} < {link.hi:g}."
            )
        return float(link.forward(np.float64(value)))

    def loglike(self, u: Array) -> float:
        """Return the maximum over all other parameters with the entries at u; NaN where none is found.

        Raises
        ------
        InferenceError
            Where it exceeds the maximum of the fit, which then was none.
        """
        for place, _, value in self.known:
            if np.array_equal(place, u):
                return value
        fixed = dict(zip(self.labels, self.values(u).tolist(), strict=True))
        found = None
        for start in self._starts(u):
            found = self._refit(fixed, start)
            if found is not None:
                break
        if found is None:
            return float("nan")
        theta, value = found
        if value > self.top + 1e-6 * max(abs(self.top), 1.0):
            raise InferenceError(
                f"with {_shown(fixed)} the log-likelihood reaches {value:.10g}, above the fit's "
                f"{self.top:.10g}: the fit "
                "stopped at a local maximum. Fit again from there (start=...)."
            )
        self.known.append((np.array(u, dtype=float), theta, value))
        return value

    def deviance(self, u: Array) -> float:
        """Return 2 (maximum - profile log-likelihood) at u, never negative."""
        found = self.loglike(u)
        return max(2 * (self.top - found), 0.0) if np.isfinite(found) else float("nan")

    def _starts(self, u: Array) -> list[Array]:
        """Return start values theta: along the line of the two nearest points, the nearest, the maximum."""
        distance = [float(np.sum(((place - u) / self.scale) ** 2)) for place, _, _ in self.known]
        order = np.argsort(distance, kind="stable")
        nearest = self.known[int(order[0])]
        starts = [nearest[1], self.optimum.theta]
        if len(order) > 1:
            second = self.known[int(order[1])]
            along = (nearest[0] - second[0]) / self.scale
            reach = float(along @ ((u - nearest[0]) / self.scale)) / float(along @ along)
            starts.insert(0, nearest[1] + float(np.clip(reach, -2, 2)) * (nearest[1] - second[1]))
        return starts

    def _refit(self, fixed: dict[str, float], start: Array) -> tuple[Array, float] | None:
        likelihood = self.optimum.likelihood
        try:
            if likelihood.space.k == 1:
                theta = self._only(fixed)
                value = likelihood.evaluate(theta).loglike
                return (theta, value) if np.isfinite(value) else None
            found = restriction(likelihood.space, (), fixed)
            assert found is not None
            null = likelihood.restricted(*found)
            phi = np.asarray(np.linalg.lstsq(found[0], start - found[1], rcond=None)[0], dtype=float)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                best = maximize(null, start=phi, check=False, polish=False, progress=False)
        except (MlecovError, np.linalg.LinAlgError, FloatingPointError) as error:
            if isinstance(error, SpecificationError):
                raise
            self.failure = str(error).split("\n")[0]
            return None
        if not best.record.converged and best.record.decrement > 1e-6:
            self.failure = best.record.criterion
            return None
        return found[0] @ best.theta + found[1], best.evaluation.loglike

    def _only(self, fixed: dict[str, float]) -> Array:
        """Return theta of a likelihood whose one free parameter is the one held."""
        space = self.optimum.likelihood.space
        (label, value), *_ = fixed.items()
        parameter = next(p for p in space if label in p.kind.labels(p.name))
        entry = parameter.kind.labels(parameter.name).index(label)
        flat = np.array(parameter.kind.report(space.raw(self.optimum.theta)[parameter.free]), dtype=float)
        flat[entry] = value
        shaped = flat.reshape(parameter.kind.shape) if parameter.kind.shape else flat[0]
        return space.pack({parameter.name: shaped}, self.optimum.theta)


def refuse_pseudo(optimum: Optimum) -> None:
    """Raise InferenceError under probability weights, where differences of the sum have no chi2 limit."""
    weights = optimum.likelihood.weights
    if weights is not None and weights.kind == "probability":
        raise InferenceError(
            "under probability weights the sum that was maximised is no log-likelihood: its profile gives no "
            "intervals. Use fit.conf_int(cov='robust')."
        )


def _shown(values: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.6g}" for name, value in values.items())
