"""The foundation's numbers: Greene, the GARCH benchmark, Spector by every engine, terms over rows."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import mlecov as ml
from tests.cases import load_case


def greene(income: Any, educ: Any, beta: Any) -> Any:
    return -jnp.log(beta + educ) - income / (beta + educ)


def test_greene_three_variances() -> None:
    case = load_case("greene_exponential")
    lik = ml.likelihood(
        greene,
        data=case.data,
        params={"beta": 1.0},
        information=lambda educ, beta: [[((beta + educ) ** -2.0).sum()]],
    )
    fit = ml.fit(lik)
    assert fit.params["beta"] == pytest.approx(15.60272710904339, rel=1e-12)
    for name, printed, full in (
        ("oim", "46.16337", 46.16336631949637),
        ("eim", "44.2546", 44.25460403242762),
        ("opg", "100.5116", 100.5115864300329),
    ):
        variance = fit.cov(name).user[0, 0]
        assert f"{variance:.{len(printed.split('.')[1])}f}" == printed
        assert variance == pytest.approx(full, rel=1e-11)
    assert fit.llf == pytest.approx(-88.43626288336162, rel=1e-13)


def garch_variance(y: Any, mu: Any, omega: Any, alpha: Any, beta: Any) -> Any:
    squared = (y - mu) ** 2

    def step(carry: Any, now: Any) -> Any:
        h, before = carry
        h = omega + alpha * before + beta * h
        return (h, now), h

    first = squared.mean()
    return jax.lax.scan(step, (first, first), squared)[1]


def garch(y: Any, mu: Any, omega: Any, alpha: Any, beta: Any) -> Any:
    h = garch_variance(y, mu, omega, alpha, beta)
    return norm.logpdf(y, mu, jnp.sqrt(h))


def test_garch_benchmark_by_hand() -> None:
    case = load_case("fcp_garch")
    lik = ml.likelihood(
        garch,
        data=case.data,
        params={
            "mu": 0.0,
            "omega": ml.positive(0.05),
            "alpha": ml.positive(0.1),
            "beta": ml.positive(0.8),
        },
        moments=(lambda mu: mu, garch_variance),
        blocks=[["mu"], ["omega", "alpha", "beta"]],
    )
    assert not lik.separable
    fit = ml.fit(lik)
    estimates = [case.estimates[name] for name in ("mu", "omega", "alpha", "beta")]
    np.testing.assert_allclose(fit.params, estimates, rtol=2e-11)
    printed = {"oim": ("hessian", 6), "opg": ("opg", 6), "robust": ("sandwich", 9)}
    printed |= {"eim": ("expected_information", 9), "bw": ("bollerslev_wooldridge", 9)}
    for name, (key, digits) in printed.items():
        expected = [case.std_errors[key][p] for p in ("mu", "omega", "alpha", "beta")]
        # a unit of the last digit printed (the table truncates alpha's OPG figure); the 9-digit
        # consensus columns hold to about 2e-8
        tolerance = 1e-5 if digits == 6 else 2.5e-8
        np.testing.assert_allclose(fit.cov(name).bse, expected, rtol=tolerance, err_msg=name)
    assert "zero between {mu} and {omega, alpha, beta}" in fit.cov("eim").label
    assert "zero between {mu} and {omega, alpha, beta}" in fit.cov("bw").label
    full = case.raw["std_errors_full_computed"]
    for name, key in (("oim", "hessian"), ("opg", "opg"), ("robust", "sandwich")):
        np.testing.assert_allclose(fit.cov(name).bse, list(full[key].values()), rtol=1e-9, err_msg=name)


SPECTOR = "gpa + tuce + psi"


def probit_jax(grade: Any, mu: Any) -> Any:
    return norm.logcdf((2 * grade - 1) * mu)


def probit_numpy(grade: Any, mu: Any) -> Any:
    from scipy.special import log_ndtr

    return log_ndtr((2 * grade - 1) * mu)


def probit_score(grade: Any, mu: Any) -> dict[str, Any]:
    from scipy.special import log_ndtr

    sign = 2 * grade - 1
    z = sign * mu
    return {"mu": sign * np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_ndtr(z))}


def probit_arrays(grade: Any, X: Any, b: Any) -> Any:
    return norm.logcdf((2 * grade - 1) * (X @ b))


def spector_likelihood(engine: str) -> ml.likelihood:
    data = load_case("spector_probit_R").data
    if engine == "ready-made":
        return ml.models.probit("grade ~ " + SPECTOR, data)
    if engine == "index":
        return ml.likelihood(probit_jax, data, {"mu": ml.linear(SPECTOR)})
    if engine == "not separable":
        return ml.likelihood(probit_jax, data, {"mu": ml.linear(SPECTOR)}, separable=False)
    if engine == "analytic":
        return ml.likelihood(probit_numpy, data, {"mu": ml.linear(SPECTOR)}, score=probit_score)
    X = np.column_stack([np.ones(len(data)), data[["gpa", "tuce", "psi"]]])
    return ml.likelihood(probit_arrays, {"grade": data["grade"].to_numpy(), "X": X}, {"b": np.zeros(4)})


@pytest.mark.filterwarnings("ignore::mlecov.errors.NumericDerivativeWarning")
@pytest.mark.parametrize("engine", ["ready-made", "index", "not separable", "analytic", "arrays"])
@pytest.mark.parametrize(
    "method", ["newton", "bhhh", "bfgs", "nelder-mead", "l-bfgs-b", "trust-constr", ("bhhh", 5, "newton")]
)
def test_spector_probit_by_every_engine_and_optimiser(engine: str, method: Any) -> None:
    """Estimates: statsmodels; oim: computed with JAX; opg: R sandwich (see the case)."""
    case = load_case("spector_probit_R")
    fit = ml.fit(spector_likelihood(engine), method=method)
    assert fit.converged
    order = ["(Intercept)", "gpa", "tuce", "psi"]
    found = {
        key: [case.raw["std_errors_computed_nofactor"][key][p] for p in order] for key in ("hessian", "opg")
    }
    np.testing.assert_allclose(fit.params, [case.raw["estimates_computed"][p] for p in order], rtol=1e-9)
    np.testing.assert_allclose(fit.cov("oim").bse, found["hessian"], rtol=1e-9)
    np.testing.assert_allclose(fit.cov("opg").bse, found["opg"], rtol=1e-9)
    assert fit.llf == pytest.approx(-12.818804068889444, rel=1e-12)


@pytest.mark.parametrize("model", ["probit", "logit"])
def test_spector_published(model: str) -> None:
    case = load_case(f"spector_{model}_R")
    fit = ml.fit(getattr(ml.models, model)("grade ~ " + SPECTOR, case.data))
    order = ["(Intercept)", "gpa", "tuce", "psi"]
    names = {"opg": "opg", "hessian": "oim", "expected_information": "eim", "sandwich": "robust"}
    names["sandwich with EXPECTED bread (R)"] = "bw"
    checked = 0
    for key, values in case.std_errors.items():
        np.testing.assert_allclose(
            fit.cov(names[key]).bse, [values[p] for p in order], rtol=2e-7, err_msg=key
        )
        checked += 1
    assert checked >= 3


def clogit(choice: Any, ttme: Any, gc: Any, mu: Any, unit: Any, n_units: Any) -> Any:
    utility = mu + 0 * ttme * gc
    top = jax.ops.segment_max(utility, unit, n_units)
    total = jax.ops.segment_sum(jnp.exp(utility - top[unit]), unit, n_units)
    return jax.ops.segment_sum(choice * (utility - top[unit]), unit, n_units) - jnp.log(total)


def modechoice() -> Any:
    data = ml.load("modechoice").copy()
    data["air"], data["train"], data["bus"] = ((data["mode"] == m).astype(float) for m in (1, 2, 3))
    data["air_hinc"] = data["air"] * data["hinc"]
    return data


def test_conditional_logit_with_units_is_dense_jax() -> None:
    data = modechoice()
    columns = ["air", "train", "bus", "gc", "ttme", "air_hinc"]
    lik = ml.likelihood(clogit, data, {"mu": ml.linear(columns)}, unit="individual")
    assert lik.n_terms == 210
    fit = ml.fit(lik)
    X = data[columns].to_numpy().reshape(210, 4, 6)
    choice = data["choice"].to_numpy().reshape(210, 4)

    def dense(b: Any) -> Any:
        utility = X @ b
        return (choice * utility).sum(1) - jax.scipy.special.logsumexp(utility, axis=1)

    with jax.enable_x64(True):
        H = np.asarray(jax.hessian(lambda b: dense(b).sum())(fit.theta))
        S = np.asarray(jax.jacfwd(dense)(fit.theta))
    np.testing.assert_allclose(fit.hessian, H, rtol=1e-9, atol=1e-9 * np.abs(H).max())
    opg, oim = np.linalg.inv(S.T @ S), np.linalg.inv(-H)
    np.testing.assert_allclose(fit.cov("opg").matrix, opg, rtol=1e-8, atol=1e-9 * np.abs(opg).max())
    robust = oim @ (S.T @ S) @ oim
    np.testing.assert_allclose(fit.cov("robust").matrix, robust, rtol=1e-8, atol=1e-9 * np.abs(robust).max())


def random_effects(y: Any, mu: Any, sd: Any, nodes: Any, weights: Any, unit: Any, n_units: Any) -> Any:
    eta = mu[:, None] + sd * nodes
    rows = norm.logcdf((2 * y[:, None] - 1) * eta)
    panel = jax.ops.segment_sum(rows, unit, n_units)
    return jax.scipy.special.logsumexp(panel + jnp.log(weights), axis=1)


def test_random_effects_by_quadrature_is_dense_jax() -> None:
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(60), rng.integers(1, 7, 60))
    x = rng.standard_normal(len(groups))
    y = (0.4 * x + 0.8 * rng.standard_normal(60)[groups] + rng.standard_normal(len(groups)) > 0).astype(float)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    lik = ml.likelihood(
        random_effects,
        {"y": y, "x": x, "id": groups},
        {"mu": ml.linear("x"), "sd": ml.positive(0.5)},
        unit="id",
        constants={"nodes": nodes, "weights": weights},
    )
    fit = ml.fit(lik)
    X = np.column_stack([np.ones(len(x)), x])

    def dense(theta: Any) -> Any:
        eta = (X @ theta[:2])[:, None] + jnp.exp(theta[2]) * nodes
        rows = norm.logcdf((2 * y[:, None] - 1) * eta)
        member = (groups[None] == np.arange(60)[:, None]).astype(float)
        return jax.scipy.special.logsumexp(member @ rows + jnp.log(weights), axis=1)

    with jax.enable_x64(True):
        H = np.asarray(jax.hessian(lambda t: dense(t).sum())(fit.theta))
        S = np.asarray(jax.jacfwd(dense)(fit.theta))
    np.testing.assert_allclose(fit.hessian, H, rtol=1e-9, atol=1e-9 * np.abs(H).max())
    np.testing.assert_allclose(fit.scores.to_dense(), S, rtol=1e-9, atol=1e-10)
    assert np.abs(S.sum(0)).max() < 1e-8


KEPT = """
import jax.numpy as jnp
import numpy as np
import mlecov as ml

def loglike(Y, m, S):
    e = Y - m
    return -0.5 * jnp.einsum("ni,ij,nj->n", e, jnp.linalg.inv(S), e) - 0.5 * jnp.linalg.slogdet(S)[1]

Y = np.random.default_rng(0).standard_normal((50, 2))
fit = ml.fit(ml.likelihood(loglike, {"Y": Y}, {"m": np.zeros(2), "S": ml.covariance(2)}))
print(repr(fit.llf))
"""


def test_kept_kernels_serve_a_later_process(tmp_path: Path) -> None:
    """A kernel with linear algebra inside, compiled by one process and run by the next."""
    environment = os.environ | {"MLECOV_CACHE_DIR": str(tmp_path)}
    found: list[str] = []
    before: dict[str, int] = {}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", KEPT], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(done.stdout)
        kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.bin")}
        assert kept and (len(found) == 1 or kept == before), "the second process compiled again"
        before = kept
    assert found[0] == found[1]
