"""Parameters that have run to the end of their range: found by the log-likelihood, whatever the model."""

from __future__ import annotations

import math

import numpy as np

from mlecov.likelihood.base import Evaluation, Likelihood
from mlecov.parameters import LinearKind

FLAT = 1e-6
"""A fall of the log-likelihood, on the way to a bound, that is none."""

WEAK = 1e-2
"""Information on the unconstrained scale below which a parameter may be at a bound."""

FURTHER = 5.0
"""How far to go on towards the bound, on the unconstrained scale."""


def at_bounds(likelihood: Likelihood, evaluation: Evaluation) -> dict[int, str]:
    """Return {place in theta: "label is at its bound, b"} of the parameters at a bound of their range.

    At its bound is a bounded parameter without information, whose log-likelihood does not fall towards
    the bound but does at its default start (else it would not be identified at all).
    """
    space = likelihood.space
    if evaluation.hessian is None or not np.isfinite(evaluation.loglike) or space.matrix is not None:
        return {}
    weak = evaluation.information.diagonal() < WEAK
    found: dict[int, str] = {}
    for parameter in space if weak.any() else ():
        kind = parameter.kind
        if isinstance(kind, LinearKind) or not kind.elementwise or not kind.n_free:
            continue
        default = kind.default_free()
        for i, link in enumerate(kind.interval_links()):
            place = parameter.free.start + i
            ways = [(-FURTHER, link.lo), (FURTHER, link.hi)]
            for move, bound in ways if weak[place] else ():
                theta = evaluation.theta.copy()
                if not math.isfinite(bound) or move * (theta[place] - default[i]) <= 0:
                    continue
                theta[place] += move
                if _falls(likelihood, evaluation, theta):
                    continue
                theta[place] = default[i]
                if _falls(likelihood, evaluation, theta):
                    label = space.labels[parameter.reported.start + i]
                    found[place] = f"{label} is at its bound, {bound:g}"
    return found


def sentence(found: dict[int, str]) -> str | None:
    """Return what is to be said of parameters at bounds, None where there are none."""
    if not found:
        return None
    return (
        f"{'; '.join(found.values())}: the log-likelihood does not fall all the way there. There is no interior "
        "maximum, and standard errors there have no meaning. Widen the range, fix the parameter "
        "(fixed={...}), or leave it out."
    )


def _falls(likelihood: Likelihood, evaluation: Evaluation, theta: np.ndarray) -> bool:  # type: ignore[type-arg]
    with np.errstate(all="ignore"):
        return not likelihood.evaluate(theta).loglike > evaluation.loglike - FLAT
