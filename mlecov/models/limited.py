"""Limited outcomes with normal errors: tobit and interval_regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.functions import log_ndtr_derivatives
from mlecov.kinds import positive
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import Model, build
from mlecov.models.continuous import Gaussian
from mlecov.models.ends import change_outcome, open_ends
from mlecov.models.predicted import Declared, OfPoints, OfRows
from mlecov.models.working import chain, regress, residuals, set_constant

Array = npt.NDArray[np.float64]
LOG_SQRT_2PI = 0.5 * float(np.log(2 * np.pi))
NORMAL = Gaussian()


def normal_mass(eta: Array, lower: Array, upper: Array, order: int) -> RowDerivatives:
    """Return log P(lower < y < upper), y ~ N(mu, sigma^2), and derivatives in eta = (mu, log sigma).

    Ends may be infinite, not both. With one finite end c it is log Phi(s z), z = (c - mu)/sigma,
    s = 1 for an upper end. With two, and M_k = (b^k phi(b) - a^k phi(a)) / (Phi(b) - Phi(a)):
    first derivatives -M_0/sigma and -M_1, second -(M_1 + M_0^2)/sigma^2,
    (M_0 - M_2 - M_0 M_1)/sigma and M_1 - M_3 - M_1^2.
    """
    n = len(lower)
    value = np.empty(n)
    first = np.empty((2, n)) if order else None
    second = np.empty((3, n)) if order > 1 else None
    below, above = np.isfinite(lower), np.isfinite(upper)
    for rows, part in (
        (np.flatnonzero(below & above), _two_ends),
        (np.flatnonzero(below ^ above), _one_end),
    ):
        if len(rows):
            found = part(eta[:, rows], lower[rows], upper[rows], order)
            for whole, piece in zip((value, first, second), found, strict=True):
                if whole is not None and piece is not None:
                    whole[..., rows] = piece
    return value, first, second


def _one_end(eta: Array, lower: Array, upper: Array, order: int) -> RowDerivatives:
    is_upper = np.isfinite(upper)
    sign = np.where(is_upper, 1.0, -1.0)
    scale = np.exp(-eta[1])
    z = (np.where(is_upper, upper, lower) - eta[0]) * scale
    found = log_ndtr_derivatives(sign * z, order)
    if not order:
        return found[0], None, None
    return found[0], *chain(z, scale, sign * found[1], found[2] if order > 1 else None)


def _two_ends(eta: Array, lower: Array, upper: Array, order: int) -> RowDerivatives:
    scale = np.exp(-eta[1])
    a, b = (lower - eta[0]) * scale, (upper - eta[0]) * scale
    # the mass from the tail that is the smaller one, so that no two numbers near one are subtracted
    right = a + b > 0
    low, high = np.where(right, -b, a), np.where(right, -a, b)
    log_high = special.log_ndtr(high)
    value = log_high + np.log(-np.expm1(special.log_ndtr(low) - log_high))
    if not order:
        return value, None, None
    width, middle = b - a, 0.5 * (a + b)
    # phi(a) and phi(b) over the mass; their difference by expm1, which keeps narrow intervals exact
    at_a = np.exp(-0.5 * a * a - LOG_SQRT_2PI - value)
    at_b = np.exp(-0.5 * b * b - LOG_SQRT_2PI - value)
    m0 = np.where(right, at_a * np.expm1(-width * middle), -at_b * np.expm1(width * middle))
    m1 = np.where(right, b * m0 + width * at_a, a * m0 + width * at_b)
    first = np.stack([-m0 * scale, -m1])
    if order < 2:
        return value, first, None
    m2 = np.where(right, b * m1 + a * width * at_a, a * m1 + b * width * at_b)
    m3 = np.where(right, b * m2 + a * a * width * at_a, a * m2 + b * b * width * at_b)
    second = np.stack([-(m1 + m0 * m0) * scale * scale, (m0 - m2 - m0 * m1) * scale, m1 - m3 - m1 * m1])
    return value, first, second


def inside(eta: Array, columns: Columns, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Return P(lower < y* < upper) and E(y* | lower < y* < upper) (n,), y* ~ N(mu, sigma^2)."""
    value, first, _ = normal_mass(eta, lower, upper, 1)
    assert first is not None
    free = np.isinf(lower) & np.isinf(upper)
    pull = np.where(free, 0.0, np.exp(2 * eta[1]) * first[0])  # sigma^2 d log P / d mu
    return np.exp(np.where(free, 0.0, value)), eta[0] + pull


def clipped(eta: Array, columns: Columns, lower: Array, upper: Array) -> Array:
    """Return E(min(max(y*, lower), upper)) (n,), y* ~ N(mu, sigma^2)."""
    sigma = np.exp(eta[1])
    total: Array = eta[0].copy()
    for limit, sign in ((lower, 1.0), (upper, -1.0)):
        rows = np.flatnonzero(np.isfinite(limit))
        z = sign * (limit[rows] - eta[0, rows]) / sigma[rows]
        # E max(y*, c) = mu + sigma (z Phi(z) + phi(z)), z = (c - mu) / sigma; E min mirrors it
        total[rows] += sign * sigma[rows] * (z * special.ndtr(z) + np.exp(-0.5 * z * z - LOG_SQRT_2PI))
    return total


def limited_quantities(own: Any = None) -> Mapping[str, Declared]:
    """Return what y* ~ N(mu, sigma^2) and limits a < b give, `own` or named as in "conditional[0, 5]".

    latent: E(y*); conditional: E(y* | a < y* < b); expected: of y* moved to the limit that it is
    beyond; uncensored: P(a < y* < b). Stata's xb, e(a,b), ystar(a,b) and pr(a,b).
    """

    def of(function: Any) -> OfPoints:
        return OfPoints(function, "limits a < b, infinite ones too", "0,inf", lambda a, b: a < b, own)

    return {
        "latent": OfRows(lambda eta, columns: eta[0]),
        "conditional": of(lambda *given: inside(*given)[1]),
        "expected": of(clipped),
        "uncensored": of(lambda *given: inside(*given)[0]),
    }


class Censored(Model):
    """y* ~ N(mu, sigma^2) known to lie in [lower, upper], exactly where these are equal.

    Columns: y, lower, upper.
    """

    equations = {"mu": None, "sigma": positive()}

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        lower, upper = columns["lower"], columns["upper"]
        rows = np.flatnonzero(lower < upper)
        found = NORMAL.derivatives(eta, columns, order)
        if len(rows):
            part = normal_mass(eta[:, rows], lower[rows], upper[rows], order)
            for whole, piece in zip(found, part, strict=True):
                if whole is not None:
                    whole[..., rows] = piece
        return found

    def start(self, likelihood: IndexLikelihood) -> Array:
        y, columns = likelihood.columns["y"], likelihood.columns
        theta = regress(likelihood, likelihood.space.start(), 0, y)
        log_sigma = residuals(likelihood, theta, y)[1]
        set_constant(likelihood, theta, 1, log_sigma)
        rows = columns["lower"] < columns["upper"]
        for _ in range(3 if rows.any() else 0):  # EM: censored outcomes replaced by their expectations
            eta = likelihood.predictors(theta, 0, len(y))
            eta[1] = log_sigma
            slope = normal_mass(eta[:, rows], columns["lower"][rows], columns["upper"][rows], 1)[1]
            assert slope is not None
            working = y.copy()
            working[rows] = eta[0, rows] + np.exp(2 * log_sigma) * slope[0]
            theta = regress(likelihood, theta, 0, working)
        return theta

    def cdf(self, eta: Array, columns: Columns) -> tuple[Array, Array]:
        scale = np.exp(-eta[1])
        low, high = (columns["lower"] - eta[0]) * scale, (columns["upper"] - eta[0]) * scale
        return special.ndtr(low), special.ndtr(high)


@dataclass(frozen=True)
class Limits:
    """Limits of all rows as numbers; columns `left` and `right`, where given, take their place (NaN here)."""

    left: float = -np.inf
    right: float = np.inf

    def of(self, columns: Columns) -> tuple[Array, Array]:
        """Return the limits (n,), (n,) of the rows, infinite where there is none."""
        found = []
        for key, constant, none in (("left", self.left, -np.inf), ("right", self.right, np.inf)):
            if key not in columns:
                found.append(np.full(len(columns["y"]), constant))
            elif f"{key}_open" in columns:
                found.append(np.where(columns[f"{key}_open"] == 1, none, columns[key]))
            else:
                found.append(np.asarray(columns[key]))
        return found[0], found[1]

    def at(self, n: int, columns: Columns) -> tuple[Array, Array]:
        """Return the limits (n,), (n,) of rows that may be new: their columns, else the numbers."""
        left, right = (
            np.asarray(columns[key]) if key in columns or np.isnan(constant) else np.full(n, constant)
            for key, constant in (("left", self.left), ("right", self.right))
        )
        return left, right

    def crossed(self, columns: Columns) -> str | None:
        """Return the complaint of limits that leave nothing between them, or None."""
        left, right = self.of(columns)
        if (left < right).all():
            return None
        bad = int(np.argmin(left < right))
        return f"has no room: lower= is {left[bad]:g} and upper= is {right[bad]:g} in row {bad}."


def read_limits(formula: Any, data: Any, lower: Any, upper: Any) -> tuple[Limits, Any, dict[str, Any]]:
    """Return (limits, data, columns) of lower= and upper=: numbers, None, columns by name, or arrays."""
    numbers: dict[str, float] = {}
    columns: dict[str, Any] = {}
    for key, limit, none in (("left", lower, -np.inf), ("right", upper, np.inf)):
        if limit is None or (not isinstance(limit, str) and np.ndim(limit) == 0):
            numbers[key] = none if limit is None else float(limit)
        else:
            numbers[key], columns[key] = np.nan, limit
            data, columns = open_ends(data, formula, columns, key, float(np.sign(none)))
    return Limits(**numbers), data, columns


@dataclass(frozen=True)
class Tobit(Censored):
    """y = y* between the limits and the limit beyond them; columns left and right hold the limits."""

    bounds: Limits = field(default_factory=Limits)
    name = "tobit"
    has_expected = True

    def check(self, y: Array, columns: Columns) -> str | None:
        left, right = self.bounds.of(columns)
        if ((y <= left) | (y >= right)).all():
            return "is at a limit in every row: nothing is observed between the limits."
        return self.bounds.crossed(columns)

    def expected(self, eta: Array, columns: Columns) -> Array:
        scale = np.exp(-eta[1])
        none = np.zeros(eta.shape[1])
        # moments of z where it is not censored: P, E z and E z^2, less what each limit takes away
        share, first, squares, total = none + 1.0, none.copy(), none + 1.0, np.zeros((3, len(none)))
        for limit, sign in ((columns["left"], 1.0), (columns["right"], -1.0)):
            rows = np.flatnonzero(np.isfinite(limit))
            z = (limit[rows] - eta[0, rows]) * scale[rows]
            value, slope, curve = log_ndtr_derivatives(sign * z, 2)
            mass, density = np.exp(value), sign * np.exp(-0.5 * z * z - LOG_SQRT_2PI)
            part = chain(z, scale[rows], sign * slope, curve)[1]
            assert part is not None
            total[:, rows] += mass * part
            share[rows] -= mass
            first[rows] += density
            squares[rows] += z * density - mass
        total -= np.stack([share * scale * scale, 2 * first * scale, 2 * squares])
        return total

    def mean(self, eta: Array, columns: Columns) -> Array:
        return clipped(eta, columns, *self.bounds.at(eta.shape[1], columns))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean, or expected: E(y), censored; latent, conditional, uncensored: see `limited_quantities`."""
        return {**super().quantities, **limited_quantities(self.bounds.at)}

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        y = eta[0] + np.exp(eta[1]) * rng.standard_normal(eta.shape[1])
        return _at_limits(y, columns["left"], columns["right"])


def _at_limits(y: Array, left: Array, right: Array) -> dict[str, Array]:
    """Return the columns of outcomes censored at the limits: y, lower, upper, left, right."""
    y = np.clip(y, left, right)
    ends = {"lower": np.where(y <= left, -np.inf, y), "upper": np.where(y >= right, np.inf, y)}
    return {"y": y, **ends, "left": left, "right": right}


def tobit(
    formula: Any,
    data: Any = None,
    *,
    lower: Any = 0.0,
    upper: Any = None,
    sigma: str | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the tobit model: y* = x'b + sigma e is seen between two limits.

        y <= lower:   log Phi((lower - x'b) / sigma)
        y >= upper:   log Phi(-(upper - x'b) / sigma)
        between:      log phi((y - x'b) / sigma) - log sigma

    `predict("mean")` or "expected" is E[y | x] of the censored outcome, "latent" x'b, "conditional"
    E[y | x, not censored], "uncensored" that probability; "expected[0, 10]" is at other limits. Stata's
    `tobit, ll() ul()` reports var(e) = sigma^2, R's `AER::tobit` log sigma (the "log(scale)"). `oim` is
    their standard error; `eim` the expected information.

    Parameters
    ----------
    formula, data :
        "y ~ x1 + x2" and a frame, or arrays (y, X).
    lower, upper :
        Limits: a number, a column (missing or infinite: no limit in that row), or None.
    sigma :
        Formula of log sigma, if it varies.
    options :
        `missing`, `offset`, weights: see `models.base.build`.

    Reference: Tobin (1958); Amemiya (1973), Econometrica 41, 997-1016; Greene (2018), section 19.3.

    Example
    -------
    >>> import numpy as np
    >>> lik = tobit(np.array([0.0, 1.0, 2.5]), np.ones((3, 1)))
    >>> lik.space.labels
    ('mu[x0]', 'sigma')
    """
    bounds, data, columns = read_limits(formula, data, lower, upper)
    likelihood = build(Tobit(bounds), formula, data, equations={"sigma": sigma}, columns=columns, **options)
    left, right = bounds.of(likelihood.columns)
    return replace(likelihood, columns=_at_limits(likelihood.columns["y"], left, right))


@dataclass(frozen=True)
class IntervalRegression(Censored):
    """y* in [lower, upper] of the row."""

    name = "interval_regression"

    def check(self, y: Array, columns: Columns) -> str | None:
        lower, upper = _interval(y, columns)
        if (lower > upper).any():
            bad = int(np.argmax(lower > upper))
            return f"must not exceed upper=; it is {lower[bad]:g} against {upper[bad]:g} in row {bad}."
        unknown = np.isinf(lower) & np.isinf(upper)
        if unknown.any():
            first = int(np.argmax(unknown))
            return f"has no end at all in {int(unknown.sum())} row(s), first {first}: drop them."
        if not (np.isfinite(lower) & np.isfinite(upper)).any() and (
            not np.isfinite(lower).any() or not np.isfinite(upper).any()
        ):
            return (
                "is censored on the same side in every row: the location has no maximum likelihood estimate."
            )
        return None

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(eta[0])

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean, or latent: E(y*); given limits: conditional, expected, uncensored (`limited_quantities`)."""
        return {**super().quantities, **limited_quantities()}

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        """Draw y* and report it as the row is reported: exactly, or by which side of its ends it lies."""
        drawn = eta[0] + np.exp(eta[1]) * rng.standard_normal(eta.shape[1])
        lower, upper = columns["lower"], columns["upper"]
        exact = lower == upper
        low = np.where(drawn < lower, -np.inf, np.where(drawn < upper, lower, upper))
        high = np.where(drawn < lower, lower, np.where(drawn < upper, upper, np.inf))
        return _representative(np.where(exact, drawn, low), np.where(exact, drawn, high))


def _interval(y: Array, columns: Columns) -> tuple[Array, Array]:
    lower = np.where(columns["lower_open"] == 1, -np.inf, y)
    return lower, np.where(columns["upper_open"] == 1, np.inf, columns["upper"])


def _representative(lower: Array, upper: Array) -> dict[str, Array]:
    """Return the columns y (a finite point of the interval), lower and upper."""
    low, high = np.where(np.isfinite(lower), lower, upper), np.where(np.isfinite(upper), upper, lower)
    return {"y": 0.5 * (low + high), "lower": lower, "upper": upper}


def interval_regression(
    formula: Any, data: Any = None, *, upper: Any, sigma: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the normal regression whose outcome is known to lie in an interval.

        log f = log(Phi((u - x'b) / sigma) - Phi((l - x'b) / sigma)),   l < u
        log f = log phi((y - x'b) / sigma) - log sigma,                 l = u = y

    A missing or infinite end is open: left- and right-censored rows. `mean` is x'b, of y*; `predict`
    knows "conditional[a, b]", "expected[a, b]", "uncensored[a, b]" at limits, as `tobit` does. Stata: `intreg l u`; R:
    `survreg(Surv(l, u, type = "interval2"), dist = "gaussian")`.

    Parameters
    ----------
    formula, data :
        "l ~ x1 + x2" and a frame, or arrays (l, X): l is the lower end.
    upper :
        Column of upper ends.
    sigma :
        Formula of log sigma, if it varies.
    options :
        `missing`, `offset`, weights: see `models.base.build`.

    Reference: Stewart (1983), Review of Economic Studies 50, 737-753; Wooldridge (2010), section 19.2.

    Example
    -------
    >>> import numpy as np
    >>> low, high = np.array([0.0, 1.0, np.nan]), np.array([1.0, np.nan, 2.0])
    >>> interval_regression(low, np.ones((3, 1)), upper=high).n_terms
    3
    """
    flags: list[Array] = []

    def cut(values: Array) -> Array:
        is_open = np.isnan(values) | (values == -np.inf)
        flags.append(is_open.astype(float))
        return np.where(is_open, 0.0, values)

    columns: dict[str, Any] = {"upper": upper}
    data, columns = open_ends(data, formula, columns, "upper", 1.0)
    formula, data = change_outcome(formula, data, cut)
    columns["lower_open"] = flags[0]
    likelihood = build(
        IntervalRegression(), formula, data, equations={"sigma": sigma}, columns=columns, **options
    )
    ends = _interval(likelihood.columns["y"], likelihood.columns)
    return replace(likelihood, columns=_representative(*ends))
