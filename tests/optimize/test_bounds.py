"""Bounded parameters that run to the end of their range are named, whatever the likelihood."""

from __future__ import annotations

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import mlecov as ml
from mlecov.errors import BoundaryWarning, IdentificationError

Y = np.random.default_rng(0).standard_normal(100)


def shifted(y: Any, m: Any) -> Any:
    return norm.logpdf(y, m, 1.0)


@pytest.mark.parametrize(
    ("kind", "shift", "bound"),
    [
        (ml.interval(-1, 0.5), 1.0, "0.5"),
        (ml.interval(-1, 0.5), -3.0, "-1"),
        (ml.positive(), -2.0, "0"),
    ],
)
def test_a_parameter_at_its_bound_is_named(kind: Any, shift: float, bound: str) -> None:
    with pytest.warns(BoundaryWarning, match=rf"m is at its bound, {bound}:") as said:
        fit = ml.fit(ml.likelihood(shifted, {"y": Y + shift}, {"m": kind}))
    assert len(said) == 1
    assert abs(fit.params["m"] - float(bound)) < 1e-6


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_parameter_inside_its_range_is_not(scale: float) -> None:
    """Also where it is tiny beside one, and where the information is small."""

    def spread(y: Any, sigma: Any) -> Any:
        return norm.logpdf(y / sigma, 0.0, 1.0) - jnp.log(sigma)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = ml.fit(ml.likelihood(spread, {"y": scale * Y}, {"sigma": ml.positive()}))
    assert fit.params["sigma"] == pytest.approx(scale * np.sqrt(np.mean(Y**2)), rel=1e-9)


def test_a_parameter_without_effect_is_not_said_to_be_at_a_bound() -> None:
    def idle(y: Any, m: Any, s: Any) -> Any:
        return norm.logpdf(y, m + 0.0 * s, 1.0)

    with pytest.raises(IdentificationError, match=r"no information along .*log\(s\)") as said:
        ml.fit(ml.likelihood(idle, {"y": Y}, {"m": 0.0, "s": ml.positive()}))
    assert "bound" not in str(said.value)
