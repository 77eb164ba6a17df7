"""Separation: does a combination of regressors fit some outcomes perfectly, so that no maximum exists?

A direction d is one of separation when no term's log-likelihood falls along it, whatever the point,
and some terms' rise. For terms that are concave in a predictor that is a question about signs alone,

    z_i = sign_i x_i'd >= 0 for terms that may be pushed,   x_i'd = 0 for all others,

answered by one linear programme: maximise sum t_i with 0 <= t_i <= 1 and z_i >= t_i. t_i is one for
exactly the terms that can be fitted perfectly. A model that merely fits well has none.

Reference: Albert & Anderson (1984), Biometrika 71; Konis (2007), thesis, Oxford; for counts with
zeros Correia, Guimaraes & Zylkin (2020), Stata Journal 20.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlecov.errors import listing
from mlecov.kinds import Ordered
from mlecov.lazy import lazy
from mlecov.likelihood.base import Likelihood, Restricted
from mlecov.likelihood.index import IndexLikelihood
from mlecov.likelihood.index_scores import IndexScores
from mlecov.likelihood.scores import Scores

optimization = lazy("scipy.optimize")
sparse = lazy("scipy.sparse")

Array = npt.NDArray[np.float64]
Signs = npt.NDArray[np.int8]

FAR = 30.0
"""A predictor so large that a bounded log-likelihood is at its limit: exp(-30) is 1e-13."""

FLAT = 1e-6
"""Slope of a term in its predictor below which it may be one fitted perfectly."""

FORCED = 2
"""A sign that says: this term allows no move at all."""


@dataclass(frozen=True)
class Separation:
    """A direction along which the log-likelihood never falls: no maximum exists.

    `terms` are the positions of the terms fitted perfectly along it; `direction` (k,) is the sparsest
    found; `columns` names its entries that are not zero.
    """

    complete: bool
    terms: npt.NDArray[np.intp]
    n_terms: int
    direction: Array
    columns: tuple[str, ...]
    equation: str = ""

    @property
    def kind(self) -> str:
        """ "complete" or "quasi-complete"."""
        return "complete" if self.complete else "quasi-complete"

    def sentence(self) -> str:
        """Return what is separated by what, naming columns and terms."""
        share = "all" if self.complete else f"{len(self.terms)} of {self.n_terms}"
        what = self.columns[0] if len(self.columns) == 1 else f"a combination of {listing(self.columns, 6)}"
        return (
            f"{self.kind} separation: {what} fits the outcomes of {share} terms perfectly "
            f"(term(s) {listing(self.terms, 5)})"
        )


def separating_direction(rows: Array, signs: Signs) -> tuple[Array, npt.NDArray[np.intp]] | None:
    """Return a direction d (k,) and the terms with sign_i x_i'd > 0, or None where there is none.

    Parameters
    ----------
    rows : (n, k)
        The regressors of each term.
    signs : (n,)
        1: x'd may be positive; -1: negative; 0: either (no constraint); FORCED: x'd must be zero.

    Example
    -------
    >>> x = np.column_stack([np.ones(4), [1.0, 2.0, 3.0, 4.0]])
    >>> separating_direction(x, np.array([-1, -1, 1, 1], dtype=np.int8))[1]
    array([0, 1, 2, 3])
    >>> separating_direction(x, np.array([-1, 1, -1, 1], dtype=np.int8)) is None
    True
    """
    size = np.abs(rows).max(axis=0, initial=0.0)
    used = size > 0
    scaled = rows[:, used] / size[used]
    pushed = np.flatnonzero((signs == 1) | (signs == -1))
    if not len(pushed) or not used.any():
        return None
    z = scaled[pushed] * signs[pushed, None].astype(float)
    still = _basis(scaled[signs == FORCED])
    k, q = z.shape[1], len(pushed)
    # variables (d, t): t - z d <= 0
    matrix = sparse.hstack([sparse.csr_array(-z), sparse.eye_array(q)], format="csr")
    equal = None if still is None else sparse.hstack([still, sparse.csr_array((len(still), q))], format="csr")
    found = optimization.linprog(
        np.r_[np.zeros(k), -np.ones(q)],
        A_ub=matrix,
        b_ub=np.zeros(q),
        A_eq=equal,
        b_eq=None if still is None else np.zeros(len(still)),
        bounds=[(None, None)] * k + [(0.0, 1.0)] * q,
        method="highs",
    )
    if found.status != 0:
        return None
    chosen = found.x[k:] > 0.5
    if not chosen.any():
        return None
    sparsest = _sparsest(z, chosen, still, found.x[:k])
    direction = np.zeros(rows.shape[1])
    direction[used] = sparsest / size[used]
    return direction / np.abs(direction).max(), pushed[chosen]


def _basis(rows: Array) -> Array | None:
    """Return an orthonormal basis (r, k) of the row space of `rows`, or None where it is empty."""
    if not len(rows):
        return None
    _, values, right = np.linalg.svd(np.linalg.qr(rows, mode="r"), full_matrices=False)
    kept = values > 1e-10 * max(values.max(initial=0.0), 1e-300)
    return right[kept] if kept.any() else None


def _sparsest(z: Array, chosen: npt.NDArray[np.bool_], still: Array | None, fallback: Array) -> Array:
    """Return a direction with z d >= 1 for the chosen terms and few entries.

    Least sum of |d_j|, reweighted by 1 / |d_j| (Candes, Wakin & Boyd 2008).
    """
    k = z.shape[1]
    both = np.hstack([z, -z])
    d, weights = fallback, np.ones(k)
    for _ in range(4):
        found = optimization.linprog(
            np.r_[weights, weights],
            A_ub=-both,
            b_ub=-chosen.astype(float),
            A_eq=None if still is None else np.hstack([still, -still]),
            b_eq=None if still is None else np.zeros(len(still)),
            bounds=(0, None),
            method="highs",
        )
        if found.status != 0:
            break
        d = found.x[:k] - found.x[k:]
        size = np.abs(d) / np.abs(d).max()
        weights = 1 / (size + 1e-3)
    return np.asarray(np.where(np.abs(d) < 1e-7 * np.abs(d).max(), 0.0, d))


def find_separation(likelihood: Likelihood, theta: Array, scores: Scores | None = None) -> Separation | None:
    """Return the separation of a likelihood's outcomes, or None where there is none.

    `theta` (k,) is where the optimiser stopped; `scores` there spare an evaluation. Only where some
    terms are flat there is a programme solved; its answer does not depend on theta. For likelihoods
    that know no predictors the rows are those of the scores, and the direction is verified by
    evaluation.
    """
    stand_in = likelihood.stand_in()
    if (
        stand_in is not likelihood
    ):  # streamed: a sample in which every category occurs, at the theta of all terms
        likelihood, scores = stand_in, None
    base, matrix, origin = unrestricted(likelihood)
    if isinstance(base, IndexLikelihood):
        raw = matrix @ theta + origin
        cuts = [p.name for p in base.space if isinstance(p.kind, Ordered)]
        if cuts and base.model.separation(base.predictors(raw, 0, base.n_terms), base.columns) is not None:
            flat = likelihood.separation(theta) is not None
            return _by_cuts(likelihood, base, matrix, raw, cuts[0]) if flat else None
        if sum(equation.columns is not None for equation in base.equations) == 1:
            return _by_predictors(likelihood, base, matrix, raw, scores)
    return _by_scores(likelihood, theta, scores)


def unrestricted(likelihood: Likelihood) -> tuple[Likelihood, Array, Array]:
    """Return (base, R, r) with theta_base = R theta + r."""
    matrix, origin = np.eye(likelihood.space.k), np.zeros(likelihood.space.k)
    while isinstance(likelihood, Restricted):
        matrix, origin = likelihood.matrix @ matrix, likelihood.matrix @ origin + likelihood.origin
        likelihood = likelihood.base
    return likelihood, matrix, origin


def _by_predictors(
    likelihood: Likelihood, base: IndexLikelihood, matrix: Array, raw: Array, scores: Scores | None
) -> Separation | None:
    if not isinstance(scores, IndexScores):
        scores = base.evaluate(raw, order=1, scores=True).scores
    assert isinstance(scores, IndexScores)
    eta: Array | None = None
    for e, equation in enumerate(base.equations):
        if equation.columns is None or not (np.abs(scores.first[e]) < FLAT).any():
            continue
        eta = base.predictors(raw, 0, base.n_terms) if eta is None else eta
        signs = recession_signs(base, eta, e)
        flat = np.abs(scores.first[e]) < FLAT
        if not (flat & (np.abs(signs) == 1)).any():
            continue
        rows = base.design.dot(matrix[equation.start : equation.stop], equation)
        if base.weights is not None:
            signs = np.where(base.weights.values == 0, np.int8(0), signs).astype(np.int8)
        found = separating_direction(rows, signs)
        if found is not None and _rises(likelihood, matrix, raw, found[0]):
            return _named(likelihood, found, equation.name, complete=len(found[1]) == len(signs))
    return None


def recession_signs(likelihood: IndexLikelihood, eta: Array, e: int) -> Signs:
    """Return per term which way predictor e may run for ever without lowering the term (n,).

    Judged by the term itself far out on both sides, the other predictors held at eta (E, n).
    """
    signs = np.zeros(eta.shape[1], dtype=np.int8)
    with np.errstate(all="ignore"):
        here = likelihood.model.derivatives(eta, likelihood.columns, 0)[0]
        able = {}
        for sign in (1, -1):
            far = eta.copy()
            far[e] = sign * np.maximum(FAR, np.abs(eta[e]))
            value, first, _ = likelihood.model.derivatives(far, likelihood.columns, 1)
            assert first is not None
            able[sign] = (sign * first[e] >= -FLAT) & (value >= here - FLAT) & np.isfinite(value)
    signs[able[1]] = 1
    signs[able[-1]] = -1
    signs[able[1] & able[-1]] = 0
    signs[~able[1] & ~able[-1]] = FORCED
    return signs


def _rises(likelihood: Likelihood, matrix: Array, raw: Array, direction: Array) -> bool:
    """Tell whether the log-likelihood does not fall along the direction (terms may not be concave).

    The last step is as long as the curvature here says would cost 100: at a maximum it does, whatever
    the units; along a separating direction there is no curvature and nothing to lose.
    """
    base = likelihood.unrestricted
    move = matrix @ direction
    here = base.evaluate(raw, order=2)
    low = here.loglike
    noise = 1e-9 * max(abs(low), 1.0)
    bend = float(move @ here.information @ move)
    lengths = (1.0, 10.0) if bend <= 0 else (1.0, 10.0, np.sqrt(200 / bend))
    for length in lengths:
        value = base.evaluate(raw + length * move).loglike
        if np.isfinite(value) and value < low - noise:
            return False
    return True


def _by_cuts(
    likelihood: Likelihood, base: IndexLikelihood, matrix: Array, raw: Array, name: str
) -> Separation | None:
    """Ordered outcomes: P(y <= j) = F(c_j - x'b) is two binary outcomes, one at each cut beside y."""
    y = base.columns["y"].astype(np.intp)
    cuts = base.space[name].kind.n_free
    equation = base.equations[0]
    design = base.design.dot(matrix[equation.start : equation.stop], equation)
    parts = []
    for sign, cut in ((-1.0, y), (1.0, y - 1)):
        inside = np.flatnonzero((cut >= 0) & (cut < cuts))
        at = -np.eye(cuts)[cut[inside]]
        parts.append((inside, sign * np.hstack([design[inside], at])))
    rows = np.concatenate([part for _, part in parts])
    found = separating_direction(rows, np.ones(len(rows), dtype=np.int8))
    if found is None:
        return None
    strict = np.zeros(len(rows), dtype=bool)
    strict[found[1]] = True
    owner = np.concatenate([inside for inside, _ in parts])
    fitted = np.bincount(owner, ~strict, minlength=len(y)) == 0
    direction = found[0][: design.shape[1]]
    if not direction.any() or not fitted.any():
        return None
    return _named(likelihood, (direction, np.flatnonzero(fitted)), equation.name, complete=bool(fitted.all()))


def _by_scores(likelihood: Likelihood, theta: Array, scores: Scores | None) -> Separation | None:
    """The same by cutting planes: d separates where s_i(theta)'d >= 0 for all terms and every theta.

    Scores at a few points bound the directions; where one fails further out, the scores there are
    added. (For terms concave in theta the directions left are exactly those of separation.)
    """
    if scores is None:
        scores = likelihood.evaluate(theta, order=1, scores=True).scores
    assert scores is not None
    here = scores.to_dense()
    size = np.abs(here).max(axis=1)
    if likelihood.separation(theta) is None and not (size < FLAT * max(float(np.abs(here).max()), 1.0)).any():
        return None
    low = likelihood.evaluate(theta).loglike_obs
    assert low is not None
    rows = [_unit(here), *_score_rows(likelihood, [0.5 * theta, 0.0 * theta])]
    for _ in range(8):
        stacked = np.concatenate(rows)
        found = separating_direction(stacked, (np.abs(stacked).max(axis=1) > 0).astype(np.int8))
        if found is None:
            return None
        failed = []
        for length in (1.0, 10.0, 30.0):
            value = likelihood.evaluate(theta + length * found[0]).loglike_obs
            if value is None or not (value >= low - 1e-9 * np.maximum(np.abs(low), 1.0)).all():
                failed += [theta + length * found[0], length * found[0]]
        if not failed:
            terms = np.unique(found[1] % likelihood.n_terms)
            return _named(likelihood, (found[0], terms), "", complete=len(terms) == likelihood.n_terms)
        rows += _score_rows(likelihood, failed)
    return None


def _score_rows(likelihood: Likelihood, points: list[Array]) -> list[Array]:
    """Return the scores (n, k) at points where they are finite, each row scaled to largest entry one."""
    found = []
    for point in points:
        scores = likelihood.evaluate(point, order=1, scores=True).scores
        assert scores is not None
        dense = scores.to_dense()
        if np.isfinite(dense).all():
            found.append(_unit(dense))
    return found


def _unit(rows: Array) -> Array:
    size = np.abs(rows).max(axis=1, keepdims=True)
    return np.asarray(rows / np.where(size > 0, size, 1.0))


def _named(
    likelihood: Likelihood, found: tuple[Array, npt.NDArray[np.intp]], equation: str, complete: bool
) -> Separation:
    direction, terms = found
    names = likelihood.space.free_labels
    order = np.argsort(-np.abs(direction), kind="stable")
    columns = tuple(names[j] for j in order if direction[j])
    return Separation(complete, terms, likelihood.n_terms, direction, columns, equation)
