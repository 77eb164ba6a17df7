"""Arguments as users write them: texts where lists are taken, and what can not be meant refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jax.scipy.stats import norm

import mlecov as ml
from mlecov.errors import CovarianceError, CovarianceWarning, DerivativeError, SpecificationError

RNG = np.random.default_rng(0)
N = 120
DATA = {"x": RNG.standard_normal(N), "z": RNG.standard_normal(N), "g": np.arange(N) % 20}
DATA["y"] = 1 + DATA["x"] - 0.5 * DATA["z"] + RNG.standard_normal(N)
DATA["b"] = (DATA["y"] > 1).astype(float)


@pytest.fixture(scope="module")
def fit() -> ml.Fit:
    return ml.fit(ml.models.gaussian("y ~ x + z", DATA))


def test_constraints_may_be_one_text() -> None:
    likelihood = ml.models.gaussian("y ~ x + z", DATA)
    one = ml.fit(likelihood, constraints="mu[x]=0, mu[z] = 1")
    several = ml.fit(likelihood, constraints=["mu[x] = 0", "mu[z] = 1"])
    np.testing.assert_allclose(one.params, several.params, rtol=1e-12, atol=1e-14)
    assert one.params["mu[z]"] == pytest.approx(1.0, abs=1e-14)


def test_a_null_may_be_one_text(fit: ml.Fit) -> None:
    one = fit.adjusted_lr_test("mu[x] = 0", cov=ml.Cluster("g"))
    assert one.statistic == pytest.approx(
        fit.adjusted_lr_test(["mu[x] = 0"], cov=ml.Cluster("g")).statistic, rel=1e-12
    )


@pytest.mark.parametrize("value", ["a", None, np.nan, np.inf])
def test_entries_are_held_at_finite_numbers(value: Any) -> None:
    with pytest.raises(SpecificationError, match=r"fixed: 'mu\[x\]' is held at .*; expected a finite number"):
        ml.fit(ml.models.gaussian("y ~ x", DATA), fixed={"mu[x]": value})


def test_a_comparison_of_nothing_is_refused(fit: ml.Fit) -> None:
    with pytest.raises(CovarianceError, match="no covariance is named"):
        fit.compare([])


def test_data_in_the_place_of_a_quantity_is_refused(fit: ml.Fit) -> None:
    with pytest.raises(SpecificationError, match=r"what is dict.*predict\('mean', data\)"):
        fit.predict(DATA)


def test_a_loaded_fit_without_its_likelihood_says_so(fit: ml.Fit, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit.npz")
    with pytest.raises(SpecificationError, match=r"holds no model.*load_fit\(path, likelihood=...\)"):
        ml.load_fit(tmp_path / "fit.npz").predict("mean", DATA)


def test_a_score_that_is_summed_is_named() -> None:
    def shifted(y: Any, m: Any) -> Any:
        return norm.logpdf(y, m, 1.0)

    with pytest.raises(DerivativeError, match=r"score\['m'\] has shape \(\); expected \(120,\)"):
        ml.fit(
            ml.likelihood(shifted, {"y": DATA["y"]}, {"m": 0.0}, score=lambda y, m: {"m": np.sum(y - m)}),
        )


def test_blocks_as_long_as_the_sample_are_refused(fit: ml.Fit) -> None:
    for kind in ("block", "stationary"):
        with pytest.raises(CovarianceError, match="every replication would be the sample itself"):
            fit.cov(ml.Bootstrap(kind, reps=20, block_length=N))
    assert (fit.cov(ml.Bootstrap("block", reps=20, block_length=N // 4)).bse > 0).all()


def test_a_bootstrap_of_few_groups_warns(fit: ml.Fit) -> None:
    with pytest.warns(CovarianceWarning, match="only 2 groups of 'half'"):
        fit.cov(ml.Bootstrap("cluster", reps=20, group=pd.Series(DATA["g"] % 2, name="half")))


def test_conley_with_all_in_one_neighbourhood_is_refused(fit: ml.Fit) -> None:
    places = [DATA["x"], DATA["z"]]
    with pytest.raises(CovarianceError, match="all terms lie within the cutoff of 1e\\+06"):
        fit.cov(ml.Conley(coordinates=places, metric="euclidean", kernel="uniform", cutoff=1e6))
    with pytest.raises(CovarianceError, match="all terms lie within the cutoff"):
        fit.cov(ml.Conley(coordinates=[np.ones(N), np.ones(N)], metric="euclidean", cutoff=1.0))


@pytest.mark.parametrize("groups", [2, 5])
def test_few_patterns_of_signs_are_told(groups: int) -> None:
    fit = ml.fit(ml.models.probit("b ~ x", DATA))
    with pytest.warns(
        CovarianceWarning, match=f"{groups} groups have only {2 ** (groups - 1)} distinct"
    ) as said:
        found = fit.wild_score_test("mu[x] = 0", group=DATA["g"] % groups, reps=99)
    assert found.pvalue == 0.0
    ties = np.mean(found.distribution >= found.statistic * (1 - 1e-9))
    assert ties == 2.0 ** (1 - groups)
    assert f"with them it is {ties:.3g}" in str(said[0].message)
    assert f"<{1 / found.reps:.2g}" in str(found)
