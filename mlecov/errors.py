"""Every exception and warning of the package.

A message says what is wrong, where, what was expected, what was got, and what to do next. All
exceptions derive from `MlecovError`; those that a caller may want to treat as the built-in kind
derive from it too (`ValueError`, `TypeError`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any


class MlecovError(Exception):
    """Base of all errors raised by the package."""


class SpecificationError(MlecovError, ValueError):
    """The likelihood, its parameters or an option are declared in a way that has no meaning."""


class DataError(MlecovError, ValueError):
    """The data do not fit the declaration: missing, wrong length, wrong type, empty."""


class SupportError(MlecovError, ValueError):
    """A value lies outside the support of the model or of a parameter."""


class EvaluationError(MlecovError, ArithmeticError):
    """The log-likelihood or a derivative is not finite, or has the wrong shape."""


class DerivativeError(MlecovError, ValueError):
    """A derivative given by the user disagrees with the log-likelihood."""


class SeparabilityError(MlecovError, ValueError):
    """Terms that were taken to be separate depend on each other's rows."""


class ConvergenceError(MlecovError, RuntimeError):
    """The optimiser could not find a maximum."""


class IdentificationError(MlecovError, ValueError):
    """The information matrix is singular or indefinite: parameters are not identified."""


class SeparationError(MlecovError, ValueError):
    """The maximum does not exist: a combination of regressors separates the outcomes."""


class CovarianceError(MlecovError, ValueError):
    """The covariance asked for is not defined here."""


class InferenceError(MlecovError, ValueError):
    """The test or interval asked for is not defined here."""


class MlecovWarning(UserWarning):
    """Base of all warnings raised by the package."""


class ConvergenceWarning(MlecovWarning):
    """The optimiser stopped before its criterion held."""


class NumericDerivativeWarning(MlecovWarning):
    """Derivatives are had by differences because the function can not be traced."""


class BoundaryWarning(MlecovWarning):
    """A parameter is at, or next to, a bound of its range."""


class IdentificationWarning(MlecovWarning):
    """The information matrix is close to singular."""


class CovarianceWarning(MlecovWarning):
    """A covariance is less than it seems: rank deficient, not positive semi-definite, few groups."""


class QuadratureWarning(MlecovWarning):
    """An integral in the log-likelihood moves with the number of quadrature points."""


class MissingDataWarning(MlecovWarning):
    """Rows were dropped because of missing values, as asked."""


def warn(message: str, category: type[MlecovWarning]) -> None:
    """Warn at the line of the first caller outside the package: the user's own."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("mlecov"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def listing(items: Iterable[Any], limit: int = 10) -> str:
    """Return `items` as text, the first `limit` of them followed by how many more there are.

    >>> listing(range(3))
    '0, 1, 2'
    >>> listing(range(30), limit=2)
    '0, 1, ... (28 more)'
    """
    items = list(items)
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items) - limit} more)"


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return the sentence that lists the known names, after the nearest one if there is one."""
    letters = {known_name: len(set(name.lower()) & set(known_name.lower())) for known_name in known}
    known = list(dict.fromkeys(known))
    near = [
        known_name
        for known_name in known
        if known_name.lower().startswith(name.lower()[:3])
        or letters[known_name] >= 0.75 * max(len(set(known_name)), len(set(name)))
    ]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Known: {listing(known, limit=40)}."
