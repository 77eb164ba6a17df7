"""The linear mixed model: Gaussian outcomes in units with random coefficients."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.data import open_table, screen, term_weights
from mlecov.errors import DataError, SpecificationError, listing
from mlecov.formulas import (
    Block,
    columns_used,
    evaluate,
    linear_kind,
    materialize,
    parse,
    rebuild,
    variables,
)
from mlecov.kinds import Kind, correlation, interval, positive
from mlecov.likelihood.base import Evaluation, Facts
from mlecov.models.bounds import runs
from mlecov.models.predicted import Declared, OfNames, OfSample, Sampled, of_params
from mlecov.models.whole import Columns, Derivatives, WholeLikelihood, WholeModel, least_squares
from mlecov.parameters import LinearTerms, ParameterSpace

Array = npt.NDArray[np.float64]
LOG_2PI = float(np.log(2 * np.pi))

SINGULAR = 1e-6
"""Smallest eigenvalue of the correlation matrix below which it is singular."""


@dataclass(frozen=True)
class _Solved:
    """What a unit's inverse covariance P = V^-1 makes of its residual r, by sufficient statistics.

    u = P r, t = P u; A = Z'PZ, A2 = Z'P^2 Z.
    """

    loglike: Array
    Xu: Array
    Zu: Array
    uu: Array
    Xt: Array
    Zt: Array
    ut: Array
    A: Array
    A2: Array
    XPX: Array
    XPZ: Array
    trace: Array
    trace2: Array


@dataclass(frozen=True)
class LinearMixed(WholeModel):
    """y_i = X_i b + Z_i c_i + e_i, c_i ~ N(0, G), e_i ~ N(0, sigma^2 I).

    Parameters: b, standard deviations and correlations of G, sigma.
    Columns are per unit: N, XX, XZ, ZZ, Xy, Zy, yy of the outcome less X b0 (so that sums of squares
    lose no digits).
    """

    p: int
    q: int
    b0: tuple[float, ...]
    random: tuple[str, ...]
    name = "linear_mixed"
    separable: ClassVar[bool] = True
    has_expected: ClassVar[bool] = True

    def _split(self, params: Array) -> tuple[Array, Array, Array, float]:
        """Return b - b0, standard deviations (q,), correlation matrix (q, q) and sigma."""
        p, q = self.p, self.q
        R = np.eye(q)
        below = self._below
        R[below] = R.T[below] = params[p + q : -1]
        return params[:p] - np.array(self.b0), params[p : p + q], R, float(params[-1])

    @property
    def _below(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Places of the correlations: below the diagonal, column by column."""
        columns, rows = np.triu_indices(self.q, 1)
        return rows, columns

    def _moves(self, s: Array, R: Array) -> tuple[Array, dict[tuple[int, int], Array]]:
        """Return dG by (sd, cor), (a, q, q), and the second derivatives that are not zero, for a <= b."""
        q, (rows, columns) = self.q, self._below
        first = np.zeros((q + len(rows), q, q))
        second: dict[tuple[int, int], Array] = {}
        for k in range(q):
            first[k, k] += R[k] * s
            first[k, :, k] += R[k] * s
            for l in range(k, q):  # noqa: E741
                move = np.zeros((q, q))
                move[k, l] += R[k, l]
                move[l, k] += R[k, l]
                second[k, l] = move
        for c, (i, j) in enumerate(zip(rows, columns, strict=True)):
            unit = np.zeros((q, q))
            unit[i, j] = unit[j, i] = 1.0
            first[q + c] = s[i] * s[j] * unit
            second[i, q + c], second[j, q + c] = s[j] * unit, s[i] * unit
        return first, second

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: x'b; effects: E(c_i | y), by unit; fitted: x'b + z'E(c_i | y); residual: y less that."""
        return {
            "mean": OfNames(lambda mu: mu, ("mu",)),
            "effects": OfSample(of_params(self._effects), self.random),
            "fitted": OfSample(self._fitted, index="rows", anew=True),
            "residual": OfSample(self._residual, index="rows"),
        }

    def at(self, likelihood: WholeLikelihood, data: Any) -> WholeLikelihood:
        """Return the likelihood, its units and sums, over new rows of those units.

        Raises
        ------
        DataError
            For units that the fit has not seen, and missing columns or values.
        """
        facts, old, table = likelihood.facts, likelihood.rows, open_table(data)
        blocks = {"mu": facts.extra["blocks"]["mu"], "random": facts.extra["random"]}
        used = {name for block in blocks.values() for name in columns_used(block.terms, table)}
        assert old.unit_name is not None and old.unit_labels is not None
        rows = screen(table, [*sorted(used), old.unit_name], "raise", old.unit_name)
        place = {label: i for i, label in enumerate(old.unit_labels.tolist())}
        labels = rows.raw(old.unit_name).tolist()
        unseen = [label for label in dict.fromkeys(labels) if label not in place]
        if unseen:
            raise DataError(
                f"linear_mixed: unit(s) {listing(unseen, 5)} of {old.unit_name!r} are not among those of the fit, so "
                "that their effects are not known; predict('mean') needs none."
            )
        codes = np.array([place[label] for label in labels], dtype=np.intp)
        rows = replace(rows, unit=codes, unit_labels=old.unit_labels)
        made = {name: rebuild(block, rows) for name, block in blocks.items()}
        extra = {**facts.extra, "blocks": {"mu": made["mu"]}, "random": made["random"]}
        return replace(likelihood, rows=rows, facts=replace(facts, extra=extra))

    def _posterior(self, params: Array, columns: Columns) -> tuple[Array, Array]:
        """Return the mean (n, q) and variance (n, q, q) of c_i given y_i: M Z'r and sigma^2 M,
        M = G (sigma^2 I + Z'Z G)^-1.
        """
        d, s, R, sigma = self._split(params)
        G, ZZ = s[:, None] * R * s, columns["ZZ"]
        inner = np.swapaxes(sigma**2 * np.eye(self.q) + ZZ @ G, 1, 2)
        M = np.swapaxes(np.linalg.solve(inner, np.broadcast_to(G, ZZ.shape)), 1, 2)
        Zr = columns["Zy"] - np.einsum("npq,p->nq", columns["XZ"], d)
        return np.einsum("nij,nj->ni", M, Zr), sigma**2 * M

    def _effects(self, params: Array, columns: Columns, order: int) -> Sampled:
        mean, variance = self._posterior(params, columns)
        return Sampled(mean.T, None, np.einsum("nii->in", variance))

    def _fitted(self, likelihood: WholeLikelihood, theta: Array, order: int) -> Sampled:
        params, rows = likelihood.space.report(theta), likelihood.rows
        mean, variance = self._posterior(params, likelihood.columns)
        X, Z = (_rows_of(likelihood, name) for name in ("mu", "random"))
        assert rows.unit is not None
        value = X @ params[: self.p] + np.einsum("nq,nq->n", Z, mean[rows.unit])
        return Sampled(value, None, np.einsum("nq,nqr,nr->n", Z, variance[rows.unit], Z))

    def _residual(self, likelihood: WholeLikelihood, theta: Array, order: int) -> Sampled:
        assert likelihood.facts.outcome is not None
        fitted = self._fitted(likelihood, theta, order)
        y = evaluate(likelihood.facts.outcome, likelihood.rows)
        return Sampled(y - fitted.values, None, fitted.variance)

    def _solve(self, params: Array, columns: Columns, full: bool = True) -> _Solved | Array:
        d, s, R, sigma = self._split(params)
        v, G = sigma**2, s[:, None] * R * s
        ZZ, XZ, N = columns["ZZ"], columns["XZ"], columns["N"]
        Zr = columns["Zy"] - np.einsum("npq,p->nq", XZ, d)
        rr = columns["yy"] - 2.0 * columns["Xy"] @ d + np.einsum("npk,p,k->n", columns["XX"], d, d)
        inner = v * np.eye(self.q) + ZZ @ G
        try:
            M = np.swapaxes(np.linalg.solve(np.swapaxes(inner, 1, 2), np.broadcast_to(G, ZZ.shape)), 1, 2)
        except np.linalg.LinAlgError:  # a step so long that sigma is lost beside the spread of c
            return np.full(len(N), np.nan)
        MZr = np.einsum("nij,nj->ni", M, Zr)
        sign, logdet = np.linalg.slogdet(inner)
        logdet = np.where(sign > 0, logdet, np.nan) + (N - self.q) * np.log(v)
        quadratic = (rr - np.einsum("ni,ni->n", Zr, MZr)) / v
        loglike = -0.5 * (N * LOG_2PI + logdet + quadratic)
        if not full:
            return np.asarray(loglike)
        MZZ = M @ ZZ
        B = (np.eye(self.q) - MZZ) / v
        Xr = columns["Xy"] - columns["XX"] @ d

        def apply(Xa: Array, Za: Array) -> tuple[Array, Array]:
            """Return X'P a and Z'P a from X'a and Z'a."""
            Ma = np.einsum("nij,nj->ni", M, Za)
            return (Xa - np.einsum("npq,nq->np", XZ, Ma)) / v, np.einsum("nij,ni->nj", B, Za)

        Xu, Zu = apply(Xr, Zr)
        Xt, Zt = apply(Xu, Zu)
        uu = (rr - 2.0 * np.einsum("ni,ni->n", Zr, MZr) + np.einsum("ni,nij,nj->n", MZr, ZZ, MZr)) / v**2
        ut = (uu - np.einsum("ni,nij,nj->n", Zu, M, Zu)) / v
        one = np.einsum("nii->n", MZZ)
        return _Solved(
            loglike, Xu, Zu, uu, Xt, Zt, ut, ZZ @ B, ZZ @ B @ B,
            (columns["XX"] - XZ @ M @ np.swapaxes(XZ, 1, 2)) / v, XZ @ B,
            (N - one) / v, (N - 2.0 * one + np.einsum("nij,nji->n", MZZ, MZZ)) / v**2,
        )  # fmt: skip

    def derivatives(self, params: Array, columns: Columns, order: int, w: Array | None) -> Derivatives:
        found = self._solve(params, columns, order > 0)
        if not isinstance(found, _Solved):
            return found, None, None
        _, s, R, sigma = self._split(params)
        first, second = self._moves(s, R)
        p, m, n = self.p, len(params), len(found.loglike)
        gamma = 0.5 * (found.Zu[:, :, None] * found.Zu[:, None, :] - found.A)  # dl/dG
        slope_v = 0.5 * (found.uu - found.trace)
        scores = np.empty((n, m))
        scores[:, :p] = found.Xu
        scores[:, p:-1] = np.einsum("nij,aij->na", gamma, first)
        scores[:, -1] = 2.0 * sigma * slope_v
        if order < 2:
            return found.loglike, scores, None
        one = np.ones(n) if w is None else w
        total = -self._information(found, first, sigma, one, m)
        inside = slice(p, m - 1)
        GZu = np.einsum("aij,nj->nai", first, found.Zu)
        cross = np.einsum("n,npi,nai->pa", one, found.XPZ, GZu)
        total[:p, inside] = -cross
        total[inside, :p] = -cross.T
        total[:p, -1] = total[-1, :p] = -2.0 * sigma * (one @ found.Xt)
        # observed less expected: 2 E[half tr(...)] - u'V_a P V_b u
        trace = np.einsum("n,nij,ajk,nkl,bli->ab", one, found.A, first, found.A, first, optimize=True)
        total[inside, inside] += trace - np.einsum("n,nai,nij,nbj->ab", one, GZu, found.A, GZu, optimize=True)
        weighed = np.einsum("n,nij->ij", one, gamma)
        for (a, b), move in second.items():
            bend = float((weighed * move).sum())
            total[p + a, p + b] += bend
            if a != b:
                total[p + b, p + a] += bend
        line = np.einsum("n,nij,aji->a", one, found.A2, first) - np.einsum("n,nai,ni->a", one, GZu, found.Zt)
        total[inside, -1] += 2.0 * sigma * line
        total[-1, inside] += 2.0 * sigma * line
        total[-1, -1] += 4.0 * sigma**2 * (one @ (found.trace2 - found.ut)) + 2.0 * (one @ slope_v)
        return found.loglike, scores, total

    def _information(self, found: _Solved, first: Array, sigma: float, w: Array, m: int) -> Array:
        """Return X'PX and half tr(P V_a P V_b), summed over units."""
        p, inside = self.p, slice(self.p, m - 1)
        total = np.zeros((m, m))
        total[:p, :p] = np.einsum("n,npk->pk", w, found.XPX)
        total[inside, inside] = 0.5 * np.einsum(
            "n,nij,ajk,nkl,bli->ab", w, found.A, first, found.A, first, optimize=True
        )
        line = sigma * np.einsum("n,nij,aji->a", w, found.A2, first)
        total[inside, -1] = total[-1, inside] = line
        total[-1, -1] = 2.0 * sigma**2 * (w @ found.trace2)
        return total

    def expected(self, params: Array, columns: Columns, w: Array | None) -> Array:
        found = self._solve(params, columns)
        assert isinstance(found, _Solved)
        _, s, R, sigma = self._split(params)
        one = np.ones(len(found.loglike)) if w is None else w
        return self._information(found, self._moves(s, R)[0], sigma, one, len(params))

    def boundary(self, likelihood: WholeLikelihood, evaluation: Evaluation) -> str | None:
        """Say which standard deviations are zero, or where correlations are plus or minus one."""
        q, names = self.q, self.random
        flat = [name for j, name in enumerate(names) if runs(likelihood, evaluation, self.p + j, -5.0)]
        if flat:
            return (
                f"the standard deviation of {listing(flat)} is at its bound, zero: units differ in it no more "
                "than sigma alone makes them. Its standard error, and those of its correlations, have no "
                "meaning; leave the column out of random= (half the likelihood ratio's chi-squared p-value "
                "is the test of zero: Self & Liang 1987)."
            )
        R = self._split(likelihood.space.report(evaluation.theta))[2]
        if q > 1 and np.linalg.eigvalsh(R)[0] < SINGULAR:
            what = f"cor is at its bound, {R[1, 0]:+.0f}" if q == 2 else "the correlations are at their bound"
            return (
                f"{what}: one of the coefficients of {listing(names)} follows exactly from the others, and G is "
                "singular. Standard errors of standard deviations and correlations have no meaning; random= "
                "has a column too many for these units."
            )
        return None

    def start(self, likelihood: WholeLikelihood) -> Array:
        """Return least squares, and the best of a few shares of its residual variance between c and e."""
        columns = likelihood.columns
        w = likelihood.term_weights(None)
        one = np.ones(likelihood.count) if w is None else w
        rows = float(one @ columns["N"])
        d = np.linalg.lstsq(np.tensordot(one, columns["XX"], 1), one @ columns["Xy"], rcond=None)[0]
        rss = float(one @ columns["yy"] - d @ (one @ columns["Xy"]))
        spread = max(rss / rows, 1e-300)
        size = np.einsum("n,nii->i", one, columns["ZZ"]) / rows
        best, value = likelihood.space.start(), -np.inf
        for share, tilt in itertools.product((0.05, 0.2, 0.5, 0.8), (1.0, 0.3)):
            part = np.where(np.arange(self.q) == 0, 1.0, tilt)
            sd = np.sqrt(share * spread / self.q / np.where(size > 0, size, 1.0)) * part
            sigma = np.sqrt((1.0 - share) * spread)
            zeros = np.zeros(self.q * (self.q - 1) // 2)
            params = np.concatenate([np.array(self.b0) + d, sd, zeros, [sigma]])
            loglike = float(one @ self.derivatives(params, columns, 0, None)[0])
            if loglike > value:
                b, s = params[: self.p], np.log(params[self.p : self.p + self.q])
                best, value = np.concatenate([b, s, zeros, [np.log(sigma)]]), loglike
        return best

    def simulate(self, rng: np.random.Generator, params: Array, columns: Columns) -> dict[str, Array]:
        """Draw the sufficient statistics: (X, Z)'e is normal, and e'e beyond them chi-squared."""
        d, s, R, sigma = self._split(params)
        N, XX, XZ, ZZ = (columns[key] for key in ("N", "XX", "XZ", "ZZ"))
        n, p = len(N), self.p
        root = np.linalg.cholesky(s[:, None] * R * s + 1e-300 * np.eye(self.q))
        c = rng.standard_normal((n, self.q)) @ root.T
        gram = np.block([[XX, XZ], [np.swapaxes(XZ, 1, 2), ZZ]])
        # columns of length one: whether a direction is empty must not depend on units of measurement
        length = np.sqrt(np.einsum("nii->ni", gram))
        inverse = 1.0 / np.where(length > 0, length, 1.0)
        values, vectors = np.linalg.eigh(gram * inverse[:, :, None] * inverse[:, None, :])
        values = np.where(values > 1e-10 * values[:, -1:], values, 0.0)
        xi = rng.standard_normal(values.shape) * (values > 0)
        We = sigma * length * np.einsum("nij,nj->ni", vectors, np.sqrt(values) * xi)
        rest = np.maximum(N - (values > 0).sum(axis=1), 0.0)
        extra = np.where(rest > 0, rng.chisquare(np.maximum(rest, 1.0)), 0.0)
        ee = sigma**2 * ((xi**2).sum(axis=1) + extra)
        Xf = XX @ d + np.einsum("npq,nq->np", XZ, c)
        Zf = np.einsum("npq,p->nq", XZ, d) + np.einsum("nij,nj->ni", ZZ, c)
        ff = Xf @ d + np.einsum("ni,ni->n", Zf, c)
        yy = ff + 2.0 * (We[:, :p] @ d + np.einsum("ni,ni->n", We[:, p:], c)) + ee
        return {"Xy": Xf + We[:, :p], "Zy": Zf + We[:, p:], "yy": yy}


def _rows_of(likelihood: WholeLikelihood, name: str) -> Array:
    """Return a design (N, width) over the likelihood's rows: "mu" or "random"."""
    extra, rows = likelihood.facts.extra, likelihood.rows
    block: Block = extra["blocks"]["mu"] if name == "mu" else extra["random"]
    found = block.matrix if block.matrix.shape[0] == rows.n_rows else rebuild(block, rows).matrix
    return np.asarray(found, dtype=float)


def _dense(block: Block) -> Block:
    if block.offset is not None:
        raise SpecificationError("linear_mixed: offset() has no meaning here; subtract it from the outcome.")
    return block if block.is_dense else replace(block, matrix=np.asarray(block.matrix.toarray(), dtype=float))


def _statistics(X: Array, Z: Array, y: Array, unit: npt.NDArray[np.intp], n: int) -> dict[str, Array]:
    """Return the sums of products within units."""
    order = np.argsort(unit, kind="stable")
    first = np.searchsorted(unit[order], np.arange(n))
    X, Z, y = X[order], Z[order], y[order]

    def sums(values: Array) -> Array:
        return np.asarray(np.add.reduceat(values, first, axis=0))

    return {
        "N": sums(np.ones(len(y))),
        "XX": sums(X[:, :, None] * X[:, None, :]),
        "XZ": sums(X[:, :, None] * Z[:, None, :]),
        "ZZ": sums(Z[:, :, None] * Z[:, None, :]),
        "Xy": sums(X * y[:, None]),
        "Zy": sums(Z * y[:, None]),
        "yy": sums(y * y),
    }


def linear_mixed(
    formula: str,
    data: Any,
    *,
    unit: str,
    random: str = "1",
    missing: str = "raise",
    frequency_weights: Any = None,
    probability_weights: Any = None,
) -> WholeLikelihood:
    """Return the likelihood of the linear mixed model with random coefficients per unit.

        y_i = X_i b + Z_i c_i + e_i,   c_i ~ N(0, G),   e_i ~ N(0, sigma^2 I)
        log f(y_i) = -(N_i log 2 pi + log det V_i + (y_i - X_i b)' V_i^-1 (y_i - X_i b)) / 2,
        V_i = Z_i G Z_i' + sigma^2 I

    A term is a unit: robust covariances are clustered by unit. Reported are `mu[x]`, the standard
    deviations `sd_Intercept`, `sd_x`, their correlations `cor` (`cor[1,0]`, .. with three or more)
    and `sigma`. Computed from sums of products within units: a step costs the number of units, not
    of rows.

    Parameters
    ----------
    formula, data :
        "y ~ x1 + x2" and a frame.
    unit :
        Column of ids.
    random :
        Formula of Z: "1" a random intercept, "1 + days" intercept and slope, "0 + days" a slope.
    missing, frequency_weights, probability_weights :
        "raise" or "drop"; weights of units.

    Maximum likelihood, not REML: R's `lmer(..., REML = FALSE)`, Stata's `mixed` (default). lmer's
    standard errors of b are the inverse of X'V^-1 X (`eim`); Stata's `mixed` reports the logs of the
    standard deviations and the inverse hyperbolic tangent of the correlation. Where the maximum has a standard
    deviation of zero or a singular G (lme4's "singular fit"), a `BoundaryWarning` says so.

    `predict` knows "mean" (x'b), "effects" (best linear unbiased predictions of c_i, by unit; one
    column's: "effects[days]"), "fitted" (x'b + z'c_i, also of new rows) and "residual". Their standard errors add the
    delta method's variance to that of c_i given y (Kass & Steffey 1989); lme4 and Stata give the latter.

    References: Laird & Ware (1982), Biometrics 38; Kass & Steffey (1989), JASA 84; Pinheiro & Bates (2000), chapter 2.

    Example
    -------
    >>> import mlecov as ml
    >>> data = ml.load("sleepstudy")
    >>> lik = ml.models.linear_mixed("reaction ~ days", data, unit="subject", random="1 + days")
    >>> ml.fit(lik).params.round(3).to_dict()["sd_days"]
    5.717
    """
    table, parsed = open_table(data), parse(formula)
    if parsed.left is None:
        raise SpecificationError(f"formula {formula!r} has no outcome; expected 'y ~ x1 + x2'.")
    if parsed.offsets:
        raise SpecificationError("linear_mixed: offset() has no meaning here; subtract it from the outcome.")
    weights = {"frequency": frequency_weights, "probability": probability_weights}
    given = {kind: value for kind, value in weights.items() if value is not None}
    if len(given) > 1:
        raise SpecificationError(
            f"weights of {len(given)} kinds were given ({listing(given)}); one is possible."
        )
    terms, inner = LinearTerms(parsed.right), LinearTerms(random)
    used = [parsed.left] if parsed.left in table else sorted(variables(parsed.left))
    used += sorted(columns_used(terms, table)) + sorted(columns_used(inner, table)) + [unit]
    rows = screen(
        table, [*used, *(value for value in given.values() if isinstance(value, str))], missing, unit
    )
    y = evaluate(parsed.left, rows)
    fixed, varying = _dense(materialize(terms, rows)), _dense(materialize(inner, rows))
    p, q, n = len(fixed.names), len(varying.names), rows.n_terms
    if n == rows.n_rows:
        raise DataError(
            f"linear_mixed: every row is a unit of its own in {unit!r}; G and sigma are not identified."
        )
    if np.linalg.matrix_rank(varying.matrix) < q:
        raise SpecificationError(
            f"linear_mixed: the columns of random={random!r} are collinear ({listing(varying.names)})."
        )
    kinds: dict[str, Kind] = {"mu": linear_kind(fixed)}
    kinds |= {f"sd_{name}": positive() for name in varying.names}
    if q == 2:
        kinds["cor"] = interval(-1.0, 1.0)
    elif q > 2:
        kinds["cor"] = correlation(q)
    kinds["sigma"] = positive()
    b0 = least_squares(fixed.matrix, y)
    assert rows.unit is not None
    columns = _statistics(fixed.matrix, varying.matrix, y - fixed.matrix @ b0, rows.unit, n)
    own = next((term_weights(rows, value, kind) for kind, value in given.items()), None)  # type: ignore[arg-type]
    facts = Facts(
        "linear_mixed", "whole, closed form", parsed.left, {"blocks": {"mu": fixed}, "random": varying}
    )
    model = LinearMixed(p, q, tuple(map(float, b0)), varying.names)
    return WholeLikelihood(ParameterSpace.of(kinds), rows, own, facts, model, columns, n)
