"""Choosing between fits: Vuong, Clarke, information criteria."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.covariance.sandwich import observed_factor
from mlecov.errors import InferenceError
from mlecov.inference.indicators import require_plain_weights
from mlecov.inference.quadratic import weighted_chi2_sf
from mlecov.inference.results import Shown
from mlecov.likelihood.base import Likelihood, Restricted
from mlecov.likelihood.index import IndexLikelihood
from mlecov.linalg import symmetrize
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number, pvalue

Array = npt.NDArray[np.float64]

CORRECTIONS = ("none", "aic", "bic")
RELATIONS = ("non-nested", "overlapping", "nested")


@dataclass(frozen=True, eq=False, repr=False)
class ModelComparison(Shown):
    """A test of which of two fits is nearer the truth.

    `statistic` is z (Vuong), a count (Clarke) or a likelihood ratio (nested). `verdict` names the
    fit favoured at 5 %, or says that none is.
    """

    name: str
    statistic: float
    pvalue: float
    letter: str
    verdict: str
    rows: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def display(self) -> Display:
        """Return the test as a table."""
        rows = tuple((name, number(value)) for name, value in self.rows)
        facts = ((self.letter, number(self.statistic)), ("P", pvalue(self.pvalue)))
        record = {
            "test": self.name,
            "statistic": self.statistic,
            "p_value": self.pvalue,
            "verdict": self.verdict,
        }
        notes = (self.verdict, *self.notes)
        return Display(f"{self.name} test", facts, ("", ""), (Group("", rows),), notes, (record,))


def _contributions(first: Optimum, second: Optimum, what: str) -> tuple[Array, Array]:
    """Return l1 - l2 term by term (n,) and the frequencies (n,), refusing fits of other data."""
    weights = require_plain_weights(first.likelihood, what)
    other = require_plain_weights(second.likelihood, what)
    n, n_other = first.likelihood.n_terms, second.likelihood.n_terms
    if n != n_other:
        raise InferenceError(
            f"{what} compares two fits term by term, but they have {n} and {n_other} terms. Fit both to the "
            "same rows "
            "(missing values may have dropped other rows in one of them)."
        )
    if not np.array_equal(weights, other):
        raise InferenceError(f"{what} needs the same weights in both fits; they differ.")
    outcomes = [_outcome(o.likelihood) for o in (first, second)]
    if outcomes[0] is not None and outcomes[1] is not None and not np.array_equal(outcomes[0], outcomes[1]):
        raise InferenceError(
            f"{what} compares densities of one variable, but the outcomes of the two fits differ. A "
            "transformed outcome "
            "(log y) needs its Jacobian in the log-likelihood; fit both models to the same outcome."
        )
    return _terms(first) - _terms(second), weights


def _terms(optimum: Optimum) -> Array:
    found = optimum.evaluation.loglike_obs
    found = optimum.likelihood.evaluate(optimum.theta).loglike_obs if found is None else found
    assert found is not None
    return found


def _outcome(likelihood: Likelihood) -> Array | None:
    base = likelihood.unrestricted
    while isinstance(base, Restricted):
        base = base.base
    if isinstance(base, IndexLikelihood) and base.facts.outcome is not None:
        return base.columns.get("y")
    return None


def _penalty(correction: str, k1: int, k2: int, n: float) -> float:
    if correction not in CORRECTIONS:
        raise InferenceError(
            f"correction={correction!r} is not known; expected one of {', '.join(CORRECTIONS)}."
        )
    return {"none": 0.0, "aic": float(k1 - k2), "bic": 0.5 * (k1 - k2) * math.log(n)}[correction]


def vuong(
    first: Optimum,
    second: Optimum,
    *,
    relation: str = "overlapping",
    correction: str = "none",
    ddof: int = 1,
    alpha: float = 0.05,
) -> ModelComparison:
    """Test whether two models are equally near the truth (Kullback-Leibler), by Vuong's tests.

        z = (sum_i m_i - c) / (sqrt(n) s_m),   m_i = l1_i - l2_i

    with c = 0, k1 - k2 ("aic") or (k1 - k2) log(n) / 2 ("bic") and s_m the standard deviation of m.
    z is standard normal where the models differ; positive z favours the first.

    Parameters
    ----------
    relation :
        "non-nested": the models have no distribution in common, z alone. "overlapping" (default):
        z counts only if the variance of m is significant, n s_m^2 against a weighted sum of chi2(1).
        "nested": the likelihood ratio against its weighted sum of chi2(1), which holds even where
        the larger model is wrong.
    ddof :
        1: s_m has n - 1 in its denominator (R's pscl, Stata's `zip, vuong`); 0: n (Vuong).

    Raises
    ------
    InferenceError
        Where terms, weights or outcomes differ, or the fits are the same term by term.

    Reference: Vuong (1989), Econometrica 57; Desmarais & Harden (2013), Stata Journal 13.
    """
    if relation not in RELATIONS:
        raise InferenceError(f"relation={relation!r} is not known; expected one of {', '.join(RELATIONS)}.")
    m, weights = _contributions(first, second, "Vuong's test")
    k1, k2 = first.likelihood.space.k, second.likelihood.space.k
    n = float(weights.sum())
    penalty = _penalty(correction, k1, k2, n)
    ratio = float(weights @ m)
    variance = float(weights @ (m - ratio / n) ** 2) / (n - ddof)
    scale = max(float(np.abs(first.evaluation.loglike)), 1.0) / n
    if variance <= (1e-10 * scale) ** 2:
        raise InferenceError(
            "Vuong's test: the two fits have the same log-likelihood in every term, so there is nothing to "
            "compare. "
            "Were they the same model?"
        )
    if relation == "nested":
        return _vuong_nested(first, second, ratio)
    z = (ratio - penalty) / math.sqrt(n * variance)
    p = float(2 * special.ndtr(-abs(z)))
    rows = [("log-likelihood difference", ratio), ("variance of a term's difference", variance)]
    notes = [f"Correction: {correction}; z > 0 favours the first."]
    distinct = True
    details: dict[str, Any] = {"ratio": ratio, "variance": variance, "penalty": penalty}
    if relation == "overlapping":
        lam = _vuong_weights(first, second)
        p_variance = weighted_chi2_sf(float(weights @ (m - ratio / n) ** 2), lam**2)
        distinct = p_variance < alpha
        rows.append(("P, models indistinguishable (variance test)", p_variance))
        details |= {"p_variance": p_variance, "eigenvalues": lam}
    if not distinct:
        verdict = (
            "The models can not be told apart on these data (the variance test does not reject); z does not "
            "count."
        )
    else:
        verdict = _verdict(first, second, z, p, alpha)
    return ModelComparison("Vuong", z, p, "z", verdict, tuple(rows), tuple(notes), details)


def _verdict(first: Optimum, second: Optimum, sign: float, p: float, alpha: float) -> str:
    if p >= alpha:
        return f"Neither model is favoured at {100 * alpha:g}%."
    which, name = ("first", first) if sign > 0 else ("second", second)
    return f"The {which} model ({name.likelihood.facts.name}) is favoured at {100 * alpha:g}%."


def _vuong_weights(first: Optimum, second: Optimum) -> Array:
    """Return the eigenvalues of Vuong's W (k1 + k2), from the stacked scores and both informations.

    W = Q diag(I1, -I2)^-1-like products: with V the joint outer product of the scores, the likelihood
    ratio is asymptotically z' diag(I1^-1, -I2^-1) z for z ~ N(0, V).
    """
    s1, s2 = first.evaluation.scores, second.evaluation.scores
    assert s1 is not None and s2 is not None
    cross = s1.gram(s2, power=1)
    joint = np.block([[s1.gram(power=1), cross], [cross.T, s2.gram(power=1)]])
    k1 = first.likelihood.space.k
    middle = np.zeros_like(joint)
    middle[:k1, :k1] = observed_factor(first).inverse
    middle[k1:, k1:] = -observed_factor(second).inverse
    values, vectors = np.linalg.eigh(symmetrize(joint))
    half = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(np.linalg.eigvalsh(symmetrize(half.T @ middle @ half)))


def _vuong_nested(first: Optimum, second: Optimum, ratio: float) -> ModelComparison:
    larger, smaller, sign = (first, second, 1.0)
    if first.likelihood.space.k < second.likelihood.space.k:
        larger, smaller, sign = second, first, -1.0
    if larger.likelihood.space.k == smaller.likelihood.space.k:
        raise InferenceError(
            f"relation='nested', but both models have {larger.likelihood.space.k} parameters; use "
            "'overlapping'."
        )
    statistic = 2 * sign * ratio
    if statistic < -1e-8 * max(abs(larger.evaluation.loglike), 1.0):
        raise InferenceError(
            "relation='nested', but the smaller model has the higher log-likelihood (by "
            f"{-statistic / 2:.6g}): it is not "
            "nested in the larger, or the larger fit is not at its maximum."
        )
    lam = _vuong_weights(larger, smaller)
    p = weighted_chi2_sf(statistic, lam)
    verdict = (
        f"The larger model ({larger.likelihood.facts.name}) is nearer the truth at 5%."
        if p < 0.05
        else "The restrictions of the smaller model are not rejected at 5%."
    )
    rows = (("log-likelihood difference", ratio),)
    note = "Reference distribution: weighted sum of chi2(1), valid whether or not the larger model is right."
    return ModelComparison("Vuong (nested)", statistic, p, "LR", verdict, rows, (note,), {"eigenvalues": lam})


def clarke(
    first: Optimum, second: Optimum, *, correction: str = "none", alpha: float = 0.05
) -> ModelComparison:
    """Test by signs whether two non-nested models fit equally: the median of l1_i - l2_i is zero.

        B = number of terms with l1_i - l2_i > c / n,   binomial(n, 1/2)

    with c = 0, k1 - k2 ("aic") or (k1 - k2) log(n) / 2 ("bic"). p is two-sided; terms that tie are
    left out.

    Reference: Clarke (2007), Political Analysis 15.
    """
    m, weights = _contributions(first, second, "Clarke's test")
    n = float(weights.sum())
    penalty = _penalty(correction, first.likelihood.space.k, second.likelihood.space.k, n)
    difference = m - penalty / n
    above, below = float(weights[difference > 0].sum()), float(weights[difference < 0].sum())
    count = above + below
    if not count:
        raise InferenceError("Clarke's test: the two fits have the same log-likelihood in every term.")
    p = min(1.0, 2 * float(special.bdtr(min(above, below), int(count), 0.5)))
    verdict = _verdict(first, second, above - below, p, alpha)
    rows = (("terms favouring the first", above), ("terms favouring the second", below), ("ties", n - count))
    return ModelComparison("Clarke", above, p, "B", verdict, rows, (f"Correction: {correction}.",))


@dataclass(frozen=True, eq=False, repr=False)
class InformationCriteria(Shown):
    """AIC, BIC, Hannan-Quinn and Takeuchi's criterion; lower is better."""

    aic: float
    bic: float
    hqic: float
    tic: float
    k: int
    k_effective: float

    def display(self) -> Display:
        """Return the criteria as a table."""
        values = {"AIC": self.aic, "BIC": self.bic, "HQ": self.hqic, "TIC": self.tic}
        rows = tuple((name, number(value, 8)) for name, value in values.items())
        note = (
            f"TIC counts tr(I^-1 S'S) = {self.k_effective:.4g} effective parameters where AIC counts "
            f"{self.k}; they "
            "agree where the model is right."
        )
        records = tuple({"criterion": name, "value": value} for name, value in values.items())
        return Display("information criteria", (), ("", "value"), (Group("", rows),), (note,), records)


def information_criteria(optimum: Optimum) -> InformationCriteria:
    """Return AIC, BIC, HQ and TIC = -2 l + 2 tr(I^-1 J), J the meat of the robust sandwich.

    Reference: Takeuchi (1976); Burnham & Anderson (2002), section 2.3.
    """
    assert optimum.evaluation.scores is not None
    llf, k, n = optimum.evaluation.loglike, optimum.likelihood.space.k, optimum.likelihood.n_obs
    effective = float(np.sum(observed_factor(optimum).inverse * optimum.evaluation.scores.meat()))
    return InformationCriteria(
        -2 * llf + 2 * k,
        -2 * llf + k * math.log(n),
        -2 * llf + 2 * k * math.log(math.log(n)),
        -2 * llf + 2 * effective,
        k,
        effective,
    )
