"""check_derivatives(): analytic against automatic against differences, parameter by parameter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlecov import autodiff
from mlecov.errors import SpecificationError
from mlecov.likelihood.base import Likelihood, Restricted
from mlecov.likelihood.general import AnalyticEngine, AutodiffEngine, Call, GeneralLikelihood
from mlecov.likelihood.traced import extrapolate
from mlecov.rendering import Display, Group, number

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DerivativeCheck:
    """Gradients (k,) and Hessian diagonals (k,) by each way that is possible, and the verdicts."""

    names: tuple[str, ...]
    gradients: dict[str, Array]
    curvatures: dict[str, Array]
    verdicts: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all ways agree for every parameter."""
        return all(verdict == "agree" for verdict in self.verdicts)

    def display(self) -> Display:
        """Return the check as a table."""
        ways = list(self.gradients)
        groups = []
        for title, table in (("gradient", self.gradients), ("diagonal of the Hessian", self.curvatures)):
            rows = [
                (name, *(number(float(table[way][j]), 9) for way in ways), self.verdicts[j])
                for j, name in enumerate(self.names)
            ]
            groups.append(Group(title, tuple(rows)))
        records = tuple(
            {"parameter": n, **{w: float(self.gradients[w][j]) for w in ways}, "verdict": self.verdicts[j]}
            for j, n in enumerate(self.names)
        )
        return Display(
            "derivatives of the log-likelihood", (), ("", *ways, "verdict"), tuple(groups), (), records
        )

    def __repr__(self) -> str:
        return self.display().text()

    def _repr_html_(self) -> str:
        return self.display().html()


def check_derivatives(
    likelihood: Likelihood, theta: Array | None = None, *, tolerance: float = 1e-6
) -> DerivativeCheck:
    """Compare the derivatives of a likelihood by every way that is possible, and say which is wrong.

    Parameters
    ----------
    likelihood :
        Any likelihood; its own derivatives stand under the name of its engine.
    theta :
        (k,) where to compare; default: near the start, never at it.
    tolerance :
        Largest relative difference that counts as agreement.

    Returns
    -------
    DerivativeCheck
        Prints as a table: parameter by parameter, the gradient and the Hessian's diagonal by the
        likelihood's own way ("closed form", "analytic", "autodiff"), by JAX where the function can
        be traced, and by extrapolated differences; and a verdict.
    """
    if theta is None:
        rng = np.random.default_rng(7)
        start = likelihood.start()
        theta = start + 0.05 * rng.standard_normal(len(start)) * np.maximum(np.abs(start), 0.2)
    evaluation = likelihood.evaluate(theta, order=2)
    if not np.isfinite(evaluation.loglike):
        raise SpecificationError("the log-likelihood is not finite there; give theta= inside the support.")
    assert evaluation.gradient is not None and evaluation.hessian is not None
    own = likelihood.facts.engine.removeprefix("index, ")
    gradients = {own: evaluation.gradient}
    curvatures = {own: np.diag(evaluation.hessian)}
    traced = _traced(likelihood)
    if traced is not None and own == "analytic":
        found = traced.evaluate(theta, order=2)
        assert found.gradient is not None and found.hessian is not None
        gradients["autodiff"], curvatures["autodiff"] = found.gradient, np.diag(found.hessian)
    gradients["differences"], curvatures["differences"] = _differences(likelihood, theta)
    verdicts = tuple(
        _verdict(
            own, {w: (g[j], curvatures[w][j]) for w, g in gradients.items()}, tolerance, gradients, curvatures
        )
        for j in range(len(theta))
    )
    return DerivativeCheck(likelihood.space.free_labels, gradients, curvatures, verdicts)


def _traced(likelihood: Likelihood) -> Likelihood | None:
    """Return the likelihood with JAX's derivatives in place of the user's, where it can be traced."""
    if isinstance(likelihood, Restricted):
        base = _traced(likelihood.base)
        return None if base is None else replace(likelihood, base=base)
    if not isinstance(likelihood, GeneralLikelihood) or not isinstance(likelihood.engine, AnalyticEngine):
        return None
    call: Call = likelihood.engine.call
    raw = likelihood.start()
    jnp = autodiff.jnp()
    if not autodiff.traceable(lambda u: call(u, likelihood.columns, jnp, likelihood.count), raw):
        return None
    return replace(likelihood, engine=AutodiffEngine(call))


def _differences(likelihood: Likelihood, theta: Array) -> tuple[Array, Array]:
    """Return gradient and Hessian diagonal by extrapolated differences of the log-likelihood."""
    value = likelihood.evaluate(theta).loglike
    gradient, curvature = np.empty(len(theta)), np.empty(len(theta))
    for j in range(len(theta)):
        step = 0.1 * max(abs(theta[j]), 1.0)
        while not np.isfinite([_at(likelihood, theta, j, s * step) for s in (1, -1)]).all() or (
            abs(_at(likelihood, theta, j, step) - value) > 5 and step > 1e-10
        ):
            step /= 2

        def slope(h: float, j: int = j, step: float = step) -> Array:
            up, down = _at(likelihood, theta, j, h * step), _at(likelihood, theta, j, -h * step)
            return np.array((up - down) / (2 * h * step))

        def bend(h: float, j: int = j, step: float = step) -> Array:
            up, down = _at(likelihood, theta, j, h * step), _at(likelihood, theta, j, -h * step)
            return np.array((up - 2 * value + down) / (h * step) ** 2)

        gradient[j] = float(extrapolate(slope, 1.0))
        curvature[j] = float(extrapolate(bend, 1.0, levels=5))
    return gradient, curvature


def _at(likelihood: Likelihood, theta: Array, j: int, move: float) -> float:
    moved = np.array(theta)
    moved[j] += move
    return likelihood.evaluate(moved).loglike


def _verdict(
    own: str,
    found: dict[str, tuple[float, float]],
    tolerance: float,
    gradients: dict[str, Array],
    curvatures: dict[str, Array],
) -> str:
    """Return "agree", or which way is wrong and how."""
    truth = "autodiff" if "autodiff" in found and own != "autodiff" else "differences"
    size = max(abs(found[truth][0]), 1e-3 * float(np.abs(gradients[truth]).max()), 1e-8)
    bend = max(abs(found[truth][1]), 1e-3 * float(np.abs(curvatures[truth]).max()), 1e-8)
    # Differences carry about half the digits in the second derivative.
    loose = tolerance if truth == "autodiff" else max(tolerance, 1e-4)
    if abs(found[own][0] - found[truth][0]) > tolerance * size:
        if abs(found[own][0] + found[truth][0]) <= tolerance * size:
            return f"{own} gradient has the wrong sign"
        return f"{own} gradient is wrong"
    if abs(found[own][1] - found[truth][1]) > loose * bend:
        if abs(found[own][1] + found[truth][1]) <= loose * bend:
            return f"{own} Hessian has the wrong sign"
        return f"{own} Hessian is wrong"
    return "agree"
