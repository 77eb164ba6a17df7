"""The guide's examples run and print what the pages show; its lists are those of the package.

`python -m tests.test_docs` writes outputs and lists into the pages anew.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

import mlecov as ml
from mlecov.models import HOMES, names

PAGES = Path(__file__).resolve().parents[1] / "docs" / "pages"
GUIDE = sorted(path.stem for path in PAGES.glob("*.md"))
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.S)
NUMBER = re.compile(r"(?<![\w.])-?\d+\.?\d*(?:e[-+]\d+)?")


def run(code: str, namespace: dict[str, Any], where: str) -> str:
    """Return what a block prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, where, "exec"), namespace)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def same(printed: str, shown: str) -> bool:
    """Whether two outputs agree: words exactly, numbers to the digits that another processor leaves alone."""
    left, right = (re.sub(r"[-=]{4,}", "", text).split() for text in (printed, shown))
    return len(left) == len(right) and all(map(_same_word, left, right))


def _same_word(left: str, right: str) -> bool:
    numbers = [re.findall(NUMBER, word) for word in (left, right)]
    if re.sub(NUMBER, "#", left) != re.sub(NUMBER, "#", right):
        return False
    return all(
        math.isclose(float(a), float(b), rel_tol=2e-4, abs_tol=1e-9) for a, b in zip(*numbers, strict=True)
    )


def table_of_models() -> str:
    """Return the list of models with the first sentences of their docstrings."""
    rows = ["| model | |", "|---|---|"]
    for name in names():
        first = (getattr(ml.models, name).__doc__ or "").strip().split("\n\n")[0]
        text = (
            " ".join(first.split()).replace("|", "\\|").removeprefix("Return the likelihood of ").rstrip(".")
        )
        rows.append(f"| [`{name}`](api/models.md#mlecov.models.{HOMES[name]}.{name}) | {text} |")
    return "\n".join(rows)


def reference_of_models() -> str:
    """Return the directives that make the reference of the models."""
    return "\n".join(f"::: mlecov.models.{HOMES[name]}.{name}" for name in names())


LISTS = {
    "models": ("models.md", table_of_models),
    "reference": ("api/models.md", reference_of_models),
}


def between(text: str, mark: str) -> re.Match[str]:
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- end -->", text, re.S)
    assert found is not None, f"no <!-- {mark} --> ... <!-- end -->"
    return found


@pytest.mark.parametrize("page", GUIDE)
def test_examples_print_what_the_page_shows(page: str) -> None:
    namespace: dict[str, Any] = {"__name__": page}
    for code, shown in BLOCK.findall((PAGES / f"{page}.md").read_text(encoding="utf-8")):
        printed = run(code, namespace, f"{page}.md")
        assert same(printed, shown), f"{page}.md shows\n{shown}\nbut its example prints\n{printed}"


@pytest.mark.parametrize("mark", LISTS)
def test_lists_are_those_of_the_package(mark: str) -> None:
    page, make = LISTS[mark]
    assert between((PAGES / page).read_text(encoding="utf-8"), mark).group(1) == f"{make()}\n"


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (PAGES / "api").glob("*.md"))
    told = set(re.findall(r"^::: mlecov\.(?:\w+\.)*(\w+)$", text, re.M))
    pages = {
        "models",
        "MlecovError",
        "MlecovWarning",
        "least_squares",
        "nonlinear_least_squares",
    }  # whole modules
    assert [name for name in ml.__all__ if name not in told | pages] == []


def test_every_page_is_in_the_navigation() -> None:
    text = (PAGES.parent / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(path.relative_to(PAGES)).replace(os.sep, "/") for path in PAGES.rglob("*.md")}
    assert set(re.findall(r": (\S+\.md)$", text, re.M)) == pages


def refresh(page: Path) -> None:
    """Write what the examples print into a page."""
    namespace: dict[str, Any] = {"__name__": page.stem}

    def answer(match: re.Match[str]) -> str:
        printed = run(match.group(1), namespace, page.name)
        return f"```python\n{match.group(1)}```" + (f"\n\n```text\n{printed}```" if printed else "")

    page.write_text(BLOCK.sub(answer, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("error")
    for stem in GUIDE:
        refresh(PAGES / f"{stem}.md")
    for key, (file, maker) in LISTS.items():
        content = (PAGES / file).read_text(encoding="utf-8")
        start, end = between(content, key).span(1)
        (PAGES / file).write_text(f"{content[:start]}{maker()}\n{content[end:]}", encoding="utf-8")
