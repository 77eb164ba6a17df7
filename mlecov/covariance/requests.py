"""Requests for covariances that allow for dependence or leverage: frozen values, checked when made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from mlecov.covariance.specbase import Curvature, Label, Spec, check_convention, choose, label_of
from mlecov.errors import CovarianceError

REFERENCE = ("normal", "t", "satterthwaite")
CLUSTER_TYPES = ("CR0", "CR1", "CR2", "CR3")


@dataclass(frozen=True, eq=False, init=False)
class Cluster(Spec):
    """Clustered covariance: terms of one group may depend on each other in any way.

        V = I^-1 [ sum_a c_a sum_g t_ag t_ag' ] I^-1,    t_ag = adjusted sum of scores of group g

    With several ways a runs over the non-empty subsets of `groups`, whose groups are intersections and
    whose sign alternates (inclusion-exclusion).

    Parameters
    ----------
    groups :
        Column names, or arrays with one id per row or term.
    type :
        CR0: plain sums; CR1: times G/(G-1); CR2: (I - I_g I^-1)^(-1/2) s_g; CR3: (I - I_g I^-1)^-1 s_g.
    small_sample :
        Factor of each term of the sum: default CR0, CR2, CR3 1, CR1 G/(G-1); none 1; stata, sandwich
        G/(G-1); statsmodels G/(G-1) (n-1)/(n-k); fixest the same, with the smallest G for all terms
        (as ivreg2 and reghdfe do). CR3 under stata: (G-1)/G.
    k :
        Parameters that (n-1)/(n-k) counts; None: the likelihood's k. Least-squares programs do not
        count sigma: give their number to reproduce them from a Gaussian likelihood.
    repair :
        "eigen": negative eigenvalues of a multiway result are set to zero (reported either way).
    df :
        Reference distribution: "normal", "t" with min G - 1, or "satterthwaite" (Bell & McCaffrey).
    curvature :
        I_g of CR2 and CR3: None takes the expected one where the model knows it, else the observed.

    References
    ----------
    Liang & Zeger (1986); Cameron, Gelbach & Miller (2011); Bell & McCaffrey (2002).

    Example
    -------
    >>> Cluster("firm", "year").column
    'cluster(firm, year)'
    """

    groups: tuple[Label, ...]
    type: str
    small_sample: str
    k: int | None
    repair: str | None
    df: str
    curvature: Curvature | None

    def __init__(
        self,
        *groups: Label,
        type: str = "CR1",
        small_sample: str = "default",
        k: int | None = None,
        repair: Literal["eigen"] | None = None,
        df: str = "normal",
        curvature: Curvature | None = None,
    ) -> None:
        if not groups:
            raise CovarianceError('Cluster() needs at least one group, such as ml.Cluster("firm").')
        if len(groups) > 6:
            raise CovarianceError(
                f"Cluster() got {len(groups)} groups; expected column names, one argument each: "
                'ml.Cluster("firm", "year"). An array of ids is one argument.'
            )
        choose("type", type, CLUSTER_TYPES)
        choose("df", df, REFERENCE)
        choose("repair", repair, (None, "eigen"))
        choose("curvature", curvature, (None, "observed", "expected"))
        check_convention(small_sample)
        values = (groups, type, small_sample, k, repair, df, curvature)
        for field, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups: the columns', an array's own, else group1, group2, ..."""
        return tuple(label_of(g, f"group{j + 1}") for j, g in enumerate(self.groups))

    @property
    def column(self) -> str:
        prefix = "cluster" if self.type == "CR1" else self.type
        return f"{prefix}({', '.join(self.names)})"


@dataclass(frozen=True, eq=False)
class HC(Spec):
    """Leverage-corrected sandwich, one term per cluster: HC2 (1 - h)^(-1/2) s, HC3 (1 - h)^-1 s.

    With several equations h is the matrix I_i I^-1. Equal to least squares' and the GLM's HC2 and
    HC3 under expected curvature. References: MacKinnon & White (1985).
    """

    type: str = "HC2"
    df: str = "normal"
    curvature: Curvature | None = None

    def __post_init__(self) -> None:
        choose("type", self.type, ("HC2", "HC3"))
        choose("df", self.df, ("normal", "satterthwaite"))
        choose("curvature", self.curvature, (None, "observed", "expected"))

    @property
    def column(self) -> str:
        return self.type


@dataclass(frozen=True, eq=False)
class Jackknife(Spec):
    """Leave-one-out, or leave-one-group-out, jackknife, centred:

        V = (G-1)/G sum_g (d_g - d.)(d_g - d.)',   d_g = theta_(g) - theta

    by the linearisation d_g = -I^-1 (I - I_g I^-1)^-1 s_g, or by refitting without the group
    (`exact=True`). References: Tukey (1958); Lipsitz, Dear & Zhao (1994).
    """

    group: Label | None = None
    exact: bool = False
    df: str = "normal"
    curvature: Curvature | None = None

    def __post_init__(self) -> None:
        choose("df", self.df, ("normal", "t"))
        choose("curvature", self.curvature, (None, "observed", "expected"))

    @property
    def column(self) -> str:
        return "jackknife" if self.group is None else f"jackknife({label_of(self.group, 'group')})"


KERNELS = ("bartlett", "parzen", "quadratic-spectral", "tukey-hanning", "truncated")
GAPS = ("raise", "ignore", "time")
KERNEL_ALIASES = {
    "newey-west": "bartlett",
    "triangular": "bartlett",
    "gallant": "parzen",
    "qs": "quadratic-spectral",
    "andrews": "quadratic-spectral",
    "hanning": "tukey-hanning",
    "uniform": "truncated",
    "rectangular": "truncated",
}


@dataclass(frozen=True, eq=False)
class HAC(Spec):
    """Heteroskedasticity and autocorrelation consistent covariance of scores in time order.

        V = I^-1 [ sum_j kappa(j / S) sum_t s_t s_(t-j)' ] I^-1

    Parameters
    ----------
    kernel :
        "bartlett", "parzen", "quadratic-spectral", "tukey-hanning" or "truncated".
    bandwidth :
        S, a number (a Bartlett weight is 1 - j/S), "newey-west" (1994) or "andrews" (1991).
    lags :
        Instead of a bandwidth, the last lag with a weight: S = lags + 1 (truncated: S = lags), as
        Stata's `newey`, statsmodels' maxlags and R's NeweyWest count. 0 gives the robust sandwich.
    prewhiten :
        Order of a vector autoregression that whitens the scores first (Andrews & Monahan 1992).
    order_by :
        Column or array of times; None: the terms are in time order as they stand.
    group :
        Panels: column or array of ids; terms are paired within a group alone.
    gaps :
        Gaps in `order_by`: "raise"; "ignore" (neighbours count as consecutive, as Stata's force);
        "time" (lags are distances in time; missing periods are zeros).
    small_sample :
        default, none 1; stata n/(n-k), as `newey`; sandwich n/(n-k), as vcovHAC; statsmodels 1 (with
        groups n/(n-k)); fixest (n-1)/(n-k) times T/(T-1) (with groups, G/(G-1)).

    References
    ----------
    Newey & West (1987, 1994); Andrews (1991); Andrews & Monahan (1992).
    """

    kernel: str = "bartlett"
    bandwidth: float | str | None = None
    lags: int | None = None
    prewhiten: int = 0
    order_by: Label | None = None
    group: Label | None = None
    gaps: str = "raise"
    small_sample: str = "default"
    k: int | None = None
    repair: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", kernel_name(self.kernel))
        check_bandwidth(type(self).__name__, self.kernel, self.bandwidth, self.lags)
        choose("gaps", self.gaps, GAPS)
        choose("repair", self.repair, (None, "eigen"))
        check_convention(self.small_sample)
        if not (isinstance(self.prewhiten, int) and 0 <= self.prewhiten <= 12):
            raise CovarianceError(
                f"prewhiten={self.prewhiten!r}: expected the order of an autoregression, 0 to 12."
            )
        if self.prewhiten and self.group is not None:
            raise CovarianceError("prewhiten= is for one time series; with group= give prewhiten=0.")

    @property
    def column(self) -> str:
        return f"hac({self.kernel})"


@dataclass(frozen=True, eq=False)
class EWC(Spec):
    """Equal-weighted cosine long-run variance, with its t(nu) reference distribution.

        meat = (2 / nu) sum_(j=1..nu) c_j c_j',   c_j = sum_t s_t cos(pi j (t - 1/2) / n)

    nu is 0.41 n^(2/3) by default. References: Lazarus, Lewis, Stock & Watson (2018).
    """

    nu: int | None = None
    order_by: Label | None = None
    gaps: str = "raise"

    def __post_init__(self) -> None:
        if self.nu is not None and (self.nu < 1 or self.nu != int(self.nu)):
            raise CovarianceError(f"nu={self.nu!r}: expected a whole number of cosines, at least 1.")
        choose("gaps", self.gaps, GAPS)

    @property
    def column(self) -> str:
        return "ewc"


@dataclass(frozen=True, eq=False)
class DriscollKraay(Spec):
    """HAC on the sums of scores by period: dependence between all terms of periods S apart.

    `kernel`, `bandwidth`, `lags`, `gaps` as in `HAC`. small_sample: default, none 1; sandwich n/(n-k),
    as vcovPL; stata, statsmodels, fixest T/(T-1) (n-1)/(n-k). References: Driscoll & Kraay (1998).
    """

    time: Label
    kernel: str = "bartlett"
    bandwidth: float | str | None = None
    lags: int | None = None
    gaps: str = "raise"
    small_sample: str = "default"
    k: int | None = None
    repair: str | None = None
    df: str = "normal"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", kernel_name(self.kernel))
        check_bandwidth("DriscollKraay", self.kernel, self.bandwidth, self.lags)
        choose("gaps", self.gaps, GAPS)
        choose("repair", self.repair, (None, "eigen"))
        choose("df", self.df, ("normal", "t"))
        check_convention(self.small_sample)

    @property
    def column(self) -> str:
        return f"driscoll-kraay({label_of(self.time, 'time')})"


@dataclass(frozen=True, eq=False)
class Conley(Spec):
    """Spatial HAC: terms closer than `cutoff` may depend on each other.

        meat = sum_ij kappa(d_ij / cutoff) s_i s_j',   kappa uniform (1) or Bartlett (1 - d/cutoff)

    `lat` and `lon` in degrees with metric "haversine" (cutoff in km), or `coordinates` as a sequence
    of columns or an (n, d) array with metric "euclidean" (cutoff in their unit). References:
    Conley (1999).
    """

    cutoff: float
    lat: Label | None = None
    lon: Label | None = None
    coordinates: Any = None
    kernel: str = "uniform"
    metric: str | None = None
    repair: str | None = None

    def __init__(
        self,
        lat: Label | None = None,
        lon: Label | None = None,
        *,
        cutoff: float,
        coordinates: Any = None,
        kernel: str = "uniform",
        metric: Literal["haversine", "euclidean"] | None = None,
        repair: Literal["eigen"] | None = None,
    ) -> None:
        choose("kernel", kernel, ("uniform", "bartlett"))
        choose("repair", repair, (None, "eigen"))
        choose("metric", metric, (None, "haversine", "euclidean"))
        if (lat is None) != (lon is None) or (lat is None) == (coordinates is None):
            raise CovarianceError('Conley needs either lat= and lon=, or coordinates=["east", "north"].')
        if not cutoff > 0:
            raise CovarianceError(f"cutoff={cutoff!r}: expected a positive distance (km under haversine).")
        metric = metric or ("haversine" if coordinates is None else "euclidean")
        values = (float(cutoff), lat, lon, coordinates, kernel, metric, repair)
        for field, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)

    @property
    def column(self) -> str:
        return f"conley({self.cutoff:g})"


LONELY = ("error", "adjust", "certainty", "average")


@dataclass(frozen=True, eq=False)
class Survey(Spec):
    """Linearised covariance of a stratified sample of primary sampling units (PSU).

        meat = sum_h (1 - f_h) n_h/(n_h - 1) sum_i (z_hi - z_h.)(z_hi - z_h.)',  z_hi = PSU sums of w s

    as Stata's `_robust` and `svy`. df are PSUs less strata.

    Parameters
    ----------
    strata, psu :
        Columns or arrays; None: one stratum, every term a PSU. PSU ids are read within strata.
    fpc :
        Per stratum, f_h if at most 1, else the number of PSUs in the population N_h (f_h = n_h/N_h).
    lonely :
        Strata with one PSU: "error"; "adjust" (centred at the mean of all PSUs, Stata's centered);
        "certainty" (no contribution); "average" (the average of the other strata, Stata's scaled).

    References
    ----------
    Binder (1983).
    """

    strata: Label | None = None
    psu: Label | None = None
    fpc: Label | float | None = None
    lonely: str = "error"
    df: str = "t"

    def __post_init__(self) -> None:
        choose("lonely", self.lonely, LONELY)
        choose("df", self.df, ("normal", "t"))

    @property
    def column(self) -> str:
        return "survey"


def kernel_name(kernel: str) -> str:
    """Return the house name of a kernel, from a name or an alias."""
    key = str(kernel).lower().replace("_", "-").replace(" ", "-")
    key = KERNEL_ALIASES.get(key, key)
    choose("kernel", key, KERNELS)
    return key


def check_bandwidth(name: str, kernel: str, bandwidth: Any, lags: Any) -> None:
    """Raise CovarianceError unless exactly one of a bandwidth and a number of lags is given."""
    if (bandwidth is None) == (lags is None):
        raise CovarianceError(
            f"{name} needs either bandwidth= or lags=: bandwidth=5 weighs lag j by kappa(j/5), lags=4 "
            "says the same "
            'of the Bartlett kernel; bandwidth="newey-west" and "andrews" choose it from the data.'
        )
    if isinstance(bandwidth, str):
        choose("bandwidth", bandwidth, ("newey-west", "andrews"))
        if bandwidth == "newey-west" and kernel in ("truncated", "tukey-hanning"):
            raise CovarianceError(
                f"Newey & West (1994) give no bandwidth for the {kernel} kernel; use 'andrews'."
            )
    elif bandwidth is not None and not (np.isfinite(bandwidth) and bandwidth >= 0):
        raise CovarianceError(f"bandwidth={bandwidth!r}: expected a number >= 0, 'newey-west' or 'andrews'.")
    if lags is not None and (lags != int(lags) or lags < 0):
        raise CovarianceError(f"lags={lags!r}: expected a whole number >= 0.")
    if lags is not None and kernel == "quadratic-spectral":
        raise CovarianceError("the quadratic spectral kernel weighs every lag: give bandwidth=, not lags=.")
