"""Docstrings of the house as Markdown, for the reference: sections, lists of arguments, examples."""

from __future__ import annotations

import re
from typing import Any

import griffe

RULE = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.M)
ARGUMENT = re.compile(r"^(\S[^\n]*?)(?: :[^\n]*)?\n((?:(?: {4}[^\n]*)?\n)+)", re.M)
SECTIONS = {"Parameters", "Raises", "Returns"}


def argument(match: re.Match[str]) -> str:
    names = ", ".join(f"`{name.strip()}`" for name in match.group(1).split(","))
    text = " ".join(line.strip() for line in match.group(2).split("\n") if line.strip())
    return f"- {names}: {text}\n"


def listed(section: str) -> str:
    """Return a section of names with indented texts as a list; what follows stays as it is."""
    lines = section.strip("\n").split("\n")
    stop = next(
        (i for i in range(1, len(lines)) if not lines[i - 1] and lines[i] and _leaves(lines, i)), len(lines)
    )
    head = "\n".join(lines[:stop]) + "\n"
    return "\n" + ARGUMENT.sub(argument, head) + "\n" + "\n".join(lines[stop:]) + "\n"


def _leaves(lines: list[str], i: int) -> bool:
    """Whether line i, after a blank one, is text again rather than a further name."""
    following = lines[i + 1] if i + 1 < len(lines) else ""
    return not lines[i].startswith(" ") and not following.startswith("    ")


def markdown(text: str) -> str:
    """Return a docstring as Markdown."""
    parts = RULE.split(text + "\n")
    out = parts[0]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        out += f"\n**{title}**\n\n" + (listed(body) if title in SECTIONS else body.lstrip("\n"))
    return re.sub(
        r"(?:^[ ]{0,3}(?:>>> |\.\.\. )[^\n]*\n(?:(?!\n)[^\n]+\n)*)+",
        lambda found: f"\n```pycon\n{found.group(0)}```\n",
        out,
        flags=re.M,
    )


class HouseDocstrings(griffe.Extension):
    """Turn each docstring into Markdown as it is collected."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
