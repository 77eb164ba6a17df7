"""Several Gaussian outcomes at once: the multivariate normal and seemingly unrelated regressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mlecov.data import Rows, Table, Weights, open_table, screen, term_weights, to_numpy
from mlecov.errors import DataError, IdentificationError, SpecificationError, listing
from mlecov.formulas import Block, columns_used, evaluate, linear_kind, materialize, parse, variables
from mlecov.kinds import Kind, covariance
from mlecov.likelihood.base import Facts
from mlecov.linalg import try_factor
from mlecov.matrix import duplication_matrix, normal_information, normal_scores, vech_indices
from mlecov.models.predicted import Declared, OfNames, OfSample, Sampled, of_params
from mlecov.models.whole import Columns, Derivatives, WholeLikelihood, WholeModel, least_squares
from mlecov.parameters import LinearKind, LinearTerms, ParameterSpace

Array = npt.NDArray[np.float64]
LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class GaussianSystem(WholeModel):
    """Y_e = X_e b_e + u_e, rows u ~ N(0, Sigma); parameters b_1, ..., b_E, vech Sigma.

    Columns: Y (n, E) and the designs side by side, X (n, sum of widths).
    """

    widths: tuple[int, ...]
    outcomes: tuple[str, ...]
    name: str = "sur"  # type: ignore[misc]
    separable: ClassVar[bool] = True
    has_expected: ClassVar[bool] = True

    def _parts(self, params: Array, columns: Columns) -> tuple[Array, Array, list[slice]]:
        """Return residuals U (n, E), Sigma (E, E) and the place of each b_e."""
        stops = np.cumsum(self.widths)
        places = [slice(int(stop) - width, int(stop)) for stop, width in zip(stops, self.widths, strict=True)]
        U = np.empty_like(columns["Y"])
        for e, place in enumerate(places):
            U[:, e] = columns["Y"][:, e] - columns["X"][:, place] @ params[place]
        rows, cols = vech_indices(len(self.widths))
        Sigma = np.empty((len(self.widths),) * 2)
        Sigma[rows, cols] = Sigma[cols, rows] = params[stops[-1] :]
        return U, Sigma, places

    @property
    def quantities(self) -> Mapping[str, Declared]:
        """mean: x_e'b_e, one an equation; residual: Y_e less that."""
        mean = (
            OfNames(_stacked, self.outcomes, self.outcomes)
            if self.name == "sur"
            else OfNames(lambda mu: mu[:, None], ("mu",), self.outcomes)
        )
        return {"mean": mean, "residual": OfSample(of_params(self._residual), self.outcomes)}

    def _residual(self, params: Array, columns: Columns, order: int) -> Sampled:
        U, _, places = self._parts(params, columns)
        jacobian = np.zeros((len(places), len(U), len(params)))
        for e, place in enumerate(places):
            jacobian[e, :, place] = -columns["X"][:, place]
        return Sampled(U.T, jacobian)

    def derivatives(self, params: Array, columns: Columns, order: int, w: Array | None) -> Derivatives:
        U, Sigma, places = self._parts(params, columns)
        n, E = U.shape
        found = try_factor(Sigma)
        if found is None:
            nothing = np.full((n, len(params)), np.nan)
            return nothing[:, 0], nothing if order else None, np.full((len(params),) * 2, np.nan)
        P = found.inverse
        Z = U @ P
        value = -0.5 * (E * LOG_2PI + found.logdet + np.einsum("ij,ij->i", U, Z))
        if not order:
            return value, None, None
        base = places[-1].stop
        scores = np.empty((n, len(params)))
        scores[:, base:] = normal_scores(U, np.zeros(E), Sigma)[:, E:]
        for e, place in enumerate(places):
            scores[:, place] = columns["X"][:, place] * Z[:, [e]]
        if order < 2:
            return value, scores, None
        one = np.ones(n) if w is None else w
        hessian = self._slopes(P, columns, one, places, len(params))
        rows, cols = vech_indices(E)
        share = np.where(rows == cols, 0.5, 1.0)
        WZ = Z * one[:, None]
        cross = columns["X"].T @ WZ  # (sum of widths, E)
        for e, place in enumerate(places):
            # dZ_e = -(Z_r P_ce + Z_c P_re) for a symmetric move of Sigma_rc, half of it on the diagonal
            block = -share * (cross[place][:, rows] * P[cols, e] + cross[place][:, cols] * P[rows, e])
            hessian[place, base:] = block
            hessian[base:, place] = block.T
        D: Any = duplication_matrix(E)
        M = WZ.T @ Z
        inner = np.kron(M, P) + np.kron(P, M) - one.sum() * np.kron(P, P)
        hessian[base:, base:] = -0.5 * np.asarray(D.T @ inner @ D)
        return value, scores, hessian

    def _slopes(self, P: Array, columns: Columns, w: Array, places: list[slice], m: int) -> Array:
        """Return (m, m) zeros but for the blocks -P_ef X_e'W X_f."""
        found = np.zeros((m, m))
        gram = (columns["X"] * w[:, None]).T @ columns["X"]
        for e, left in enumerate(places):
            for f, right in enumerate(places):
                found[left, right] = -P[e, f] * gram[left, right]
        return found

    def expected(self, params: Array, columns: Columns, w: Array | None) -> Array:
        """Return E[-H]: the mean and Sigma are orthogonal."""
        U, Sigma, places = self._parts(params, columns)
        one = np.ones(len(U)) if w is None else w
        information = normal_information(Sigma, float(one.sum()))
        E, base = len(Sigma), places[-1].stop
        total = -self._slopes(information[:E, :E] / one.sum(), columns, one, places, len(params))
        total[base:, base:] = information[E:, E:]
        return total

    def start(self, likelihood: WholeLikelihood) -> Array:
        """Return least squares by equation and the covariance of their residuals."""
        columns, space = likelihood.columns, likelihood.space
        w = likelihood.term_weights(None)
        root = np.ones(likelihood.count) if w is None else np.sqrt(w)
        parts, residuals, first = [], [], 0
        for e, width in enumerate(self.widths):
            X = columns["X"][:, first : first + width]
            parts.append(least_squares(X * root[:, None], columns["Y"][:, e] * root))
            residuals.append((columns["Y"][:, e] - X @ parts[-1]) * root)
            first += width
        U = np.column_stack(residuals)
        Sigma = U.T @ U / (root @ root)
        if try_factor(Sigma) is None:
            names = likelihood.facts.extra["outcomes"]
            raise IdentificationError(
                f"{self.name}: the residuals of {listing(names)} are linearly dependent: their covariance is "
                "singular and the likelihood unbounded. Look for identities among the outcomes; drop one."
            )
        return np.concatenate([*parts, space.parameters[-1].kind.free(Sigma)])

    def simulate(self, rng: np.random.Generator, params: Array, columns: Columns) -> dict[str, Array]:
        U, Sigma, _ = self._parts(params, columns)
        draws = rng.standard_normal(U.shape) @ np.linalg.cholesky(Sigma).T
        return {"Y": columns["Y"] - U + draws}


def _stacked(*predictors: Array) -> Array:
    """Return the predictors of the equations as rows (E, n)."""
    return np.stack(predictors)


def _weights(rows: Rows, options: Mapping[str, Any]) -> Weights | None:
    given = {key.removesuffix("_weights"): value for key, value in options.items() if value is not None}
    unknown = [key for key in given if key not in ("frequency", "probability", "analytic")]
    if unknown:
        raise SpecificationError(
            f"option(s) {listing(options)} are not known; expected weights and missing=."
        )
    if len(given) > 1:
        raise SpecificationError(
            f"weights of {len(given)} kinds were given ({listing(given)}); one is possible."
        )
    return next((term_weights(rows, value, kind) for kind, value in given.items()), None)  # type: ignore[arg-type]


def _system(
    name: str,
    rows: Rows,
    outcomes: Sequence[str],
    Y: Array,
    blocks: Mapping[str, Block],
    options: Mapping[str, Any],
) -> WholeLikelihood:
    n, E = Y.shape
    if n <= E:
        raise DataError(
            f"{name}: {n} rows can not identify the covariance of {E} outcomes; give more than {E}."
        )
    flat = [label for label, values in zip(outcomes, Y.T, strict=True) if values.min() == values.max()]
    if flat:
        raise DataError(f"{name}: outcome(s) {listing(flat)} do not vary; their variance has no estimate.")
    if name == "sur":
        kinds: dict[str, Kind] = {key: linear_kind(block) for key, block in blocks.items()}
    else:
        kinds = {"mu": LinearKind(tuple(outcomes))}
    kinds["Sigma"] = covariance(E)
    if len(kinds) != len(blocks) + 1 and name == "sur":
        raise SpecificationError(
            "sur: an outcome called 'Sigma' would share the name of the covariance; rename it."
        )
    X = np.concatenate([block.matrix for block in blocks.values()], axis=1)
    model = GaussianSystem(tuple(block.matrix.shape[1] for block in blocks.values()), tuple(outcomes), name)
    extra = {"blocks": dict(blocks), "outcomes": tuple(outcomes)}
    facts = Facts(name, "whole, closed form", ", ".join(outcomes), extra)
    space = ParameterSpace.of(kinds)
    return WholeLikelihood(space, rows, _weights(rows, options), facts, model, {"Y": Y, "X": X}, n)


def multivariate_normal(
    y: Any, data: Any = None, *, missing: str = "raise", **weights: Any
) -> WholeLikelihood:
    """Return the likelihood of rows y_i ~ N(mu, Sigma), d outcomes.

        log f = -(d log 2 pi + log det Sigma + (y - mu)' Sigma^-1 (y - mu)) / 2

    The maximum is the mean and the covariance with divisor n (not n - 1). Reported are `mu[y1]`,
    ... and vech Sigma, `Sigma[0,0]`, `Sigma[1,0]`, ...; Sigma is positive definite by its Cholesky
    factor. The information of mu is n Sigma^-1, that of vech Sigma n D'(Sigma^-1 x Sigma^-1)D / 2.

    Parameters
    ----------
    y, data :
        A list of columns and a frame, or an array or frame (n, d).
    missing, weights :
        "raise" or "drop"; one of `frequency_weights`, `probability_weights`, `analytic_weights`.

    Reference: Magnus & Neudecker (2019), chapter 15.

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.multivariate_normal(["invest", "value"], ml.load("grunfeld")))
    >>> fit.params.index.tolist()
    ['mu[invest]', 'mu[value]', 'Sigma[0,0]', 'Sigma[1,0]', 'Sigma[1,1]']
    """
    if data is not None:
        names = [y] if isinstance(y, str) else [str(name) for name in y]
        table = open_table(data)
    else:
        matrix = np.asarray(y) if isinstance(y, (list, tuple)) else to_numpy(y)
        if matrix.ndim != 2:
            raise DataError(
                f"multivariate_normal: y has shape {matrix.shape}; expected (n, d), or columns and data."
            )
        labels = getattr(y, "columns", None)
        names = (
            [f"y{j}" for j in range(matrix.shape[1])] if labels is None else [str(name) for name in labels]
        )
        table = Table(
            {name: matrix[:, j] for j, name in enumerate(names)}, len(matrix), getattr(y, "index", None)
        )
    if len(set(names)) < len(names):
        raise SpecificationError(f"multivariate_normal: an outcome is named twice among {listing(names)}.")
    rows = screen(table, names, missing)
    Y = np.column_stack([rows.column(name) for name in names])
    one = Block(("Intercept",), np.ones((len(Y), 1)), None, LinearTerms("1"))
    return _system("multivariate_normal", rows, names, Y, {name: one for name in names}, weights)


def sur(
    formulas: Sequence[str] | Mapping[str, str], data: Any, *, missing: str = "raise", **weights: Any
) -> WholeLikelihood:
    """Return the likelihood of seemingly unrelated regressions, errors correlated across equations.

        y_ei = x_ei'b_e + u_ei,   (u_1i, ..., u_Ei)' ~ N(0, Sigma)
        log f = -(E log 2 pi + log det Sigma + u_i' Sigma^-1 u_i) / 2

    The maximum is Zellner's feasible generalised least squares iterated to convergence (Stata's
    `sureg, isure`; R's systemfit with maxiter), Sigma = U'U / n. Standard errors there are expected
    information (`eim`) and, in `sureg` with small, rescaled. Reported are `invest[value]`, .. by
    equation, and vech Sigma.

    Parameters
    ----------
    formulas, data :
        ["y1 ~ x1 + x2", "y2 ~ x1"], equations named by their outcomes, or {name: formula}.
    missing, weights :
        "raise" or "drop" (a row with any value missing); one of `frequency_weights`, ...

    Reference: Zellner (1962), JASA 57; Oberhofer & Kmenta (1974), Econometrica 42; Greene (2018),
    section 10.2.

    Example
    -------
    >>> import mlecov as ml
    >>> lik = ml.models.sur(["invest ~ value", "capital ~ value"], ml.load("grunfeld"))
    >>> lik.space.labels[:4]
    ('invest[Intercept]', 'invest[value]', 'capital[Intercept]', 'capital[value]')
    """
    if isinstance(formulas, str) or len(formulas) < 2:
        raise SpecificationError("sur: expected two or more formulas; for one equation use gaussian().")
    table = open_table(data)
    named = dict(formulas) if isinstance(formulas, Mapping) else {}
    parsed = [parse(text) for text in (named.values() if named else formulas)]
    for text, part in zip(named.values() if named else formulas, parsed, strict=True):
        if part.left is None:
            raise SpecificationError(f"sur: formula {text!r} has no outcome; expected 'y ~ x1 + x2'.")
        if part.offsets:
            raise SpecificationError(f"sur: formula {text!r} has an offset; subtract it from the outcome.")
    names = list(named) or [str(part.left) for part in parsed]
    if len(set(names)) < len(names):
        raise SpecificationError(f"sur: two equations are named {listing(names)}; give {{name: formula}}.")
    used: list[str] = []
    for part in parsed:
        left = str(part.left)
        used += [left] if left in table else sorted(variables(left))
        used += sorted(columns_used(LinearTerms(part.right), table))
    rows = screen(table, used, missing)
    Y = np.column_stack([evaluate(str(part.left), rows) for part in parsed])
    blocks = {}
    for name, part in zip(names, parsed, strict=True):
        block = materialize(LinearTerms(part.right), rows)
        dense = block.matrix if block.is_dense else np.asarray(block.matrix.toarray(), dtype=float)
        blocks[name] = replace(block, matrix=dense)
    return _system("sur", rows, names, Y, blocks, weights)
