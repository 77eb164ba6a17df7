"""Profile likelihood: intervals and contours from refits with entries held at values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.covariance.sandwich import covariance
from mlecov.covariance.specs import Basic
from mlecov.errors import (
    InferenceError,
    SpecificationError,
    suggestion,
)
from mlecov.inference.refits import Refits
from mlecov.inference.results import Shown
from mlecov.inference.table import critical_value
from mlecov.lazy import lazy
from mlecov.links import Link
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number

optimize = lazy("scipy.optimize")
pd = lazy("pandas")

Array = npt.NDArray[np.float64]

FLAT = 1e-3
"""Gain in the signed root, over a doubling of the distance, below which a profile counts as flat."""
FARTHEST = 40
"""Doublings of the distance from the estimate after which the search for an end gives up."""


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Shown):
    """The profile of one entry: an interval, and the points where it was computed, in order.

    `signed_root` is sign(value - estimate) sqrt(2 (max - loglike)), a straight line where the
    normal approximation holds. An end that the profile does not reach lies at the bound of the
    entry's range, with the reason in `lower_reason` or `upper_reason`; NaN where refits failed.
    """

    label: str
    estimate: float
    alpha: float
    lower: float
    upper: float
    lower_reason: str
    upper_reason: str
    values: Array
    loglike: Array
    signed_root: Array
    theta: Array
    wald: tuple[float, float]
    refits: Refits = field(repr=False)

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.lower, self.upper

    @property
    def closed(self) -> bool:
        """Whether both ends were reached."""
        return not (self.lower_reason or self.upper_reason)

    def at(self, value: float) -> float:
        """Return the signed root at a value, by a refit (its square is the LR statistic of that value)."""
        return _signed(self.refits, self.refits.place(value))

    def frame(self) -> Any:
        """Return the points as a DataFrame: value, loglike, signed_root."""
        return pd.DataFrame({"value": self.values, "loglike": self.loglike, "signed_root": self.signed_root})

    def display(self) -> Display:
        """Return the interval as a table."""
        return Profiles((self,)).display()


@dataclass(frozen=True, eq=False, repr=False)
class Profiles(Shown):
    """Profiles of several entries, by label."""

    entries: tuple[Profile, ...]

    def __getitem__(self, label: str) -> Profile:
        for entry in self.entries:
            if entry.label == label:
                return entry
        raise SpecificationError(
            f"no profile of {label!r}.{suggestion(label, [e.label for e in self.entries])}"
        )

    def frame(self) -> Any:
        """Return the intervals as a DataFrame."""
        data = [{k: v for k, v in record.items() if k != "term"} for record in self._records()]
        return pd.DataFrame(data, index=[e.label for e in self.entries])

    def _records(self) -> tuple[dict[str, Any], ...]:
        return tuple(
            {
                "term": e.label,
                "estimate": e.estimate,
                "conf_low": e.lower,
                "conf_high": e.upper,
                "wald_low": e.wald[0],
                "wald_high": e.wald[1],
            }
            for e in self.entries
        )

    def display(self) -> Display:
        """Return the profile intervals beside Wald's."""
        level = f"{100 * (1 - self.entries[0].alpha):g}%"
        rows = tuple(
            (
                e.label,
                number(e.estimate),
                number(e.lower),
                number(e.upper),
                number(e.wald[0]),
                number(e.wald[1]),
            )
            for e in self.entries
        )
        reasons = [
            f"{e.label}: {reason}"
            for e in self.entries
            for reason in (e.lower_reason, e.upper_reason)
            if reason
        ]
        header = ("", "estimate", f"[{level} profile", "interval]", "[Wald", "interval]")
        notes = ("Profile likelihood: the values that a likelihood-ratio test does not reject.", *reasons)
        return Display("Profile-likelihood intervals", (), header, (Group("", rows),), notes, self._records())


def _signed(refits: Refits, u: float) -> float:
    deviance = refits.deviance(np.array([u]))
    return float(np.sign(u - refits.center[0]) * np.sqrt(deviance))


def profile(
    optimum: Optimum, names: str | Sequence[str], alpha: float = 0.05, points: int = 16
) -> Profile | Profiles:
    """Return the profile likelihood of an entry, or of several, with intervals by root finding.

        l_p(b) = max over all other parameters;   {b : 2 (l_max - l_p(b)) <= chi2_1(1 - alpha)}

    Parameters
    ----------
    names :
        An entry ("sigma", "mu[x1]") or several.
    points :
        Further points of the profile, evenly spread over the interval and a little beyond (for
        plots); 0 for the interval alone.

    Every refit starts from the nearest points known. Root finding is on the scale of the entry's
    link, so that ends stay inside its range; an end that is not reached is reported with its reason.

    Reference: Venzon & Moolgavkar (1988); Bates & Watts (1988), section 6.1.2.
    """
    if isinstance(names, str):
        return _profile(optimum, names, alpha, points)
    if not len(names):
        raise SpecificationError("names is empty; give entries to profile, such as ['sigma', 'mu[x1]'].")
    return Profiles(tuple(_profile(optimum, name, alpha, points) for name in names))


def _profile(optimum: Optimum, name: str, alpha: float, points: int) -> Profile:
    c = float(critical_value(alpha, None))
    refits = Refits(optimum, (name,))
    link, center, scale = refits.links[0], refits.center[0], refits.scale[0]
    lower, lower_reason = _end(refits, -1, c)
    upper, upper_reason = _end(refits, 1, c)
    if points:
        places = sorted(place[0] for place, _, _ in refits.known)
        ends = [u if np.isfinite(u) else v for u, v in ((lower, places[0]), (upper, places[-1]))]
        low, high = max(ends[0], center - 20 * scale), min(ends[1], center + 20 * scale)
        for u in np.linspace(low - 0.15 * (center - low), high + 0.15 * (high - center), points):
            refits.loglike(np.array([u]))
    known = sorted(refits.known, key=lambda point: float(point[0][0]))
    u = np.array([float(place[0]) for place, _, _ in known])
    loglike = np.array([value for _, _, value in known])
    roots = np.sign(u - center) * np.sqrt(np.maximum(2 * (refits.top - loglike), 0.0))
    wald = tuple(float(link.inverse(np.float64(center + s * c * scale))) for s in (-1, 1))
    return Profile(
        name,
        float(link.inverse(np.float64(center))),
        alpha,
        _back(link, lower),
        _back(link, upper),
        lower_reason,
        upper_reason,
        np.array([float(link.inverse(np.float64(v))) for v in u]),
        loglike,
        roots,
        np.array([theta for _, theta, _ in known]),
        (wald[0], wald[1]),
        refits,
    )


def _back(link: Link, u: float) -> float:
    """Return the value of a link-scale end; an infinite one is the bound of the range."""
    if np.isinf(u):
        return link.hi if u > 0 else link.lo
    return float(link.inverse(np.float64(u))) if np.isfinite(u) else float("nan")


def _end(refits: Refits, side: int, c: float) -> tuple[float, str]:
    """Return the link-scale end of an interval on one side and the reason where it is not reached.

    The end is +-inf where the profile flattens below the critical value, NaN where refits failed.
    """
    center, scale = refits.center[0], refits.scale[0]
    inner, inner_root, step = center, 0.0, c * scale
    for doubling in range(FARTHEST):
        outer = center + side * step
        root = abs(_signed(refits, outer))
        if not np.isfinite(root):
            nearer = _last_finite(refits, inner, outer)
            if nearer is None or nearer[1] <= inner_root:
                return float("nan"), _failed(refits, side, inner, inner_root, c)
            outer, root = nearer
            if root < c:
                return float("nan"), _failed(refits, side, outer, root, c)
        if root >= c:
            break
        if doubling > 2 and root - inner_root < FLAT:
            return side * float("inf"), _flat(refits, side, outer, root, c)
        inner, inner_root, step = outer, root, step * (1.25 if doubling == 0 else 2.0)
    else:
        return side * float("inf"), _flat(refits, side, inner, inner_root, c)
    found = optimize.brentq(
        lambda u: abs(_signed(refits, u)) - c, inner, outer, xtol=1e-11 * max(abs(center), scale), rtol=1e-13
    )
    return float(found), ""


def _last_finite(refits: Refits, inner: float, outer: float) -> tuple[float, float] | None:
    """Return the farthest of a few points between that could be fitted, with its root."""
    for share in (0.5, 0.25, 0.1):
        u = inner + share * (outer - inner)
        root = abs(_signed(refits, u))
        if np.isfinite(root):
            return u, root
    return None


def _flat(refits: Refits, side: int, u: float, root: float, c: float) -> str:
    link, word = refits.links[0], "above" if side > 0 else "below"
    value = float(link.inverse(np.float64(u)))
    bound = link.hi if side > 0 else link.lo
    return (
        f"no limit {word}: the profile flattens at a signed root of {side * root:.4g} (at {value:.4g}) and "
        "never "
        f"reaches {side * c:.4g}; the data do not exclude values up to {bound:g}."
    )


def _failed(refits: Refits, side: int, u: float, root: float, c: float) -> str:
    word, value = "upper" if side > 0 else "lower", float(refits.links[0].inverse(np.float64(u)))
    return (
        f"{word} limit not found: refits beyond {value:.6g} (signed root {side * root:.4g} of "
        f"{side * c:.4g}) fail: "
        f"{refits.failure or 'the log-likelihood is not finite there'}."
    )


def signed_root(optimum: Optimum, name: str, value: float) -> float:
    """Return sign(estimate's distance) sqrt(LR) for an entry held at `value`: N(0, 1) under it.

    Positive where `value` lies above the estimate.
    """
    refits = Refits(optimum, (name,))
    found = _signed(refits, refits.place(value))
    if not np.isfinite(found):
        raise InferenceError(f"the refit with {name} = {value:g} failed: {refits.failure}")
    return found


@dataclass(frozen=True, eq=False, repr=False)
class Contour(Shown):
    """A joint confidence region of two entries: points (r, 2) on its border, in order of direction.

    Directions in which it does not close have NaN points and are counted in `open_directions`.
    """

    labels: tuple[str, str]
    estimate: tuple[float, float]
    alpha: float
    points: Array
    angles: Array
    open_directions: int
    reason: str

    @property
    def closed(self) -> bool:
        """Whether the region closes in every direction."""
        return not self.open_directions

    def frame(self) -> Any:
        """Return the border as a DataFrame."""
        return pd.DataFrame(self.points, columns=list(self.labels))

    def display(self) -> Display:
        """Return the extent of the region as a table."""
        level = f"{100 * (1 - self.alpha):g}%"
        low, high = np.nanmin(self.points, axis=0), np.nanmax(self.points, axis=0)
        rows = tuple(
            (label, number(self.estimate[j]), number(float(low[j])), number(float(high[j])))
            for j, label in enumerate(self.labels)
        )
        notes: tuple[str, ...] = (f"Extent of the joint region over {len(self.points)} directions.",)
        if not self.closed:
            notes += (f"Open in {self.open_directions} of {len(self.points)} directions: {self.reason}",)
        records = tuple({self.labels[0]: float(a), self.labels[1]: float(b)} for a, b in self.points)
        header = ("", "estimate", f"[{level} region", "extent]")
        return Display("Profile-likelihood region", (), header, (Group("", rows),), notes, records)


def contour(optimum: Optimum, first: str, second: str, alpha: float = 0.05, directions: int = 32) -> Contour:
    """Return the border of the joint profile-likelihood region of two entries.

        {(a, b) : 2 (l_max - l_p(a, b)) <= chi2_2(1 - alpha)}

    Along each of `directions` rays from the estimate, in the metric of their covariance on the
    scale of their links, the border is found by root finding.

    Reference: Bates & Watts (1988), section 6.1.3.
    """
    if first == second:
        raise SpecificationError(f"a contour needs two different entries; got {first!r} twice.")
    if not 0 < alpha < 1:
        raise InferenceError(f"alpha={alpha!r}: expected a number between 0 and 1, such as 0.05.")
    refits = Refits(optimum, (first, second))
    found = covariance(optimum, Basic("oim"))
    positions = [optimum.likelihood.space.labels.index(name) for name in (first, second)]
    correlation = float(found.user[positions[0], positions[1]] / np.prod(found.bse[positions]))
    root = np.diag(refits.scale) @ np.linalg.cholesky(np.array([[1.0, correlation], [correlation, 1.0]]))
    c = float(np.sqrt(special.chdtri(2, alpha)))
    angles = np.linspace(0, 2 * np.pi, directions, endpoint=False)
    points, guess, reason, missing = np.full((directions, 2), np.nan), c, "", 0
    for i, angle in enumerate(angles):
        ray = root @ np.array([np.cos(angle), np.sin(angle)])
        radius = _radius(refits, ray, c, guess)
        if radius is None:
            missing, reason = missing + 1, refits.failure or "the profile flattens below the critical value."
            guess = c
            continue
        guess = radius
        points[i] = refits.values(refits.center + radius * ray)
    values = refits.values(refits.center)
    return Contour(
        (first, second), (float(values[0]), float(values[1])), alpha, points, angles, missing, reason
    )


def _radius(refits: Refits, ray: Array, c: float, guess: float) -> float | None:
    """Return how far along `ray` the profile reaches the critical value, None where it does not."""

    def height(r: float) -> float:
        return float(np.sqrt(refits.deviance(refits.center + r * ray))) - c

    inner, outer, last = 0.0, guess, -c
    for step in range(FARTHEST):
        value = height(outer)
        if not np.isfinite(value):
            return None
        if value >= 0:
            return float(optimize.brentq(height, inner, outer, xtol=1e-9, rtol=1e-11))
        if step > 2 and value - last < FLAT:
            return None
        inner, last, outer = outer, value, outer * 1.3 if step < 2 else outer * 2
    return None
