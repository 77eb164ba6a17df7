"""Covariance requests as frozen values; strings are read here, once, at the door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from mlecov.errors import CovarianceError, suggestion

Array = npt.NDArray[np.float64]
SmallSample = Literal["default", "none", "stata", "statsmodels", "sandwich", "fixest"]
CONVENTIONS = ("default", "none", "stata", "statsmodels", "sandwich", "fixest")


@dataclass(frozen=True)
class Spec:
    """A request for a covariance: what to compute, before any data are seen."""

    name: ClassVar[str] = ""

    @property
    def column(self) -> str:
        """Short text that heads a column of standard errors."""
        return self.name


@dataclass(frozen=True)
class Basic(Spec):
    """One of the estimators that need nothing but scores and information.

    oim: I^-1; eim: E[I]^-1; opg: (S'S)^-1; robust: I^-1 S'S I^-1; HC1: the same times n/(n-k);
    bw: E[I]^-1 S'S E[I]^-1.
    """

    kind: str
    small_sample: str = "default"

    def __post_init__(self) -> None:
        if self.kind not in BASIC:
            raise CovarianceError(f"covariance {self.kind!r} is not known.{suggestion(self.kind, list(BASIC))}")
        check_convention(self.small_sample)

    @property
    def column(self) -> str:
        return self.kind


BASIC = ("oim", "eim", "opg", "robust", "HC1", "bw")


@dataclass(frozen=True, eq=False)
class Given(Spec):
    """A covariance matrix (k, k) or (m, m) of the user's own, with a label."""

    matrix: Array = field(repr=False)
    label: str = "user's matrix"
    scale: Literal["free", "user"] = "user"

    @property
    def column(self) -> str:
        return self.label


def check_convention(small_sample: str) -> None:
    """Raise CovarianceError for an unknown small-sample convention."""
    if small_sample not in CONVENTIONS:
        raise CovarianceError(
            f"small_sample={small_sample!r} is not known.{suggestion(small_sample, list(CONVENTIONS))}"
        )


ALIASES: dict[str, str] = {
    "oim": "oim",
    "hessian": "oim",
    "nonrobust": "oim",
    "classic": "oim",
    "eim": "eim",
    "expected": "eim",
    "fisher": "eim",
    "opg": "opg",
    "bhhh": "opg",
    "jacobian": "opg",
    "robust": "robust",
    "sandwich": "robust",
    "hc0": "robust",
    "qml": "robust",
    "hc1": "HC1",
    "bw": "bw",
    "bollerslev-wooldridge": "bw",
}
"""Lower-case alias -> name of a basic estimator."""

FACTORIES: dict[str, Callable[[str], Spec]] = {}
"""Lower-case name -> function(small_sample) that makes a spec, for estimators without arguments."""

NEEDS_ARGUMENTS: dict[str, str] = {
    "cluster": 'ml.Cluster("firm")',
    "clustered": 'ml.Cluster("firm")',
    "hac": 'ml.HAC("bartlett", bandwidth=4)',
    "newey-west": 'ml.HAC("bartlett", bandwidth=4)',
    "driscoll-kraay": 'ml.DriscollKraay("year", bandwidth=2)',
    "conley": 'ml.Conley(lat="lat", lon="lon", cutoff=100)',
    "survey": 'ml.Survey(strata="stratum", psu="psu")',
    "svy": 'ml.Survey(strata="stratum", psu="psu")',
}
"""Lower-case names that mean nothing without arguments -> an example."""


def parse(request: Any, small_sample: str = "default") -> Spec:
    """Return the spec of a name, a spec, or a matrix.

    Raises
    ------
    CovarianceError
        For unknown names (the known ones are listed) and for names that need arguments.
    """
    if isinstance(request, Spec):
        return request
    if isinstance(request, str):
        key = request.lower().replace("_", "-")
        if key in ALIASES:
            return Basic(ALIASES[key], small_sample)
        if key in FACTORIES:
            return FACTORIES[key](small_sample)
        if key in NEEDS_ARGUMENTS:
            raise CovarianceError(f"covariance {request!r} needs arguments; for example cov={NEEDS_ARGUMENTS[key]}.")
        known = [*BASIC, *FACTORIES, *NEEDS_ARGUMENTS]
        raise CovarianceError(f"covariance {request!r} is not known.{suggestion(request, known)}")
    if isinstance(request, (np.ndarray, list, tuple)) or type(request).__name__ == "DataFrame":
        return Given(np.asarray(request, dtype=float))
    raise CovarianceError(
        f"a covariance of type {type(request).__name__} is not understood; expected a name such as 'robust', a "
        'spec such as ml.Cluster("firm"), or a matrix.'
    )
