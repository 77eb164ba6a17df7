"""Stratified samples of primary sampling units, by linearisation, as Stata's `_robust` and `svy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.factors import Grouping, final_scores, sandwich_of, warn_few
from mlecov.covariance.requests import Survey
from mlecov.covariance.sandwich import estimator
from mlecov.covariance.specbase import label_of, shown
from mlecov.data import factorize, first_positions, numeric
from mlecov.errors import CovarianceError, DataError, listing
from mlecov.likelihood.base import Likelihood
from mlecov.optimum import Optimum

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Sample:
    """PSUs (codes (n,)) within H strata: `stratum` (G,) of each PSU, `count` (H,) PSUs of each stratum."""

    psu: Grouping
    strata: Grouping
    stratum: Codes
    count: Array


@estimator(Survey)
def survey(optimum: Optimum, spec: Survey) -> Covariance:
    """Return I^-1 [sum_h (1 - f_h) n_h/(n_h - 1) sum_i (z_hi - z_h.)(z_hi - z_h.)'] I^-1.

    z_hi are sums of w s over PSU i of stratum h. Reference: Binder (1983); Stata's `_robust`.
    """
    likelihood = optimum.likelihood
    if likelihood.weights is not None and likelihood.weights.kind == "frequency":
        raise CovarianceError(
            "Survey is not defined under frequency weights; sampling weights are probability_weights."
        )
    sample = design(likelihood, spec)
    rate = sampling_rates(likelihood, spec, sample)
    lonely = sample.count == 1
    _refuse_lonely(spec, sample, lonely)
    meat = _meat(optimum, sample, rate, lonely, spec.lonely)
    n_psu, n_strata = sample.psu.size, sample.strata.size
    degrees = n_psu - n_strata
    if degrees < 1:
        raise CovarianceError(f"{n_psu} PSUs in {n_strata} strata leave no degrees of freedom.")
    warn_few(
        degrees + 1,
        f"PSUs less strata, plus one ({n_psu} PSUs, {n_strata} strata)",
        likelihood.space.k,
        spec.df == "t",
    )
    corrected = ", finite-population correction" if spec.fpc is not None else ""
    single = f", {int(lonely.sum())} lonely PSU(s): {spec.lonely}" if lonely.any() else ""
    label = (
        f"survey linearisation, {n_strata} strata, {n_psu} PSUs, factor n_h/(n_h-1) per "
        f"stratum{corrected}{single}, "
        f"observed information as bread" + (f", t({degrees})" if spec.df == "t" else "")
    )
    df = float(degrees) if spec.df == "t" else None
    return sandwich_of(optimum, meat, label, spec.column, df=df, groups={"strata": n_strata, "psu": n_psu})


def design(likelihood: Likelihood, spec: Survey) -> Sample:
    """Return the strata and PSUs of the terms; PSU ids are read within strata."""
    n = likelihood.n_terms
    strata = Grouping("strata", np.zeros(n, dtype=np.intp), np.array(["all"], dtype=object))
    if spec.strata is not None:
        name = label_of(spec.strata, "strata")
        strata = Grouping(name, *likelihood.rows.codes(spec.strata, name))
    if spec.psu is None:
        psu = Grouping("terms", np.arange(n), np.arange(n))
    else:
        name = label_of(spec.psu, "psu")
        own, labels = likelihood.rows.codes(spec.psu, name)
        psu = Grouping(name, *factorize(strata.codes * len(labels) + own))
    stratum = strata.codes[first_positions(psu.codes, psu.size)]
    count = np.bincount(stratum, minlength=strata.size).astype(float)
    return Sample(psu, strata, stratum, count)


def sampling_rates(likelihood: Likelihood, spec: Survey, sample: Sample) -> Array:
    """Return f_h (H,): the fpc itself where at most one, else n_h / N_h.

    Raises
    ------
    DataError
        Where the fpc varies within a stratum, is negative, or a population is smaller than its sample.
    """
    n_strata = sample.strata.size
    if spec.fpc is None:
        return np.zeros(n_strata)
    if isinstance(spec.fpc, (int, float)):
        values = np.full(likelihood.n_terms, float(spec.fpc))
        name = "fpc"
    else:
        name = label_of(spec.fpc, "fpc")
        values = numeric(name, likelihood.rows.per_term(spec.fpc, name))
    per_stratum = values[first_positions(sample.strata.codes, n_strata)]
    varying = np.unique(sample.strata.codes[~(values == per_stratum[sample.strata.codes])])
    if len(varying):
        raise DataError(
            f"{name} is missing or varies within {listing(_names(sample.strata, varying), 5)}; expected "
            "one value per stratum."
        )
    total = per_stratum > 1
    bad = np.flatnonzero((per_stratum < 0) | (total & (per_stratum < sample.count)))
    if len(bad):
        raise DataError(
            f"{name} is {per_stratum[bad[0]]:g} in {_names(sample.strata, bad[:1])[0]}, which has "
            f"{sample.count[bad[0]]:g} "
            "PSUs; expected a sampling rate in [0, 1] or the number of PSUs in the population."
        )
    return np.where(total, sample.count / np.where(total, per_stratum, 1.0), per_stratum)


def _names(strata: Grouping, chosen: Any) -> list[str]:
    return [f"stratum {shown(strata.labels[h])}" for h in chosen]


def _refuse_lonely(spec: Survey, sample: Sample, lonely: npt.NDArray[np.bool_]) -> None:
    if not lonely.any():
        return
    named = listing(_names(sample.strata, np.flatnonzero(lonely)), 5)
    if spec.lonely == "error":
        raise CovarianceError(
            f"{named} has one PSU, whose variance within the stratum can not be measured. Merge strata, "
            "or say "
            "lonely='adjust', 'certainty' or 'average'."
        )
    if lonely.all() and spec.lonely != "adjust":
        raise CovarianceError(
            f"every stratum has one PSU; lonely={spec.lonely!r} leaves nothing to measure with."
        )


def _meat(optimum: Optimum, sample: Sample, rate: Array, lonely: npt.NDArray[np.bool_], rule: str) -> Array:
    """Return the meat (k, k), from sums over PSUs and over strata: sum z z' - n_h z. z.' within each."""
    scores = final_scores(optimum)
    several = np.where(lonely, 2.0, sample.count)
    factor = np.where(lonely, 0.0, (1 - rate) * several / (several - 1))
    totals = scores.group_sums(sample.strata.codes, sample.strata.size)
    meat = scores.group_gram(sample.psu.codes, sample.psu.size, factor[sample.stratum])
    meat -= (totals * (factor / sample.count)[:, None]).T @ totals
    if rule == "average" and lonely.any():
        meat *= len(lonely) / (~lonely).sum()
    elif rule == "adjust" and lonely.any():
        centred = totals[lonely] - totals.sum(axis=0) / sample.psu.size
        meat += (centred * (1 - rate[lonely])[:, None]).T @ centred
    return meat
