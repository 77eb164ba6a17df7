"""Benchmarks: `python -m tests.benchmarks` times mlecov and its peers in one run and prints ratios."""
