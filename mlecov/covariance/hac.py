"""Long-run covariances: kernels (HAC), equal-weighted cosines (EWC), periods (Driscoll-Kraay)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.factors import final_scores, sandwich_of, serial_factor, warn_few
from mlecov.covariance.kernels import KERNELS, bandwidth_of_lags, choose_bandwidth, kernel_weights
from mlecov.covariance.requests import EWC, HAC, DriscollKraay
from mlecov.covariance.sandwich import estimator
from mlecov.covariance.specbase import label_of
from mlecov.covariance.timeline import Timeline, time_index, timeline, with_gaps
from mlecov.data import Weights
from mlecov.errors import CovarianceError
from mlecov.lazy import lazy
from mlecov.likelihood.scores import DenseScores, Scores
from mlecov.optimum import Optimum

fft = lazy("scipy.fft")

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]


def _refuse_frequencies(optimum: Optimum, name: str) -> None:
    weights = optimum.likelihood.weights
    if weights is not None and weights.kind == "frequency":
        raise CovarianceError(
            f"{name} is not defined under frequency weights: they count rows, which have no order among "
            "them. Repeat "
            "the rows, or use analytic_weights."
        )


@estimator(HAC)
def hac(optimum: Optimum, spec: HAC) -> Covariance:
    """Return I^-1 [sum_j kappa(j/S) sum_t s_t s_(t-j)'] I^-1 with the terms in time order.

    Reference: Newey & West (1987); Andrews (1991).
    """
    _refuse_frequencies(optimum, "HAC")
    line = timeline(optimum.likelihood, spec.order_by, spec.group, spec.gaps)
    scores = final_scores(optimum).ordered(line.order)
    recolour = np.eye(scores.k)
    if spec.prewhiten:
        if (line.order < 0).any():
            raise CovarianceError(
                "prewhiten= needs a series without gaps; give prewhiten=0 or gaps='ignore'."
            )
        scores, recolour = prewhitened(scores, spec.prewhiten)
    names = optimum.likelihood.space.free_labels
    weights, text, found = _kernel(scores, spec, line.breaks, names, spec.prewhiten)
    meat = recolour @ scores.kernel_gram(weights, line.breaks) @ recolour.T
    groups = None if line.breaks is None else len(line.breaks) + 1
    n_terms = optimum.likelihood.n_terms
    kind, periods = ("hac", n_terms) if groups is None else ("panel", groups)
    factor, factor_text = serial_factor(optimum, spec.small_sample, kind, periods, spec.k)
    within = "" if groups is None else f" within {label_of(spec.group, 'group')} ({groups} groups)"
    whitened = f", prewhitened by a VAR({spec.prewhiten})" if spec.prewhiten else ""
    label = f"HAC{within}, {text}{whitened}{line.note}, factor {factor_text}, observed information as bread"
    return sandwich_of(optimum, factor * meat, label, spec.column, factor, None, spec.repair, **found)


def _kernel(
    scores: Scores,
    spec: HAC | DriscollKraay,
    breaks: Codes | None,
    names: tuple[str, ...],
    prewhitened: int = 0,
) -> tuple[Array, str, dict[str, Any]]:
    """Return kernel weights (L + 1,), their description and the details to keep."""
    rule = ""
    if spec.lags is not None:
        bandwidth = bandwidth_of_lags(spec.kernel, spec.lags)
    elif isinstance(spec.bandwidth, str):
        bandwidth = choose_bandwidth(scores, spec.kernel, spec.bandwidth, breaks, names, prewhitened)
        rule = f" ({'Newey & West 1994' if spec.bandwidth == 'newey-west' else 'Andrews 1991'})"
    else:
        assert spec.bandwidth is not None
        bandwidth = float(spec.bandwidth)
    edges = np.r_[0, scores.n_terms] if breaks is None else np.r_[0, breaks, scores.n_terms]
    weights = kernel_weights(spec.kernel, bandwidth, int(np.diff(edges).max()))
    lags = len(weights) - 1
    shown = "all" if not KERNELS[spec.kernel].bounded and lags else f"{lags}"
    title = KERNELS[spec.kernel].title
    text = f"{title} kernel, bandwidth {bandwidth:.6g}{rule} ({shown} lag{'' if shown == '1' else 's'})"
    return weights, text, {"kernel": spec.kernel, "bandwidth": bandwidth, "lags": lags}


# --- prewhitening -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prewhitened(Scores):
    """Residuals r_t = s_t - A_1 s_(t-1) - ... - A_p s_(t-p), t > p, of weighted scores, never formed."""

    base: Scores
    coefficients: Array
    weights: Weights | None = None

    @property
    def n_terms(self) -> int:  # type: ignore[override]
        return self.base.n_terms - len(self.coefficients)

    @property
    def k(self) -> int:  # type: ignore[override]
        return self.base.k

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        p = len(self.coefficients)
        for start, stop, window in _windows(self.base, p):
            rows = window[p:].copy()
            for lag, matrix in enumerate(self.coefficients, start=1):
                rows -= window[p - lag : len(window) - lag] @ matrix.T
            yield start, stop, rows

    def take(self, terms: npt.NDArray[np.intp]) -> DenseScores:
        return DenseScores(self.to_dense()[terms])


def _windows(scores: Scores, p: int) -> Iterator[tuple[int, int, Array]]:
    """Yield (start, stop, weighted rows start:stop + p) over positions 0 ... n - p."""
    past = np.empty((0, scores.k))
    done = 0
    for _, _, rows in scores.weighted_blocks():
        joined = np.concatenate([past, rows])
        if len(joined) > p:
            yield done, done + len(joined) - p, joined
            done += len(joined) - p
        past = joined[max(len(joined) - p, 0) :]


def prewhitened(scores: Scores, p: int) -> tuple[Scores, Array]:
    """Return the residuals of a VAR(p) by least squares and the recolouring matrix (I - sum A)^-1.

    Raises
    ------
    CovarianceError
        Where the autoregression is not stationary: recolouring would blow up.
    """
    k = scores.k
    if scores.n_terms <= p * (k + 1):
        raise CovarianceError(
            f"prewhiten={p} needs more than {p * (k + 1)} terms; there are {scores.n_terms}."
        )
    gram, cross = np.zeros((p * k, p * k)), np.zeros((p * k, k))
    for _, _, window in _windows(scores, p):
        length = len(window) - p
        past = np.concatenate([window[p - lag : p - lag + length] for lag in range(1, p + 1)], axis=1)
        gram += past.T @ past
        cross += past.T @ window[p:]
    size = 1 / np.sqrt(np.diag(gram))
    solved = size[:, None] * np.linalg.solve(gram * np.outer(size, size), size[:, None] * cross)
    coefficients = solved.reshape(p, k, k).transpose(0, 2, 1)
    companion = np.zeros((p * k, p * k))
    companion[:k] = np.concatenate(list(coefficients), axis=1)
    companion[k:, : (p - 1) * k] = np.eye((p - 1) * k)
    largest = np.abs(np.linalg.eigvals(companion)).max()
    if largest >= 0.995:
        raise CovarianceError(
            f"the autoregression of the scores has a root of {largest:.4g}: too close to one to "
            "prewhiten. Give "
            "prewhiten=0 and a wide bandwidth, or model the dependence."
        )
    return Prewhitened(scores, coefficients), np.linalg.inv(np.eye(k) - coefficients.sum(axis=0))


# --- cosines ----------------------------------------------------------------------------------------


@estimator(EWC)
def equal_weighted_cosine(optimum: Optimum, spec: EWC) -> Covariance:
    """Return the equal-weighted cosine covariance with t(nu).

    meat = (2/nu) sum_j c_j c_j', c_j the cosine transforms of the scores; positive semi-definite.
    Reference: Lazarus, Lewis, Stock & Watson (2018).
    """
    _refuse_frequencies(optimum, "EWC")
    line: Timeline = timeline(optimum.likelihood, spec.order_by, None, spec.gaps)
    scores = final_scores(optimum).ordered(line.order)
    n = scores.n_terms
    nu = int(0.41 * n ** (2 / 3)) if spec.nu is None else int(spec.nu)
    if not 1 <= nu < n:
        raise CovarianceError(f"nu={nu}: expected between 1 and {n - 1} cosines for {n} periods.")
    warn_few(nu + 1, f"cosines and a constant (nu = {nu})", scores.k, corrected=True)
    w = scores.term_weights()
    transforms = np.empty((nu, scores.k))
    for low in range(0, scores.k, 4):
        columns = scores.right(np.eye(scores.k)[:, low : low + 4]).T
        columns = np.ascontiguousarray(columns) if w is None else columns * w
        transforms[:, low : low + 4] = 0.5 * fft.dct(columns, type=2)[:, 1 : nu + 1].T
    meat = (2 / nu) * (transforms.T @ transforms)
    label = f"equal-weighted cosine, nu = {nu}{line.note}, observed information as bread, t({nu})"
    return sandwich_of(optimum, meat, label, spec.column, df=float(nu), nu=nu)


# --- sums by period ---------------------------------------------------------------------------------


@estimator(DriscollKraay)
def driscoll_kraay(optimum: Optimum, spec: DriscollKraay) -> Covariance:
    """Return I^-1 [sum_j kappa(j/S) sum_t h_t h_(t-j)'] I^-1, h_t the sum of w s over period t.

    Reference: Driscoll & Kraay (1998).
    """
    likelihood = optimum.likelihood
    name = label_of(spec.time, "time")
    codes, labels = likelihood.rows.codes(spec.time, name)
    times = time_index(labels, name)
    rank = np.argsort(np.argsort(times, kind="stable"), kind="stable")
    n_periods = len(labels)
    if n_periods < 2:
        raise CovarianceError(f"{name!r} has one period only; Driscoll-Kraay needs several.")
    warn_few(n_periods, f"periods of {name!r}", likelihood.space.k)
    sums = final_scores(optimum).group_sums(rank[codes], n_periods)
    sorted_ = np.argsort(times, kind="stable")
    plain = Timeline(np.arange(n_periods), None)
    everywhere = np.ones(n_periods - 1, dtype=bool)
    line = with_gaps(
        plain, np.diff(times[sorted_]).astype(float), everywhere, spec.gaps, name, labels[sorted_]
    )
    scores = DenseScores(sums).ordered(line.order)
    weights, text, found = _kernel(scores, spec, None, likelihood.space.free_labels)
    meat = scores.kernel_gram(weights)
    factor, factor_text = serial_factor(optimum, spec.small_sample, "period", n_periods, spec.k)
    df = float(n_periods - 1) if spec.df == "t" else None
    label = (
        f"Driscoll-Kraay over {name} ({n_periods} periods), {text}{line.note}, factor {factor_text}, "
        "observed information "
        "as bread"
    )
    found["groups"] = {name: n_periods}
    return sandwich_of(optimum, factor * meat, label, spec.column, factor, df, spec.repair, **found)
