"""Linear and nonlinear least squares, as geometry and as Gaussian likelihoods."""

from __future__ import annotations

from mlecov.least_squares.linear import LeastSquares, least_squares
from mlecov.least_squares.nonlinear import NonlinearLeastSquares, nonlinear_least_squares

__all__ = ["LeastSquares", "NonlinearLeastSquares", "least_squares", "nonlinear_least_squares"]
