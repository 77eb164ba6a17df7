"""Ready-made models, one function each, loaded when first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from mlecov.models.streamed import streamable

HOMES: dict[str, str] = {
    "gaussian": "continuous",
    "student_t": "continuous",
    "gamma": "continuous",
    "beta": "continuous",
    "gev": "extreme",
    "generalized_pareto": "extreme",
    "frontier": "inefficiency",
    "exponential": "duration",
    "weibull": "duration",
    "lognormal": "duration_aft",
    "loglogistic": "duration_aft",
    "gompertz": "duration",
    "generalized_gamma": "duration_gamma",
    "tobit": "limited",
    "interval_regression": "limited",
    "truncated_regression": "truncated",
    "heckman": "selection",
    "probit": "binary",
    "logit": "binary",
    "poisson": "count",
    "cloglog": "binary",
    "heteroskedastic_probit": "binary",
    "nb1": "count",
    "nb2": "count",
    "generalized_poisson": "count",
    "beta_binomial": "proportions",
    "zero_inflated_poisson": "count_zeros",
    "zero_inflated_nb2": "count_zeros",
    "hurdle_poisson": "count_zeros",
    "hurdle_nb2": "count_zeros",
    "truncated_poisson": "count_truncated",
    "truncated_nb2": "count_truncated",
    "bivariate_probit": "bivariate",
    "ordered_logit": "ordered",
    "ordered_probit": "ordered",
    "multinomial_logit": "choice",
    "conditional_logit": "choice",
    "mixed_logit": "choice_mixed",
    "random_effects_probit": "random_effects",
    "random_effects_logit": "random_effects",
    "garch": "volatility",
    "ar": "time_series",
    "arma": "time_series",
    "markov_switching": "switching",
    "multivariate_normal": "multivariate",
    "sur": "multivariate",
    "linear_mixed": "mixed",
    "finite_mixture": "mixture",
}
"""Model name -> the module of this package that defines it."""

__all__ = [*HOMES, "names"]


def names() -> list[str]:
    """Return the names of all models."""
    return sorted(HOMES)


def __getattr__(name: str) -> Callable[..., Any]:
    if name in HOMES:
        return streamable(getattr(importlib.import_module(f"mlecov.models.{HOMES[name]}"), name))
    raise AttributeError(f"mlecov.models has no model {name!r}. Known: {', '.join(sorted(HOMES))}.")


def __dir__() -> list[str]:
    return sorted([*HOMES, "names"])
