"""The part of a fit's face that judges it: misspecification, bias, diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.diagnostics.influence import Influence, ScoreOutliers, influence, score_outliers
from mlecov.diagnostics.page import Diagnosis, diagnose
from mlecov.diagnostics.residuals import generalized_residuals, quantile_residuals
from mlecov.inference import misspecification, selection
from mlecov.inference.bias import Bias, cox_snell_bias
from mlecov.inference.cameron_trivedi import CameronTrivedi, cameron_trivedi
from mlecov.inference.contrast import adjusted_lr_test
from mlecov.inference.contrast import hausman as hausman_test
from mlecov.inference.indicators import Indicators
from mlecov.inference.misspecification import InformationMatrixTest
from mlecov.inference.results import TestResult
from mlecov.inference.selection import InformationCriteria, ModelComparison
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]


class Assessed:
    """Methods of a fit that ask whether to believe it."""

    optimum: Optimum

    def cov(self, spec: Any = None, *, small_sample: str = "default") -> Covariance:
        """Return a covariance; the fit overrides this."""
        raise AttributeError("cov")

    def information_matrix_test(
        self, form: str = "white", indicators: Indicators = "diagonal", **options: Any
    ) -> InformationMatrixTest:
        """Return White's information-matrix test (see `misspecification.information_matrix_test`)."""
        return misspecification.information_matrix_test(self.optimum, form, indicators, **options)

    def information_ratio_test(self, **options: Any) -> InformationMatrixTest:
        """Return the test that tr(I^-1 S'S) / k is one."""
        return misspecification.information_ratio_test(self.optimum, **options)

    def cameron_trivedi(self) -> CameronTrivedi:
        """Return the decomposition of the information-matrix test of a Gaussian regression."""
        return cameron_trivedi(self.optimum)

    def adjusted_lr_test(
        self,
        constraints: str | Sequence[str] = (),
        fixed: Mapping[str, Any] | None = None,
        *,
        cov: Any,
        kind: str = "spectral",
    ) -> TestResult:
        """Return the Chandler-Bate likelihood ratio test under a covariance such as ml.Cluster("firm")."""
        found = self.cov(cov)
        given = None if fixed is None else dict(fixed)
        return adjusted_lr_test(self.optimum, found.matrix, constraints, given, kind=kind, label=found.label)

    def information_criteria(self) -> InformationCriteria:
        """Return AIC, BIC, HQ and Takeuchi's criterion."""
        return selection.information_criteria(self.optimum)

    @property
    def tic(self) -> float:
        """-2 llf + 2 tr(I^-1 J): AIC where the model need not be right."""
        return selection.information_criteria(self.optimum).tic

    def bias(self) -> Bias:
        """Return the first-order bias of the estimates (Cox and Snell)."""
        return cox_snell_bias(self.optimum)

    def diagnose(self) -> Diagnosis:
        """Return every finding: convergence, identification, separation, bounds, influence, residuals."""
        return diagnose(self.optimum)

    def influence(self) -> Influence:
        """Return one-step deletion effects, Cook's distance and leverage of every term."""
        return influence(self.optimum)

    def score_outliers(self, threshold: float | None = None) -> ScoreOutliers:
        """Return the terms that hold a large share of the outer product of gradients."""
        return score_outliers(self.optimum, threshold)

    def generalized_residuals(self) -> dict[str, Array]:
        """Return the slopes of the terms in each predictor (n,), by equation."""
        return generalized_residuals(self.optimum)

    def quantile_residuals(self, *, seed: int | None = 0) -> Array:
        """Return randomised quantile residuals (n,): standard normal where the model is right."""
        return quantile_residuals(self.optimum, seed=seed)


def vuong(first: Assessed, second: Assessed, **options: Any) -> ModelComparison:
    """Test which of two fits is nearer the truth: see `inference.selection.vuong`.

    Example
    -------
    >>> import mlecov as ml
    >>> data = ml.load("spector")
    >>> probit, logit = (ml.fit(m("grade ~ gpa + psi", data)) for m in (ml.models.probit, ml.models.logit))
    >>> round(ml.vuong(probit, logit, relation="non-nested").statistic, 3)
    0.833
    """
    return selection.vuong(first.optimum, second.optimum, **options)


def clarke(first: Assessed, second: Assessed, **options: Any) -> ModelComparison:
    """Test by signs which of two fits is nearer the truth: see `inference.selection.clarke`."""
    return selection.clarke(first.optimum, second.optimum, **options)


def hausman(consistent: Assessed, efficient: Assessed, **options: Any) -> TestResult:
    """Test whether two estimators differ by more than chance: see `inference.selection.hausman`."""
    return hausman_test(consistent.optimum, efficient.optimum, **options)
