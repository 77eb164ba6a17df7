"""The only importer of JAX: lazy access, float64 scope, derivatives, compile-and-keep.

`import mlecov` must not load JAX, so the module is imported on first use through `jax()` and
`jnp()`; nothing here touches `jax.config`: float64 is switched on by a context manager.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import pickle
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

KERNEL_VERSION = "1"
"""Raised when derivative rules of ours change, so that kept kernels are made anew."""

MAX_KERNELS = 400
LOW_PRECISION = ("float32", "float16", "bfloat16", "complex64")


def jax() -> Any:
    """Return the module `jax`, imported on first use."""
    return importlib.import_module("jax")


def jnp() -> Any:
    """Return the module `jax.numpy`, imported on first use."""
    return importlib.import_module("jax.numpy")


def x64() -> Any:
    """Return a context manager inside which JAX computes in float64 (thread-local)."""
    return jax().enable_x64(True)


def is_jax(*values: Any) -> bool:
    """Tell whether any of `values` is a JAX array or tracer (False while JAX is not loaded)."""
    loaded = sys.modules.get("jax")
    return loaded is not None and any(isinstance(value, loaded.Array) for value in values)


# --- compile and keep ------------------------------------------------------------------------


def cache_folder() -> Path | None:
    """Return the folder where compiled kernels are kept between processes, None where switched off.

    `MLECOV_CACHE_DIR` names another folder; an empty value switches keeping off.
    """
    named = os.environ.get("MLECOV_CACHE_DIR")
    if named is not None:
        return Path(named) if named else None
    return Path(platformdirs.user_cache_dir("mlecov")) / "kernels"


@functools.cache
def _machine() -> str:
    """Return what an executable depends on besides its program: versions, system, processor."""
    flags = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        flags += "".join(line for line in lines[:60] if line.startswith(("flags", "Features", "model name")))
    parts = (platform.machine(), platform.system(), flags, jax().__version__, metadata.version("jaxlib"))
    return "|".join((*parts, sys.version, KERNEL_VERSION))


def program_key(closed: Any, *extra: object) -> str:
    """Return a name for the program `closed` (a closed jaxpr) on this machine."""
    digest = hashlib.sha256(_machine().encode())
    digest.update(re.sub(r" at 0x[0-9a-f]+", "", str(closed.jaxpr)).encode())
    for const in closed.consts:
        array = np.asarray(const)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    for part in extra:
        digest.update(repr(part).encode())
    return digest.hexdigest()[:40]


def compile_and_keep(function: Callable[..., Any], example: tuple[Any, ...], key: str | None) -> Any:
    """Return `function` compiled for arguments shaped as `example`, from the cache where it is there.

    The executable is loaded from the user's cache folder under `key`, or compiled and saved there;
    without a key it is compiled for this process alone. A file that can not be read is made anew.
    """
    folder = cache_folder() if key is not None else None
    # the program's text does not name the entries of its arguments, but a loaded executable asks for them
    names = hashlib.sha256(str(jax().tree_util.tree_structure(example)).encode()).hexdigest()[:12]
    path = folder / f"{key}-{names}.bin" if folder is not None else None
    with x64():
        if path is not None and path.exists():
            try:
                return _loaded(path, path.stat().st_mtime_ns)
            except Exception:  # a truncated or foreign file: compile again, below
                path.unlink(missing_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            executable = jax().jit(function).lower(*example).compile()
        if path is not None:
            serialize = importlib.import_module("jax.experimental.serialize_executable")
            _save(path, pickle.dumps(serialize.serialize(executable)))
        return executable


@functools.lru_cache(maxsize=64)
def _loaded(path: Path, modified: int) -> Any:
    """Return the executable of a file as it was when `modified` (ns), loaded once in a process."""
    del modified
    content = path.read_bytes()
    if b"lapack" in content:
        _prepare_lapack()
    serialize = importlib.import_module("jax.experimental.serialize_executable")
    return serialize.deserialize_and_load(*pickle.loads(content))


def _prepare_lapack() -> None:
    """Have jaxlib look up LAPACK, as lowering a linear algebra operation does.

    A kernel from disk was lowered in another process; without this its solve() or slogdet() jumps
    to address zero.
    """
    importlib.import_module("jaxlib.lapack").prepare_lapack_call("potrf_ffi", np.dtype(np.float64))


def _save(path: Path, content: bytes) -> None:
    """Write a kernel by rename, so that no reader sees half of it; keep the newest MAX_KERNELS."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as temporary:
            temporary.write(content)
        os.replace(temporary.name, path)
        kernels = sorted(path.parent.glob("*.bin"), key=lambda file: file.stat().st_mtime)
        for old in kernels[:-MAX_KERNELS]:
            old.unlink(missing_ok=True)
    except OSError:
        return  # a read-only home: the kernel serves this process alone


def trace(function: Callable[..., Any], *example: Any) -> Any:
    """Return the closed jaxpr of `function` in float64 for arguments shaped as `example`."""
    with x64():
        return jax().make_jaxpr(function)(*example)


def single_precision(closed: Any) -> list[str]:
    """Return descriptions of values of less than float64 in a closed jaxpr: constants first."""
    found = [
        f"a constant of shape {np.shape(const)} and type {np.asarray(const).dtype}"
        for const in closed.consts
        if str(np.asarray(const).dtype) in LOW_PRECISION
    ]
    for equation in closed.jaxpr.eqns:
        for variable in equation.outvars:
            if str(getattr(variable.aval, "dtype", "")) in LOW_PRECISION:
                found.append(f"the result of {equation.primitive.name} ({variable.aval.dtype})")
    return found


def x64_if_loaded() -> Any:
    """Return the float64 scope where JAX is loaded, else one that does nothing."""
    return x64() if "jax" in sys.modules else contextlib.nullcontext()


def is_tracer_error(error: Exception) -> bool:
    """Tell whether an exception means that a function can not be traced (numpy or scipy inside)."""
    errors = jax().errors
    known = (errors.TracerArrayConversionError, errors.ConcretizationTypeError, errors.UnexpectedTracerError)
    return isinstance(error, (*known, errors.NonConcreteBooleanIndexError)) or "JAX" in str(error)


def traceable(function: Callable[[Any], Any], example: Any) -> bool:
    """Tell whether JAX can trace `function` at arguments like `example`."""
    try:
        trace(function, example)
    except Exception as error:
        if not is_tracer_error(error):
            raise
        return False
    return True


def value_and_jacobian(function: Callable[[Any], Any], at: npt.NDArray[np.float64]) -> Any:
    """Return f(x) (n,) and df/dx (n, k) by forward mode, both as numpy arrays."""
    with x64():
        value, push = jax().linearize(function, at)
        columns = [np.asarray(push(row)) for row in np.eye(len(at))]
        return np.asarray(value), np.column_stack(columns)


def has_custom_rules(closed: Any) -> bool:
    """Tell whether a closed jaxpr holds derivative rules that its text does not show."""
    return "custom_jvp_call" in (text := str(closed.jaxpr)) or "custom_vjp_call" in text


def jaxpr_literal() -> Any:
    """Return JAX's class of the literals in a jaxpr."""
    return importlib.import_module("jax.extend.core").Literal


def jax_special() -> Any:
    """Return the module `jax.scipy.special`."""
    return importlib.import_module("jax.scipy.special")
