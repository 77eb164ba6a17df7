"""How a fitted model is held against a reference case, name by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mlecov.covariance import covariance, parse
from mlecov.optimize.maximize import Optimum
from tests.cases import Case

Array = npt.NDArray[np.float64]
Names = Mapping[str, str]
"""Entry of a case -> label on the user's scale, or free label; "-" in front of a label turns its sign."""


def pick(optimum: Optimum, names: Names, user: Array, free: Array) -> dict[str, float]:
    """Return the entries of (m,) and (k,) vectors under a case's names, signs apart."""
    space = optimum.likelihood.space
    table = dict(zip(space.free_labels, free, strict=True)) | dict(zip(space.labels, user, strict=True))
    return {name: float(table[label.removeprefix("-")]) for name, label in names.items()}


def check_estimates(
    optimum: Optimum, case: Case, names: Names, rtol: float, loglik: float, which: str = "estimates"
) -> None:
    """Check estimates to the relative tolerance and the log-likelihood to the absolute one."""
    found = pick(optimum, names, optimum.likelihood.space.report(optimum.theta), optimum.theta)
    printed = case.estimates if which == "estimates" else case.raw[which]
    assert set(names) == set(printed)
    for name, value in printed.items():
        sign = -1.0 if names[name].startswith("-") else 1.0
        np.testing.assert_allclose(
            sign * found[name], value, rtol=rtol, atol=1e-12, err_msg=f"{case.name}: {name}"
        )
    if case.loglik is not None:
        np.testing.assert_allclose(
            optimum.evaluation.loglike, case.loglik, rtol=0, atol=loglik, err_msg=case.name
        )


def check_errors(
    optimum: Optimum,
    printed: Mapping[str, float],
    names: Names,
    spec: str,
    rtol: float,
    small_sample: str = "none",
) -> None:
    """Check the standard errors of one estimator."""
    found = covariance(optimum, parse(spec, small_sample))
    entries = pick(optimum, names, found.bse, np.sqrt(np.diag(found.matrix)))
    assert printed
    for name, value in printed.items():
        np.testing.assert_allclose(entries[name], value, rtol=rtol, err_msg=f"s.e. of {name} by {spec}")


def check_computed(
    optimum: Optimum, case: Case, names: Names, rtol: float, skip: tuple[str, ...] = ()
) -> None:
    """Check the standard errors that separate code recalculated, for every estimator of the case."""
    specs = {"hessian": "oim", "opg": "opg", "sandwich": "robust"}
    assert optimum.record.converged
    for printed, spec in specs.items():
        if printed not in skip and printed in case.raw["std_errors_computed_nofactor"]:
            check_errors(optimum, case.raw["std_errors_computed_nofactor"][printed], names, spec, rtol)
