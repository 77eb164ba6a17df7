"""Figures of fits: each function draws on Axes and returns them; none calls show.

Readable in grey: series differ by marker and line style, not by colour alone. The only user of
matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.compare import Comparison
from mlecov.errors import SpecificationError, suggestion
from mlecov.inference.profile import Contour, Profile
from mlecov.inference.table import coefficient_table
from mlecov.lazy import lazy
from mlecov.optimum import Optimum
from mlecov.result import Fit

plt = lazy("matplotlib.pyplot")

Array = npt.NDArray[np.float64]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
SHADES = ("#1b1b1b", "#0072b2", "#d55e00", "#009e73", "#7a5195", "#b8860b", "#56b4e9", "#8c564b")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2)))


def _axes(ax: Any, width: float = 7.0, height: float = 4.2) -> Any:
    if ax is not None:
        return ax
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _frame(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def _entries(labels: Sequence[str], chosen: Sequence[str] | None) -> list[int]:
    """Return the positions of the chosen labels (all of them by default)."""
    if chosen is None:
        return list(range(len(labels)))
    for name in chosen:
        if name not in labels:
            raise SpecificationError(f"no parameter {name!r}.{suggestion(name, list(labels))}")
    return [list(labels).index(name) for name in chosen]


def coefficients(
    comparison: Comparison, params: Sequence[str] | None = None, *, alpha: float = 0.05, ax: Any = None
) -> Any:
    """Draw estimates with confidence intervals under several covariances side by side.

    Parameters
    ----------
    comparison :
        `fit.compare([...])`.
    params :
        Labels to draw (default: all).
    alpha :
        One minus the level of the intervals.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector")))
    >>> ax = ml.plots.coefficients(fit.compare())  # doctest: +SKIP
    """
    labels = comparison.optimum.likelihood.space.labels
    entries = _entries(labels, params)
    count = len(comparison.covariances)
    ax = _axes(ax, 7.0, max(2.2, 0.28 * len(entries) * (count + 1) / 1.6 + 1.1))
    for j, (covariance, name) in enumerate(zip(comparison.covariances, comparison.columns, strict=True)):
        table = coefficient_table(covariance, alpha)
        y = np.arange(len(entries))[::-1] + 0.7 * ((count - 1) / 2 - j) / max(count, 1)
        estimate = table.estimates[entries]
        spread = np.abs(np.vstack([estimate - table.lower[entries], table.upper[entries] - estimate]))
        ax.errorbar(
            estimate,
            y,
            xerr=spread,
            fmt=MARKERS[j % len(MARKERS)],
            color=SHADES[j % len(SHADES)],
            markersize=4.5,
            capsize=2.5,
            linewidth=1.2,
            label=name,
        )
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set_yticks(np.arange(len(entries))[::-1], [labels[i] for i in entries])
    ax.set_ylim(-0.6, len(entries) - 0.4)
    ax.set_xlabel(f"estimate and {100 * (1 - alpha):g}% interval")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _frame(ax)
    return ax


def ratios(comparison: Comparison, params: Sequence[str] | None = None, *, ax: Any = None) -> Any:
    """Draw the ratios of each covariance's standard errors to those of the first (log scale)."""
    labels = comparison.optimum.likelihood.space.labels
    entries = [i for i in _entries(labels, params) if np.isfinite(comparison.ratios[i]).all()]
    ax = _axes(ax, 7.0, max(2.2, 0.34 * len(entries) + 1.3))
    y = np.arange(len(entries))[::-1]
    for j, name in enumerate(comparison.columns[1:], start=1):
        ax.plot(
            comparison.ratios[entries, j],
            y,
            MARKERS[j % len(MARKERS)],
            color=SHADES[j % len(SHADES)],
            markersize=6,
            label=name,
        )
    ax.axvline(1, color="0.4", linewidth=0.9, zorder=0)
    ax.set_xscale("log")
    ticks = _ratio_ticks(*ax.get_xlim())
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_yticks(y, [labels[i] for i in entries])
    ax.set_ylim(-0.6, len(entries) - 0.4)
    ax.set_xlabel(f"standard error relative to {comparison.columns[0]}")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _frame(ax)
    return ax


def _ratio_ticks(low: float, high: float) -> list[float]:
    """Return ticks of a log axis of ratios between `low` and `high`, as fine as their labels have room."""
    decades = np.log10(high / low)
    decade: tuple[float, ...] = (1, 1.1, 1.25, 1.5, 2, 3, 5, 7, 8, 9)
    if decades > 1:
        decade = (1, 2, 5) if decades < 3 else (1,)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    every = 1 + len(powers) // 10
    ticks = [round(t * 10.0**p, 12 - p) for p in powers if p % every == 0 for t in decade]
    return [t for t in ticks if low <= t <= high]


def profile(found: Profile, *, ax: Any = None) -> Any:
    """Draw a profile log-likelihood, its quadratic (Wald) approximation, and both intervals.

    `found` is `fit.profile("sigma")`; the profile interval is where the curve crosses the cut.
    """
    ax = _axes(ax)
    top = float(np.max(found.loglike))
    drop = 0.5 * float(special.ndtri(1 - found.alpha / 2)) ** 2
    order = np.argsort(found.values)
    values, loglike = found.values[order], found.loglike[order] - top
    ax.plot(values, loglike, "-", color=SHADES[0], label="profile log-likelihood")
    half = 0.5 * (found.wald[1] - found.wald[0])
    grid = np.linspace(values.min(), values.max(), 200)
    if np.isfinite(half) and half > 0:
        ax.plot(
            grid,
            -drop * ((grid - found.estimate) / half) ** 2,
            "--",
            color=SHADES[1],
            label="quadratic (Wald)",
        )
    ax.axhline(-drop, color="0.5", linewidth=0.8)
    for bound in (found.lower, found.upper):
        if np.isfinite(bound):
            ax.axvline(bound, color="0.5", linewidth=0.8, linestyle=":")
    ax.plot([found.estimate], [0], "o", color=SHADES[0])
    ax.set_ylim(min(-1.6 * drop, 1.1 * max(loglike.min(), -4 * drop)), 0.12 * drop)
    ax.set_xlabel(found.label)
    ax.set_ylabel("log-likelihood less its maximum")
    ax.annotate(
        f"{100 * (1 - found.alpha):g}% cut",
        (0.99, -drop),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize="small",
        color="0.35",
    )
    ax.legend(frameon=False, loc="lower center")
    _frame(ax)
    return ax


def contour(found: Contour, *, ax: Any = None) -> Any:
    """Draw the boundary of a two-parameter likelihood region, `fit.contour("a", "b")`."""
    ax = _axes(ax, 5.2, 4.6)
    points = np.vstack([found.points, found.points[:1]])
    ax.plot(points[:, 0], points[:, 1], "-", color=SHADES[0])
    ax.plot(*found.estimate, "o", color=SHADES[0])
    ax.set_xlabel(found.labels[0])
    ax.set_ylabel(found.labels[1])
    title = f"{100 * (1 - found.alpha):g}% likelihood region"
    ax.set_title(title if not found.open_directions else f"{title} (open: {found.reason})", fontsize="medium")
    _frame(ax)
    return ax


def ellipses(comparison: Comparison, first: str, second: str, *, alpha: float = 0.05, ax: Any = None) -> Any:
    """Draw the joint Wald confidence ellipse of two parameters under each covariance.

    {b : (b - b_hat)' V^-1 (b - b_hat) <= chi2_2(1 - alpha)} with V the (2, 2) block of each.
    """
    labels = comparison.optimum.likelihood.space.labels
    entries = _entries(labels, [first, second])
    center = comparison.optimum.likelihood.space.report(comparison.optimum.theta)[entries]
    radius = np.sqrt(-2 * np.log(alpha))
    angle = np.linspace(0, 2 * np.pi, 200)
    ax = _axes(ax, 6.4, 4.6)
    for j, (covariance, name) in enumerate(zip(comparison.covariances, comparison.columns, strict=True)):
        values, vectors = np.linalg.eigh(covariance.user[np.ix_(entries, entries)])
        circle = np.vstack([np.cos(angle), np.sin(angle)])
        path = center[:, None] + radius * vectors @ (np.sqrt(np.maximum(values, 0))[:, None] * circle)
        ax.plot(
            path[0],
            path[1],
            linestyle=LINES[j % len(LINES)],
            color=SHADES[j % len(SHADES)],
            linewidth=1.4,
            label=name,
        )
    ax.plot(*center, "+", color="0.2", markersize=9)
    ax.set_xlabel(first)
    ax.set_ylabel(second)
    ax.set_title(f"joint {100 * (1 - alpha):g}% regions", fontsize="medium")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _frame(ax)
    return ax


def identification(fit: Fit, *, ax: Any = None) -> Any:
    """Draw the eigenvalues of the equilibrated information with the parameters that make each direction.

    Equilibrated: unit diagonal, so that units do not matter. A small eigenvalue is a combination of
    parameters on which the data say little.
    """
    information = fit.information
    names = fit.likelihood.space.free_labels
    scale = 1 / np.sqrt(np.diag(information))
    values, vectors = np.linalg.eigh(information * np.outer(scale, scale))
    ax = _axes(ax, 9.0, max(2.4, 0.36 * len(values) + 1.3))
    y = np.arange(len(values))
    ax.barh(y, np.maximum(values, 1e-17), height=0.55, color="0.55", edgecolor="0.2")
    ax.set_xscale("log")
    ax.set_yticks(y, [_direction_text(vectors[:, j], names) for j in range(len(values))], fontsize="small")
    ax.set_xlabel("eigenvalue of the information scaled to unit diagonal")
    ax.set_title(f"condition number {values[-1] / max(values[0], 1e-300):.3g}", fontsize="medium")
    _frame(ax)
    return ax


def _direction_text(vector: Array, names: Sequence[str]) -> str:
    order = np.argsort(-np.abs(vector))[:3]
    return " ".join(f"{vector[i]:+.2f} {names[i]}" for i in order if abs(vector[i]) > 0.15)


def influence(fit: Fit, *, label: int = 5, ax: Any = None) -> Any:
    """Draw each term's Cook-like distance (how far one deletion moves theta, in information units).

    d_i = s_i' I^-1 s_i, the one-step change of theta measured by the information, with the `label`
    largest terms numbered.
    """
    optimum: Optimum = fit.optimum
    assert optimum.evaluation.scores is not None
    factor = optimum.evaluation.factor
    if factor is None:
        raise SpecificationError("the information is not positive definite; influence has no scale.")
    S = optimum.evaluation.scores.to_dense()
    distance = np.einsum("ij,ij->i", S, factor.solve(S.T).T)
    ax = _axes(ax)
    ax.vlines(np.arange(len(distance)), 0, distance, color="0.45", linewidth=0.9)
    labels = fit.likelihood.rows.labels
    for i in np.argsort(-distance)[:label]:
        text = str(labels[i]) if labels is not None else str(i)
        ax.annotate(text, (i, distance[i]), ha="center", va="bottom", fontsize="small")
    ax.set_ylim(0, 1.12 * max(float(distance.max()), 1e-12))
    ax.set_xlabel("term")
    ax.set_ylabel("one-step influence $s_i' I^{-1} s_i$")
    _frame(ax)
    return ax


def convergence(fit: Fit, *, ax: Any = None) -> Any:
    """Draw g' I^-1 g, the scale-free distance to the maximum, by iteration (log scale)."""
    steps = [step for step in fit.record.steps if np.isfinite(step.decrement) and step.decrement > 0]
    ax = _axes(ax)
    ax.semilogy(
        [step.iteration for step in steps],
        [step.decrement for step in steps],
        "o-",
        color=SHADES[0],
        markersize=4,
    )
    ax.axhline(1e-10, color="0.5", linewidth=0.8, linestyle="--")
    ax.annotate(
        "counts as converged",
        (0.02, 1e-10),
        xycoords=("axes fraction", "data"),
        va="bottom",
        fontsize="small",
    )
    ax.set_xlabel("iteration")
    ax.set_ylabel("$g' I^{-1} g$")
    ax.set_title(f"{fit.record.method}: {fit.record.criterion}", fontsize="medium")
    _frame(ax)
    return ax


def coverage(
    names: Sequence[str], rates: Array, errors: Array, *, nominal: float = 0.95, ax: Any = None
) -> Any:
    """Draw Monte Carlo coverage rates (C,) with error bars (C,) of two Monte Carlo standard errors."""
    ax = _axes(ax, 6.4, max(2.0, 0.4 * len(names) + 1.2))
    y = np.arange(len(names))[::-1]
    ax.errorbar(rates, y, xerr=2 * np.asarray(errors), fmt="o", color=SHADES[0], capsize=3)
    ax.axvline(nominal, color="0.4", linewidth=0.9, linestyle="--")
    ax.set_yticks(y, list(names))
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(f"coverage of {100 * nominal:g}% intervals")
    _frame(ax)
    return ax


def qq(residuals: Array, *, ax: Any = None) -> Any:
    """Draw normal quantiles against sorted quantile residuals (n,): a straight line if the model is right."""
    found = np.sort(np.asarray(residuals, dtype=float))
    n = len(found)
    expected = special.ndtri((np.arange(1, n + 1) - 0.375) / (n + 0.25))
    ax = _axes(ax, 4.8, 4.6)
    ends = [min(expected[0], found[0]), max(expected[-1], found[-1])]
    ax.plot(ends, ends, "-", color="0.6", linewidth=0.9)
    ax.plot(expected, found, "o", color=SHADES[0], markersize=3, alpha=0.7)
    ax.set_xlabel("normal quantile")
    ax.set_ylabel("quantile residual")
    _frame(ax)
    return ax
