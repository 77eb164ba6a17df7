"""The catalogue of errors and warnings: each provoked, each naming what is wrong and what to do next.

An entry is (class, what the user did, what the message must say of the fault, what it must advise).
"""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import mlecov as ml
from mlecov import errors as e

N = 60
RNG = np.random.default_rng(0)
X = RNG.standard_normal(N)
DATA = pd.DataFrame(
    {
        "y": 1 + X + RNG.standard_normal(N),
        "x": X,
        "w": np.arange(N) % 3 + 1.0,
        "b": (X + RNG.standard_normal(N) > 0) * 1.0,
        "count": RNG.poisson(2, N) * 1.0,
        "text": ["a", "b"] * 30,
        "half": np.repeat([0, 1], 30),
        "one": 1.0,
        "id": np.repeat(np.arange(20), 3),
    }
)
LATENT = (  # a large effect of the unit
    X
    + 3 * np.random.default_rng(0).standard_normal(N)[DATA["id"]]
    + np.random.default_rng(1).logistic(size=N)
)
SINGLE = jnp.float32(2.5)


def normal(y: Any, mu: Any, sigma: Any) -> Any:
    return -0.5 * ((y - mu) / sigma) ** 2 - jnp.log(sigma)


def square(y: Any, m: Any) -> Any:
    return -0.5 * (y - m) ** 2


def lag(y: Any, rho: Any) -> Any:
    return -0.5 * (y - rho * jnp.concatenate([jnp.zeros(1), y[:-1]])) ** 2


def declare(function: Any = square, data: Any = DATA, params: Any = None, **options: Any) -> Any:
    return ml.likelihood(function, data, params or {"m": 0.0}, **options)


def fit(function: Any = square, data: Any = DATA, params: Any = None, **options: Any) -> Any:
    return ml.fit(declare(function, data, params), **options)


def gauss(formula: str = "y ~ x", data: Any = DATA, **options: Any) -> Any:
    return ml.models.gaussian(formula, data, **options)


def model(name: str, formula: str, data: Any = DATA, **options: Any) -> Any:
    return ml.fit(getattr(ml.models, name)(formula, data), **options)


def holes() -> pd.DataFrame:
    return DATA.assign(x=np.where(X > 1, np.nan, X))


def cov(spec: Any, data: Any = DATA, **options: Any) -> Any:
    return ml.fit(gauss(data=data, **options)).cov(spec)


Entry = tuple[type[Exception], Callable[[], Any], str, str]

ERRORS: dict[str, Entry] = {
    # arrays of the wrong shape
    "offset that is a number": (
        e.DataError,
        lambda: ml.models.poisson(DATA["count"].to_numpy(), np.ones((N, 1)), offset=1.0),
        "offset: expected one value per row, got the number 1",
        r"np\.full",
    ),
    "weight that is a number": (
        e.DataError,
        lambda: gauss(frequency_weights=2.0),
        "frequency_weights",
        "expected one value per row",
    ),
    # what the function returns
    "scalar": (
        e.EvaluationError,
        lambda: declare(lambda y, m: square(y, m).sum()),
        r"shape \(\); expected \(60,\)",
        "neither their sum",
    ),
    "column": (
        e.EvaluationError,
        lambda: declare(lambda y, m: square(y, m)[:, None]),
        r"shape \(60, 1\)",
        "neither their sum nor a column",
    ),
    "column of data": (
        e.EvaluationError,
        lambda: declare(data={"y": DATA[["y"]].to_numpy()}),
        r"\(60, 1\)",
        r"columns of shape \(n, 1\)",
    ),
    "NaN rows": (
        e.EvaluationError,
        lambda: fit(lambda y, m: jnp.where(y > 2, jnp.nan, square(y, m))),
        r"term\(s\): 2, 6",
        "support",
    ),
    "complex": (
        e.EvaluationError,
        lambda: declare(lambda y, m: square(y, m) + 0j),
        "complex128",
        "real part",
    ),
    "NaN gradient behind a where": (
        e.EvaluationError,
        lambda: fit(
            lambda y, m: jnp.where(y > 0, square(y, m), jnp.sqrt(jnp.where(y > 0, y, 0.0) * m) - 1),
            params={"m": 1.0},
        ),
        "derivatives are not, in term.s. 1, 9, .* with respect to m",
        "double where",
    ),
    "float32": (
        e.SpecificationError,
        lambda: declare(lambda y, m: SINGLE * square(y, m).astype(jnp.float32)),
        "constant of shape .. and type float32",
        "float64",
    ),
    # names
    "neither parameter nor column": (
        e.SpecificationError,
        lambda: declare(lambda y, m, q: square(y, m)),
        "argument 'q' .* neither a parameter",
        "Known: m, y",
    ),
    "both parameter and column": (
        e.SpecificationError,
        lambda: declare(lambda y, x: square(y, x), params={"x": 0.0}),
        "'x' is found in params and in data",
        "Rename .*columns=",
    ),
    "parameter not taken": (
        e.SpecificationError,
        lambda: declare(params={"m": 0.0, "k": 0.0}),
        "'k' are declared, but the function does not take",
        "arguments are y, m",
    ),
    "no parameters": (
        e.SpecificationError,
        lambda: ml.likelihood(lambda y: y, DATA, {}),
        "params is empty",
        "at least one",
    ),
    "everything fixed": (
        e.SpecificationError,
        lambda: declare(params={"m": ml.fixed(1.0)}),
        "every parameter is fixed",
        "nothing is left",
    ),
    "separable time series": (
        e.SeparabilityError,
        lambda: declare(lag, params={"rho": 0.0}, separable=True),
        "row 1 depends on other rows",
        "unit=",
    ),
    "a likelihood is expected": (
        e.SpecificationError,
        lambda: ml.fit(square),
        "got function",
        r"likelihood\(function, data, params\)",
    ),
    # data
    "text column": (
        e.DataError,
        lambda: declare(lambda text, m: square(text, m)),
        "'text' is not numeric .*'a'",
        r"C\(text\)",
    ),
    "missing": (
        e.DataError,
        lambda: gauss(data=holes()),
        "missing values in 'x' .10.; 10 of 60 rows",
        "missing='drop'",
    ),
    "infinite": (
        e.DataError,
        lambda: gauss(data=DATA.assign(x=np.where(X > 1, np.inf, X))),
        "'x' is infinite in row.s. 6, 19",
        "",
    ),
    "empty": (e.DataError, lambda: gauss(data=DATA[:0]), "the data have no rows", ""),
    "duplicate index": (
        e.DataError,
        lambda: gauss(data=pd.concat([DATA, DATA])),
        "index of the data has duplicates: 0, 1",
        "reset_index",
    ),
    "duplicate columns": (
        e.DataError,
        lambda: gauss(data=pd.concat([DATA, DATA[["x"]]], axis=1)),
        "occur twice: 'x'",
        "Rename or drop",
    ),
    "type of data": (e.DataError, lambda: gauss(data=3), "type int", "pandas"),
    "unknown column": (e.DataError, lambda: gauss("y ~ xx"), "no column 'xx'", "Did you mean 'x'"),
    "lengths": (
        e.DataError,
        lambda: ml.models.gaussian(np.ones(60), np.ones((5, 1))),
        "y has 60 entries, X has 5 rows",
        "",
    ),
    "outcome (n, 1)": (
        e.DataError,
        lambda: ml.models.gaussian(np.ones((60, 1)), np.ones((60, 1))),
        r"\(60, 1\); expected \(n,\)",
        r"ravel\(\)",
    ),
    "no such data set": (e.DataError, lambda: ml.load("spectr"), "no data set 'spectr'", "Known: .*spector"),
    "power in a formula": (e.SpecificationError, lambda: gauss("y ~ I(x^2)"), r"'\^'", r"x\*\*2"),
    "unreadable formula": (
        e.SpecificationError,
        lambda: gauss("y ~ x +* w"),
        r"'x \+\* w' can not be read",
        "such as 'x1",
    ),
    "no outcome": (e.SpecificationError, lambda: gauss("x"), "'x' has no outcome", "y ~ x1"),
    # identification
    "collinear": (
        e.IdentificationError,
        lambda: model("gaussian", "y ~ x + z", DATA.assign(z=2 * X + 1)),
        r"mu\[x\].*mu\[Intercept\].*mu\[z\]",
        "Drop one",
    ),
    "zero column": (
        e.IdentificationError,
        lambda: model("gaussian", "y ~ x + z", DATA.assign(z=0.0)),
        r"mu\[z\] are zero",
        "Drop one",
    ),
    "fewer terms than parameters": (
        e.IdentificationError,
        lambda: model("gaussian", "y ~ x", DATA[:2]),
        r"2 terms can not identify 3 parameters \(mu\[Intercept\]",
        "more data or fix",
    ),
    "only the sum matters": (
        e.IdentificationError,
        lambda: fit(lambda y, a, c: square(y, a + c), params={"a": 1.0, "c": 1.0}),
        r"no information along .*1\*a|no information along .*1\*c",
        "fix one",
    ),
    "unused parameter": (
        e.IdentificationError,
        lambda: fit(lambda y, a, c: square(y, a) + 0 * c, params={"a": 1.0, "c": 1.0}),
        r"no information along \+1\*c",
        "fix one",
    ),
    "Hessian not negative definite": (
        e.IdentificationError,
        lambda: fit(lambda y, a: -jnp.cos(a) + 0 * y, params={"a": 0.0}, start={"a": 0.0}),
        r"not positive definite.*negative curvature along \+1\*a",
        "fit.record",
    ),
    "perfect separation": (
        e.SeparationError,
        lambda: model("probit", "b ~ x", DATA.assign(b=(X > 0) * 1.0)),
        r"complete separation: .*mu\[x\].* all terms",
        "Drop or combine.*bias_reduced",
    ),
    "quasi-complete separation": (
        e.SeparationError,
        lambda: model("logit", "b ~ half", DATA.assign(b=np.where(DATA["half"] == 1, 1.0, DATA["b"]))),
        r"quasi-complete separation: mu\[half\] fits the outcomes of 30 of 60",
        "Drop or combine",
    ),
    "frontier of the wrong sign": (
        e.ConvergenceError,
        lambda: ml.fit(
            ml.models.frontier("y ~ x", DATA.assign(y=X + np.random.default_rng(1).exponential(2, N)))
        ),
        "not skewed to the left",
        "cost=",
    ),
    # outcomes
    "constant binary": (
        e.SupportError,
        lambda: model("logit", "b ~ x", DATA.assign(b=1.0)),
        "'b' is 1 in every row",
        "selection of rows",
    ),
    "constant continuous": (
        e.SupportError,
        lambda: model("gaussian", "one ~ x"),
        "'one' is 1 in every row",
        "selection of rows",
    ),
    "no counts": (
        e.SupportError,
        lambda: model("poisson", "z ~ x", DATA.assign(z=0.0)),
        "'z' is 0 in every row",
        "no maximum",
    ),
    "not binary": (
        e.SupportError,
        lambda: model("logit", "y ~ x"),
        "'y' must be 0 or 1; it is 0.689",
        "row 0",
    ),
    "not counts": (e.SupportError, lambda: model("poisson", "y ~ x"), "'y' must be a count", "row 0"),
    # starts, options
    "start outside the support": (
        e.SupportError,
        lambda: fit(lambda y, m: jnp.log(m - y), start={"m": -1.0}),
        "nan in .* of 60 term.s.*at m=-1",
        "start=None",
    ),
    "start outside the range": (
        e.SupportError,
        lambda: fit(normal, params={"mu": 0.0, "sigma": ml.positive()}, start={"sigma": -1.0}),
        "outside the range of positive",
        "0 < value",
    ),
    "start of another name": (
        e.SpecificationError,
        lambda: fit(start={"mm": 1.0}),
        "no parameter 'mm'",
        "Known: m",
    ),
    "start of another shape": (
        e.SpecificationError,
        lambda: fit(start=np.zeros(2)),
        r"start has shape \(2,\); expected \(1,\)",
        "dict of values by name",
    ),
    "method": (
        e.SpecificationError,
        lambda: fit(method="newtn"),
        "'newtn' is not known",
        "Did you mean 'newton'",
    ),
    "constraint": (
        e.SpecificationError,
        lambda: ml.fit(gauss(), constraints=["mu[q] = 1"]),
        r"'mu\[q\]' is no parameter",
        "Known: mu",
    ),
    "contradiction": (
        e.SpecificationError,
        lambda: ml.fit(gauss(), constraints=["mu[x] = 1", "mu[x] = 2"]),
        "contradict each other",
        "",
    ),
    "fixed": (
        e.SpecificationError,
        lambda: ml.fit(gauss(), fixed={"sigm": 1.0}),
        "no parameter 'sigm'",
        "Did you mean 'sigma'",
    ),
    # own derivatives
    "shape of score": (
        e.DerivativeError,
        lambda: ml.fit(declare(score=lambda y, m: y - m)),
        r"shape \(60,\); expected \(60, 1\)",
        "one row per term",
    ),
    "sign of score": (
        e.DerivativeError,
        lambda: ml.fit(declare(score=lambda y, m: (m - y)[:, None])),
        "m: term .* minus the derivative: wrong sign",
        "check_derivatives",
    ),
    "value of score": (
        e.DerivativeError,
        lambda: ml.fit(declare(score=lambda y, m: 2 * (y - m)[:, None])),
        "m: term .* differences give",
        "check_derivatives",
    ),
    "shape of hessian": (
        e.DerivativeError,
        lambda: ml.fit(declare(score=lambda y, m: (y - m)[:, None], hessian=lambda y: -len(y))),
        r"\(\); expected \(1, 1\)",
        "in the order m",
    ),
    "sign of hessian": (
        e.DerivativeError,
        lambda: ml.fit(declare(score=lambda y, m: (y - m)[:, None], hessian=lambda y: [[len(y)]])),
        r"\(m, m\): 60 against -60",
        "wrong sign",
    ),
    "hessian alone": (
        e.SpecificationError,
        lambda: declare(hessian=lambda y: [[-len(y)]]),
        "without score=",
        "give both",
    ),
    # weights
    "negative weights": (
        e.DataError,
        lambda: gauss(data=DATA.assign(w=-1.0), frequency_weights="w"),
        "frequency_weights: missing or negative in term",
        ">= 0",
    ),
    "fractional frequencies": (
        e.DataError,
        lambda: gauss(data=DATA.assign(w=1.5), frequency_weights="w"),
        "not whole numbers in term",
        "analytic_weights or probability_weights",
    ),
    "length of weights": (
        e.DataError,
        lambda: gauss(analytic_weights=np.ones(5)),
        "got 5 values",
        "60 values",
    ),
    "two kinds of weights": (
        e.SpecificationError,
        lambda: gauss(analytic_weights="w", frequency_weights="w"),
        "2 kinds",
        "one is possible",
    ),
    "zero weights": (e.DataError, lambda: gauss(analytic_weights=np.zeros(N)), "all weights are zero", ""),
    # covariances
    "unknown covariance": (
        e.CovarianceError,
        lambda: cov("robst"),
        "'robst' is not known",
        "Did you mean 'robust'.*Known: oim, eim",
    ),
    "cluster without groups": (
        e.CovarianceError,
        lambda: cov("cluster"),
        "'cluster' needs arguments",
        r'ml.Cluster\("firm"\)',
    ),
    "hac without bandwidth": (e.CovarianceError, lambda: cov("hac"), "'hac' needs arguments", r"ml.HAC\("),
    "HAC on frequency weights": (
        e.CovarianceError,
        lambda: cov(ml.HAC("bartlett", bandwidth=3), frequency_weights="w"),
        "frequency weights .* no order",
        "HAC is not defined",
    ),
    "one group": (
        e.CovarianceError,
        lambda: cov(ml.Cluster("one")),
        "'one' has one group only",
        "several groups",
    ),
    "unknown groups": (e.DataError, lambda: cov(ml.Cluster("firm")), "no column 'firm'", "Known: y, x"),
    "groups of another length": (
        e.DataError,
        lambda: cov(ml.Cluster(np.arange(5))),
        "got 5 values",
        "60 values",
    ),
    "shape of a matrix": (
        e.CovarianceError,
        lambda: cov(np.eye(2)),
        r"\(2, 2\); expected \(3, 3\)",
        r"mu\[Intercept\], mu\[x\], sigma",
    ),
    "expected information": (
        e.CovarianceError,
        lambda: fit(normal, params={"mu": 0.0, "sigma": 1.0}).cov("eim"),
        "normal knows no expected information",
        "information=.*moments=",
    ),
    "small sample convention": (
        e.CovarianceError,
        lambda: ml.fit(gauss()).cov("robust", small_sample="sas"),
        "'sas' is not known",
        "stata",
    ),
    # inference
    "level": (e.InferenceError, lambda: ml.fit(gauss()).conf_int(alpha=95), "alpha=95", "such as 0.05"),
    "too many indicators": (
        e.InferenceError,
        lambda: ml.fit(
            ml.models.gaussian(RNG.standard_normal(900), RNG.standard_normal((900, 32)))
        ).information_matrix_test("opg", "all"),
        "561 indicators; at most 500",
        "'diagonal'",
    ),
    "bootstrap of a function": (
        e.InferenceError,
        lambda: fit().information_matrix_test(bootstrap=True),
        "square can not be simulated|can not be simulated",
        "simulate=",
    ),
}

WARNINGS: dict[str, Entry] = {
    "iteration limit": (
        e.ConvergenceWarning,
        lambda: model("probit", "b ~ x", max_iter=1),
        "not converged after 1 iterations: iteration limit 1",
        "raise max_iter",
    ),
    "rising for ever": (
        e.ConvergenceWarning,
        lambda: fit(lambda y, m: jnp.exp(m) + 0 * y),
        "keeps rising with m",
        "may have no maximum",
    ),
    "numpy function": (
        e.NumericDerivativeWarning,
        lambda: declare(lambda y, m: -np.square(y - m)),
        "can not be traced by JAX",
        "Write it with jax.numpy, or give score=",
    ),
    "rows dropped": (
        e.MissingDataWarning,
        lambda: gauss(data=holes(), missing="drop"),
        "10 of 60 rows dropped",
        "'x' .10.",
    ),
    "few groups": (
        e.CovarianceWarning,
        lambda: cov(ml.Cluster("half")),
        "2 groups of 'half' for 3 parameters",
        "finer variable",
    ),
    "Poisson limit": (
        e.BoundaryWarning,
        lambda: model("nb2", "count ~ x", DATA.assign(count=np.arange(N) % 2 + 2.0)),
        "alpha is at its bound",
        "Fit the Poisson form",
    ),
    "close to singular": (
        e.IdentificationWarning,
        lambda: model(
            "gaussian", "y ~ x + z", DATA.assign(z=X + 1e-6 * np.random.default_rng(3).standard_normal(N))
        ),
        r"close to singular .*mu\[x\].*mu\[z\]|close to singular .*mu\[z\].*mu\[x\]",
        "drop or combine.*diagnose",
    ),
    "coarse quadrature": (
        e.QuadratureWarning,
        lambda: ml.fit(
            ml.models.random_effects_logit(
                "b ~ x",
                DATA.assign(b=(LATENT > 0) * 1.0),
                unit="id",
                nodes=3,
            )
        ),
        "quadrature points",
        "Raise nodes=",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error(name: str) -> None:
    kind, provoke, fault, advice = ERRORS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", e.MlecovWarning)
        with pytest.raises(kind) as caught:
            provoke()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert re.search(fault, message, re.DOTALL), message
    assert re.search(advice, message, re.DOTALL), message
    assert "\x1b" not in message and "TracedRows" not in message and "0x" not in message


@pytest.mark.parametrize("name", WARNINGS)
def test_warning(name: str) -> None:
    kind, provoke, fault, advice = WARNINGS[name]
    with pytest.warns(kind) as caught:
        provoke()
    assert {w.category for w in caught} == {kind}, [str(w.message) for w in caught]
    message = str(caught[0].message)
    assert re.search(fault, message, re.DOTALL), message
    assert re.search(advice, message, re.DOTALL), message


def test_the_catalogue_is_complete() -> None:
    provoked = {entry[0] for entry in [*ERRORS.values(), *WARNINGS.values()]}
    declared = {
        kind
        for kind in vars(e).values()
        if isinstance(kind, type) and issubclass(kind, (e.MlecovError, e.MlecovWarning))
    }
    assert declared - provoked == {e.MlecovError, e.MlecovWarning}


def test_time_series_is_found_not_to_be_separable() -> None:
    """At rho = 0 the terms are separate; the check is made elsewhere."""
    assert not declare(lag, params={"rho": 0.0}).separable


def test_an_error_in_the_users_function_is_the_users() -> None:
    with pytest.raises(NameError, match="undefined_thing"):
        declare(lambda y, m: square(y, m) / undefined_thing)  # type: ignore[name-defined]  # noqa: F821


def test_warnings_point_at_the_users_line() -> None:
    """A warning's place is the caller's file, never a file of the package."""
    likelihood = ml.models.poisson(np.array([1.0, 2.0, 3.0, 4.0]), np.ones((4, 1)))
    with pytest.warns(e.ConvergenceWarning) as caught:
        ml.fit(likelihood, start=np.array([5.0]), max_iter=1)
    assert [Path(w.filename).name for w in caught] == ["test_messages.py"]
