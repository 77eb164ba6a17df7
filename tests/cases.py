"""Cases the tests are products of; here the reference cases: data with published or peer-computed results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlecov.datasets import load, read

REFERENCE = Path(__file__).resolve().parent / "reference"


@dataclass(frozen=True, eq=False)
class Case:
    """A model fitted elsewhere; see `tests/reference/README.md` for what the entries of `raw` mean.

    `estimates` maps parameter -> value, `std_errors` estimator -> parameter -> standard error (a program
    may print fewer parameters there). `digits` says how many digits of each are to be trusted.
    """

    name: str
    data: pd.DataFrame
    estimates: dict[str, float]
    std_errors: dict[str, dict[str, float]]
    loglik: float | None
    digits: dict[str, Any]
    source: str
    raw: dict[str, Any]

    @property
    def theta(self) -> npt.NDArray[np.float64]:
        """Return the estimates in the order of the case: (k,), less nuisance parameters not printed."""
        return np.array(list(self.estimates.values()), dtype=np.float64)

    def bse(self, estimator: str) -> npt.NDArray[np.float64]:
        """Return the standard errors in the order of the estimates, NaN where none is printed."""
        printed = self.std_errors[estimator]
        return np.array([printed.get(name, np.nan) for name in self.estimates], dtype=np.float64)


def case_names(prefix: str = "") -> list[str]:
    """Return the names of the reference cases that start with `prefix`, sorted.

    >>> case_names("spector")
    ['spector_logit', 'spector_logit_R', 'spector_probit', 'spector_probit_R']
    """
    return sorted(file.parent.name for file in REFERENCE.glob(f"{prefix}*/case.json"))


def load_case(name: str) -> Case:
    """Load a reference case with its data, from `datasets/` or from the folder of the case.

    >>> load_case("greene_exponential").estimates
    {'beta': 15.60272710904339}
    """
    folder = REFERENCE / name
    raw = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    data = load(raw["dataset"]) if "dataset" in raw else read(folder / raw["data"])
    return Case(
        name=raw["name"],
        data=data,
        estimates=raw["estimates"],
        std_errors=raw["std_errors"],
        loglik=raw["loglik"],
        digits=raw["digits"],
        source=raw["source"],
        raw=raw,
    )
