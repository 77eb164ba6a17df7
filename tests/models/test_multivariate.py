"""Multivariate normal, seemingly unrelated regressions, and Klein's Model I by full information."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mlecov as ml
from mlecov.covariance import covariance, parse
from mlecov.errors import DataError, IdentificationError, MissingDataWarning, SpecificationError
from mlecov.matrix import normal_hessian, normal_information
from mlecov.models.multivariate import multivariate_normal, sur
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.whole import check_orders, check_simulation, ratio

RNG = np.random.default_rng(21)
Y = RNG.standard_normal((60, 3)) @ np.array([[1.0, 0.4, 0.0], [0.0, 1.5, -0.6], [0.0, 0.0, 0.7]]) + [
    1.0,
    0.0,
    -2.0,
]
FRAME = pd.DataFrame(
    {"a": Y[:, 0], "b": Y[:, 1], "c": Y[:, 2], "x": RNG.standard_normal(60), "w": 1 + np.arange(60) % 3}
)
FRAME["z"] = np.cos(np.arange(60.0))
FORMULAS = ["a ~ x", "b ~ z", "c ~ 0 + x"]


def test_maximum_is_mean_and_covariance() -> None:
    optimum = maximize(multivariate_normal(Y))
    values = optimum.likelihood.space.values(optimum.theta)
    np.testing.assert_allclose(values["mu"], Y.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(values["Sigma"], np.cov(Y.T, bias=True), rtol=1e-11)
    terms = stats.multivariate_normal.logpdf(Y, values["mu"], values["Sigma"])
    np.testing.assert_allclose(
        optimum.evaluation.loglike_obs if optimum.evaluation.loglike_obs is not None else 0, terms
    )
    information = normal_information(values["Sigma"], 60)
    for spec in ("oim", "eim"):  # equal at the maximum
        np.testing.assert_allclose(
            covariance(optimum, parse(spec)).user, np.linalg.inv(information), atol=1e-12
        )
    np.testing.assert_allclose(-normal_hessian(Y, values["mu"], values["Sigma"]), information, atol=1e-9)


@pytest.mark.parametrize("likelihood", [multivariate_normal(Y), sur(FORMULAS, FRAME)], ids=["normal", "sur"])
def test_derivatives(likelihood) -> None:
    theta = likelihood.start() + 0.2 * np.random.default_rng(4).standard_normal(likelihood.space.k)
    check_orders(likelihood, theta)


def test_sur_is_iterated_least_squares() -> None:
    # Zellner's estimator to its fixed point, by other code
    designs = [
        np.column_stack([np.ones(60), FRAME.x]),
        np.column_stack([np.ones(60), FRAME.z]),
        FRAME[["x"]].to_numpy(),
    ]
    widths = np.cumsum([0, 2, 2, 1])
    Sigma = np.eye(3)
    for _ in range(300):
        P = np.linalg.inv(Sigma)
        A, b = np.zeros((5, 5)), np.zeros(5)
        for e in range(3):
            for f in range(3):
                A[widths[e] : widths[e + 1], widths[f] : widths[f + 1]] = P[e, f] * designs[e].T @ designs[f]
                b[widths[e] : widths[e + 1]] += P[e, f] * designs[e].T @ Y[:, f]
        beta = np.linalg.solve(A, b)
        U = np.column_stack([Y[:, e] - designs[e] @ beta[widths[e] : widths[e + 1]] for e in range(3)])
        Sigma = U.T @ U / 60
    optimum = maximize(sur(FORMULAS, FRAME))
    params = optimum.likelihood.space.report(optimum.theta)
    np.testing.assert_allclose(params[:5], beta, rtol=1e-9)
    np.testing.assert_allclose(optimum.likelihood.space.values(optimum.theta)["Sigma"], Sigma, rtol=1e-9)
    np.testing.assert_allclose(
        covariance(optimum, parse("eim")).user[:5, :5], np.linalg.inv(A), rtol=1e-8, atol=1e-12
    )


def test_sur_names_and_missing() -> None:
    frame = FRAME.copy()
    frame.loc[3, "x"] = np.nan
    with pytest.raises(DataError, match="'x'"):
        sur(FORMULAS, frame)
    with pytest.warns(MissingDataWarning):
        likelihood = sur({"first": "a ~ x", "second": "b ~ 1"}, frame, missing="drop")
    assert likelihood.n_terms == 59
    assert likelihood.space.labels[:3] == ("first[Intercept]", "first[x]", "second[Intercept]")


def test_weights_and_subsets() -> None:
    weighted = sur(FORMULAS, FRAME, frequency_weights="w")
    repeated = sur(FORMULAS, FRAME.loc[FRAME.index.repeat(FRAME.w)].reset_index(drop=True))
    taken = sur(FORMULAS, FRAME).subset(np.repeat(np.arange(60), FRAME.w))
    one, two, three = maximize(weighted), maximize(repeated), maximize(taken)
    np.testing.assert_allclose(one.theta, two.theta, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.theta, three.theta, rtol=1e-9, atol=1e-12)
    for spec in ("oim", "eim", "robust"):
        a, b = covariance(one, parse(spec)).matrix, covariance(two, parse(spec)).matrix
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", ["observed", "expected"])
def test_curvature_blocks_add_up(kind) -> None:
    likelihood = sur(FORMULAS, FRAME)
    theta = likelihood.start() + 0.1
    blocks = np.concatenate([b for _, b in likelihood.curvature_blocks(theta, np.arange(60) % 4, 4, kind)])
    found = likelihood.evaluate(theta, order=2)
    whole = found.information if kind == "observed" else likelihood.information(theta)
    np.testing.assert_allclose(blocks.sum(axis=0), whole, rtol=1e-10, atol=1e-9)


def test_simulation() -> None:
    x = np.random.default_rng(2).standard_normal((3000, 2))
    frame = pd.DataFrame({"y": x[:, 0] + x[:, 1], "z": x[:, 0], "x": x[:, 1]})
    likelihood = sur(["y ~ x", "z ~ 1"], frame)
    values = {"y": [1.0, -0.5], "z": [2.0], "Sigma": [[1.0, 0.6], [0.6, 2.0]]}
    check_simulation(likelihood, likelihood.space.pack(values))


def test_refusals() -> None:
    with pytest.raises(DataError, match="shape"):
        multivariate_normal(Y[:, 0])
    with pytest.raises(SpecificationError, match="twice"):
        multivariate_normal(["a", "a"], FRAME)
    with pytest.raises(DataError, match="do not vary"):
        multivariate_normal(np.column_stack([Y, np.ones(60)]))
    with pytest.raises(IdentificationError, match="linearly dependent"):
        maximize(multivariate_normal(np.column_stack([Y, Y[:, 0] + Y[:, 1]])))
    with pytest.raises(DataError, match="more than 3"):
        multivariate_normal(Y[:3])
    with pytest.raises(SpecificationError, match="two or more"):
        sur("a ~ x", FRAME)
    with pytest.raises(SpecificationError, match="no outcome"):
        sur(["a ~ x", "x"], FRAME)
    with pytest.raises(SpecificationError, match="two equations"):
        sur(["a ~ x", "a ~ b"], FRAME)
    with pytest.raises(SpecificationError, match="not known"):
        sur(FORMULAS, FRAME, wheights="w")


def klein(case):
    """Return Klein's Model I: three equations, endogenous regressors, log|det B| of the system."""
    d = case.data
    lagged = d.shift(1)
    rows = (
        pd.DataFrame(
            {
                "C": d.consumption,
                "I": d.invest,
                "W1": d.pwage,
                "W2": d.gwage,
                "G": d.gexpenditure,
                "T": d.taxes,
                "P1": lagged.cprofits,
                "X1": lagged.gnp,
                "K": d.capital,
                "t": d.year - 1931.0,
            }
        )
        .iloc[1:]
        .reset_index(drop=True)
    )

    def loglike(C, I, W1, W2, G, T, P1, X1, K, t, A, B, D, S):
        X = C + I + G
        P = X - T - W1
        u = jnp.stack(
            [
                C - (A[0] + A[1] * (W1 + W2) + A[2] * P + A[3] * P1),
                I - (B[0] + B[1] * P + B[2] * P1 + B[3] * K),
                W1 - (D[0] + D[1] * X + D[2] * X1 + D[3] * t),
            ]
        )
        jacobian = jnp.array([[1 - A[2], -A[2], A[2] - A[1]], [-B[1], 1 - B[1], B[1]], [-D[1], -D[1], 1.0]])
        log_jacobian = jnp.linalg.slogdet(jacobian)[1]
        squares = jnp.sum(u * jnp.linalg.solve(S, u), axis=0)
        return -1.5 * jnp.log(2 * jnp.pi) - 0.5 * jnp.linalg.slogdet(S)[1] - 0.5 * squares + log_jacobian

    # least squares, equation by equation, is where it starts
    one, X = np.ones(21), rows.C + rows.I + rows.G
    P = X - rows["T"] - rows.W1
    designs = [(rows.C, [one, rows.W1 + rows.W2, P, rows.P1]), (rows.I, [one, P, rows.P1, rows.K])]
    designs.append((rows.W1, [one, X, rows.X1, rows.t]))
    starts = [np.linalg.lstsq(np.column_stack(x), y, rcond=None)[0] for y, x in designs]
    U = np.column_stack([y - np.column_stack(x) @ b for (y, x), b in zip(designs, starts, strict=True)])
    params = dict(zip("ABD", starts, strict=True)) | {"S": ml.covariance(3, U.T @ U / 21)}
    return ml.likelihood(loglike, rows, params)


def test_klein_fiml() -> None:
    # Calzolari & Panattoni (1988), Econometrica 56; sixteen digits of TSP's kleinfm2.tsp for A0 to B1
    case = load_case("klein_fiml")
    optimum = maximize(klein(case))
    np.testing.assert_allclose(optimum.evaluation.loglike, case.loglik, rtol=1e-12)
    # Newton stops at g' I^-1 g <= 1e-20, 1e-10 standard errors from the maximum; one more step is at rounding
    evaluation = optimum.evaluation
    theta = optimum.theta + np.linalg.solve(evaluation.information, evaluation.gradient)
    last = optimum.likelihood.evaluate(theta, order=2, scores=True)
    optimum = dataclasses.replace(optimum, theta=theta, evaluation=last)
    np.testing.assert_allclose(optimum.likelihood.space.report(theta)[:12], case.theta, rtol=2e-11)
    # from one point at rounding to the next the outer product's errors move by up to 8e-11
    for spec, theirs, limit in (("opg", "opg", 2e-10), ("oim", "hessian", 2e-11)):
        assert np.abs(ratio(case, theirs, optimum, spec, list(range(12)))).max() < limit
    robust = list(case.raw["std_errors_computed_nofactor"]["sandwich"].values())
    np.testing.assert_allclose(covariance(optimum, parse("robust")).bse[:12], robust, rtol=1e-9)
