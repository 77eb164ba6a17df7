"""Special functions with three accurate, cheap derivatives, for numpy and JAX alike.

Numpy arguments give numpy values; JAX arrays and tracers are answered by `custom_jvp` functions in which
every derivative names the next, so that gradients and Hessians traced by JAX keep their digits and cost a
polynomial each. The `*_derivatives` bundles serve closed-form models: no JAX, one pass for all orders.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov import autodiff
from mlecov import special_cores as cores

Array = npt.NDArray[np.float64]


# Bundles for closed-form models: numpy in, a tuple of arrays out.


def log_ndtr_derivatives(x: npt.ArrayLike, order: int = 2) -> tuple[Any, ...]:
    """Return log Phi(x) and its first `order` (at most 3) derivatives, each of x's shape.

    With m = phi(x) / Phi(x) and D = x + m they are m, -m D and m (D^2 + m D - 1); left of zero D is
    computed as such and left of -1.5 the bracket too, so all hold to rounding at -1e4.
    Reference: Sampford, M. R. (1953), Annals of Mathematical Statistics 24, 130-132.

    >>> value, mills, curvature = log_ndtr_derivatives(np.array([-1.0, 0.0, 1.0]))
    """
    return cores.blocked(cores.normal, order, x)


def gammaln_derivatives(x: npt.ArrayLike, order: int = 2) -> tuple[Any, ...]:
    """Return log |Gamma(x)|, digamma, trigamma, tetragamma up to `order`, each of x's shape.

    Stirling's series in x + 1/2 with its remainder as a rational function of 1 / (x + 3/2).
    Reference: Abramowitz and Stegun (1964), 6.1.40 and 6.4.11.

    >>> value, digamma_, trigamma_ = gammaln_derivatives(np.array([0.5, 3.0]))
    """

    def core(xp: Any, rational: Any, z: Array, last: int) -> list[Any]:
        return (cores.gamma_reflected if np.any(z < 0.0) else cores.gamma)(xp, rational, z, 0, last)

    return cores.blocked(core, order, x)


def gammaln_excess_derivatives(x: npt.ArrayLike, order: int = 2) -> tuple[Any, ...]:
    """Return log Gamma(x) - x log x + x and its first `order` derivatives, each of x's shape, x > 0.

    What Stirling's leading terms leave: of size log x, where log Gamma(x) is of size x log x. Densities
    of concentrated gamma, beta and t variables are sums of these without cancellation.
    Reference: Abramowitz and Stegun (1964), 6.1.40.

    >>> value, first, second = gammaln_excess_derivatives(np.array([0.5, 1e6]))
    """
    return cores.blocked(cores.gamma_excess, order, x)


def gammaln_ratio_derivatives(y: npt.ArrayLike, m: npt.ArrayLike, order: int = 2) -> tuple[Any, ...]:
    """Return lgamma(y + m) - lgamma(m) and its first `order` derivatives in m, y >= 0, m > 0.

    The differences are taken before rounding (log1p and products), so that the j-th derivative keeps
    its digits when m is huge beside y (the Poisson limit of the negative binomial) and when m is tiny.
    Relative accuracy holds for counts (y = 0 or y >= 1); between them it is absolute. The broadcast
    shape of y and m is returned. Reference: Lawless (1987), Canadian Journal of Statistics 15, 209-225.

    >>> value, first, second = gammaln_ratio_derivatives(np.array([0.0, 3.0]), 1e8)
    """

    def core(xp: Any, rational: Any, y_: Array, m_: Array, last: int) -> list[Any]:
        return cores.gamma_ratio(xp, rational, y_, m_, 0, last)

    return cores.blocked(core, order, y, m)


# JAX: built on first use, never at import.


@functools.cache
def _family() -> dict[str, Callable[..., Any]]:
    """Return the JAX functions by name; each rule calls the next derivative."""
    xp, lax, rational = autodiff.jnp(), autodiff.jax().lax, cores.rational_horner
    f: dict[str, Callable[..., Any]] = {}

    def define(name: str, value: Callable[..., Any], *slopes: Callable[..., Any]) -> None:
        function = autodiff.jax().custom_jvp(value)
        rules = [lambda t, _, *a, slope=slope: slope(*a) * t for slope in slopes]
        function.defjvps(*rules)
        f[name] = function

    def normal(order: int) -> Callable[..., Any]:
        return lambda x: cores.normal(xp, rational, x, order)[order]

    def gamma(order: int) -> Callable[..., Any]:
        return lambda z: cores.gamma_reflected(xp, rational, z, order, order)[0]

    def ratio(order: int) -> Callable[..., Any]:
        return lambda y, m: cores.gamma_ratio(xp, rational, y, m, order, order)[0]

    def fourth(x: Any) -> Any:
        second = f["normal2"](x)
        return -2.0 * second * (1.0 + second) - (x + 2.0 * f["normal1"](x)) * f["normal3"](x)

    for j in range(3):
        define(f"normal{j}", normal(j), lambda x, j=j: f[f"normal{j + 1}"](x))
        define(f"gamma{j}", gamma(j), lambda z, j=j: f[f"gamma{j + 1}"](z))
        define(
            f"ratio{j}",
            ratio(j),
            lambda y, m, j=j: f[f"gamma{j + 1}"](y + m),
            lambda y, m, j=j: f[f"ratio{j + 1}"](y, m),
        )
    define("normal3", normal(3), fourth)
    define("gamma3", gamma(3), lambda z: lax.polygamma(xp.full_like(z, 3.0), z))
    f["ratio3"] = ratio(3)
    define("ndtr", lambda x: cores.normal_cdf(xp, rational, x), lambda x: cores.normal_density(xp, x))
    define("expit", lax.logistic, lambda x: f["expit"](x) * f["expit"](-x))
    define("softplus", lambda x: xp.logaddexp(x, 0.0), lambda x: f["expit"](x))
    define("odds", lambda x: -xp.exp(x) / xp.expm1(x), lambda x: f["odds"](x) * (1.0 + f["odds"](x)))
    define("log1mexp", lambda x: cores.log1mexp(xp, x), lambda x: -f["odds"](x))
    define(
        "bvn_cdf", lambda x, y, r: cores.bivariate_cdf(xp, f["ndtr"], cores.owens_t, x, y, r), *_bvn_slopes(f)
    )
    return f


def _bvn_slopes(f: dict[str, Callable[..., Any]]) -> tuple[Callable[..., Any], ...]:
    """Derivatives of the bivariate normal cdf in x, y and rho (Plackett 1954)."""
    xp = autodiff.jnp()

    def in_x(x: Any, y: Any, r: Any) -> Any:
        return (
            cores.INV_SQRT_2PI
            * xp.exp(-0.5 * x * x)
            * f["ndtr"]((y - r * x) / xp.sqrt((1.0 - r) * (1.0 + r)))
        )

    def in_rho(x: Any, y: Any, r: Any) -> Any:
        s = (1.0 - r) * (1.0 + r)
        # (x - r y)^2 / s + y^2 does not cancel where r is near one and x near y
        return xp.exp(-0.5 * ((x - r * y) ** 2 / s + y * y)) / (2.0 * math.pi * xp.sqrt(s))

    return in_x, lambda x, y, r: in_x(y, x, r), in_rho


def _floating(*values: Any) -> list[Any]:
    """Return JAX values broadcast to one shape and one inexact type."""
    xp = autodiff.jnp()
    kind = xp.float32 if all(xp.result_type(value) == xp.float32 for value in values) else float
    return [xp.asarray(value, dtype=kind) for value in xp.broadcast_arrays(*values)]


def _apply(name: str, fast: Callable[..., Any], *arguments: Any) -> Any:
    """Answer by JAX when an argument is JAX's, by `fast` on float64 numpy arrays otherwise."""
    if autodiff.is_jax(*arguments):
        return _family()[name](*_floating(*arguments))
    with np.errstate(all="ignore"):
        return fast(*(np.asarray(argument, dtype=np.float64) for argument in arguments))


# Public functions of arrays.


def norm_logpdf(x: Any, mean: Any = 0.0, sd: Any = 1.0) -> Any:
    """Return the log density -z^2 / 2 - log sd - log(2 pi) / 2 of the normal at z = (x - mean) / sd."""
    xp = autodiff.jnp() if autodiff.is_jax(x, mean, sd) else np
    z = (x - mean) / sd
    return -0.5 * z * z - xp.log(sd) - cores.LOG_SQRT_2PI


def ndtr(x: Any) -> Any:
    """Return the normal distribution function Phi(x), relatively accurate in the left tail."""
    return _apply("ndtr", special.ndtr, x)


def log_ndtr(x: Any) -> Any:
    """Return log Phi(x); its JAX derivatives are those of `log_ndtr_derivatives`, to rounding at -1e4."""
    return _apply("normal0", special.log_ndtr, x)


def inverse_mills(x: Any) -> Any:
    """Return phi(x) / Phi(x), the derivative of `log_ndtr` (about -x far left)."""
    return _apply("normal1", lambda a: cores.blocked(cores.normal, 1, a)[1], x)


def gammaln(x: Any) -> Any:
    """Return log |Gamma(x)|; its derivatives under JAX are `digamma`, `trigamma`, `tetragamma`."""
    return _apply("gamma0", special.gammaln, x)


def digamma(x: Any) -> Any:
    """Return the first derivative of log Gamma(x)."""
    return _apply("gamma1", special.digamma, x)


def trigamma(x: Any) -> Any:
    """Return the second derivative of log Gamma(x)."""
    return _apply("gamma2", lambda a: _gamma_order(a, 2), x)


def tetragamma(x: Any) -> Any:
    """Return the third derivative of log Gamma(x)."""
    return _apply("gamma3", lambda a: _gamma_order(a, 3), x)


def _gamma_order(x: Array, order: int) -> Any:
    def core(xp: Any, rational: Any, z: Array, _: int) -> list[Any]:
        return cores.gamma_reflected(xp, rational, z, order, order)

    return cores.blocked(core, 0, x)[0]


def gammaln_ratio(y: Any, m: Any) -> Any:
    """Return lgamma(y + m) - lgamma(m) for y >= 0, m > 0, without cancellation when m is huge."""
    return _apply("ratio0", lambda a, b: gammaln_ratio_derivatives(a, b, 0)[0], y, m)


def betaln(a: Any, b: Any) -> Any:
    """Return log B(a, b) = lgamma(a) + lgamma(b) - lgamma(a + b), a, b > 0."""
    if not autodiff.is_jax(a, b):
        return special.betaln(a, b)
    xp = autodiff.jnp()
    a, b = _floating(a, b)
    # a choice, not minimum and maximum: at a tie those would halve the second derivative
    low, high = xp.where(a < b, a, b), xp.where(a < b, b, a)
    return gammaln(low) - gammaln_ratio(low, high)


def expit(x: Any) -> Any:
    """Return 1 / (1 + exp(-x))."""
    return _apply("expit", special.expit, x)


def log1p_exp(x: Any) -> Any:
    """Return log(1 + exp(x)) (softplus); its derivative is `expit`, accurate in both tails."""
    return _apply("softplus", lambda a: np.logaddexp(a, 0.0), x)


def log_expit(x: Any) -> Any:
    """Return log(expit(x)) = -log1p_exp(-x)."""
    return -log1p_exp(-x)


def log1mexp(x: Any) -> Any:
    """Return log(1 - exp(x)), x <= 0 (Maechler 2012, "Accurately computing log(1 - exp(-|a|))")."""
    return _apply("log1mexp", lambda a: cores.log1mexp(np, a), x)


def logdiffexp(a: Any, b: Any) -> Any:
    """Return log(exp(a) - exp(b)), a >= b."""
    return a + log1mexp(b - a)


def bvn_cdf(x: Any, y: Any, rho: Any) -> Any:
    """Return P(X <= x, Y <= y) of the standard bivariate normal with correlation -1 < rho < 1.

    By two of Owen's T functions, to 1e-15 absolutely; the derivatives under JAX are closed forms:
    phi(x) Phi((y - rho x) / sqrt(1 - rho^2)) in x, likewise in y, and the density in rho.
    Reference: Owen, D. B. (1956), Annals of Mathematical Statistics 27, 1075-1090.
    """

    def fast(x_: Array, y_: Array, r: Array) -> Any:
        return cores.bivariate_cdf(np, special.ndtr, lambda _, h, a: special.owens_t(h, a), x_, y_, r)

    return _apply("bvn_cdf", fast, x, y, rho)
