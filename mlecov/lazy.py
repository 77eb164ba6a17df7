"""A module that is imported on first use, so that `import mlecov` stays cheap."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class LazyModule(ModuleType):
    """Stand for the module `name` until an attribute of it is asked for."""

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)


def lazy(name: str) -> Any:
    """Return a stand-in for the module `name` (for the one file that is its home)."""
    return LazyModule(name)
