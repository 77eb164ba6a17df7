"""The wild score bootstrap test: multipliers on the scores at the estimates under the null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mlecov.covariance.resampling import MULTIPLIERS
from mlecov.covariance.specbase import Label, choose, label_of
from mlecov.errors import CovarianceWarning, InferenceError, warn
from mlecov.inference.resample_weights import all_signs, generator, multipliers
from mlecov.inference.restricted import impose
from mlecov.inference.results import Shown
from mlecov.likelihood.base import Restricted
from mlecov.linalg import factor
from mlecov.optimum import Optimum
from mlecov.rendering import Display, Group, number, pvalue

Array = npt.NDArray[np.float64]

FEW_SIGNS = 6
"""Groups up to which patterns of signs are too few for a level of five per cent, or hardly more."""


@dataclass(frozen=True, eq=False, repr=False)
class WildTest(Shown):
    """A statistic with its distribution (R,) under multipliers; p is the share that lies beyond it."""

    statistic: float
    pvalue: float
    df: int
    hypotheses: tuple[str, ...]
    weights: str
    groups: int
    group: str
    enumerated: bool
    seed: int
    distribution: Array = field(repr=False)

    @property
    def reps(self) -> int:
        """Number of draws."""
        return len(self.distribution)

    def _shown(self) -> str:
        return pvalue(self.pvalue) if self.pvalue else f"<{1 / self.reps:.2g}"

    def display(self) -> Display:
        """Return the test as a table."""
        how = f"all {self.reps} sign vectors" if self.enumerated else f"{self.reps} draws, seed {self.seed}"
        row = ("; ".join(self.hypotheses), number(self.statistic), str(self.df), self._shown())
        record = {"hypothesis": row[0], "statistic": self.statistic, "df": self.df, "p_value": self.pvalue}
        return Display(
            "Wild score bootstrap test",
            (("multipliers", f"{self.weights}, {how}"), ("groups", f"{self.groups} ({self.group})")),
            ("null hypothesis", "statistic", "df", "P"),
            (Group("", (row,)),),
            ("P is the share of draws with a larger statistic; null imposed (Kline and Santos 2012).",),
            (record,),
        )


def wild_score_test(
    optimum: Optimum,
    hypothesis: str | Sequence[str],
    *,
    group: Label | None = None,
    reps: int = 999,
    weights: str = "rademacher",
    seed: int = 0,
) -> WildTest:
    """Test constraints by the score bootstrap with the null imposed (Stata's `boottest` after ML).

    With s_g and A the scores (summed by group) and the information at the estimates under the null,
    R its constraints, u_g = R A^-1 s_g, and N_g/N the groups' shares of the terms,

        T(v) = n' [ sum_g c_g c_g' ]^-1 n,   n = sum_g v_g u_g,   c_g = v_g u_g - N_g/N n

    T(1) is the statistic; p is the share of multiplier vectors v with T(v) > T(1), as in Stata's
    `boottest`: of few groups it can be zero, and a warning gives the share that ties count in. Nothing is
    fitted again but the null, once.

    Parameters
    ----------
    hypothesis :
        "mu[x1] = 0", or several: "a = b, c = 1". Linear on the unconstrained scale.
    group :
        Column name or array: a multiplier per group; default a multiplier per term.
    weights :
        rademacher (all 2^G sign vectors where these are no more than `reps`), webb, mammen, normal.

    Raises
    ------
    InferenceError
        With fewer groups than restrictions plus one.

    References
    ----------
    Kline & Santos (2012); Roodman, MacKinnon, Nielsen & Webb (2019).
    """
    choose("weights", weights, MULTIPLIERS)
    if reps < 1:
        raise InferenceError(f"reps={reps!r}: expected a whole number of draws, at least 1.")
    null = impose(optimum, hypothesis)
    assert isinstance(null.likelihood, Restricted)
    influence, shares = _influences(null, group)
    q, n_groups = influence.shape[1], len(influence)
    if n_groups <= q:
        raise InferenceError(f"{n_groups} group(s) can not test {q} restriction(s): more groups are needed.")
    enumerated = weights == "rademacher" and n_groups < 40 and 2**n_groups <= reps
    rng = generator(seed)
    statistic = float(_statistics(np.ones((1, n_groups)), influence, shares)[0])
    if enumerated:
        draws = _statistics(all_signs(n_groups), influence, shares)
    else:
        step = max(2_000_000 // (n_groups * q), 1)
        parts = [
            _statistics(multipliers(weights, rng, (min(step, reps - start), n_groups)), influence, shares)
            for start in range(0, reps, step)
        ]
        draws = np.concatenate(parts)
    beyond = draws > statistic * (1 + 1e-9)  # a draw of all signs alike ties with the sample
    if weights == "rademacher" and n_groups <= FEW_SIGNS:
        reached = float((draws >= statistic * (1 - 1e-9)).mean())
        warn(
            f"wild score test: {n_groups} groups have only {2 ** (n_groups - 1)} distinct patterns of signs. Draws "
            f"that equal the sample's own do not count towards P = {beyond.mean():.3g}; with them it is "
            f"{reached:.3g}, and no smaller P is possible than {2.0 ** (1 - n_groups):.3g}. Use weights='webb', "
            "or Cluster(..., type='CR2', df='satterthwaite').",
            CovarianceWarning,
        )
    texts = null.likelihood.space.restrictions[len(null.likelihood.base.space.restrictions) :]
    name = "terms" if group is None else label_of(group, "groups")
    return WildTest(
        statistic, float(beyond.mean()), q, tuple(texts), weights, n_groups, name, enumerated, seed, draws
    )


def _influences(null: Optimum, group: Label | None) -> tuple[Array, Array]:
    """Return u (G, q) = R A^-1 s_g under the null, and the groups' shares (G,) of the (weighted) terms."""
    assert isinstance(null.likelihood, Restricted)
    base = null.likelihood.base
    theta = null.likelihood.full(null.theta)
    found = base.evaluate(theta, order=2, scores=True)
    assert found.scores is not None
    matrix = null.likelihood.matrix
    rows = np.linalg.svd(matrix, full_matrices=True)[0][:, matrix.shape[1] :].T
    made = factor(found.information, base.space.free_labels, "the observed information under the null")
    direction = made.solve(rows.T)
    w = found.scores.term_weights()
    w = np.ones(found.scores.n_terms) if w is None else w
    if group is None:
        return found.scores.right(direction) * w[:, None], w / w.sum()
    codes, labels = base.rows.codes(group, "group")
    shares = np.bincount(codes, weights=w, minlength=len(labels)) / w.sum()
    return found.scores.group_sums(codes, len(labels)) @ direction, shares


def _statistics(v: Array, influence: Array, shares: Array) -> Array:
    """Return T (R,) for multipliers v (R, G)."""
    total = v @ influence
    parts = v[:, :, None] * influence - shares[:, None] * total[:, None, :]
    spread = np.einsum("rgp,rgq->rpq", parts, parts)
    with np.errstate(all="ignore"):
        if influence.shape[1] == 1:
            return np.asarray(total[:, 0] ** 2 / spread[:, 0, 0])
        return np.asarray(np.einsum("rp,rp->r", total, np.linalg.solve(spread, total[:, :, None])[:, :, 0]))
