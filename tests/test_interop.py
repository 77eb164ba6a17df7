"""Results made elsewhere: their own covariances are had again, and the others from the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from statsmodels.base.model import GenericLikelihoodModel

import mlecov as ml
from mlecov.covariance.requests import HAC, HC, Cluster
from mlecov.errors import CovarianceError, DataError, IdentificationError, SpecificationError

N = 240


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, N))
    data = pd.DataFrame({"x": x, "z": z, "w": rng.uniform(0.5, 2, N)})
    data["real"] = 1 + 0.5 * x + np.exp(0.3 * x) * rng.standard_normal(N)
    data["count"] = rng.negative_binomial(2, 2 / (2 + np.exp(0.5 + 0.4 * x))).astype(float)
    data["binary"] = (0.3 + 0.8 * x - 0.5 * z + rng.logistic(size=N) > 0).astype(float)
    data["three"] = rng.integers(0, 3, N)
    data["gamma"] = rng.gamma(2, np.exp(0.2 + 0.3 * x) / 2)
    data["firm"] = np.arange(N) % 24
    return data


def arrays() -> tuple[pd.DataFrame, Any]:
    data = frame()
    return data, sm.add_constant(data[["x", "z"]])


def same_robust(result: Any, fit: ml.Fit, groups: Any) -> None:
    """statsmodels' own sandwiches from the same result, under its conventions."""
    size = {"rtol": 1e-9, "atol": 1e-14}
    npt.assert_allclose(fit.cov("robust").user, result.get_robustcov_results("HC0").cov_params(), **size)
    npt.assert_allclose(fit.cov("HC1").user, result.get_robustcov_results("HC1").cov_params(), **size)
    theirs = result.get_robustcov_results("cluster", groups=np.asarray(groups)).cov_params()
    npt.assert_allclose(fit.cov(Cluster(np.asarray(groups), small_sample="statsmodels")).user, theirs, **size)
    theirs = result.get_robustcov_results("HAC", maxlags=4).cov_params()
    npt.assert_allclose(fit.cov(HAC("bartlett", lags=4)).user, theirs, **size)


@pytest.mark.parametrize("weights", [None, "w"])
def test_linear_models(weights: str | None) -> None:
    data, X = arrays()
    model = sm.OLS(data["real"], X) if weights is None else sm.WLS(data["real"], X, weights=data["w"])
    result = model.fit()
    fit = ml.as_fit(result)
    npt.assert_allclose(fit.params, result.params, rtol=1e-14)
    npt.assert_allclose(fit.bse, result.bse, rtol=1e-10)
    assert list(fit.params.index) == ["const", "x", "z"] and fit.converged
    same_robust(result, fit, data["firm"])
    npt.assert_allclose(fit.llf, result.llf)
    for kind in ("HC2", "HC3"):
        theirs = result.get_robustcov_results(kind).cov_params()
        npt.assert_allclose(fit.cov(HC(kind)).user, theirs, rtol=1e-9)


def test_ols_coefficients_are_those_of_the_gaussian_likelihood() -> None:
    data = frame()
    fit = ml.as_fit(smf.ols("real ~ x + z", data).fit())
    own = ml.fit(ml.models.gaussian("real ~ x + z", data))
    for spec in ("robust", Cluster("firm", type="CR0")):
        npt.assert_allclose(fit.cov(spec).user, own.cov(spec).user[:3, :3], rtol=1e-8)


GLMS = {
    "poisson": ("count", sm.families.Poisson(), "canonical"),
    "binomial": ("binary", sm.families.Binomial(), "canonical"),
    "probit": ("binary", sm.families.Binomial(sm.families.links.Probit()), "other"),
    "gamma": ("gamma", sm.families.Gamma(sm.families.links.Log()), "other"),
}


@pytest.mark.parametrize("name", GLMS)
def test_generalised_linear_models(name: str) -> None:
    outcome, family, link = GLMS[name]
    data, X = arrays()
    result = sm.GLM(data[outcome], X, family=family).fit(tol=1e-14, maxiter=200, tol_criterion="params")
    fit = ml.as_fit(result)
    npt.assert_allclose(fit.cov("eim").user, result.cov_params(), rtol=1e-9, atol=1e-15)
    # statsmodels' sandwich of a GLM has the observed information as bread
    again = sm.GLM(data[outcome], X, family=family).fit(
        tol=1e-14, maxiter=200, tol_criterion="params", cov_type="HC0"
    )
    npt.assert_allclose(fit.cov("robust").user, again.cov_params(), rtol=1e-9, atol=1e-15)
    if link == "canonical":
        npt.assert_allclose(fit.cov("bw").user, again.cov_params(), rtol=1e-9, atol=1e-15)
    if name in ("poisson", "probit"):
        make = ml.models.poisson if name == "poisson" else ml.models.probit
        own = ml.fit(make(data[outcome], X))
        for spec in ("oim", "robust", HC("HC3"), Cluster("firm", type="CR2")):
            group = Cluster(data["firm"].to_numpy(), type="CR2") if isinstance(spec, Cluster) else spec
            npt.assert_allclose(fit.cov(group).user, own.cov(group).user, rtol=1e-6)


def test_frequency_weights_of_a_glm() -> None:
    data, X = arrays()
    f = np.arange(N) % 3 + 1
    fit = ml.as_fit(sm.GLM(data["count"], X, family=sm.families.Poisson(), freq_weights=f).fit(tol=1e-14))
    own = ml.fit(ml.models.poisson(data["count"], X, frequency_weights=f))
    assert fit.nobs == f.sum()
    for spec in ("oim", "robust", "HC1", HC("HC2")):
        npt.assert_allclose(fit.cov(spec).user, own.cov(spec).user, rtol=1e-6)


@pytest.mark.parametrize(
    "model, outcome",
    [("Logit", "binary"), ("Probit", "binary"), ("Poisson", "count"), ("NegativeBinomial", "count")],
)
def test_discrete_models(model: str, outcome: str) -> None:
    data, X = arrays()
    options = (
        {"method": "bfgs", "maxiter": 500, "gtol": 1e-8} if model == "NegativeBinomial" else {"tol": 1e-12}
    )
    result = getattr(sm, model)(data[outcome], X).fit(disp=0, **options)
    fit = ml.as_fit(result)
    npt.assert_allclose(fit.bse, result.bse, rtol=1e-7)
    robust = getattr(sm, model)(data[outcome], X).fit(disp=0, cov_type="HC0", **options)
    npt.assert_allclose(fit.cov("robust").bse, robust.bse, rtol=1e-7)
    clustered = getattr(sm, model)(data[outcome], X).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": data["firm"]}, **options
    )
    # with k = 4 for the negative binomial: statsmodels counts alpha, as the likelihood does
    spec = Cluster(data["firm"].to_numpy(), small_sample="statsmodels")
    npt.assert_allclose(fit.cov(spec).bse, clustered.bse, rtol=1e-7)
    assert "NegativeBinomial" in str(fit.summary()) or model != "NegativeBinomial"


def test_multinomial_logit() -> None:
    data, X = arrays()
    result = sm.MNLogit(data["three"], X).fit(disp=0, tol=1e-12)
    fit = ml.as_fit(result)
    npt.assert_allclose(fit.bse, np.sqrt(np.diag(result.cov_params())), rtol=1e-8)
    assert list(fit.params.index[:4]) == ["1[const]", "1[x]", "1[z]", "2[const]"]
    npt.assert_allclose(fit.params, np.asarray(result.params).ravel(order="F"))


def test_a_generic_likelihood_model() -> None:
    class Own(GenericLikelihoodModel):
        def loglikeobs(self, params: Any) -> Any:
            eta = self.exog @ params
            return self.endog * eta - np.exp(eta)

        def nloglikeobs(self, params: Any) -> Any:
            return -self.loglikeobs(params)

    data, X = arrays()
    result = Own(data["count"], X).fit(start_params=[0.5, 0.4, 0.0], method="newton", disp=0)
    own = ml.fit(ml.models.poisson(data["count"], X))
    fit = ml.as_fit(result)
    for spec in ("oim", "opg", "robust"):
        npt.assert_allclose(fit.cov(spec).bse, own.cov(spec).bse, rtol=1e-5)  # its derivatives are numeric


def test_state_space_models() -> None:
    rng = np.random.default_rng(3)
    y = np.cumsum(rng.standard_normal(120)) * 0.3 + rng.standard_normal(120)
    result = sm.tsa.SARIMAX(y, order=(1, 0, 1)).fit(disp=0, method="lbfgs", maxiter=500)
    fit = ml.as_fit(result)
    npt.assert_allclose(fit.cov("oim").user, result.cov_params_approx, rtol=1e-8)
    npt.assert_allclose(fit.cov("opg").user, result.cov_params_opg, rtol=1e-5)
    assert list(fit.params.index) == ["ar.L1", "ma.L1", "sigma2"]


def test_formulas_bring_their_columns_along() -> None:
    data = frame()
    data.loc[7, "x"] = np.nan
    data.index = [f"r{i}" for i in range(N)]
    fit = ml.as_fit(smf.logit("binary ~ x", data).fit(disp=0, tol=1e-12))
    kept = data.dropna()
    own = ml.fit(ml.models.logit("binary ~ x", kept))
    npt.assert_allclose(fit.cov(Cluster("firm")).bse, own.cov(Cluster("firm")).bse, rtol=1e-7)
    joint = ml.stack(theirs=fit, ours=own)
    npt.assert_allclose(joint.cov().user[:2, 2:], own.cov("robust").user, rtol=1e-6)


def test_a_triple_is_enough() -> None:
    data = frame()
    own = ml.fit(ml.models.logit("binary ~ x", data))
    triple = (own.params.to_numpy(), own.scores.to_dense(), own.hessian)
    fit = ml.as_fit(triple, names=["a", "b"], data=data, loglike=own.llf, name="a logit")
    for spec in (
        "oim",
        "opg",
        "robust",
        Cluster("firm"),
        HAC("bartlett", lags=3),
        ml.Bootstrap("score", reps=49),
    ):
        npt.assert_allclose(fit.cov(spec).user, own.cov(spec).user, rtol=1e-12)
    assert "a logit" in str(fit.compare()) and fit.aic == pytest.approx(own.aic)
    for impossible in (ml.Bootstrap(reps=9), HC("HC3"), "eim"):
        with pytest.raises((SpecificationError, CovarianceError)):
            fit.cov(impossible)


def test_a_type_can_be_registered() -> None:
    class Theirs:
        params, scores, hessian = [0.0], np.array([[1.0], [-1.0]]), [[-2.0]]

    with pytest.raises(SpecificationError, match="register its type"):
        ml.as_fit(Theirs())

    @ml.as_fit.register(Theirs)
    def _(result: Theirs, **options: Any) -> ml.Fit:
        return ml.as_fit((result.params, result.scores, result.hessian), names=["theta"], **options)

    npt.assert_allclose(ml.as_fit(Theirs(), cov="robust").bse, np.sqrt(0.5))


def test_what_does_not_fit_is_refused() -> None:
    scores, hessian = np.array([[1.0], [-1.0]]), np.array([[-2.0]])
    with pytest.raises(SpecificationError, match="shapes do not agree"):
        ml.as_fit(([0.0, 1.0], scores, hessian))
    with pytest.raises(SpecificationError, match="a tuple of 2"):
        ml.as_fit(([0.0], scores))
    with pytest.raises(IdentificationError, match="not minus it"):
        ml.as_fit(([0.0], scores, -hessian))
    with pytest.raises(DataError, match="has 2 terms"):
        ml.as_fit(([0.0], scores, hessian), data={"g": [1, 2, 3]})
    far = ml.as_fit(([0.0], scores + 1.0, hessian))
    assert not far.converged and "NOT CONVERGED" in str(far.summary())
    data, X = arrays()
    with pytest.raises(SpecificationError, match="no likelihood"):
        ml.as_fit(sm.QuantReg(data["real"], X).fit())
