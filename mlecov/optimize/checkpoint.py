"""The state of an optimiser in a small file, written after every iteration: interrupting loses nothing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.errors import DataError, SpecificationError
from mlecov.likelihood.base import Evaluation, Likelihood

Array = npt.NDArray[np.float64]


@dataclass
class Checkpoint:
    """theta, log-likelihood and iterations done, at `path`; `labels` and `n_terms` say whose they are."""

    path: Path
    labels: tuple[str, ...]
    n_terms: int
    theta: Array | None = None
    loglike: float | None = None
    done: int = 0

    @staticmethod
    def open(path: Any, likelihood: Likelihood) -> Checkpoint:
        """Return the checkpoint at `path`, with what an earlier run left there.

        Raises
        ------
        DataError
            Where the file is none of ours.
        SpecificationError
            Where it belongs to a likelihood with other parameters or terms.
        """
        found = Checkpoint(Path(path), likelihood.space.free_labels, likelihood.n_terms)
        if not found.path.exists():
            return found
        try:
            state = json.loads(found.path.read_text(encoding="utf-8"))
            theta, loglike, done = (
                np.array(state["theta"], dtype=float),
                state["loglike"],
                state["iterations"],
            )
            owner = (tuple(state["labels"]), state["n_terms"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not the state of an optimiser: {error}. Give another path.") from None
        if owner != (found.labels, found.n_terms):
            raise SpecificationError(
                f"{path} belongs to a fit of {len(owner[0])} parameters to {owner[1]} terms, first {owner[0][0]!r}; "
                f"this one has {len(found.labels)} and {found.n_terms}. Delete the file, or give another path."
            )
        found.theta, found.loglike, found.done = theta, loglike, done
        return found

    def verify(self, evaluation: Evaluation) -> None:
        """Raise SpecificationError unless the log-likelihood at the state is what it was when written."""
        if self.loglike is None:
            return
        if abs(evaluation.loglike - self.loglike) > 1e-9 * max(abs(self.loglike), 1.0):
            raise SpecificationError(
                f"{self.path}: the log-likelihood there was {self.loglike:.12g}, and is {evaluation.loglike:.12g} now: "
                "the data or the function have changed. Delete the file to begin anew."
            )

    def save(self, theta: Array, loglike: float, iterations: int = 0) -> None:
        """Write the state: to a file beside it first, so that an interrupted write leaves the last one."""
        state = {
            "labels": self.labels,
            "n_terms": self.n_terms,
            "theta": np.asarray(theta).tolist(),
            "loglike": float(loglike),
            "iterations": self.done + iterations,
        }
        beside = self.path.with_name(self.path.name + ".new")
        beside.write_text(json.dumps(state), encoding="utf-8")
        os.replace(beside, self.path)
