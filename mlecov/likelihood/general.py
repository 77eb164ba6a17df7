"""The general engine: a function of whole parameters, terms of any shape.

`GeneralLikelihood` holds the declaration; an `Engine` supplies derivatives of the function with
respect to the raw coordinates: by JAX (`AutodiffEngine`), by the user (`AnalyticEngine`) or by
extrapolated differences (`NumericEngine`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlecov import autodiff
from mlecov.accurate import accurate
from mlecov.data import Rows, Weights
from mlecov.errors import CovarianceError, DerivativeError, EvaluationError, SeparabilityError
from mlecov.likelihood.base import Curvature, Evaluation, Facts, Likelihood, no_expected_information
from mlecov.likelihood.design import Design, Equation
from mlecov.likelihood.scores import Codes, DenseScores
from mlecov.likelihood.simulated import simulated
from mlecov.likelihood.traced import extrapolate
from mlecov.parameters import LinearKind, ParameterSpace

Array = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Call:
    """How a user's function is called from raw coordinates: (raw, columns) -> loglike_obs (n,)."""

    function: Callable[..., Any]
    space: ParameterSpace
    columns: tuple[str, ...]
    constants: Mapping[str, Any]
    designs: Mapping[str, str] = field(default_factory=dict)
    offsets: Mapping[str, str] = field(default_factory=dict)
    drop_first: int = 0
    parameters: tuple[str, ...] | None = None

    def arguments(self, raw: Any, columns: Mapping[str, Any], xp: Any) -> dict[str, Any]:
        """Return the call's arguments; a linear parameter is handed over as its predictor."""
        found: dict[str, Any] = dict(self.constants)
        for p in self.space:
            if self.parameters is not None and p.name not in self.parameters:
                continue
            part = raw[p.free]
            if not isinstance(p.kind, LinearKind):
                found[p.name] = p.kind.value(part, xp)
                continue
            design = columns[self.designs[p.name]]
            eta = design @ (xp.reshape(part, p.kind.shape).T if p.kind.equations else part)
            found[p.name] = eta + columns[self.offsets[p.name]] if p.name in self.offsets else eta
        found.update({name: columns[name] for name in self.columns})
        return found

    def __call__(self, raw: Any, columns: Mapping[str, Any], xp: Any, n: int) -> Any:
        """Return loglike_obs (n,), refusing any other shape."""
        result = xp.asarray(self.function(**self.arguments(raw, columns, xp)))
        if self.drop_first and result.shape == (n + self.drop_first,):
            result = result[self.drop_first :]
        if result.shape != (n,):
            raise EvaluationError(
                f"the log-likelihood returned shape {result.shape}; expected ({n},): one value per term. "
                "Return the contributions themselves, neither their sum nor a column (n, 1); look for columns "
                "of shape (n, 1) among the data."
            )
        return result

    @property
    def all_columns(self) -> tuple[str, ...]:
        """Every key of the columns that a call reads, designs and offsets among them."""
        return (*self.columns, *self.designs.values(), *self.offsets.values())


class Engine(ABC):
    """Derivatives of loglike_obs with respect to the raw coordinates (K)."""

    label: str

    @abstractmethod
    def value(self, raw: Array, columns: Columns, n: int) -> Array:
        """Return loglike_obs (n,)."""

    @abstractmethod
    def scores(self, raw: Array, columns: Columns, n: int) -> Array:
        """Return the scores (n, K)."""

    @abstractmethod
    def gradient(self, raw: Array, columns: Columns, w: Array) -> tuple[Array, Array]:
        """Return loglike_obs (n,) and the weighted gradient (K,)."""

    @abstractmethod
    def hessian(self, raw: Array, columns: Columns, w: Array) -> tuple[Array, Array, Array]:
        """Return loglike_obs (n,), the weighted gradient (K,) and Hessian (K, K)."""

    def check(self, raw: Array, columns: Columns, n: int, names: tuple[str, ...]) -> None:  # noqa: B027
        """Raise DerivativeError where the derivatives are the user's and disagree with the function."""


@dataclass(frozen=True)
class AutodiffEngine(Engine):
    """Derivatives by JAX: forward mode for scores, forward over reverse for the Hessian.

    Kernels are compiled for the shapes of the data and kept on disk like all others.
    """

    call: Call
    kernels: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    label = "autodiff"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kernels": {}}  # compiled programs do not travel; they are loaded again

    def _kernel(self, kind: str, raw: Array, columns: Columns, n: int) -> Any:
        shapes = tuple((name, columns[name].shape, str(columns[name].dtype)) for name in sorted(columns))
        if (kind, n, shapes) not in self.kernels:
            jax, jnp = autodiff.jax(), autodiff.jnp()
            example = (
                jax.ShapeDtypeStruct(raw.shape, np.float64),
                {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in columns.items()},
                jax.ShapeDtypeStruct((n,), np.float64),
            )

            def plain(u: Any, data: Any, w: Any) -> Any:
                return self.call(u, data, jnp, n)

            closed = autodiff.trace(plain, *example)
            value = accurate(lambda u, data: self.call(u, data, jnp, n))
            kernel = _kernels(value)[kind]
            if autodiff.has_custom_rules(closed):
                closed = autodiff.trace(kernel, *example)
            key = autodiff.program_key(closed, "general", kind, n)
            self.kernels[kind, n, shapes] = autodiff.compile_and_keep(kernel, example, key)
        return self.kernels[kind, n, shapes]

    def _run(self, kind: str, raw: Array, columns: Columns, w: Array) -> Any:
        used = {name: columns[name] for name in dict.fromkeys(self.call.all_columns)}
        with autodiff.x64():
            found = self._kernel(kind, raw, used, len(w))(np.asarray(raw, dtype=float), used, w)
        return [np.asarray(part) for part in found]

    def value(self, raw: Array, columns: Columns, n: int) -> Array:
        return np.asarray(self._run("value", raw, columns, np.ones(n))[0])

    def scores(self, raw: Array, columns: Columns, n: int) -> Array:
        return np.asarray(self._run("scores", raw, columns, np.ones(n))[0])

    def gradient(self, raw: Array, columns: Columns, w: Array) -> tuple[Array, Array]:
        value, gradient = self._run("gradient", raw, columns, w)
        return value, gradient

    def hessian(self, raw: Array, columns: Columns, w: Array) -> tuple[Array, Array, Array]:
        value, gradient, hessian = self._run("hessian", raw, columns, w)
        return value, gradient, hessian


def _kernels(value: Callable[[Any, Any], Any]) -> dict[str, Callable[..., Any]]:
    """Return the functions (raw, columns, w) -> tuple that are compiled."""
    jax, jnp = autodiff.jax(), autodiff.jnp()

    def total(u: Any, data: Any, w: Any) -> Any:
        terms = value(u, data)
        return w @ terms, terms

    def scores(u: Any, data: Any, w: Any) -> Any:
        # Tangents one after another: n x K stays the only array of that size.
        push = jax.linearize(lambda q: value(q, data), u)[1]
        return (jnp.stack([push(row) for row in jnp.eye(len(u))], axis=1),)

    def gradient(u: Any, data: Any, w: Any) -> Any:
        slope, terms = jax.grad(total, has_aux=True)(u, data, w)
        return terms, slope

    def hessian(u: Any, data: Any, w: Any) -> Any:
        slope, push, terms = jax.linearize(
            lambda q: jax.grad(total, has_aux=True)(q, data, w), u, has_aux=True
        )
        return terms, slope, jax.vmap(push)(jnp.eye(len(u)))

    return {
        "value": lambda u, data, w: (value(u, data),),
        "scores": scores,
        "gradient": gradient,
        "hessian": hessian,
    }


@dataclass(frozen=True)
class NumericEngine(Engine):
    """Derivatives by central differences with Richardson extrapolation (Ridders 1982)."""

    call: Call
    label = "numeric"

    def value(self, raw: Array, columns: Columns, n: int) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(self.call(raw, columns, np, n), dtype=float)

    def _steps(self, raw: Array, columns: Columns, w: Array) -> Array:
        """Return per coordinate a step that moves the log-likelihood by about one, inside the support."""
        base = float(w @ self.value(raw, columns, len(w)))
        steps = 0.1 * np.maximum(np.abs(raw), 1.0)
        for j in range(len(raw)):
            for _ in range(60):
                moves = [self._shifted(raw, j, sign * steps[j]) for sign in (1, -1)]
                change = [abs(float(w @ self.value(move, columns, len(w))) - base) for move in moves]
                if np.isfinite(change).all() and max(change) <= 2.0:
                    break
                steps[j] /= 2
        return steps

    @staticmethod
    def _shifted(raw: Array, j: int, step: float) -> Array:
        moved = raw.copy()
        moved[j] += step
        return moved

    def scores(self, raw: Array, columns: Columns, n: int) -> Array:
        steps = self._steps(raw, columns, np.ones(n))
        found = np.empty((n, len(raw)))
        for j, step in enumerate(steps):

            def quotient(h: float, j: int = j, step: float = step) -> Array:
                up = self.value(self._shifted(raw, j, h * step), columns, n)
                return (up - self.value(self._shifted(raw, j, -h * step), columns, n)) / (2 * h * step)

            found[:, j] = extrapolate(quotient, 1.0)
        return found

    def gradient(self, raw: Array, columns: Columns, w: Array) -> tuple[Array, Array]:
        return self.value(raw, columns, len(w)), w @ self.scores(raw, columns, len(w))

    def hessian(self, raw: Array, columns: Columns, w: Array) -> tuple[Array, Array, Array]:
        value, gradient = self.gradient(raw, columns, w)
        steps = self._steps(raw, columns, w)
        k, base = len(raw), float(w @ value)
        found = np.empty((k, k))

        def at(*moves: tuple[int, float]) -> float:
            moved = raw.copy()
            for j, step in moves:
                moved[j] += step
            return float(w @ self.value(moved, columns, len(w)))

        for i in range(k):
            for j in range(i, k):

                def quotient(h: float, i: int = i, j: int = j) -> Array:
                    a, b = h * steps[i], h * steps[j]
                    if i == j:
                        return np.array((at((i, a)) - 2 * base + at((i, -a))) / a**2)
                    cross = (
                        at((i, a), (j, b)) + at((i, -a), (j, -b)) - at((i, a), (j, -b)) - at((i, -a), (j, b))
                    )
                    return np.array(cross / (4 * a * b))

                found[i, j] = found[j, i] = float(extrapolate(quotient, 1.0, levels=5))
        return value, gradient, found


@dataclass(frozen=True)
class AnalyticEngine(Engine):
    """Derivatives given by the user, in the user's parameters; the transforms are applied here.

    S_raw = S_user J and H_raw = J' H_user J + sum_i g_i d2 params_i. Without a Hessian function the
    Hessian is had by extrapolated central differences of the user's gradient.
    """

    call: Call
    score: Callable[[Array, Columns], Any]
    second: Callable[[Array, Columns], Any] | None
    label = "analytic"

    def value(self, raw: Array, columns: Columns, n: int) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(self.call(raw, columns, np, n), dtype=float)

    def _user_scores(self, raw: Array, columns: Columns, n: int) -> Array:
        """Return the user's scores (n, m) in the reported entries."""
        given = self.score(raw, columns)
        space = self.call.space
        if not isinstance(given, Mapping):
            array = np.asarray(given, dtype=float)
            if array.shape != (n, space.m):
                raise DerivativeError(
                    f"score returned shape {array.shape}; expected ({n}, {space.m}): one row per term, one column "
                    f"per parameter in the order {', '.join(space.labels)}."
                )
            return array
        found = np.zeros((n, space.m))
        for p in space:
            if p.name not in given:
                if p.kind.n_free:
                    raise DerivativeError(f"score returned no entry for parameter {p.name!r}.")
                continue
            part = np.asarray(given[p.name], dtype=float)
            flat = part.reshape(n, -1) if part.shape[:1] == (n,) else np.empty((0, 0))
            if isinstance(p.kind, LinearKind) and part.shape in ((n,), (n, max(len(p.kind.equations), 1))):
                design = columns[self.call.designs[p.name]]
                found[:, p.reported] = np.concatenate(
                    [flat[:, [j]] * design for j in range(flat.shape[1])], axis=1
                )
            elif flat.shape == (n, p.kind.n_reported):
                found[:, p.reported] = flat
            else:
                raise DerivativeError(
                    f"score[{p.name!r}] has shape {part.shape}; expected ({n},) for a scalar or linear parameter, "
                    f"({n}, {p.kind.n_reported}) for an array."
                )
        return found

    def scores(self, raw: Array, columns: Columns, n: int) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(self._user_scores(raw, columns, n) @ self.call.space.jacobian(raw))

    def gradient(self, raw: Array, columns: Columns, w: Array) -> tuple[Array, Array]:
        return self.value(raw, columns, len(w)), w @ self.scores(raw, columns, len(w))

    def hessian(self, raw: Array, columns: Columns, w: Array) -> tuple[Array, Array, Array]:
        n = len(w)
        value, gradient = self.gradient(raw, columns, w)
        space = self.call.space
        if self.second is not None and (w == 1).all():
            with np.errstate(all="ignore"):
                given = np.asarray(self.second(raw, columns), dtype=float)
            if given.shape != (space.m, space.m):
                raise DerivativeError(
                    f"hessian returned shape {given.shape}; expected ({space.m}, {space.m}), in the order "
                    f"{', '.join(space.labels)}."
                )
            jacobian = space.jacobian(raw)
            user_gradient = w @ self._user_scores(raw, columns, n)
            return value, gradient, jacobian.T @ given @ jacobian + space.second(raw, user_gradient)
        found = np.empty((len(raw), len(raw)))
        for j in range(len(raw)):
            step = 0.02 * max(abs(raw[j]), 1.0)

            def quotient(h: float, j: int = j, step: float = step) -> Array:
                up = w @ self.scores(NumericEngine._shifted(raw, j, h * step), columns, n)
                down = w @ self.scores(NumericEngine._shifted(raw, j, -h * step), columns, n)
                return np.asarray((up - down) / (2 * h * step))

            found[j] = extrapolate(quotient, 1.0)
        return value, gradient, 0.5 * (found + found.T)

    def check(self, raw: Array, columns: Columns, n: int, names: tuple[str, ...]) -> None:
        given = self.scores(raw, columns, n)
        compare_scores(given, NumericEngine(self.call).scores(raw, columns, n), names)
        if self.second is not None:
            w = np.ones(n)
            own = self.hessian(raw, columns, w)[2]
            differenced = replace(self, second=None).hessian(raw, columns, w)[2]
            compare_hessians(own, differenced, names)


def compare_scores(given: Array, reference: Array, names: tuple[str, ...]) -> None:
    """Raise DerivativeError naming the columns of `given` (n, K) that differ from differences."""
    lines = []
    for j, name in enumerate(names):
        size = np.abs(reference[:, j]).max() + 1e-300
        error = np.abs(given[:, j] - reference[:, j]).max() / size
        if error <= 1e-5 or (size < 1e-8 and np.abs(given[:, j]).max() < 1e-8):
            continue
        flipped = np.abs(given[:, j] + reference[:, j]).max() / size <= 1e-5
        i = int(np.nanargmax(np.abs(given[:, j] - reference[:, j]))) if np.isfinite(given[:, j]).any() else 0
        remark = "; it is minus the derivative: wrong sign" if flipped else ""
        lines.append(
            f"  {name}: term {i} is {given[i, j]:.8g}, differences give {reference[i, j]:.8g}{remark}"
        )
    if lines:
        raise DerivativeError(
            "score disagrees with differences of the log-likelihood (in the unconstrained coordinates):\n"
            + "\n".join(lines)
            + "\nmlecov.check_derivatives(likelihood) shows every parameter."
        )


def compare_hessians(given: Array, reference: Array, names: tuple[str, ...]) -> None:
    """Raise DerivativeError naming the entries of `given` (K, K) that differ from the score's differences."""
    scale = np.sqrt(np.abs(np.outer(np.diag(reference), np.diag(reference)))) + 1e-300
    bad = np.argwhere(~(np.abs(given - reference) <= 1e-5 * scale))
    if len(bad):
        i, j = bad[0]
        flipped = np.abs(given + reference).max() <= 1e-5 * scale.max()
        remark = " It is minus the Hessian: wrong sign." if flipped else ""
        raise DerivativeError(
            f"hessian disagrees with differences of the score in {len(bad)} entries, first "
            f"({names[i]}, {names[j]}): {given[i, j]:.8g} against {reference[i, j]:.8g}.{remark}"
        )


@dataclass(frozen=True)
class GeneralLikelihood(Likelihood):
    """A likelihood in whole parameters, with derivatives from an engine; a term may span rows."""

    space: ParameterSpace
    rows: Rows
    weights: Weights | None
    facts: Facts
    engine: Engine
    columns: Columns
    separable: bool
    count: int
    expected_matrix: Callable[[Array], Array] | None = None
    design: Design | None = None
    equations: tuple[Equation, ...] = ()
    simulator: Callable[..., Any] | None = None
    resubset: Callable[[npt.NDArray[np.intp]], Likelihood] | None = None

    @property
    def n_terms(self) -> int:
        return self.count

    @cached_property
    def _ones(self) -> Array:
        return np.ones(self.count)

    def evaluate(
        self, theta: Array, *, order: int = 0, scores: bool = False, weights: Array | None = None
    ) -> Evaluation:
        w = self.term_weights(weights)
        w = self._ones if w is None else w
        raw = np.asarray(theta, dtype=float)
        gradient = hessian = None
        if order >= 2:
            terms, gradient, hessian = self.engine.hessian(raw, self.columns, w)
        elif order == 1:
            terms, gradient = self.engine.gradient(raw, self.columns, w)
        else:
            terms = self.engine.value(raw, self.columns, self.count)
        found = None
        if scores:
            found = DenseScores(self.engine.scores(raw, self.columns, self.count), self.weights)
            gradient = w @ found.matrix if gradient is None else gradient
        return Evaluation(raw, float(w @ terms), gradient, hessian, found, terms)

    def subset(self, terms: npt.NDArray[np.intp]) -> Likelihood:
        if self.resubset is None:
            raise SeparabilityError(
                f"{self.facts.name} is not separable (its terms depend on each other's rows), so terms can not be "
                "drawn or left out one by one."
            )
        return self.resubset(terms)

    @property
    def has_expected_information(self) -> bool:
        return self.expected_matrix is not None

    def information(self, theta: Array) -> Array:
        if self.expected_matrix is None:
            raise CovarianceError(no_expected_information(self.facts.name))
        return self.expected_matrix(theta)

    def curvature_blocks(
        self, theta: Array, codes: Codes, n_groups: int, kind: Curvature
    ) -> Iterator[tuple[npt.NDArray[np.intp], Array]]:
        """Each group's information as the Hessian of the likelihood weighted by membership."""
        if kind == "expected":
            raise CovarianceError(no_expected_information(self.facts.name))
        for group in range(n_groups):
            member = (codes == group).astype(float)
            hessian = self.evaluate(theta, order=2, weights=member).hessian
            assert hessian is not None
            yield np.array([group], dtype=np.intp), -hessian[None]

    def check_derivatives(self, theta: Array) -> None:
        rng = np.random.default_rng(20)
        names = self.space.raw_labels
        for _ in range(2):
            point = theta + 0.01 * rng.standard_normal(len(theta)) * np.maximum(np.abs(theta), 0.1)
            if np.isfinite(self.engine.value(point, self.columns, self.count)).all():
                self.engine.check(point, self.columns, self.count, names)

    def check_final(self, evaluation: Evaluation) -> None:
        if evaluation.scores is None or evaluation.gradient is None:
            return
        total = evaluation.scores.sum()
        size = np.sqrt(np.diag(evaluation.scores.gram(power=1))) + 1e-300
        worst = int(np.argmax(np.abs(total - evaluation.gradient) / size))
        if abs(total[worst] - evaluation.gradient[worst]) > 1e-6 * size[worst]:
            raise SeparabilityError(
                f"the scores of {self.space.free_labels[worst]} add up to {total[worst]:.8g}, but the gradient is "
                f"{evaluation.gradient[worst]:.8g}: the terms are not separate as declared."
            )

    def simulate(self, rng: np.random.Generator, theta: Array) -> Likelihood:
        if self.simulator is None:
            return super().simulate(rng, theta)
        call = self.engine.call  # type: ignore[attr-defined]
        drawn = simulated(
            self.simulator, rng, call.arguments(np.asarray(theta), self.columns, np), self.columns
        )
        return replace(self, columns={**self.columns, **drawn})
