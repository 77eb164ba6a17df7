"""Covariance estimators, written once against evaluations and scores."""

from mlecov.covariance import cluster, conley, hac, jackknife, leverage, survey
from mlecov.covariance.covariance import Covariance
from mlecov.covariance.requests import EWC, HAC, HC, Cluster, Conley, DriscollKraay, Jackknife, Survey
from mlecov.covariance.sandwich import covariance
from mlecov.covariance.specs import Given, Spec, parse

__all__ = [
    "EWC",
    "HAC",
    "HC",
    "Cluster",
    "Conley",
    "Covariance",
    "DriscollKraay",
    "Given",
    "Jackknife",
    "Spec",
    "Survey",
    "cluster",
    "conley",
    "covariance",
    "hac",
    "jackknife",
    "leverage",
    "parse",
    "survey",
]
