"""The estimator and the model that CONTRIBUTING.md adds work as the text says, by its own tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mlecov.covariance import sandwich

TEXT = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def contributed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The text's Python as a module; what it registers is forgotten afterwards."""
    monkeypatch.setattr(sandwich, "ESTIMATORS", dict(sandwich.ESTIMATORS))
    module = ModuleType("contributed")
    monkeypatch.setitem(sys.modules, "contributed", module)
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.S):
        exec(compile(block, "CONTRIBUTING.md", "exec"), vars(module))
    return module


@pytest.mark.parametrize("name", ["test_batch_means", "test_rayleigh"])
def test_the_texts_own_tests_pass(contributed: ModuleType, name: str) -> None:
    vars(contributed)[name]()


def test_every_test_of_the_text_is_run() -> None:
    assert set(re.findall(r"^def (test_\w+)", TEXT, re.M)) == {"test_batch_means", "test_rayleigh"}
