"""Fit: statsmodels' names, summaries, comparisons, saving."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

import mlecov as ml
from mlecov.errors import CovarianceError, DataError, SpecificationError


@pytest.fixture(scope="module")
def fit() -> ml.Fit:
    return ml.fit(ml.models.logit("grade ~ gpa + tuce + psi", ml.load("spector")))


def test_names_and_numbers_are_statsmodels(fit: ml.Fit) -> None:
    data = ml.load("spector")
    peer = sm.Logit(data["grade"], sm.add_constant(data[["gpa", "tuce", "psi"]])).fit(disp=0, tol=1e-12)
    np.testing.assert_allclose(fit.params, peer.params, rtol=1e-8)
    np.testing.assert_allclose(fit.bse, peer.bse, rtol=1e-7)
    np.testing.assert_allclose(fit.tvalues, peer.tvalues, rtol=1e-7)
    np.testing.assert_allclose(fit.pvalues, peer.pvalues, rtol=1e-7)
    np.testing.assert_allclose(fit.conf_int(0.1), peer.conf_int(0.1), rtol=1e-7)
    np.testing.assert_allclose(fit.cov_params(), peer.cov_params(), rtol=1e-7)
    assert fit.llf == pytest.approx(peer.llf, rel=1e-12)
    assert fit.aic == pytest.approx(peer.aic) and fit.bic == pytest.approx(peer.bic)
    assert fit.nobs == peer.nobs and fit.df_resid == peer.df_resid and fit.df_model == peer.df_model
    assert fit.converged and fit.mle_retvals["converged"]
    robust = peer.model.fit(disp=0, cov_type="HC0", tol=1e-12)
    np.testing.assert_allclose(fit.with_cov("robust").bse, robust.bse, rtol=1e-7)


def test_labels_are_computed(fit: ml.Fit) -> None:
    assert fit.cov_type == "observed information (inverse Hessian)"
    n, k = 32, 4
    assert fit.cov("HC1").factor == pytest.approx(n / (n - k))
    np.testing.assert_allclose(fit.cov("HC1").user, fit.cov("robust").user * n / (n - k), rtol=1e-12)
    stata = fit.cov("robust", small_sample="stata")
    np.testing.assert_allclose(stata.user, fit.cov("robust").user * n / (n - 1), rtol=1e-12)
    assert "n/(n-1)" in stata.label and "n/(n-k)" in fit.cov("HC1").label


def test_own_matrix(fit: ml.Fit) -> None:
    own = 2 * fit.cov("oim").user
    np.testing.assert_allclose(fit.cov(own).bse, np.sqrt(2) * fit.bse, rtol=1e-12)
    with pytest.raises(CovarianceError, match=r"shape \(2, 2\); expected \(4, 4\)"):
        fit.cov(np.eye(2))
    with pytest.raises(CovarianceError, match="not a symmetric matrix"):
        fit.cov(own + np.triu(own, 1))


def test_summary_in_every_format(fit: ml.Fit) -> None:
    shown = fit.summary(cov="robust")
    text = shown.text()
    for piece in ("logit of grade", "Intercept", "robust sandwich", "-12.88963", "[95%"):
        assert piece in text
    assert "<table" in shown.html() and r"\toprule" in shown.latex()
    rows = json.loads(shown.render("json"))["rows"]
    assert [row["term"] for row in rows] == list(fit.params.index)
    csv = pd.read_csv(__import__("io").StringIO(shown.csv()))
    np.testing.assert_allclose(csv["std_error"], fit.cov("robust").bse, rtol=1e-14)
    with pytest.raises(SpecificationError, match="format 'pdf' is not known"):
        shown.render("pdf")


def test_compare(fit: ml.Fit) -> None:
    table = fit.compare()
    assert table.columns == ("oim", "eim", "opg", "robust", "bw")
    np.testing.assert_allclose(table.ratios[:, 0], 1)
    np.testing.assert_allclose(table.ratios[:, 3], fit.cov("robust").bse / fit.bse)
    two = fit.compare(["opg", "robust"])  # the first is the base, whichever it is
    np.testing.assert_allclose(two.ratios[:, 0], 1)
    np.testing.assert_allclose(two.ratios[:, 1], fit.cov("robust").bse / fit.cov("opg").bse)
    meat = fit.scores.meat()
    assert table.ratio == pytest.approx(np.trace(np.linalg.inv(fit.information) @ meat) / 4)
    assert "Information ratio" in str(table) and "by chance alone" in str(table)
    assert list(table.frame().columns) == ["estimate", "oim", "eim", "opg", "robust", "bw"]


def test_tidy_and_glance(fit: ml.Fit) -> None:
    assert list(fit.tidy()["term"]) == list(fit.params.index)
    assert fit.glance()["llf"][0] == fit.llf
    assert fit.score_obs().shape == (32, 4)
    assert np.abs(fit.score_obs().sum()).max() < 1e-8


@pytest.mark.parametrize("constrained", [False, True])
def test_save_and_load(tmp_path: Path, constrained: bool) -> None:
    lik = ml.models.gaussian("gpa ~ tuce + psi", ml.load("spector"))
    fit = ml.fit(lik, constraints=["mu[psi] = 2*mu[tuce]"] if constrained else [])
    fit.save(tmp_path / "a.npz")
    for loaded in (ml.load_fit(tmp_path / "a.npz"), ml.load_fit(tmp_path / "a.npz", likelihood=lik)):
        np.testing.assert_array_equal(loaded.params, fit.params)
        for name in ("oim", "eim", "opg", "robust"):
            np.testing.assert_allclose(loaded.cov(name).user, fit.cov(name).user, rtol=1e-9, atol=1e-18)
    fit.save(tmp_path / "b.npz", scores=False)
    with pytest.raises(CovarianceError, match="no scores"):
        _ = ml.load_fit(tmp_path / "b.npz").scores
    other = ml.models.gaussian("gpa ~ tuce", ml.load("spector"))
    with pytest.raises(SpecificationError, match="the saved fit has"):
        ml.load_fit(tmp_path / "a.npz", likelihood=other)
    (tmp_path / "c.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is not a fit saved by mlecov"):
        ml.load_fit(tmp_path / "c.npz")


def test_unknown_covariances_list_the_known(fit: ml.Fit) -> None:
    with pytest.raises(CovarianceError, match=r"'robst' is not known. Did you mean 'robust'"):
        fit.cov("robst")
    with pytest.raises(CovarianceError, match=r"'cluster' needs arguments.*ml.Cluster"):
        fit.cov("cluster")


def test_intervals_stay_inside() -> None:
    y = np.array([0.1, 0.2, 0.15])
    fit = ml.fit(ml.models.gaussian(y, np.ones((3, 1))))
    assert fit.conf_int(0.001)[0]["sigma"] > 0


def test_probability_weights_compare_robust_forms_alone() -> None:
    """oim, eim and opg take sampling weights for counts: they are computed only when they are named."""
    data = ml.load("spector")
    weights = np.linspace(0.5, 1.5, len(data))
    fit = ml.fit(ml.models.gaussian("gpa ~ tuce", data, probability_weights=weights))
    assert fit.compare().columns == ("robust", "bw")
    assert "Information ratio" not in str(fit.compare())
    assert "sampling" in fit.cov("oim").label
