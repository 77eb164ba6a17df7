"""Inference after the fit: tables, hypotheses, profiles, resampling; each takes an Optimum."""
