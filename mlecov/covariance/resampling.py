"""Requests for covariances by resampling: frozen values, checked when made; computed in `inference`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlecov.covariance.specbase import Spec, choose, label_of, refuse_factor
from mlecov.covariance.specs import FACTORIES
from mlecov.errors import CovarianceError

KINDS = ("pairs", "cluster", "block", "stationary", "bayesian", "parametric", "score")
MULTIPLIERS = ("rademacher", "webb", "mammen", "normal")


@dataclass(frozen=True, eq=False)
class Bootstrap(Spec):
    """Covariance of the estimates over R resamples, 1/(R-1) sum (b_r - mean)(b_r - mean)'.

    Parameters
    ----------
    kind :
        pairs: n terms drawn with replacement (whole groups with `group`, which is "cluster");
        block: moving blocks of consecutive terms; stationary: blocks of random (geometric) length
        around the circle (Politis & Romano 1994); bayesian: Dirichlet weights (Rubin 1981);
        parametric: outcomes drawn from the fitted model; score: multipliers on the scores at the
        estimates, I^-1 sum v_g s_g, without any refit (Kline & Santos 2012).
    reps, seed :
        R, and the seed that reproduces the replicates to the bit.
    group :
        Column name, or array: groups are drawn (pairs, bayesian) or multiplied (score) as wholes.
    block_length :
        Length, or mean length, of the blocks; default n^(1/3), rounded up.
    weights :
        Multipliers of the score bootstrap: rademacher, webb (six points), mammen, normal.
    studentize :
        Keep a standard error of each replicate, for bootstrap-t intervals.
    max_failures :
        Share of replications that may fail before an error is raised; failures are always counted.
    progress :
        Show a bar; default: on long runs in a terminal.

    References
    ----------
    Efron (1979); Goncalves & White (2004) for dynamic likelihoods; Cameron, Gelbach & Miller (2008).

    Example
    -------
    >>> Bootstrap("score", group="firm", weights="webb").column
    'score bootstrap (firm)'
    """

    kind: str = "pairs"
    reps: int = 999
    seed: int = 0
    group: Any = None
    block_length: int | None = None
    weights: str = "rademacher"
    studentize: bool = False
    max_failures: float = 0.1
    progress: bool | None = None

    def __post_init__(self) -> None:
        choose("kind", self.kind, KINDS)
        choose("weights", self.weights, MULTIPLIERS)
        if not isinstance(self.reps, int) or self.reps < 2:
            raise CovarianceError(f"reps={self.reps!r}: expected a whole number, at least 2.")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise CovarianceError(f"seed={self.seed!r}: expected a whole number, at least 0.")
        if self.kind == "cluster" and self.group is None:
            raise CovarianceError('kind="cluster" needs groups: Bootstrap("cluster", group="firm").')
        if self.kind == "pairs" and self.group is not None:
            object.__setattr__(self, "kind", "cluster")
        if self.group is not None and self.kind in ("block", "stationary", "parametric"):
            raise CovarianceError(f"kind={self.kind!r} takes no group=; expected cluster, bayesian or score.")
        dependent = self.kind in ("block", "stationary")
        if self.block_length is not None and (not dependent or self.block_length < 1):
            raise CovarianceError(
                f"block_length={self.block_length!r} goes with kind='block' or 'stationary', and is >= 1."
            )
        if self.studentize and self.kind in ("block", "stationary", "score"):
            raise CovarianceError(
                f"bootstrap-t is not defined for kind={self.kind!r}; expected pairs, cluster, bayesian or "
                "parametric. For the score bootstrap invert wild_score_test()."
            )

    @property
    def column(self) -> str:
        name = "bootstrap" if self.kind in ("pairs", "cluster") else f"{self.kind} bootstrap"
        return name if self.group is None else f"{name} ({label_of(self.group, 'groups')})"


DEFAULT = Bootstrap()


def _default(small_sample: str) -> Spec:
    refuse_factor("the bootstrap", small_sample)
    return DEFAULT


FACTORIES["bootstrap"] = _default
