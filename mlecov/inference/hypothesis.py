"""Wald tests and linear combinations: by text, by matrix or by function, under any covariance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.errors import InferenceError, SpecificationError, listing
from mlecov.expressions import parse_system
from mlecov.inference.delta import derive, scalar_df, theta_steps
from mlecov.inference.results import Combinations, TestResult, chi2_or_f
from mlecov.linalg import symmetrize
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]

SAME = 1e-8
"""Relative size below which the part of a deviation outside the covariance's range counts as rounding."""


@dataclass(frozen=True)
class Linear:
    """Linear hypotheses R params = r: R (q, m), r (q,), and their texts."""

    matrix: Array
    value: Array
    texts: tuple[str, ...]


def read_linear(space: ParameterSpace, hypothesis: Any, value: Any = None) -> Linear:
    """Return R and r of a hypothesis on the reported parameters.

    Parameters
    ----------
    hypothesis :
        Text ("mu[x1] = mu[x2], sigma = 1"), a sequence of texts, a dict {text or entry: value}, a
        matrix (q, m) or vector (m,), or a pair (R, r).
    value :
        r (q,) or a number for a matrix given alone; zero by default.

    Raises
    ------
    SpecificationError
        For unknown names, expressions that are not linear, and matrices of another width.
    """
    if isinstance(hypothesis, Mapping):
        texts: Any = [str(text) for text in hypothesis]
        matrix, constant = parse_system(texts, space.labels)
        wanted = np.array([float(v) for v in hypothesis.values()])
        return Linear(
            matrix, constant + wanted, tuple(f"{t} = {v:g}" for t, v in zip(texts, wanted, strict=True))
        )
    is_text = isinstance(hypothesis, str)
    if is_text or (_is_sequence(hypothesis) and all(isinstance(t, str) for t in hypothesis)):
        matrix, constant = parse_system(hypothesis, space.labels)
        if value is not None:
            constant = constant + np.broadcast_to(np.asarray(value, dtype=float), constant.shape)
        texts = _texts(matrix, constant, space.labels)
        if not is_text and value is None:
            texts = tuple(hypothesis)
        return Linear(matrix, constant, texts)
    if isinstance(hypothesis, tuple) and len(hypothesis) == 2 and value is None:
        hypothesis, value = hypothesis
    matrix = np.atleast_2d(np.asarray(hypothesis, dtype=float))
    if matrix.ndim != 2 or matrix.shape[1] != space.m:
        raise SpecificationError(
            f"the restriction matrix has shape {np.shape(hypothesis)}; expected (q, {space.m}), a column "
            "for each "
            f"reported entry: {listing(space.labels, 20)}."
        )
    target = np.asarray(0.0 if value is None else value, dtype=float).reshape(-1)
    if len(target) not in (1, len(matrix)):
        raise SpecificationError(
            f"the restrictions have {len(matrix)} rows and {len(target)} values; expected as many."
        )
    target = np.broadcast_to(target, (len(matrix),)).copy()
    if not (np.isfinite(matrix).all() and np.isfinite(target).all()):
        raise SpecificationError("the restriction matrix or its values hold numbers that are not finite.")
    return Linear(matrix, target, _texts(matrix, target, space.labels))


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) > 0


def combination_text(row: Array, labels: Sequence[str]) -> str:
    """Return a row of coefficients as text: "mu[x1] - 2*mu[x2]".

    >>> combination_text(np.array([1.0, -2.0]), ["a", "b"])
    'a - 2*b'
    """
    text = ""
    for coefficient, label in zip(row, labels, strict=True):
        if coefficient:
            size = "" if abs(coefficient) == 1 else f"{abs(coefficient):g}*"
            sign = ("-" if coefficient < 0 else "") if not text else (" - " if coefficient < 0 else " + ")
            text += f"{sign}{size}{label}"
    return text or "0"


def _texts(matrix: Array, value: Array, labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{combination_text(row, labels)} = {v:g}" for row, v in zip(matrix, value, strict=True))


def on_bound(space: ParameterSpace, linear: Linear) -> list[tuple[int, str]]:
    """Return (row, sentence) for each hypothesis that sets one entry to its bound, or beyond it."""
    found = []
    for i, row in enumerate(linear.matrix):
        entries = np.flatnonzero(row)
        if len(entries) != 1:
            continue
        link, target = space.interval_links[entries[0]], linear.value[i] / row[entries[0]]
        if not link.lo < target < link.hi:
            label = space.labels[entries[0]]
            found.append(
                (i, f"{label} = {target:g} lies on or outside the range {link.lo:g} < {label} < {link.hi:g}")
            )
    return found


def _refuse_bound(space: ParameterSpace, linear: Linear) -> None:
    bad = on_bound(space, linear)
    if bad:
        raise InferenceError(
            f"hypothesis {linear.texts[bad[0][0]]!r}: {bad[0][1]}. No normal approximation holds on a "
            "bound, so a "
            "Wald test has no level there. Compare with the fit of the model without it (lr_test; halve the "
            "p-value for one variance), or bootstrap the test."
        )


def group_count(covariance: Covariance) -> int | None:
    """Return the smallest number of groups that a clustered covariance rests on, None for others."""
    found = covariance.details.get("groups")
    if isinstance(found, Mapping):
        found = list(found.values())
    try:
        return None if found is None else int(np.min(np.asarray(found, dtype=float)))
    except (TypeError, ValueError):
        return None


def quadratic_form(deviation: Array, cov: Array, names: Sequence[str], what: str) -> tuple[float, int, str]:
    """Return (d' V^-1 d, rank of V, note): rank is the degrees of freedom of a Wald statistic.

    Where V (q, q) is singular because restrictions repeat each other, or the covariance does not
    vary along them (shares that sum to one), the form is taken over the range of V, provided that
    the deviation lies in it.

    Raises
    ------
    InferenceError
        For a restriction without variance, a V that is not positive semi-definite, and redundant
        restrictions that contradict each other.
    """
    variance = np.diag(cov)
    flat = [names[int(i)] for i in np.flatnonzero(variance <= 1e-14 * np.max(np.abs(variance), initial=0))]
    if flat or not np.isfinite(cov).all():
        raise InferenceError(
            f"{listing(map(repr, flat)) or 'the restrictions'} can not be tested: no positive finite "
            "variance "
            f"under '{what}'. An entry that is fixed is not random; another covariance may be needed."
        )
    scale = 1 / np.sqrt(variance)
    values, vectors = np.linalg.eigh(symmetrize(cov) * np.outer(scale, scale))
    tolerance = 1e-10 * len(values)
    if values[0] < -tolerance:
        raise InferenceError(
            f"the covariance of the {len(names)} restrictions is not positive semi-definite under '{what}' "
            f"(eigenvalue {values[0]:.3g}); a Wald statistic could be negative. Cluster one way, or ask "
            "for a repair."
        )
    along = vectors.T @ (scale * deviation)
    kept = values > tolerance
    rank = int(kept.sum())
    outside = np.abs(along[~kept]).max(initial=0)
    if outside > SAME * max(np.abs(scale * deviation).max(initial=0), 1.0):
        i = int(np.argmax(np.abs(vectors[:, int(np.flatnonzero(~kept)[np.argmax(np.abs(along[~kept]))])])))
        raise InferenceError(
            f"the {len(names)} restrictions have a covariance of rank {rank} under '{what}', and the "
            "estimates "
            f"deviate along a direction without variance (foremost {names[i]!r}): the restrictions repeat or "
            "contradict each other, or there are too few groups. Test fewer restrictions."
        )
    note = (
        ""
        if rank == len(names)
        else (
            f"The covariance of the {len(names)} restrictions has rank {rank}, which is the degrees of "
            "freedom."
        )
    )
    return float(np.sum(along[kept] ** 2 / values[kept])), rank, note


def wald(
    covariance: Covariance,
    hypothesis: Any,
    value: Any = None,
    *,
    use_f: bool | None = None,
) -> TestResult:
    """Return the Wald test of linear or nonlinear hypotheses.

        W = (R b - r)' [R V R']^-1 (R b - r)  ~  chi2(q),   or W/q ~ F(q, df)

    Parameters
    ----------
    hypothesis :
        Text ("mu[x1] = mu[x2], sigma = 1"), texts, {text: value}, a matrix (q, m), a pair (R, r), or
        a function of the parameters (see `nlcom`) that is zero (or `value`) under the null.
    value :
        The values r of a matrix or a function.
    use_f :
        F instead of chi-squared; by default where the covariance comes with degrees of freedom.

    Raises
    ------
    InferenceError
        For hypotheses on a bound, more restrictions than G - 1 for G groups, and restrictions
        without variance.

    Reference: Greene (2018), section 14.6.2; Wooldridge (2010), section 12.6.
    """
    if callable(hypothesis):
        return _wald_of_function(covariance, hypothesis, value, use_f)
    space = covariance.space
    linear = read_linear(space, hypothesis, value)
    _refuse_bound(space, linear)
    estimates = linear.matrix @ space.report(covariance.theta)
    cov = linear.matrix @ covariance.user @ linear.matrix.T
    return _finish(
        covariance, estimates, linear.value, cov, linear.texts, _df(covariance, linear.matrix), use_f
    )


def _df(covariance: Covariance, matrix: Array) -> float | None:
    """Return the degrees of freedom: the smallest among the entries that take part."""
    if covariance.df is None or np.ndim(covariance.df) == 0:
        return scalar_df(covariance.df)
    return float(np.min(np.asarray(covariance.df)[np.any(matrix != 0, axis=0)]))


def _wald_of_function(
    covariance: Covariance, function: Callable[..., Any], value: Any, use_f: bool | None
) -> TestResult:
    derived = derive(covariance.space, covariance.theta, function, theta_steps(covariance))
    target = np.broadcast_to(np.asarray(0.0 if value is None else value, dtype=float), derived.value.shape)
    cov = derived.jacobian @ covariance.matrix @ derived.jacobian.T
    texts = tuple(f"{label} = {v:g}" for label, v in zip(derived.labels, target, strict=True))
    return _finish(covariance, derived.value, target, cov, texts, scalar_df(covariance.df), use_f)


def _finish(
    covariance: Covariance,
    estimates: Array,
    target: Array,
    cov: Array,
    texts: tuple[str, ...],
    df_denom: float | None,
    use_f: bool | None,
) -> TestResult:
    groups, q = group_count(covariance), len(texts)
    if groups is not None and q >= groups:
        raise InferenceError(
            f"{q} restrictions can not be tested with {groups} groups: the covariance '{covariance.label}' "
            "has rank "
            f"at most {groups - 1}. Test at most {groups - 1} restrictions at once, or bootstrap by group."
        )
    quadratic, rank, note = quadratic_form(estimates - target, cov, texts, covariance.label)
    if use_f and df_denom is None:
        raise InferenceError(
            f"an F test needs degrees of freedom, which '{covariance.label}' does not come with; leave "
            "use_f out for "
            "the chi-squared form, or ask for a covariance with df, such as Cluster(..., df='t')."
        )
    used = df_denom if use_f is not False else None
    statistic, p, distribution = chi2_or_f(quadratic, rank, used)
    hypotheses = tuple((t, float(e), float(v)) for t, e, v in zip(texts, estimates, target, strict=True))
    return TestResult(
        "Wald",
        statistic,
        rank,
        p,
        distribution,
        used,
        f"Covariance: {covariance.label}",
        hypotheses,
        (note,) if note else (),
    )


def lincom(covariance: Covariance, expressions: Any, alpha: float = 0.05) -> Combinations:
    """Return linear combinations of the reported parameters: estimates, standard errors, intervals.

    Parameters
    ----------
    expressions :
        Text ("mu[x1] + 2*mu[x2], mu[x1] - mu[x2]"), texts, {name: text}, or a matrix (q, m). With
        "=" the two sides are subtracted: "a = b" is a - b.

    z and p are blank where the combination is one parameter whose bound is zero.

    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.logit("grade ~ gpa + tuce + psi", ml.load("spector")))
    >>> fit.lincom("mu[gpa] + mu[psi]").estimates.round(4)
    array([5.2048])
    """
    labels: tuple[str, ...] | None = None
    if isinstance(expressions, Mapping):
        labels, expressions = tuple(expressions), list(expressions.values())
    linear = read_linear(covariance.space, expressions)
    shifts = linear.value
    if labels is None:
        labels = tuple(
            combination_text(row, covariance.space.labels)
            + (f" {'-' if v > 0 else '+'} {abs(v):g}" if v else "")
            for row, v in zip(linear.matrix, shifts, strict=True)
        )
    return _combinations(
        covariance, linear, shifts, np.zeros(len(shifts)), labels, alpha, "Linear combinations"
    )


def _combinations(
    covariance: Covariance,
    linear: Linear,
    shift: Array,
    null: Array,
    labels: tuple[str, ...],
    alpha: float,
    title: str,
) -> Combinations:
    df: float | Array | None = covariance.df
    if df is not None and np.ndim(df):
        df = np.array([_df(covariance, row[None]) for row in linear.matrix], dtype=float)
    testable = np.ones(len(null), dtype=bool)
    testable[[i for i, _ in on_bound(covariance.space, linear)]] = False
    return Combinations(
        labels,
        linear.matrix @ covariance.space.report(covariance.theta) - shift,
        symmetrize(linear.matrix @ covariance.user @ linear.matrix.T),
        null,
        df,
        alpha,
        covariance.label,
        title,
        testable,
    )


def t_test(
    covariance: Covariance, r_matrix: Any, use_t: bool | None = None, alpha: float = 0.05
) -> Combinations:
    """Return a t or z test of each linear hypothesis by itself (statsmodels' `t_test`).

    `use_t=False` refers to the normal although the covariance comes with degrees of freedom.

    Raises
    ------
    InferenceError
        For a hypothesis on a bound (sigma = 0), and `use_t=True` without degrees of freedom.
    """
    linear = read_linear(covariance.space, r_matrix)
    _refuse_bound(covariance.space, linear)
    if use_t and covariance.df is None:
        raise InferenceError(
            f"a t test needs degrees of freedom, which '{covariance.label}' does not come with; leave "
            "use_t out for z."
        )
    labels = tuple(text.rpartition(" = ")[0] if text.endswith(" = 0") else text for text in linear.texts)
    found = _combinations(
        covariance,
        linear,
        np.zeros(len(linear.value)),
        linear.value,
        labels,
        alpha,
        "Tests of linear hypotheses",
    )
    if use_t is False and found.df is not None:
        return Combinations(
            found.labels,
            found.estimates,
            found.cov,
            found.null,
            None,
            alpha,
            found.method,
            found.title,
            found.testable,
        )
    return found


def wald_test(
    covariance: Covariance, r_matrix: Any, use_f: bool | None = None, df_constraints: int | None = None
) -> TestResult:
    """Return the joint Wald test with statsmodels' arguments.

    Raises
    ------
    InferenceError
        Where `df_constraints` is not the rank of the restrictions' covariance.
    """
    found = wald(covariance, r_matrix, use_f=use_f)
    if df_constraints is not None and df_constraints != found.df:
        raise InferenceError(
            f"df_constraints={df_constraints}, but the restrictions have a covariance of rank {found.df}; "
            "leave it out."
        )
    return found
