"""Maximise a likelihood: one Newton loop that differs by curvature, scipy's methods, a polish."""

from mlecov.optimize.maximize import maximize
from mlecov.optimize.record import Optimum, Record, Step

__all__ = ["Optimum", "Record", "Step", "maximize"]
