"""Settings shared by all tests: kernels kept beside pytest's cache, never in the user's folder."""

import os
from pathlib import Path

os.environ.setdefault(
    "MLECOV_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "mlecov-kernels")
)
