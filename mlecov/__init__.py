"""Write down a log-likelihood; get the estimates and every covariance of them.

>>> import mlecov as ml
>>> fit = ml.fit(ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector")))
>>> print(fit.compare())  # doctest: +SKIP
"""

from mlecov import models, plots
from mlecov.check import check_derivatives
from mlecov.covariance.covariance import Covariance
from mlecov.covariance.requests import EWC, HAC, HC, Cluster, Conley, DriscollKraay, Jackknife, Survey
from mlecov.covariance.resampling import Bootstrap
from mlecov.covariance.specs import Given
from mlecov.datasets import datasets, load
from mlecov.declare import likelihood
from mlecov.diagnostics.facade import clarke, hausman, vuong
from mlecov.errors import MlecovError, MlecovWarning
from mlecov.fit import bias_reduced, fit, load_fit, stack, two_step
from mlecov.inference.multiple import adjust_pvalues, simultaneous
from mlecov.interop import as_fit
from mlecov.kinds import (
    correlation,
    covariance,
    estimated,
    fixed,
    interval,
    ordered,
    positive,
    real,
    simplex,
)
from mlecov.least_squares import least_squares, nonlinear_least_squares
from mlecov.likelihood.chunked_dask import distributed
from mlecov.montecarlo import MonteCarlo, monte_carlo
from mlecov.parameters import linear
from mlecov.result import Fit, lr_test

__version__ = "0.1.0"

__all__ = [
    "Bootstrap",
    "Cluster",
    "Conley",
    "Covariance",
    "DriscollKraay",
    "EWC",
    "Fit",
    "Given",
    "HAC",
    "HC",
    "Jackknife",
    "MlecovError",
    "MlecovWarning",
    "MonteCarlo",
    "Survey",
    "adjust_pvalues",
    "as_fit",
    "bias_reduced",
    "check_derivatives",
    "clarke",
    "correlation",
    "covariance",
    "datasets",
    "distributed",
    "estimated",
    "fit",
    "fixed",
    "hausman",
    "interval",
    "least_squares",
    "likelihood",
    "linear",
    "load",
    "load_fit",
    "lr_test",
    "models",
    "monte_carlo",
    "nonlinear_least_squares",
    "ordered",
    "plots",
    "positive",
    "real",
    "simplex",
    "simultaneous",
    "stack",
    "two_step",
    "vuong",
]
