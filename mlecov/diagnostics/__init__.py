"""Diagnostics after a fit: identification, convergence, separation, boundary, influence, residuals."""

from mlecov.diagnostics.influence import Influence, influence, score_outliers
from mlecov.diagnostics.page import Diagnosis, diagnose
from mlecov.diagnostics.point import boundary, convergence, identification, separation
from mlecov.diagnostics.residuals import generalized_residuals, quantile_residuals

__all__ = [
    "Diagnosis",
    "Influence",
    "boundary",
    "convergence",
    "diagnose",
    "generalized_residuals",
    "identification",
    "influence",
    "quantile_residuals",
    "score_outliers",
    "separation",
]
