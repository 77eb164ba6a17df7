"""Covariance estimators against naive loops, identities and other programs."""
