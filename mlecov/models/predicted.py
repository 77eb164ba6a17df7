"""What models predict: how a model declares the quantities that `predict` and `forecast` know by name.

A model's property `quantities` maps names to declarations, of which there are four: a function of
the predictors by row (`OfRows`, models of the index engine), such a function at numbers that the user
names ("survival[10]": `OfPoints`), a function of parameters and columns by name (`OfNames`), and a
function of the whole sample (`OfSample`: filters, posteriors). All but the last are taken at new data
and have margins; the delta method is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OfRows:
    """h = function(eta (E, n), columns), (n,) or, with labels, (c, n).

    Without `offsets` the predictors leave offsets and exposures out: a rate per unit of exposure.
    """

    function: Callable[[Array, Mapping[str, Any]], Array]
    labels: tuple[str, ...] = ()
    offsets: bool = True


@dataclass(frozen=True)
class OfPoints:
    """h = function(eta (E, n), columns, *points), (n,): "survival[10]", "conditional[0, 5]".

    Parameters
    ----------
    takes, example :
        What a point is, and numbers that show how many there are: "a time t > 0", "10".
    valid :
        Whether these numbers are possible; NaN, which compares as false, should not be.
    own :
        (n, columns) -> the points (n,) of the rows themselves, taken where no number is named.
    """

    function: Callable[..., Array]
    takes: str
    example: str
    valid: Callable[..., bool]
    own: Callable[[int, Mapping[str, Any]], tuple[Array, ...]] | None = None

    def at(self, name: str, text: str) -> Callable[[Array, Mapping[str, Any]], Array]:
        """Return the function of (eta, columns) at the numbers in `text`; the rows' own where it is empty.

        Raises
        ------
        SpecificationError
            For numbers that are missing, too many, or not possible; the message shows possible ones.
        """
        try:
            points = [float(part) for part in text.split(",")] if text else []
        except ValueError:
            points = [float("nan")]
        if not text and self.own is not None:
            own = self.own
            return lambda eta, columns: self.function(eta, columns, *own(eta.shape[1], columns))
        if len(points) != len(self.example.split(",")) or not self.valid(*points):
            got = f", got [{text}]" if text else ""
            raise SpecificationError(f"{name!r} takes {self.takes}, as in '{name}[{self.example}]'{got}.")
        return lambda eta, columns: self.function(eta, columns, *(np.full(eta.shape[1], p) for p in points))


@dataclass(frozen=True)
class OfNames:
    """h = function(*values of `arguments`), (n,) or, with labels, (c, n) or (c, 1).

    Arguments are parameters (a linear one is its predictor (n,)) and columns by name.
    """

    function: Callable[..., Any]
    arguments: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampled:
    """Values (n,) or (c, n), derivatives (..., K) in the free parameters before constraints, variances.

    Without `jacobian` the values are differenced. `variance` is that of a random quantity given the
    data at these parameters (a random effect); the delta method's is added to it.
    """

    values: Array
    jacobian: Array | None = None
    variance: Array | None = None


@dataclass(frozen=True)
class OfSample:
    """h = function(likelihood, theta (K,), order): of all terms together, or of units.

    Parameters
    ----------
    index :
        "rows", "terms", or the labels of the values themselves (regimes).
    anew :
        Whether the likelihood's method `at` takes it to new data.
    """

    function: Callable[[Any, Array, int], Sampled]
    labels: tuple[str, ...] = ()
    index: Literal["rows", "terms"] | tuple[str, ...] = "terms"
    anew: bool = False


Declared = OfRows | OfPoints | OfNames | OfSample


def of_params(function: Callable[[Array, Any, int], Sampled]) -> Callable[[Any, Array, int], Sampled]:
    """Return the `OfSample` function of one that takes (params (m,), columns, order), as models in
    whole parameters do; its derivatives in params (..., m) are taken to theta.
    """

    def at_theta(likelihood: Any, theta: Array, order: int) -> Sampled:
        found = function(likelihood.space.report(theta), likelihood.columns, order)
        if found.jacobian is None:
            return found
        return Sampled(found.values, found.jacobian @ likelihood.space.jacobian(theta), found.variance)

    return at_theta


@dataclass(frozen=True)
class Ahead:
    """Periods beyond the sample: mean (h,), variance of the forecast's error (h,), and what else there is.

    `df` are the degrees of freedom of standardised t errors (None: normal).
    """

    mean: Array
    variance: Array
    further: Mapping[str, Array] = field(default_factory=dict)
    df: float | None = None


def psi_weights(ar: Array, ma: Array, steps: int) -> Array:
    """Return psi_0, ..., psi_(steps-1) of psi(L) = theta(L) / phi(L).

    phi(L) = 1 - sum ar_i L^i, theta(L) = 1 + sum ma_j L^j.

    Reference: Box & Jenkins (1976), section 4.2.

    >>> psi_weights(np.array([0.5]), np.array([0.2]), 3)
    array([1.  , 0.7 , 0.35])
    """
    found = np.zeros(steps)
    for j in range(steps):
        found[j] = 1.0 if j == 0 else (ma[j - 1] if j <= len(ma) else 0.0)
        for i in range(min(j, len(ar))):
            found[j] += ar[i] * found[j - 1 - i]
    return found
