"""Profile likelihood: published intervals, closed forms, ends that do not close, contours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import gammaln
from jax.scipy.stats import norm
from scipy import stats

import mlecov as ml
from mlecov.errors import InferenceError, SpecificationError
from tests.cases import load_case


def beta_binomial(m, n, D, p, theta):
    q = D @ p
    a, b = q * theta, (1 - q) * theta
    choose = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1)
    top = gammaln(m + a) + gammaln(n - m + b) - gammaln(n + theta)
    return choose + top - gammaln(a) - gammaln(b) + gammaln(theta)


@pytest.fixture(scope="module")
def orob() -> ml.Fit:
    data = load_case("orob1_betabinomial").data
    group = [list(dict.fromkeys(data["dilution"])).index(g) for g in data["dilution"]]
    columns = {"m": data["m"], "n": data["n"], "D": np.eye(3)[group]}
    params = {"p": ml.interval(0, 1, start=np.full(3, 0.5)), "theta": ml.positive(10.0)}
    return ml.fit(ml.likelihood(beta_binomial, columns, params))


def test_published_intervals_of_orob1(orob: ml.Fit) -> None:
    case = load_case("orob1_betabinomial").raw
    found = orob.profile([f"p[{i}]" for i in range(3)] + ["theta"], points=0)
    for i in range(3):
        printed = case["profile_95"][f"prob{i + 1}"]
        np.testing.assert_allclose(found[f"p[{i}]"].interval, printed, rtol=2e-8)
        peer = case["profile_95"]["peer_bbmle_uniroot"][f"prob{i + 1}"]
        np.testing.assert_allclose(found[f"p[{i}]"].interval, peer, atol=4e-5)
    theta = found["theta"]
    assert np.log(theta.lower) == pytest.approx(case["profile_95"]["log_theta"][0], rel=1e-9)
    assert theta.upper == np.inf and not theta.closed
    assert "flattens" in theta.upper_reason and theta.lower_reason == ""
    assert "theta: no limit above" in found.display().text()


def mixed(y, X, b, s0, s1, rho, sigma, n_units):
    y, X = y.reshape(n_units, -1), X.reshape(n_units, -1, 2)
    G = jnp.array([[s0**2, rho * s0 * s1], [rho * s0 * s1, s1**2]])
    V = X[0] @ G @ X[0].T + sigma**2 * jnp.eye(X.shape[1])
    L = jnp.linalg.cholesky(V)
    r = jax.scipy.linalg.solve_triangular(L, (y - X @ b).T, lower=True)
    return -0.5 * (r**2).sum(axis=0) - jnp.log(jnp.diag(L)).sum() - 0.5 * X.shape[1] * jnp.log(2 * jnp.pi)


@pytest.fixture(scope="module")
def sleep() -> ml.Fit:
    data = load_case("sleepstudy_lmm").data.rename(columns=str.lower)
    columns = {
        "y": data["reaction"],
        "X": np.column_stack([np.ones(len(data)), data["days"]]),
        "id": data["subject"],
    }
    params = {
        "b": np.array([250.0, 10.0]),
        "s0": ml.positive(20.0),
        "s1": ml.positive(5.0),
        "rho": ml.interval(-1, 1),
        "sigma": ml.positive(25.0),
    }
    return ml.fit(ml.likelihood(mixed, columns, params, unit="id"))


def test_published_intervals_of_sleepstudy(sleep: ml.Fit) -> None:
    case = load_case("sleepstudy_lmm").raw["profile_95"]
    names = {
        "b[0]": "(Intercept)",
        "b[1]": "days",
        "s0": "sd_Intercept",
        "s1": "sd_days",
        "rho": "cor",
        "sigma": "sigma",
    }
    found = sleep.profile(list(names), points=0)
    for ours, theirs in names.items():
        np.testing.assert_allclose(found[ours].interval, case["computed"][theirs], rtol=1e-7)
        np.testing.assert_allclose(found[ours].interval, case["lme4"][theirs], rtol=5e-5)
        assert found[ours].closed


# --- where the profile is known in closed form ---------------------------------------------------


@pytest.fixture(scope="module")
def gaussian() -> ml.Fit:
    rng = np.random.default_rng(7)
    x = rng.standard_normal(80)
    return ml.fit(ml.models.gaussian("y ~ x", {"y": 1 + x + rng.standard_normal(80), "x": x}))


def test_gaussian_profile_is_the_t_statistic(gaussian: ml.Fit) -> None:
    """2 (l_max - l_p(b)) = n log(1 + t^2 / n) with t^2 = (b - bhat)^2 / (sigma^2 (X'X)^-1)."""
    found = gaussian.profile("mu[x]")
    n, se = 80, gaussian.bse["mu[x]"]
    t = (found.values - found.estimate) / se
    np.testing.assert_allclose(found.signed_root, np.sign(t) * np.sqrt(n * np.log1p(t**2 / n)), atol=1e-6)
    reach = se * np.sqrt(n * np.expm1(stats.chi2.ppf(0.95, 1) / n))
    np.testing.assert_allclose(found.interval, found.estimate + reach * np.array([-1, 1]), rtol=1e-9)
    assert gaussian.signed_root("mu[x]", found.upper) == pytest.approx(stats.norm.ppf(0.975), rel=1e-8)
    assert found.at(found.lower) == pytest.approx(-stats.norm.ppf(0.975), rel=1e-8)
    wide = gaussian.profile("mu[x]", alpha=0.01, points=0)
    assert wide.lower < found.lower and wide.upper > found.upper
    assert found.frame()["loglike"].max() == gaussian.llf


def test_profile_of_the_only_parameter() -> None:
    """Poisson with one rate: 2 n (ybar log(ybar/l) - ybar + l) = chi2."""
    y = np.array([0.0, 3.0, 2.0, 1.0, 4.0, 2.0])
    fit = ml.fit(
        ml.likelihood(
            lambda y, rate: y * jnp.log(rate) - rate - gammaln(y + 1), {"y": y}, {"rate": ml.positive()}
        )
    )
    found = fit.profile("rate", points=0)
    for end in found.interval:
        deviance = 2 * len(y) * (y.mean() * np.log(y.mean() / end) - y.mean() + end)
        assert deviance == pytest.approx(stats.chi2.ppf(0.95, 1), rel=1e-9)


def test_constraints_stay_in_force(gaussian: ml.Fit) -> None:
    tied = ml.fit(gaussian.likelihood, constraints=["mu[Intercept] = mu[x]"])
    found = tied.profile("mu[x]", points=0)
    again = tied.profile("mu[Intercept]", points=0)
    np.testing.assert_allclose(found.interval, again.interval, rtol=1e-8)


def test_contour_of_a_gaussian_is_its_ellipse(gaussian: ml.Fit) -> None:
    found = gaussian.contour("mu[Intercept]", "mu[x]", directions=8)
    V = gaussian.cov_params().iloc[:2, :2].to_numpy()
    d = found.points - gaussian.params.to_numpy()[:2]
    q = np.einsum("ri,ij,rj->r", d, np.linalg.inv(V), d)
    np.testing.assert_allclose(80 * np.log1p(q / 80), stats.chi2.ppf(0.95, 2), rtol=1e-7)
    assert found.closed and len(found.frame()) == 8 and "mu[x]" in str(found)


def test_open_contour_is_reported(orob: ml.Fit) -> None:
    found = orob.contour("p[0]", "theta", directions=8)
    assert not found.closed and np.isnan(found.points).any() and "Open in" in str(found)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("sgma", SpecificationError, ["'sgma'", "sigma"]),
        ("mu", SpecificationError, ["mu[Intercept]", "mu[x]"]),
        ([], SpecificationError, ["empty"]),
    ],
)
def test_unknown_names(gaussian: ml.Fit, name, error, words) -> None:
    with pytest.raises(error) as caught:
        gaussian.profile(name)
    for word in words:
        assert word in str(caught.value)


def test_values_on_the_bound_and_fixed_entries(gaussian: ml.Fit) -> None:
    with pytest.raises(InferenceError, match="range of sigma"):
        gaussian.signed_root("sigma", 0.0)
    with pytest.raises(InferenceError, match="fixed"):
        ml.fit(gaussian.likelihood, fixed={"sigma": 1.0}).profile("sigma")
    with pytest.raises(SpecificationError, match="two different"):
        gaussian.contour("sigma", "sigma")
    with pytest.raises(InferenceError, match="alpha"):
        gaussian.profile("sigma", alpha=1.5)


def test_probability_weights_are_refused() -> None:
    x = np.random.default_rng(2).standard_normal((2, 50))
    lik = ml.models.gaussian("y ~ x", {"y": x[0], "x": x[1]}, probability_weights=np.linspace(1, 2, 50))
    with pytest.raises(InferenceError, match="probability weights"):
        ml.fit(lik).profile("sigma")


def test_a_higher_point_is_an_error_not_an_interval() -> None:
    """A fit at the lower of two maxima: its profile finds the higher one and says so."""

    def loglike(y, m):
        return jnp.logaddexp(jnp.log(0.3) + norm.logpdf(y, m, 1.0), jnp.log(0.7) + norm.logpdf(y, -m, 1.0))

    y = np.random.default_rng(3).normal(3, 1, 40)
    lik = ml.likelihood(loglike, {"y": y}, {"m": 1.0})
    low = ml.fit(lik, start={"m": 2.5})
    assert low.params["m"] > 0 and ml.fit(lik, start={"m": -2.5}).llf > low.llf
    with pytest.raises(InferenceError, match="local maximum"):
        low.profile("m").at(-3.0)
