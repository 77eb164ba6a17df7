"""Nonlinear combinations: autodiff against differences, hand-made derivatives and statsmodels."""

import jax.numpy as jnp
import numpy as np
import pytest

import mlecov as ml
from mlecov.errors import InferenceError, SpecificationError
from mlecov.inference.delta import derive, theta_steps


@pytest.fixture(scope="module")
def gaussian() -> ml.Fit:
    rng = np.random.default_rng(3)
    x, z = rng.standard_normal((2, 200))
    data = {"y": 1 + 2 * x - z + 1.5 * rng.standard_normal(200), "x": x, "z": z}
    return ml.fit(ml.models.gaussian("y ~ x + z", data))


def test_ratio_has_the_textbook_variance(gaussian: ml.Fit) -> None:
    found = gaussian.nlcom(lambda values: values["mu[x]"] / values["mu[z]"], names=["ratio"], cov="robust")
    b, V = gaussian.params, gaussian.cov_params("robust")
    g = np.array([1 / b["mu[z]"], -b["mu[x]"] / b["mu[z]"] ** 2])
    names = ["mu[x]", "mu[z]"]
    assert found.labels == ("ratio",)
    assert found.estimates[0] == pytest.approx(b["mu[x]"] / b["mu[z]"], rel=1e-14)
    assert found.bse[0] == pytest.approx(np.sqrt(g @ V.loc[names, names].to_numpy() @ g), rel=1e-12)


def test_transform_is_part_of_the_derivative(gaussian: ml.Fit) -> None:
    """d sigma^2 / d log sigma = 2 sigma^2, while the user's function says 2 sigma."""
    found = gaussian.nlcom(lambda sigma: sigma**2)
    sigma, se = gaussian.params["sigma"], gaussian.bse["sigma"]
    assert found.bse[0] == pytest.approx(2 * sigma * se, rel=1e-12)


def test_differences_agree_with_autodiff(gaussian: ml.Fit) -> None:
    cov = gaussian.cov()

    def traced(mu, sigma):
        return {"a": jnp.exp(mu[1]) / sigma, "b": jnp.stack([jnp.sin(mu[0]), mu[1] * mu[2] ** 3])}

    def plain(mu, sigma):
        mu = np.asarray(mu)
        return {"a": np.exp(mu[1]) / np.asarray(sigma), "b": np.array([np.sin(mu[0]), mu[1] * mu[2] ** 3])}

    exact = derive(cov.space, cov.theta, traced, theta_steps(cov))
    rough = derive(cov.space, cov.theta, plain, theta_steps(cov))
    assert (exact.how, rough.how) == ("autodiff", "differences")
    assert exact.labels == rough.labels == ("a", "b[0]", "b[1]")
    np.testing.assert_allclose(rough.value, exact.value, rtol=1e-14)
    np.testing.assert_allclose(rough.jacobian, exact.jacobian, rtol=1e-9, atol=1e-10)


def test_constraints_shrink_the_jacobian(gaussian: ml.Fit) -> None:
    tied = ml.fit(gaussian.likelihood, constraints=["mu[x] + mu[z] = 1"])
    found = tied.nlcom(lambda values: jnp.stack([values["mu[x]"], values["mu[z]"]]))
    assert found.cov[0, 0] == pytest.approx(found.cov[1, 1], rel=1e-12)
    assert found.cov[0, 1] == pytest.approx(-found.cov[0, 0], rel=1e-12)


def test_matrix_kinds_reach_the_function_whole() -> None:
    rng = np.random.default_rng(5)
    Y = rng.multivariate_normal([0, 0], [[2.0, 0.5], [0.5, 1.0]], size=300)

    def loglike(Y, S):
        s = jnp.array([[S[0, 0], S[0, 1]], [S[0, 1], S[1, 1]]])
        det = s[0, 0] * s[1, 1] - s[0, 1] ** 2
        q = (Y[:, 0] ** 2 * s[1, 1] - 2 * Y[:, 0] * Y[:, 1] * s[0, 1] + Y[:, 1] ** 2 * s[0, 0]) / det
        return -jnp.log(2 * jnp.pi) - 0.5 * jnp.log(det) - 0.5 * q

    fit = ml.fit(ml.likelihood(loglike, {"Y": Y}, {"S": ml.covariance(2)}))
    found = fit.nlcom(lambda S: S[0, 1] / jnp.sqrt(S[0, 0] * S[1, 1]), names=["rho"])
    rho = found.estimates[0]
    assert rho == pytest.approx(float((Y[:, 0] @ Y[:, 1]) / np.sqrt((Y**2).sum(0).prod())), rel=1e-9)
    # the information of a bivariate normal with known means gives var(rho) = (1 - rho^2)^2 / n
    assert found.bse[0] == pytest.approx((1 - rho**2) / np.sqrt(300), rel=1e-8)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda mu, sgma: mu / sgma, SpecificationError, ["'sgma'", "sigma"]),
        (lambda sgma: sgma**2, SpecificationError, ["dict", "sigma"]),
        (lambda mu: np.log(-1 - np.abs(np.asarray(mu))), InferenceError, ["finite"]),
        (lambda sigma: jnp.sqrt(sigma - sigma), InferenceError, ["derivative"]),
        (3.0, SpecificationError, ["float", "lambda"]),
    ],
)
def test_functions_without_meaning_are_refused(gaussian: ml.Fit, function, error, words) -> None:
    with np.errstate(all="ignore"), pytest.raises(error) as caught:
        gaussian.nlcom(function)
    for word in words:
        assert word in str(caught.value)


def test_wrong_number_of_names(gaussian: ml.Fit) -> None:
    with pytest.raises(SpecificationError, match="2 entries"):
        gaussian.nlcom(lambda sigma: sigma, names=["a", "b"])


def test_display_says_how(gaussian: ml.Fit) -> None:
    table = gaussian.nlcom(lambda sigma: np.square(np.asarray(sigma)), names=["variance"]).display()
    assert "variance" in table.text() and any("differences" in note for note in table.notes)
