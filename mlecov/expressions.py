"""Read linear expressions in parameter names: "mu[x1] = 2*tau[x1]", "a + b = 1", "mu[x1]"."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlecov.errors import SpecificationError, suggestion

Array = npt.NDArray[np.float64]

NUMBER = re.compile(r"\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?")


def parse_linear(text: str, labels: Sequence[str]) -> tuple[Array, float]:
    """Return (a, b) such that `text` says a'x = b, for x with the given labels.

    An expression without "=" is read as "= 0". Labels may contain any characters; the longest label
    that fits is taken. Only numbers times labels, added up, are understood.

    >>> parse_linear("2*a - b = 1", ["a", "b"])
    (array([ 2., -1.]), 1.0)
    """
    sides = _split_equality(text, labels)
    if len(sides) > 2:
        raise SpecificationError(f"constraint {text!r} has {len(sides) - 1} equality signs; one is expected.")
    coefficients, constant = _parse_sum(sides[0], labels, text)
    if len(sides) == 2:
        right, right_constant = _parse_sum(sides[1], labels, text)
        coefficients, constant = coefficients - right, constant - right_constant
    return coefficients, -constant + 0.0


def parse_system(texts: str | Sequence[str], labels: Sequence[str]) -> tuple[Array, Array]:
    """Return (A, b), shapes (q, m) and (q,), for q expressions (a string may join them by commas)."""
    if isinstance(texts, str):
        texts = [part for part in split_texts(texts, labels) if part.strip()]
    rows = [parse_linear(text, labels) for text in texts]
    if not rows:
        raise SpecificationError("no hypothesis or constraint was given; expected text such as 'a = b'.")
    return np.array([row for row, _ in rows]), np.array([value for _, value in rows])


def _tokens(text: str, labels: Sequence[str], whole: str) -> list[tuple[str, str]]:
    """Cut `text` into ("label" | "number" | "operator", token) pairs."""
    ordered = sorted(labels, key=len, reverse=True)
    found: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        label = next((name for name in ordered if _label_at(text, place, name)), None)
        number = NUMBER.match(text, place)
        if label is not None:
            found.append(("label", label))
            place += len(label)
        elif number:
            found.append(("number", number.group()))
            place = number.end()
        elif text[place] in "+-*/=,":
            found.append(("operator", text[place]))
            place += 1
        else:
            word = re.match(r"[^\s+*/=,-]+", text[place:])
            name = word.group() if word else text[place]
            raise SpecificationError(
                f"{whole!r}: {name!r} is no parameter here.{suggestion(name, list(labels))}"
            )
    return found


def _label_at(text: str, place: int, label: str) -> bool:
    if not text.startswith(label, place):
        return False
    after = text[place + len(label) : place + len(label) + 1]
    return not (after and (after.isalnum() or after in "_[") and (label[-1].isalnum() or label[-1] == "_"))


def _join(tokens: Sequence[tuple[str, str]]) -> str:
    return " ".join(token for _, token in tokens)


def _split(text: str, labels: Sequence[str], separator: str) -> list[str]:
    parts: list[list[tuple[str, str]]] = [[]]
    for token in _tokens(text, labels, text):
        if token == ("operator", separator):
            parts.append([])
        else:
            parts[-1].append(token)
    return [_join(part) for part in parts]


def _split_equality(text: str, labels: Sequence[str]) -> list[str]:
    return _split(text, labels, "=")


def split_texts(text: str, labels: Sequence[str]) -> list[str]:
    """Return the parts of a text between its commas; those inside a label do not count."""
    return _split(text, labels, ",")


def _parse_sum(text: str, labels: Sequence[str], whole: str) -> tuple[Array, float]:
    tokens = _tokens(text, labels, whole)
    coefficients, constant = np.zeros(len(labels)), 0.0
    sign, factor, label, pending, divide = 1.0, 1.0, None, False, False

    def refuse(what: str) -> SpecificationError:
        return SpecificationError(
            f"{whole!r}: {what}; expected a sum of numbers times parameters, such as '2*a - b = 1'."
        )

    def close() -> None:
        nonlocal constant, sign, factor, label, pending, divide
        if not pending:
            raise refuse("a term is missing")
        if label is None:
            constant += sign * factor
        else:
            coefficients[list(labels).index(label)] += sign * factor
        sign, factor, label, pending, divide = 1.0, 1.0, None, False, False

    expect_operand = True
    for kind, token in tokens:
        if kind == "operator":
            if token in "+-":
                if not expect_operand:
                    close()
                if token == "-":
                    sign = -sign
                expect_operand = True
            elif expect_operand:
                raise refuse(f"unexpected {token!r}")
            else:
                expect_operand, divide = True, token == "/"
            continue
        if not expect_operand:
            raise refuse(f"an operator is missing before {token!r}")
        if kind == "number":
            factor = factor / float(token) if divide else factor * float(token)
        elif label is not None or divide:
            raise refuse("a product or ratio of parameters is not linear")
        else:
            label = token
        pending, expect_operand, divide = True, False, False
    close()
    return coefficients, constant
