"""Residuals of any model: generalised (slopes in the predictors) and quantile (normal where right)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import InferenceError
from mlecov.likelihood.index import IndexLikelihood
from mlecov.models.base import Model
from mlecov.optimize.separation import unrestricted
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]


def _index(optimum: Optimum, what: str) -> tuple[IndexLikelihood, Array]:
    base, matrix, origin = unrestricted(optimum.likelihood)
    if not isinstance(base, IndexLikelihood):
        raise InferenceError(
            f"{what} are defined for likelihoods in predictors (ready-made models, and functions whose "
            "parameters are "
            f"scalars or linear); {base.facts.name} has none. Use fit.score_obs()."
        )
    return base, matrix @ optimum.theta + origin


def generalized_residuals(optimum: Optimum) -> dict[str, Array]:
    """Return d loglike_i / d eta_i of each predictor (n,), by equation: zero on average with a constant.

    For a probit these are y's inverse Mills ratios, for a logit y - p, for a Gaussian e / sigma^2.

    Reference: Gourieroux, Monfort, Renault & Trognon (1987), Journal of Econometrics 34.
    """
    base, theta = _index(optimum, "generalised residuals")
    eta = base.predictors(theta, 0, base.n_terms)
    first = base.model.derivatives(eta, base.columns, 1)[1]
    assert first is not None
    return {equation.name: first[e] for e, equation in enumerate(base.equations)}


def quantile_residuals(optimum: Optimum, *, seed: int | None = 0) -> Array:
    """Return r_i = Phi^-1(u_i), standard normal where the model is right (n,).

    u_i = F(y_i) for continuous outcomes; for discrete ones u_i is drawn between F(y_i-) and F(y_i)
    (randomised; seed=None takes the middle instead, which is not normal).

    Raises
    ------
    InferenceError
        For models without a distribution function.

    Reference: Dunn & Smyth (1996), Journal of Computational and Graphical Statistics 5.
    """
    base, theta = _index(optimum, "quantile residuals")
    if not isinstance(base.model, Model) or type(base.model).cdf is Model.cdf:
        raise InferenceError(
            f"{base.facts.name} has no distribution function, so it has no quantile residuals. Ready-made "
            "models have "
            "one; for a likelihood of your own use generalized_residuals."
        )
    below, upto = base.model.cdf(base.predictors(theta, 0, base.n_terms), base.columns)
    share = 0.5 if seed is None else np.random.default_rng(seed).random(base.n_terms)
    u = below + share * (upto - below)
    tiny = np.finfo(float).tiny
    return np.asarray(special.ndtri(np.clip(u, tiny, 1 - np.finfo(float).epsneg)))
