"""as_fit(): results made elsewhere become fits, so that every covariance can be had of them.

`as_fit` dispatches on the type of the result; another package joins with

    @mlecov.as_fit.register(TheirResult)
    def _(result, **options):
        return mlecov.as_fit((params, scores, hessian), names=..., **options)

What is needed are estimates (k,), scores (n, k) and the Hessian (k, k) of the log-likelihood.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.specs import Basic, parse
from mlecov.data import Rows, Table, Weights, open_table
from mlecov.errors import DataError, IdentificationError, SpecificationError, listing
from mlecov.kinds import Real
from mlecov.lazy import lazy
from mlecov.likelihood.base import Curvature, Evaluation, Facts
from mlecov.likelihood.known import KnownLikelihood
from mlecov.likelihood.scores import Codes, DenseScores
from mlecov.linalg import describe_singular, try_factor
from mlecov.optimum import Optimum, Record
from mlecov.parameters import ParameterSpace
from mlecov.result import Fit

sm_wrapper = lazy("statsmodels.base.wrapper")
sm_base = lazy("statsmodels.base.model")
sm_linear = lazy("statsmodels.regression.linear_model")
sm_glm = lazy("statsmodels.genmod.generalized_linear_model")
sm_discrete = lazy("statsmodels.discrete.discrete_model")
sm_space = lazy("statsmodels.tsa.statespace.mlemodel")

Array = npt.NDArray[np.float64]

AT_MAXIMUM = 1e-4
"""g' I^-1 g above which a result from elsewhere is not taken for a maximum."""


@dataclass(frozen=True)
class RowCurvature:
    """Information of row i as f_i x_i x_i': x (n, k), f (n,) observed and, where known, expected."""

    rows: Array
    observed: Array
    expected: Array | None = None


@dataclass(frozen=True)
class KnownLinear(KnownLikelihood):
    """A likelihood known at its estimates whose rows' curvature is known too (CR2, CR3, HC2, HC3)."""

    curvature: RowCurvature | None = None

    @property
    def has_expected_blocks(self) -> bool:
        return self.curvature is not None and self.curvature.expected is not None

    def curvature_blocks(
        self, theta: Array, codes: Codes, n_groups: int, kind: Curvature
    ) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        assert self.curvature is not None
        factors = self.curvature.expected if kind == "expected" else self.curvature.observed
        assert factors is not None
        x = self.curvature.rows
        own = factors if self.weights is None else factors * self.weights.values
        order = np.argsort(codes, kind="stable")
        order = order[codes[order] >= 0]
        bounds = np.searchsorted(codes[order], np.arange(n_groups + 1))
        budget = max(4_000_000 // x.shape[1] ** 2, 1)
        group = 0
        while group < n_groups:
            last = max(int(np.searchsorted(bounds, bounds[group] + budget, side="right")) - 1, group + 1)
            last = min(last, n_groups)
            blocks = np.zeros((last - group, x.shape[1], x.shape[1]))
            for g in range(group, last):
                terms = order[bounds[g] : bounds[g + 1]]
                blocks[g - group] = x[terms].T @ (x[terms] * own[terms, None])
            yield np.arange(group, last, dtype=np.intp), blocks
            group = last


@functools.singledispatch
def as_fit(result: Any, **options: Any) -> Fit:
    """Return a fit of a result made elsewhere: every covariance, test and table of its estimates.

    Understood are results of statsmodels (OLS, WLS, GLS, GLM, Logit, Probit, Poisson, NegativeBinomial,
    MNLogit and other models with `score_obs`, GenericLikelihoodModel, state space models such as SARIMAX),
    a triple (params, scores, hessian), and whatever is registered with `as_fit.register(Type)`.

    Parameters
    ----------
    result :
        The result, or (params (k,), scores (n, k), hessian (k, k)) of the log-likelihood: scores as
        contributions, never their negative; the Hessian negative definite.
    names :
        Labels of the parameters (triples).
    data :
        Frame with the rows of the result, for groups and time by column name; statsmodels' formulas
        bring it along. Without it groups and times are arrays, one value per term.
    loglike, frequency_weights, name :
        Log-likelihood, weights and title of a triple.
    cov :
        Default covariance.

    The estimates are taken as they are; what needs the likelihood elsewhere (profiles, refits) is
    refused. A linear model's parameters are its coefficients, at sigma^2 = result.scale: the information
    X'X / scale makes "oim" statsmodels' own covariance; no sandwich depends on the scale, nor would
    it change with sigma among the parameters, since information and scores of the two are orthogonal at
    the maximum.

    Raises
    ------
    SpecificationError
        For types that are not known; the message says how to register one.
    IdentificationError
        Where the Hessian is not negative definite.

    Example
    -------
    >>> import numpy as np
    >>> y = np.array([1.0, 2.0, 4.0, 5.0])
    >>> fit = as_fit(([y.mean()], (y - y.mean())[:, None], [[-4.0]]), names=["mu"])
    >>> float(fit.cov("robust").user[0, 0])
    0.625
    """
    if any(base.__module__.startswith("statsmodels.") for base in type(result).__mro__):
        _register_statsmodels()
        if as_fit.dispatch(type(result)) is not as_fit.dispatch(object):
            return as_fit(result, **options)
    raise SpecificationError(
        f"a result of type {type(result).__name__} is not understood. Give as_fit((params, scores, hessian), "
        "names=[...]), or register its type: @as_fit.register(TheirResult)."
    )


@as_fit.register(tuple)
def _of_triple(
    result: tuple[Any, ...],
    *,
    names: Sequence[str] | None = None,
    data: Any = None,
    loglike: float = float("nan"),
    frequency_weights: Any = None,
    expected: Any = None,
    name: str = "estimates",
    outcome: str | None = None,
    cov: Any = None,
    curvature: RowCurvature | None = None,
    labels: Any = None,
    engine: str = "given",
) -> Fit:
    """Return the fit of (params, scores, hessian)."""
    if len(result) != 3:
        raise SpecificationError(f"expected (params, scores, hessian); got a tuple of {len(result)}.")
    theta, scores, hessian = (np.asarray(part, dtype=float) for part in result)
    names = [f"b{j}" for j in range(len(theta))] if names is None else [str(n) for n in names]
    _check_shapes(theta, scores, hessian, names)
    weights = None
    if frequency_weights is not None:
        weights = Weights(np.asarray(frequency_weights, dtype=float), "frequency")
    space = ParameterSpace.of({n: Real(float(value)) for n, value in zip(names, theta, strict=True)})
    found = DenseScores(scores, weights)
    evaluation = Evaluation(theta, float(loglike), found.sum(), hessian, found)
    rows = _rows(data, len(scores), labels)
    fixed = None if expected is None else np.asarray(expected, dtype=float)
    kind = KnownLikelihood if curvature is None else functools.partial(KnownLinear, curvature=curvature)
    known = kind(space, rows, weights, Facts(name, engine, outcome), evaluation, len(scores), fixed)
    optimum = Optimum(known, theta, evaluation, _record(evaluation, names))
    return Fit(optimum, Basic("oim") if cov is None else parse(cov))


def _check_shapes(theta: Array, scores: Array, hessian: Array, names: Sequence[str]) -> None:
    k = len(theta) if theta.ndim == 1 else -1
    if k < 1 or scores.ndim != 2 or scores.shape[1] != k or hessian.shape != (k, k) or len(names) != k:
        raise SpecificationError(
            f"shapes do not agree: params {theta.shape}, scores {scores.shape}, hessian {hessian.shape}, "
            f"{len(names)} names; expected (k,), (n, k), (k, k) and k."
        )
    if len(set(names)) < k:
        raise SpecificationError(
            f"names occur twice: {listing(n for n in names if list(names).count(n) > 1)}."
        )
    if not (np.isfinite(theta).all() and np.isfinite(scores).all() and np.isfinite(hessian).all()):
        raise SpecificationError("params, scores or hessian hold numbers that are not finite.")


def _rows(data: Any, n: int, labels: Any) -> Rows:
    if data is None:
        return Rows(Table({}, n, labels))
    table = open_table(data)
    if table.n_rows != n:
        raise DataError(
            f"data have {table.n_rows} rows; the result has {n} terms. Give the rows it was fitted to."
        )
    return Rows(table)


def _record(evaluation: Evaluation, names: Sequence[str]) -> Record:
    """Return the record of estimates found elsewhere: whether they are a maximum is judged here."""
    made = try_factor(evaluation.information)
    if made is None:
        remark = ""
        if try_factor(-evaluation.information) is not None:
            remark = "\nIt is positive definite: give the Hessian of the log-likelihood, not minus it."
        raise IdentificationError(
            describe_singular(evaluation.information, names, "minus the Hessian given") + remark
        )
    assert evaluation.gradient is not None
    decrement = made.quadratic(evaluation.gradient)
    gradient = float(np.max(np.abs(evaluation.gradient) / np.sqrt(np.diag(evaluation.information))))
    good = decrement <= AT_MAXIMUM
    criterion = (
        f"g' I^-1 g = {decrement:.2g}"
        if good
        else (
            f"g' I^-1 g = {decrement:.2g} at the estimates: the scores do not sum to zero (a penalty, or "
            "an optimiser that stopped early)"
        )
    )
    return Record(good, criterion, "elsewhere", 0, 0, decrement, gradient, True, 0.0, evaluation.theta)


# --- statsmodels ---------------------------------------------------------------------------------


@functools.cache
def _register_statsmodels() -> None:
    """Register statsmodels' results; it is imported by the time one of them is seen."""
    as_fit.register(sm_wrapper.ResultsWrapper, _of_wrapper)
    as_fit.register(sm_linear.RegressionResults, _of_linear)
    as_fit.register(sm_glm.GLMResults, _of_glm)
    as_fit.register(sm_base.LikelihoodModelResults, _of_likelihood)
    as_fit.register(sm_space.MLEResults, _of_state_space)


def _of_wrapper(result: Any, **options: Any) -> Fit:
    return as_fit(result._results, **options)


def _given(result: Any, options: dict[str, Any], engine: str) -> dict[str, Any]:
    """Return what every result of statsmodels tells about itself, under the names of a triple."""
    data = result.model.data
    frame = getattr(data, "frame", None)
    labels = data.row_labels
    if frame is not None and labels is not None:
        frame = frame.loc[labels]
    names = options.pop("names", None)
    found = {
        "names": names if names is not None else _names(result),
        "loglike": float(result.llf),
        "name": type(result.model).__name__,
        "outcome": str(result.model.endog_names),
        "engine": engine,
        "data": frame,
        "labels": labels,
    }
    return {**found, **options}


def _names(result: Any) -> list[str]:
    params = np.asarray(result.params)
    if params.ndim == 2:  # a multinomial model: an equation for each outcome but the first
        columns = result.model.exog_names
        return [f"{j + 1}[{name}]" for j in range(params.shape[1]) for name in columns]
    return [str(name) for name in result.model.data.param_names]


def _of_linear(result: Any, **options: Any) -> Fit:
    model = result.model
    if not isinstance(model, sm_linear.GLS | sm_linear.WLS | sm_linear.OLS):
        raise SpecificationError(f"{type(model).__name__} is no likelihood; OLS, WLS and GLS are understood.")
    x = np.asarray(model.wexog, dtype=float)
    x = x[:, None] if x.ndim == 1 else x
    scores = x * (np.asarray(result.wresid) / result.scale)[:, None]
    information = x.T @ x / result.scale
    rows = np.full(len(x), 1 / result.scale)
    given = _given(result, options, f"statsmodels, sigma^2 = {result.scale:.6g} taken as known")
    return _of_triple(
        (result.params, scores, -information),
        expected=information,
        curvature=RowCurvature(x, rows, rows),
        **given,
    )


def _of_glm(result: Any, **options: Any) -> Fit:
    model, params, scale = result.model, np.asarray(result.params), result.scale
    scores = np.asarray(model.score_obs(params, scale=scale))
    frequencies = np.asarray(model.freq_weights, dtype=float)
    counted = None
    divisor = np.ones(len(scores))
    if (frequencies != 1).any():
        counted = divisor = frequencies
        scores = np.divide(
            scores, frequencies[:, None], out=np.zeros_like(scores), where=frequencies[:, None] > 0
        )
    factors = [np.asarray(model.hessian_factor(params, scale=scale, observed=flag)) for flag in (True, False)]
    per_row = [np.divide(f, divisor, out=np.zeros_like(f), where=divisor > 0) for f in factors]
    x = np.asarray(model.exog, dtype=float)
    return _of_triple(
        (params, scores, model.hessian(params, scale=scale, observed=True)),
        expected=-model.hessian(params, scale=scale, observed=False),
        frequency_weights=counted,
        curvature=RowCurvature(x, *per_row),
        **_given(result, options, f"statsmodels, scale = {scale:.6g} taken as known"),
    )


def _of_likelihood(result: Any, **options: Any) -> Fit:
    model = result.model
    if not callable(getattr(model, "score_obs", None)) or not callable(getattr(model, "hessian", None)):
        raise SpecificationError(
            f"{type(model).__name__} of statsmodels offers no scores by observation (score_obs). Give "
            "as_fit((params, scores, hessian), names=[...])."
        )
    params = np.asarray(result.params, dtype=float)
    flat = params.ravel(order="F")
    scores = np.asarray(model.score_obs(params if params.ndim == 1 else flat))
    hessian = np.asarray(model.hessian(params if params.ndim == 1 else flat))
    return _of_triple((flat, scores, hessian), **_given(result, options, "statsmodels"))


def _of_state_space(result: Any, **options: Any) -> Fit:
    params = np.asarray(result.params, dtype=float)
    scores = np.asarray(result.model.score_obs(params))
    # statsmodels' Hessian of a state space model is that of the mean log-likelihood
    hessian = np.asarray(result.model.hessian(params)) * result.nobs_effective
    return _of_triple((params, scores, hessian), **_given(result, options, "statsmodels, state space"))
