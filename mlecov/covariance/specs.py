"""Covariance requests as frozen values; strings are read here, once, at the door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlecov.covariance.requests import (
    EWC,
    HAC,
    HC,
    Cluster,
    Conley,
    DriscollKraay,
    Jackknife,
    Survey,
)
from mlecov.covariance.specbase import CONVENTIONS, SmallSample, Spec, check_convention, refuse_factor
from mlecov.errors import CovarianceError, suggestion

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Basic(Spec):
    """One of the estimators that need nothing but scores and information.

    oim: I^-1; eim: E[I]^-1; opg: (S'S)^-1; robust: I^-1 S'S I^-1; HC1: the same times n/(n-k);
    bw: E[I]^-1 S'S E[I]^-1.
    """

    kind: str
    small_sample: str = "default"
    k: int | None = None
    """Parameters that factors with k count (None: all k of the likelihood)."""

    def __post_init__(self) -> None:
        if self.kind not in BASIC:
            raise CovarianceError(
                f"covariance {self.kind!r} is not known.{suggestion(self.kind, list(BASIC))}"
            )
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

    def under(self, small_sample: str) -> Spec:
        check_convention(small_sample)
        return self


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


def _plain(make: Callable[[], Spec], name: str) -> Callable[[str], Spec]:
    """Return a factory that refuses conventions that do not define the estimator otherwise."""

    def factory(small_sample: str) -> Spec:
        refuse_factor(name, small_sample)
        return make()

    return factory


FACTORIES: dict[str, Callable[[str], Spec]] = {
    "hc2": _plain(lambda: HC("HC2"), "HC2"),
    "hc3": _plain(lambda: HC("HC3"), "HC3"),
    "jackknife": _plain(Jackknife, "jackknife"),
    "ewc": _plain(EWC, "ewc"),
}
"""Lower-case name -> function(small_sample) that makes a spec, for estimators without arguments."""

NEEDS_ARGUMENTS: dict[str, str] = {
    "cluster": 'ml.Cluster("firm")',
    "clustered": 'ml.Cluster("firm")',
    "cr0": 'ml.Cluster("firm", type="CR0")',
    "cr1": 'ml.Cluster("firm")',
    "cr2": 'ml.Cluster("firm", type="CR2")',
    "cr3": 'ml.Cluster("firm", type="CR3")',
    "hac": 'ml.HAC("bartlett", lags=4)',
    "newey-west": 'ml.HAC("bartlett", lags=4)',
    "driscoll-kraay": 'ml.DriscollKraay("year", lags=2)',
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
        return request.under(small_sample)
    if isinstance(request, type) and issubclass(request, Spec):
        example = NEEDS_ARGUMENTS.get(request.__name__.lower(), f"ml.{request.__name__}(...)")
        raise CovarianceError(
            f"covariance {request.__name__} is a class; make one, for example cov={example}."
        )
    if isinstance(request, str):
        key = request.lower().replace("_", "-")
        if key in ALIASES:
            return Basic(ALIASES[key], small_sample)
        if key in FACTORIES:
            return FACTORIES[key](small_sample)
        if key in NEEDS_ARGUMENTS:
            raise CovarianceError(
                f"covariance {request!r} needs arguments; for example cov={NEEDS_ARGUMENTS[key]}."
            )
        known = [*BASIC, *FACTORIES, *NEEDS_ARGUMENTS]
        raise CovarianceError(f"covariance {request!r} is not known.{suggestion(request, known)}")
    if isinstance(request, (np.ndarray, list, tuple)) or type(request).__name__ == "DataFrame":
        return Given(np.asarray(request, dtype=float))
    raise CovarianceError(
        f"a covariance of type {type(request).__name__} is not understood; expected a name such as "
        "'robust', a "
        'spec such as ml.Cluster("firm"), or a matrix.'
    )


__all__ = [
    "ALIASES",
    "BASIC",
    "CONVENTIONS",
    "EWC",
    "FACTORIES",
    "HAC",
    "HC",
    "NEEDS_ARGUMENTS",
    "Basic",
    "Cluster",
    "Conley",
    "DriscollKraay",
    "Given",
    "Jackknife",
    "SmallSample",
    "Spec",
    "Survey",
    "check_convention",
    "parse",
]
