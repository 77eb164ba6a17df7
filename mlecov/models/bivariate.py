"""Two binary outcomes with correlated normal errors: the bivariate probit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from mlecov.errors import SpecificationError
from mlecov.formulas import parse
from mlecov.functions import bvn_cdf, log_ndtr_derivatives
from mlecov.kinds import Kind, interval
from mlecov.likelihood.base import Evaluation
from mlecov.likelihood.index import Columns, IndexLikelihood, RowDerivatives
from mlecov.models.base import build, constant_outcome, least_squares_start, outside
from mlecov.models.bounds import FLAT, BoundedModel, bounded
from mlecov.models.predicted import Declared, OfRows

Array = npt.NDArray[np.float64]

FAR = 1e-5
"""Probability below which Owen's T (1e-15 absolutely) leaves too few digits: then in logs."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
PANELS = 8
PERFECT = 30.0
"""2 atanh |rho| from which rho counts as being at its bound (1 - |rho| is 2e-13)."""


def log_bivariate_cdf(x: Array, y: Array, rho: Array) -> Array:
    """Return log P(X <= x, Y <= y) (n,) of the standard bivariate normal, accurate in the tails."""
    with np.errstate(divide="ignore"):
        value = np.log(bvn_cdf(x, y, rho))
    far = np.flatnonzero(~(value > np.log(FAR)))
    if len(far):
        value[far] = _log_tail(x[far], y[far], rho[far])
    return np.asarray(value)


def _log_tail(x: Array, y: Array, rho: Array) -> Array:
    """Return the log of the integral over t <= x of phi(t) Phi((y - rho t) / root), by Gauss-Legendre.

    The log of the integrand is concave with curvature below -1, so its mass lies within 10 of the mode.
    """
    root = np.sqrt((1 - rho) * (1 + rho))
    mode = np.minimum(x, 0.0)
    for _ in range(60):
        _, first, second = log_ndtr_derivatives((y - rho * mode) / root, 2)
        slope = -mode - rho / root * first
        mode = np.minimum(mode + slope / (1 - (rho / root) ** 2 * second), x)
    high = np.minimum(x, mode + 10.0)
    # where the mode is the bound x, the integrand falls at least like exp(slope t) from there
    slope = -mode - rho / root * log_ndtr_derivatives((y - rho * mode) / root, 1)[1]
    width = high - mode + np.minimum(10.0, 50.0 / np.maximum(slope, 1e-3))
    nodes = high[:, None] - width[:, None] * _panels()[0]
    log_height = (
        -0.5 * nodes**2 + log_ndtr_derivatives((y[:, None] - rho[:, None] * nodes) / root[:, None], 0)[0]
    )
    top = log_height.max(axis=1)
    mass = np.exp(log_height - top[:, None]) @ _panels()[1]
    return np.asarray(top + np.log(mass * width) - 0.5 * np.log(2 * np.pi))


def _panels() -> tuple[Array, Array]:
    """Return the nodes and weights of PANELS Gauss-Legendre rules side by side on [0, 1]."""
    starts = np.arange(PANELS)[:, None] / PANELS
    return (starts + (NODES + 1) / (2 * PANELS)).ravel(), np.tile(WEIGHTS / (2 * PANELS), PANELS)


@dataclass(frozen=True)
class BivariateProbit(BoundedModel):
    """P(y, y2) = Phi2(q mu, q2 mu2; q q2 rho), q = 2y - 1; predictors (mu, mu2, logit of rho on (-1, 1))."""

    name = "bivariate_probit"
    equations: Mapping[str, Kind | None] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "equations", {"mu": None, "mu2": None, "rho": interval(-1, 1)})

    def check(self, y: Array, columns: Columns) -> str | None:
        for values, prefix in ((y, ""), (columns["y2"], "and the second outcome: ")):
            wrong = outside(values, (values == 0) | (values == 1), "0 or 1") or constant_outcome(values)
            if wrong is not None:
                return prefix + wrong
        return None

    def start(self, likelihood: IndexLikelihood) -> Array:
        """Return two linear probability models on the scale of the index; rho zero."""
        theta = likelihood.space.start()
        for equation, name in zip(likelihood.equations, ("y", "y2"), strict=False):
            response = 1.25 * (2.0 * likelihood.columns[name] - 1.0)
            alone = replace(likelihood, equations=(equation,))
            place = slice(equation.start, equation.stop)
            theta[place] = least_squares_start(alone, response)[place]
        return theta

    def derivatives(self, eta: Array, columns: Columns, order: int) -> RowDerivatives:
        sign, sign2 = 2 * columns["y"] - 1, 2 * columns["y2"] - 1
        both = sign * sign2
        rho = np.tanh(0.5 * eta[2])
        x, z, r = sign * eta[0], sign2 * eta[1], both * rho
        value = log_bivariate_cdf(x, z, r)
        if not order:
            return value, None, None
        # 1 - rho^2 without cancellation
        rest = 1.0 / np.cosh(0.5 * eta[2]) ** 2
        root = np.sqrt(rest)
        half_log = 0.5 * np.log(2 * np.pi)
        at_x = np.exp(-0.5 * x * x - half_log + special.log_ndtr((z - r * x) / root) - value)
        at_z = np.exp(-0.5 * z * z - half_log + special.log_ndtr((x - r * z) / root) - value)
        at_r = np.exp(-0.5 * ((x - r * z) ** 2 / rest + z * z) - 2 * half_log - 0.5 * np.log(rest) - value)
        slope = 0.5 * rest * both
        first = np.stack([sign * at_x, sign2 * at_z, slope * at_r])
        if order < 2:
            return value, first, None
        x_x = -at_x * (x + at_x) - r * at_r
        z_z = -at_z * (z + at_z) - r * at_r
        x_z = at_r - at_x * at_z
        x_r = at_r * (-(x - r * z) / rest - at_x)
        z_r = at_r * (-(z - r * x) / rest - at_z)
        r_r = at_r * (r / rest + (x - r * z) * (z - r * x) / rest**2 - at_r)
        return (
            value,
            first,
            np.stack(
                [
                    x_x,
                    both * x_z,
                    sign * slope * x_r,
                    z_z,
                    sign2 * slope * z_r,
                    slope * slope * r_r - 0.5 * rho * rest * both * at_r,
                ]
            ),
        )

    has_expected = True  # type: ignore[assignment]

    def expected(self, eta: Array, columns: Columns) -> Array:
        total = np.zeros((6, eta.shape[1]))
        for y in (0.0, 1.0):
            for y2 in (0.0, 1.0):
                there = {"y": np.full(eta.shape[1], y), "y2": np.full(eta.shape[1], y2)}
                value, _, second = self.derivatives(eta, there, 2)
                assert second is not None
                total += np.exp(value) * second
        return total

    def mean(self, eta: Array, columns: Columns) -> Array:
        """Return P(y = 1) of the first outcome."""
        return np.asarray(special.ndtr(eta[0]))

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: P(y = 1); probability: P(y = a, y2 = b), labelled ab."""
        labels = ("00", "01", "10", "11")
        return {"mean": OfRows(self.mean), "probability": OfRows(_joint, labels)}

    def simulate(self, rng: np.random.Generator, eta: Array, columns: Columns) -> dict[str, Array]:
        rho = np.tanh(0.5 * eta[2])
        u, v = rng.standard_normal((2, eta.shape[1]))
        second = rho * u + np.sqrt((1 - rho) * (1 + rho)) * v
        return {"y": (eta[0] + u > 0).astype(float), "y2": (eta[1] + second > 0).astype(float)}

    def separation(self, eta: Array, columns: Columns) -> npt.NDArray[np.bool_]:
        return np.asarray(np.expm1(self.derivatives(eta, columns, 0)[0]) > -1e-7)

    def boundary(self, likelihood: IndexLikelihood, evaluation: Evaluation) -> str | None:
        """Say where rho has run to plus or minus one."""
        end = evaluation.theta.copy()
        end[-1] = np.copysign(PERFECT, end[-1])
        beyond = abs(evaluation.theta[-1]) > PERFECT
        if not beyond and likelihood.evaluate(end).loglike <= evaluation.loglike - FLAT:
            return None
        return (
            f"rho is at its bound, {np.sign(end[-1]):+.0f}: the log-likelihood rises all the way there, as it does in "
            "small samples and where one outcome all but follows from the other. There is no interior "
            "maximum, and standard errors have no meaning; fix rho (fixed={'rho': 0.9}), or model one outcome "
            "given the other."
        )


def _joint(eta: Array, columns: Columns) -> Array:
    """Return P(y = a, y2 = b) (4, n), in the order 00, 01, 10, 11."""
    rho = np.tanh(0.5 * eta[2])
    signs = ((-1, -1), (-1, 1), (1, -1), (1, 1))
    return np.stack([np.exp(log_bivariate_cdf(a * eta[0], b * eta[1], a * b * rho)) for a, b in signs])


def bivariate_probit(
    formula: str, data: Any = None, *, second: str | None = None, **options: Any
) -> IndexLikelihood:
    """Return the likelihood of the bivariate probit model of two binary outcomes.

        y1 = 1[x1'b1 + e1 > 0],  y2 = 1[x2'b2 + e2 > 0],  (e1, e2) normal with correlation rho,
        log f = log Phi2(q1 x1'b1, q2 x2'b2; q1 q2 rho),  q = 2y - 1

    Coefficients are `mu[...]` and `mu2[...]`. Stata's `biprobit` estimates athrho = atanh rho; here
    the free coordinate is 2 athrho, and rho is reported. rho = 0 is two probits. `predict` knows
    "mean", P(y1 = 1), and "probability", P(y1 = a, y2 = b) ("probability[11]": Stata's p11).

    Parameters
    ----------
    formula, data, options :
        "y1 ~ x1 + x2" and a frame; outcomes are 0 or 1. See `models.base.build`.
    second :
        Formula of the second outcome, "y2 ~ x1 + x3".

    Reference: Greene (2018), section 17.9.

    >>> frame = {"a": np.array([0.0, 1, 1, 0]), "b": np.array([0.0, 1, 0, 1]), "x": np.arange(4.0)}
    >>> bivariate_probit("a ~ x", frame, second="b ~ 1").space.labels
    ('mu[Intercept]', 'mu[x]', 'mu2[Intercept]', 'rho')
    """
    parsed = parse(second) if isinstance(second, str) else None
    if parsed is None or parsed.left is None or second is None:
        raise SpecificationError(
            f"bivariate_probit: second={second!r}; expected the formula of the second outcome, "
            "'y2 ~ x1 + x2'."
        )
    right = second.split("~")[1]
    made = build(
        BivariateProbit(), formula, data, equations={"mu2": right}, columns={"y2": parsed.left}, **options
    )
    return bounded(made)
