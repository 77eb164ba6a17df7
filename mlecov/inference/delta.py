"""The delta method for any function of the parameters: derivatives by JAX, else by differences.

    g(theta_hat) has covariance  G V G',   G = dg / dtheta' (q, k)

The function sees the parameters on the user's scale; the chain through the transforms is part of
what is differentiated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import autodiff
from mlecov.accurate import accurate
from mlecov.covariance.covariance import Covariance
from mlecov.errors import InferenceError, SpecificationError, listing, suggestion
from mlecov.inference.results import Combinations
from mlecov.likelihood.traced import extrapolate
from mlecov.linalg import symmetrize
from mlecov.parameters import ParameterSpace
from mlecov.separable import uses_jax

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Derived:
    """A function's value (q,) at theta with its Jacobian (q, k), the rows' names and how it was had."""

    value: Array
    jacobian: Array
    labels: tuple[str, ...]
    how: str


def user_values(space: ParameterSpace, theta: Any, xp: Any) -> dict[str, Any]:
    """Return the parameters on the user's scale by name, and each of their entries by label."""
    raw = theta if space.matrix is None else space.matrix @ theta + space.origin
    values = {p.name: p.kind.value(raw[p.free], xp) for p in space}
    entries: dict[str, Any] = {}
    for p in space:
        labels = p.kind.labels(p.name)
        flat = xp.ravel(xp.asarray(values[p.name]))
        if len(labels) == flat.shape[0]:
            entries |= {label: flat[j] for j, label in enumerate(labels)}
    return entries | values


def bind(function: Callable[..., Any], names: Sequence[str]) -> Callable[[Mapping[str, Any]], Any]:
    """Return values -> function(...), its arguments matched by name to `names`.

    A function of a single argument that is none of the names receives the mapping itself.

    Raises
    ------
    SpecificationError
        For arguments that are no parameters.
    """
    if not callable(function):
        raise SpecificationError(
            f"expected a function of the parameters, got {type(function).__name__}; for example "
            "lambda mu, sigma: mu / sigma, or lambda values: values['sigma'] ** 2."
        )
    given = dict(inspect.signature(function).parameters)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in given.values()):
        return lambda values: function(**{name: values[name] for name in names})
    taken = [name for name in given if name in names]
    required = [n for n, p in given.items() if p.default is inspect.Parameter.empty and n not in names]
    if not required:
        return lambda values: function(**{name: values[name] for name in taken})
    if len(given) == 1:
        return lambda values: function(values)
    raise SpecificationError(
        f"argument(s) {listing(map(repr, required))} of the function are no parameters."
        f"{suggestion(required[0], list(names))} A function of one argument receives all values as a dict."
    )


def _parts(result: Any) -> list[tuple[str, Any]]:
    if isinstance(result, Mapping):
        return [(str(key), value) for key, value in result.items()]
    if isinstance(result, (tuple, list)):
        return [(str(j), value) for j, value in enumerate(result)]
    return [("", result)]


def _row_labels(result: Any, name: str) -> tuple[str, ...]:
    labels: list[str] = []
    for key, value in _parts(result):
        own = key if isinstance(result, Mapping) else (f"{name}[{key}]" if key else name)
        shape = np.shape(value)
        labels += [own] if not shape else [f"{own}[{','.join(map(str, i))}]" for i in np.ndindex(*shape)]
    return tuple(labels)


def _flat(result: Any, xp: Any) -> Any:
    return xp.concatenate([xp.ravel(xp.asarray(value)) for _, value in _parts(result)])


def derive(
    space: ParameterSpace,
    theta: Array,
    function: Callable[..., Any],
    steps: Array,
    names: Sequence[str] | None = None,
) -> Derived:
    """Return a function of the parameters at theta (k,), with its Jacobian.

    Parameters
    ----------
    function :
        Of parameters by name, or of one dict of values; returns a number, an array, or a dict of
        them. JAX differentiates it where it can; else extrapolated central differences do.
    steps :
        (k,) standard errors of theta: the scale of the differences.
    names :
        Labels of the q results; by default from the function's name or its dict's keys.
    """
    call = bind(function, [p.name for p in space])

    def run(point: Any, xp: Any) -> Any:
        try:
            return call(user_values(space, point, xp))
        except TypeError as error:
            if "dict" not in str(error):
                raise
            raise SpecificationError(
                f"the function failed on the dict of values ({error}). Name its arguments like the "
                "parameters "
                f"({listing(p.name for p in space)}), or index the dict: values['{space.labels[0]}']."
            ) from None

    label = getattr(function, "__name__", "g")
    value, jacobian, how = differentiate(
        lambda t, xp: _flat(run(t, xp), xp), theta, steps, uses_jax(function)
    )
    with autodiff.x64_if_loaded():
        labels = _row_labels(run(theta, np), "g" if label == "<lambda>" else label)
    if names is not None:
        labels = (names,) if isinstance(names, str) else tuple(names)
        if len(labels) != len(value):
            raise SpecificationError(
                f"names= has {len(labels)} entries; the function returns {len(value)} numbers."
            )
    return Derived(value, jacobian, labels, how)


def differentiate(
    function: Callable[[Any, Any], Any], theta: Array, steps: Array, traceable: bool = True
) -> tuple[Array, Array, str]:
    """Return f(theta) (q,), df/dtheta (q, k) and "autodiff" or "differences".

    `function` takes (theta, xp) with xp numpy or jax.numpy. Differences are central at steps of the
    size given, halved five times and extrapolated (Ridders 1982).

    Raises
    ------
    InferenceError
        Where the value or a derivative is not finite.
    """
    theta = np.asarray(theta, dtype=float)
    if traceable and autodiff.traceable(lambda t: function(t, autodiff.jnp()), theta):
        exact = accurate(lambda t: function(t, autodiff.jnp()))
        value, jacobian = autodiff.value_and_jacobian(exact, theta)
        value, jacobian = np.asarray(value, dtype=float), np.asarray(jacobian, dtype=float)
        how = "autodiff"
    else:
        with np.errstate(all="ignore"), autodiff.x64_if_loaded():
            value = np.asarray(function(theta, np), dtype=float)
            jacobian = _by_differences(function, theta, steps, len(value))
        how = "differences"
    if not np.isfinite(value).all():
        raise InferenceError(
            f"the function is {value[~np.isfinite(value)][0]} at the estimates; the delta method needs a "
            "finite value."
        )
    if not np.isfinite(jacobian).all():
        raise InferenceError(
            "the function has no finite derivative at the estimates (a kink, a bound or an overflow "
            "there); the "
            "delta method does not hold. Use a function that is smooth at the estimates."
        )
    return value, jacobian, how


def _by_differences(function: Callable[[Any, Any], Any], theta: Array, steps: Array, q: int) -> Array:
    jacobian = np.empty((q, len(theta)))
    for j in range(len(theta)):
        size = steps[j] if np.isfinite(steps[j]) and steps[j] > 0 else 0.0
        step = min(max(size, 1e-4 * max(abs(theta[j]), 1e-3)), max(abs(theta[j]), 1.0))
        unit = np.zeros(len(theta))
        unit[j] = step

        def quotient(h: float, unit: Array = unit, step: float = step) -> Array:
            up, down = (np.asarray(function(theta + s * h * unit, np), dtype=float) for s in (1, -1))
            return np.asarray((up - down) / (2 * h * step))

        jacobian[:, j] = extrapolate(quotient, 0.5)
    return jacobian


def theta_steps(covariance: Covariance) -> Array:
    """Return standard errors of theta (k,): the scale on which functions of it are differenced."""
    return np.sqrt(np.maximum(np.diag(covariance.matrix), 0.0))


def scalar_df(df: float | Array | None) -> float | None:
    """Return one number of degrees of freedom: the smallest, where they differ by parameter."""
    return None if df is None else float(np.min(df))


def nlcom(
    covariance: Covariance,
    function: Callable[..., Any],
    names: Sequence[str] | None = None,
    alpha: float = 0.05,
) -> Combinations:
    """Return nonlinear combinations g of the parameters with delta-method standard errors.

        V_g = G V G',   G = dg / dtheta'

    Parameters
    ----------
    function :
        `lambda mu, sigma: mu / sigma` (arguments are parameters) or `lambda values: ...` (a dict of
        parameters and of entries such as "mu[educ]"); returns a number, an array or a dict.
    names :
        Labels of the results.

    Reference: Greene (2018), theorem D.21; Oehlert (1992).

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.logit("grade ~ gpa + tuce + psi", ml.load("spector")))
    >>> found = fit.nlcom(lambda values: np.exp(values["mu[psi]"]), names=["odds ratio"])
    >>> round(float(found.estimates[0]), 3)
    10.791
    """
    derived = derive(covariance.space, covariance.theta, function, theta_steps(covariance), names)
    notes = () if derived.how == "autodiff" else ("Derivatives of the function by extrapolated differences.",)
    return Combinations(
        derived.labels,
        derived.value,
        symmetrize(derived.jacobian @ covariance.matrix @ derived.jacobian.T),
        np.zeros(len(derived.value)),
        scalar_df(covariance.df),
        alpha,
        f"delta method, {covariance.label}",
        "Nonlinear combinations of parameters",
        notes=notes,
    )
