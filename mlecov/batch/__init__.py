"""Many maximisations at once: bootstraps, Monte Carlo studies, profiles."""

from mlecov.batch.evaluators import with_columns
from mlecov.batch.maximize import Batch, Kind, maximize_batch, maximize_many, require

__all__ = ["Batch", "Kind", "maximize_batch", "maximize_many", "require", "with_columns"]
