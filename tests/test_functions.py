"""Special functions against mpmath in the bulk and the tails, numpy and JAX; substitution in users' code."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from scipy import special

from mlecov import autodiff, functions
from mlecov import special_cores as cores
from mlecov.accurate import accurate, accurate_jaxpr
from mlecov.errors import SpecificationError

NORMAL_POINTS = [-1e4, -300.0, -40.0, -20.0, -5.0, -1.6, -1.4, -0.3, 0.0, 0.7, 5.0, 30.0]
GAMMA_POINTS = [1e-8, 1e-3, 0.3, 0.51, 0.999, 1.0, 1.3, 2.0001, 2.9, 3.1, 17.5, 1e3, 1e6, 1e10]
TOLERANCE = [1e-14, 1e-14, 1e-14, 5e-14]  # value, first, second, third; measured 9e-15, 3e-15, 7e-16, 2e-14
PAIR = [(1.0, 1e8), (3.0, 1e8), (50.0, 1e9), (1e4, 1e6), (2.0, 0.7), (7.0, 1e-8), (1.0, 30.0), (0.0, 2.5)]


def normal_reference(x: float) -> list[Any]:
    """log Phi and three derivatives; the second and third cancel like x^-4, hence 120 digits."""
    with mp.workdps(120):
        u = mp.mpf(x)
        if x < -30:
            gap = mp.mpf(0)
            for j in range(3000, 0, -1):  # Laplace's continued fraction of the hazard less its argument
                gap = j / (-u + gap)
            mills = gap - u
            value = -u * u / 2 - mp.log(2 * mp.pi) / 2 - mp.log(mills)
        else:
            below = mp.erfc(-u / mp.sqrt(2)) / 2
            value = mp.log(below) if x < 0 else mp.log1p(-mp.erfc(u / mp.sqrt(2)) / 2)
            mills = mp.npdf(u) / below
            gap = u + mills
        return [value, mills, -mills * gap, mills * (gap**2 + mills * gap - 1)]


def gamma_reference(z: float) -> list[Any]:
    """lgamma and polygammas 0, 1, 2."""
    with mp.workdps(60):
        return [mp.log(abs(mp.gamma(mp.mpf(z)))) if z < 0 else mp.loggamma(mp.mpf(z))] + [
            mp.psi(j, mp.mpf(z)) for j in range(3)
        ]


def ratio_reference(y: float, m: float) -> list[Any]:
    """Differences of `gamma_reference` in 60 digits."""
    with mp.workdps(60):
        total = mp.mpf(y) + mp.mpf(m)
        return [mp.loggamma(total) - mp.loggamma(mp.mpf(m))] + [
            mp.psi(j, total) - mp.psi(j, mp.mpf(m)) for j in range(3)
        ]


def assert_relative(got: Any, expected: Any, tolerance: float, where: Any) -> None:
    """Compare in extended precision; zero must be zero."""
    error = abs(mp.mpf(float(got)) - expected)
    assert error <= tolerance * abs(expected), (where, float(got), mp.nstr(expected, 17), mp.nstr(error, 3))


def jax_derivatives(
    function: Callable[..., Any], points: list[float], *before: list[float], highest: int = 3
) -> list[Any]:
    """Value and derivatives in the last argument under vmap, jit and jacfwd(jacfwd(grad))."""
    jax, last = autodiff.jax(), len(before)
    orders = [function, jax.grad(function, argnums=last)]
    while len(orders) <= highest:
        orders.append(jax.jacfwd(orders[-1], argnums=last))
    with autodiff.x64():
        together = jax.jit(jax.vmap(lambda *x: [f(*x) for f in orders]))
        return [np.asarray(part) for part in together(*map(np.array, (*before, points)))]


@pytest.mark.parametrize("engine", ["numpy", "jax"])
@pytest.mark.parametrize(
    ("bundle", "function", "reference", "points"),
    [
        (functions.log_ndtr_derivatives, functions.log_ndtr, normal_reference, NORMAL_POINTS),
        (functions.gammaln_derivatives, functions.gammaln, gamma_reference, GAMMA_POINTS),
    ],
    ids=["log_ndtr", "gammaln"],
)
def test_value_and_three_derivatives(
    engine: str, bundle: Any, function: Any, reference: Any, points: list[float]
) -> None:
    got = bundle(points, 3) if engine == "numpy" else jax_derivatives(function, points)
    for i, x in enumerate(points):
        for order, expected in enumerate(reference(x)):
            assert_relative(got[order][i], expected, TOLERANCE[order], (x, order))


def test_random_points_across_blocks() -> None:
    rng = np.random.default_rng(4)
    x = rng.uniform(-12.0, 8.0, 20_000).reshape(100, 200)
    z = 10.0 ** rng.uniform(-3.0, 5.0, 20_000)
    normal, gamma = functions.log_ndtr_derivatives(x, 3), functions.gammaln_derivatives(z, 3)
    assert all(part.shape == x.shape for part in normal)
    for i in (0, 8191, 8192, 16_383, 16_384, 19_999):
        for order in range(4):
            place = (x.flat[i], order)
            assert_relative(normal[order].flat[i], normal_reference(x.flat[i])[order], 5e-14, place)
            assert_relative(gamma[order][i], gamma_reference(z[i])[order], 5e-14, (z[i], order))
    np.testing.assert_allclose(normal[0], special.log_ndtr(x), rtol=2e-14)
    np.testing.assert_allclose(gamma[0], special.gammaln(z), rtol=2e-14, atol=1e-15)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_bundles_give_the_orders_asked_for(order: int) -> None:
    assert len(functions.log_ndtr_derivatives(0.3, order)) == order + 1
    assert len(functions.gammaln_derivatives([0.3], order)) == order + 1
    assert len(functions.gammaln_ratio_derivatives([2, 3], 1.5, order)) == order + 1
    assert functions.log_ndtr_derivatives(np.empty(0), order)[0].shape == (0,)


def test_unknown_order_is_refused() -> None:
    with pytest.raises(SpecificationError, match="expected 0, 1, 2 or 3, got 4"):
        functions.gammaln_derivatives(1.0, 4)


@pytest.mark.parametrize("engine", ["numpy", "jax"])
def test_gammaln_ratio_keeps_its_digits(engine: str) -> None:
    y, m = np.array(PAIR).T
    if engine == "numpy":
        got = list(functions.gammaln_ratio_derivatives(y, m, 3))
    else:
        got = jax_derivatives(functions.gammaln_ratio, m.tolist(), y.tolist())
    for i in range(len(PAIR)):
        for order, expected in enumerate(ratio_reference(y[i], m[i])):
            if y[i] == 0.0:  # a fused multiply-add may leave a rounding of the remainder
                assert abs(got[order][i]) < 1e-17
            else:
                assert_relative(got[order][i], expected, 5e-15, (PAIR[i], order))


def test_gammaln_ratio_in_y_under_jax() -> None:
    got = jax_derivatives(lambda v: functions.gammaln_ratio(v, 2.5), [0.0, 4.0])
    for i, y in enumerate((0.0, 4.0)):
        for order in (1, 2, 3):
            assert_relative(got[order][i], gamma_reference(y + 2.5)[order], 1e-14, (y, order))


def test_edges_follow_scipy_and_the_limits() -> None:
    edges = np.array([np.inf, -np.inf, np.nan, 0.0])
    jax_normal = jax_derivatives(functions.log_ndtr, edges.tolist())
    for parts in (functions.log_ndtr_derivatives(edges, 3), jax_normal):
        np.testing.assert_array_equal(parts[0][:3], [0.0, -np.inf, np.nan])
        np.testing.assert_array_equal(parts[1][:3], [0.0, np.inf, np.nan])
        np.testing.assert_array_equal(parts[2][:3], [0.0, -1.0, np.nan])
        np.testing.assert_allclose(parts[3][:3], [0.0, 0.0, np.nan], atol=1e-200)
    poles = np.array([np.inf, np.nan, 0.0, -1.0])
    for parts in (
        functions.gammaln_derivatives(poles, 2),
        jax_derivatives(functions.gammaln, poles.tolist()),
    ):
        np.testing.assert_array_equal(parts[0], special.gammaln(poles))
        np.testing.assert_array_equal(parts[1][:3], special.digamma(poles)[:3])
        np.testing.assert_array_equal(parts[2], [0.0, np.nan, np.inf, np.inf])


@pytest.mark.parametrize("z", [-0.5, -1.3, -7.75, -1e-9])
def test_gammaln_of_negative_numbers_is_scipys(z: float) -> None:
    for parts in (functions.gammaln_derivatives([z], 3), jax_derivatives(functions.gammaln, [z])):
        for order, expected in enumerate(gamma_reference(z)):
            assert_relative(parts[order][0], expected, 2e-13, (z, order))


CLOSED: dict[str, tuple[Any, Any, list[float]]] = {
    "ndtr": (functions.ndtr, lambda u: mp.ncdf(u), [-37.0, -8.0, -0.4, 0.1, 2.0]),
    "norm_logpdf": (
        functions.norm_logpdf,
        lambda u: -u * u / 2 - mp.log(2 * mp.pi) / 2,
        [-40.0, 0.3, 6.0],
    ),
    "inverse_mills": (functions.inverse_mills, lambda u: mp.npdf(u) / mp.ncdf(u), [-20.0, -1.0, 3.0, 20.0]),
    "digamma": (functions.digamma, lambda u: mp.psi(0, u), [0.01, 0.9, 5.0, 1e6]),
    "trigamma": (functions.trigamma, lambda u: mp.psi(1, u), [0.01, 0.9, 5.0, 1e6]),
    "tetragamma": (functions.tetragamma, lambda u: mp.psi(2, u), [0.01, 0.9, 5.0, 1e6]),
    "expit": (functions.expit, lambda u: 1 / (1 + mp.exp(-u)), [-700.0, -30.0, 0.2, 30.0]),
    "log1p_exp": (functions.log1p_exp, lambda u: mp.log1p(mp.exp(u)), [-700.0, -30.0, 0.2, 30.0]),
    "log_expit": (functions.log_expit, lambda u: -mp.log1p(mp.exp(-u)), [-700.0, -30.0, 0.2, 30.0]),
    "log1mexp": (functions.log1mexp, lambda u: mp.log(-mp.expm1(u)), [-300.0, -1.0, -0.1, -1e-10]),
    "betaln": (
        lambda u: functions.betaln(u, 3.5),
        lambda u: mp.loggamma(u) + mp.loggamma(3.5) - mp.loggamma(u + 3.5),
        [1e-6, 0.5, 3.5, 40.0, 1e7],
    ),
    "logdiffexp": (
        lambda u: functions.logdiffexp(u, -2.0),
        lambda u: u + mp.log(-mp.expm1(-2 - u)),
        [-1.999, -1.0, 3.0],
    ),
}


@pytest.mark.parametrize("name", list(CLOSED))
def test_one_argument_functions_and_their_jax_derivatives(name: str) -> None:
    function, exact, points = CLOSED[name]
    traced = jax_derivatives(function, points, highest=2)
    for i, x in enumerate(points):
        with mp.workdps(350):
            expected = [mp.diff(exact, mp.mpf(x), order, h=mp.mpf(10) ** -60) for order in range(3)]
        assert_relative(function(np.array(x)), expected[0], 2e-13, (name, x))
        for order in range(3):
            assert_relative(traced[order][i], expected[order], 2e-13, (name, x, order))


def test_betaln_at_a_tie_has_its_own_second_derivative() -> None:
    with autodiff.x64():
        got = np.asarray(autodiff.jax().hessian(functions.betaln, argnums=(0, 1))(2.0, 2.0))
    both = special.polygamma(1, 4.0)
    expected = [[special.polygamma(1, 2.0) - both, -both], [-both, special.polygamma(1, 2.0) - both]]
    np.testing.assert_allclose(got, expected, rtol=1e-14)


BIVARIATE = [  # integrals of phi(u) Phi((y - rho u) / root) by mpmath.quad, below
    (0.5, -0.3, 0.6),
    (-1.2, -2.0, -0.4),
    (2.5, 1.0, 0.97),
    (0.0, 0.0, 0.3),
    (0.0, -1.0, 0.3),
    (1.0, 0.0, -0.6),
    (3.0, -3.0, 0.9),
]


def bivariate_reference(x: float, y: float, rho: float) -> float:
    """The integral of phi(u) Phi((y - rho u) / root) up to x, broken where it bends."""
    root = mp.sqrt(1 - mp.mpf(rho) ** 2)
    breaks = sorted({-14.0, x, *(b for b in (-5.0, -2.0, 0.0, y / rho) if -14.0 < b < x)})
    with mp.workdps(25):
        return float(mp.quad(lambda u: mp.npdf(u) * mp.ncdf((y - mp.mpf(rho) * u) / root), breaks))


def test_bivariate_normal() -> None:
    jax, points = autodiff.jax(), np.array(BIVARIATE)
    expected = [bivariate_reference(*point) for point in BIVARIATE]
    np.testing.assert_allclose(functions.bvn_cdf(*points.T), expected, rtol=0, atol=5e-16)

    def everything(p: Any) -> Any:
        value = lambda v: functions.bvn_cdf(v[0], v[1], v[2])  # noqa: E731
        return value(p), jax.grad(value)(p), jax.hessian(value)(p)

    with autodiff.x64():
        value, slopes, curves = (np.asarray(part) for part in jax.jit(jax.vmap(everything))(points))
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-15)
    h = 1e-4
    for j, step in enumerate(h * np.eye(3)):
        v = [functions.bvn_cdf(*(points + s * step).T) for s in (-2, -1, 1, 2)]
        difference = (v[0] - 8 * v[1] + 8 * v[2] - v[3]) / (12 * h)
        np.testing.assert_allclose(slopes[:, j], difference, rtol=0, atol=1e-9)
    np.testing.assert_allclose(curves, np.swapaxes(curves, 1, 2), rtol=0, atol=1e-13)


def substituted() -> dict[str, Callable[[Any], Any]]:
    """Ways to write log Phi with jax.scipy."""
    norm = autodiff.jax().scipy.stats.norm
    jax, jnp = autodiff.jax(), autodiff.jnp()
    return {
        "logcdf": norm.logcdf,
        "scaled logcdf": lambda x: norm.logcdf(2.0 * x, x, 1.0),
        "logsf": lambda x: norm.logsf(-x),
        "log cdf": lambda x: jnp.log(norm.cdf(x)),
        "log sf": lambda x: jnp.log(norm.sf(-x)),
        "log one less cdf": lambda x: jnp.log(1 - norm.cdf(-x)),
        "log1p less cdf": lambda x: jnp.log1p(-norm.cdf(-x)),
        "jit": jax.jit(norm.logcdf),
        "cond": lambda x: jax.lax.cond(x < 0, norm.logcdf, lambda v: v, x),
        "scan": lambda x: jax.lax.scan(lambda c, v: (c + norm.logcdf(v * x), None), 0.0, jnp.ones(1))[0],
        "dictionary": lambda x: accurate(lambda d, *, k: {"a": norm.logcdf(d["x"]) * k})({"x": x}, k=1.0)[
            "a"
        ],
    }


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", list(substituted()))
def test_accurate_replaces_log_phi(name: str) -> None:
    got = jax_derivatives(accurate(substituted()[name]), [-20.0, -3.0], highest=2)
    for i, x in enumerate((-20.0, -3.0)):
        for order, expected in enumerate(normal_reference(x)[:3]):
            assert_relative(got[order][i], expected, 1e-13, (name, x, order))


def test_accurate_knows_weakly_typed_numbers() -> None:
    jax = autodiff.jax()
    with autodiff.x64():
        got = jax.grad(jax.grad(accurate(jax.scipy.stats.norm.logcdf)))(-20.0)
    assert_relative(got, normal_reference(-20.0)[2], 1e-14, "weak")


def test_jax_alone_is_not_accurate() -> None:
    """The reason for `accurate`; when this goes green for jax.scipy, the substitution may go."""
    theirs = jax_derivatives(autodiff.jax().scipy.stats.norm.logcdf, [-20.0])
    assert 1e-6 < abs(float(theirs[2][0] / float(normal_reference(-20.0)[2])) - 1) < 1e-5


@pytest.mark.parametrize("name", ["gammaln", "digamma", "trigamma", "betaln", "while"])
def test_accurate_replaces_the_gamma_family(name: str) -> None:
    jax, theirs = autodiff.jax(), autodiff.jax().scipy.special
    function, expected = {
        "gammaln": (theirs.gammaln, lambda z: gamma_reference(z)[:4]),
        "digamma": (theirs.digamma, lambda z: gamma_reference(z)[1:]),
        "trigamma": (lambda z: theirs.polygamma(1, z), lambda z: gamma_reference(z)[2:]),
        "betaln": (lambda z: theirs.betaln(z, 3.0), lambda z: [math.log(2) - ratio_reference(3.0, z)[0]]),
        "while": (
            lambda z: jax.lax.while_loop(
                lambda c: c[0] < 1, lambda c: (c[0] + 1, theirs.gammaln(c[1])), (0, z)
            )[1],
            lambda z: gamma_reference(z)[:1],
        ),
    }[name]
    with autodiff.x64():
        ours = accurate(function)
        text = str(jax.make_jaxpr(ours)(2.3))
        assert not any(word in text.split() for word in ("lgamma", "digamma", "polygamma")), text
        derivative = ours
        for order, value in enumerate(expected(2.3)):
            assert_relative(
                derivative(autodiff.jnp().asarray(2.3)) if order else jax.jit(ours)(2.3), value, 1e-13, order
            )
            derivative = jax.jacfwd(derivative)


def test_accurate_leaves_other_functions_alone() -> None:
    jax, jnp = autodiff.jax(), autodiff.jnp()

    @jax.custom_jvp
    def log_ndtr(x: Any) -> Any:
        return 3.0 * x

    log_ndtr.defjvp(lambda primals, tangents: (3.0 * primals[0], 5.0 * tangents[0]))

    with autodiff.x64():
        assert float(jax.grad(accurate(log_ndtr))(2.0)) == 5.0
        plain = accurate(lambda x, power: {"y": jnp.log(x) ** power})
        assert str(jax.make_jaxpr(lambda x: plain(x, 2))(1.5)) == str(
            jax.make_jaxpr(lambda x: {"y": jnp.log(x) ** 2})(1.5)
        )
        assert plain(jnp.asarray(math.e), 2)["y"] == 1.0


def test_accurate_jaxpr_takes_flat_arguments() -> None:
    jax = autodiff.jax()
    with autodiff.x64():
        closed = jax.make_jaxpr(lambda a, b: (a * jax.scipy.special.gammaln(b), a + b))(1.0, 2.0)
        product, total = accurate_jaxpr(closed)(2.0, 5.0)
    assert_relative(product, 2 * gamma_reference(5.0)[0], 1e-15, "product")
    assert float(total) == 7.0


def test_reverse_over_reverse_through_scan() -> None:
    """There JAX differentiates the value's formula too and multiplies by zero: it must be finite."""
    jax, jnp = autodiff.jax(), autodiff.jnp()

    def total(x: Any) -> Any:
        def step(carry: Any, v: Any) -> Any:
            return carry + functions.gammaln(x + v + 1.0) + functions.log_ndtr(x - v), None

        return jax.lax.scan(step, 0.0, jnp.array([1.5, 0.5]))[0]

    with autodiff.x64():
        got = float(jax.grad(jax.grad(total))(1.5))
    gamma, normal = functions.gammaln_derivatives([4.0, 3.0]), functions.log_ndtr_derivatives([0.0, 1.0])
    assert abs(got / (gamma[2].sum() + normal[2].sum()) - 1) < 1e-12


def test_numpy_arguments_do_not_load_jax_or_scipy_stats() -> None:
    code = (
        "import sys, numpy as np; from mlecov import functions as f; f.log_ndtr_derivatives(np.zeros(3), 3);"
        "f.gammaln(2.0); f.bvn_cdf(0.1, 0.2, 0.3); f.log1p_exp(1.0); f.betaln(1.0, 2.0);"
        "sys.exit(any(m in sys.modules for m in ('jax', 'scipy.stats')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_choices_by_bits_are_those_of_where() -> None:
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, -1.5])
    a, b = np.repeat(special, len(special)), np.tile(special, len(special))
    mask = np.random.default_rng(0).random(len(a)) < 0.5
    found = cores.chooser(np, mask)(a, b)
    assert found.tobytes() == np.where(mask, a, b).tobytes()
    assert a.tobytes() == np.repeat(special, len(special)).tobytes()
