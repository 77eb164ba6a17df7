"""Covariance estimators, written once against evaluations and scores."""

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.sandwich import covariance
from mlecov.covariance.specs import Given, Spec, parse

__all__ = ["Covariance", "Given", "Spec", "covariance", "parse"]
