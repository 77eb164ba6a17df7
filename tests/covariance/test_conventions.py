"""A small-sample convention reaches requests that are given as specs, not only those given by name."""

from __future__ import annotations

import pytest

import mlecov as ml
from mlecov.errors import CovarianceError


@pytest.fixture(scope="module")
def fit() -> ml.Fit:
    frame = {"docvis": [0.0, 2, 1, 4, 3, 0, 5, 2], "x": [1.0, 2, 1, 3, 3, 0, 4, 1]}
    return ml.fit(ml.models.poisson("docvis ~ x", frame))


GROUPS = [0, 0, 0, 1, 1, 2, 2, 2]
FACTORS = {"none": 1, "stata": 3 / 2, "sandwich": 3 / 2, "statsmodels": 7 / 4, "fixest": 7 / 4}


@pytest.mark.filterwarnings("ignore::mlecov.MlecovWarning")
@pytest.mark.parametrize("convention", list(FACTORS))
def test_the_convention_of_the_call_reaches_a_spec(fit: ml.Fit, convention: str) -> None:
    plain = fit.cov(ml.Cluster(GROUPS, type="CR0")).matrix
    found = fit.cov(ml.Cluster(GROUPS), small_sample=convention)
    assert found.matrix == pytest.approx(FACTORS[convention] * plain, rel=1e-13)
    assert fit.compare([ml.Cluster(GROUPS)], small_sample=convention).covariances[0].label == found.label


@pytest.mark.filterwarnings("ignore::mlecov.MlecovWarning")
def test_a_convention_that_the_spec_names_stays(fit: ml.Fit) -> None:
    named = ml.Cluster(GROUPS, small_sample="none")
    assert fit.cov(named, small_sample="stata").label == fit.cov(named).label


def test_an_unknown_convention_is_refused(fit: ml.Fit) -> None:
    with pytest.raises(CovarianceError, match="stat"):
        fit.cov(ml.Cluster(GROUPS), small_sample="stat")


@pytest.mark.parametrize(
    ("name", "spec"),
    [("HC2", ml.HC("HC2")), ("jackknife", ml.Jackknife()), ("bootstrap", ml.Bootstrap(reps=20, seed=0))],
)
def test_estimators_without_a_factor_refuse_conventions_that_have_one(
    fit: ml.Fit, name: str, spec: object
) -> None:
    """By name and as a spec alike; a matrix of the user's own stays as it is."""
    for request in (name, spec):
        for convention in ("stata", "fixest"):
            with pytest.raises(CovarianceError, match="has no small-sample factor under"):
                fit.cov(request, small_sample=convention)
    given = [[1.0, 0.5], [0.5, 2.0]]
    assert fit.cov(given, small_sample="stata").matrix.tolist() == given
