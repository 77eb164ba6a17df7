"""Stacked fits (suest): one sandwich for the parameters of several fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError, listing
from mlecov.joint.terms import join
from mlecov.likelihood.base import Evaluation, Facts
from mlecov.likelihood.known import KnownLikelihood
from mlecov.optimum import Optimum, Record
from mlecov.parameters import ParameterSpace

Array = npt.NDArray[np.float64]

NO_LIKELIHOOD = (
    "a stack of fits is no likelihood, so it has neither an information matrix of its own nor an OPG"
)


@dataclass(frozen=True)
class EstimatingEquations(KnownLikelihood):
    """Equations solved by estimates: what stands for a likelihood after a stack or two steps."""

    refusals: Mapping[str, str] = field(default_factory=dict)
    model_covariance: Array | None = None

    @property
    def refused(self) -> Mapping[str, str]:
        return self.refusals


def stack(optima: Sequence[Optimum], names: Sequence[str]) -> Optimum:
    """Return several optima as one, with the joint robust covariance of all their parameters.

        V = blockdiag(I_1, I_2, ...)^-1 [ sum_i s_i s_i' ] blockdiag(...)^-1,   s_i = (s_1i, s_2i, ...)

    Parameters are labelled `name.label`. Terms are matched by index labels; the samples may overlap in
    part, or not at all.

    Raises
    ------
    SpecificationError
        For fewer than two fits, or names that are not distinct.

    Reference: Stata's `suest`; White (1982); Clogg, Petkova & Haritou (1995); Weesie (1999).
    """
    if len(optima) < 2:
        raise SpecificationError(f"stack takes two fits or more; got {len(optima)}.")
    if len(names) != len(optima) or len(set(names)) < len(names):
        raise SpecificationError(f"stack needs {len(optima)} distinct names; got {listing(names)}.")
    scores, rows = join(optima)
    space = _stacked_space([o.likelihood.space for o in optima], names)
    theta = np.concatenate([o.theta for o in optima])
    hessian = block_diagonal([-o.evaluation.information for o in optima])
    known = Evaluation(theta, float("nan"), scores.sum(), hessian, scores)
    refused = dict.fromkeys(("oim", "eim", "opg", "bw"), NO_LIKELIHOOD)
    likelihood = EstimatingEquations(
        space,
        rows,
        scores.weights,
        Facts(f"stack of {', '.join(names)}", "joint estimating equations"),
        known,
        scores.n_terms,
        refusals=refused,
    )
    return Optimum(likelihood, theta, known, _joint_record([o.record for o in optima], theta))


def _stacked_space(spaces: Sequence[ParameterSpace], names: Sequence[str]) -> ParameterSpace:
    kinds = {f"{n}.{p.name}": p.kind for n, s in zip(names, spaces, strict=True) for p in s}
    space = ParameterSpace.of(kinds)
    if all(s.matrix is None for s in spaces):
        return space
    matrices = [np.eye(s.n_raw) if s.matrix is None else s.matrix for s in spaces]
    origins = [np.zeros(s.n_raw) if s.origin is None else s.origin for s in spaces]
    texts = [f"{n}: {text}" for n, s in zip(names, spaces, strict=True) for text in s.restrictions]
    return space.restrict(block_diagonal(matrices), np.concatenate(origins), texts)


def block_diagonal(blocks: Sequence[Array]) -> Array:
    """Return the block diagonal matrix of square blocks."""
    total = np.zeros((sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks)))
    row = column = 0
    for block in blocks:
        total[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return total


def _joint_record(records: Sequence[Record], theta: Array) -> Record:
    worst = max(records, key=lambda r: (not r.converged, r.decrement))
    return replace(
        worst,
        converged=all(r.converged for r in records),
        iterations=sum(r.iterations for r in records),
        evaluations=sum(r.evaluations for r in records),
        polished=all(r.polished for r in records),
        start=theta,
        steps=(),
    )
