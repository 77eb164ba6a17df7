"""Two-step estimation: a second likelihood given the estimates of a first (Murphy & Topel 1985)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.sandwich import assemble, estimator, observed_factor
from mlecov.covariance.specbase import Spec, refuse_factor
from mlecov.covariance.specs import FACTORIES
from mlecov.errors import CovarianceError, SpecificationError, listing
from mlecov.joint.stacked import EstimatingEquations, block_diagonal
from mlecov.joint.terms import join
from mlecov.kinds import Estimated
from mlecov.likelihood.base import Evaluation, Facts, Likelihood, Restricted
from mlecov.linalg import factor, symmetrize
from mlecov.optimize.maximize import maximize
from mlecov.optimum import Optimum
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

FIRST_KNOWN = "it would take the first step's estimates for known numbers"


@dataclass(frozen=True)
class MurphyTopel(Spec):
    """Covariance of a two-step estimate under both models (Murphy & Topel 1985)."""

    name = "murphy-topel"


@estimator(MurphyTopel)
def murphy_topel(optimum: Optimum, spec: MurphyTopel) -> Covariance:
    """Return the Murphy-Topel covariance; see `two_step`."""
    likelihood = optimum.likelihood
    matrix = likelihood.model_covariance if isinstance(likelihood, EstimatingEquations) else None
    if matrix is None:
        raise CovarianceError("'murphy-topel' is the covariance of a two-step fit: two_step(first, second).")
    return assemble(optimum, matrix, "Murphy-Topel (1985), observed information of both steps", spec.column)


def _factory(small_sample: str) -> Spec:
    refuse_factor("murphy-topel", small_sample)
    return MurphyTopel()


FACTORIES["murphy-topel"] = _factory


def two_step(
    first: Optimum,
    second: Likelihood,
    *,
    constraints: str | Sequence[str] = (),
    fixed: Mapping[str, Any] | None = None,
    **options: Any,
) -> Optimum:
    """Maximise a second likelihood given the estimates of a first, with covariances that know it.

    Parameters of `second` declared `estimated("beta")` take the value of the first's parameter `beta`
    (or entry `mu[x]`; "params": all). With C = d2 l2 / d theta2 d beta' (of the second, unrestricted),
    beta = b(theta1), V_b = J I_1^-1 J', R = sum s_2i s_1i' over the terms that both have,

        Murphy-Topel:  I_2^-1 + I_2^-1 [ C V_b C' + R I_1^-1 J' C' + C J I_1^-1 R' ] I_2^-1
        robust:        I_2^-1 [ sum a_i a_i' ] I_2^-1,   a_i = s_2i + C J I_1^-1 s_1i

    The robust form is the sandwich of both steps' scores as one set of estimating equations; it may be
    clustered, HAC, .... params holds the second's parameters, those estimated before with the
    covariance V_b of the first step (in the robust form, its sandwich).

    Raises
    ------
    SpecificationError
        Where `second` declares no estimated parameter, or shapes do not fit the first's.

    References
    ----------
    Murphy & Topel (1985); Newey & McFadden (1994), section 6; Hardin (2002) for the robust form.
    """
    if isinstance(second, Restricted):
        raise SpecificationError(
            "give constraints to two_step(..., constraints=), not to the second likelihood."
        )
    places, values, jacobian = _from_first(first.likelihood.space, first.theta, second.space)
    inner = maximize(second, constraints=constraints, fixed={**(fixed or {}), **values}, **options)
    assert isinstance(inner.likelihood, Restricted)
    matrix = inner.likelihood.matrix
    if np.any(matrix[places] != 0):
        raise SpecificationError("constraints must not involve parameters of the first step.")
    full = inner.likelihood.full(inner.theta)
    hessian = second.evaluate(full, order=2).hessian
    assert hessian is not None
    pieces = _Pieces(
        matrix.T @ hessian[:, places],
        jacobian,
        observed_factor(first).inverse,
        observed_factor(inner).inverse,
    )
    return _two_step_optimum(first, inner, second, places, full, pieces)


@dataclass(frozen=True)
class _Pieces:
    """C (k2, d), J (d, k1), I_1^-1 (k1, k1), I_2^-1 (k2, k2)."""

    cross: Array
    jacobian: Array
    first: Array
    second: Array

    @property
    def earlier(self) -> Array:
        """V_b = J I_1^-1 J' (d, d)."""
        return symmetrize(self.jacobian @ self.first @ self.jacobian.T)

    def score_map(self, inverse: Array) -> Array:
        """Return T (k1 + k2, d + k2): joint scores @ T are those of beta and the corrected ones."""
        moved = self.first @ self.jacobian.T
        k2 = len(self.second)
        bottom = np.hstack([np.zeros((k2, len(self.jacobian))), np.eye(k2)])
        return np.vstack([np.hstack([moved @ inverse, moved @ self.cross.T]), bottom])

    def model_based(self, product: Array) -> Array:
        """Return Murphy and Topel's covariance (d + k2, d + k2); `product` is R (k2, k1)."""
        early = self.earlier
        mixed = product @ self.first @ self.jacobian.T
        inner = self.cross @ early @ self.cross.T + mixed @ self.cross.T + self.cross @ mixed.T
        late = self.second + self.second @ inner @ self.second
        between = self.second @ (mixed + self.cross @ early)
        return symmetrize(np.block([[early, between.T], [between, late]]))


def _from_first(
    space: ParameterSpace, theta: Array, second: ParameterSpace
) -> tuple[Codes, dict[str, Array], Array]:
    """Return raw places (d,) of the estimated parameters, their values, and d beta / d theta1 (d, k1)."""
    reported, jacobian = space.report(theta), space.jacobian(theta)
    places: list[int] = []
    rows: list[int] = []
    values: dict[str, Array] = {}
    for p in second:
        if not isinstance(p.kind, Estimated):
            continue
        entries = _entries(space, p.kind.name)
        if len(entries) != p.kind.n_free:
            raise SpecificationError(
                f"parameter {p.name!r} is declared with {p.kind.n_free} number(s); the first step's "
                f"{p.kind.name!r} has {len(entries)}: {listing(space.labels[i] for i in entries)}."
            )
        values[p.name] = reported[entries].reshape(p.kind.shape)
        places += range(p.free.start, p.free.stop)
        rows += list(entries)
    if not values:
        raise SpecificationError(
            "the second likelihood takes nothing from the first: declare estimated('beta', shape=...)."
        )
    return np.array(places, dtype=np.intp), values, jacobian[rows]


def _entries(space: ParameterSpace, name: str) -> list[int]:
    """Return the reported entries of a parameter, of one label, or of all ("params")."""
    for p in space:
        if p.name == name:
            return list(range(p.reported.start, p.reported.stop))
    if name in space.labels:
        return [space.labels.index(name)]
    if name == "params":
        return list(range(space.m))
    known = [*(p.name for p in space), *space.labels]
    raise SpecificationError(f"the first step has no parameter {name!r}; it has {listing(known, 20)}.")


def _two_step_optimum(
    first: Optimum, inner: Optimum, second: Likelihood, places: Codes, full: Array, pieces: _Pieces
) -> Optimum:
    early = pieces.earlier
    names = [second.space.raw_labels[i] for i in places]
    inverse = factor(early, names, "the covariance of the first step's estimates").inverse
    joined, rows = join([first, inner])
    k1 = first.likelihood.space.k
    product = joined.gram(power=1)[k1:, :k1]
    assert isinstance(inner.likelihood, Restricted)
    columns = np.hstack([np.eye(second.space.n_raw)[:, places], inner.likelihood.matrix])
    order = np.argsort(np.argmax(columns != 0, axis=0), kind="stable")
    columns = columns[:, order]
    space = second.space
    if not np.array_equal(columns, np.eye(space.n_raw)):
        origin = inner.likelihood.origin.copy()
        origin[places] = 0.0
        own = [text for text in inner.likelihood.texts if not _names_one(text, second.space)]
        space = space.restrict(columns, origin, own)
    theta = np.concatenate([full[places], inner.theta])[order]
    information = block_diagonal([inverse, inner.evaluation.information])[np.ix_(order, order)]
    scores = joined.map(pieces.score_map(inverse)[:, order])
    known = Evaluation(theta, inner.evaluation.loglike, np.zeros(len(theta)), -information, scores)
    likelihood = EstimatingEquations(
        space,
        rows,
        joined.weights,
        Facts(
            f"{second.facts.name}, second step after {first.likelihood.facts.name}",
            second.facts.engine,
            second.facts.outcome,
        ),
        known,
        joined.n_terms,
        refusals=dict.fromkeys(("oim", "eim", "opg", "bw"), FIRST_KNOWN),
        model_covariance=pieces.model_based(product)[np.ix_(order, order)],
    )
    return Optimum(likelihood, theta, known, inner.record)


def _names_one(text: str, space: ParameterSpace) -> bool:
    """Tell whether a restriction is the fixing of an estimated parameter, which is none of the user's."""
    return any(isinstance(p.kind, Estimated) and text.startswith(f"{p.name} = ") for p in space)
