"""Rows to text, HTML, LaTeX, CSV and JSON: one table type for everything that is printed."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlecov.errors import SpecificationError

STYLE = (
    "border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.5em 0;"
    "font-family:system-ui,sans-serif;font-size:.9em"
)


def number(value: Any, digits: int = 6) -> str:
    """Return a number to `digits` significant places, blank for NaN and None.

    >>> number(0.0001234567), number(float("nan")), number(12)
    ('0.000123457', '', '12')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    value = float(value)
    if value == 0 or 1e-5 <= abs(value) < 10 ** (digits + 3):
        text = f"{value:.{max(digits - 1 - (math.floor(math.log10(abs(value))) if value else 0), 0)}f}"
        return text if abs(value) >= 1e-4 or value == 0 else f"{value:.{digits}g}"
    return f"{value:.{digits - 1}e}"


def pvalue(value: float) -> str:
    """Return a p-value to three places, "<0.001" where it is smaller, blank for NaN."""
    if value is None or math.isnan(value):
        return ""
    return "<0.001" if value < 0.0005 else f"{value:.3f}"


@dataclass(frozen=True)
class Group:
    """Rows under a heading (an equation); cells are text already."""

    title: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Display:
    """A title, facts, a table in groups, and notes, rendered on request."""

    title: str
    facts: tuple[tuple[str, str], ...]
    header: tuple[str, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    records: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()

    def render(self, form: str) -> str:
        """Return the table as text, html, latex, csv or json."""
        forms = {
            "text": self.text,
            "html": self.html,
            "latex": self.latex,
            "csv": self.csv,
            "json": self.json,
        }
        if form not in forms:
            raise SpecificationError(f"format {form!r} is not known; expected one of {', '.join(forms)}.")
        return forms[form]()

    def text(self) -> str:
        """Return plain text with aligned columns."""
        titled = len(self.groups) > 1 or any(group.title for group in self.groups)
        rows = [row for group in self.groups for row in group.rows]
        indent = 2 if titled else 0
        widths = [len(cell) for cell in self.header]
        for row in rows:
            for j, cell in enumerate(row):
                widths[j] = max(widths[j], len(cell) + (indent if j == 0 else 0))
        for group in self.groups:
            widths[0] = max(widths[0], len(group.title))
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [self.title, "=" * len(rule)] if self.title else ["=" * len(rule)]
        lines += _facts_text(self.facts, len(rule))
        if self.facts:
            lines.append(rule)
        lines += [_line(self.header, widths, 0), rule]
        for group in self.groups:
            if group.title:
                lines.append(group.title)
            lines += [_line(row, widths, indent if group.title else 0) for row in group.rows]
        lines.append("=" * len(rule))
        for note in self.notes:
            lines += _wrap(note, max(len(rule), 60))
        return "\n".join(line.rstrip() for line in lines)

    def html(self) -> str:
        """Return an HTML table, for notebooks."""
        cell = 'style="text-align:right;padding:.15em .7em"'
        first = 'style="text-align:left;padding:.15em .7em"'
        parts = [f'<table style="{STYLE}">']
        if self.title:
            parts.append(
                f'<caption style="text-align:left;font-weight:600;padding:.3em .7em">{html.escape(self.title)}</caption>'
            )
        span = len(self.header)
        if self.facts:
            facts = " &nbsp;·&nbsp; ".join(
                f"{html.escape(key)}: <b>{html.escape(value)}</b>" for key, value in self.facts
            )
            parts.append(
                f'<thead><tr><td colspan="{span}" style="text-align:left;padding:.3em .7em;opacity:.85">{facts}</td></tr>'
            )
        else:
            parts.append("<thead>")
        rule = "border-top:2px solid currentColor;border-bottom:1px solid currentColor"
        heads = "".join(
            f'<th style="text-align:{"left" if j == 0 else "right"};padding:.25em .7em;{rule}">{html.escape(h)}</th>'
            for j, h in enumerate(self.header)
        )
        parts.append(f"<tr>{heads}</tr></thead><tbody>")
        for group in self.groups:
            if group.title:
                parts.append(
                    f'<tr><th colspan="{span}" style="text-align:left;padding:.4em .7em .1em">'
                    f"{html.escape(group.title)}</th></tr>"
                )
            for row in group.rows:
                cells = "".join(
                    f"<td {first if j == 0 else cell}>{html.escape(c)}</td>" for j, c in enumerate(row)
                )
                parts.append(f"<tr>{cells}</tr>")
        parts.append("</tbody>")
        if self.notes:
            notes = "<br>".join(html.escape(note) for note in self.notes)
            parts.append(
                f'<tfoot><tr><td colspan="{span}" style="text-align:left;padding:.4em .7em;'
                f'border-top:2px solid currentColor;max-width:45em;font-size:.92em">{notes}</td></tr></tfoot>'
            )
        parts.append("</table>")
        return "\n".join(parts)

    def latex(self) -> str:
        """Return a booktabs tabular inside a table environment."""
        lines = [r"\begin{table}", r"\centering"]
        if self.title:
            lines.append(rf"\caption{{{_tex(self.title)}}}")
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}", r"\toprule"]
        lines += [" & ".join(_tex(h) for h in self.header) + r" \\", r"\midrule"]
        for i, group in enumerate(self.groups):
            if group.title:
                if i:
                    lines.append(r"\addlinespace")
                lines.append(rf"\multicolumn{{{len(self.header)}}}{{l}}{{\textit{{{_tex(group.title)}}}}} \\")
            lines += [" & ".join(_tex(cell) for cell in row) + r" \\" for row in group.rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
        shown = [f"{key}: {value}." for key, value in self.facts] + list(self.notes)
        if shown:
            lines.append(rf"\par\smallskip\footnotesize {' '.join(_tex(text) for text in shown)}")
        return "\n".join([*lines, r"\end{table}"])

    def csv(self) -> str:
        """Return the records, at full precision, as comma-separated values."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        if self.records:
            writer.writerow(list(self.records[0]))
            writer.writerows([list(record.values()) for record in self.records])
        return out.getvalue().rstrip("\n")

    def json(self) -> str:
        """Return title, facts, records and notes as JSON (NaN as null)."""
        clean = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
            for record in self.records
        ]
        return json.dumps(
            {"title": self.title, "facts": dict(self.facts), "rows": clean, "notes": list(self.notes)},
            indent=2,
        )


def _line(cells: Sequence[str], widths: Sequence[int], indent: int) -> str:
    first = (" " * indent + cells[0]).ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([first, *rest])


def _facts_text(facts: Sequence[tuple[str, str]], width: int) -> list[str]:
    cells = [f"{key}: {value}" for key, value in facts]
    lines: list[str] = []
    half = max((len(cell) for cell in cells[::2]), default=0) + 3
    for left, right in zip(cells[::2], [*cells[1::2], ""], strict=False):
        joined = left.ljust(half) + right
        lines += [joined.rstrip()] if len(joined) <= max(width, 72) else [left, right]
    return [line for line in lines if line]


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = "  " + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _tex(text: str) -> str:
    for raw, safe in (
        ("\\", r"\textbackslash "),
        ("&", r"\&"),
        ("%", r"\%"),
        ("$", r"\$"),
        ("#", r"\#"),
        ("_", r"\_"),
        ("{", r"\{"),
        ("}", r"\}"),
        ("~", r"\textasciitilde "),
        ("^", r"\textasciicircum "),
        ("<", r"$<$"),
        (">", r"$>$"),
    ):
        if raw in ("{", "}"):
            continue
        text = text.replace(raw, safe)
    return text
