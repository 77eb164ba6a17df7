"""Counting, timing and showing iterations while an optimiser runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.lazy import lazy
from mlecov.optimize.checkpoint import Checkpoint
from mlecov.optimum import Step

tqdm = lazy("tqdm.auto")

Array = npt.NDArray[np.float64]


@dataclass
class Monitor:
    """Counts, times and shows iterations: a trace on request, a progress bar on long fits."""

    trace: bool | Callable[[Step], None] = False
    progress: bool | None = None
    began: float = field(default_factory=time.perf_counter)
    evaluations: int = 0
    steps: list[Step] = field(default_factory=list)
    bar: Any = None
    checkpoint: Checkpoint | None = None

    def step(self, method: str, loglike: float, decrement: float, length: float, theta: Array) -> None:
        """Note one iteration that led to theta (k,), keep it, and show it where asked."""
        seconds = time.perf_counter() - self.began
        done = Step(method, len(self.steps) + 1, loglike, decrement, length, seconds)
        self.steps.append(done)
        if self.checkpoint is not None:
            self.checkpoint.save(theta, loglike, done.iteration)
        if callable(self.trace):
            self.trace(done)
        elif self.trace:
            print(
                f"{method:>10} {done.iteration:4d}  log-likelihood {loglike:.10g}  g'I^-1 g {decrement:.3g}"
            )
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
