"""Fit: the roof. A thin frozen facade over an Optimum; each method calls one function below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import ecosystem
from mlecov.compare import Comparison, compare, default_specs
from mlecov.covariance.covariance import Covariance
from mlecov.covariance.resampling import Bootstrap
from mlecov.covariance.sandwich import covariance
from mlecov.covariance.specs import Basic, Spec, parse
from mlecov.diagnostics.facade import Assessed
from mlecov.errors import CovarianceError
from mlecov.inference.delta import nlcom
from mlecov.inference.forecast import Forecast, forecast
from mlecov.inference.hypothesis import lincom, t_test, wald, wald_test
from mlecov.inference.margins import margins
from mlecov.inference.multiple import bands
from mlecov.inference.predict import Prediction, predict
from mlecov.inference.profile import Contour, Profile, Profiles, contour, profile, signed_root
from mlecov.inference.resample import bootstrap
from mlecov.inference.resample_intervals import resampled_intervals
from mlecov.inference.restricted import likelihood_ratio, lr_constraints, score_test
from mlecov.inference.results import Combinations, TestResult
from mlecov.inference.table import CoefficientTable, coefficient_table
from mlecov.inference.wild_score import WildTest, wild_score_test
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.scores import Scores
from mlecov.montecarlo import MonteCarlo, monte_carlo
from mlecov.optimum import Optimum, Record
from mlecov.rendering import Display
from mlecov.storage import save_optimum
from mlecov.summary import Criteria, criteria, records, summary

pd = lazy("pandas")

Array = npt.NDArray[np.float64]
Dispatch = Callable[[Optimum, Any], Covariance]

RESAMPLING: dict[type[Spec], Dispatch] = {Bootstrap: bootstrap}
"""Specs that fit again (bootstrap, jackknife, ...): they are dispatched here, above the estimators."""


@dataclass(frozen=True, eq=False)
class Fit(Assessed):
    """Estimates of a likelihood and every covariance of them.

    Names are statsmodels': `params`, `bse`, `tvalues`, `pvalues`, `conf_int(alpha)`,
    `cov_params(cov)`, `llf`, `nobs`, `df_model`, `df_resid`, `aic`, `bic`, `summary()`, `converged`,
    `mle_retvals`. Everything is on the user's scale; `theta`, `hessian` and `scores` are on the
    free (unconstrained) scale.
    """

    optimum: Optimum
    default: Spec = field(default_factory=lambda: Basic("oim"))
    cache: dict[Any, Covariance] = field(default_factory=dict, repr=False)

    # --- the point -----------------------------------------------------------------------------

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood that was maximised (with its constraints)."""
        return self.optimum.likelihood

    @property
    def theta(self) -> Array:
        """The free parameters (k,) on the unconstrained scale."""
        return self.optimum.theta

    @property
    def record(self) -> Record:
        """How the maximum was found."""
        return self.optimum.record

    @property
    def converged(self) -> bool:
        """Whether the optimiser's criterion held."""
        return self.optimum.record.converged

    @property
    def mle_retvals(self) -> dict[str, Any]:
        """The convergence record under statsmodels' name."""
        return self.optimum.record.as_dict()

    @cached_property
    def params(self) -> Any:
        """Estimates (m,) as a Series, on the user's scale."""
        return self._series(self.likelihood.space.report(self.theta))

    @cached_property
    def values(self) -> dict[str, Any]:
        """Estimates by parameter: numbers and arrays as the function received them."""
        return self.likelihood.space.values(self.theta)

    def _series(self, values: Array) -> Any:
        return pd.Series(values, index=list(self.likelihood.space.labels))

    # --- counts and criteria -------------------------------------------------------------------

    @cached_property
    def _criteria(self) -> Criteria:
        return criteria(self.optimum)

    @property
    def llf(self) -> float:
        """The log-likelihood at the maximum."""
        return self.optimum.evaluation.loglike

    @property
    def nobs(self) -> float:
        """The number of observations: terms, or the sum of frequency weights."""
        return self.likelihood.n_obs

    @property
    def k(self) -> int:
        """The number of free parameters."""
        return self.likelihood.space.k

    @property
    def df_model(self) -> float:
        """Free parameters less the intercepts."""
        names = self.likelihood.space.free_labels
        return float(self.k - sum(name.endswith("[Intercept]") for name in names))

    @property
    def df_resid(self) -> float:
        """Observations less free parameters."""
        return self.nobs - self.k

    @property
    def aic(self) -> float:
        """-2 llf + 2 k."""
        return self._criteria.aic

    @property
    def bic(self) -> float:
        """-2 llf + k log n."""
        return self._criteria.bic

    @property
    def hqic(self) -> float:
        """-2 llf + 2 k log log n."""
        return self._criteria.hqic

    # --- derivatives ---------------------------------------------------------------------------

    @property
    def hessian(self) -> Array:
        """Second derivative of the log-likelihood at the maximum (k, k), free scale."""
        assert self.optimum.evaluation.hessian is not None
        return self.optimum.evaluation.hessian

    @property
    def information(self) -> Array:
        """Observed information (k, k), free scale."""
        return self.optimum.evaluation.information

    @property
    def scores(self) -> Scores:
        """Scores (n, k) as an operator, free scale, unweighted."""
        if self.optimum.evaluation.scores is None:
            raise CovarianceError("this fit holds no scores; reattach its likelihood or save it with scores.")
        return self.optimum.evaluation.scores

    def score_obs(self) -> Any:
        """Return the scores as a DataFrame (n, k), one row per term."""
        index = self.likelihood.rows.labels
        return pd.DataFrame(
            self.scores.to_dense(), columns=list(self.likelihood.space.free_labels), index=index
        )

    # --- covariances ---------------------------------------------------------------------------

    def cov(self, spec: Any = None, *, small_sample: str = "default") -> Covariance:
        """Return the covariance that `spec` asks for: a name, a spec, a matrix, or None (the default).

        Raises
        ------
        CovarianceError
            For unknown names and estimators that are not defined for this likelihood.
        """
        found = self.default if spec is None else parse(spec, small_sample)
        key = found if found.__hash__ is not None else id(found)
        if key not in self.cache:
            self._refuse_unnamed(found)
            dispatch = RESAMPLING.get(type(found))
            self.cache[key] = (
                covariance(self.optimum, found) if dispatch is None else dispatch(self.optimum, found)
            )
        return self.cache[key]

    def _refuse_unnamed(self, spec: Spec) -> None:
        weights = self.likelihood.weights
        if weights is not None and weights.kind == "frequency" and type(spec).__name__ in ("HAC", "EWC"):
            raise CovarianceError(
                "frequency weights count rows, which have no order among them: HAC is not defined."
            )

    def with_cov(self, spec: Any, *, small_sample: str = "default") -> Fit:
        """Return the same fit with another default covariance."""
        return replace(self, default=parse(spec, small_sample))

    @property
    def cov_type(self) -> str:
        """The label of the default covariance, computed from what was computed."""
        return self.cov().label

    def cov_params(self, cov: Any = None) -> Any:
        """Return the covariance of params (m, m) as a DataFrame."""
        labels = list(self.likelihood.space.labels)
        return pd.DataFrame(self.cov(cov).user, index=labels, columns=labels)

    def _table(self, cov: Any = None, alpha: float = 0.05) -> CoefficientTable:
        return coefficient_table(self.cov(cov), alpha)

    @property
    def bse(self) -> Any:
        """Standard errors (m,) under the default covariance."""
        return self._series(self.cov().bse)

    @property
    def tvalues(self) -> Any:
        """z or t statistics (m,); NaN where zero lies on the bound of a parameter."""
        return self._series(self._table().statistics)

    @property
    def pvalues(self) -> Any:
        """Two-sided p-values (m,); NaN where zero lies on the bound of a parameter."""
        return self._series(self._table().pvalues)

    def conf_int(self, alpha: float = 0.05, cov: Any = None, kind: str = "normal") -> Any:
        """Return confidence intervals (m, 2) as a DataFrame; those of bounded parameters stay inside.

        `kind`: "normal", or with `cov=Bootstrap(...)` "percentile", "basic", "bca", "t".
        """
        covariance = self.cov(cov if cov is not None or kind == "normal" else "bootstrap")
        if (
            kind == "t"
            and "std_errors" not in covariance.details
            and isinstance(spec := parse(cov), Bootstrap)
        ):
            covariance = self.cov(replace(spec, studentize=True))
        lower, upper = resampled_intervals(self.optimum, covariance, kind, alpha)
        return pd.DataFrame({0: lower, 1: upper}, index=list(self.likelihood.space.labels))

    def bootstrap(self, kind: str = "pairs", **options: Any) -> Covariance:
        """Return a bootstrap covariance with its replicates: `fit.cov(Bootstrap(kind, **options))`."""
        return self.cov(Bootstrap(kind, **options))

    def monte_carlo(
        self,
        estimators: Sequence[Any] = ("oim", "opg", "robust"),
        reps: int = 1000,
        seed: int = 0,
        **options: Any,
    ) -> MonteCarlo:
        """Simulate from this fit: bias, coverage and size of each covariance; see `monte_carlo`."""
        return monte_carlo(None, self.likelihood, estimators, reps, seed, truth=self.theta, **options)

    def wild_score_test(self, hypothesis: str | Sequence[str], **options: Any) -> WildTest:
        """Test constraints by the score bootstrap with the null imposed; see `wild_score_test`."""
        return wild_score_test(self.optimum, hypothesis, **options)

    def compare(self, specs: Sequence[Any] | None = None, *, small_sample: str = "default") -> Comparison:
        """Return estimates with the standard errors of several covariances side by side.

        Without `specs`: every estimator that needs no arguments and is defined here.
        """
        requests = default_specs(self.optimum) if specs is None else specs
        return compare(self.optimum, [self.cov(spec, small_sample=small_sample) for spec in requests])

    # --- hypotheses ----------------------------------------------------------------------------

    def wald(
        self, hypothesis: Any, value: Any = None, *, cov: Any = None, use_f: bool | None = None
    ) -> TestResult:
        """Return the Wald test of "mu[x1] = mu[x2], sigma = 1", a matrix, or a function: see `wald`."""
        return wald(self.cov(cov), hypothesis, value, use_f=use_f)

    def lincom(self, expressions: Any, *, cov: Any = None, alpha: float = 0.05) -> Combinations:
        """Return linear combinations such as "mu[x1] + 2*mu[x2]" with standard errors and intervals."""
        return lincom(self.cov(cov), expressions, alpha)

    def nlcom(
        self,
        function: Callable[..., Any],
        names: Sequence[str] | None = None,
        *,
        cov: Any = None,
        alpha: float = 0.05,
    ) -> Combinations:
        """Return a function of the parameters by name, lambda mu, sigma: ..., by the delta method."""
        return nlcom(self.cov(cov), function, names, alpha)

    def t_test(
        self, r_matrix: Any, cov_p: Any = None, use_t: bool | None = None, *, cov: Any = None
    ) -> Combinations:
        """Return a t or z test of each linear hypothesis, with statsmodels' arguments."""
        return t_test(self.cov(cov if cov_p is None else cov_p), r_matrix, use_t)

    def wald_test(
        self,
        r_matrix: Any,
        cov_p: Any = None,
        use_f: bool | None = None,
        df_constraints: int | None = None,
        scalar: bool = True,
        *,
        cov: Any = None,
    ) -> TestResult:
        """Return the joint Wald test, with statsmodels' arguments (`scalar` changes nothing)."""
        del scalar
        return wald_test(self.cov(cov if cov_p is None else cov_p), r_matrix, use_f, df_constraints)

    def lr_test(self, constraints: Any = (), fixed: Mapping[str, Any] | None = None) -> TestResult:
        """Return the likelihood-ratio test of constraints, whose null is fitted here."""
        return lr_constraints(self.optimum, constraints, fixed)

    def score_test(
        self, constraints: Any = None, fixed: Mapping[str, Any] | None = None, *, cov: Any = None
    ) -> TestResult:
        """Return the score (LM) test of constraints, or of this fit's own; `cov` under the null."""
        return score_test(self.optimum, constraints, fixed, cov=cov)

    def bands(
        self, names: Sequence[str] | None = None, alpha: float = 0.05, *, cov: Any = None, seed: int = 2019
    ) -> Any:
        """Return sup-t intervals (a DataFrame) that hold for all entries named at once."""
        return bands(self.cov(cov), names, alpha, seed=seed)

    def profile(
        self, names: str | Sequence[str], alpha: float = 0.05, points: int = 16
    ) -> Profile | Profiles:
        """Return profile likelihoods and their intervals, of one entry or several."""
        return profile(self.optimum, names, alpha, points)

    def signed_root(self, name: str, value: float) -> float:
        """Return the signed root of the LR statistic of an entry held at `value`: N(0, 1) under it."""
        return signed_root(self.optimum, name, value)

    def contour(self, first: str, second: str, alpha: float = 0.05, directions: int = 32) -> Contour:
        """Return the border of the joint profile-likelihood region of two entries."""
        return contour(self.optimum, first, second, alpha, directions)

    def predict(
        self,
        what: str | Callable[..., Any] = "mean",
        data: Any = None,
        *,
        cov: Any = None,
        alpha: float = 0.05,
    ) -> Prediction:
        """Return a quantity of the model ("mean", "variance", ...), "predictor", a parameter, or a function
        of names, for each row: see `inference.predict.predict`.
        """
        return predict(self.optimum, self.cov(cov), what, data, alpha)

    def forecast(
        self,
        steps: int = 1,
        data: Any = None,
        *,
        parameters: bool = False,
        cov: Any = None,
        alpha: float = 0.05,
    ) -> Forecast:
        """Return mean, standard error and interval of the periods after the sample: see `forecast`."""
        return forecast(self.optimum, self.cov(cov), steps, data, parameters=parameters, alpha=alpha)

    def margins(
        self, variables: str | Sequence[str] | None = None, *, cov: Any = None, **options: Any
    ) -> Combinations:
        """Return average or at-means marginal effects and contrasts: see `inference.margins.margins`."""
        spec = self.default if cov is None else parse(cov)
        return margins(self.optimum, self.cov(cov), variables, spec=spec, **options)

    # --- tables --------------------------------------------------------------------------------

    def summary(self, cov: Any = None, alpha: float = 0.05) -> Display:
        """Return the summary under a covariance: text in a terminal, HTML in a notebook, LaTeX on request."""
        return summary(self.optimum, self.cov(cov), alpha)

    def tidy(self, cov: Any = None, alpha: float = 0.05, *, backend: str = "pandas") -> Any:
        """Return the coefficient table as a tidy frame of pandas or polars, a row per reported entry."""
        return ecosystem.frame(records(self._table(cov, alpha)), backend)

    def glance(self) -> Any:
        """Return the fit's facts as a DataFrame of one row."""
        return pd.DataFrame(
            [
                {
                    "model": self.likelihood.facts.name,
                    "llf": self.llf,
                    "nobs": self.nobs,
                    "k": self.k,
                    "aic": self.aic,
                    "bic": self.bic,
                    "converged": self.converged,
                    "iterations": self.record.iterations,
                }
            ]
        )

    # --- other packages ------------------------------------------------------------------------

    @property
    def model(self) -> ecosystem.ModelNames:
        """Names of the outcome and the entries, where statsmodels' tables look for them."""
        return ecosystem.model_names(self.optimum)

    @property
    def default_model_infos(self) -> dict[str, Callable[[Any], str]]:
        """The facts that statsmodels' `summary_col` prints under the coefficients."""
        return ecosystem.model_infos(self.cov())

    def for_marginaleffects(self, what: Any = "mean", *, cov: Any = None) -> Any:
        """Return this fit as a model of the package marginaleffects: see `ecosystem.marginaleffects_model`."""
        spec = self.default if cov is None else parse(cov)
        return ecosystem.marginaleffects_model(self, self.cov, spec, what)

    @property
    def __maketables_coef_table__(self) -> Any:
        return ecosystem.maketables_coefficients(self.cov())

    def __maketables_stat__(self, key: str) -> Any:
        return ecosystem.maketables_statistic(self.optimum, self.cov(), key)

    @property
    def __maketables_depvar__(self) -> str:
        return self.model.endog_names

    @property
    def __maketables_vcov_info__(self) -> dict[str, Any]:
        return ecosystem.maketables_covariance(self.cov())

    @property
    def __maketables_default_stat_keys__(self) -> list[str]:
        return ecosystem.DEFAULT_STATISTICS

    def save(self, path: Any, *, scores: bool = True) -> None:
        """Write theta, kinds, Hessian and (on request) scores to a file that holds no code."""
        save_optimum(self.optimum, path, scores=scores)

    def __repr__(self) -> str:
        return self.summary().text()

    def _repr_html_(self) -> str:
        return self.summary().html()


def lr_test(restricted: Fit, full: Fit, *, nested: bool | None = None) -> TestResult:
    """Return the likelihood-ratio test of a restricted against a full fit, after checks that they nest.

    `nested=True`: the caller vouches for nesting that the names of the parameters do not show.
    """
    return likelihood_ratio(restricted.optimum, full.optimum, nested=nested)
