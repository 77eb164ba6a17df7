"""What is refused or warned about, by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mlecov as ml
from mlecov.covariance import HAC, HC, Cluster, Conley, Jackknife, covariance
from mlecov.errors import CovarianceError, CovarianceWarning, DataError
from mlecov.optimize import maximize
from tests.covariance.kinds import N, close, estimate, frame, ready


@pytest.fixture(scope="module")
def found():
    return maximize(ready())


def test_one_group_is_refused(found) -> None:
    with pytest.raises(CovarianceError, match="'one' has one group only"):
        covariance(found, Cluster("one"))
    with pytest.raises(CovarianceError, match="one group only"):
        covariance(found, Jackknife("one"))


def test_few_groups_warn(found) -> None:
    with pytest.warns(CovarianceWarning, match="2 groups of 'half' for 3 parameters: .* rank 1 at most"):
        covariance(found, Cluster(pd.Series(np.arange(N) % 2, name="half")))
    with pytest.warns(CovarianceWarning, match="only 5 groups"):
        covariance(found, Cluster(np.arange(N) % 5))


def test_missing_ids_and_wrong_lengths_are_refused(found) -> None:
    ids = frame()["firm"].astype(float)
    ids[7] = np.nan
    with pytest.raises(DataError, match=r"group1: 1 missing id\(s\), in term\(s\) 7"):
        covariance(found, Cluster(ids))
    with pytest.raises(DataError, match="got 119 values"):
        covariance(found, Cluster(ids[1:]))
    with pytest.raises(DataError, match="no column 'firms'"):
        covariance(found, Cluster("firms"))


def test_strings_categories_and_numbers_are_the_same_groups(found) -> None:
    firm = frame()["firm"]
    expected = estimate(found, Cluster("firm"))
    text = np.array([f"firm {i}" for i in firm])
    unused = pd.Series(pd.Categorical(text, categories=[*dict.fromkeys(text), "never seen"]))
    for ids in (text, unused, firm * 1.5, list(text)):
        close(estimate(found, Cluster(ids)), expected, 1e-14)


def test_nested_groups_are_the_coarser_ones(found) -> None:
    firm = frame()["firm"]
    close(estimate(found, Cluster(firm, firm // 2)), estimate(found, Cluster(firm // 2)))


def test_negative_eigenvalues_are_reported_and_repaired_on_request() -> None:
    # Opposed scores in a row and in a column: both sums vanish, the cells do not.
    rng = np.random.default_rng(8)
    data = {"a": np.repeat(np.arange(10), 10), "b": np.tile(np.arange(10), 10)}
    sign = (-1.0) ** (data["a"] + data["b"])
    found = maximize(ml.models.gaussian("y ~ x", {**data, "x": rng.standard_normal(100), "y": sign * 2}))
    spec = Cluster("a", "b", small_sample="none")
    with pytest.warns(CovarianceWarning, match="negative eigenvalue"):
        plain = covariance(found, spec)
    values = np.linalg.eigvalsh(plain.matrix)
    close(plain.details["negative_eigenvalues"], values[values < 0])
    with pytest.warns(CovarianceWarning, match="set to zero, as asked"):
        repaired = covariance(found, Cluster("a", "b", small_sample="none", repair="eigen"))
    close(np.linalg.eigvalsh(repaired.matrix), np.maximum(values, 0), 1e-10)
    assert "set to zero" in repaired.label


def test_full_leverage_names_the_group() -> None:
    data = {**frame(), "only": (frame()["firm"] == 5).astype(float)}
    found = maximize(ml.models.poisson("w ~ x + only", data))
    with pytest.raises(CovarianceError, match=r"not positive definite for group .*5"):
        covariance(found, Cluster("firm", type="CR2"))
    data["only"] = (np.arange(N) == 17).astype(float)
    found = maximize(ml.models.poisson("w ~ x + only", data))
    for spec in (HC("HC3"), Jackknife()):
        with pytest.raises(CovarianceError, match="not positive definite for term 17"):
            covariance(found, spec)


def test_arguments_are_checked_when_made() -> None:
    for make, text in (
        (lambda: Cluster(), "at least one group"),
        (lambda: Cluster("firm", type="CR5"), "type='CR5'"),
        (lambda: Cluster("firm", small_sample="SAS"), "small_sample='SAS'"),
        (lambda: HAC("gauss", lags=3), "kernel='gauss'"),
        (lambda: HAC("truncated", bandwidth="newey-west"), "use 'andrews'"),
        (lambda: HAC("qs", lags=3), "weighs every lag"),
        (lambda: Conley("lat", cutoff=3), "needs either lat= and lon="),
        (lambda: Conley("lat", "lon", cutoff=0), "positive distance"),
    ):
        with pytest.raises(CovarianceError, match=text):
            make()


def test_satterthwaite_needs_expected_curvature(found) -> None:
    with pytest.raises(CovarianceError, match="expected curvature"):
        covariance(found, Cluster("firm", type="CR2", df="satterthwaite", curvature="observed"))
