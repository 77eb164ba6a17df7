"""Is the model right? White's information-matrix test in its forms, and the information ratio."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import ConvergenceWarning, InferenceError, MlecovError, SpecificationError
from mlecov.inference.indicators import (
    Indicators,
    Pairs,
    Quadratic,
    choose_pairs,
    indicator_rows,
    indicator_slope,
    pair_labels,
    quadratic_form,
    require_enough,
    require_plain_weights,
)
from mlecov.inference.results import Shown
from mlecov.lazy import lazy
from mlecov.linalg import factor
from mlecov.optimize.maximize import maximize
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number, pvalue

linear_algebra = lazy("scipy.linalg")

Array = npt.NDArray[np.float64]
Statistic = Callable[[Optimum], float]

LARGE = 2000
"""Terms from which on asymptotic p-values of the information-matrix test are reported."""

FORMS = {
    "white": "White's form (third derivatives)",
    "opg": "Chesher-Lancaster outer-product form (n R^2)",
}


@dataclass(frozen=True)
class BootstrapP:
    """A parametric bootstrap's p-value: (1 + number of draws at least as extreme) / (R + 1)."""

    pvalue: float
    draws: Array
    failures: int
    seed: int


@dataclass(frozen=True, eq=False, repr=False)
class InformationMatrixTest(Shown):
    """An information-matrix test.

    `pvalue` is the one to report: the bootstrap's where there is one, else the asymptotic. `totals`
    (q,) are the sums of the indicators, `std_errors` (q,) their own (NaN where an indicator depends
    on the scores alone), `kept` the indicators in the statistic.
    """

    name: str
    form: str
    statistic: float
    df: int
    p_asymptotic: float
    bootstrap: BootstrapP | None
    labels: tuple[str, ...]
    totals: Array
    std_errors: Array
    kept: npt.NDArray[np.intp]
    n_terms: int
    ratio: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def pvalue(self) -> float:
        """The p-value to report."""
        return self.p_asymptotic if self.bootstrap is None else self.bootstrap.pvalue

    def display(self) -> Display:
        """Return the test as a table of its indicators."""
        facts = [(f"chi2({self.df})", number(self.statistic))]
        if self.ratio is not None:
            facts.insert(0, ("tr(I^-1 S'S) / k", number(self.ratio)))
        if self.bootstrap is None:
            facts.append(("P > chi2, asymptotic", pvalue(self.p_asymptotic)))
        else:
            facts.append((f"P, bootstrap ({len(self.bootstrap.draws)} draws)", pvalue(self.bootstrap.pvalue)))
        rows = tuple(
            (
                label,
                number(self.totals[i]),
                number(self.std_errors[i]),
                _z(self.totals[i], self.std_errors[i]),
            )
            for i, label in enumerate(self.labels[:60])
        )
        record = {
            "test": self.name,
            "form": self.form,
            "statistic": self.statistic,
            "df": self.df,
            "p_value": self.pvalue,
            "p_asymptotic": self.p_asymptotic,
            "p_bootstrap": None if self.bootstrap is None else self.bootstrap.pvalue,
        }
        header = ("indicator", "sum", "std. err.", "z")
        notes = (f"{self.form}.", *self.notes)
        return Display(f"{self.name} test", tuple(facts), header, (Group("", rows),), notes, (record,))


def _z(total: float, error: float) -> str:
    return f"{total / error:.3f}" if np.isfinite(error) and error > 0 else ""


def information_matrix_test(
    optimum: Optimum,
    form: str = "white",
    indicators: Indicators = "diagonal",
    *,
    bootstrap: bool | None = None,
    replications: int = 199,
    seed: int = 0,
) -> InformationMatrixTest:
    """Test the information-matrix equality E[H_i + s_i s_i'] = 0, which holds where the model is right.

        T = 1'M (M'M)^- M'1,   M_i = d_i + G I^-1 s_i       "white"
                               M_i = residual of d_i on s_i  "opg" (n R^2 of a row of ones on s, d)

    with d_i the chosen entries of H_i + s_i s_i' (n, q) and G the slope of their sum in theta (q, k),
    which holds third derivatives. T is chi2 with the rank of M (pivoted QR) as degrees of freedom.

    Parameters
    ----------
    form :
        "white", "opg", or "cameron-trivedi" (the decomposition for Gaussian regressions; see
        `cameron_trivedi`).
    indicators :
        "diagonal", "all", or names: ["a", ("a", "b")].
    bootstrap :
        Whether the p-value is by parametric bootstrap (Horowitz 1994). None: below 2,000 terms where
        the model can be simulated. The asymptotic p-values reject far too often in small samples.
    replications, seed :
        Draws of the bootstrap.

    Raises
    ------
    InferenceError
        For more than 500 indicators, weights that are no frequencies, unknown names, or
        bootstrap=True where the model can not be simulated.

    Reference: White (1982), Econometrica 50; Chesher (1983), Lancaster (1984); Horowitz (1994),
    Journal of Econometrics 61.
    """
    if form not in FORMS:
        hint = " For the Cameron-Trivedi decomposition of a Gaussian regression use cameron_trivedi()."
        raise InferenceError(f"form={form!r} is not known; expected one of {', '.join(FORMS)}.{hint}")
    pairs = choose_pairs(optimum.likelihood.space, indicators)
    found = _statistic(optimum, form, pairs)
    again = _bootstrapped(
        optimum,
        lambda o: _statistic(o, form, pairs).statistic,
        found.statistic,
        bootstrap,
        replications,
        seed,
    )
    return InformationMatrixTest(
        "information-matrix",
        FORMS[form],
        found.statistic,
        found.df,
        float(special.chdtrc(found.df, found.statistic)),
        again,
        pair_labels(optimum.likelihood.space, pairs),
        found.totals,
        found.std_errors,
        found.kept,
        optimum.likelihood.n_terms,
        notes=_notes(optimum, again, found, len(pairs)),
    )


def _statistic(optimum: Optimum, form: str, pairs: Pairs) -> Quadratic:
    weights = require_plain_weights(optimum.likelihood, "the information-matrix test")
    require_enough(optimum.likelihood.n_obs, len(pairs), pair_labels(optimum.likelihood.space, pairs))
    rows, scores = indicator_rows(optimum, pairs)
    sizes = np.sqrt(weights @ rows**2)
    sizes = np.where(sizes > 0, sizes, 1.0)
    names = optimum.likelihood.space.free_labels
    if form == "opg":
        gram = factor(scores.T @ (scores * weights[:, None]), names, "the outer product of gradients")
        adjusted = rows - scores @ gram.solve(scores.T @ (rows * weights[:, None]))
    else:
        slope = indicator_slope(optimum)[:, pairs[:, 0], pairs[:, 1]]
        bread = factor(optimum.evaluation.information, names, "the observed information")
        adjusted = rows + scores @ bread.solve(slope)
    return quadratic_form(adjusted, weights, sizes)


def _notes(optimum: Optimum, again: BootstrapP | None, found: Quadratic, q: int) -> tuple[str, ...]:
    notes = []
    if found.df < q:
        notes.append(
            f"{q - found.df} of {q} indicators depend on the scores or on each other and were left out."
        )
    if again is not None:
        notes.append(
            "The p-value is by parametric bootstrap: the model simulated at its estimates and fitted again."
        )
        if again.failures:
            notes.append(f"{again.failures} draws could not be fitted and were replaced.")
    elif optimum.likelihood.n_terms < LARGE:
        notes.append(
            f"With {optimum.likelihood.n_terms} terms the asymptotic p-value rejects a right model far too "
            "often; do not "
            "rest a conclusion on it. Give the likelihood simulate= for a bootstrap."
        )
    return tuple(notes)


def can_simulate(optimum: Optimum) -> bool:
    """Tell whether outcomes can be drawn from the likelihood."""
    try:
        optimum.likelihood.simulate(np.random.default_rng(0), optimum.theta)
    except SpecificationError:
        return False
    return True


def _bootstrapped(
    optimum: Optimum,
    statistic: Statistic,
    observed: float,
    wanted: bool | None,
    replications: int,
    seed: int,
) -> BootstrapP | None:
    if wanted is False or (wanted is None and optimum.likelihood.n_terms >= LARGE):
        return None
    if not can_simulate(optimum):
        if wanted:
            raise InferenceError(
                f"{optimum.likelihood.facts.name} can not be simulated, so the test can not be bootstrapped. "
                "Give "
                "likelihood(..., simulate=function(rng, ...) -> {outcome: values})."
            )
        return None
    return parametric_bootstrap(optimum, statistic, observed, replications, seed)


def parametric_bootstrap(
    optimum: Optimum, statistic: Statistic, observed: float, replications: int = 199, seed: int = 0
) -> BootstrapP:
    """Return the p-value of a statistic by simulating the model at its estimates and fitting again.

    A draw that can not be fitted (separated, not converged) is replaced by another and counted.

    Raises
    ------
    InferenceError
        Where more draws fail than succeed.
    """
    if replications < 19:
        raise InferenceError(
            f"replications={replications}: expected at least 19, so that p can be as small as 0.05."
        )
    rng = np.random.default_rng(seed)
    draws: list[float] = []
    failures = 0
    while len(draws) < replications:
        drawn = optimum.likelihood.simulate(rng, optimum.theta)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", ConvergenceWarning)
                again = maximize(drawn, start=optimum.theta, check=False, progress=False)
                draws.append(statistic(again))
        except (MlecovError, ConvergenceWarning) as error:
            failures += 1
            if failures > replications:
                raise InferenceError(
                    f"{failures} of {failures + len(draws)} draws from {optimum.likelihood.facts.name} could "
                    "not be "
                    f"fitted, the last because: {error}"
                ) from error
    values = np.array(draws)
    extreme = int((values >= observed * (1 - 1e-12)).sum())
    return BootstrapP((1 + extreme) / (replications + 1), values, failures, seed)


def information_ratio_test(
    optimum: Optimum, *, bootstrap: bool | None = None, replications: int = 199, seed: int = 0
) -> InformationMatrixTest:
    """Test that the information ratio tr(I^-1 S'S) / k is one: one indicator for the whole matrix.

        k (ratio - 1) = sum_i tr(I^-1 (H_i + s_i s_i')),   chi2(1) once squared and studentised

    The indicator's variance allows for the estimation of theta (third derivatives), as in White's form.

    Reference: Zhou, Song & Thompson (2015), Journal of the American Statistical Association 110;
    Golden, Henley, White & Kashner (2016), Econometrics 4.
    """
    found, ratio = _ratio(optimum)

    def distance(at: Optimum) -> float:
        return _ratio(at)[0].statistic

    again = _bootstrapped(optimum, distance, found.statistic, bootstrap, replications, seed)
    return InformationMatrixTest(
        "information-ratio",
        "one indicator, tr(I^-1 (H + s s')), variance with third derivatives",
        found.statistic,
        1,
        float(special.chdtrc(1, found.statistic)),
        again,
        ("tr(I^-1 (H + s s'))",),
        found.totals,
        found.std_errors,
        found.kept,
        optimum.likelihood.n_terms,
        ratio,
        _notes(optimum, again, found, 1),
    )


def _ratio(optimum: Optimum) -> tuple[Quadratic, float]:
    likelihood = optimum.likelihood
    weights = require_plain_weights(likelihood, "the information-ratio test")
    k = likelihood.space.k
    bread = factor(optimum.evaluation.information, likelihood.space.free_labels, "the observed information")
    pairs = np.array([(i, j) for i in range(k) for j in range(i, k)], dtype=np.intp)
    share = bread.inverse[pairs[:, 0], pairs[:, 1]] * np.where(pairs[:, 0] == pairs[:, 1], 1.0, 2.0)
    total = np.zeros(likelihood.n_terms)
    scores = np.zeros((0, k))
    for start in range(0, len(pairs), 64):
        rows, scores = indicator_rows(optimum, pairs[start : start + 64])
        total += rows @ share[start : start + 64]
    slope = np.einsum("uij,ij->u", indicator_slope(optimum), bread.inverse)
    adjusted = (total + scores @ bread.solve(slope))[:, None]
    size = np.array([math.sqrt(float(weights @ total**2)) or 1.0])
    assert optimum.evaluation.scores is not None
    ratio = float(np.sum(bread.inverse * optimum.evaluation.scores.gram(power=1)) / k)
    return quadratic_form(adjusted, weights, size), ratio
