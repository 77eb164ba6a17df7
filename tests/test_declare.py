"""likelihood(...): frames of every library, kinds, formulas, equations, units, constants, weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from jax.scipy.stats import norm

import mlecov as ml
from mlecov.errors import DataError, MissingDataWarning, NumericDerivativeWarning, SpecificationError

RNG = np.random.default_rng(17)
N = 300


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(17)
    x, z = rng.standard_normal((2, N))
    g = rng.choice(["north", "south", "west"], N)
    y = 0.5 + x - 0.5 * (g == "west") + np.exp(0.3 * z) * rng.standard_normal(N)
    return pd.DataFrame({"y": y, "x": x, "z": z, "g": g, "t": rng.random(N) + 0.5})


def normal(y: Any, mu: Any, sigma: Any) -> Any:
    return norm.logpdf(y, mu, sigma)


def test_every_frame_gives_the_same_fit() -> None:
    data = frame()
    reference = ml.fit(ml.likelihood(normal, data, {"mu": ml.linear("x + C(g)"), "sigma": ml.positive()}))
    assert list(reference.params.index) == [
        "mu[Intercept]",
        "mu[x]",
        "mu[C(g)[T.south]]",
        "mu[C(g)[T.west]]",
        "sigma",
    ]
    others = [
        pl.from_pandas(data),
        pa.Table.from_pandas(data),
        {name: data[name].to_numpy() for name in data},
        data.assign(g=data["g"].astype("category")),
    ]
    for other in others:
        fit = ml.fit(ml.likelihood(normal, other, {"mu": ml.linear("x + C(g)"), "sigma": ml.positive()}))
        np.testing.assert_allclose(fit.params, reference.params, rtol=1e-12)
        np.testing.assert_allclose(fit.bse, reference.bse, rtol=1e-12)


def test_least_squares_by_hand() -> None:
    """The Gaussian likelihood's b is least squares, sigma^2 = RSS/n, their information X'X / sigma^2."""
    data = frame()
    fit = ml.fit(ml.likelihood(normal, data, {"mu": ml.linear("x + z"), "sigma": ml.positive()}))
    X = np.column_stack([np.ones(N), data["x"], data["z"]])
    b, rss = np.linalg.lstsq(X, data["y"], rcond=None)[:2]
    np.testing.assert_allclose(fit.params[:3], b, rtol=1e-11)
    assert fit.params["sigma"] ** 2 == pytest.approx(rss[0] / N, rel=1e-11)
    np.testing.assert_allclose(fit.information[:3, :3], X.T @ X / (rss[0] / N), rtol=1e-10)
    assert fit.bse["sigma"] == pytest.approx(fit.params["sigma"] / np.sqrt(2 * N), rel=1e-10)


def test_second_equation_interaction_offset_exposure() -> None:
    data = frame()
    count = data.assign(y=np.random.default_rng(1).poisson(data["t"] * np.exp(0.3 * data["x"])).astype(float))

    def poisson(y: Any, mu: Any) -> Any:
        return y * mu - jnp.exp(mu) - jax.scipy.special.gammaln(y + 1)

    by_hand = ml.fit(ml.likelihood(poisson, count, {"mu": ml.linear("x*z + exposure(t)")}))
    count["logt"] = np.log(count["t"])
    for formula, options in (
        ("x*z + offset(logt)", {}),
        ("x + z + x:z", {"offset": "logt"}),
        ("offset(np.log(t)) + x*z", {}),
    ):
        other = ml.fit(ml.likelihood(poisson, count, {"mu": ml.linear(formula, **options)}))
        np.testing.assert_allclose(other.params, by_hand.params, rtol=1e-10)
    ready = ml.fit(ml.models.poisson("y ~ x*z", count, exposure="t"))
    np.testing.assert_allclose(ready.params, by_hand.params, rtol=1e-9)
    np.testing.assert_allclose(ready.bse, by_hand.bse, rtol=1e-8)
    two = ml.fit(ml.likelihood(normal_log, data, {"mu": ml.linear("x"), "tau": ml.linear("z")}))
    ready = ml.fit(ml.models.gaussian("y ~ x", data, sigma="z"))
    np.testing.assert_allclose(two.params, ready.params, rtol=1e-8)
    for name in ("oim", "opg", "robust"):
        np.testing.assert_allclose(two.cov(name).bse, ready.cov(name).bse, rtol=1e-8)


def normal_log(y: Any, mu: Any, tau: Any) -> Any:
    return norm.logpdf(y, mu, jnp.exp(tau))


def test_vector_equations() -> None:
    """linear(f, equations=[...]) reaches the function as (n, E): a multinomial logit by hand."""
    data = frame()
    data["k"] = np.random.default_rng(2).integers(0, 3, N).astype(float)

    def mnl(k: Any, eta: Any) -> Any:
        full = jnp.concatenate([jnp.zeros((len(k), 1)), eta], axis=1)
        return jnp.take_along_axis(full, k[:, None].astype(int), axis=1)[:, 0] - jax.scipy.special.logsumexp(
            full, axis=1
        )

    fit = ml.fit(ml.likelihood(mnl, data, {"eta": ml.linear("x", equations=["one", "two"])}))
    assert list(fit.params.index) == ["eta.one[Intercept]", "eta.one[x]", "eta.two[Intercept]", "eta.two[x]"]
    import statsmodels.api as sm

    peer = sm.MNLogit(data["k"], sm.add_constant(data["x"])).fit(disp=0, method="newton", tol=1e-12)
    np.testing.assert_allclose(fit.params, peer.params.to_numpy().T.ravel(), rtol=1e-6)
    np.testing.assert_allclose(fit.bse, peer.bse.to_numpy().T.ravel(), rtol=1e-6)


@pytest.mark.parametrize("separable", [None, False])
def test_every_kind_reaches_the_function_and_is_reported(separable: bool | None) -> None:
    rng = np.random.default_rng(3)
    L = np.array([[1.0, 0.0], [0.5, 0.8]])
    Y = rng.standard_normal((400, 2)) @ L.T + [1.0, -1.0]

    def mvn(Y: Any, m: Any, S: Any) -> Any:
        inverse, e = jnp.linalg.inv(S), Y - m
        return -0.5 * jnp.einsum("ni,ij,nj->n", e, inverse, e) - 0.5 * jnp.linalg.slogdet(2 * jnp.pi * S)[1]

    fit = ml.fit(ml.likelihood(mvn, {"Y": Y}, {"m": np.zeros(2), "S": ml.covariance(2)}, separable=separable))
    assert list(fit.params.index) == ["m[0]", "m[1]", "S[0,0]", "S[1,0]", "S[1,1]"]
    e = Y - Y.mean(0)
    np.testing.assert_allclose(fit.values["S"], e.T @ e / 400, rtol=1e-9)
    # Wishart: var(s_ij) = (s_ii s_jj + s_ij^2)/n
    S = e.T @ e / 400
    expected = np.sqrt([2 * S[0, 0] ** 2, S[0, 0] * S[1, 1] + S[0, 1] ** 2, 2 * S[1, 1] ** 2]) / 20
    np.testing.assert_allclose(fit.bse[2:], expected, rtol=1e-8)
    assert np.isnan(fit.pvalues["S[0,0]"]) and not np.isnan(fit.pvalues["S[1,0]"])


def test_simplex_and_interval() -> None:
    k = np.repeat([0.0, 1.0, 2.0], [50, 30, 20])

    def categorical(k: Any, p: Any) -> Any:
        return jnp.log(p[k.astype(int)])

    fit = ml.fit(ml.likelihood(categorical, {"k": k}, {"p": ml.simplex(3)}))
    np.testing.assert_allclose(fit.values["p"], [0.5, 0.3, 0.2], rtol=1e-10)
    np.testing.assert_allclose(fit.bse, np.sqrt([0.25, 0.21, 0.16]) / 10, rtol=1e-9)
    assert fit.k == 2 and len(fit.params) == 3
    intervals = fit.conf_int()
    assert (intervals[0] > 0).all() and (intervals[1] < 1).all()

    def bernoulli(k: Any, p: Any) -> Any:
        return jnp.where(k > 1, jnp.log(p), jnp.log1p(-p))

    fit = ml.fit(ml.likelihood(bernoulli, {"k": k}, {"p": ml.interval(0, 1)}))
    assert fit.params["p"] == pytest.approx(0.2, rel=1e-10)
    assert fit.bse["p"] == pytest.approx(0.04, rel=1e-9)


def test_fixed_kind_and_fixed_option_agree() -> None:
    data = frame()
    declared = ml.fit(ml.likelihood(normal, data, {"mu": ml.linear("x"), "sigma": ml.fixed(2.0)}))
    asked = ml.fit(
        ml.likelihood(normal, data, {"mu": ml.linear("x"), "sigma": ml.positive()}), fixed={"sigma": 2.0}
    )
    assert declared.k == asked.k == 2
    np.testing.assert_allclose(asked.params, declared.params, rtol=1e-12)
    np.testing.assert_allclose(asked.bse, declared.bse, rtol=1e-10)
    assert np.isnan(asked.bse["sigma"]) and "(fixed)" in asked.summary().text()


def test_constraints_are_the_reparametrised_model() -> None:
    """theta = R phi + r: estimates, every covariance and k equal those of the model in phi."""
    data = frame()
    lik = ml.likelihood(normal, data, {"mu": ml.linear("x + z"), "sigma": ml.positive()})
    tied = ml.fit(lik, constraints=["mu[x] = mu[z]"])
    data["sum"] = data["x"] + data["z"]
    small = ml.fit(ml.likelihood(normal, data, {"mu": ml.linear("sum"), "sigma": ml.positive()}))
    assert tied.k == small.k == 3 and tied.llf == pytest.approx(small.llf, rel=1e-12)
    assert tied.aic == pytest.approx(small.aic, rel=1e-12)
    for name in ("oim", "opg", "robust", "HC1"):
        a, b = tied.cov(name).bse, small.cov(name).bse
        np.testing.assert_allclose(a, [b[0], b[1], b[1], b[2]], rtol=1e-8, err_msg=name)
    affine = ml.fit(lik, constraints=["2*mu[x] - mu[z] = 1", "sigma = 1.5"])
    data["u"], data["shift"] = data["x"] + 2 * data["z"], -data["z"]
    direct = ml.fit(
        ml.likelihood(normal, data, {"mu": ml.linear("u", offset="shift"), "sigma": ml.fixed(1.5)})
    )
    assert affine.llf == pytest.approx(direct.llf, rel=1e-12)
    assert affine.params["mu[z]"] == pytest.approx(2 * affine.params["mu[x]"] - 1, rel=1e-10)


def two_sigmas(y: Any, t: Any, mu: Any, s1: Any, s2: Any) -> Any:
    return norm.logpdf(y, mu, jnp.where(t > 1, s1, s2))


def test_ties_of_one_kind_and_refusals() -> None:
    data = frame()
    params = {"mu": ml.linear("x"), "s1": ml.positive(), "s2": ml.positive()}
    lik = ml.likelihood(two_sigmas, data, params)
    tied = ml.fit(lik, constraints=["s1 = s2"])
    assert tied.params["s1"] == pytest.approx(tied.params["s2"], rel=1e-14)
    plain = ml.fit(ml.likelihood(normal, data, {"mu": ml.linear("x"), "sigma": ml.positive()}))
    np.testing.assert_allclose(tied.params[:3], plain.params, rtol=1e-9)
    with pytest.raises(SpecificationError, match="not linear on the unconstrained scale of s1, s2"):
        ml.fit(lik, constraints=["s1 = 2*s2"])
    with pytest.raises(SpecificationError, match="contradict"):
        ml.fit(lik, constraints=["mu[x] = 1", "mu[x] = 2"])
    with pytest.raises(SpecificationError, match="Did you mean 'mu"):
        ml.fit(lik, constraints=["mu[xx] = 1"])


def test_constants_columns_and_defaults() -> None:
    data = frame().rename(columns={"y": "income.1"})

    def scaled(y: Any, mu: Any, sigma: Any, scale: Any, extra: Any = 0.0) -> Any:
        return norm.logpdf(y * scale, mu + extra, sigma) + jnp.log(scale)

    fit = ml.fit(
        ml.likelihood(
            scaled,
            data,
            {"mu": ml.linear("x"), "sigma": ml.positive()},
            constants={"scale": 10.0},
            columns={"y": "income.1"},
        )
    )
    plain = ml.fit(ml.models.gaussian("y ~ x", frame()))
    assert fit.llf == pytest.approx(plain.llf, rel=1e-10)
    assert fit.params["mu[x]"] == pytest.approx(10 * plain.params["mu[x]"], rel=1e-9)


def test_drop_first_conditions_on_rows() -> None:
    rng = np.random.default_rng(8)
    y = np.zeros(200)
    for t in range(1, 200):
        y[t] = 0.6 * y[t - 1] + rng.standard_normal()

    def ar1(y: Any, rho: Any, sigma: Any) -> Any:
        before = jnp.concatenate([jnp.zeros(1), y[:-1]])
        return norm.logpdf(y, rho * before, sigma)

    lik = ml.likelihood(ar1, {"y": y}, {"rho": 0.0, "sigma": ml.positive()}, drop_first=1)
    assert lik.n_terms == 199 and not lik.separable
    fit = ml.fit(lik)
    assert fit.params["rho"] == pytest.approx(y[1:] @ y[:-1] / (y[:-1] @ y[:-1]), rel=1e-10)


def test_missing_values_are_refused_or_dropped_once_for_all() -> None:
    data = frame()
    data.loc[3, "x"] = np.nan
    data.loc[7, "g"] = None
    data.loc[9, "t"] = np.nan  # not used
    params = {"mu": ml.linear("x"), "tau": ml.linear("C(g)")}
    with pytest.raises(DataError, match=r"'x' \(1\).*'g' \(1\).*2 of 300"):
        ml.likelihood(normal_log, data, params)
    with pytest.warns(MissingDataWarning, match="2 of 300 rows dropped"):
        lik = ml.likelihood(normal_log, data, params, missing="drop")
    assert lik.n_terms == 298
    fit, clean = ml.fit(lik), ml.fit(ml.likelihood(normal_log, data.drop([3, 7]), params))
    np.testing.assert_allclose(fit.params, clean.params, rtol=1e-12)
    assert "2 rows dropped" in fit.summary().text()
    codes, labels = fit.likelihood.rows.codes(np.arange(300) % 5, "cluster")
    assert len(codes) == 298 and labels[codes[3]] == 4  # the mask is applied: row 3 is gone


def test_numpy_functions_are_differenced_with_a_warning() -> None:
    from scipy.special import log_ndtr

    def probit(y: Any, mu: Any) -> Any:
        return log_ndtr((2 * y - 1) * mu)

    data = frame()
    data["y"] = (data["y"] > 0).astype(float)
    with pytest.warns(NumericDerivativeWarning, match="can not be traced"):
        lik = ml.likelihood(probit, data, {"mu": ml.linear("x + z")})
    assert lik.facts.engine == "index, numeric"
    fit, ready = ml.fit(lik), ml.fit(ml.models.probit("y ~ x + z", data))
    np.testing.assert_allclose(fit.params, ready.params, rtol=1e-9)
    for name in ("oim", "opg", "robust"):
        np.testing.assert_allclose(fit.cov(name).bse, ready.cov(name).bse, rtol=1e-8)


def test_many_levels_stay_categorical_and_change_nothing() -> None:
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"x": rng.standard_normal(2000), "g": rng.integers(0, 40, 2000)})
    data["y"] = (data["x"] + 0.05 * data["g"] + rng.standard_normal(2000) > 1).astype(float)
    lik = ml.models.logit("y ~ x + C(g)", data)
    assert not lik.design.is_dense
    dummies = pd.get_dummies(data["g"], drop_first=True, dtype=float)
    X = np.column_stack([np.ones(2000), data["x"], dummies])
    a, b = ml.fit(lik), ml.fit(ml.models.logit(data["y"].to_numpy(), X))
    assert list(a.params.index[-3:]) == ["mu[C(g)[T.37]]", "mu[C(g)[T.38]]", "mu[C(g)[T.39]]"]
    order = np.arange(41)
    np.testing.assert_allclose(a.params.to_numpy()[order], b.params, rtol=1e-9)
    for name in ("oim", "opg", "robust", "eim"):
        np.testing.assert_allclose(a.cov(name).bse[order], b.cov(name).bse, rtol=1e-8)
