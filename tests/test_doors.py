"""What formulas and arrays do with columns of every type, levels and indexes that a fit has not seen."""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import mlecov as ml
from mlecov.errors import DataError, SpecificationError
from mlecov.terms import coded, usage

M = ml.models


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng, n = np.random.default_rng(0), 300
    d = pd.DataFrame(
        {
            "x": rng.standard_normal(n),
            "z": rng.standard_normal(n),
            "g": rng.integers(0, 20, n),
            "s": np.array(list("abc"))[rng.integers(0, 3, n)],
            "k": rng.integers(0, 40, n),
        }
    )
    d["y"] = 1 + d.x - 0.5 * d.z + rng.standard_normal(n)
    d["b"] = (d.y > 1) * 1.0
    d["c"] = rng.poisson(np.exp(0.3 + 0.4 * d.x)) * 1.0
    return d


def design(formula: str, data: Any) -> tuple[tuple[str, ...], np.ndarray]:
    block = M.gaussian(formula, data).facts.extra["blocks"]["mu"]
    return block.names, np.asarray(block.matrix if block.is_dense else block.matrix.toarray())


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "Int8", "int8[pyarrow]", "float32"])
@pytest.mark.parametrize("more", ["", " + C(k)"])
def test_small_numbers_do_not_overflow(data: pd.DataFrame, dtype: str, more: str) -> None:
    a = (data.g + 30).astype(dtype)
    e = data.assign(a=a, h=(data.k + 60).astype(dtype))
    names, matrix = design("y ~ I(a**10) + a:h + I(a-128) + np.exp(a)" + more, e)
    exact = data.g.to_numpy() + 30.0
    wanted = [exact**10, exact * (data.k.to_numpy() + 60.0), exact - 128, np.exp(exact)]
    order = ["I(a ** 10)", "a:h", "I(a - 128)", "np.exp(a)"]
    for label, values in zip(order, wanted, strict=True):
        np.testing.assert_allclose(matrix[:, names.index(label)], values, rtol=1e-14)


def test_levels_of_small_integers_keep_their_names(data: pd.DataFrame) -> None:
    e = data.assign(a=data.g.astype("int8"))
    assert design("y ~ C(a)", e)[0][:3] == ("Intercept", "C(a)[T.1]", "C(a)[T.2]")
    assert design("y ~ C(g, contr.treatment(3))", e)[0][1] == "C(g, contr.treatment(3))[T.0]"
    names, matrix = design("y ~ C(a > 5) + I(a**2)", e)
    assert names == ("Intercept", "C(a > 5)[T.True]", "I(a ** 2)")
    np.testing.assert_array_equal(matrix[:, 2], data.g.to_numpy() ** 2.0)


def test_truth_values_are_counted(data: pd.DataFrame) -> None:
    e = data.assign(t=data.x > 0, u=data.z > 0)
    both = e.t.to_numpy() * 1.0 + e.u.to_numpy()
    for more in ("", " + C(k)"):
        names, matrix = design("y ~ I(t + u)" + more, e)
        np.testing.assert_array_equal(matrix[:, names.index("I(t + u)")], both)
    assert design("y ~ t", e)[0] == ("Intercept", "t")
    assert design("y ~ I(t & u)", e)[0] == ("Intercept", "I(t & u)")
    with pytest.raises(SpecificationError, match="sums truth values"):
        M.gaussian("y ~ I((x > 0) + (z > 0))", e)


@pytest.mark.parametrize("formula", ["b ~ x + s", "b ~ x * s", "b ~ x + C(s)", "b ~ C(s, contr.sum)"])
def test_unseen_text_is_refused(data: pd.DataFrame, formula: str) -> None:
    fit = ml.fit(M.probit(formula, data))
    with pytest.raises(DataError, match=r"column 's' has level\(s\) .* not seen: 'zzz'; it knows a, b, c"):
        fit.predict("mean", pd.DataFrame({"x": [0.0, 0.0], "s": ["zzz", "a"]}))


@pytest.mark.parametrize("name", ["g", "k"])
def test_unseen_numbers_are_refused_and_known_ones_found(data: pd.DataFrame, name: str) -> None:
    fit = ml.fit(M.gaussian(f"y ~ x + C({name})", data))
    with pytest.raises(DataError, match=rf"column {name!r} has level\(s\) .* not seen: 99;"):
        fit.predict("mean", pd.DataFrame({"x": [0.0, 0.0], name: [99, 1]}))
    whole = fit.predict("mean", pd.DataFrame({"x": [0.0, 0.0], name: [3, 1]}))
    floats = fit.predict("mean", pd.DataFrame({"x": [0.0, 0.0], name: [3.0, 1.0]}))
    np.testing.assert_array_equal(np.asarray(whole.values), np.asarray(floats.values))


def test_unseen_levels_of_expressions_are_refused(data: pd.DataFrame) -> None:
    fit = ml.fit(M.gaussian("y ~ C(np.floor(g / 10))", data))
    with pytest.raises(DataError, match="new data can not be put into formula"):
        fit.predict("mean", pd.DataFrame({"g": [1, 55]}))


def test_new_data_outside_the_terms_are_refused(data: pd.DataFrame) -> None:
    fit = ml.fit(M.probit("b ~ bs(x, df=4) + s", data))
    with pytest.raises(DataError, match=r"bs\(x, df=4\).*in the range of the fit's data"):
        fit.predict("mean", pd.DataFrame({"x": [99.0], "s": ["a"]}))
    with pytest.raises(DataError, match="column 'g' is not numeric"):
        ml.fit(M.gaussian("y ~ g + s", data)).predict("mean", pd.DataFrame({"g": ["1"], "s": ["a"]}))
    with pytest.raises(DataError, match=r"term np\.log\(g \+ 1\) is missing or infinite in 1 of 2 rows: 1 "):
        ml.fit(M.gaussian("y ~ np.log(g + 1)", data)).predict("mean", pd.DataFrame({"g": [0, -1]}))


@pytest.mark.parametrize(
    "formula", ["y ~ np.log(x)", "np.log(x) ~ z", "y ~ z:np.log(x)", "y ~ np.log(x) + C(k)"]
)
def test_undefined_terms_are_named_with_rows(data: pd.DataFrame, formula: str) -> None:
    first = np.flatnonzero(data.x < 0)[0]
    with pytest.raises(DataError, match=rf"term np\.log\(x\) is missing .* rows: {first}, "):
        M.gaussian(formula, data)


@pytest.mark.parametrize("more", ["", " + C(k)"])
def test_infinite_terms_are_named_with_rows(data: pd.DataFrame, more: str) -> None:
    with pytest.raises(DataError, match=r"term np\.log\(g\) is missing or infinite in .*g = 0\.0 in row"):
        M.gaussian("y ~ np.log(g)" + more, data)


@pytest.mark.parametrize(
    ("dotted", "plain"),
    [
        ("b ~ `my.x` + z", "b ~ x + z"),
        ("b ~ C(`my.s`) + z", "b ~ C(s) + z"),
        ("b ~ I(`my.x`**2)", "b ~ I(x**2)"),
        ("b ~ z + offset(`my.x`)", "b ~ z + offset(x)"),
        ("b ~ `my.x`:C(`my.k`)", "b ~ x:C(k)"),
    ],
)
def test_names_with_dots(data: pd.DataFrame, dotted: str, plain: str) -> None:
    e = data.rename(columns={"x": "my.x", "s": "my.s", "k": "my.k"})
    a, b = ml.fit(M.gaussian(dotted, e)), ml.fit(M.gaussian(plain, data))
    np.testing.assert_allclose(a.params, b.params, rtol=1e-12)
    new, other = a.predict("mean", e.head(3)), b.predict("mean", data.head(3))
    np.testing.assert_allclose(new.values, other.values, rtol=1e-12)
    with pytest.raises(DataError, match=r"no column 'my\.y'"):
        M.gaussian("b ~ `my.y`", e)


def test_objects_that_are_numbers_are_numbers(data: pd.DataFrame) -> None:
    money = [decimal.Decimal(str(round(v, 3))) for v in data.x]
    wanted = data.x.round(3).to_numpy()
    e = data.assign(q=pd.Series(money, dtype=object), o=pd.Series(data.g.tolist(), dtype=object))
    arrow = data.assign(q=pd.Series(money, dtype=pd.ArrowDtype(pa.decimal128(9, 3))))
    for frame in (e, arrow, pl.DataFrame({"y": data.y.to_numpy(), "q": money})):
        for formula in ("y ~ q", "y ~ q + I(q**2)"):
            names, matrix = design(formula, frame)
            assert names[1] == "q"
            np.testing.assert_array_equal(matrix[:, 1], wanted)
    assert design("y ~ o", e)[0] == ("Intercept", "o")
    assert design("y ~ C(o)", e)[0][1] == "C(o)[T.1]"
    assert design("y ~ s + o", e)[0] == ("Intercept", "s[T.b]", "s[T.c]", "o")
    slope = ml.fit(M.gaussian("y ~ o + z", e)).margins("o")
    assert slope.labels == ("dydx o",)


@pytest.mark.parametrize("formula", ["y ~ w", "y ~ I(w**2)", "y ~ w + s", "w ~ x"])
def test_complex_columns_are_refused(data: pd.DataFrame, formula: str) -> None:
    with pytest.raises(DataError, match="column 'w' holds complex numbers"):
        M.gaussian(formula, data.assign(w=data.x + 1j))


def test_powers_of_one_column_are_refused(data: pd.DataFrame) -> None:
    for formula in ("y ~ x^2", "y ~ z + x ^ 2", "y ~ `x`^2"):
        with pytest.raises(SpecificationError, match=r"write I\(`?x`?\*\*2\)"):
            M.gaussian(formula, data)
    assert design("y ~ (x + z)^2", data)[0] == ("Intercept", "x", "z", "x:z")


def test_usage_of_columns() -> None:
    found = usage("x + C(np.floor(g)) + I(a.clip(1) + b) + {d**2} + I(e & f) + np.log(`my.h`)")
    assert {"g", "a", "e", "f"} <= found.typed
    assert {"b", "d"} <= found.counted and not {"x", "b", "d", "my.h"} & found.typed
    assert "x" in found.alone and "g" not in found.alone
    assert coded("C(g + 1) + C(h)") == {"g", "h"} and coded("C(g + 1) + C(h)", alone=True) == {"h"}


def test_rows_of_other_indexes_are_not_paired_by_position() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.standard_normal(60)}, index=np.arange(100, 160))
    frame["y"] = 1 + frame.x + 0.1 * rng.standard_normal(60)
    shuffled = frame.sort_values("x")
    with pytest.raises(DataError, match="the indexes of y and X differ, first in row 0: 100 and"):
        ml.models.gaussian(frame.y, shuffled[["x"]])
    with pytest.raises(DataError, match=r"the indexes of data\['y'\] and data\['x'\] differ"):
        ml.models.gaussian("y ~ x", {"y": frame.y, "x": shuffled.x})
    fit = ml.fit(ml.models.gaussian("y ~ x", frame))
    groups = pd.Series(np.arange(60) % 12, index=frame.index, name="g")
    with pytest.raises(DataError, match="the indexes of the data and .* differ"):
        fit.cov(ml.Cluster(groups.loc[shuffled.index]))
    alike = fit.cov(ml.Cluster(groups)).matrix
    for same in (groups.to_numpy(), groups.reset_index(drop=True)):
        np.testing.assert_array_equal(fit.cov(ml.Cluster(same)).matrix, alike)
    by_arrays = ml.fit(ml.models.gaussian(frame.y.tolist(), frame.assign(one=1.0)[["one", "x"]]))
    np.testing.assert_allclose(by_arrays.theta, fit.theta, rtol=1e-9)


def test_bare_arrays_of_pandas_have_no_index() -> None:
    """What `.array`, `.values` of a category and pd.Categorical give is paired by position, as numpy is."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.standard_normal(60), "g": np.arange(60) % 12}, index=np.arange(100, 160))
    frame["y"] = (1 + frame.x + 0.1 * rng.standard_normal(60)).astype("Float64")
    fit = ml.fit(ml.models.gaussian("y ~ x", frame))
    alike = fit.cov(ml.Cluster("g")).matrix
    for same in (frame.g.array, frame.g.astype("category").to_numpy(), pd.Categorical(frame.g)):
        np.testing.assert_allclose(fit.cov(ml.Cluster(same)).matrix, alike, rtol=1e-13)
    by_arrays = ml.fit(ml.models.gaussian(frame.y.array, frame.assign(one=1.0)[["one", "x"]]))
    np.testing.assert_allclose(by_arrays.theta, fit.theta, rtol=1e-9)
    held = {"y": frame.y.to_numpy(dtype=float), "s": pd.Categorical(frame.g % 3)}
    assert ml.models.gaussian("y ~ s", held).space.labels[:3] == ("mu[Intercept]", "mu[s[T.1]]", "mu[s[T.2]]")


def test_indexes_of_mixed_labels_are_compared() -> None:
    labels = ["a", 1, 2.5, None, "b", "c"]
    y = pd.Series(np.arange(6.0), index=pd.Index(labels, dtype=object))
    X = pd.DataFrame({"one": np.ones(6)}, index=pd.Index(labels[::-1], dtype=object))
    with pytest.raises(DataError, match="the indexes of y and X differ, first in row 0: a and c"):
        ml.models.gaussian(y, X)
    fit = ml.fit(ml.models.gaussian("y ~ 1", y.to_frame("y")))
    groups = pd.Series([0, 1, 2, 3, 4, 5], index=X.index)
    with pytest.raises(DataError, match="the indexes of the data and"):
        fit.cov(ml.Cluster(groups))
