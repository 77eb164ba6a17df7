"""Linear least squares: certified digits, the identities of the quadratic form, covariances, refusals."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose, assert_array_equal

import mlecov as ml
from mlecov.autodiff import x64
from mlecov.errors import CovarianceError, DataError, IdentificationError, SpecificationError
from mlecov.least_squares import least_squares
from mlecov.least_squares.compensated import cross, residual
from tests import nist
from tests.cases import load_case

# estimates, standard errors, residual standard deviation; what rounding the powers of x to double
# leaves of Filip is 7.6: the certified solution belongs to the exact powers
CERTIFIED = {
    "filip": (7.4, 7.4, 9.4),
    "longley": (14, 14, 14),
    "noint1": (14, 14, 14),
    "norris": (13, 13, 13),
    "pontius": (13, 13, 13),
    "wampler1": (14.9, 14.9, 14.9),
    "wampler2": (12.9, 14.9, 14.9),
    "wampler3": (14.5, 13, 14),
    "wampler5": (14.5, 13, 14),
}


@pytest.fixture
def sample() -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(20)
    A = pd.DataFrame({"const": 1.0, "x": rng.normal(size=40), "z": rng.uniform(1, 900, size=40)})
    b = pd.Series(1 + A["x"] - 0.01 * A["z"] + A["x"].abs() * rng.normal(size=40))
    return A, b


def test_the_thresholds_cover_every_linear_problem() -> None:
    assert sorted(CERTIFIED) == nist.problems(linear=True)


@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_digits(name: str) -> None:
    case = load_case(f"nist_{name}")
    fit = nist.ours_linear(case)
    assert fit.s2 is not None
    got = nist.score(case, fit.params, fit.bse(), float(np.sqrt(fit.s2)))
    assert all(digits >= least for digits, least in zip(got, CERTIFIED[name], strict=True)), got


@pytest.mark.skipif(not nist.WIDE, reason="longdouble is float64 on this machine")
def test_filip_with_powers_in_extended_precision() -> None:
    case = load_case("nist_filip")
    fit = nist.ours_linear(case, np.longdouble)
    assert fit.s2 is not None
    assert min(nist.score(case, fit.params, fit.bse(), float(np.sqrt(fit.s2)))) >= 10.5
    # computed in 60-digit arithmetic and kept with the case
    hc0 = case.raw["std_errors_computed"]["sandwich_hc0_60digit_arithmetic"]
    assert nist.digits(fit.bse("HC0"), hc0.values()) >= 10.5


def test_solution_is_the_exact_one_of_the_numbers_given() -> None:
    rng = np.random.default_rng(5)
    t = rng.uniform(0, 1, 15)
    A, b = np.vander(t, 7), rng.normal(size=15)
    exact = _rational_solution(A, b)
    fit = least_squares(A, b)
    assert fit.condition_scaled > 1e4
    assert_allclose(fit.params, exact, rtol=4e-16)
    assert 1 <= fit.refinements <= 3 and fit.last_correction < 1e-9


def _dot(a: nist.Array, b: nist.Array) -> Fraction:
    products = (Fraction(p) * Fraction(q) for p, q in zip(a.tolist(), b.tolist(), strict=True))
    return sum(products, Fraction(0))


def _rational_solution(A: nist.Array, b: nist.Array) -> list[float]:
    """Solve the normal equations in rational arithmetic by Gauss-Jordan elimination."""
    k = A.shape[1]
    M = [[_dot(A[:, i], column) for column in (*A.T, b)] for i in range(k)]
    for i in range(k):
        M[i] = [value / M[i][i] for value in M[i]]
        for other in set(range(k)) - {i}:
            M[other] = [v - M[other][i] * p for v, p in zip(M[other], M[i], strict=True)]
    return [float(row[k]) for row in M]


def test_compensated_products_equal_rational_arithmetic() -> None:
    rng = np.random.default_rng(6)
    A, x, b = rng.normal(size=(33, 4)), rng.normal(size=4), rng.normal(size=33)
    zero_A, zero_x, zero_b = np.zeros_like(A), np.zeros_like(x), np.zeros_like(b)
    high, low = residual((A, zero_A), (x, zero_x), (b, zero_b))
    for i in range(33):
        exact = Fraction(b[i]) - _dot(A[i], x)
        assert abs(Fraction(high[i]) + Fraction(low[i]) - exact) <= Fraction(1, 10**28)
    high, low = cross((A, zero_A), (b, zero_b))
    for j in range(4):
        exact = _dot(A[:, j], b)
        assert abs(Fraction(high[j]) + Fraction(low[j]) - exact) <= Fraction(1, 10**28)


def test_gradient_and_hessian_are_those_of_autodiff(sample: tuple[pd.DataFrame, pd.Series]) -> None:
    A, b = sample
    fit = least_squares(A, b)
    with x64():
        matrix, outcome = jnp.asarray(A.to_numpy()), jnp.asarray(b.to_numpy())
        square = lambda x: jnp.sum((matrix @ x - outcome) ** 2)  # noqa: E731
        hessian = np.array(jax.hessian(square)(jnp.zeros(3)))
        gradient = np.array(jax.grad(square)(jnp.asarray(fit.params.to_numpy())))
    assert_allclose(fit.hessian, hessian, rtol=1e-14)
    assert_allclose(fit.hessian, 2 * A.T @ A, rtol=1e-14)
    size = np.linalg.norm(A, axis=0) * np.linalg.norm(b)
    assert np.abs(gradient / size).max() < 1e-14
    assert np.abs(fit.gradient / size).max() < 1e-30  # at the solution before it is rounded to float64
    assert fit.definiteness == "positive definite"
    assert np.linalg.eigvalsh(fit.hessian)[0] > 0


def test_conditioning_says_what_the_normal_equations_lose() -> None:
    longley = nist.ours_linear(load_case("nist_longley"))
    X = nist.design(load_case("nist_longley"))
    assert_allclose(longley.condition, np.linalg.cond(X), rtol=1e-6)
    assert_allclose(longley.condition_normal, longley.condition**2, rtol=1e-14)
    assert_allclose(longley.condition_scaled, np.linalg.cond(X / np.linalg.norm(X, axis=0)), rtol=1e-8)
    assert_allclose(longley.digits_lost_normal, 2 * np.log10(longley.condition_scaled), rtol=1e-12)
    normal = np.linalg.solve(X.T @ X, X.T @ nist.outcome(load_case("nist_longley")))
    assert (
        nist.digits(normal, longley.params) < 9 < nist.digits(longley.params, load_case("nist_longley").theta)
    )
    assert nist.ours_linear(load_case("nist_filip")).digits_lost_normal == pytest.approx(15.95, abs=0.01)


def test_covariances_written_out_naively(sample: tuple[pd.DataFrame, pd.Series]) -> None:
    A, b = sample
    fit = least_squares(A, b)
    X, u = A.to_numpy(), fit.residuals
    n, k = X.shape
    bread = np.linalg.inv(X.T @ X)
    h = np.diag(X @ bread @ X.T)
    assert_allclose(fit.leverages, h, rtol=1e-11)
    assert_allclose(fit.cov(), bread * (u @ u) / (n - k), rtol=1e-11)
    assert_allclose(fit.cov("oim"), bread * (u @ u) / n, rtol=1e-11)
    factors = {
        "HC0": np.ones(n),
        "HC1": np.full(n, n / (n - k)),
        "HC2": 1 / (1 - h),
        "HC3": 1 / (1 - h) ** 2,
        "HC4": (1 - h) ** -np.minimum(4, n * h / k),
    }
    for kind, factor in factors.items():
        meat = sum(factor[i] * u[i] ** 2 * np.outer(X[i], X[i]) for i in range(n))
        assert_allclose(fit.cov(kind), bread @ meat @ bread, rtol=1e-10, err_msg=kind)
    assert_array_equal(fit.cov("robust"), fit.cov("HC0"))
    assert list(fit.cov().index) == ["const", "x", "z"]


def test_robust_covariances_equal_statsmodels(sample: tuple[pd.DataFrame, pd.Series]) -> None:
    A, b = sample
    w = np.linspace(0.5, 2, len(b))
    for fit, peer in (
        (least_squares(A, b), sm.OLS(b, A)),
        (least_squares(A, b, weights=w), sm.WLS(b, A, weights=w)),
    ):
        result = peer.fit()
        assert_allclose(fit.params, result.params, rtol=1e-12)
        assert_allclose(fit.bse(), result.bse, rtol=1e-11)
        assert_allclose(fit.rss, result.ssr, rtol=1e-12)
        assert_allclose(fit.residuals, result.resid, rtol=1e-9, atol=1e-12)
        for kind in ("HC0", "HC1", "HC2", "HC3"):
            assert_allclose(fit.bse(kind), getattr(result, f"{kind}_se"), rtol=1e-11, err_msg=kind)


def test_information_and_opg_are_those_of_the_gaussian_likelihood(
    sample: tuple[pd.DataFrame, pd.Series],
) -> None:
    A, b = sample
    fit = least_squares(A, b)

    def loglike(theta: jax.Array, X: jax.Array, y: jax.Array) -> jax.Array:
        return -jnp.log(theta[-1]) - 0.5 * jnp.log(2 * jnp.pi) - 0.5 * ((y - X @ theta[:-1]) / theta[-1]) ** 2

    with x64():
        X, y = jnp.asarray(A.to_numpy()), jnp.asarray(b.to_numpy())
        theta = jnp.asarray([*fit.params, np.sqrt(fit.sigma2)])
        hessian = np.array(jax.hessian(lambda t: loglike(t, X, y).sum())(theta))
        S = np.array(jax.jacfwd(loglike)(theta, X, y))
    atol = 1e-12 * float(np.abs(hessian).max())
    assert_allclose(fit.information(), -hessian, rtol=1e-10, atol=atol)
    assert_allclose(fit.information("opg"), S.T @ S, rtol=1e-9, atol=1e-12 * float(np.abs(S.T @ S).max()))
    assert_allclose(fit.cov("opg"), np.linalg.inv(S.T @ S)[:3, :3], rtol=1e-8)
    assert_allclose(fit.cov("oim"), np.linalg.inv(-hessian)[:3, :3], rtol=1e-9)
    assert_allclose(2 * fit.sigma2 * fit.information().iloc[:3, :3], fit.hessian, rtol=1e-14)


def test_weights_are_repeated_rows_in_the_estimates(sample: tuple[pd.DataFrame, pd.Series]) -> None:
    A, b = sample
    w = np.arange(40) % 3 + 1
    weighted = least_squares(A, b, weights=w)
    repeated = least_squares(A.loc[A.index.repeat(w)], b.loc[b.index.repeat(w)])
    assert_allclose(weighted.params, repeated.params, rtol=1e-13)
    assert_allclose(weighted.rss, repeated.rss, rtol=1e-13)
    assert_allclose(weighted.hessian, repeated.hessian, rtol=1e-13)


def test_svd_of_full_rank_equals_qr() -> None:
    for name in ("longley", "filip"):
        case = load_case(f"nist_{name}")
        X, y = nist.design(case), nist.outcome(case)
        qr, svd = least_squares(X, y), least_squares(X, y, method="svd")
        assert_allclose(svd.params, qr.params, rtol=1e-14)
        assert_allclose(svd.cov("HC0"), qr.cov("HC0"), rtol=1e-9)
        assert not svd.minimum_norm


def test_deficient_rank_is_refused_by_name(sample: tuple[pd.DataFrame, pd.Series]) -> None:
    A, b = sample
    A = A.assign(half=A["x"] / 2 - 3 * A["const"])
    with pytest.raises(IdentificationError, match=r"rank 3: .*const.*x.*half = 0.*method='svd'"):
        least_squares(A, b)
    fit = least_squares(A, b, method="svd")
    assert fit.minimum_norm and fit.rank == 3 and fit.definiteness == "positive semidefinite"
    assert fit.condition == np.inf and fit.df_resid == 37
    assert_allclose(fit.params, np.linalg.pinv(A.to_numpy()) @ b, rtol=1e-9)
    assert np.abs(A.to_numpy() @ fit.null_directions.to_numpy()).max() < 1e-12
    with pytest.raises(CovarianceError, match=r"not identified along .*half"):
        fit.cov()


def test_rank_is_decided_at_rounding_and_not_before() -> None:
    rng = np.random.default_rng(11)
    x, noise, b = rng.normal(size=(3, 50))
    near = least_squares(np.column_stack([x, 1e6 * (x + 1e-11 * noise)]), b)
    assert near.rank == 2 and 1e10 < near.condition_scaled < 1e13
    with pytest.raises(IdentificationError, match=r"= 0"):
        least_squares(np.column_stack([x, 1e6 * (x + 1e-15 * noise)]), b)


def test_zero_column_is_a_null_direction_of_its_own() -> None:
    with pytest.raises(IdentificationError, match=r"rank 1: b = 0"):
        least_squares(pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": 0.0}), [1.0, 2.0, 4.0])


def test_perfect_fit_has_zero_errors_and_no_likelihood() -> None:
    fit = nist.ours_linear(load_case("nist_wampler1"))
    assert fit.perfect and fit.rss < 1e-30
    assert_allclose(fit.bse(), np.zeros(6), atol=1e-15)
    assert_allclose(fit.bse("HC3"), np.zeros(6), atol=1e-15)
    with pytest.raises(CovarianceError, match="fit is perfect"):
        fit.information()
    with pytest.raises(CovarianceError, match="fit is perfect"):
        fit.cov("opg")
    assert nist.ours_linear(load_case("nist_wampler2")).perfect
    assert not nist.ours_linear(load_case("nist_wampler3")).perfect


def test_row_fitted_exactly_is_refused_where_its_leverage_divides() -> None:
    A = np.column_stack([np.ones(6), np.arange(6.0), np.eye(6)[2]])
    fit = least_squares(A, [1.0, 3.0, 2.0, 5.0, 4.0, 4.5])
    fit.cov("HC1")
    for kind in ("HC2", "HC3", "HC4"):
        with pytest.raises(CovarianceError, match=r"row\(s\) 2 have leverage 1"):
            fit.cov(kind)


def test_no_degrees_of_freedom() -> None:
    fit = least_squares([[1.0, 1.0], [1.0, 2.0]], [1.0, 3.0])
    assert fit.s2 is None and fit.df_resid == 0
    for kind in ("classical", "HC1"):
        with pytest.raises(CovarianceError, match="no degree of freedom"):
            fit.cov(kind)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0], [np.nan]], [1.0, 2.0]), DataError, r"A is missing or infinite in row\(s\) 1"),
        (([[1.0], [2.0]], [1.0, np.inf]), DataError, r"b is missing or infinite in row\(s\) 1"),
        (([1.0, 2.0], [1.0, 2.0]), DataError, r"A has shape \(2,\)"),
        (([[1.0], [2.0]], [1.0, 2.0, 3.0]), DataError, r"b \(3,\)"),
        (([["a"], ["b"]], [1.0, 2.0]), DataError, "A is not numeric"),
        (([[1.0], [2.0]], [1.0, 2.0], [1.0, 0.0]), DataError, r"weights are not positive in row\(s\) 1"),
        (([[1.0], [2.0]], [1.0, 2.0], [1.0]), DataError, r"Expected \(2,\)"),
        (([[1.0], [2.0]], [1.0, 2.0], None, "pinv"), SpecificationError, "Unknown method 'pinv'"),
        (([[1.0], [2.0]], [1.0, 2.0], None, "qr", ["a", "b"]), SpecificationError, "1 columns; got 2"),
    ],
)
def test_refusals(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        least_squares(*arguments)  # type: ignore[arg-type]


def test_frames_out_of_step_are_refused(sample: tuple[pd.DataFrame, pd.Series]) -> None:
    A, b = sample
    with pytest.raises(DataError, match="different index labels"):
        least_squares(A, b.iloc[::-1])


def test_unknown_covariance_lists_the_known(sample: tuple[pd.DataFrame, pd.Series]) -> None:
    with pytest.raises(CovarianceError, match=r"Unknown covariance 'HC9'.*classical.*HC4"):
        least_squares(*sample).cov("HC9")


def test_arguments_are_not_mutated(sample: tuple[pd.DataFrame, pd.Series]) -> None:
    A, b = sample
    before = A.copy(), b.copy()
    least_squares(A, b, weights=np.full(40, 2.0)).cov("HC3")
    pd.testing.assert_frame_equal(A, before[0])
    pd.testing.assert_series_equal(b, before[1])


@pytest.mark.parametrize("weighted", [False, True])
def test_as_a_likelihood_the_numbers_are_the_gaussian_models(weighted: bool) -> None:
    """2A'A / (2 sigma^2) is the information; oim, opg, White and HC1-3 agree with the likelihood's."""
    rng = np.random.default_rng(8)
    A = np.column_stack([np.ones(40), rng.standard_normal((40, 2))])
    b = A @ [1.0, 2.0, -1.0] + rng.standard_normal(40) * (1 + np.abs(A[:, 1]))
    line = ml.least_squares(A, b, weights=rng.random(40) + 0.5 if weighted else None)
    fit = ml.fit(line.likelihood())
    np.testing.assert_allclose(fit.params.iloc[:3], line.params, rtol=1e-10)
    assert fit.params["sigma"] ** 2 == pytest.approx(line.sigma2, rel=1e-10)
    np.testing.assert_allclose(fit.information[:3, :3], line.hessian / (2 * line.sigma2), rtol=1e-9)
    for ours, theirs in (("oim", "oim"), ("opg", "opg"), ("robust", "HC0"), ("HC2", "HC2"), ("HC3", "HC3")):
        np.testing.assert_allclose(
            fit.cov(ours).user[:3, :3], line.cov(theirs), rtol=1e-7, atol=1e-12, err_msg=ours
        )
