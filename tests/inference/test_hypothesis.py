"""Wald, likelihood-ratio and score tests: Greene's example, statsmodels, identities, refusals, size."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from jax.scipy.special import gammaln
from scipy import special, stats
from statsmodels.stats.multitest import multipletests

import mlecov as ml
from mlecov.covariance.covariance import Covariance
from mlecov.covariance.requests import Cluster
from mlecov.errors import CovarianceWarning, InferenceError, SpecificationError
from mlecov.inference.hypothesis import wald
from mlecov.inference.multiple import sidak_critical, sup_t_critical
from tests.cases import load_case

# --- Greene's gamma against exponential ----------------------------------------------------------


def gamma(y, x, beta, rho):
    return -rho * jnp.log(beta + x) - gammaln(rho) - y / (beta + x) + (rho - 1) * jnp.log(y)


def gamma_information(y, x, beta, rho):
    b = 1 / (beta + x)
    trigamma = float(special.polygamma(1, rho))
    return np.array([[np.sum(rho * b**2), np.sum(b)], [np.sum(b), len(y) * trigamma]])


@pytest.fixture(scope="module", params=["real", "positive"])
def greene(request) -> ml.Fit:
    data = load_case("greene_gamma").data
    rho = 1.0 if request.param == "real" else ml.positive(1.0)
    lik = ml.likelihood(
        gamma,
        {"y": data["income"], "x": data["educ"]},
        {"beta": 10.0, "rho": rho},
        information=gamma_information,
    )
    return ml.fit(lik)


@pytest.mark.parametrize(
    ("test", "cov", "key"),
    [
        ("wald", "eim", "Wald_expected"),
        ("wald", "oim", "Wald_hessian"),
        ("wald", "opg", "Wald_opg"),
        ("lr_test", None, "LR"),
        ("score_test", "opg", "LM_opg"),
        ("score_test", "oim", "LM_hessian"),
        ("score_test", "eim", "LM_expected"),
    ],
)
def test_greene_gamma(greene: ml.Fit, test: str, cov: str | None, key: str) -> None:
    """Greene's Wald, LR and three LM values, on either scale of rho (the Hessian form depends on it)."""
    case = load_case("greene_gamma").raw
    found = getattr(greene, test)("rho = 1", **({} if cov is None else {"cov": cov}))
    printed = case["tests"][key]
    digits = len(f"{printed}".partition(".")[2])
    assert round(found.statistic, digits) == printed
    assert found.statistic == pytest.approx(case["tests_computed"][key], rel=3e-8)
    assert found.df == 1
    assert found.pvalue == pytest.approx(stats.chi2.sf(found.statistic, 1), rel=1e-12)


def test_restricted_fit_tests_its_own_constraint(greene: ml.Fit) -> None:
    null = ml.fit(greene.likelihood, fixed={"rho": 1.0})
    assert null.score_test(cov="opg").statistic == pytest.approx(15.686791447208588, rel=3e-8)
    assert ml.lr_test(null, greene).statistic == pytest.approx(11.040428567492171, rel=1e-8)


# --- a small fit with statsmodels beside it ------------------------------------------------------


@pytest.fixture(scope="module")
def logit() -> ml.Fit:
    return ml.fit(ml.models.logit("grade ~ gpa + tuce + psi", ml.load("spector")))


@pytest.fixture(scope="module")
def peer():
    data = ml.load("spector")
    X = sm.add_constant(data[["gpa", "tuce", "psi"]])
    return sm.Logit(data["grade"], X).fit(disp=0, method="newton", tol=1e-13)


def test_wald_agrees_with_statsmodels(logit: ml.Fit, peer) -> None:
    R = np.array([[0, 1.0, 0, -1.0], [0, 0, 1.0, 0]])
    theirs = peer.wald_test((R, np.array([0.5, 0.0])), scalar=True)
    for given in ("mu[gpa] - mu[psi] = 0.5, mu[tuce] = 0", (R, [0.5, 0.0])):
        ours = logit.wald_test(given)
        assert ours.statistic == pytest.approx(float(theirs.statistic), rel=1e-10)
        assert ours.pvalue == pytest.approx(float(theirs.pvalue), rel=1e-9)
    same = logit.wald({"mu[gpa] - mu[psi]": 0.5, "mu[tuce]": 0.0})
    assert same.statistic == pytest.approx(ours.statistic, rel=1e-13)


def test_t_test_agrees_with_statsmodels(logit: ml.Fit, peer) -> None:
    R = np.array([[0, 1.0, 0, -1.0], [0, 2.0, 1.0, 0]])
    ours, theirs = logit.t_test(R), peer.t_test(R)
    for name in ("effect", "sd", "tvalue", "statistic", "pvalue"):
        np.testing.assert_allclose(getattr(ours, name), np.ravel(getattr(theirs, name)), rtol=1e-9)
    np.testing.assert_allclose(ours.conf_int(alpha=0.1), theirs.conf_int(alpha=0.1), rtol=1e-9)
    assert list(ours.summary_frame().columns) == list(theirs.summary_frame().columns)
    assert np.isinf(ours.df_denom)
    shifted = logit.t_test("mu[gpa] = 1")
    assert shifted.effect[0] == pytest.approx(logit.params["mu[gpa]"], rel=1e-14)
    assert shifted.tvalue[0] == pytest.approx(float((peer.params["gpa"] - 1) / peer.bse["gpa"]), rel=1e-9)


def test_lincom(logit: ml.Fit) -> None:
    found = logit.lincom("mu[gpa] + 2*mu[psi] - 1, mu[gpa] = mu[psi]")
    a = np.array([[0, 1.0, 0, 2.0], [0, 1.0, 0, -1.0]])
    V = logit.cov_params().to_numpy()
    np.testing.assert_allclose(found.estimates, a @ logit.params.to_numpy() - [1, 0], rtol=1e-13)
    np.testing.assert_allclose(found.bse, np.sqrt(np.diag(a @ V @ a.T)), rtol=1e-13)
    assert found.labels == ("mu[gpa] + 2*mu[psi] - 1", "mu[gpa] - mu[psi]")
    assert logit.lincom({"sum": "mu[gpa] + mu[psi]"}).labels == ("sum",)


def test_function_and_text_are_one_test(logit: ml.Fit) -> None:
    """A Wald test is the same for a linear function as for its matrix, under any covariance."""
    for cov in ("oim", "robust"):
        text = logit.wald("mu[gpa] = mu[psi], mu[tuce] = 0.1", cov=cov)
        function = logit.wald(lambda mu: jnp.stack([mu[1] - mu[3], mu[2] - 0.1]), cov=cov)
        assert function.statistic == pytest.approx(text.statistic, rel=1e-12)


def test_f_form_follows_the_degrees_of_freedom(logit: ml.Fit) -> None:
    plain = logit.cov()
    known = Covariance(plain.matrix, "known", "known", plain.space, plain.theta, df=20.0)
    found = wald(known, "mu[gpa] = 0, mu[psi] = 0")
    chi2 = wald(plain, "mu[gpa] = 0, mu[psi] = 0")
    assert (found.distribution, found.df, found.df_denom) == ("F", 2, 20.0)
    assert found.statistic == pytest.approx(chi2.statistic / 2, rel=1e-13)
    assert found.pvalue == pytest.approx(stats.f.sf(chi2.statistic / 2, 2, 20), rel=1e-10)
    assert wald(known, "mu[gpa] = 0, mu[psi] = 0", use_f=False).distribution == "chi2"
    mixed = Covariance(plain.matrix, "k", "k", plain.space, plain.theta, df=np.array([5.0, 30.0, 40.0, 20.0]))
    assert wald(mixed, "mu[gpa] = mu[psi]").df_denom == 20.0
    with pytest.raises(InferenceError, match="degrees of freedom"):
        wald(plain, "mu[gpa] = 0", use_f=True)


def test_cluster_refuses_as_many_restrictions_as_groups(logit: ml.Fit) -> None:
    plain = logit.cov()
    few = Covariance(plain.matrix, "clustered", "c", plain.space, plain.theta, details={"groups": {"g": 3}})
    assert wald(few, "mu[gpa] = 0, mu[psi] = 0").df == 2
    with pytest.raises(InferenceError, match=r"3 restrictions can not be tested with 3 groups"):
        wald(few, "mu[gpa] = 0, mu[psi] = 0, mu[tuce] = 0")


def test_clusters_of_the_package(logit: ml.Fit) -> None:
    """Groups and degrees of freedom come with the covariance; singletons give the robust forms."""
    groups = np.arange(32) % 4
    by_four = Cluster(groups, type="CR0", df="t")
    with pytest.warns(CovarianceWarning, match="4 groups"):
        logit.cov(by_four)
    found = logit.wald("mu[gpa] = 0, mu[psi] = 0", cov=by_four)
    assert (found.distribution, found.df, found.df_denom) == ("F", 2, 3.0)
    assert logit.lincom("mu[gpa]", cov=by_four).df == 3.0
    with pytest.raises(InferenceError, match="with 4 groups"):
        logit.wald(np.eye(4), cov=by_four)
    singletons = Cluster(np.arange(32), type="CR0")
    for test in (logit.wald, logit.score_test):
        one, other = test("mu[psi] = 0", cov=singletons), test("mu[psi] = 0", cov="robust")
        assert one.statistic == pytest.approx(other.statistic, rel=1e-10)


# --- rank and bounds -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shares() -> ml.Fit:
    counts = np.repeat([0, 1, 2], [50, 30, 40])
    data = {"d": np.eye(3)[counts]}
    return ml.fit(ml.likelihood(lambda d, p: jnp.log(d @ p), data, {"p": ml.simplex(3)}))


def test_shares_are_tested_with_their_rank(shares: ml.Fit) -> None:
    found = shares.wald("p[0] = 0.4, p[1] = 0.3, p[2] = 0.3")
    p, null, n = np.array([50, 30, 40]) / 120, np.array([0.4, 0.3, 0.3]), 120
    assert found.df == 2 and "rank 2" in found.notes[0]
    assert found.statistic == pytest.approx(n * np.sum((p - null) ** 2 / p), rel=1e-8)
    assert shares.wald("p[0] = 0.4, p[1] = 0.3").statistic == pytest.approx(found.statistic, rel=1e-8)
    with pytest.raises(InferenceError, match="rank 2"):
        shares.wald("p[0] = 0.4, p[1] = 0.4, p[2] = 0.4")


def test_redundant_and_contradicting_rows(logit: ml.Fit) -> None:
    once, twice = logit.wald("mu[gpa] = 0"), logit.wald("mu[gpa] = 0, 2*mu[gpa] = 0")
    assert twice.df == 1 and twice.statistic == pytest.approx(once.statistic, rel=1e-9)
    with pytest.raises(InferenceError, match="contradict"):
        logit.wald("mu[gpa] = 0, mu[gpa] = 1")


@pytest.mark.parametrize("text", ["sigma = 0", "sigma = -1", "2*sigma = 0", "mu[x] = 0, sigma = 0"])
def test_hypotheses_on_a_bound_are_refused(text: str) -> None:
    x = np.random.default_rng(1).standard_normal((2, 60))
    fit = ml.fit(ml.models.gaussian("y ~ x", {"y": x[0], "x": x[1]}))
    for test in (fit.wald, fit.t_test):
        with pytest.raises(InferenceError, match="range 0 < sigma < inf"):
            test(text)
    assert fit.wald("sigma = 1").df == 1
    blank = fit.lincom("sigma")
    assert np.isnan(blank.pvalues[0]) and blank.bse[0] == pytest.approx(fit.bse["sigma"], rel=1e-14)


def test_fixed_entry_can_not_be_tested(logit: ml.Fit) -> None:
    null = ml.fit(logit.likelihood, fixed={"mu[psi]": 2.0})
    with pytest.raises(InferenceError, match=r"mu\[psi\] = 0.*fixed"):
        null.wald("mu[psi] = 0")


@pytest.mark.parametrize(
    ("hypothesis", "words"),
    [
        ("mu[gpaa] = 0", ["mu[gpaa]", "mu[gpa]"]),
        (np.ones((1, 3)), ["(1, 3)", "(q, 4)"]),
        ((np.ones((2, 4)), np.ones(3)), ["2 rows", "3 values"]),
        (np.full((1, 4), np.nan), ["finite"]),
        ("", ["no hypothesis"]),
    ],
)
def test_bad_hypotheses(logit: ml.Fit, hypothesis, words) -> None:
    with pytest.raises(SpecificationError) as caught:
        logit.wald(hypothesis)
    for word in words:
        assert word in str(caught.value)


# --- likelihood ratio ----------------------------------------------------------------------------


def test_lr_by_constraint_and_by_two_fits(logit: ml.Fit, peer) -> None:
    data = ml.load("spector")
    small = ml.fit(ml.models.logit("grade ~ gpa", data))
    X = sm.add_constant(data[["gpa"]])
    theirs = 2 * (peer.llf - sm.Logit(data["grade"], X).fit(disp=0, tol=1e-13).llf)
    by_fits = ml.lr_test(small, logit)
    by_text = logit.lr_test("mu[tuce] = 0, mu[psi] = 0")
    assert by_fits.statistic == pytest.approx(theirs, rel=1e-9)
    assert by_text.statistic == pytest.approx(theirs, rel=1e-9)
    assert by_fits.df == by_text.df == 2


def test_lr_refusals(logit: ml.Fit) -> None:
    data = ml.load("spector")
    small = ml.fit(ml.models.logit("grade ~ gpa", data))
    with pytest.raises(InferenceError, match="expected fewer"):
        ml.lr_test(logit, small)
    with pytest.raises(InferenceError, match="different data"):
        ml.lr_test(ml.fit(ml.models.logit("grade ~ gpa", data.iloc[:30])), logit)
    other = ml.fit(ml.models.logit("grade ~ high", data.assign(high=(data["tuce"] > 22) * 1.0)))
    with pytest.raises(InferenceError, match=r"mu\[high\].*nested"):
        ml.lr_test(other, logit)
    assert ml.lr_test(other, logit, nested=True).df == 2
    flipped = ml.fit(ml.models.logit("grade ~ gpa", data.assign(grade=1 - data["grade"])))
    with pytest.raises(InferenceError, match="'grade' differs"):
        ml.lr_test(flipped, logit)
    weights = np.linspace(1, 2, len(data))
    weighted = ml.fit(ml.models.logit("grade ~ gpa + psi", data, probability_weights=weights))
    with pytest.raises(InferenceError, match="probability weights"):
        weighted.lr_test("mu[psi] = 0")
    assert "robust" in weighted.score_test("mu[psi] = 0").method


def test_lr_notes_the_bound() -> None:
    rng = np.random.default_rng(8)
    y, x = rng.gamma(2.0, 1.0, 100), np.zeros(100)

    def exponential(y, x, scale):
        return -jnp.log(scale + x) - y / (scale + x)

    def weibull(y, x, scale, shape):
        z = y / (scale + x)
        return jnp.log(shape) - jnp.log(scale + x) + (shape - 1) * jnp.log(z) - z**shape

    data = {"y": y, "x": x}
    small = ml.fit(ml.likelihood(exponential, data, {"scale": ml.positive()}))
    full = ml.fit(ml.likelihood(weibull, data, {"scale": ml.positive(), "shape": ml.positive()}))
    found = ml.lr_test(small, full)
    assert any("shape" in note and "bound" in note for note in found.notes)
    assert found.statistic == pytest.approx(full.lr_test("shape = 1").statistic, rel=1e-9)


# --- score ---------------------------------------------------------------------------------------


def test_score_test_of_a_glm_is_statsmodels() -> None:
    """GLM's score test of omitted regressors: expected information; robust: HC0 meat, both forms."""
    rng = np.random.default_rng(11)
    X = rng.standard_normal((300, 3))
    y = rng.poisson(np.exp(0.3 + 0.4 * X[:, 0])).astype(float)
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(y=y)
    fit = ml.fit(ml.models.poisson("y ~ a + b + c", frame))
    small = sm.GLM(y, sm.add_constant(X[:, :1]), family=sm.families.Poisson()).fit(tol=1e-13)
    theirs = small.score_test(X[:, 1:])
    ours = fit.score_test("mu[b] = 0, mu[c] = 0")
    assert ours.statistic == pytest.approx(theirs[0].item(), rel=1e-9)
    assert ours.pvalue == pytest.approx(theirs[1].item(), rel=1e-8)
    # Wooldridge (2010), 12.6.2: residuals of the tested columns, weighted, times residuals
    mu = np.asarray(small.fittedvalues)
    Z, W = X[:, 1:], sm.add_constant(X[:, :1])
    R = Z - W @ np.linalg.solve(W.T @ (mu[:, None] * W), W.T @ (mu[:, None] * Z))
    s = R * (y - mu)[:, None]
    by_hand = s.sum(0) @ np.linalg.solve(s.T @ s, s.sum(0))
    assert fit.score_test(["mu[b] = 0", "mu[c] = 0"], cov="robust").statistic == pytest.approx(
        by_hand, rel=1e-9
    )


def test_score_test_refusals(logit: ml.Fit) -> None:
    with pytest.raises(InferenceError, match="no constraints of its own"):
        logit.score_test()
    with pytest.raises(InferenceError, match="no restriction"):
        logit.score_test([])


# --- many tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bonferroni", "holm", "sidak", "holm-sidak", "fdr_bh", "fdr_by"])
def test_adjustments_agree_with_statsmodels(method: str) -> None:
    p = np.random.default_rng(4).uniform(size=15) ** 3
    p[3] = p[7]
    np.testing.assert_allclose(ml.adjust_pvalues(p, method), multipletests(p, method=method)[1], rtol=1e-12)
    with_blank = ml.adjust_pvalues(np.r_[p, np.nan], method)
    assert np.isnan(with_blank[-1])
    np.testing.assert_allclose(with_blank[:-1], multipletests(p, method=method)[1], rtol=1e-12)


def test_sup_t_between_pointwise_and_sidak(logit: ml.Fit) -> None:
    independent = sup_t_critical(np.diag([1.0, 4.0, 9.0]), 0.05)
    assert independent == pytest.approx(sidak_critical(3, 0.05), abs=0.01)
    assert sup_t_critical(np.ones((3, 3)) + 1e-12 * np.eye(3)) == pytest.approx(
        stats.norm.ppf(0.975), abs=0.01
    )
    with_t = sup_t_critical(np.eye(1), 0.05, df=5.0)
    assert with_t == pytest.approx(stats.t.ppf(0.975, 5), abs=0.03)
    frame = logit.bands()
    c = frame.attrs["critical_value"]
    assert stats.norm.ppf(0.975) < c < sidak_critical(4)
    np.testing.assert_allclose(frame["upper"], logit.params + c * logit.bse, rtol=1e-12)
    pd.testing.assert_frame_equal(frame, logit.bands())
    joint = ml.simultaneous(logit.lincom("mu[gpa], mu[psi]"))
    assert (joint.conf_int()[:, 1] > logit.lincom("mu[gpa], mu[psi]").conf_int()[:, 1]).all()


# --- rendering and size --------------------------------------------------------------------------


def test_displays(logit: ml.Fit) -> None:
    test = logit.wald("mu[gpa] = mu[psi]", cov="robust")
    for form in ("text", "html", "latex", "csv", "json"):
        assert "Wald" in test.render(form)
    assert "sandwich" in str(test) and "mu[gpa] - mu[psi] = 0" in str(test)
    assert "mu[gpa]" in logit.lincom("mu[gpa]")._repr_html_()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["wald", "lr", "oim", "eim", "opg", "robust"])
def test_size_at_five_percent(form: str) -> None:
    """2,000 samples of n = 2,000: rejections at 5 % within 3.5 Monte Carlo standard errors."""
    rng, count, n = np.random.default_rng(2026), 2000, 2000
    rejected = 0
    for _ in range(count):
        X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
        y = rng.poisson(np.exp(0.2 + 0.3 * X[:, 1])).astype(float)
        fit = ml.fit(ml.models.poisson(y, X))
        if form == "wald":
            found = fit.wald("mu[x2] = 0")
        elif form == "lr":
            found = fit.lr_test("mu[x2] = 0")
        else:
            found = fit.score_test("mu[x2] = 0", cov=form)
        rejected += found.pvalue < 0.05
    assert abs(rejected / count - 0.05) < 3.5 * np.sqrt(0.05 * 0.95 / count)
