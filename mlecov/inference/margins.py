"""Marginal effects and contrasts: averages over the data, or at chosen values, with two kinds of errors.

Conditional standard errors take the covariates as given (delta method); unconditional ones add
their sampling variance through the influence functions of the average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov.covariance.covariance import Covariance
from mlecov.covariance.requests import Cluster
from mlecov.covariance.sandwich import observed_factor
from mlecov.covariance.specs import Basic, Spec
from mlecov.data import Rows, Table, is_missing
from mlecov.errors import InferenceError, SpecificationError, listing, suggestion
from mlecov.formulas import Block, columns_used, rebuild
from mlecov.inference.delta import scalar_df
from mlecov.inference.quantities import Quantity, quantity
from mlecov.inference.results import Combinations
from mlecov.inference.settings import Setting, blocks_of, is_array_block, row_weights, setting
from mlecov.likelihood.base import Likelihood
from mlecov.likelihood.traced import extrapolate
from mlecov.linalg import symmetrize
from mlecov.optimum import Optimum
from mlecov.terms import coded

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Effect:
    """One margin: its label, the average, its gradient in theta (k,), and its row values (n,)."""

    label: str
    value: float
    gradient: Array
    rows: Array


def margins(
    optimum: Optimum,
    covariance: Covariance,
    variables: str | Sequence[str] | None = None,
    *,
    what: str | Callable[..., Any] = "mean",
    at: str | Mapping[str, float] = "overall",
    contrasts: Mapping[str, Sequence[Any]] | None = None,
    data: Any = None,
    unconditional: bool = False,
    spec: Spec | None = None,
    alpha: float = 0.05,
) -> Combinations:
    """Return marginal effects of variables on a quantity, and contrasts, with standard errors.

        dydx:      (1/n) sum_i d h(theta; x_i) / d x_j
        contrast:  (1/n) sum_i [h(theta; x_i with x_j = b) - h(theta; x_i with x_j = a)]

    Parameters
    ----------
    variables :
        Columns of the data (design columns for fits from arrays); by default all that the formulas
        read. Numeric ones give derivatives through every term that they enter (I(x**2), logs,
        interactions); others contrasts with their first level.
    what :
        The quantity h: see `predict`. One number a row: "probability[2]" where it is several.
    at :
        "overall": average over the rows; "mean", "median": at those of the numeric variables
        (shares of levels for others); {variable: value}: held there, averaged over the rest.
    contrasts :
        {variable: (a, b)} or (a, b, c, ...): changes from the first value to each other one.
    unconditional :
        Treat the covariates as sampled: V = sum psi psi' with
        psi_i = w_i (h_i - h.) / sum(w) + G I^-1 s_i (by cluster under a clustered covariance).

    Reference: Wooldridge (2010), section 2.2.5 and problem 12.17; Terza (2016).

    Example
    -------
    >>> import mlecov as ml
    >>> fit = ml.fit(ml.models.logit("grade ~ gpa + tuce + psi", ml.load("spector")))
    >>> fit.margins("gpa").estimates.round(4)
    array([0.3626])
    """
    likelihood = optimum.likelihood
    found = quantity(optimum, what, covariance).single
    base, weights = setting(likelihood, data), None
    if data is None:
        weights = row_weights(likelihood)
    place = _Place(likelihood, base, weights, at)
    pairs = {name: tuple(values) for name, values in (contrasts or {}).items()}
    names = [variables] if isinstance(variables, str) else list(variables or [])
    if not names and not pairs:
        names = place.variables()
    effects: list[Effect] = []
    for name in names:
        effects += _effects_of(found, optimum.theta, place, name)
    for name, values in pairs.items():
        effects += _contrast(found, optimum.theta, place, name, values)
    cov, method = _covariance(optimum, covariance, effects, place, unconditional, spec, data is not None)
    label = "average" if at == "overall" else f"at {at}" if isinstance(at, str) else f"at {_shown(at)}"
    return Combinations(
        tuple(e.label for e in effects),
        np.array([e.value for e in effects]),
        cov,
        np.zeros(len(effects)),
        scalar_df(covariance.df),
        alpha,
        method,
        f"Effects on the {found.name} ({label})",
    )


def _shown(at: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in at.items()
    )


class _Place:
    """The rows at which effects are taken, and how a variable moves them."""

    def __init__(
        self, likelihood: Likelihood, base: Setting, weights: Array | None, at: str | Mapping[str, float]
    ) -> None:
        self.blocks = blocks_of(likelihood)
        self.arrays = base.rows is None or any(
            is_array_block(b, likelihood.rows) for b in self.blocks.values()
        )
        self.base, self.weights, self.average = base, weights, False
        if isinstance(at, Mapping):
            for name, value in at.items():
                self.base = self.with_value(self.base, name, value)
        elif at in ("mean", "median"):
            self._center(at)
        elif at != "overall":
            raise SpecificationError(
                f"at={at!r} is not known; expected 'overall', 'mean', 'median' or {{name: value}}."
            )

    @property
    def n_rows(self) -> int:
        """Rows of the setting that effects are averaged over."""
        return self.base.n

    def variables(self) -> list[str]:
        """Return the variables that the formulas read, or the design columns that vary."""
        if self.arrays:
            return [
                name
                for key, block in self.blocks.items()
                for j, name in enumerate(block.names)
                if np.ptp(self.base.designs[key][:, j]) > 0
                or (self.base.n == 1 and name not in ("const", "Intercept"))
            ]
        assert self.base.rows is not None
        table = self.base.rows.table
        found: list[str] = []
        for block in self.blocks.values():
            formula = block.terms.formula
            text = formula if isinstance(formula, str) else " ".join(formula)
            found += sorted(columns_used(block.terms, table), key=lambda name: (text.find(name), name))
        return list(dict.fromkeys(found))

    def is_numeric(self, name: str) -> bool:
        """Tell whether a variable is a number and nowhere wrapped in C()."""
        if self.arrays:
            return True
        assert self.base.rows is not None
        wrapped = any(
            isinstance(b.terms.formula, str) and name in coded(b.terms.formula) for b in self.blocks.values()
        )
        return self.base.rows.is_number(name) and not wrapped

    def levels(self, name: str) -> list[Any]:
        """Return the levels of a variable that is no number, sorted."""
        assert self.base.rows is not None
        return sorted(set(self.base.rows.raw(name).tolist()))

    def mean(self, values: Array) -> Any:
        """Return the weighted mean over the rows."""
        return np.average(values, axis=0, weights=None if self.average else self.weights)

    def _known(self, name: str) -> None:
        known = self.variables() if self.arrays else list(self.base.rows.table.columns)  # type: ignore[union-attr]
        names = known if not self.arrays else [n for b in self.blocks.values() for n in b.names]
        if name not in names:
            raise SpecificationError(f"no variable {name!r}.{suggestion(name, [str(n) for n in names])}")

    def with_value(self, base: Setting, name: str, value: Any) -> Setting:
        """Return the setting with a variable at `value`, or (n,) values, in every row."""
        self._known(name)
        if self.arrays:
            designs = {key: np.array(matrix) for key, matrix in base.designs.items()}
            for key, block in self.blocks.items():
                for j in [j for j, label in enumerate(block.names) if label == name]:
                    designs[key][:, j] = value
            return replace(base, designs=designs)
        assert base.rows is not None
        rows = _replaced(base.rows, name, value)
        blocks = {
            key: rebuild(block, rows) if name in columns_used(block.terms, rows.table) else None
            for key, block in self.blocks.items()
        }
        designs = {k: base.designs[k] if b is None else _dense(b) for k, b in blocks.items()}
        offsets = {
            k: base.offsets[k] if b is None else b.offset
            for k, b in blocks.items()
            if k in base.offsets and (b is None or b.offset is not None)
        }
        columns = dict(base.columns)
        if name in columns:
            columns[name] = rows.column(name)
        return Setting(designs, offsets, columns, base.n, rows)  # type: ignore[arg-type]

    def tangent(self, name: str) -> Setting:
        """Return derivatives of designs, offsets and columns in a numeric variable."""
        self._known(name)
        base = self._rows
        if self.arrays:
            return self._reduced(self._array_tangent(base, name))
        assert base.rows is not None
        x = base.rows.column(name)
        spread = float(x.std()) or max(abs(float(x.mean())), 1.0)
        step = 0.05 * np.where(np.abs(x) > 1e-4 * spread, np.abs(x), spread)
        designs: dict[str, Array] = {}
        offsets: dict[str, Array] = {}
        for key, block in self.blocks.items():
            used = columns_used(block.terms, base.rows.table)
            plain = block.spec is None and key not in base.offsets
            if name not in used or plain:
                designs[key] = np.zeros_like(base.designs[key])
                designs[key][:, [j for j, n in enumerate(block.names) if n == name and name in used]] = 1.0
                continue

            def shifted(h: float, block: Block = block) -> Array:
                made = rebuild(block, _replaced(base.rows, name, x + h * step))  # type: ignore[arg-type]
                return np.column_stack(
                    [_dense(made), np.zeros(base.n) if made.offset is None else made.offset]
                )

            change = extrapolate(
                lambda h: (shifted(h) - shifted(-h)) / (2 * h * step)[:, None], 1.0, levels=5
            )
            if not np.isfinite(change).all():
                raise InferenceError(
                    f"the design has no finite derivative in {name!r} in every row; give contrasts."
                )
            designs[key], offsets[key] = change[:, :-1], change[:, -1]
        columns = {name: np.ones(base.n)}
        return self._reduced(Setting(designs, offsets, columns, base.n, base.rows))

    def _array_tangent(self, base: Setting, name: str) -> Setting:
        designs = {key: np.zeros_like(matrix) for key, matrix in base.designs.items()}
        for key, block in self.blocks.items():
            designs[key][:, [j for j, label in enumerate(block.names) if label == name]] = 1.0
        return Setting(designs, {}, {}, base.n)

    # --- at the means ----------------------------------------------------------------------------

    @property
    def _rows(self) -> Setting:
        """The rows before they were averaged into one."""
        return self.centered if self.average else self.base

    def _center(self, at: str) -> None:
        base = self.base
        if not self.arrays:
            assert base.rows is not None
            for name in self.variables():
                if self.is_numeric(name):
                    base = self.with_value(base, name, self._middle(base.rows.column(name), at))
        elif at == "median":
            middle = {k: np.tile(self._middle(m, at), (base.n, 1)) for k, m in base.designs.items()}
            base = replace(base, designs=middle)
        self.centered, self.average = base, True
        self.base = self._reduced(base)

    def _middle(self, values: Array, at: str) -> Any:
        if at == "mean":
            return np.average(values, axis=0, weights=self.weights)
        if self.weights is not None:
            raise InferenceError("at='median' is not defined under weights; use at='mean' or give values.")
        return np.median(values, axis=0)

    def _reduced(self, base: Setting) -> Setting:
        """Return the average row, where effects are taken at means."""
        if not self.average:
            return base

        def mean(values: Any) -> Array:
            return np.average(np.asarray(values, dtype=float), axis=0, weights=self.weights)[None]

        return Setting(
            {k: mean(v) for k, v in base.designs.items()},
            {k: mean(v) for k, v in base.offsets.items()},
            {k: mean(v) for k, v in base.columns.items()},
            1,
            base.rows,
        )

    def changed(self, name: str, value: Any) -> Setting:
        """Return the setting with a variable at a value, averaged into one row at means."""
        return self._reduced(self.with_value(self._rows, name, value))


def _dense(block: Block) -> Array:
    return np.asarray(block.matrix if block.is_dense else block.matrix.toarray(), dtype=float)


def _replaced(rows: Rows, name: str, value: Any) -> Rows:
    """Return the rows kept with one column replaced."""
    raw = rows.raw(name)
    if np.ndim(value):
        column = np.asarray(value)
    elif raw.dtype.kind in "fiub" or rows.is_number(name):
        column = (
            np.full(rows.n_rows, float(value)) if raw.dtype.kind != "b" else np.full(rows.n_rows, bool(value))
        )
    else:
        if value not in set(raw[~is_missing(raw)].tolist()):
            raise SpecificationError(
                f"{name!r} has no level {value!r}.{suggestion(str(value), sorted(map(str, set(raw))))}"
            )
        column = np.full(rows.n_rows, value, dtype=object)
    kept = np.arange(rows.table.n_rows) if rows.kept is None else rows.kept
    columns = {
        key: values if rows.kept is None else rows.table.raw(key)[kept]
        for key, values in rows.table.columns.items()
    }
    labels = rows.table.labels
    table = Table(
        {**columns, name: column},
        rows.n_rows,
        labels if rows.kept is None or labels is None else labels[kept],
    )
    return replace(rows, table=table, kept=None, cache={})


def _effects_of(found: Quantity, theta: Array, place: _Place, name: str) -> list[Effect]:
    if place.is_numeric(name):
        value, jacobian = found.slope(theta, place.base, place.tangent(name))
        return [Effect(f"dydx {name}", float(place.mean(value)), place.mean(jacobian), value)]
    return _contrast(found, theta, place, name, place.levels(name))


def _contrast(found: Quantity, theta: Array, place: _Place, name: str, values: Sequence[Any]) -> list[Effect]:
    if len(values) < 2:
        raise SpecificationError(
            f"a contrast of {name!r} needs at least two values, such as {{{name!r}: (0, 1)}}; got "
            f"{listing(values)}."
        )
    settings = [found.jacobian(theta, place.changed(name, value)) for value in values]
    low, low_jacobian = settings[0]
    effects = []
    for value, (high, jacobian) in zip(values[1:], settings[1:], strict=True):
        rows = high - low
        label = f"{name}: {value} vs {values[0]}"
        effects.append(Effect(label, float(place.mean(rows)), place.mean(jacobian - low_jacobian), rows))
    return effects


def _covariance(
    optimum: Optimum,
    covariance: Covariance,
    effects: list[Effect],
    place: _Place,
    unconditional: bool,
    spec: Spec | None,
    new_data: bool,
) -> tuple[Array, str]:
    """Return the covariance of the effects (q, q) and its label."""
    gradient = np.array([e.gradient for e in effects])
    if not unconditional:
        return symmetrize(gradient @ covariance.matrix @ gradient.T), f"delta method, {covariance.label}"
    if new_data or place.average:
        raise InferenceError(
            "unconditional standard errors treat the fit's own rows as the sample that effects are "
            "averaged over; "
            "they are defined for at='overall' or {name: value} without data=."
        )
    scores = optimum.evaluation.scores
    assert scores is not None
    if scores.n_terms != place.n_rows:
        raise InferenceError(
            f"unconditional standard errors need a row per term; there are {place.n_rows} rows in "
            f"{scores.n_terms} terms."
        )
    bread = observed_factor(optimum).inverse
    rows = np.column_stack([e.rows - e.value for e in effects])
    total = float(place.n_rows) if place.weights is None else float(place.weights.sum())
    influence = rows / total + scores.right(bread @ gradient.T)
    return _meat(optimum, influence, covariance, spec)


def _meat(optimum: Optimum, influence: Array, covariance: Covariance, spec: Spec | None) -> tuple[Array, str]:
    weights = optimum.likelihood.weights
    if spec is None or isinstance(spec, Basic):
        power = None if weights is None else weights.values**weights.meat_power
        weighed = influence if power is None else influence * power[:, None]
        factor = covariance.factor
        return symmetrize(
            factor * (weighed.T @ influence)
        ), "unconditional, influence functions of independent terms"
    if isinstance(spec, Cluster) and len(spec.groups) == 1 and spec.type in ("CR0", "CR1"):
        codes, labels = optimum.likelihood.rows.codes(spec.groups[0], "cluster")
        weighed = influence if weights is None else influence * weights.values[:, None]
        sums = np.zeros((len(labels), influence.shape[1]))
        np.add.at(sums, codes, weighed)
        count = len(labels)
        factor = count / (count - 1) if spec.type == "CR1" and spec.small_sample != "none" else 1.0
        return symmetrize(
            factor * (sums.T @ sums)
        ), f"unconditional, influence functions summed by {spec.column}"
    raise InferenceError(
        f"unconditional standard errors are not defined under {covariance.label}; use 'robust' or a "
        "cluster of one way."
    )
