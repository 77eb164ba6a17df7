"""Nonlinear least squares: certified digits, both parts of the Hessian, covariances, curvature, refusals."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import fdtri, stdtrit

from mlecov.autodiff import x64
from mlecov.errors import (
    ConvergenceWarning,
    CovarianceError,
    DataError,
    EvaluationError,
    IdentificationError,
    InferenceError,
    NumericDerivativeWarning,
    SpecificationError,
)
from mlecov.least_squares import NonlinearLeastSquares, least_squares, nonlinear_least_squares
from tests import nist
from tests.cases import load_case

# Reaction velocity of treated cells (Bates and Watts 1988, table A1.3): R's `Puromycin`, state == "treated"
PUROMYCIN = {
    "conc": np.array([0.02, 0.02, 0.06, 0.06, 0.11, 0.11, 0.22, 0.22, 0.56, 0.56, 1.1, 1.1]),
    "rate": np.array([76.0, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200]),
}
START = {"Vm": 200.0, "K": 0.1}


def michaelis(conc: jax.Array, Vm: jax.Array, K: jax.Array) -> jax.Array:
    return Vm * conc / (K + conc)


@functools.cache
def puromycin() -> NonlinearLeastSquares:
    return nonlinear_least_squares(michaelis, START, PUROMYCIN, outcome="rate")


@functools.cache
def certified(name: str, start: str) -> NonlinearLeastSquares:
    case = load_case(f"nist_{name}")
    return nonlinear_least_squares(nist.model(case, jnp), case.raw[start], case.data, outcome="y")


@pytest.mark.parametrize("start", nist.STARTS)
@pytest.mark.parametrize("name", nist.problems(linear=False))
def test_certified_digits(name: str, start: str) -> None:
    case, fit = load_case(f"nist_{name}"), certified(name, start)
    assert fit.converged and fit.s2 is not None
    got = nist.score(case, fit.params, fit.bse(), float(np.sqrt(fit.s2)))
    assert min(got) >= 10, got
    assert fit.definiteness == "positive definite"
    assert fit.record.relative_offset < 1e-9 and fit.record.gradient_norm < 1e-9


@pytest.mark.parametrize("name", ["chwirut1", "danwood", "eckerle4", "gauss1", "mgh09", "rat43", "thurber"])
def test_full_hessian_and_sandwiches(name: str) -> None:
    """Compare with the recalculation kept beside the certified values (JAX and QR, other code than ours)."""
    computed, fit = load_case(f"nist_{name}").raw["std_errors_computed"], certified(name, "start2")
    assert_allclose(fit.bse("oim"), list(computed["hessian_full_mle"].values()), rtol=1e-11)
    assert_allclose(fit.bse("HC0"), list(computed["sandwich_full_hessian"].values()), rtol=1e-11)
    gauss_newton = list(computed["sandwich_gauss_newton_hc0"].values())
    assert_allclose(fit.bse("HC0", bread="gauss-newton"), gauss_newton, rtol=1e-11)


def test_parts_of_the_hessian_are_those_of_autodiff() -> None:
    fit = puromycin()
    with x64():
        x, y = jnp.asarray(PUROMYCIN["conc"]), jnp.asarray(PUROMYCIN["rate"])
        square = lambda t: jnp.sum((y - michaelis(x, t[0], t[1])) ** 2)  # noqa: E731
        hessian = np.array(jax.hessian(square)(jnp.asarray(fit.params.to_numpy())))
    assert_allclose(fit.hessian, hessian, rtol=1e-12)
    assert_allclose(fit.gauss_newton + fit.second_order, fit.hessian, rtol=1e-14)
    assert_allclose(fit.gauss_newton, 2 * fit.jacobian.T @ fit.jacobian, rtol=1e-13)
    assert abs(fit.second_order.to_numpy()[1, 1]) > 0.03 * fit.gauss_newton.to_numpy()[1, 1]
    assert np.abs(fit.gradient / np.sqrt(np.diag(fit.hessian) * fit.rss)).max() < 1e-13


def test_covariances_written_out_naively() -> None:
    fit = puromycin()
    J, r, n, k = fit.jacobian, fit.residuals, 12, 2
    bread = np.linalg.inv(np.asarray(fit.hessian, dtype=np.float64) / 2)
    h = np.diag(J @ np.linalg.inv(J.T @ J) @ J.T)
    Vm, K = np.asarray(fit.params, dtype=np.float64)
    assert_allclose(r, PUROMYCIN["rate"] - Vm * PUROMYCIN["conc"] / (K + PUROMYCIN["conc"]), rtol=1e-11)
    assert_allclose(fit.leverages, h, rtol=1e-11)
    assert_allclose(fit.cov(), np.linalg.inv(J.T @ J) * (r @ r) / (n - k), rtol=1e-11)
    assert_allclose(fit.cov("eim"), np.linalg.inv(J.T @ J) * (r @ r) / n, rtol=1e-11)
    assert_allclose(fit.cov("oim"), bread * (r @ r) / n, rtol=1e-11)
    one = np.ones(n)
    factors = {"HC0": one, "HC1": one * n / (n - k), "HC2": 1 / (1 - h), "HC3": 1 / (1 - h) ** 2}
    for kind, factor in factors.items():
        meat = J.T @ ((factor * r**2)[:, None] * J)
        assert_allclose(fit.cov(kind), bread @ meat @ bread, rtol=1e-10, err_msg=kind)
    S = np.column_stack([J * (-r / fit.sigma2)[:, None], (r**2 / fit.sigma2 - 1) / np.sqrt(fit.sigma2)])
    assert_allclose(fit.cov("opg"), np.linalg.inv(S.T @ S)[:2, :2], rtol=1e-9)


def test_curvatures_equal_those_of_mass() -> None:
    """`example(rms.curv)` of R's MASS prints 0.2121 and 0.092 for these data."""
    curvature = puromycin().curvature()
    assert round(curvature.parameter_effects, 4) == 0.2121
    assert round(curvature.intrinsic, 4) == 0.0920
    other = puromycin().curvature(alpha=0.5)
    assert_allclose(
        other.intrinsic / curvature.intrinsic, np.sqrt(fdtri(2, 10, 0.5) / fdtri(2, 10, 0.95)), rtol=1e-12
    )


def test_intrinsic_curvature_survives_reparametrisation_and_parameter_effects_do_not() -> None:
    def inverse(conc: jax.Array, a: jax.Array, c: jax.Array) -> jax.Array:
        return conc / (a * conc + c)

    fit = nonlinear_least_squares(inverse, {"a": 0.005, "c": 0.0005}, PUROMYCIN, outcome="rate")
    assert_allclose(fit.rss, puromycin().rss, rtol=1e-13)
    assert_allclose(fit.curvature().intrinsic, puromycin().curvature().intrinsic, rtol=1e-9)
    assert abs(fit.curvature().parameter_effects / puromycin().curvature().parameter_effects - 1) > 0.05


def test_linear_model_has_no_curvature_and_straight_profiles() -> None:
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(30), rng.normal(size=30)])
    y = X @ [1.0, 2.0] + rng.normal(size=30)
    fit = nonlinear_least_squares(lambda X, y, beta: y - X @ beta, {"beta": [0.0, 0.0]}, {"X": X, "y": y})
    linear = least_squares(X, y)
    assert fit.names == ("beta[0]", "beta[1]")
    assert_allclose(fit.params, linear.params, rtol=1e-13)
    for kind in ("classical", "oim", "opg", "HC0", "HC3", "HC4"):
        assert_allclose(fit.cov(kind), linear.cov(kind), rtol=1e-10, err_msg=kind)
    assert fit.curvature().intrinsic == 0.0 and fit.curvature().parameter_effects == 0.0
    table = fit.profile_t("beta[1]")
    assert_allclose(table["tau"], table["delta"], atol=1e-7)
    half = stdtrit(28, 0.975) * fit.bse()["beta[1]"]
    center = fit.params["beta[1]"]
    assert_allclose(fit.profile_interval("beta[1]"), (center - half, center + half), rtol=1e-9)


def test_profile_interval_of_puromycin() -> None:
    """The ends solve S(value) = S (1 + t^2 / (n - k)) exactly: written out with K profiled by hand."""
    fit = puromycin()
    low, high = fit.profile_interval("K")
    limit = fit.rss * (1 + stdtrit(10, 0.975) ** 2 / 10)
    for K in (low, high):
        column = PUROMYCIN["conc"] / (K + PUROMYCIN["conc"])
        assert_allclose(least_squares(column[:, None], PUROMYCIN["rate"]).rss, limit, rtol=1e-9)
    assert low < fit.params["K"] < high
    assert high - fit.params["K"] > fit.params["K"] - low  # skewed: Wald is symmetric
    tau = fit.profile_t("K", deltas=[-1.0, 0.0, 1.0])["tau"].to_numpy()
    assert tau[0] < tau[1] == 0.0 < tau[2]


@pytest.mark.parametrize("name", ["misra1a", "eckerle4", "gauss1", "mgh10", "lanczos3"])
def test_variable_projection_reaches_the_same_minimum(name: str) -> None:
    linear = {"gauss1": ["b1", "b3", "b6"], "lanczos3": ["b1", "b3", "b5"]}.get(name, ["b1"])
    case, plain = load_case(f"nist_{name}"), certified(name, "start2")
    start = case.raw["start2"] | dict.fromkeys(
        linear, 1e-3
    )  # where the linear ones start makes no difference
    fit = nonlinear_least_squares(nist.model(case, jnp), start, case.data, outcome="y", separable=linear)
    assert nist.digits(fit.params, case.theta) >= 10
    assert_allclose(fit.bse("oim"), plain.bse("oim"), rtol=1e-6)
    assert "variable projection" in fit.record.method


def test_separable_must_be_linear() -> None:
    with pytest.raises(SpecificationError, match="not linear in K"):
        nonlinear_least_squares(michaelis, START, PUROMYCIN, outcome="rate", separable=["K"])
    with pytest.raises(SpecificationError, match="problem is linear"):
        nonlinear_least_squares(michaelis, START, PUROMYCIN, outcome="rate", separable=["K", "Vm"])


@pytest.mark.parametrize(
    ("name", "start"),  # from boxbod's first start full steps diverge: it takes halving
    [
        ("misra1a", "start2"),
        ("danwood", "start2"),
        ("thurber", "start2"),
        ("enso", "start2"),
        ("boxbod", "start1"),
    ],
)
def test_gauss_newton_reaches_the_digits(name: str, start: str) -> None:
    case = load_case(f"nist_{name}")
    fit = nonlinear_least_squares(
        nist.model(case, jnp), case.raw[start], case.data, outcome="y", method="gauss-newton"
    )
    assert nist.digits(fit.params, case.theta) >= 10
    assert fit.record.method == "gauss-newton"


def test_failure_is_recorded_and_has_no_covariance() -> None:
    case = load_case("nist_rat43")
    with pytest.warns(ConvergenceWarning, match="stopped by none: relative offset"):
        fit = nonlinear_least_squares(
            nist.model(case, jnp), case.raw["start1"], case.data, outcome="y", max_evaluations=3
        )
    assert not fit.converged and fit.record.relative_offset > 1e-8
    with pytest.raises(CovarianceError, match="did not converge"):
        fit.cov()
    with pytest.raises(InferenceError, match="converged False"):
        fit.curvature()


def test_numpy_function_gets_differences_and_says_so() -> None:
    case = load_case("nist_misra1a")
    with pytest.warns(NumericDerivativeWarning, match="can not be traced by JAX"):
        fit = nonlinear_least_squares(nist.model(case, np), case.raw["start1"], case.data, outcome="y")
    exact = certified("misra1a", "start1")
    assert exact.exact_derivatives and not fit.exact_derivatives
    assert_allclose(fit.params, exact.params, rtol=1e-10)
    assert_allclose(fit.bse(), exact.bse(), rtol=1e-9)
    assert_allclose(fit.bse("oim"), exact.bse("oim"), rtol=1e-7)
    quiet = nonlinear_least_squares(
        nist.model(case, np), case.raw["start1"], case.data, outcome="y", derivatives="numeric"
    )
    assert_array_equal(quiet.params, fit.params)
    with pytest.raises(SpecificationError, match="can not be traced by JAX"):
        nonlinear_least_squares(
            nist.model(case, np), case.raw["start1"], case.data, outcome="y", derivatives="autodiff"
        )


def test_differences_stay_inside_the_support() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    y = np.array([0.1, 0.6, 1.1, 1.3])
    fit = nonlinear_least_squares(
        lambda x, a, c: a * np.log(x - c),
        {"a": 1.0, "c": 0.9999},
        {"x": x, "y": y},
        outcome="y",
        derivatives="numeric",
    )
    exact = nonlinear_least_squares(
        lambda x, a, c: a * jnp.log(x - c), {"a": 1.0, "c": 0.5}, {"x": x, "y": y}, outcome="y"
    )
    assert_allclose(fit.params, exact.params, rtol=1e-8)


def test_arrays_scalars_and_residuals_by_name() -> None:
    x = np.linspace(0, 2, 25)
    y = 3 * np.exp(-0.7 * x) + 1 + 0.1 * np.sin(9 * x)

    def residuals(y: jax.Array, shape: jax.Array, x: jax.Array, level: jax.Array) -> jax.Array:
        return level + shape[0] * jnp.exp(-shape[1] * x) - y

    fit = nonlinear_least_squares(
        residuals, {"level": 0.5, "shape": [1.0, 1.0]}, {"x": x, "y": y, "unused": ["a"] * 25}
    )
    assert fit.names == ("level", "shape[0]", "shape[1]")
    assert fit.values["shape"].shape == (2,)
    assert_allclose(fit.values["shape"], fit.params.iloc[1:])
    assert_allclose(
        fit.residuals, fit.values["level"] + fit.values["shape"][0] * np.exp(-fit.values["shape"][1] * x) - y
    )


def test_redundant_parameter_is_named() -> None:
    with pytest.raises(IdentificationError, match=r"rank 2 for 3 parameters.*do not change along.*(a|c)"):
        nonlinear_least_squares(
            lambda conc, a, c, K: a * c * conc / (K + conc),
            {"a": 10.0, "c": 20.0, "K": 0.1},
            PUROMYCIN,
            outcome="rate",
        )


def test_perfect_fit_has_no_likelihood() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    fit = nonlinear_least_squares(
        lambda x, a: jnp.exp(a * x), {"a": 0.1}, {"x": x, "y": np.exp(0.5 * x)}, outcome="y"
    )
    assert fit.perfect and fit.converged
    assert_allclose(fit.params, [0.5], rtol=1e-14)
    assert fit.bse()["a"] < 1e-14
    with pytest.raises(CovarianceError, match="fit is perfect"):
        fit.cov("opg")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"params": {}}, SpecificationError, "params is empty"),
        ({"params": {"Vm": 1.0}}, SpecificationError, "needs K: neither a parameter nor a column"),
        ({"params": {**START, "Z": 1.0}}, SpecificationError, "does not take the parameter 'Z'"),
        ({"params": {"Vm": "a", "K": 1.0}}, SpecificationError, "start of 'Vm' is not numeric"),
        ({"params": {**START, "conc": 1.0}}, SpecificationError, "'conc' is both a parameter and a column"),
        ({"outcome": "speed"}, SpecificationError, "needs speed"),
        ({"method": "newton"}, SpecificationError, "Unknown method 'newton'"),
        ({"derivatives": "complex"}, SpecificationError, "Unknown derivatives 'complex'"),
        ({"data": {**PUROMYCIN, "conc": np.full(12, np.nan)}}, DataError, "'conc' is missing or infinite"),
        ({"data": {**PUROMYCIN, "conc": ["x"] * 12}}, DataError, "'conc' is not numeric"),
        (
            {"params": {"Vm": 1.0, "K": -0.02}},
            EvaluationError,
            r"not finite at the start in row\(s\) 0, 1, at Vm=1",
        ),
    ],
)
def test_refusals(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"params": START, "data": PUROMYCIN, "outcome": "rate"} | change
    with pytest.raises(error, match=message):
        nonlinear_least_squares(michaelis, **arguments)  # type: ignore[arg-type]


def test_shape_of_the_residuals_and_derivatives_that_are_not_finite() -> None:
    with pytest.raises(EvaluationError, match=r"returned shape \(\)"):
        nonlinear_least_squares(lambda conc, K: jnp.sum(K * conc), {"K": 1.0}, PUROMYCIN)
    with pytest.raises(EvaluationError, match=r"derivative of the residuals in K is not finite in row\(s\)"):
        nonlinear_least_squares(lambda conc, K: jnp.sqrt(K) * conc - 1, {"K": 0.0}, PUROMYCIN)


def test_unknown_names_are_refused() -> None:
    fit = puromycin()
    with pytest.raises(SpecificationError, match="No parameter 'k'"):
        fit.profile_t("k")
    with pytest.raises(SpecificationError, match="Unknown bread"):
        fit.cov("HC0", bread="expected")  # type: ignore[arg-type]
