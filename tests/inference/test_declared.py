"""What models predict: peers at the same parameters, identities, and every delta method by other differences."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import integrate, special, stats
from statsmodels.tsa.regime_switching.markov_autoregression import MarkovAutoregression
from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

import mlecov as ml
from mlecov.errors import DataError, InferenceError, SpecificationError
from mlecov.inference.predict import predict
from mlecov.inference.quantities import quantities_of, quantity
from mlecov.models.random_effects import logistic_normal
from tests.inference.declared import check_standard_errors

MODELS = ml.models


def panel() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    unit = rng.permutation(np.repeat(np.arange(60), 4))
    x = rng.standard_normal(240)
    latent = 0.3 + 0.8 * x + 1.2 * rng.standard_normal(60)[unit] + rng.logistic(size=240)
    return pd.DataFrame({"y": (latent > 0).astype(float), "x": x, "id": unit}, index=np.arange(240) + 1000)


def two_groups() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    z = rng.standard_normal(180)
    y = np.where(np.arange(180) < 80, 4 + z + 1.5 * rng.standard_normal(180), rng.standard_normal(180))
    return pd.DataFrame({"y": y, "z": z})


def choices() -> pd.DataFrame:
    return ml.load("modechoice").sample(frac=1, random_state=5)


def pairs() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    x, e = rng.standard_normal(300), rng.standard_normal((2, 300))
    y = (0.3 + x + e[0] > 0).astype(float)
    return pd.DataFrame({"a": y, "b": (0.5 * x + 0.6 * e[0] + 0.8 * e[1] > 0).astype(float), "x": x})


def sleep() -> pd.DataFrame:
    """Not balanced: least squares is not the maximum."""
    return ml.load("sleepstudy").sample(150, random_state=7).sort_index()


def producers() -> pd.DataFrame:
    rng = np.random.default_rng(12)
    x, v = rng.standard_normal((2, 400))
    u = np.abs(rng.standard_normal(400)), rng.standard_exponential(400)
    return pd.DataFrame({"y": 1 + x + 0.5 * v - 1.2 * u[0], "c": 1 + x + 0.5 * v + 0.8 * u[1], "x": x})


MIXED = {"formula": "reaction ~ days", "unit": "subject", "random": "1 + days"}
FITS: dict[str, Callable[[], Any]] = {
    "garch": lambda: MODELS.garch("y", ml.load("dmbp")[:400], ar=1, asymmetry=1, dist="t"),
    "arma": lambda: MODELS.arma("wpi", ml.load("wpi1"), p=1, d=1, q=(1, 4)),
    "switching": lambda: MODELS.markov_switching("rgnp_growth", ml.load("gnp"), p=2, own_sigma=True),
    "mixed": lambda: MODELS.linear_mixed(data=sleep(), **MIXED),
    "sur": lambda: MODELS.sur(["invest ~ value", "capital ~ value"], ml.load("grunfeld")),
    "normal": lambda: MODELS.multivariate_normal(["invest", "value"], ml.load("grunfeld")),
    "conditional": lambda: MODELS.conditional_logit("choice ~ gc + ttme", choices(), unit="individual"),
    "mixed_logit": lambda: MODELS.mixed_logit(
        "choice ~ gc + ttme", choices(), unit="individual", random=["gc"], draws=30
    ),
    "re_probit": lambda: MODELS.random_effects_probit("y ~ x", panel(), unit="id"),
    "re_logit": lambda: MODELS.random_effects_logit("y ~ x", panel(), unit="id"),
    "mixture": lambda: MODELS.finite_mixture(
        MODELS.gaussian("y ~ z", two_groups()), MODELS.gaussian("y ~ 1", two_groups())
    ),
    "heckman": lambda: MODELS.heckman(
        "wage ~ education + city", ml.load("mroz"), select="lfp ~ education + age + youngkids"
    ),
    "frontier": lambda: MODELS.frontier("y ~ x", producers()),
    "exponential": lambda: MODELS.frontier("c ~ x", producers(), inefficiency="exponential", cost=True),
    "multinomial": lambda: MODELS.multinomial_logit("choice ~ x", three()),
    "ordered": lambda: MODELS.ordered_probit("choice ~ x", three()),
    "bivariate": lambda: MODELS.bivariate_probit("a ~ x", pairs(), second="b ~ x"),
}


def three() -> pd.DataFrame:
    rng = np.random.default_rng(9)
    x = rng.standard_normal(250)
    return pd.DataFrame({"choice": np.digitize(x + rng.logistic(size=250), [-1.0, 1.0]) + 1, "x": x})


@cache
def fitted(name: str) -> Any:
    return ml.fit(FITS[name]())


def names() -> list[tuple[str, str]]:
    return [(model, name) for model, make in FITS.items() for name in quantities_of(make())]


@pytest.mark.parametrize(("model", "name"), names())
def test_standard_errors_are_those_of_other_differences(model: str, name: str) -> None:
    check_standard_errors(fitted(model), name)


def test_frames_name_every_column() -> None:
    frame = fitted("switching").predict("filtered").frame()
    assert list(frame.columns[:3]) == ["filtered[0]", "filtered[1]", "std_error[0]"]
    assert list(frame.index[:2]) == [2, 3]  # two rows are conditioned on
    assert list(fitted("mixed").predict("effects").frame().index[:2]) == [308, 309]
    assert list(fitted("re_logit").predict("mean").frame().index[:2]) == [1000, 1001]
    text = str(fitted("switching").predict("smoothed"))
    assert "frame()" in text and "std. err." not in text
    assert "std. err." in str(fitted("mixed_logit").predict("tastes"))


# --- time series ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"asymmetry": 1}, {"asymmetry": 1, "dist": "t", "p": 2, "q": 2}, {"ar": 2}]
)
def test_garch_is_arch(options: dict[str, Any]) -> None:
    arch = pytest.importorskip("arch")
    y = ml.load("dmbp")["y"].to_numpy()[:800]
    fit = ml.fit(MODELS.garch(y, **options))
    params = fit.params.to_numpy().copy()
    e, *_, before = fit.likelihood.model.paths(params, fit.likelihood.columns)
    lags = options.get("ar", 0)
    params[0] *= 1 - params[1 : 1 + lags].sum()  # arch has the intercept of the autoregression
    theirs = arch.arch_model(
        y, mean="AR" if lags else "Constant", lags=lags, vol="GARCH", p=options.get("q", 1),
        o=options.get("asymmetry", 0), q=options.get("p", 1), dist=options.get("dist", "normal"), rescale=False,
    )  # fmt: skip
    theirs.volatility.backcast = lambda resids: before
    theirs = theirs.fix(params)
    np.testing.assert_allclose(
        theirs.conditional_volatility[lags:], fit.predict("volatility").values, rtol=1e-8
    )
    np.testing.assert_allclose(
        fit.predict("variance").values, fit.predict("volatility").values ** 2, rtol=1e-12
    )
    np.testing.assert_allclose(theirs.std_resid[lags:], fit.predict("standardized").values, atol=1e-10)
    np.testing.assert_allclose(fit.predict("residual").values, e, rtol=1e-13)
    np.testing.assert_allclose(fit.predict("mean").values + e, y[lags:], rtol=1e-12)
    ahead, ours = theirs.forecast(horizon=12), fit.forecast(12)
    np.testing.assert_allclose(ours.mean, ahead.mean.to_numpy()[-1], rtol=1e-8)
    np.testing.assert_allclose(ours.further["variance"], ahead.residual_variance.to_numpy()[-1], rtol=1e-8)
    np.testing.assert_allclose(ours.std_error**2, ahead.variance.to_numpy()[-1], rtol=1e-8)


def state_space(options: dict[str, Any]) -> tuple[Any, Any]:
    data = np.diff(ml.load("wpi1")["wpi"].to_numpy())
    fit = ml.fit(MODELS.arma(data, **options))
    params = fit.params.to_numpy()
    theirs = sm.tsa.ARIMA(
        data, order=(options["p"], 0, options["q"]), seasonal_order=options.get("seasonal", (0, 0, 0, 0))
    ).smooth(np.r_[params[:-1], params[-1] ** 2])
    return fit, theirs


@pytest.mark.parametrize(
    "options", [{"p": 1, "q": 1}, {"p": 2, "q": 2}, {"p": 1, "q": 0, "seasonal": (0, 0, 1, 4)}]
)
def test_arma_is_the_state_space_model_of_statsmodels(options: dict[str, Any]) -> None:
    fit, theirs = state_space(options)
    np.testing.assert_allclose(fit.predict("mean").values, theirs.fittedvalues, rtol=1e-7)
    np.testing.assert_allclose(
        fit.predict("standardized").values, theirs.standardized_forecasts_error[0], rtol=1e-7
    )
    np.testing.assert_allclose(fit.predict("variance").values, theirs.forecasts_error_cov[0, 0], rtol=1e-7)
    np.testing.assert_allclose(fit.predict("residual").values, theirs.resid, rtol=1e-7, atol=1e-12)
    ahead, ours = theirs.get_forecast(9), fit.forecast(9, alpha=0.1)
    np.testing.assert_allclose(ours.mean, ahead.predicted_mean, rtol=1e-7)
    np.testing.assert_allclose(ours.std_error, ahead.se_mean, rtol=1e-7)
    np.testing.assert_allclose(np.c_[ours.lower, ours.upper], ahead.conf_int(alpha=0.1), rtol=1e-7)


def test_differences_are_undone() -> None:
    data = ml.load("airline").assign(
        ly=lambda d: np.log(d["air"]), x=lambda d: np.sin(1.3 * np.arange(len(d)))
    )
    lik = MODELS.arma("ly ~ x - 1", data, p=0, q=1, d=1, seasonal=(0, 1, 1, 12))
    fit = ml.fit(lik)
    params = fit.params.to_numpy()
    theirs = sm.tsa.SARIMAX(
        data["ly"], exog=data[["x"]], order=(0, 1, 1), seasonal_order=(0, 1, 1, 12)
    ).smooth(np.r_[params[:-1], params[-1] ** 2])
    future = pd.DataFrame({"x": np.sin(1.3 * (len(data) + np.arange(30)))})
    ahead, ours = theirs.get_forecast(30, exog=future), fit.forecast(30, future)
    # theirs starts from a variance of 1e6 in place of an infinite one
    np.testing.assert_allclose(ours.mean, ahead.predicted_mean, rtol=1e-9)
    np.testing.assert_allclose(ours.std_error, ahead.se_mean, rtol=1e-7)
    np.testing.assert_allclose(fit.predict("mean").values[30:], theirs.fittedvalues[43:], rtol=1e-7)
    drawn = lik.simulate(np.random.default_rng(0), fit.theta)
    step = drawn.columns["level"][1:] - drawn.columns["level"][:-1]
    np.testing.assert_allclose(step[12:] - step[:-12], drawn.columns["y"], atol=1e-12)
    np.testing.assert_array_equal(drawn.columns["level"][:13], data["ly"][:13])


def test_constant_of_a_difference_stays() -> None:
    data = ml.load("wpi1")
    fit = ml.fit(MODELS.arma("wpi", data, p=1, d=1, q=1))
    mu, phi, theta, sigma = fit.params
    theirs = sm.tsa.SARIMAX(data["wpi"], order=(1, 1, 1), trend="c").smooth(
        [mu * (1 - phi), phi, theta, sigma**2]
    )
    ahead, ours = theirs.get_forecast(8), fit.forecast(8)
    np.testing.assert_allclose(ours.mean, ahead.predicted_mean, rtol=1e-9)
    np.testing.assert_allclose(ours.std_error, ahead.se_mean, rtol=1e-7)


@pytest.mark.parametrize("p", [0, 4])
def test_regimes_are_those_of_statsmodels(p: int) -> None:
    y = ml.load("gnp")["rgnp_growth"].to_numpy()
    fit = ml.fit(MODELS.markov_switching(y, p=p, own_sigma=not p))
    params = fit.params.to_numpy().copy()
    params[4 : 6 if not p else 5] **= 2
    theirs = (
        MarkovAutoregression(y, 2, p, switching_ar=False)
        if p
        else MarkovRegression(y, 2, switching_variance=True)
    ).smooth(params)
    for name in ("filtered", "smoothed"):
        peer = getattr(theirs, f"{name}_marginal_probabilities")
        np.testing.assert_allclose(fit.predict(name).values, peer, atol=1e-12)
    np.testing.assert_allclose(fit.predict("duration").values, theirs.expected_durations, rtol=1e-12)
    np.testing.assert_allclose(
        fit.predict("mean").values, theirs.predict(probabilities="predicted"), rtol=1e-10
    )
    np.testing.assert_allclose(fit.predict("mean").values + fit.predict("residual").values, y[p:], rtol=1e-12)


def test_regimes_predicted_are_one_step_of_the_chain() -> None:
    fit = fitted("switching")
    p00, p10 = fit.params[["p00", "p10"]]
    now, ahead = fit.predict("filtered").values, fit.predict("predicted").values
    np.testing.assert_allclose(ahead[1:, 0], now[:-1] @ [p00, p10], rtol=1e-12)
    np.testing.assert_allclose(fit.predict("smoothed").values[-1], now[-1], rtol=1e-12)


def test_three_regimes_smooth_by_all_paths() -> None:
    """Smoothed probabilities of a short series by summing over all paths of the chain."""
    rng = np.random.default_rng(2)
    y = rng.standard_normal(26) + np.repeat([0.0, 4.0, -4.0, 0.0], [8, 6, 6, 6])
    lik = MODELS.markov_switching(y, regimes=3)
    params = np.r_[0.8, 0.1, 0.1, 0.2, 0.7, 0.1, 0.1, 0.2, 0.7, 0.0, 4.0, -4.0, 1.5]
    short = replace(lik, columns={"y": y[4:12]}, count=8)
    found = lik.model.quantities["smoothed"].function(short, lik.model._theta(lik.space, params), 0).values
    P, mu = params[:9].reshape(3, 3), params[9:12]
    start = np.linalg.matrix_power(P, 200)[0]
    total = np.zeros((3, 8))
    for path in np.ndindex(*[3] * 8):
        weight = start[path[0]] * np.prod([P[i, j] for i, j in itertools.pairwise(path)])
        weight *= np.prod(stats.norm.pdf(short.columns["y"], mu[list(path)], 1.5))
        total[path, np.arange(8)] += weight
    np.testing.assert_allclose(found, total / total.sum(axis=0), rtol=1e-9)


# --- panels, systems -----------------------------------------------------------------------------


def test_random_effects_are_those_of_statsmodels() -> None:
    data, fit = sleep(), fitted("mixed")
    theirs = (
        smf.mixedlm("reaction ~ days", data, groups="subject", re_formula="1 + days").fit(reml=False)._results
    )
    sd = fit.params[["sd_Intercept", "sd_days"]].to_numpy()
    theirs.fe_params = fit.params.to_numpy()[:2]
    theirs.cov_re = np.outer(sd, sd) * np.array([[1, fit.params["cor"]], [fit.params["cor"], 1]])
    theirs.scale = fit.params["sigma"] ** 2
    effects = np.array([part.to_numpy() for part in theirs.random_effects.values()])
    found = fit.predict("effects")
    np.testing.assert_allclose(found.values, effects, rtol=1e-9)
    np.testing.assert_allclose(fit.predict("fitted").values, theirs.fittedvalues, rtol=1e-10)
    np.testing.assert_allclose(
        fit.predict("residual").values + fit.predict("fitted").values, data["reaction"], rtol=1e-12
    )
    spread = np.array([np.diag(part) for part in theirs.random_effects_cov.values()])
    known = fit.likelihood.model.quantities["effects"].function(fit.likelihood, fit.theta, 0).variance
    np.testing.assert_allclose(known.T, spread, rtol=1e-9)
    assert (found.bse**2 > spread).all()
    X, V = np.c_[np.ones(len(data)), data["days"]], fit.cov_params().to_numpy()[:2, :2]
    mean = fit.predict("mean")
    np.testing.assert_allclose(mean.bse, np.sqrt(np.einsum("ni,ij,nj->n", X, V, X)), rtol=1e-9)
    assert fit.margins("days").estimates[0] == pytest.approx(fit.params["mu[days]"], rel=1e-10)


def test_systems_have_a_mean_per_equation() -> None:
    data, fit = ml.load("grunfeld"), fitted("sur")
    mean = fit.predict("mean")
    by_hand = fit.params["invest[Intercept]"] + fit.params["invest[value]"] * data["value"]
    np.testing.assert_allclose(mean.values[:, 0], by_hand, rtol=1e-12)
    outcomes = data[["invest", "capital"]].to_numpy()
    np.testing.assert_allclose(mean.values + fit.predict("residual").values, outcomes, rtol=1e-10)
    effect = fit.margins("value", what="mean[capital]")
    assert effect.estimates[0] == pytest.approx(fit.params["capital[value]"], rel=1e-9)
    assert effect.bse[0] == pytest.approx(fit.bse["capital[value]"], rel=1e-8)
    normal = fitted("normal")
    np.testing.assert_allclose(
        normal.predict("mean").values, np.tile(data[["invest", "value"]].mean(), (len(data), 1)), rtol=1e-9
    )


@pytest.mark.parametrize(("model", "F"), [("re_probit", stats.norm.cdf), ("re_logit", special.expit)])
def test_effects_are_integrated_out(model: str, F: Callable[[Any], Any]) -> None:
    data, fit = panel(), fitted(model)
    b, slope, sigma = fit.params
    eta, y = b + slope * data["x"].to_numpy(), data["y"].to_numpy()

    def integral(function: Callable[[float], float]) -> float:
        return integrate.quad(lambda u: function(u) * stats.norm.pdf(u), -12, 12, epsabs=1e-14, limit=200)[0]

    mean = fit.predict("mean")
    for i in (0, 7):
        assert mean.values[i] == pytest.approx(integral(lambda u, i=i: F(eta[i] + sigma * u)), rel=1e-11)
    np.testing.assert_allclose(fit.predict("conditional").values, F(eta), rtol=1e-11)
    own = data["id"].to_numpy() == data["id"].iloc[0]

    def joint(u: float) -> float:
        return float(np.prod(F((2 * y[own] - 1) * (eta[own] + sigma * u))))

    effects, total = fit.predict("effects"), integral(joint)
    first = sigma * integral(lambda u: u * joint(u)) / total
    second = sigma**2 * integral(lambda u: u * u * joint(u)) / total
    assert effects.values[0] == pytest.approx(first, rel=1e-9)
    found = quantity(fit.optimum, "effects", fit.cov())
    variance = found.variance(fit.theta, found.place(fit.likelihood, None))
    assert variance[0] == pytest.approx(second - first**2, rel=1e-9)
    h = 1e-4
    up, down = (fit.predict("mean", data.assign(x=data["x"] + s * h)).values.mean() for s in (1, -1))
    assert fit.margins("x").estimates[0] == pytest.approx((up - down) / (2 * h), rel=1e-7)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 6.0, 40.0])
def test_logistic_normal_integral(sigma: float) -> None:
    mu = np.array([-30.0, -2.0, 0.0, 5.0])
    grid = np.linspace(-14, 14, 400_001)
    weight = stats.norm.pdf(grid) * 28 / 400_000
    exact = [float(special.expit(m + sigma * grid) @ weight) for m in mu]
    np.testing.assert_allclose(logistic_normal(mu, sigma), exact, rtol=1e-11, atol=1e-16)


# --- choices, mixtures, selection ----------------------------------------------------------------


@pytest.mark.parametrize("model", ["conditional", "mixed_logit"])
def test_probabilities_of_choice_sets(model: str) -> None:
    data, fit = choices(), fitted(model)
    found = fit.predict("probability").frame()
    assert list(found.index) == list(data.index)
    sums = found["probability"].groupby(data["individual"]).sum()
    np.testing.assert_allclose(sums, 1.0, rtol=1e-12)
    new = data[data["individual"].isin([3, 5, 9])].drop(columns="choice")
    again = fit.predict("probability", new).frame()
    if model == "conditional":
        np.testing.assert_allclose(again, found.loc[again.index], rtol=1e-12)
    np.testing.assert_allclose(again["probability"].groupby(new["individual"]).sum(), 1.0, rtol=1e-12)
    # one choice a person: the probability of the chosen row is the likelihood, its derivative the score
    chosen = data["choice"].to_numpy() == 1
    at = quantity(fit.optimum, "probability", fit.cov())
    value, jacobian = at.jacobian(fit.theta, at.place(fit.likelihood, None))
    order = pd.factorize(data["individual"])[0][chosen].argsort()
    np.testing.assert_allclose(
        np.log(value[chosen][order]), fit.likelihood.evaluate(fit.theta).loglike_obs, rtol=1e-11
    )
    scores = (jacobian / value[:, None])[chosen][order]
    np.testing.assert_allclose(scores, fit.scores.to_dense(), rtol=1e-8, atol=1e-10)


def test_elasticities_are_derivatives_of_probabilities() -> None:
    data, fit = choices(), fitted("conditional")
    target = data.index[10]
    mates = data.index[(data["individual"] == data.loc[target, "individual"]) & (data.index != target)]
    h = 1e-4 * data.loc[target, "gc"]

    def log_probability(change: float) -> Any:
        moved = data.assign(gc=data["gc"].astype(float))
        moved.loc[target, "gc"] += change
        return np.log(fit.predict("probability", moved).frame()["probability"])

    slope = (log_probability(h) - log_probability(-h)) / (2 * h) * data.loc[target, "gc"]
    own = fit.predict("own_elasticity").frame()["own_elasticity[gc]"]
    cross = fit.predict("cross_elasticity[gc]").frame()["cross_elasticity[gc]"]
    assert own[target] == pytest.approx(slope[target], rel=1e-7)
    np.testing.assert_allclose(slope[mates], cross[target], rtol=1e-7)
    effect = fit.predict("own_effect[gc]").frame()["own_effect[gc]"]
    P = fit.predict("probability").frame()["probability"]
    np.testing.assert_allclose(effect * data["gc"] / P, own, rtol=1e-12)
    assert fit.predict("own_elasticity[gc]").average.estimates[0] == pytest.approx(own.mean(), rel=1e-12)


def test_units_chosen_keep_their_rows() -> None:
    lik = FITS["conditional"]()
    part = lik.subset(np.array([4, 4, 2]))
    P = lik.quantities["probability"].function(part, np.array([-0.01, -0.02]), 0).values
    X = part.rows.frame(["gc", "ttme"]).to_numpy()
    odds = np.exp(X @ [-0.01, -0.02])
    np.testing.assert_allclose(P, odds / np.bincount(part.rows.unit, odds)[part.rows.unit], rtol=1e-12)


def test_situations_of_one_person_share_draws() -> None:
    data = choices().assign(person=lambda d: d["individual"] // 2)
    lik = MODELS.mixed_logit(
        "choice ~ gc + ttme", data, unit="person", situation="individual", random=["ttme"], draws=20
    )
    theta = np.array([-0.01, -0.02, np.log(0.02)])
    P = lik.quantities["probability"].function(lik, theta, 0).values
    np.testing.assert_allclose(np.bincount(data["individual"], P)[1:], 1.0, rtol=1e-12)
    part = lik.subset(np.array([3, 0, 3]))
    assert part.quantities["probability"].function(part, theta, 0).values.sum() == pytest.approx(
        part.rows.frame(["choice"])["choice"].sum(), rel=1e-12
    )
    tastes = lik.quantities["tastes"].function(lik, theta, 0)
    posterior = lik.posterior(theta)
    assert posterior.shape == (lik.n_terms, 20) and tastes.variance.shape == (1, lik.n_terms)
    np.testing.assert_allclose(posterior.sum(axis=1), 1.0, rtol=1e-12)
    drawn = -0.02 + 0.02 * lik.draws[:, :, 0]
    np.testing.assert_allclose(tastes.values[0], (posterior * drawn).sum(axis=1), rtol=1e-12)
    second = (posterior * (drawn - tastes.values[0][:, None]) ** 2).sum(axis=1)
    np.testing.assert_allclose(tastes.variance[0], second, rtol=1e-9)


def test_posterior_of_a_mixture() -> None:
    data, fit = two_groups(), fitted("mixture")
    p, y = fit.params, data["y"]
    one = p["share"] * stats.norm.pdf(y, p["mu1[Intercept]"] + p["mu1[z]"] * data["z"], p["sigma1"])
    two = (1 - p["share"]) * stats.norm.pdf(y, p["mu2[Intercept]"], p["sigma2"])
    np.testing.assert_allclose(fit.predict("posterior[1]").values, one / (one + two), rtol=1e-9)
    means, prior = fit.predict("means").values, fit.predict("prior").values
    np.testing.assert_allclose(fit.predict("mean").values, (means * prior).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(prior[:, 0], p["share"], rtol=1e-12)
    # the EM identity: at the maximum the share is the mean of the posterior
    assert fit.predict("posterior[1]").values.mean() == pytest.approx(p["share"], rel=1e-8)


def test_heckman_by_integration() -> None:
    fit, data = fitted("heckman"), ml.load("mroz")
    i = 3
    mu, z = fit.predict("mean").values[i], fit.predict("select").values[i]
    sigma, rho = fit.params[["sigma", "rho"]]
    mass = integrate.quad(
        lambda e: (mu + sigma * e) * stats.norm.pdf(e) * stats.norm.cdf((z + rho * e) / np.sqrt(1 - rho**2)),
        -10, 10, epsabs=1e-13,
    )[0]  # fmt: skip
    seen = stats.norm.cdf(z)
    assert fit.predict("expected").values[i] == pytest.approx(mass, rel=1e-10)
    assert fit.predict("conditional").values[i] == pytest.approx(mass / seen, rel=1e-10)
    assert fit.predict("selection").values[i] == pytest.approx(seen, rel=1e-12)
    assert fit.predict("mills").values[i] == pytest.approx(stats.norm.pdf(z) / seen, rel=1e-10)
    new = data.iloc[[i]].drop(columns="wage")
    assert fit.predict("conditional", new).values[0] == pytest.approx(mass / seen, rel=1e-10)


@pytest.mark.parametrize(("model", "sign"), [("frontier", 1.0), ("exponential", -1.0)])
def test_inefficiency_given_the_outcome_by_integration(model: str, sign: float) -> None:
    fit, i = fitted(model), 11
    e = producers()["y" if sign > 0 else "c"].iloc[i] - fit.predict("mu").values[i]
    sigma_v, sigma_u = fit.params[["sigma_v", "sigma_u"]]
    prior = stats.halfnorm(scale=sigma_u) if sign > 0 else stats.expon(scale=sigma_u)

    def integral(function: Callable[[float], float]) -> float:
        return integrate.quad(
            lambda u: function(u) * prior.pdf(u) * stats.norm.pdf(e + sign * u, scale=sigma_v),
            0,
            12,
            epsabs=1e-14,
        )[0]

    total = integral(lambda u: 1.0)
    assert np.log(total) == pytest.approx(fit.likelihood.evaluate(fit.theta).loglike_obs[i], rel=1e-9)
    found = {name: fit.predict(name).values[i] for name in ("inefficiency", "efficiency")}
    assert found["inefficiency"] == pytest.approx(integral(lambda u: u) / total, rel=1e-9)
    assert found["efficiency"] == pytest.approx(integral(lambda u: np.exp(-u)) / total, rel=1e-9)


def test_categories_and_their_margins_are_statsmodels() -> None:
    data, fit = three(), fitted("multinomial")
    theirs = sm.MNLogit(data["choice"], sm.add_constant(data["x"])).fit(disp=0, method="newton", tol=1e-14)
    np.testing.assert_allclose(fit.predict("probability").values, theirs.predict(), rtol=1e-9)
    effects = theirs.get_margeff()
    for j, level in enumerate((1, 2, 3)):
        found = fit.margins("x", what=f"probability[{level}]")
        assert found.estimates[0] == pytest.approx(effects.margeff[0, j], rel=1e-8)
        assert found.bse[0] == pytest.approx(effects.margeff_se[0, j], rel=1e-8)
    ordered = fitted("ordered")
    p = ordered.params
    cuts = np.r_[-np.inf, p["cut[0]"], p["cut[1]"], np.inf]
    by_hand = np.diff(stats.norm.cdf(cuts - p["mu[x]"] * data["x"].to_numpy()[:, None]), axis=1)
    np.testing.assert_allclose(ordered.predict("probability").values, by_hand, rtol=1e-9)


def test_joint_probabilities_of_two_outcomes() -> None:
    fit = fitted("bivariate")
    found = fit.predict("probability")
    rho, eta = fit.params["rho"], np.array([fit.predict(name).values[5] for name in ("mu", "mu2")])
    both = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf(eta)
    frame = found.frame()
    assert frame["probability[11]"].iloc[5] == pytest.approx(both, abs=1e-7)
    assert frame["probability[10]"].iloc[5] == pytest.approx(stats.norm.cdf(eta[0]) - both, abs=1e-7)
    np.testing.assert_allclose(found.values.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        frame["probability[10]"] + frame["probability[11]"], fit.predict("mean").values, rtol=1e-12
    )


# --- constraints, refusals -----------------------------------------------------------------------


def test_constraints_are_kept() -> None:
    data = ml.load("dmbp")[:400]
    fit = ml.fit(MODELS.garch("y", data), constraints=["alpha + beta = 0.95"])
    found = fit.predict("variance")
    whole = fit.likelihood.unrestricted
    J = whole.model.quantities["variance"].function(whole, fit.likelihood.full(fit.theta), 1).jacobian
    J = J @ fit.likelihood.matrix
    np.testing.assert_allclose(
        found.bse, np.sqrt(np.einsum("nk,kl,nl->n", J, fit.cov().matrix, J)), rtol=1e-10
    )
    assert fit.k == 3 and fit.forecast(400).further["variance"][-1] == pytest.approx(
        fit.params["omega"] / 0.05, rel=1e-6
    )


def test_other_covariances_reach_the_standard_errors() -> None:
    fit = fitted("garch")
    robust = fit.predict("volatility", cov="robust")
    assert "robust" in robust.method
    assert np.abs(robust.bse / fit.predict("volatility").bse - 1).max() > 0.01
    assert predict(fit.optimum, fit.cov("robust"), "volatility").bse[3] == robust.bse[3]


def test_weights_of_units_count_for_their_rows() -> None:
    data = panel().assign(w=lambda d: 1.0 + d["id"] % 3)
    fit = ml.fit(MODELS.random_effects_logit("y ~ x", data, unit="id", probability_weights="w"))
    mean = fit.predict("mean")
    expected = np.average(mean.values, weights=data["w"])
    assert mean.average.estimates[0] == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(mean.values.mean(), rel=1e-3)


def test_refusals() -> None:
    garch = fitted("garch")
    with pytest.raises(
        SpecificationError, match=r"'varience' is no quantity of garch.*'variance'.*volatility.*mu"
    ):
        garch.predict("varience")
    with pytest.raises(SpecificationError, match=r"own sample.*forecast\(steps\)"):
        garch.predict("variance", ml.load("dmbp"))
    with pytest.raises(InferenceError, match="depends on other rows"):
        garch.margins("y", what="variance")
    with pytest.raises(SpecificationError, match=r"one number a row; leave \[1\] out"):
        garch.predict("variance[1]")
    with pytest.raises(SpecificationError, match=r"no entry '7'.*Known: 0, 1"):
        fitted("switching").predict("smoothed[7]")
    with pytest.raises(SpecificationError, match=r"3 numbers a row.*'probability\[2\]'"):
        fitted("multinomial").margins(what="probability")
    with pytest.raises(SpecificationError, match=r"knows no mean\. It has probability"):
        fitted("multinomial").predict("mean")
    with pytest.raises(DataError, match="ttme"):
        fitted("conditional").predict("probability", choices()[["gc", "individual"]])
    with pytest.raises(DataError, match=r"unit\(s\) 999 of 'subject' are not among those of the fit"):
        fitted("mixed").predict("fitted", {"days": [1.0], "subject": [999]})


def test_fitted_values_of_new_rows() -> None:
    fit, data = fitted("mixed"), sleep()
    found = fit.predict("fitted")
    some = data.sample(frac=1, random_state=2)  # as many rows as the fit has, in another order
    again = fit.predict("fitted", some).frame()
    np.testing.assert_allclose(again.to_numpy(), found.frame().loc[some.index].to_numpy(), rtol=1e-9)
    later = fit.predict("fitted", {"days": [20.0], "subject": [309]}).values[0]
    effects = fit.predict("effects").frame().loc[309]
    intercept, slope = fit.params[["mu[Intercept]", "mu[days]"]]
    by_hand = intercept + effects["effects[Intercept]"] + 20 * (slope + effects["effects[days]"])
    assert later == pytest.approx(by_hand, rel=1e-12)


def test_the_guide_names_every_quantity() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "pages" / "inference.md").read_text(
        encoding="utf-8"
    )
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for make in FITS.values():
        lik = make()
        name = lik.facts.name.partition("(")[0]
        (row,) = [line for line in rows if f"`{name}`" in line.split("|")[1]]
        told = set(re.findall(r"`(\w+)`", row.split("|")[2]))
        assert set(quantities_of(lik)) <= told, name
