"""Long factors straight from their codes: the columns that the formula library makes of all rows."""

from typing import Any

import formulaic
import numpy as np
import pandas as pd
import pytest

import mlecov as ml
from mlecov import formulas
from mlecov.data import open_table, screen
from mlecov.likelihood.design import columns_product

N = 900


def frame() -> Any:
    rng = np.random.default_rng(5)
    number = rng.integers(0, 40, N)
    word = np.array([f"w{j:02d}" for j in range(30)])
    data = pd.DataFrame(
        {
            "x": rng.standard_normal(N),
            "z": rng.integers(0, 5, N),
            "firm": 7 * number,
            "town": rng.choice(word, N),
            "kind": rng.choice(["red", "green", "blue"], N),
            "coded": pd.Categorical(rng.choice(word[:28], N), categories=[*word[::-1], "never"]),
        }
    )
    eta = 0.3 * data.x + 0.05 * (number - 20)
    return data.assign(y=(eta + rng.logistic(size=N) > 0).astype(float))


FORMULAS = [
    "x + z + C(firm)",
    "x + town",
    "C(firm) + kind + x",
    "kind + coded + z",
    "0 + x + C(firm)",
    "0 + town + kind",
    "x + C(z) + C(firm)",
    "town + coded",
]


@pytest.mark.parametrize("right", FORMULAS)
def test_the_columns_are_those_of_the_formula_library(right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = frame()
    monkeypatch.setattr("mlecov.data.Rows.frame", lambda *_: pytest.fail("all rows went to the library"))
    rows = screen(open_table(data), list(data.columns), "raise")
    labels, matrix, _ = formulas._coded_matrix(right, rows, formulas.variables(right, rows.table))
    expected = formulaic.Formula(right).get_model_matrix(
        data.assign(coded=data.coded.cat.remove_unused_categories()), ensure_full_rank=True
    )
    # tabmat writes [T.a] also where no level is left out
    expected.columns = [
        f"{n.partition('[')[0]}[T.{n.partition('[')[2].removeprefix('T.')}" if "[" in n else n
        for n in expected.columns
    ]
    assert sorted(labels) == sorted(expected.columns)
    np.testing.assert_array_equal(matrix.toarray(), expected[list(labels)].to_numpy(dtype=float))


def test_what_is_more_than_a_sum_goes_to_the_library() -> None:
    data = frame()
    rows = screen(open_table(data), list(data.columns), "raise")
    for right in ("x:z + C(firm)", "np.exp(x) + town", "x + C(firm)*z", "x + town - 1", "x + x + town"):
        assert formulas.factors.model_matrix(right, rows, lambda head: None) is None


def test_rows_that_were_dropped_take_their_levels_along() -> None:
    data = frame()
    data.loc[data.firm == data.firm.max(), "x"] = np.nan
    with pytest.warns(ml.errors.MissingDataWarning):
        rows = screen(open_table(data), ["x", "firm"], "drop")
    labels, matrix, _ = formulas._coded_matrix("x + C(firm)", rows, {"x", "firm"})
    assert f"C(firm)[T.{data.firm.max()}]" not in labels
    assert matrix.shape == (int(data.x.notna().sum()), data.firm.nunique())
    assert matrix.toarray().sum() == pytest.approx(
        data.x.sum() + len(rows.table.raw("x")[rows.kept]) + (data.firm[data.x.notna()] != 0).sum(), abs=1e-9
    )


def test_fit_and_prediction_are_those_of_dummies() -> None:
    data = frame()
    fit = ml.fit(ml.models.logit("y ~ x + C(firm)", data))
    assert not fit.likelihood.design.is_dense
    design = formulaic.Formula("x + C(firm)").get_model_matrix(data)
    dense = ml.fit(ml.models.logit(data.y.to_numpy(), design))
    order = [fit.params.index.get_loc(f"mu[{name}]") for name in design.columns]
    np.testing.assert_allclose(fit.params.to_numpy()[order], dense.params.to_numpy(), rtol=1e-9, atol=1e-11)
    for name in ("oim", "opg", "robust"):
        np.testing.assert_allclose(fit.cov(name).bse[order], dense.cov(name).bse, rtol=1e-9)
    new = data.iloc[[5, 3, 700]]
    np.testing.assert_allclose(
        np.asarray(fit.predict("mean", new).values),
        np.asarray(fit.predict("mean").values)[[5, 3, 700]],
        rtol=1e-12,
    )


@pytest.mark.parametrize("sign", ["positive", "negative", "both"])
def test_product_of_a_matrix_stored_by_columns(sign: str) -> None:
    rng = np.random.default_rng(6)
    matrix = np.asfortranarray(rng.standard_normal((20_001, 5)))
    w = rng.standard_normal(20_001)
    w = {"positive": np.abs(w), "negative": -np.abs(w), "both": w}[sign]
    plain = (matrix * w[:, None]).T @ matrix
    np.testing.assert_allclose(columns_product(matrix, w), plain, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("right", ["x + flag + C(firm)", "x + C(day)", "flag + day", "x + C(flag) + town"])
def test_truth_values_and_dates_are_named_as_the_library_does(
    right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = frame()
    data["flag"] = data.x > 0
    data["day"] = pd.Timestamp("2020-02-01") + pd.to_timedelta(np.arange(N) % 30, "D")
    rows = screen(open_table(data), list(data.columns), "raise")
    names = formulas.variables(right, rows.table)
    labels, matrix, _ = formulas._coded_matrix(right, rows, names)
    monkeypatch.setattr(formulas.factors, "model_matrix", lambda *_: None)
    theirs, whole, _ = formulas._coded_matrix(right, rows, names)
    assert labels == theirs
    np.testing.assert_array_equal(matrix.toarray(), whole.toarray())
