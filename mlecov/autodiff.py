"""The only importer of JAX: lazy access, float64 scope, derivatives, compile-and-keep.

`import mlecov` must not load JAX, so the module is imported on first use through `jax()` and
`jnp()`; nothing here touches `jax.config`: float64 is switched on by a context manager.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


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
