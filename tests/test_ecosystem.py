"""Fits in other packages' tables and margins, by those packages themselves where they are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.testing as npt
import polars as pl
import pytest
from statsmodels.iolib.summary2 import summary_col

import mlecov as ml
from mlecov.errors import SpecificationError

FORMULA = "grade ~ gpa + tuce + psi"


@pytest.fixture(scope="module")
def fits() -> tuple[ml.Fit, ml.Fit]:
    data = ml.load("spector")
    return ml.fit(ml.models.probit(FORMULA, data)), ml.fit(ml.models.logit(FORMULA, data), cov="robust")


def test_summary_col_prints_each_fit_under_its_own_covariance(fits: tuple[ml.Fit, ml.Fit]) -> None:
    table = summary_col(list(fits), stars=True, model_names=["probit", "logit"]).tables[0]
    for fit, name in zip(fits, ("probit", "logit"), strict=True):
        place = list(table.index).index("mu[psi]")
        column = table[name].tolist()
        assert column[place].rstrip("*") == f"{fit.params['mu[psi]']:.4f}"
        assert column[place + 1] == f"({fit.bse['mu[psi]']:.4f})"
        assert table.loc["Log-likelihood", name] == f"{fit.llf:.4f}"
    assert table.loc["Covariance"].tolist() == ["oim", "robust"]
    assert summary_col([fits[0]]).tables[0].columns.tolist() == ["grade"]


def test_a_likelihood_without_an_outcome_goes_by_its_name() -> None:
    def decay(y: Any, mu: Any) -> Any:
        return -np.log(mu) - y / mu

    with pytest.warns(ml.MlecovWarning):
        fit = ml.fit(ml.likelihood(decay, {"y": np.array([1.0, 2.0, 4.0])}, {"mu": ml.positive()}))
    table = summary_col([fit], stars=True).tables[0]
    assert table.columns.tolist() == ["decay"]
    assert table.loc["mu"].item() == "2.3333"  # no star: zero lies on the bound


def test_the_maketables_protocol(fits: tuple[ml.Fit, ml.Fit]) -> None:
    for fit in fits:
        table = fit.__maketables_coef_table__
        assert table.index.name == "Coefficient" and list(table.columns[:4]) == ["b", "se", "t", "p"]
        npt.assert_array_equal(table["se"], fit.bse)
        npt.assert_array_equal(table[["ci95l", "ci95u"]], fit.conf_int())
        assert fit.__maketables_stat__("N") == 32 and fit.__maketables_stat__("ll") == fit.llf
        assert fit.__maketables_stat__("r2") is None
        assert fit.__maketables_depvar__ == "grade"
        assert fit.__maketables_vcov_info__["vcov_type"] == fit.cov().label
        assert all(fit.__maketables_stat__(key) is not None for key in fit.__maketables_default_stat_keys__)


@pytest.mark.filterwarnings("ignore")
def test_maketables_own_tables(fits: tuple[ml.Fit, ml.Fit]) -> None:
    maketables = pytest.importorskip("maketables")
    plug_in = maketables.extractors.PluginExtractor()
    assert plug_in.can_handle(fits[0]) and plug_in.default_stat_keys(fits[0]) == [
        "N",
        "ll",
        "aic",
        "bic",
        "se_type",
    ]
    npt.assert_array_equal(plug_in.coef_table(fits[1])["se"], fits[1].bse)
    text = maketables.ETable(list(fits), model_stats=["N", "ll", "se_type"], cat_template="").make("tex")
    for fit in fits:
        assert f"({fit.bse['mu[gpa]']:.3f})" in text and f"{fit.llf:.3f}" in text
        assert fit.cov().label in text


@pytest.mark.filterwarnings("ignore")
def test_marginaleffects_gives_what_the_fit_gives(fits: tuple[ml.Fit, ml.Fit]) -> None:
    package = pytest.importorskip("marginaleffects")
    try:
        pytest.importorskip("marginaleffects.sanitize.utils").get_type_dictionary(
            None, pl.DataFrame({"x": [0.5]})
        )
    except pl.exceptions.InvalidOperationError:
        pytest.skip("this marginaleffects does not read numeric columns of this polars (0.6 and polars 2)")
    fit, model = fits[0], fits[0].for_marginaleffects()
    for cov in (True, "robust", "opg"):
        theirs = package.avg_slopes(model, variables="gpa", vcov=cov)
        ours = fit.margins("gpa", cov=None if cov is True else cov)
        npt.assert_allclose(theirs["estimate"], ours.estimates, rtol=1e-6)
        npt.assert_allclose(theirs["std_error"], ours.bse, rtol=1e-4)  # their derivatives are differences
    theirs = package.predictions(model, newdata=pl.DataFrame({"gpa": [3.0], "tuce": [20.0], "psi": [1.0]}))
    ours = fit.predict("mean", {"gpa": [3.0], "tuce": [20.0], "psi": [1.0]})
    for name, expected in (("estimate", ours.values), ("std_error", ours.bse), ("conf_low", ours.lower)):
        npt.assert_allclose(theirs[name], expected, rtol=1e-4)


def test_fits_from_arrays_have_no_columns_to_vary() -> None:
    data = ml.load("spector")
    X = np.column_stack([np.ones(len(data)), data["gpa"]])
    fit = ml.fit(ml.models.logit(data["grade"].to_numpy(float), X))
    with pytest.raises(SpecificationError, match="made from arrays"):
        fit.for_marginaleffects()


def test_polars_in_and_out(fits: tuple[ml.Fit, ml.Fit]) -> None:
    own = ml.fit(ml.models.probit(FORMULA, pl.from_pandas(ml.load("spector"))))
    npt.assert_array_equal(own.params, fits[0].params)
    tidy = own.tidy(backend="polars")
    assert isinstance(tidy, pl.DataFrame)
    assert tidy["std_error"].to_list() == fits[0].tidy()["std_error"].tolist()
    with pytest.raises(SpecificationError, match="expected 'pandas' or 'polars'"):
        own.tidy(backend="arrow")
