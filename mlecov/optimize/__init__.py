"""Maximise a likelihood: one Newton loop that differs by curvature, scipy's methods, a polish."""

from mlecov.optimize.maximize import maximize

__all__ = ["maximize"]
