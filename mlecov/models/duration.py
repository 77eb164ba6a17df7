"""Duration models: exponential, weibull, gompertz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import SpecificationError
from mlecov.kinds import positive, real
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import outside
from mlecov.models.duration_aft import EULER, Weibull
from mlecov.models.duration_base import Duration, build_duration, require_form
from mlecov.models.expectation import exponential as exponential_nodes
from mlecov.models.expectation import no_expectation
from mlecov.models.working import common, growth, regress, residuals, set_constant

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Exponential(Duration):
    """H(t) = t exp(-eta) ("aft", eta = log mean) or t exp(eta) ("ph", eta = log hazard)."""

    form: str = "aft"
    name = "exponential"
    equations = {"mu": None}

    @property
    def sign(self) -> float:
        """-1 where eta is a log duration, 1 where it is a log hazard."""
        return -1.0 if self.form == "aft" else 1.0

    def support(self, y: Array, exact: npt.NDArray[np.bool_]) -> str | None:
        return outside(y, y >= 0, "non-negative")

    def plain(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        rate = self.sign * eta[0]
        hazard = columns["y"] * np.exp(rate)
        event = columns.get("event", 1.0)
        value = event * rate - hazard
        if not order:
            return value, None, None
        return value, (self.sign * (event - hazard))[None], -hazard[None] if order > 1 else None

    def cumulative(self, eta: Array, t: Array, order: int) -> RowDerivatives:
        hazard = t * np.exp(self.sign * eta[0])
        if not order:
            return hazard, None, None
        return hazard, self.sign * hazard[None], hazard[None].copy() if order > 1 else None

    def inverse(self, eta: Array, hazard: Array) -> Array:
        return np.asarray(hazard * np.exp(-self.sign * eta[0]))

    @property
    def has_expected(self) -> bool:
        return self.complete

    def expected(self, eta: Array, columns: Columns) -> Array:
        return np.full((1, eta.shape[1]), -1.0)

    def start(self, likelihood: IndexLikelihood) -> Array:
        times, censoring = self.times(likelihood)
        working = np.log(times + 0.5 * times.mean()) - 0.5 + censoring
        return regress(likelihood, likelihood.space.start(), 0, -self.sign * working)

    def mean(self, eta: Array, columns: Columns) -> Array:
        return np.asarray(np.exp(-self.sign * eta[0]))


def exponential(
    formula: Any,
    data: Any = None,
    *,
    form: str = "aft",
    event: Any = None,
    upper: Any = None,
    entry: Any = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the exponential regression: a constant hazard, mean duration exp(x'b).

        log f = -mu - y exp(-mu),   mu = x'b = log E[y]          (form="aft")
        log f =  mu - y exp(mu),    mu = x'b = log hazard        (form="ph"; coefficients of opposite sign)

    Stata's `streg, distribution(exponential)` reports the hazard form, with `time` the other; its
    log-likelihood adds the sum of log y over the events. R's `survreg` is the AFT form.

    Parameters
    ----------
    formula, data, event, upper, entry, options :
        As for `weibull`; `exposure=` and `offset=` enter mu with coefficient one.

    Reference: Greene (2018), section 14.4; Kalbfleisch & Prentice (2002), section 2.2.1.

    >>> import numpy as np
    >>> exponential(np.array([1.0, 2.0, 4.0]), np.ones((3, 1)), event=np.array([1, 1, 0])).n_terms
    3
    """
    require_form("exponential", form)
    return build_duration(
        Exponential(form=form), formula, data, event=event, upper=upper, entry=entry, **options
    )


@dataclass(frozen=True)
class WeibullHazard(Duration):
    """Proportional hazards h = a t^(a - 1) exp(eta_0), a = exp(eta_1)."""

    name = "weibull"
    equations = {"mu": None, "shape": positive()}

    def plain(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        log_y = columns["log_y"]
        power = np.exp(eta[1]) * log_y
        hazard = np.exp(power + eta[0])
        event = columns.get("event", 1.0)
        value = event * (power + eta[0] + eta[1] - log_y) - hazard
        if not order:
            return value, None, None
        slope = event - hazard
        first = np.stack([slope, power * slope + event])
        if order < 2:
            return value, first, None
        tilt = -power * hazard
        return value, first, np.stack([-hazard, tilt, power * (slope + tilt)])

    def cumulative(self, eta: Array, t: Array, order: int) -> RowDerivatives:
        power = np.exp(eta[1]) * np.log(t)
        hazard = np.exp(power + eta[0])
        if not order:
            return hazard, None, None
        tilt = power * hazard
        first = np.stack([hazard, tilt])
        return hazard, first, np.stack([hazard, tilt, power * (hazard + tilt)]) if order > 1 else None

    def inverse(self, eta: Array, hazard: Array) -> Array:
        return np.asarray(np.exp((np.log(hazard) - eta[0]) * np.exp(-eta[1])))

    @property
    def has_expected(self) -> bool:
        return self.complete

    def expected(self, eta: Array, columns: Columns) -> Array:
        # the AFT information carried over: mu = -eta_0 sigma, log sigma = -eta_1
        place, slide = 1.0, 1 - EULER
        mixed = slide - eta[0] * place
        bend = np.pi**2 / 6 + (1 - EULER) ** 2 - 2 * eta[0] * slide + eta[0] ** 2 * place
        return -np.stack([np.full(eta.shape[1], place), mixed, bend])

    def start(self, likelihood: IndexLikelihood) -> Array:
        times, censoring = self.times(likelihood)
        log_times = np.log(times)
        theta = regress(likelihood, likelihood.space.start(), 0, log_times)
        log_shape = np.log(np.pi / np.sqrt(6)) - residuals(likelihood, theta, log_times)[1]
        theta = regress(likelihood, theta, 0, -np.exp(log_shape) * log_times - EULER - censoring)
        set_constant(likelihood, theta, 1, log_shape)
        return theta

    def mean(self, eta: Array, columns: Columns) -> Array:
        sigma = np.exp(-eta[1])
        return np.asarray(np.exp(-eta[0] * sigma + special.gammaln(1 + sigma)))


def weibull(
    formula: Any,
    data: Any = None,
    *,
    form: str = "aft",
    event: Any = None,
    upper: Any = None,
    entry: Any = None,
    sigma: str | None = None,
    shape: str | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the Weibull regression, for durations that may be censored.

        form="aft":  log T = x'b + sigma e, e extreme value; with z = (log t - x'b) / sigma
                     log f = z - exp(z) - log sigma - log t,   log S = -exp(z)
        form="ph":   hazard h = a t^(a - 1) exp(x'b), shape a = 1 / sigma, coefficients -b_aft / sigma

    R's `survreg` is the AFT form (its "scale" is sigma). Stata's `streg, distribution(weibull)` is the
    hazard form with shape p, and with `time` the AFT form; its log-likelihood leaves out the -log t of
    the events. lambda and p of Greene are exp(-x'b) and 1 / sigma.

    Parameters
    ----------
    formula, data :
        "t ~ x1 + x2" and a frame, or arrays (t, X); t is the time of the event or of censoring.
    event :
        Column: 1 event at t, 0 right-censored at t, 2 left-censored (event in (0, t]), 3 event in
        (t, upper]. Without it every row has its event at t, or in (t, upper] where upper is given.
    upper :
        Column of upper ends: equal to t for an event at t; missing or infinite for right-censoring.
    entry :
        Column of the times from which the rows are under observation (delayed entry).
    sigma, shape :
        Formula of log sigma (form="aft") or log shape (form="ph"), if it varies.
    options :
        `missing`, `offset`, weights: see `models.base.build`.

    Reference: Kalbfleisch & Prentice (2002), chapters 2 and 3.

    >>> import numpy as np
    >>> weibull(np.array([1.0, 2.0, 4.0]), np.ones((3, 1)), event=np.array([1, 1, 0])).space.labels
    ('mu[x0]', 'sigma')
    """
    require_form("weibull", form)
    ends = {"event": event, "upper": upper, "entry": entry}
    if form == "ph":
        _refuse("sigma", sigma, "shape", form)
        return build_duration(WeibullHazard(), formula, data, equations={"shape": shape}, **ends, **options)
    _refuse("shape", shape, "sigma", form)
    return build_duration(Weibull(), formula, data, equations={"sigma": sigma}, **ends, **options)


@dataclass(frozen=True)
class Gompertz(Duration):
    """Proportional hazards h = exp(eta_0 + g t), g = eta_1: H = exp(eta_0) t E(g t)."""

    name = "gompertz"
    equations = {"mu": None, "gamma": real()}

    def plain(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        y, event = columns["y"], columns.get("event", 1.0)
        value, first, second = self.cumulative(eta, y, order)
        value = event * (eta[0] + eta[1] * y) - value
        if first is None:
            return value, None, None
        first *= -1.0
        first[0] += event
        first[1] += event * y
        return value, first, None if second is None else -second

    def cumulative(self, eta: Array, t: Array, order: int) -> RowDerivatives:
        bend = growth(eta[1] * t, order)
        power = t * np.exp(eta[0])
        value = power * bend[0]
        if not order:
            return value, None, None
        tilt = power * t * bend[1]
        if order < 2:
            return value, np.stack([value, tilt]), None
        return value, np.stack([value, tilt]), np.stack([value, tilt, power * t * t * bend[2]])

    def inverse(self, eta: Array, hazard: Array) -> Array:
        scaled = hazard * np.exp(-eta[0])
        drift = common(eta[1])
        inside = drift * scaled
        # log1p(x) / x of x = g H exp(-eta); beyond -1 the event never happens
        safe = np.where((inside == 0) | (inside <= -1), 1.0, inside)
        found = scaled * np.where(inside == 0, 1.0, np.log1p(safe) / safe)
        return np.where(inside > -1, found, np.inf)

    @property
    def has_expected(self) -> bool:
        return self.complete

    def expected(self, eta: Array, columns: Columns) -> Array:
        """Return E[d2l/d eta2] = -E[d2H(T)], by quadrature over H(T) ~ Exp(1); every T ends where g >= 0."""
        if not (eta[1] >= 0).all():
            raise no_expectation(self.name, "gamma >= 0 (else some durations never end)", float(eta[1].min()))
        total = np.zeros((3, eta.shape[1]))
        for hazard, weight in exponential_nodes(-18.0):  # d2H is of order T^2
            second = self.cumulative(eta, self.inverse(eta, np.full(eta.shape[1], hazard)), 2)[2]
            assert second is not None
            total -= weight * second
        total[0] = -1.0
        return total

    def support(self, y: Array, exact: npt.NDArray[np.bool_]) -> str | None:
        return outside(y, y >= 0, "non-negative")

    def start(self, likelihood: IndexLikelihood) -> Array:
        times, censoring = self.times(likelihood)
        working = np.log(times + 0.5 * times.mean()) - 0.5 + censoring
        return regress(likelihood, likelihood.space.start(), 0, -working)

    def mean(self, eta: Array, columns: Columns) -> Array:
        drift = np.broadcast_to(eta[1], eta[0].shape)
        with np.errstate(all="ignore"):
            ratio = np.exp(eta[0]) / drift
            grows = np.exp(ratio) * special.exp1(ratio) / drift
        return np.where(drift > 0, grows, np.where(drift == 0, np.exp(-eta[0]), np.inf))


def gompertz(
    formula: Any,
    data: Any = None,
    *,
    event: Any = None,
    upper: Any = None,
    entry: Any = None,
    gamma: str | None = None,
    **options: Any,
) -> IndexLikelihood:
    """Return the likelihood of the Gompertz regression: log hazard x'b + gamma t (proportional hazards).

        log f = x'b + g t - H(t),   log S = -H(t),   H(t) = exp(x'b) (exp(g t) - 1) / g

    With g < 0 a share exp(exp(x'b) / g) never has the event; g = 0 is the exponential. Stata's
    `streg, distribution(gompertz)` has the same parameters (its log-likelihood adds log t of the
    events); R's `flexsurvreg` calls exp(x'b) the rate and g the shape.

    Parameters
    ----------
    formula, data, event, upper, entry, options :
        As for `weibull`.
    gamma :
        Formula of gamma, if it varies.

    Reference: Kalbfleisch & Prentice (2002), section 2.2; Gompertz (1825).

    >>> import numpy as np
    >>> gompertz(np.array([1.0, 2.0, 4.0]), np.ones((3, 1))).space.labels
    ('mu[x0]', 'gamma')
    """
    return build_duration(
        Gompertz(),
        formula,
        data,
        event=event,
        upper=upper,
        entry=entry,
        equations={"gamma": gamma},
        **options,
    )


def _refuse(name: str, formula: str | None, other: str, form: str) -> None:
    """Raise where a formula was given for the ancillary parameter of the other form."""
    if formula is not None:
        raise SpecificationError(
            f"weibull: with form={form!r} the ancillary parameter is {other!r}, not {name!r}; give "
            f"{other}={formula!r}."
        )
