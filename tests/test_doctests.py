"""Every example in a docstring runs."""

import doctest
import importlib
import warnings
from pathlib import Path

import pytest

import mlecov

PACKAGE = Path(mlecov.__file__).parent
MODULES = [
    ".".join(("mlecov", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.stem != "__main__" and "_datasets" not in path.parts
]


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in MODULES
        if ">>>" in Path(importlib.import_module(n).__file__ or "").read_text(encoding="utf-8")
    ],
)
def test_examples(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        failed, _ = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert failed == 0
