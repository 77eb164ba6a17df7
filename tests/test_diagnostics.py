"""Diagnostics: separation by linear programme, identification, bounds, influence, residuals."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import mlecov as ml
from mlecov.diagnostics import boundary, identification, separation
from mlecov.errors import BoundaryWarning, InferenceError, SeparationError
from mlecov.optimize.maximize import maximize
from mlecov.optimize.separation import separating_direction

N = 200


def regressors() -> Any:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 3))
    return x, np.column_stack([np.ones(N), x[:, :2], x[:, 2] > 1]).astype(float), rng


def data_sets() -> dict[str, tuple[Any, Any]]:
    x, D, rng = regressors()
    full = np.column_stack([np.ones(N), x])
    noisy = (rng.random(N) < special.expit(x[:, 0])).astype(float)
    return {
        "complete": ((x[:, 0] + 0.5 * x[:, 1] > 0).astype(float), full),
        "quasi": (np.where(D[:, 3] == 1, 1.0, noisy), D),
        "steep": ((40 * x[:, 0] + 2.4 * rng.logistic(size=N) > 0).astype(float), full),
        "noisy": (noisy, full),
    }


def logit_jax(y: Any, X: Any, b: Any) -> Any:
    return -jnp.logaddexp(0.0, -(2 * y - 1) * (X @ b))


MODELS = {
    "logit": ml.models.logit,
    "probit": ml.models.probit,
    "cloglog": ml.models.cloglog,
    "own": lambda y, X: ml.likelihood(logit_jax, {"y": y, "X": X}, {"b": np.zeros(4)}),
    "own, not separable": lambda y, X: ml.likelihood(
        logit_jax, {"y": y, "X": X}, {"b": np.zeros(4)}, separable=False
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_separation_is_refused_by_name_and_a_good_fit_is_not(model: str) -> None:
    data = data_sets()
    with pytest.raises(
        SeparationError, match=r"complete separation: a combination of .* outcomes of all terms"
    ):
        ml.fit(MODELS[model](*data["complete"]))
    y, X = data["quasi"]
    column = r"b\[3\]" if model.startswith("own") else r"mu\[x3\]"
    count = int((X[:, 3] == 1).sum())
    with pytest.raises(
        SeparationError, match=rf"quasi-complete separation: {column} fits .* {count} of 200 terms"
    ):
        ml.fit(MODELS[model](y, X))
    for name in ("steep", "noisy"):
        fit = ml.fit(MODELS[model](*data[name]))
        assert fit.converged and separation(fit.optimum) is None


@pytest.mark.parametrize("method", ["newton", "bhhh", "bfgs", "nelder-mead"])
def test_no_optimiser_hides_separation(method: str) -> None:
    with pytest.raises(SeparationError, match="x3"):
        ml.fit(ml.models.logit(*data_sets()["quasi"]), method=method)


def test_the_verdict_is_the_programme_not_the_size_of_the_fit() -> None:
    """Fits whose largest probability is 1 - 1e-12 but that have a maximum; one overlapping pair of rows."""
    x = np.r_[np.linspace(-30, -1, 50), -0.5, 0.4, np.linspace(1, 30, 50)]
    y = np.r_[np.zeros(50), 1.0, 0.0, np.ones(50)]
    fit = ml.fit(ml.models.logit(y, np.column_stack([np.ones(102), x])))
    assert fit.converged and special.expit(abs(fit.theta[1]) * 30) > 1 - 1e-12
    y[50:52] = [0.0, 1.0]
    with pytest.raises(SeparationError, match="complete"):
        ml.fit(ml.models.logit(y, np.column_stack([np.ones(102), x])))


def test_counts_with_zeros_in_a_cell() -> None:
    x, D, rng = regressors()
    y = np.where(D[:, 3] == 1, 0, rng.poisson(np.exp(0.5 * x[:, 0]))).astype(float)
    for model in (ml.models.poisson, ml.models.nb2):
        with pytest.raises(SeparationError, match=r"mu\[x3\] fits the outcomes of \d+ of 200 terms"):
            ml.fit(model(y, D))
    y[np.flatnonzero(D[:, 3] == 1)[0]] = 1.0
    assert ml.fit(ml.models.poisson(y, D)).converged


def test_ordered_and_unordered_categories() -> None:
    x, D, rng = regressors()
    noisy = np.digitize(x[:, 0] + 0.5 * rng.logistic(size=N), [-0.5, 0.5]).astype(float)
    held = np.where(D[:, 3] == 1, 2.0, noisy)
    for model in (ml.models.ordered_logit, ml.models.ordered_probit):
        with pytest.raises(SeparationError, match=r"mu\[x2\] fits"):
            ml.fit(model(held, D[:, 1:]))
        with pytest.raises(SeparationError, match="complete separation"):
            ml.fit(model(np.digitize(x[:, 0], [-0.5, 0.5]).astype(float), x))
        assert ml.fit(model(noisy, x)).converged
    with pytest.raises(SeparationError, match=r"mu\.\S+\[x3\]"):
        ml.fit(ml.models.multinomial_logit(held, D))
    assert ml.fit(ml.models.multinomial_logit(noisy, D)).converged


def test_constraints_can_remove_separation() -> None:
    lik = ml.models.logit(*data_sets()["quasi"])
    assert ml.fit(lik, fixed={"mu[x3]": 1.0}).converged
    with pytest.raises(SeparationError, match=r"mu\[x3\]"):
        ml.fit(lik, fixed={"mu[x1]": 0.5})


def test_direction_of_separation() -> None:
    rows = np.column_stack([np.ones(6), [1.0, 2, 3, 4, 5, 6]])
    direction, terms = separating_direction(rows, np.array([-1, -1, -1, 1, 1, 1], dtype=np.int8))  # type: ignore[misc]
    assert set(terms) == set(range(6))
    assert ((rows @ direction) * [-1, -1, -1, 1, 1, 1] > 0).all()
    # the fourth row must stay where it is: the direction is tied to it
    direction, terms = separating_direction(rows, np.array([-1, -1, -1, 2, 1, 1], dtype=np.int8))  # type: ignore[misc]
    assert rows[3] @ direction == pytest.approx(0, abs=1e-9) and set(terms) == {0, 1, 2, 4, 5}
    assert separating_direction(rows, np.array([1, 1, 1, -1, 1, 1], dtype=np.int8)) is None


# --- the point -------------------------------------------------------------------------------------


def test_near_null_directions_are_named() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 300))
    data = pd.DataFrame({"a": a, "b": b, "c": a + b + 1e-5 * rng.standard_normal(300)})
    data["y"] = a + rng.standard_normal(300)
    found = identification(ml.fit(ml.models.gaussian("y ~ a + b + c", data)).optimum)
    assert not found.ok and len(found.directions) == 1 and not found.directions[0].null
    text = found.directions[0].text
    assert "mu[a]" in text and "mu[b]" in text and "mu[c]" in text and "sigma" not in text
    direction = found.directions[0].direction
    np.testing.assert_allclose(direction[1:4] / direction[1], [1, 1, -1], rtol=1e-3)
    assert "hardly any information" in found.sentences()[1]


def test_units_are_not_identification() -> None:
    data = pd.DataFrame({"x": np.random.default_rng(2).standard_normal(300) * 1e7})
    data["y"] = 1e-7 * data["x"] + np.random.default_rng(3).standard_normal(300)
    found = identification(ml.fit(ml.models.gaussian("y ~ x", data)).optimum)
    assert found.ok and found.condition > 1e12 and found.condition_scaled < 10
    assert "matter of units" in found.sentences()[-1]


def test_convergence_tells_of_a_point_that_is_no_maximum() -> None:
    lik = ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector"))
    good = ml.fit(lik).diagnose().convergence
    assert good.ok and np.abs(good.relative).max() < 1e-10
    with pytest.warns(ml.errors.ConvergenceWarning):
        bad = ml.fit(lik, max_iter=1)
    page = bad.diagnose()
    assert not page.convergence.ok and not page.ok
    assert page.warnings[0].startswith("NOT CONVERGED")
    worst = np.argmax(np.abs(page.convergence.relative))
    expected = bad.optimum.evaluation.gradient / np.sqrt(np.diag(bad.information))
    assert page.convergence.relative[worst] == pytest.approx(expected[worst], rel=1e-12)


def test_bounds() -> None:
    """sigma_u of a random effect that is not there runs to its bound; one that is there does not."""

    def loglike(y: Any, sigma: Any, tau: Any) -> Any:
        v = sigma**2 + tau**2 * 1e-6
        return -0.5 * (jnp.log(v) + y**2 / v)

    y = np.random.default_rng(4).standard_normal(100)
    free = ml.fit(ml.models.gaussian(y, np.ones((100, 1))))
    assert boundary(free.optimum) == ()

    def share(y: Any, p: Any) -> Any:
        return y * jnp.log(p) + (1 - y) * jnp.log1p(-p)

    y01 = np.r_[np.ones(99), 0.0]
    inside = ml.fit(ml.likelihood(share, {"y": y01}, {"p": ml.interval(0.0, 1.0)}))
    assert boundary(inside.optimum) == ()
    near = maximize(ml.likelihood(share, {"y": y01}, {"p": ml.interval(0.0, 1.0 - 1e-9)}), start={"p": 0.9})
    assert boundary(near) == ()
    edge = ml.likelihood(share, {"y": y01}, {"p": ml.interval(0.0, 0.99000001)})
    with pytest.warns(BoundaryWarning, match="p is at its bound, 0.99"):
        found = boundary(maximize(edge, start={"p": 0.9}))
    assert len(found) == 1 and found[0].label == "p" and found[0].bound == 0.99000001
    assert "bound" in found[0].sentence()


# --- terms -----------------------------------------------------------------------------------------


def test_gaussian_influence_is_exact_at_given_sigma() -> None:
    """dfbeta, Cook's distance and leverage of least squares (Belsley, Kuh & Welsch 1980)."""
    rng = np.random.default_rng(5)
    X = np.column_stack([np.ones(40), rng.standard_normal((40, 2))])
    y = X @ [1.0, 2.0, -1.0] + rng.standard_normal(40)
    lik = ml.likelihood(lambda y, X, b: -0.5 * (y - X @ b) ** 2, {"y": y, "X": X}, {"b": np.zeros(3)})
    fit = ml.fit(lik)
    found = fit.influence()
    inverse = np.linalg.inv(X.T @ X)
    h = np.einsum("ij,jk,ik->i", X, inverse, X)
    e = y - X @ fit.theta
    np.testing.assert_allclose(found.leverage, h, rtol=1e-9)
    np.testing.assert_allclose(found.dfbeta, (e / (1 - h))[:, None] * (X @ inverse), rtol=1e-8)
    np.testing.assert_allclose(found.cook, e**2 * h / (1 - h) ** 2 / 3, rtol=1e-8)
    assert list(found.frame().columns[:2]) == ["cook", "leverage"] and found.top(1)[0] == found.cook.argmax()


@pytest.mark.parametrize("weighted", [False, True])
def test_influence_approximates_deletion(weighted: bool) -> None:
    data = ml.load("spector")
    options: dict[str, Any] = {"analytic_weights": np.linspace(0.5, 1.5, 32)} if weighted else {}
    lik = ml.models.logit("grade ~ gpa + tuce + psi", data, **options)
    fit = ml.fit(lik)
    found = fit.influence()
    assert found.leverage.sum() == pytest.approx(4, rel=1e-10)
    for i in (4, 20):
        left = ml.fit(lik.subset(np.delete(np.arange(32), i)))
        np.testing.assert_allclose(found.dfbeta[i], fit.theta - left.theta, rtol=0.35, atol=0.05)
        factor = (fit.theta - left.theta) / found.dfbeta[i]
        assert (factor > 0).all()


def test_a_term_that_decides_alone_is_reported() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((2, 100))
    x[17], y[17] = 60.0, 400.0
    page = ml.fit(ml.models.gaussian(y, np.column_stack([np.ones(100), x]))).diagnose()
    assert any("term 17 alone moves" in sentence for sentence in page.warnings)
    assert any("term 17 holds" in sentence for sentence in page.warnings)
    assert page.outliers is not None and page.outliers.terms[0] == 17
    assert page.outliers.share.sum() == pytest.approx(3, rel=1e-10)


# --- residuals -------------------------------------------------------------------------------------


def test_generalised_residuals() -> None:
    data = ml.load("spector")
    fit = ml.fit(ml.models.probit("grade ~ gpa + tuce + psi", data))
    eta = fit.likelihood.predictors(fit.theta, 0, 32)[0]
    y = data["grade"].to_numpy()
    p = stats.norm.cdf(eta)
    expected = stats.norm.pdf(eta) * (y - p) / (p * (1 - p))
    np.testing.assert_allclose(fit.generalized_residuals()["mu"], expected, rtol=1e-9)
    assert fit.generalized_residuals()["mu"].sum() == pytest.approx(0, abs=1e-10)


def test_quantile_residuals() -> None:
    rng = np.random.default_rng(7)
    n = 4000
    x = rng.standard_normal(n)
    X = np.column_stack([np.ones(n), x])
    normal = ml.fit(ml.models.gaussian(x + rng.standard_normal(n), X))
    e = normal.likelihood.columns["y"] - X @ normal.theta[:2]
    np.testing.assert_allclose(normal.quantile_residuals(), e / normal.params["sigma"], rtol=1e-9, atol=1e-12)
    counts = ml.fit(ml.models.poisson(rng.poisson(np.exp(0.5 * x)).astype(float), X))
    assert stats.kstest(counts.quantile_residuals(seed=1), "norm").pvalue > 0.01
    wrong = rng.negative_binomial(1, 1 / (1 + np.exp(0.5 * x))).astype(float)
    assert stats.kstest(ml.fit(ml.models.poisson(wrong, X)).quantile_residuals(seed=1), "norm").pvalue < 1e-6
    np.testing.assert_array_equal(counts.quantile_residuals(seed=3), counts.quantile_residuals(seed=3))


def test_residuals_refuse_what_has_none() -> None:
    y = np.random.default_rng(0).standard_normal(50)
    own = ml.fit(ml.likelihood(lambda y, m: -0.5 * (y - m) ** 2, {"y": y}, {"m": 0.0}))
    with pytest.raises(InferenceError, match="no distribution function"):
        own.quantile_residuals()
    whole = ml.fit(ml.likelihood(lambda y, m: -0.5 * (y - m) ** 2, {"y": y}, {"m": 0.0}, separable=False))
    with pytest.raises(InferenceError, match="likelihoods in predictors"):
        whole.generalized_residuals()
    assert any("Quantile residuals" in note for note in whole.diagnose().not_computed)


def test_the_page_prints_in_every_format() -> None:
    page = ml.fit(ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector"))).diagnose()
    text = str(page)
    for part in (
        "convergence",
        "identification",
        "no outcomes separated",
        "gradient",
        "influential",
        "quantile",
    ):
        assert part in text
    for form in ("html", "latex", "json"):
        assert "identification" in page.render(form) or form == "json"
