"""What all covariance requests share: the base of the specs and the checks of their arguments."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from mlecov.errors import CovarianceError, suggestion

SmallSample = Literal["default", "none", "stata", "statsmodels", "sandwich", "fixest"]
CONVENTIONS = ("default", "none", "stata", "statsmodels", "sandwich", "fixest")
Label = str | npt.NDArray[Any] | Sequence[Any]
Curvature = Literal["observed", "expected"]


@dataclass(
    frozen=True, eq=False
)  # eq=True would make all requests of a subclass without its own __eq__ equal
class Spec:
    """A request for a covariance: what to compute, before any data are seen."""

    name: ClassVar[str] = ""

    @property
    def column(self) -> str:
        """Short text that heads a column of standard errors."""
        return self.name

    def under(self, small_sample: str) -> Spec:
        """Return the request under a small-sample convention; one that it names itself stays.

        Raises
        ------
        CovarianceError
            Where the convention has a factor of its own and the estimator has no room for one.
        """
        check_convention(small_sample)
        own = {field.name: getattr(self, field.name) for field in fields(self)}.get("small_sample")
        if own is None:
            refuse_factor(self.column, small_sample)
        if own != "default" or small_sample == "default":
            return self
        found = copy.copy(self)
        object.__setattr__(found, "small_sample", small_sample)
        return found


def check_convention(small_sample: str) -> None:
    """Raise CovarianceError for an unknown small-sample convention."""
    if small_sample not in CONVENTIONS:
        raise CovarianceError(
            f"small_sample={small_sample!r} is not known.{suggestion(small_sample, list(CONVENTIONS))}"
        )


def refuse_factor(name: str, small_sample: str) -> None:
    """Raise CovarianceError for a convention that would give a factor to an estimator defined without."""
    if small_sample not in ("default", "none", "sandwich", "statsmodels"):
        raise CovarianceError(
            f"{name} has no small-sample factor under {small_sample!r}; it is defined with factor "
            f"{'(n-1)/n' if name == 'jackknife' else '1'} alone."
        )


def choose(argument: str, value: Any, known: Sequence[Any]) -> None:
    """Raise CovarianceError unless `value` is one of `known`."""
    if value not in known:
        shown = ", ".join(repr(item) for item in known)
        raise CovarianceError(f"{argument}={value!r} is not known; expected one of {shown}.")


def shown(label: Any) -> str:
    """Return a label as text: quoted where it is text, without numpy's type names.

    >>> shown(np.int64(9)), shown("a")
    ('9', "'a'")
    """
    return repr(label.item() if isinstance(label, np.generic) and label.dtype.kind not in "Mm" else label)


def label_of(group: Any, default: str) -> str:
    """Return the name of a column, of a Series, or `default` for a bare array."""
    if isinstance(group, str):
        return group
    name = getattr(group, "name", None)
    return default if name is None else str(name)
