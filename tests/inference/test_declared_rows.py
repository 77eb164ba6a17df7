"""What row models predict: distributions of scipy at the same parameters, integrals, other differences."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import integrate, special, stats

import mlecov as ml
from mlecov.errors import DataError, SpecificationError
from mlecov.inference.quantities import quantities_of
from mlecov.models.extreme import gumbel_moments
from tests.inference.declared import check_standard_errors

Array = npt.NDArray[np.float64]
MODELS = ml.models
N = 300


@cache
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    x, e = rng.standard_normal((2, N))
    t = rng.uniform(0.5, 2.0, N)
    count = rng.poisson(t * np.exp(0.5 + 0.4 * x) * rng.gamma(2.0, 0.5, N)).astype(float)
    latent = 0.4 + 0.8 * x + 1.3 * e
    data = pd.DataFrame({"x": x, "z": rng.standard_normal(N), "t": t, "count": count})
    data["few"] = np.where(rng.random(N) < 0.3, 0.0, count)
    data["binary"] = (latent > 0).astype(float)
    data["latent"], data["low"] = latent, np.where(latent > 2, 2.0, np.floor(latent))
    data["high"] = np.where(latent > 2, np.nan, np.floor(latent) + (rng.random(N) < 0.8))
    data["low"] = np.where(data["high"] == data["low"], latent, data["low"])
    data["high"] = np.where(data["low"] == latent, latent, data["high"])
    data["trials"] = 6.0
    data["won"] = rng.binomial(6, rng.beta(2 * np.exp(0.3 * x), 2.0)).astype(float)
    time = np.exp(0.5 + 0.4 * x) * rng.weibull(1.4, N)
    data["event"] = (time < 3).astype(float)
    data["time"] = np.minimum(time, 3.0)
    data["outlying"] = latent + 0.5 * rng.standard_t(3, N)
    data["positive"] = rng.gamma(2.5, np.exp(0.3 * x))
    data["share"] = rng.beta(2 * np.exp(0.3 * x), 3.0)
    data["largest"] = stats.genextreme.rvs(-0.1, 1 + 0.5 * x, 0.7, size=N, random_state=rng)
    data["excess"] = stats.genpareto.rvs(0.1, scale=np.exp(0.2 * x), size=N, random_state=rng)
    return data


COUNTS = ["mean", "rate", "probability[0]", "probability[3]"]
ZEROS = [*COUNTS, "zero", "count"]
LIMITED = ["mean", "latent", "conditional[-1,1.5]", "expected[-inf,1]", "uncensored[0,inf]"]
OWN = ["conditional", "expected", "uncensored"]
AT = ["survival", "hazard", "cumulative_hazard"]
TIMES = ["mean", "median", "quantile[0.9]", *AT, "survival[1.5]", "hazard[0.7]"]
END = {"event": "event"}
FITS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "probit": (lambda: MODELS.probit("binary ~ x", frame()), ["mean", "probability"]),
    "logit": (lambda: MODELS.logit("binary ~ x", frame()), ["mean", "probability"]),
    "cloglog": (lambda: MODELS.cloglog("binary ~ x", frame()), ["mean", "probability"]),
    "heteroskedastic_probit": (
        lambda: MODELS.heteroskedastic_probit("binary ~ x", frame(), sigma="z"),
        ["mean", "probability"],
    ),
    "poisson": (lambda: MODELS.poisson("count ~ x + exposure(t)", frame()), COUNTS),
    "nb1": (lambda: MODELS.nb1("count ~ x + exposure(t)", frame()), COUNTS),
    "nb2": (lambda: MODELS.nb2("count ~ x + exposure(t)", frame(), alpha="z"), COUNTS),
    "generalized_poisson": (lambda: MODELS.generalized_poisson("count ~ x", frame()), COUNTS),
    "zero_inflated_poisson": (
        lambda: MODELS.zero_inflated_poisson("few ~ x + exposure(t)", frame(), inflate="z"),
        [*ZEROS, "inflation"],
    ),
    "zero_inflated_nb2": (
        lambda: MODELS.zero_inflated_nb2("few ~ x + exposure(t)", frame()),
        [*ZEROS, "inflation"],
    ),
    "hurdle_poisson": (
        lambda: MODELS.hurdle_poisson("few ~ x + exposure(t)", frame(), hurdle="z"),
        [*ZEROS, "conditional"],
    ),
    "hurdle_nb2": (lambda: MODELS.hurdle_nb2("few ~ x", frame()), [*ZEROS, "conditional"]),
    "truncated_poisson": (
        lambda: MODELS.truncated_poisson("count ~ x + exposure(t)", frame()[frame()["count"] > 0]),
        [*COUNTS, "count"],
    ),
    "truncated_nb2": (
        lambda: MODELS.truncated_nb2("count ~ x + exposure(t)", frame()[frame()["count"] > 1], truncation=1),
        [*COUNTS, "count"],
    ),
    "beta_binomial": (
        lambda: MODELS.beta_binomial("won ~ x", frame(), trials="trials"),
        ["mean", "share", "probability[2]"],
    ),
    "tobit": (
        lambda: MODELS.tobit("latent ~ x", frame(), lower=0.0, upper=2.0, sigma="z"),
        [*LIMITED, *OWN],
    ),
    "interval_regression": (lambda: MODELS.interval_regression("low ~ x", frame(), upper="high"), LIMITED),
    "truncated_regression": (
        lambda: MODELS.truncated_regression("latent ~ x", frame()[frame()["latent"] > -0.5], lower=-0.5),
        [*LIMITED, *OWN],
    ),
    "exponential": (lambda: MODELS.exponential("time ~ x", frame(), **END), TIMES),
    "exponential_ph": (lambda: MODELS.exponential("time ~ x", frame(), form="ph", **END), TIMES),
    "weibull": (lambda: MODELS.weibull("time ~ x", frame(), **END), TIMES),
    "weibull_ph": (lambda: MODELS.weibull("time ~ x", frame(), form="ph", **END), TIMES),
    "lognormal": (lambda: MODELS.lognormal("time ~ x", frame(), sigma="z", **END), [*TIMES, "variance"]),
    "loglogistic": (lambda: MODELS.loglogistic("time ~ x", frame(), **END), TIMES),
    "gompertz": (lambda: MODELS.gompertz("time ~ x", frame(), **END), TIMES),
    "generalized_gamma": (lambda: MODELS.generalized_gamma("time ~ x", frame(), **END), TIMES),
    "gaussian": (lambda: MODELS.gaussian("latent ~ x", frame(), sigma="z"), ["mean", "variance", "scale"]),
    "student_t": (lambda: MODELS.student_t("outlying ~ x", frame()), ["mean", "variance", "scale"]),
    "gamma": (lambda: MODELS.gamma("positive ~ x", frame(), shape="z"), ["mean", "variance"]),
    "beta": (lambda: MODELS.beta("share ~ x", frame()), ["mean", "variance"]),
    "gev": (lambda: MODELS.gev("largest ~ x", frame()), ["mean", "variance", "scale", "return_level[50]"]),
    "generalized_pareto": (
        lambda: MODELS.generalized_pareto("excess ~ x", frame()),
        ["mean", "variance", "scale", "return_level[50]"],
    ),
}


@cache
def fitted(name: str) -> Any:
    return ml.fit(FITS[name][0]())


def values(model: str, name: str) -> Array:
    return fitted(model).predict(name).values


@pytest.mark.parametrize(("model", "name"), [(model, name) for model in FITS for name in FITS[model][1]])
def test_standard_errors_are_those_of_other_differences(model: str, name: str) -> None:
    fit = fitted(model)
    if name == "probability[0]" and model.startswith("truncated"):
        assert not fit.predict(name).values.any() and not fit.predict(name).bse.any()
        return
    check_standard_errors(fit, name)


def test_every_quantity_is_here_and_in_the_guide() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "pages" / "inference.md").read_text(
        encoding="utf-8"
    )
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for model, (make, names) in FITS.items():
        known = set(quantities_of(make()))
        assert known == {name.partition("[")[0] for name in names}, model
        (row,) = [line for line in rows if f"`{model.removesuffix('_ph')}`" in line.split("|")[1]]
        assert known <= set(re.findall(r"`(\w+)", row.split("|")[2])), model


# --- probabilities, counts -----------------------------------------------------------------------


@pytest.mark.parametrize("model", ["probit", "logit", "cloglog", "heteroskedastic_probit"])
def test_probabilities_of_binary_outcomes(model: str) -> None:
    fit = fitted(model)
    index = fit.predict("mu").values
    if model == "heteroskedastic_probit":
        index = index * np.exp(-fit.predict("sigma").values)
    F = {"logit": special.expit, "cloglog": stats.gumbel_l.cdf}.get(model, stats.norm.cdf)
    np.testing.assert_allclose(values(model, "probability"), F(index), rtol=1e-12)
    with pytest.raises(SpecificationError, match=r"one number a row; leave \[1\] out"):
        fit.predict("probability[1]")


def base_law(model: str, fit: Any) -> Any:
    """The count's distribution before zeros are added or taken away, by scipy."""
    mean = np.exp(fit.predict("mu").values)
    if "poisson" in model:
        return stats.poisson(mean)
    if model == "nb1":
        return stats.nbinom(mean / fit.params["alpha"], 1 / (1 + fit.params["alpha"]))
    alpha = np.exp(fit.predict("alpha").values) if model == "nb2" else fit.params["alpha"]
    return stats.nbinom(1 / alpha, 1 / (1 + alpha * mean))


def pmf(model: str, fit: Any, j: int) -> Array:
    law = base_law(model, fit)
    if model.startswith("truncated"):
        last = 1 if model == "truncated_nb2" else 0
        return law.pmf(j) / law.sf(last) * (j > last)
    part = model.partition("_")[0]
    if part not in ("zero", "hurdle"):
        return law.pmf(j)
    share = fit.params.get("inflate", fit.params.get("hurdle"))
    if share is None:
        share = special.expit(fit.predict("inflate" if part == "zero" else "hurdle").values)
    if part == "zero":
        return share * (j == 0) + (1 - share) * law.pmf(j)
    return 1 - share + 0 * law.pmf(j) if j == 0 else share * law.pmf(j) / law.sf(0)


COUNT_MODELS = [m for m in FITS if COUNTS[1] in FITS[m][1] and m != "generalized_poisson"]


@pytest.mark.parametrize("model", COUNT_MODELS)
def test_probabilities_of_counts_are_scipys(model: str) -> None:
    fit = fitted(model)
    for j in (0, 1, 4):
        np.testing.assert_allclose(values(model, f"probability[{j}]"), pmf(model, fit, j), rtol=1e-9)
    law = [pmf(model, fit, j) for j in range(150)]
    np.testing.assert_allclose(values(model, "mean"), np.arange(150) @ law, rtol=1e-7)
    base = base_law(model, fit).mean()
    exposure = fit.likelihood.facts.extra["blocks"]["mu"].offset
    exposure = 1.0 if exposure is None else np.exp(exposure)
    if "count" in quantities_of(fit.likelihood):
        np.testing.assert_allclose(values(model, "count"), base, rtol=1e-12)
    if model.startswith(("zero", "truncated")) or model[0] in "pn":
        whole = base if model.startswith("truncated") else values(model, "mean")
        np.testing.assert_allclose(values(model, "rate"), whole / exposure, rtol=1e-12)
    if model.startswith(("zero", "hurdle")):
        np.testing.assert_allclose(values(model, "zero"), law[0], rtol=1e-9)
    if model.startswith("zero"):
        assert (values(model, "inflation") < law[0]).all()
        np.testing.assert_allclose(1 - values(model, "inflation"), values(model, "mean") / base, rtol=1e-12)
    if model.startswith("hurdle"):
        conditional = values(model, "mean") / (1 - law[0])
        np.testing.assert_allclose(values(model, "conditional"), conditional, rtol=1e-9)


def test_rate_of_a_hurdle_is_the_mean_at_exposure_one() -> None:
    fit = fitted("hurdle_poisson")
    np.testing.assert_allclose(
        values("hurdle_poisson", "rate"), fit.predict("mean", frame().assign(t=1.0)).values, rtol=1e-12
    )
    effect = fit.margins("x", what="rate")
    same = fit.margins("x", what="mean", data=frame().assign(t=1.0))
    np.testing.assert_allclose(effect.estimates, same.estimates, rtol=1e-8)
    np.testing.assert_allclose(effect.bse, same.bse, rtol=1e-7)
    # a change of the exposure changes the mean, not the rate
    assert fit.margins("t", what="rate").estimates[0] == 0
    assert fit.margins("t").estimates[0] > 0.1


def test_generalized_poisson_adds_up() -> None:
    fit = fitted("generalized_poisson")
    declared = quantities_of(fit.likelihood)["probability"]
    eta = np.stack([fit.predict("mu").values, np.full(N, np.log(fit.params["alpha"]))])[:, :20]
    law = [declared.function(eta, {}, np.full(20, float(j))) for j in range(3000)]
    np.testing.assert_allclose(np.sum(law, axis=0), 1.0, rtol=1e-9)
    np.testing.assert_allclose(np.arange(3000) @ law, fit.predict("mean").values[:20], rtol=1e-8)
    np.testing.assert_array_equal(fit.predict("probability[2]").values[:20], law[2])
    np.testing.assert_array_equal(fit.predict("rate").values, fit.predict("mean").values)


def test_probabilities_of_counts_are_statsmodels() -> None:
    data, fit = frame(), fitted("poisson")
    theirs = sm.Poisson(data["count"], sm.add_constant(data["x"]), exposure=data["t"]).fit(
        disp=0, method="newton", tol=1e-14
    )
    table = theirs.predict(which="prob", y_values=np.arange(4.0))
    for j in range(4):
        np.testing.assert_allclose(values("poisson", f"probability[{j}]"), table[:, j], rtol=1e-8)
    # dP(0)/dx = -b mu exp(-mu)
    mean = fit.predict("mean").values
    effect = fit.margins("x", what="probability[0]").estimates[0]
    assert effect == pytest.approx(-(fit.params["mu[x]"] * mean * np.exp(-mean)).mean(), rel=1e-9)


def test_beta_binomial_is_scipys() -> None:
    fit = fitted("beta_binomial")
    p, theta = special.expit(fit.predict("mu").values), fit.params["theta"]
    law = stats.betabinom(6, p * theta, (1 - p) * theta)
    for j in (0, 2, 6):
        np.testing.assert_allclose(values("beta_binomial", f"probability[{j}]"), law.pmf(j), rtol=1e-9)
    assert not values("beta_binomial", "probability[7]").any()
    np.testing.assert_allclose(values("beta_binomial", "share"), law.mean() / 6, rtol=1e-12)


# --- limited outcomes ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tobit", "interval_regression", "truncated_regression"])
@pytest.mark.parametrize(("a", "b"), [(-1.0, 1.5), (0.0, np.inf), (-np.inf, 1.0), (-np.inf, np.inf)])
def test_limits_by_integration(model: str, a: float, b: float) -> None:
    fit, i = fitted(model), 7
    mu = fit.predict("mu").values[i]
    sigma = np.exp(fit.predict("sigma").values[i]) if model == "tobit" else fit.params["sigma"]
    law = stats.norm(mu, sigma)
    low, high = max(a, mu - 10 * sigma), min(b, mu + 10 * sigma)
    mass = law.cdf(b) - law.cdf(a)
    first = integrate.quad(lambda y: y * law.pdf(y), low, high, epsabs=1e-14)[0]
    ends = (0.0 if np.isinf(a) else a * law.cdf(a)) + (0.0 if np.isinf(b) else b * law.sf(b))
    at = f"[{a:g},{b:g}]"
    assert values(model, "latent")[i] == mu
    assert values(model, "uncensored" + at)[i] == pytest.approx(mass, rel=1e-11)
    assert values(model, "conditional" + at)[i] == pytest.approx(first / mass, rel=1e-9)
    assert values(model, "expected" + at)[i] == pytest.approx(first + ends, rel=1e-9)


def test_limits_of_the_rows() -> None:
    for name in OWN:
        np.testing.assert_array_equal(values("tobit", name), values("tobit", f"{name}[0,2]"))
        np.testing.assert_array_equal(
            values("truncated_regression", name), values("truncated_regression", f"{name}[-0.5,inf]")
        )
    np.testing.assert_array_equal(values("tobit", "mean"), values("tobit", "expected"))
    for name, one in (("truncated_regression", "conditional"), ("interval_regression", "latent")):
        np.testing.assert_array_equal(values(name, "mean"), values(name, one))
    new = frame()[["x", "z"]].head(4)
    found = fitted("tobit").predict("expected", new)
    np.testing.assert_allclose(found.values, values("tobit", "mean")[:4], rtol=1e-12)
    with pytest.raises(SpecificationError, match=r"takes limits a < b.*'conditional\[0,inf\]'"):
        fitted("interval_regression").predict("conditional")
    # McDonald & Moffitt (1980): the share of an effect on y that reaches it through P(uncensored) = Phi
    fit = ml.fit(MODELS.tobit("latent ~ x", frame()))
    uncensored = fit.predict("uncensored").values.mean()
    assert fit.margins("x").estimates[0] == pytest.approx(uncensored * fit.params["mu[x]"], rel=1e-9)


def test_limits_far_from_zero() -> None:
    """Units do not matter: a shift of 200 standard deviations, by which the steps of differences grow."""
    data = frame().assign(far=lambda d: 1000 + 5 * d["latent"])
    fit = ml.fit(MODELS.tobit("far ~ x", data, lower=1000.0, upper=1010.0))
    near = ml.fit(MODELS.tobit("latent ~ x", data, lower=0.0, upper=2.0))
    for name, unit in (("uncensored", 1.0), ("expected", 5.0), ("conditional", 5.0)):
        np.testing.assert_allclose(fit.predict(name).bse, unit * near.predict(name).bse, rtol=1e-6)
        np.testing.assert_allclose(
            fit.margins("x", what=name).bse, unit * near.margins("x", what=name).bse, rtol=1e-5
        )


def test_limits_in_a_column() -> None:
    data = frame().assign(floor=lambda d: np.where(d["z"] > 0, 0.0, -0.5))
    fit = ml.fit(MODELS.tobit("latent ~ x", data, lower="floor"))
    law = stats.norm(fit.predict("mu").values, fit.params["sigma"])
    np.testing.assert_allclose(fit.predict("uncensored").values, law.sf(data["floor"]), rtol=1e-11)
    with pytest.raises(DataError, match="needs the column 'left'"):
        fit.predict("mean", data[["x"]])
    again = fit.predict("mean", data.rename(columns={"floor": "left"})[["x", "left"]])
    np.testing.assert_allclose(again.values, fit.predict("mean").values, rtol=1e-12)


# --- durations -----------------------------------------------------------------------------------


def duration_law(model: str, fit: Any) -> Any:
    mu, p = fit.predict("mu").values, fit.params
    if model.startswith("exponential"):
        return stats.expon(scale=np.exp(mu if model == "exponential" else -mu))
    if model == "weibull":
        return stats.weibull_min(1 / p["sigma"], scale=np.exp(mu))
    if model == "weibull_ph":
        return stats.weibull_min(p["shape"], scale=np.exp(-mu / p["shape"]))
    if model == "lognormal":
        return stats.lognorm(np.exp(fit.predict("sigma").values), scale=np.exp(mu))
    if model == "loglogistic":
        return stats.fisk(1 / p["sigma"], scale=np.exp(mu))
    if model == "gompertz":
        return stats.gompertz(np.exp(mu) / p["gamma"], scale=1 / p["gamma"])
    g = p["kappa"] ** -2
    return stats.gengamma(g, p["kappa"] / p["sigma"], scale=np.exp(mu) * g ** (-p["sigma"] / p["kappa"]))


DURATIONS = [m for m in FITS if "median" in FITS[m][1]]


@pytest.mark.parametrize("model", DURATIONS)
def test_durations_are_scipys(model: str) -> None:
    fit, time = fitted(model), frame()["time"].to_numpy()
    law = duration_law(model, fit)
    for t, at in ((time, ""), (np.full(N, 0.7), "[0.7]")):
        np.testing.assert_allclose(values(model, f"survival{at}"), law.sf(t), rtol=1e-9)
        np.testing.assert_allclose(values(model, f"hazard{at}"), law.pdf(t) / law.sf(t), rtol=1e-9)
        np.testing.assert_allclose(values(model, f"cumulative_hazard{at}"), -law.logsf(t), rtol=1e-9)
    np.testing.assert_allclose(values(model, "median"), law.median(), rtol=1e-9)
    np.testing.assert_allclose(values(model, "quantile[0.9]"), law.ppf(0.9), rtol=1e-9)
    np.testing.assert_allclose(values(model, "mean"), law.mean(), rtol=1e-7)
    if model == "lognormal":
        np.testing.assert_allclose(values(model, "variance"), law.var(), rtol=1e-9)
    new = fit.predict("survival[1.5]", frame().drop(columns=["time", "event"]))
    np.testing.assert_allclose(new.values, law.sf(1.5), rtol=1e-9)


@pytest.mark.parametrize("name", FITS["weibull"][1])
def test_forms_of_the_weibull_predict_the_same(name: str) -> None:
    one, other = fitted("weibull").predict(name), fitted("weibull_ph").predict(name)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-8)
    np.testing.assert_allclose(one.bse, other.bse, rtol=1e-6)


def test_times_of_rows_known_to_lie_between() -> None:
    data = frame().assign(low=lambda d: np.floor(d["time"]), high=lambda d: np.floor(d["time"]) + 1)
    fit = ml.fit(MODELS.weibull("low ~ x", data, upper="high"))
    law = duration_law("weibull", fit)
    np.testing.assert_allclose(fit.predict("survival").values, law.sf(data["low"]), rtol=1e-9)
    hazard = fit.predict("hazard").values
    assert (np.isnan(hazard) == (data["low"] == 0)).all() and np.isnan(hazard).any()


def test_durations_without_end_have_no_median() -> None:
    data = frame().assign(event=0.0, time=3.0)
    data.loc[:79, "time"], data.loc[:79, "event"] = 0.4 * frame()["time"], 1.0
    fit = ml.fit(MODELS.gompertz("time ~ 1", data, event="event"))
    assert fit.params["gamma"] < -0.5
    for name in ("mean", "median", "quantile[0.5]"):
        found = fit.predict(name)
        assert np.isposinf(found.values).all() and np.isnan(found.bse).all(), name
    # the share of those for whom it ends is what a quantile can be taken of
    early = fit.predict("quantile[0.1]")
    assert fit.predict(f"survival[{early.values[0]}]").values[0] == pytest.approx(0.9, rel=1e-12)
    assert np.isfinite(early.bse).all()


# --- continuous outcomes -------------------------------------------------------------------------


def continuous_law(model: str, fit: Any) -> Any:
    p = fit.params
    if model == "generalized_pareto":
        return stats.genpareto(p["shape"], scale=np.exp(fit.predict("sigma").values))
    mu = fit.predict("mu").values
    if model == "gaussian":
        return stats.norm(mu, np.exp(fit.predict("sigma").values))
    if model == "student_t":
        return stats.t(p["df"], mu, p["sigma"])
    if model == "gamma":
        shape = np.exp(fit.predict("shape").values)
        return stats.gamma(shape, scale=np.exp(mu) / shape)
    if model == "beta":
        return stats.beta(special.expit(mu) * p["phi"], special.expit(-mu) * p["phi"])
    return stats.genextreme(-p["shape"], mu, p["sigma"])


@pytest.mark.parametrize("model", ["gaussian", "student_t", "gamma", "beta", "gev", "generalized_pareto"])
def test_moments_are_scipys(model: str) -> None:
    fit = fitted(model)
    law = continuous_law(model, fit)
    np.testing.assert_allclose(values(model, "mean"), law.mean(), rtol=1e-9)
    np.testing.assert_allclose(values(model, "variance"), law.var(), rtol=1e-9)
    if "scale" in quantities_of(fit.likelihood):
        scale = np.broadcast_to(law.kwds.get("scale", law.args[-1]), (N,))
        np.testing.assert_allclose(values(model, "scale"), scale, rtol=1e-12)
    if model in ("gev", "generalized_pareto"):
        level = values(model, "return_level[50]")
        np.testing.assert_allclose(level, law.isf(1 / 50), rtol=1e-9)
        near = law.isf(1 / 1.01) if model == "gev" else law.ppf(0.01 / 1.01)
        np.testing.assert_allclose(values(model, "return_level[1.01]"), near, rtol=1e-9)


def test_moments_of_heavy_tails_are_infinite() -> None:
    fit = ml.fit(MODELS.generalized_pareto("excess ~ 1", frame(), shape="x"))
    model = fit.likelihood.model
    eta = np.array([[0.3] * 4, [0.4, 0.5, 0.999, 1.0]])
    mean, variance = (model.quantities[name].function(eta, {}) for name in ("mean", "variance"))
    np.testing.assert_allclose(mean, [np.exp(0.3) / 0.6, np.exp(0.3) / 0.5, np.exp(0.3) / 0.001, np.inf])
    np.testing.assert_allclose(variance, [np.exp(0.6) / 0.36 / 0.2, np.inf, np.inf, np.inf])
    mean, variance = gumbel_moments(np.array([0.49, 0.5, 0.99, 1.0, 3.0]))
    assert list(np.isinf(mean)) == [False, False, False, True, True]
    assert list(np.isinf(variance)) == [False, True, True, True, True]
    t = fitted("student_t").likelihood.model.quantities["variance"]
    found = t.function(np.array([[1.0] * 3, [0.2] * 3, np.log([2.0, 2.5, 1.0])]), {})
    np.testing.assert_allclose(found, [np.inf, np.exp(0.4) * 5, np.inf])


@pytest.mark.parametrize(
    "s", [-3.0, -0.3, -0.1000001, -0.0999999, -1e-3, -1e-9, 0.0, 1e-6, 0.03, 0.0999999, 0.4]
)
def test_moments_of_the_gev_do_not_cancel(s: float) -> None:
    mean, variance = (float(part[0]) for part in gumbel_moments(np.array([s])))
    with mpmath.workdps(90):
        shape = mpmath.mpf(s) if s else mpmath.mpf(10) ** -25
        one, two = mpmath.gamma(1 - shape), mpmath.gamma(1 - 2 * shape)
        assert mean == pytest.approx(float((one - 1) / shape), rel=1e-13)
        assert variance == pytest.approx(float((two - one**2) / shape**2), rel=2e-13)


def test_numbers_that_are_not_possible_are_refused() -> None:
    for model, name, message in (
        ("poisson", "probability", r"'probability' takes a count, as in 'probability\[2\]'\.$"),
        ("poisson", "probability[1.5]", r"takes a count.*got \[1\.5\]"),
        ("poisson", "probability[-1]", "takes a count"),
        ("poisson", "probability[inf]", "takes a count"),
        ("poisson", "probability[1,2]", r"takes a count.*got \[1,2\]"),
        ("poisson", "probability[two]", r"takes a count.*got \[two\]"),
        ("weibull", "survival[0]", "takes a time t > 0"),
        ("weibull", "survival[nan]", "takes a time t > 0"),
        ("weibull", "survival[inf]", "takes a time t > 0"),
        ("weibull", "quantile[1]", "takes a probability between 0 and 1"),
        ("tobit", "expected[2,1]", "takes limits a < b"),
        ("gev", "return_level[1]", "takes a period of more than one block"),
        ("gev", "return_level[inf]", "takes a period"),
    ):
        with pytest.raises(SpecificationError, match=message):
            fitted(model).predict(name)
    with pytest.raises(DataError, match="survival needs the column 'y'"):
        fitted("weibull").predict("survival", frame()[["x"]])
    assert fitted("weibull").predict("survival[2]").name == "survival[2]"
