"""What an optimiser leaves behind: the optimum, an honest record, a trace, a progress display."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.lazy import lazy
from mlecov.likelihood.base import Evaluation, Likelihood

tqdm = lazy("tqdm.auto")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One iteration: log-likelihood, g' I^-1 g (scale-free distance to the maximum), step length taken."""

    method: str
    iteration: int
    loglike: float
    decrement: float
    length: float
    seconds: float


@dataclass(frozen=True)
class Record:
    """How the maximum was found, and whether it was.

    `decrement` is g' I^-1 g at the end (I the observed information), twice the log-likelihood a
    Newton step could still gain; `gradient` the largest |g_j| / sqrt(I_jj). `criterion` says which
    test held, or why none did.
    """

    converged: bool
    criterion: str
    method: str
    iterations: int
    evaluations: int
    decrement: float
    gradient: float
    polished: bool
    seconds: float
    start: Array
    steps: tuple[Step, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the record under statsmodels' names and ours (`mle_retvals`)."""
        return {
            "converged": self.converged,
            "iterations": self.iterations,
            "fcalls": self.evaluations,
            "method": self.method,
            "criterion": self.criterion,
            "decrement": self.decrement,
            "gradient": self.gradient,
            "polished": self.polished,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Optimum:
    """A likelihood at its maximum: what every covariance, test and diagnostic reads."""

    likelihood: Likelihood
    theta: Array
    evaluation: Evaluation
    record: Record


@dataclass
class Monitor:
    """Counts, times and shows iterations: a trace on request, a progress bar on long fits."""

    trace: bool | Callable[[Step], None] = False
    progress: bool | None = None
    began: float = field(default_factory=time.perf_counter)
    evaluations: int = 0
    steps: list[Step] = field(default_factory=list)
    bar: Any = None

    def step(self, method: str, loglike: float, decrement: float, length: float) -> None:
        """Note one iteration and show it where asked."""
        seconds = time.perf_counter() - self.began
        done = Step(method, len(self.steps) + 1, loglike, decrement, length, seconds)
        self.steps.append(done)
        if callable(self.trace):
            self.trace(done)
        elif self.trace:
            print(f"{method:>10} {done.iteration:4d}  log-likelihood {loglike:.10g}  g'I^-1 g {decrement:.3g}")
        show = self.progress if self.progress is not None else seconds > 2 and sys.stderr.isatty()
        if show:
            if self.bar is None:
                self.bar = tqdm.tqdm(initial=len(self.steps) - 1, unit=" it", desc="maximising", leave=False)
            self.bar.set_postfix_str(f"loglike={loglike:.8g}, g'I^-1 g={decrement:.2g}")
            self.bar.update()

    def close(self) -> None:
        """Remove the progress display."""
        if self.bar is not None:
            self.bar.close()
