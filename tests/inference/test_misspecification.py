"""Information-matrix tests, Vuong, Clarke, Hausman, Chandler-Bate, criteria: each against a computation "
"written out."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mlecov as ml
from mlecov.errors import InferenceError
from mlecov.inference.quadratic import weighted_chi2_sf
from tests.cases import load_case


def counts(n: int = 300, seed: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, z = rng.standard_normal((2, n))
    g = rng.integers(0, 40, n)
    return pd.DataFrame({"y": rng.poisson(np.exp(0.4 + 0.5 * x)).astype(float), "x": x, "z": z, "g": g})


def poisson_jax(y: Any, mu: Any) -> Any:
    return y * mu - jnp.exp(mu)


# --- information matrix --------------------------------------------------------------------------


def test_iris_decomposition() -> None:
    """CRAN infotest's README prints 16.38 (16.3799), 0.15, 0.49, total 17.02 with df 5, 2, 1, 8."""
    case = load_case("imtest_iris")
    found = ml.fit(
        ml.models.gaussian("sepal_length ~ sepal_width + petal_length", case.data)
    ).cameron_trivedi()
    for name, value in case.raw["tests_computed"].items():
        assert found.statistics[name] == pytest.approx(value, rel=1e-10), name
    assert [f"{p:.4f}" for p in found.pvalues.values()] == ["0.0058", "0.9273", "0.4834", "0.0299"]
    assert list(found.df.values()) == [5, 2, 1, 8]
    assert "heteroskedasticity" in str(found)


def written_out(data: pd.DataFrame, theta: Any, form: str) -> float:
    """Poisson by hand: d = (e^2 - m) x x', third derivatives -m x x x."""
    X = np.column_stack([np.ones(len(data)), data["x"], data["z"]])
    m = np.exp(X @ theta)
    e = data["y"].to_numpy() - m
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    products = np.column_stack([X[:, i] * X[:, j] for i, j in pairs])
    d = (e**2 - m)[:, None] * products
    s = e[:, None] * X
    if form == "opg":
        regressors = np.column_stack([s, d])
        fitted = regressors @ np.linalg.lstsq(regressors, np.ones(len(X)), rcond=None)[0]
        return float(fitted @ fitted)
    G = products.T @ ((-2 * e * m - m)[:, None] * X)
    M = d + s @ np.linalg.solve(X.T @ (m[:, None] * X), G.T)
    return float(d.sum(axis=0) @ np.linalg.solve(M.T @ M, d.sum(axis=0)))


@pytest.mark.parametrize("form", ["white", "opg"])
def test_poisson_written_out(form: str) -> None:
    data = counts()
    fit = ml.fit(ml.models.poisson("y ~ x + z", data))
    found = fit.information_matrix_test(form, "all", bootstrap=False)
    assert found.df == 6
    assert found.statistic == pytest.approx(written_out(data, fit.theta, form), rel=1e-8)
    assert found.pvalue == pytest.approx(stats.chi2.sf(found.statistic, 6), rel=1e-12)


@pytest.mark.parametrize("separable", [None, False])
@pytest.mark.parametrize("form", ["white", "opg"])
def test_every_engine_agrees(form: str, separable: bool | None) -> None:
    data = counts()
    ready = ml.fit(ml.models.poisson("y ~ x", data)).information_matrix_test(form, "all", bootstrap=False)
    own = ml.fit(ml.likelihood(poisson_jax, data, {"mu": ml.linear("x")}, separable=separable))
    assert own.information_matrix_test(form, "all", bootstrap=False).statistic == pytest.approx(
        ready.statistic, rel=1e-7
    )


def test_dependent_indicators_are_dropped_by_rank() -> None:
    """The square of a dummy is the dummy, the constant's indicator of a Gaussian is sigma's score."""
    data = counts()
    data["d"] = (data["z"] > 0).astype(float)
    fit = ml.fit(ml.models.poisson("y ~ d", data))
    found = fit.information_matrix_test("opg", "all", bootstrap=False)
    assert (len(found.labels), found.df) == (3, 2)
    normal = ml.fit(ml.models.gaussian("y ~ x", data))
    for form in ("white", "opg"):
        found = normal.information_matrix_test(form, ["mu[Intercept]", "mu[x]"], bootstrap=False)
        assert found.df == 1 and list(found.kept) == [1] and np.isnan(found.std_errors[0])
    with pytest.raises(InferenceError, match="combination of the scores"):
        normal.information_matrix_test("opg", ["mu[Intercept]"], bootstrap=False)


def test_frequency_two_is_the_row_twice() -> None:
    data = counts()
    weighted = ml.fit(ml.models.poisson("y ~ x", data.assign(w=2), frequency_weights="w"))
    doubled = ml.fit(ml.models.poisson("y ~ x", pd.concat([data, data], ignore_index=True)))
    for form in ("white", "opg"):
        a, b = (
            f.information_matrix_test(form, "all", bootstrap=False).statistic for f in (weighted, doubled)
        )
        assert a == pytest.approx(b, rel=1e-9)
    assert weighted.information_ratio_test(bootstrap=False).statistic == pytest.approx(
        doubled.information_ratio_test(bootstrap=False).statistic, rel=1e-9
    )


def test_indicators_by_name_and_the_limit() -> None:
    fit = ml.fit(ml.models.gaussian("y ~ x + z", counts()))
    named = fit.information_matrix_test("opg", [("mu[x]", "mu[z]"), "sigma"], bootstrap=False)
    assert named.labels == ("mu[x], mu[z]", "log(sigma)")
    rng = np.random.default_rng(0)
    wide = ml.fit(ml.models.gaussian(rng.standard_normal(900), rng.standard_normal((900, 32))))
    with pytest.raises(InferenceError, match="561 indicators; at most 500"):
        wide.information_matrix_test("opg", "all")
    assert wide.information_ratio_test(bootstrap=False).df == 1


def test_small_samples_are_bootstrapped_and_large_ones_are_not() -> None:
    small = ml.fit(ml.models.poisson("y ~ x", counts(60)))
    found = small.information_matrix_test("opg", replications=39, seed=3)
    assert found.bootstrap is not None and found.pvalue == found.bootstrap.pvalue != found.p_asymptotic
    extreme = (found.bootstrap.draws >= found.statistic).sum()
    assert found.pvalue == (1 + extreme) / 40
    again = small.information_matrix_test("opg", replications=39, seed=3)
    assert again.pvalue == found.pvalue
    large = ml.fit(ml.models.poisson("y ~ x", counts(2000))).information_matrix_test("opg")
    assert large.bootstrap is None and large.pvalue == large.p_asymptotic


def test_without_simulation_the_result_says_what_it_is_worth() -> None:
    data = counts()
    own = ml.fit(ml.likelihood(poisson_jax, data, {"mu": ml.linear("x")}))
    found = own.information_matrix_test("opg")
    assert found.bootstrap is None and "do not rest a conclusion on it" in str(found)
    with pytest.raises(InferenceError, match="simulate=function"):
        own.information_matrix_test("opg", bootstrap=True)


def test_a_wrong_model_is_found() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal(500)
    y = rng.negative_binomial(1.0, 1 / (1 + np.exp(0.5 + 0.3 * x))).astype(float)
    fit = ml.fit(ml.models.poisson("y ~ x", {"y": y, "x": x}))
    assert fit.information_matrix_test("opg", replications=39).pvalue == 1 / 40
    assert fit.information_ratio_test(replications=39).pvalue == 1 / 40


def test_information_ratio_of_an_exponential() -> None:
    """S'S / I = var(y) / mean(y)^2; the indicator z^2 - z - 1 (z = y / mean) less its score part is z^2 - "
    "3z + 1."""
    y = np.random.default_rng(2).exponential(3.0, 400)
    fit = ml.fit(ml.models.exponential(y, np.ones((400, 1))))
    found = fit.information_ratio_test(bootstrap=False)
    z = y / y.mean()
    assert found.ratio == pytest.approx(y.var() / y.mean() ** 2, rel=1e-12)
    m = (z - 1) ** 2 - z - (2 * (z * z).mean() - 3) * (z - 1)
    # slope of sum((z-1)^2 - z) in the log mean is sum(-2 z (z - 1) + z) = -n (2 mean(z^2) - 3)
    assert found.statistic == pytest.approx(m.sum() ** 2 / (m @ m), rel=1e-8)


def test_refusals() -> None:
    data = counts()
    fit = ml.fit(ml.models.poisson("y ~ x", data.assign(w=1.5), probability_weights="w"))
    for call in (fit.information_matrix_test, fit.information_ratio_test):
        with pytest.raises(InferenceError, match="probability weights"):
            call()
    plain = ml.fit(ml.models.poisson("y ~ x", data))
    with pytest.raises(InferenceError, match="form='lancaster' is not known; expected one of white, opg"):
        plain.information_matrix_test("lancaster")
    with pytest.raises(InferenceError, match=r"names no free parameter.*Known: mu"):
        plain.information_matrix_test("opg", ["mu[q]"])
    with pytest.raises(InferenceError, match="indicators='some' is not known"):
        plain.information_matrix_test("opg", "some")
    with pytest.raises(InferenceError, match=r"models.gaussian"):
        plain.cameron_trivedi()
    with pytest.raises(InferenceError, match="at least 19"):
        plain.information_matrix_test("opg", replications=5)


@pytest.mark.slow
def test_size_of_the_outer_product_form_and_its_cure() -> None:
    """5 % nominal: the OPG form rejects a right probit at n = 100 far too often; its bootstrap does not."""
    rng = np.random.default_rng(11)
    asymptotic, cured, total = 0, 0, 300
    for _ in range(total):
        x = rng.standard_normal((100, 2))
        y = (x @ [0.5, -0.5] + 0.2 + rng.standard_normal(100) > 0).astype(float)
        fit = ml.fit(ml.models.probit(y, np.column_stack([np.ones(100), x])))
        found = fit.information_matrix_test("opg", "all", replications=99, seed=int(rng.integers(1 << 30)))
        asymptotic += found.p_asymptotic < 0.05
        cured += found.pvalue <= 0.05
    assert asymptotic / total > 0.15
    assert abs(cured / total - 0.05) < 3 * np.sqrt(0.05 * 0.95 / total)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["white", "opg"])
def test_size_at_large_n(form: str) -> None:
    rng = np.random.default_rng(12)
    rejected, total = 0, 400
    for _ in range(total):
        y = rng.poisson(2.0, 20_000).astype(float)
        fit = ml.fit(ml.models.poisson(y, np.ones((20_000, 1))))
        rejected += fit.information_matrix_test(form).pvalue < 0.05
    assert abs(rejected / total - 0.05) < 3 * np.sqrt(0.05 * 0.95 / total)


# --- Vuong and Clarke ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case_name", "test", "inflated", "plain"),
    [
        ("biochem_zip", "vuong_vs_poisson", "zero_inflated_poisson", "poisson"),
        ("biochem_zinb", "vuong_vs_nb", "zero_inflated_nb2", "nb2"),
    ],
)
def test_vuong_of_the_biochemists(case_name: str, test: str, inflated: str, plain: str) -> None:
    """pscl 1.5.5 (its zero-inflated estimates hold to 3 digits, which moves z by about 1e-5)."""
    case = load_case(case_name)
    right = "fem + mar + kid5 + phd + ment"
    first = ml.fit(getattr(ml.models, inflated)(f"art ~ {right}", case.data, inflate=right))
    second = ml.fit(getattr(ml.models, plain)(f"art ~ {right}", case.data))
    published = case.raw["tests"][test]
    raw = ml.vuong(first, second, relation="non-nested")
    assert raw.statistic == pytest.approx(published["raw"], abs=2e-5)
    own = ml.vuong(first, second, relation="non-nested", ddof=0)
    assert own.statistic == pytest.approx(published["full"]["raw_n"], abs=2e-5)
    if plain == "poisson":  # pscl counts no parameter of dispersion, so its corrections of the other differ
        for correction in ("aic", "bic"):
            found = ml.vuong(first, second, relation="non-nested", correction=correction)
            assert found.statistic == pytest.approx(published[f"{correction}_corrected"], abs=2e-5)
    assert ml.vuong(second, first, relation="non-nested").statistic == pytest.approx(
        -raw.statistic, rel=1e-12
    )
    assert "first model" in raw.verdict


def test_vuong_written_out_and_indistinguishable_models() -> None:
    data = counts()
    first = ml.fit(ml.models.poisson("y ~ x", data))
    other = ml.fit(ml.models.poisson("y ~ z", data))
    m = first.optimum.evaluation.loglike_obs - other.optimum.evaluation.loglike_obs
    found = ml.vuong(first, other)
    assert found.statistic == pytest.approx(np.sqrt(300) * m.mean() / m.std(ddof=1), rel=1e-12)
    assert "first model" in found.verdict and found.details["p_variance"] < 1e-6
    rng = np.random.default_rng(4)
    noise = data.assign(a=rng.standard_normal(300), b=rng.standard_normal(300))
    a, b = (ml.fit(ml.models.poisson(f"y ~ x + {name}", noise)) for name in "ab")
    assert "can not be told apart" in ml.vuong(a, b).verdict


def test_vuong_nested_is_the_likelihood_ratio_where_the_model_is_right() -> None:
    data = counts(20_000, seed=9)
    small, large = (ml.fit(ml.models.poisson(f, data)) for f in ("y ~ x", "y ~ x + z"))
    found = ml.vuong(small, large, relation="nested")
    assert found.statistic == pytest.approx(2 * (large.llf - small.llf), abs=1e-9)
    big = np.sort(found.details["eigenvalues"])[::-1]
    assert big[0] == pytest.approx(1.0, abs=0.05) and np.abs(big[1:]).max() < 0.05
    assert found.pvalue == pytest.approx(stats.chi2.sf(found.statistic, 1), abs=0.02)


def test_weighted_chi2_in_closed_form() -> None:
    """Pairs of equal weights are exponentials: their sum and difference have closed tails."""
    for x in (0.01, 0.5, 3.0, 20.0):
        a, b = 2.0, 0.7
        total = (a * np.exp(-x / (2 * a)) - b * np.exp(-x / (2 * b))) / (a - b)
        assert weighted_chi2_sf(x, np.array([a, a, b, b])) == pytest.approx(total, abs=1e-9)
        assert weighted_chi2_sf(x, np.array([a, a, -b, -b])) == pytest.approx(
            a / (a + b) * np.exp(-x / (2 * a)), abs=1e-9
        )
        assert weighted_chi2_sf(-x, np.array([a, a, -b, -b])) == pytest.approx(
            1 - b / (a + b) * np.exp(-x / (2 * b)), abs=1e-9
        )
        assert weighted_chi2_sf(x, np.array([0.3, 0.0])) == pytest.approx(
            stats.chi2.sf(x / 0.3, 1), abs=1e-12
        )
        # two unlike weights: E over the first of the tail of the second
        z = np.linspace(0, 12, 400_001)
        inner = np.where(x > a * z**2, stats.chi2.sf(np.maximum(x - a * z**2, 0) / b, 1), 1.0)
        direct = 2 * np.trapezoid(stats.norm.pdf(z) * inner, z)
        assert weighted_chi2_sf(x, np.array([a, b])) == pytest.approx(direct, abs=2e-5)


def test_clarke_is_a_sign_test() -> None:
    data = counts()
    first, other = (ml.fit(ml.models.poisson(f, data)) for f in ("y ~ x", "y ~ z + x"))
    for correction, penalty in (("none", 0.0), ("aic", -1.0), ("bic", -0.5 * np.log(300))):
        m = first.optimum.evaluation.loglike_obs - other.optimum.evaluation.loglike_obs - penalty / 300
        found = ml.clarke(first, other, correction=correction)
        expected = stats.binomtest(int((m > 0).sum()), 300).pvalue
        assert found.statistic == (m > 0).sum()
        assert found.pvalue == pytest.approx(expected, rel=1e-10)


def test_comparisons_refuse_what_can_not_be_compared() -> None:
    data = counts()
    fit = ml.fit(ml.models.poisson("y ~ x", data))
    with pytest.raises(InferenceError, match="300 and 200 terms"):
        ml.vuong(fit, ml.fit(ml.models.poisson("y ~ x", data[:200])))
    with pytest.raises(InferenceError, match="outcomes of the two fits differ"):
        ml.vuong(fit, ml.fit(ml.models.gaussian("np.log(y + 1) ~ x", data)))
    with pytest.raises(InferenceError, match="same log-likelihood in every term"):
        ml.vuong(fit, ml.fit(ml.models.poisson("y ~ x", data)))
    with pytest.raises(InferenceError, match="relation='strict'"):
        ml.vuong(fit, fit, relation="strict")
    with pytest.raises(InferenceError, match="correction='hq'"):
        ml.clarke(fit, ml.fit(ml.models.poisson("y ~ z", data)), correction="hq")
    with pytest.raises(InferenceError, match="both models have 2 parameters"):
        ml.vuong(fit, ml.fit(ml.models.poisson("y ~ z", data)), relation="nested")


# --- Hausman, Chandler-Bate, criteria --------------------------------------------------------------


def durations() -> pd.DataFrame:
    rng = np.random.default_rng(21)
    x = rng.standard_normal(400)
    return pd.DataFrame({"t": rng.exponential(np.exp(1 + 0.5 * x)), "x": x, "g": rng.integers(0, 50, 400)})


def test_hausman_written_out() -> None:
    """Exponential (efficient) against a Gaussian quasi-likelihood of the same mean (consistent)."""
    data = durations()
    efficient = ml.fit(ml.models.exponential("t ~ x", data))
    consistent = ml.fit(
        ml.likelihood(
            lambda t, mu, sigma: -jnp.log(sigma) - 0.5 * ((t - jnp.exp(mu)) / sigma) ** 2,
            data,
            {"mu": ml.linear("x"), "sigma": ml.positive(3.0)},
        ),
        start={"mu": np.array([1.0, 0.5]), "sigma": 3.0},
    )
    psi = [f.score_obs().to_numpy() @ np.linalg.inv(f.information) for f in (consistent, efficient)]
    gap = psi[0][:, :2] - psi[1][:, :2]
    d = consistent.params.to_numpy()[:2] - efficient.params.to_numpy()[:2]
    found = ml.hausman(consistent, efficient, robust=True)
    assert found.df == 2
    assert found.statistic == pytest.approx(d @ np.linalg.solve(gap.T @ gap, d), rel=1e-9)
    sums = pd.DataFrame(gap).groupby(data["g"].to_numpy()).sum().to_numpy()
    clustered = ml.hausman(consistent, efficient, groups="g")
    assert clustered.statistic == pytest.approx(d @ np.linalg.solve(sums.T @ sums, d), rel=1e-9)
    V = consistent.cov("oim").user[:2, :2] - efficient.cov("oim").user
    if np.linalg.eigvalsh(V)[0] > 0:
        assert ml.hausman(consistent, efficient).statistic == pytest.approx(
            d @ np.linalg.solve(V, d), rel=1e-9
        )
    with pytest.raises(InferenceError, match=r"not positive definite.*robust=True"):
        ml.hausman(efficient, consistent)
    one = ml.hausman(consistent, efficient, names=["mu[x]"], robust=True)
    assert one.statistic == pytest.approx(d[1] ** 2 / (gap[:, 1] @ gap[:, 1]), rel=1e-9)
    with pytest.raises(InferenceError, match="share no parameter names"):
        ml.hausman(ml.fit(ml.models.exponential(data["t"], data[["x"]].to_numpy())), consistent)


@pytest.mark.parametrize("kind", ["spectral", "cholesky", "vertical"])
def test_adjusted_likelihood_ratio(kind: str) -> None:
    """With V = I^-1 it is the likelihood ratio; for a quadratic log-likelihood the Wald test under V."""
    data = counts()
    fit = ml.fit(ml.models.poisson("y ~ x + z", data))
    small = ml.fit(ml.models.poisson("y ~ x", data))
    plain = fit.adjusted_lr_test(["mu[z] = 0"], cov="oim", kind=kind)
    assert plain.statistic == pytest.approx(2 * (fit.llf - small.llf), rel=1e-9)
    quadratic = ml.fit(ml.likelihood(lambda y, mu: -0.5 * (y - mu) ** 2, data, {"mu": ml.linear("x + z")}))
    V = quadratic.cov("robust").user
    b = quadratic.params.to_numpy()
    found = quadratic.adjusted_lr_test(["mu[z] = 0", "mu[x] = 0.4"], cov="robust", kind=kind)
    gap = b[1:] - [0.4, 0.0]
    assert found.df == 2
    assert found.statistic == pytest.approx(gap @ np.linalg.solve(V[1:, 1:], gap), rel=1e-9)
    with pytest.raises(InferenceError, match="needs constraints"):
        fit.adjusted_lr_test(cov="robust")


def test_takeuchi_counts_effective_parameters() -> None:
    fit = ml.fit(ml.models.poisson("y ~ x", counts()))
    s = fit.score_obs().to_numpy()
    effective = np.trace(np.linalg.solve(fit.information, s.T @ s))
    found = fit.information_criteria()
    assert found.tic == pytest.approx(-2 * fit.llf + 2 * effective, rel=1e-12)
    assert (found.aic, found.bic, found.hqic) == pytest.approx((fit.aic, fit.bic, fit.hqic), rel=1e-14)
    assert fit.tic == found.tic and "effective parameters" in str(found)
