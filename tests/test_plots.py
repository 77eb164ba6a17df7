"""Plots: each returns Axes, draws what it says, cuts no label, calls no show."""

import matplotlib

matplotlib.use("Agg")

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import mlecov as ml
from mlecov.errors import SpecificationError
from mlecov.plots import _ratio_ticks


@pytest.fixture(scope="module")
def fit() -> ml.Fit:
    return ml.fit(ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector")))


DRAWN: dict[str, Callable[[ml.Fit], Any]] = {
    "coefficients": lambda fit: ml.plots.coefficients(fit.compare()),
    "ratios": lambda fit: ml.plots.ratios(fit.compare()),
    "profile": lambda fit: ml.plots.profile(fit.profile("mu[gpa]")),
    "contour": lambda fit: ml.plots.contour(fit.contour("mu[gpa]", "mu[psi]", directions=12)),
    "ellipses": lambda fit: ml.plots.ellipses(fit.compare(), "mu[gpa]", "mu[psi]"),
    "identification": ml.plots.identification,
    "influence": ml.plots.influence,
    "convergence": ml.plots.convergence,
    "coverage": lambda fit: ml.plots.coverage(
        ["oim", "robust"], np.array([0.94, 0.95]), np.array([0.01, 0.01])
    ),
    "qq": lambda fit: ml.plots.qq(np.random.default_rng(0).standard_normal(50)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_plot_returns_axes_inside_its_figure(
    name: str, fit: ml.Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("show was called"))
    ax = DRAWN[name](fit)
    assert isinstance(ax, plt.Axes) and ax.get_xlabel()
    figure = ax.figure
    figure.canvas.draw()
    width, height = figure.bbox.width, figure.bbox.height
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, "a label is cut"
    plt.close(figure)


def test_ratios_are_drawn_where_they_are(fit: ml.Fit) -> None:
    comparison = fit.compare(["oim", "opg"])
    ax = ml.plots.ratios(comparison, ["mu[psi]", "mu[gpa]"])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), comparison.ratios[[3, 1], 1])
    plt.close(ax.figure)


def test_ellipse_touches_the_joint_bound(fit: ml.Fit) -> None:
    """The ellipse reaches sqrt(chi2_2(0.95)) standard errors on each axis."""
    ax = ml.plots.ellipses(fit.compare(["oim"]), "mu[gpa]", "mu[psi]")
    reach = ax.lines[0].get_xdata().max() - fit.params["mu[gpa]"]
    assert reach == pytest.approx(np.sqrt(5.991464547) * fit.bse["mu[gpa]"], rel=1e-3)
    plt.close(ax.figure)


def test_unknown_parameter_is_named(fit: ml.Fit) -> None:
    with pytest.raises(SpecificationError, match="no parameter 'mu.gpaa.'"):
        ml.plots.coefficients(fit.compare(), ["mu[gpaa]"])


@pytest.mark.parametrize(("low", "high"), [(0.7, 1.5), (0.45, 2.4), (0.3, 9.0), (0.02, 160.0), (1e-9, 1e9)])
def test_ticks_of_ratios_have_room_for_their_labels(low: float, high: float) -> None:
    ticks = _ratio_ticks(low, high)
    assert 1.0 in ticks and len(ticks) >= 3
    assert all(low <= t <= high for t in ticks)
    places = np.log(ticks) / np.log(high / low)
    assert np.diff(places).min() > 0.03
