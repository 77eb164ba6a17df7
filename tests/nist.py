"""Log relative errors on the NIST Statistical Reference Datasets: `python -m tests.nist` prints the table.

Three numbers a program: digits of the worst estimate, of the worst standard error and of the residual
standard deviation, -log10 |x - c| / |c| (of |x| where the certified c is zero), at most 15 and at least 0.
The peers run as their users run them: with default options, and differences for derivatives.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import statsmodels.api as sm
from scipy.optimize import curve_fit

from mlecov.errors import MlecovError
from mlecov.least_squares import LeastSquares, least_squares, nonlinear_least_squares
from tests.cases import Case, case_names, load_case

Array = npt.NDArray[np.float64]
Digits = tuple[float, float, float]
FAILED: Digits = (float("nan"),) * 3
STARTS = ("start1", "start2")
WIDE = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


def problems(linear: bool) -> list[str]:
    """Return the names of the linear or of the nonlinear problems, without `nist_`."""
    names = [name.removeprefix("nist_") for name in case_names("nist_")]
    return [name for name in names if ("formula_python" in load_case(f"nist_{name}").raw) != linear]


def digits(got: Iterable[float], certified: Iterable[float]) -> float:
    """Return the least log relative error of `got`, from 0 to 15.

    >>> round(digits([1.001, 2.0], [1.0, 2.0]), 6)
    3.0
    """
    x, c = np.asarray(list(got), dtype=np.float64), np.asarray(list(certified), dtype=np.float64)
    if not np.isfinite(x).all():
        return 0.0
    error = np.abs(x - c) / np.where(c == 0, 1.0, np.abs(c))
    return float(max(0.0, -np.log10(max(float(error.max()), 1e-15))))


def score(case: Case, params: Iterable[float], bse: Iterable[float], sd: float) -> Digits:
    """Return the three digits of a fit of `case`."""
    (errors,) = case.std_errors.values()
    return (
        digits(params, case.estimates.values()),
        digits(bse, errors.values()),
        digits([sd], [case.raw["residual_sd"]]),
    )


def model(case: Case, module: Any) -> Callable[..., Any]:
    """Return the model f(x, b1, ...) of a nonlinear case, written with `module` (numpy or jax.numpy)."""
    names = {name: getattr(module, name) for name in ("exp", "cos", "sin", "arctan", "log")}
    source = f"lambda x, {', '.join(case.estimates)}: {case.raw['formula_python']}"
    return eval(source, {**names, "pi": np.pi})  # type: ignore[no-any-return]


def design(case: Case, dtype: Any = np.float64) -> npt.NDArray[Any]:
    """Return the columns of a linear case; powers are formed in `dtype`."""
    columns = list(case.data.columns[1:])
    if columns == ["x"]:
        x = case.data["x"].to_numpy(dtype=np.float64).astype(dtype)
        powers = range(0 if "B0" in case.estimates else 1, len(case.estimates) + ("B0" not in case.estimates))
        return np.column_stack([x**power for power in powers])
    return np.column_stack([np.ones(len(case.data)), case.data[columns].to_numpy()])


def outcome(case: Case) -> Array:
    """Return the outcome: the first column of every case."""
    return case.data.iloc[:, 0].to_numpy(dtype=np.float64)


def ours_linear(case: Case, dtype: Any = np.float64) -> LeastSquares:
    """Fit a linear case."""
    return least_squares(design(case, dtype), outcome(case), names=list(case.estimates))


def linear_row(name: str) -> tuple[Digits, Digits]:
    """Return the digits of mlecov and of statsmodels' OLS on a linear problem."""
    case = load_case(f"nist_{name}")
    fit = ours_linear(case)
    peer = sm.OLS(outcome(case), design(case)).fit()
    return (
        score(case, fit.params, fit.bse(), float(np.sqrt(fit.s2 or 0.0))),
        score(case, peer.params, peer.bse, float(np.sqrt(peer.scale))),
    )


def nonlinear_row(name: str, start: str) -> dict[str, Digits]:
    """Return the digits of each program on a nonlinear problem from one of its two starts."""
    case = load_case(f"nist_{name}")
    row = {"mlecov": _ours(case, start), "curve_fit": _curve_fit(case, start)}
    if importlib.util.find_spec("lmfit"):
        row["lmfit"] = _lmfit(case, start)
    return row


def _ours(case: Case, start: str) -> Digits:
    try:
        fit = nonlinear_least_squares(model(case, jnp), case.raw[start], case.data, outcome="y")
        return score(case, fit.params, fit.bse(), float(np.sqrt(fit.s2 or 0.0)))
    except MlecovError:
        return FAILED


def _curve_fit(case: Case, start: str) -> Digits:
    x, y = case.data["x"].to_numpy(), outcome(case)
    function = model(case, np)
    try:
        params, cov = curve_fit(function, x, y, p0=list(case.raw[start].values()))
    except RuntimeError:
        return FAILED
    rss = float(np.sum((y - function(x, *params)) ** 2))
    return score(case, params, np.sqrt(np.diag(cov)), float(np.sqrt(rss / case.raw["dof"])))


def _lmfit(case: Case, start: str) -> Digits:
    lmfit = importlib.import_module("lmfit")
    try:
        result = lmfit.Model(model(case, np)).fit(
            outcome(case), x=case.data["x"].to_numpy(), **case.raw[start]
        )
    except ValueError:  # lmfit's answer to a residual that is not finite
        return FAILED
    parameters = [result.params[name] for name in case.estimates]
    errors = [np.nan if p.stderr is None else p.stderr for p in parameters]
    return score(case, [p.value for p in parameters], errors, float(np.sqrt(result.redchi)))


def _text(values: Digits) -> str:
    return "     failed     " if np.isnan(values[0]) else "".join(f"{value:5.1f}" for value in values) + " "


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")  # the peers' complaints about overflow; ours raise
    print("Digits of estimates, standard errors, residual standard deviation\n")
    print(f"{'linear problem':24s}|{'mlecov':^16s}|{'statsmodels OLS':^16s}|{'scaled cond.':>13s}")
    for name in problems(linear=True):
        ours, peer = linear_row(name)
        condition = ours_linear(load_case(f"nist_{name}")).condition_scaled
        print(f"{name:24s}|{_text(ours)}|{_text(peer)}|{condition:13.1e}")
    if WIDE:
        case = load_case("nist_filip")
        fit = ours_linear(case, np.longdouble)
        text = _text(score(case, fit.params, fit.bse(), float(np.sqrt(fit.s2 or 0.0))))
        print(f"{'filip, extended powers':24s}|{text}|{'':16s}|{fit.condition_scaled:13.1e}")
    print()
    programs = ["mlecov", "curve_fit", *(["lmfit"] if importlib.util.find_spec("lmfit") else [])]
    print(f"{'nonlinear problem':18s}{'start':8s}|" + "|".join(f"{program:^16s}" for program in programs))
    for name in problems(linear=False):
        for start in STARTS:
            row = nonlinear_row(name, start)
            print(
                f"{name:18s}{start:8s}|" + "|".join(_text(row[program]) for program in programs), flush=True
            )


if __name__ == "__main__":
    main()
