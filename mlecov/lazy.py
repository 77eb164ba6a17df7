"""A module that is imported on first use, so that `import mlecov` stays cheap."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class LazyModule(ModuleType):
    """Stand for the module `name` until an attribute of it is asked for; attributes asked for are kept."""

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), attribute)
        setattr(self, attribute, value)
        return value


def lazy(name: str) -> Any:
    """Return a stand-in for the module `name` (for the one file that is its home)."""
    return LazyModule(name)
