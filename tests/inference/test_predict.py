"""Predictions, marginal effects and contrasts: statsmodels, closed forms, both kinds of errors."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from jax.scipy.stats import norm

import mlecov as ml
from mlecov.covariance.requests import Cluster
from mlecov.errors import DataError, InferenceError, SpecificationError
from mlecov.inference.multiple import simultaneous

PEERS = {"probit": sm.Probit, "logit": sm.Logit, "poisson": sm.Poisson}


def data_of(name: str) -> tuple[pd.DataFrame, str]:
    if name != "poisson":
        return ml.load("spector"), "grade ~ gpa + tuce + psi"
    rng = np.random.default_rng(6)
    frame = pd.DataFrame(rng.standard_normal((150, 3)), columns=["gpa", "tuce", "psi"])
    frame["psi"] = (frame["psi"] > 0).astype(float)
    mean = np.exp(0.3 + 0.4 * frame["gpa"] - 0.2 * frame["tuce"] + 0.5 * frame["psi"])
    return frame.assign(grade=rng.poisson(mean).astype(float)), "grade ~ gpa + tuce + psi"


@pytest.fixture(scope="module", params=list(PEERS))
def pair(request):
    frame, formula = data_of(request.param)
    X = sm.add_constant(frame[["gpa", "tuce", "psi"]])
    theirs = PEERS[request.param](frame["grade"], X).fit(disp=0, method="newton", tol=1e-13)
    return request.param, frame, X, ml.fit(getattr(ml.models, request.param)(formula, frame)), theirs


@pytest.mark.parametrize("at", ["overall", "mean", "median"])
def test_margins_are_statsmodels(pair, at: str) -> None:
    name, frame, X, fit, theirs = pair
    margeff = theirs.get_margeff(at=at)
    arrays = ml.fit(getattr(ml.models, name)(frame["grade"], X))
    for found in (fit.margins(at=at), arrays.margins(at=at)):
        assert [label.removeprefix("dydx ") for label in found.labels] == ["gpa", "tuce", "psi"]
        np.testing.assert_allclose(found.estimates, margeff.margeff, rtol=1e-10)
        np.testing.assert_allclose(found.bse, margeff.margeff_se, rtol=1e-9)


def test_contrasts_are_statsmodels_dummies(pair) -> None:
    _, _, _, fit, theirs = pair
    margeff = theirs.get_margeff(dummy=True)
    found = fit.margins(["gpa", "tuce"], contrasts={"psi": (0, 1)})
    assert found.labels == ("dydx gpa", "dydx tuce", "psi: 1 vs 0")
    np.testing.assert_allclose(found.estimates, margeff.margeff, rtol=1e-10)
    np.testing.assert_allclose(found.bse, margeff.margeff_se, rtol=1e-9)


def test_predictions_are_statsmodels(pair) -> None:
    name, frame, _, fit, theirs = pair
    found = fit.predict("mean")
    np.testing.assert_allclose(found.values, theirs.predict(), rtol=1e-10)
    gradient = theirs.predict()  # d mean / d b = f(x'b) x; the Poisson's and the logit's are known
    slope = {"poisson": gradient, "logit": gradient * (1 - gradient)}.get(name)
    if slope is not None:
        J = slope[:, None] * theirs.model.exog
        V = np.asarray(theirs.cov_params())
        np.testing.assert_allclose(found.bse, np.sqrt(np.einsum("nk,kl,nl->n", J, V, J)), rtol=1e-9)
    eta = fit.predict("predictor")
    np.testing.assert_allclose(
        eta.values, theirs.model.exog @ theirs.params.to_numpy(), rtol=1e-9, atol=1e-12
    )
    new = frame.iloc[:3]
    np.testing.assert_allclose(fit.predict("mean", new).values, found.values[:3], rtol=1e-13)
    assert list(fit.predict("mean", new).frame().index) == list(new.index)


# --- formulas with transformations, categories, interactions -------------------------------------


@pytest.fixture(scope="module")
def curved() -> tuple[pd.DataFrame, ml.Fit]:
    rng = np.random.default_rng(1)
    n = 300
    frame = pd.DataFrame(
        {"x": rng.uniform(1, 3, n), "w": rng.standard_normal(n), "z": rng.choice(list("abc"), n)}
    )
    mean = (
        1 + np.log(frame["x"]) + 0.3 * frame["x"] ** 2 + (frame["z"] == "b") + 0.5 * frame["x"] * frame["w"]
    )
    frame["y"] = mean + rng.standard_normal(n)

    def loglike(y, mu, sigma):
        return norm.logpdf(y, mu, sigma)

    params = {"mu": ml.linear("np.log(x) + I(x**2) + w + x:w + z"), "sigma": ml.positive()}
    return frame, ml.fit(ml.likelihood(loglike, frame, params))


def test_derivatives_pass_through_every_term(curved) -> None:
    frame, fit = curved
    b, x, w = fit.params, frame["x"].to_numpy(), frame["w"].to_numpy()
    gradient = np.zeros(fit.k)
    rows = {"mu[np.log(x)]": 1 / x, "mu[I(x ** 2)]": 2 * x, "mu[x:w]": w}
    for name, value in rows.items():
        gradient[list(b.index).index(name)] = value.mean()
    found = fit.margins("x", what="predictor")
    assert found.estimates[0] == pytest.approx(gradient @ b.to_numpy(), rel=1e-10)
    V = fit.cov_params().to_numpy()
    assert found.bse[0] == pytest.approx(np.sqrt(gradient @ V @ gradient), rel=1e-9)
    at_mean = fit.margins("x", what="predictor", at="mean")
    by_hand = b["mu[np.log(x)]"] / x.mean() + 2 * x.mean() * b["mu[I(x ** 2)]"] + w.mean() * b["mu[x:w]"]
    assert at_mean.estimates[0] == pytest.approx(by_hand, rel=1e-10)


def test_categories_give_contrasts(curved) -> None:
    _, fit = curved
    found = fit.margins("z", what="predictor")
    assert found.labels == ("z: b vs a", "z: c vs a")
    np.testing.assert_allclose(found.estimates, fit.params[["mu[z[T.b]]", "mu[z[T.c]]"]], rtol=1e-11)
    np.testing.assert_allclose(found.bse, fit.bse[["mu[z[T.b]]", "mu[z[T.c]]"]], rtol=1e-11)


def test_user_functions_of_parameters_and_data(curved) -> None:
    """E exp(y) = exp(mu + sigma^2/2), traced and by differences; and a function that reads a column."""
    frame, fit = curved

    def traced(mu, sigma):
        return jnp.exp(mu + sigma**2 / 2)

    def plain(mu, sigma):
        return np.exp(np.asarray(mu) + np.asarray(sigma) ** 2 / 2)

    a, b = fit.margins(what=traced), fit.margins(what=plain)
    np.testing.assert_allclose(b.estimates, a.estimates, rtol=1e-9)
    np.testing.assert_allclose(b.bse, a.bse, rtol=1e-7)
    mu = fit.predict("mu").values
    np.testing.assert_allclose(
        fit.predict(traced).values, np.exp(mu + fit.params["sigma"] ** 2 / 2), rtol=1e-12
    )
    scaled = fit.margins("w", what=lambda mu, w: mu * w)
    eta_w = fit.params["mu[w]"] + fit.params["mu[x:w]"] * frame["x"]
    assert scaled.estimates[0] == pytest.approx((mu + frame["w"] * eta_w).mean(), rel=1e-9)


def test_values_held(curved) -> None:
    frame, fit = curved
    found = fit.margins("w", what="predictor", at={"x": 2.0})
    assert found.estimates[0] == pytest.approx(fit.params["mu[w]"] + 2 * fit.params["mu[x:w]"], rel=1e-12)
    held = fit.margins(what="mu", at={"z": "b"}, contrasts={"x": (1, 2, 3)})
    assert held.labels == ("x: 2 vs 1", "x: 3 vs 1")
    new = frame.assign(x=2.0).iloc[:5]
    direct = fit.predict("mu", new).values - fit.predict("mu", new.assign(x=1.0)).values
    on_new = fit.margins(what="mu", data=new, contrasts={"x": (1, 2)})
    assert on_new.estimates[0] == pytest.approx(direct.mean(), rel=1e-12)


def test_two_equations_and_offsets() -> None:
    """The mean of y depends on x through mu; sigma ~ x does not move it; an exposure in logs does."""
    rng = np.random.default_rng(9)
    x, t = rng.uniform(0.5, 2, (2, 200))
    frame = {"x": x, "t": t, "y": rng.poisson(t * np.exp(0.2 + 0.5 * x)).astype(float)}
    fit = ml.fit(ml.models.poisson("y ~ x + exposure(t)", frame))
    mean = fit.predict("mean").values
    np.testing.assert_allclose(
        mean, t * np.exp(fit.params["mu[Intercept]"] + fit.params["mu[x]"] * x), rtol=1e-12
    )
    found = fit.margins(["x", "t"])
    np.testing.assert_allclose(
        found.estimates, [fit.params["mu[x]"] * mean.mean(), (mean / t).mean()], rtol=1e-9
    )
    two = ml.fit(ml.models.gaussian("y ~ x", frame, sigma="x"))
    np.testing.assert_allclose(two.margins("x").bse, two.bse[["mu[x]"]], rtol=1e-9)
    assert two.margins("x", what="sigma").estimates[0] == pytest.approx(two.params["sigma[x]"], rel=1e-10)


def test_a_mean_of_two_predictors() -> None:
    """Heteroskedastic probit: Phi(mu exp(-sigma)) crosses its predictors; against autodiff."""
    rng = np.random.default_rng(13)
    x, z = rng.standard_normal((2, 500))
    y = (0.3 + x + 0.4 * z + np.exp(0.3 * x) * rng.standard_normal(500) > 0).astype(float)
    frame = {"x": x, "z": z, "y": y}
    fit = ml.fit(ml.models.heteroskedastic_probit("y ~ x + z", frame, sigma="x"))

    def probability(mu, sigma):
        return norm.cdf(mu * jnp.exp(-sigma))

    ours, exact = fit.margins(), fit.margins(what=probability)
    np.testing.assert_allclose(ours.estimates, exact.estimates, rtol=1e-9)
    np.testing.assert_allclose(ours.bse, exact.bse, rtol=1e-7)


# --- unconditional errors ------------------------------------------------------------------------


def test_unconditional_errors_are_the_stacked_sandwich() -> None:
    """The average as one more moment: stacked estimating equations give the same covariance."""
    frame, formula = data_of("poisson")
    fit = ml.fit(ml.models.poisson(formula, frame))
    found = fit.margins("gpa", unconditional=True, cov="robust")
    X = sm.add_constant(frame[["gpa", "tuce", "psi"]]).to_numpy()
    b, n = fit.params.to_numpy(), len(frame)
    mean = np.exp(X @ b)
    rows = mean * b[1]
    psi = np.column_stack([(frame["grade"].to_numpy() - mean)[:, None] * X, rows - rows.mean()])
    bread = np.zeros((5, 5))
    bread[:4, :4] = X.T @ (mean[:, None] * X)
    bread[4, :4] = -(rows @ X + mean.sum() * np.eye(4)[1])
    bread[4, 4] = n
    inverse = np.linalg.inv(bread)
    V = inverse @ (psi.T @ psi) @ inverse.T
    assert found.bse[0] == pytest.approx(np.sqrt(V[4, 4]), rel=1e-9)
    assert found.bse[0] != pytest.approx(fit.margins("gpa", cov="robust").bse[0], rel=1e-4)


def test_frequency_weights_are_repeated_rows() -> None:
    frame, formula = data_of("poisson")
    counts = np.random.default_rng(2).integers(1, 4, len(frame))
    weighted = ml.fit(ml.models.poisson(formula, frame, frequency_weights=counts))
    longer = frame.loc[np.repeat(frame.index, counts)].reset_index(drop=True)
    repeated = ml.fit(ml.models.poisson(formula, longer))
    for options in ({}, {"at": "mean"}, {"unconditional": True, "cov": "robust"}):
        a, b = weighted.margins(**options), repeated.margins(**options)
        np.testing.assert_allclose(a.estimates, b.estimates, rtol=1e-9)
        np.testing.assert_allclose(a.bse, b.bse, rtol=1e-8)


def test_unconditional_by_cluster_of_singletons() -> None:
    frame, formula = data_of("poisson")
    frame = frame.assign(id=np.arange(len(frame)))
    fit = ml.fit(ml.models.poisson(formula, frame))
    robust = fit.margins("gpa", unconditional=True, cov="robust")
    cluster = fit.margins("gpa", unconditional=True, cov=Cluster("id", type="CR0"))
    assert cluster.bse[0] == pytest.approx(robust.bse[0], rel=1e-12)
    assert "id" in cluster.method


# --- refusals and display ------------------------------------------------------------------------


def test_refusals(curved) -> None:
    frame, fit = curved
    with pytest.raises(SpecificationError, match=r"knows no mean.*lambda mu, sigma"):
        fit.predict("mean")
    with pytest.raises(SpecificationError, match="'sgma'"):
        fit.predict("sgma")
    with pytest.raises(SpecificationError, match=r"'q'.*neither a parameter nor a column"):
        fit.predict(lambda mu, q: mu * q)
    with pytest.raises(SpecificationError, match=r"shape \(2,\)"):
        fit.predict(lambda mu: mu[:2])
    with pytest.raises(DataError, match="'w'"):
        fit.predict("mu", frame[["x", "z"]])
    with pytest.raises(DataError, match="'xx'"):
        fit.margins("xx", what="mu")
    with pytest.raises(SpecificationError, match=r"no level 'd'"):
        fit.margins(what="mu", contrasts={"z": ("a", "d")})
    with pytest.raises(SpecificationError, match="two values"):
        fit.margins(what="mu", contrasts={"x": (1,)})
    with pytest.raises(SpecificationError, match=r"'average' is not known"):
        fit.margins("x", what="mu", at="average")
    with pytest.raises(InferenceError, match="overall"):
        fit.margins("x", what="mu", at="mean", unconditional=True)
    arrays = ml.fit(ml.models.gaussian(frame["y"].to_numpy(), np.column_stack([np.ones(300), frame["x"]])))
    with pytest.raises(DataError, match=r"\(n, 2\)"):
        arrays.predict("mean", np.ones((3, 5)))
    assert arrays.predict("mean", np.ones((3, 2))).values.shape == (3,)


def test_displays(curved) -> None:
    _, fit = curved
    found = fit.predict("mu")
    assert "First 10 of 300 rows" in str(found) and np.asarray(found).shape == (300,)
    margins = fit.margins(what="mu")
    for form in ("text", "html", "latex", "csv", "json"):
        assert "dydx x" in margins.render(form)
    joint = simultaneous(margins)
    assert "simultaneously" in str(joint)
