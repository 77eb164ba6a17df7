"""jax.scipy's special functions in a user's program replaced by ours, by rewriting its jaxpr.

The replaced calls are known by their primitive (`lgamma`) or by their whole expression, which is compared
with that of jax.scipy as traced here and now; a user's own function of the same name is never touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlecov import functions
from mlecov.autodiff import jax, jax_special, jaxpr_literal, jnp, x64


def accurate(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, whose calls of jax.scipy's special functions are ours when JAX traces it.

    Replaced in float64: `log_ndtr` (so `norm.logcdf`, `norm.logsf`), the logarithm of `norm.cdf` and of one
    minus it, `gammaln`, `digamma`, `polygamma(1 | 2, .)` and `softplus`, inside `jit`, `scan`, `while` and
    `cond` too. Rules of derivatives the user wrote (`custom_jvp`, `custom_vjp`) are left as they are, and a
    function without such calls gives its own result. jax.scipy's second derivative of log Phi is off by
    2e-6 at -20; see `mlecov.functions`.

    >>> d2 = jax().grad(jax().grad(accurate(norm.logcdf)))  # doctest: +SKIP
    """

    @functools.wraps(function)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = jax().tree.flatten((args, kwargs))
        traced = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax().core.Tracer)]

        def flat(*values: Any) -> Any:
            filled = list(leaves)
            for i, value in zip(traced, values, strict=True):
                filled[i] = value
            again, named = jax().tree.unflatten(structure, filled)
            return function(*again, **named)

        if not traced:
            return function(*args, **kwargs)
        values = [leaves[i] for i in traced]
        closed, shapes = jax().make_jaxpr(flat, return_shape=True)(*values)
        if not _replaceable(closed.jaxpr):
            return function(*args, **kwargs)
        return jax().tree.unflatten(jax().tree.structure(shapes), accurate_jaxpr(closed)(*values))

    return evaluate


def accurate_jaxpr(closed: Any) -> Callable[..., list[Any]]:
    """Return a function of the flat arguments that evaluates `closed` with our special functions.

    It gives the list of flat results; see `accurate`.
    """

    def evaluate(*values: Any) -> list[Any]:
        literal = jaxpr_literal()
        environment = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        environment.update(zip(closed.jaxpr.invars, values, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, literal) else environment[atom]

        for equation, name, atoms in _plan(closed.jaxpr):
            arguments = [read(atom) for atom in atoms]
            with equation.ctx.manager:
                results = _bind(equation, arguments) if name is None else [_our(name)(*arguments)]
            environment.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in closed.jaxpr.outvars]

    return evaluate


def _our(name: str) -> Callable[..., Any]:
    if name == "log_ndtr_upper":
        return lambda x: functions.log_ndtr(-x)
    found: Callable[..., Any] = getattr(functions, name)
    return found


def _plan(jaxpr: Any) -> list[tuple[Any, str | None, list[Any]]]:
    """Return the equations still needed, in order: (equation, our name or None, arguments)."""
    producers = {variable: equation for equation in jaxpr.eqns for variable in equation.outvars}
    needed = {id(atom) for atom in jaxpr.outvars}
    plan = []
    for equation in reversed(jaxpr.eqns):
        if not equation.effects and not any(id(variable) in needed for variable in equation.outvars):
            continue
        name, atoms = _replacement(equation, producers)
        needed.update(id(atom) for atom in atoms)
        plan.append((equation, name, atoms))
    return plan[::-1]


def _replacement(equation: Any, producers: Mapping[Any, Any]) -> tuple[str | None, list[Any]]:
    """Return our function's name that stands for `equation` and its arguments, else (None, its own)."""
    kept = list(equation.invars)
    if len(equation.outvars) != 1 or getattr(equation.outvars[0].aval, "dtype", None) != np.float64:
        return None, kept
    primitive, shape = equation.primitive.name, equation.outvars[0].aval.shape
    direct = {"lgamma": "gammaln", "digamma": "digamma"}.get(primitive)
    if direct is not None:
        return direct, kept
    if primitive == "polygamma":
        order: Any = getattr(kept[0], "val", None)  # a literal carries its value, a variable has none
        known = order is not None and np.ndim(order) == 0 and kept[1].aval.shape == shape
        name = {1.0: "trigamma", 2.0: "tetragamma"}.get(float(order)) if known else None
        return (name, kept[1:]) if name else (None, kept)
    if primitive not in ("custom_jvp_call", "log", "log1p"):
        return None, kept
    for name, reference in _references(primitive, shape):
        variable = reference.jaxpr.invars[0]
        found: dict[Any, Any] = {}
        theirs = {v: e for e in reference.jaxpr.eqns for v in e.outvars}
        if _same(equation.outvars[0], reference.jaxpr.outvars[0], producers, theirs, variable, found):
            return name, [found[variable]]
    return None, kept


@functools.cache
def _references(primitive: str, shape: tuple[int, ...]) -> list[tuple[str, Any]]:
    """Return (our name, jaxpr of jax.scipy's function) of the calls known by their whole expression."""
    special, xp = jax_special(), jnp()
    known: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {
        "custom_jvp_call": [
            ("log_ndtr", special.log_ndtr),
            ("log1p_exp", lambda x: xp.logaddexp(x, 0.0)),
            ("log1p_exp", lambda x: xp.logaddexp(0.0, x)),
        ],
        "log": [
            ("log_ndtr", lambda x: xp.log(special.ndtr(x))),
            ("log_ndtr_upper", lambda x: xp.log(1.0 - special.ndtr(x))),
        ],
        "log1p": [("log_ndtr_upper", lambda x: xp.log1p(-special.ndtr(x)))],
    }
    with x64():
        # Python numbers are weakly typed, which shows in the text of a program
        arguments = [jax().ShapeDtypeStruct(shape, np.float64, weak_type=weak) for weak in (False, True)]
        return [
            (name, jax().make_jaxpr(function)(argument))
            for name, function in known[primitive]
            for argument in arguments
        ]


def _same(
    atom: Any,
    other: Any,
    producers: Mapping[Any, Any],
    theirs: Mapping[Any, Any],
    variable: Any,
    found: dict[Any, Any],
) -> bool:
    """Tell whether `atom` is computed as `other` is; what stands for `variable` goes to `found`."""
    literal = jaxpr_literal()
    if isinstance(other, literal):
        return isinstance(atom, literal) and bool(np.all(atom.val == other.val))
    if isinstance(atom, literal):
        return False
    if other is variable:
        return bool(found.setdefault(other, atom) is atom and atom.aval.shape == other.aval.shape)
    mine, their = producers.get(atom), theirs[other]
    if mine is None or mine.primitive is not their.primitive or len(mine.invars) != len(their.invars):
        return False
    # a printed jaxpr names its variables in order, so equal texts are equal programs
    bodies = [{k: str(v) for k, v in e.params.items() if k != "jvp_jaxpr_fun"} for e in (mine, their)]
    return bodies[0] == bodies[1] and all(
        _same(a, b, producers, theirs, variable, found)
        for a, b in zip(mine.invars, their.invars, strict=True)
    )


def _replaceable(jaxpr: Any) -> bool:
    """Tell whether anything in `jaxpr`, or in the programs it calls, would be replaced."""
    return any(
        name is not None or any(_replaceable(inner.jaxpr) for inner in _bodies(equation))
        for equation, name, _ in _plan(jaxpr)
    )


def _bodies(equation: Any) -> list[Any]:
    """Return the closed programs inside a `jit`, `scan`, `while` or `cond`."""
    keys = {"jit": ["jaxpr"], "scan": ["jaxpr"], "while": ["cond_jaxpr", "body_jaxpr"]}
    if equation.primitive.name == "cond":
        return list(equation.params["branches"])
    return [equation.params[key] for key in keys.get(equation.primitive.name, [])]


def _bind(equation: Any, arguments: list[Any]) -> list[Any]:
    """Apply the equation's own primitive, its inner programs rewritten where they need it."""
    params = equation.params
    if any(_replaceable(inner.jaxpr) for inner in _bodies(equation)):
        if equation.primitive.name == "jit":
            return accurate_jaxpr(params["jaxpr"])(*arguments)
        params = dict(params)
        if "branches" in params:
            params["branches"] = tuple(_rewritten(branch) for branch in params["branches"])
        for key in {"jaxpr", "cond_jaxpr", "body_jaxpr"} & set(params):
            params[key] = _rewritten(params[key])
    results = equation.primitive.bind(*arguments, **equation.primitive.get_bind_params(params))
    return list(results) if equation.primitive.multiple_results else [results]


def _rewritten(closed: Any) -> Any:
    """Return `closed` with our special functions, its arguments and results of the same types."""
    convert = jax().lax.convert_element_type

    def evaluate(*values: Any) -> list[Any]:
        results = accurate_jaxpr(closed)(*values)
        return [convert(r, aval.dtype) for r, aval in zip(results, closed.out_avals, strict=True)]

    arguments = [jax().ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in closed.in_avals]
    return jax().make_jaxpr(evaluate)(*arguments)
