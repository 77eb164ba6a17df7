"""What the text of a formula says of its columns, read before any formula library sees it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

QUOTED = re.compile(r"`([^`]+)`")
NAME = r"(?:`[^`]+`|[A-Za-z_]\w*)"
CODED = re.compile(rf"\bC\(\s*({NAME})")
CODED_ALONE = re.compile(rf"\bC\(\s*({NAME})\s*[,)]")
OPENING = re.compile(r"[A-Za-z_][\w.]*\(|\{")
CODERS = ("C", "hashed")
BITS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.LShift, ast.RShift)


def unquoted(text: str) -> tuple[str, dict[str, str]]:
    """Return the text with every `name` in backticks as a plain word, and the names of those words."""
    names: dict[str, str] = {}

    def word(match: re.Match[str]) -> str:
        found = f"quoted_{len(names)}_"
        names[found] = match.group(1)
        return found

    return QUOTED.sub(word, text), names


def coded(text: str, alone: bool = False) -> set[str]:
    """Return the columns that stand first in a C(...), only those not part of an expression if `alone`.

    >>> sorted(coded("x + C(g) + C(`my.s`)"))
    ['g', 'my.s']
    """
    pattern = CODED_ALONE if alone else CODED
    return {name.strip("`") for name in pattern.findall(text)}


@dataclass(frozen=True)
class Usage:
    """How columns are used: as labels or bits (their type matters), in sums and products, on their own."""

    typed: frozenset[str]
    counted: frozenset[str]
    alone: frozenset[str]
    expressions: tuple[ast.expr, ...]

    def summed_truths(self, truths: Collection[str]) -> str | None:
        """Return a sum of truth values, which numpy takes for "or", given the columns of truth values."""
        for tree in self.expressions:
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.BinOp)
                    and isinstance(node.op, ast.Add)
                    and _is_truth(node.left, truths)
                    and _is_truth(node.right, truths)
                ):
                    return f"({ast.unparse(node.left)}) + ({ast.unparse(node.right)})"
        return None


def usage(text: str) -> Usage:
    """Return how one side of a formula uses its columns.

    >>> use = usage("x + C(g) + I(a + b)")
    >>> sorted(use.typed), sorted(use.counted), sorted(use.alone)
    (['g'], ['a', 'b'], ['x'])
    """
    plain, quoted = unquoted(text)
    typed: set[str] = set()
    counted: set[str] = set()
    trees, rest = [], plain
    for inside in _expressions(plain):
        rest = rest.replace(inside, " ")
        try:
            tree = ast.parse(inside.strip("{} "), mode="eval").body
        except SyntaxError:  # the formula library says what is wrong with it
            continue
        trees.append(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CODERS:
                typed |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - set(CODERS)
            elif isinstance(node, ast.Attribute):
                typed |= _direct(node.value)
            elif isinstance(node, ast.BinOp):
                kind = typed if isinstance(node.op, BITS) else counted
                kind |= _direct(node.left) | _direct(node.right)
            elif isinstance(node, ast.UnaryOp):
                kind = counted if isinstance(node.op, (ast.USub, ast.UAdd)) else typed
                kind |= _direct(node.operand)
    alone = set(re.findall(r"[A-Za-z_]\w*", rest))
    found = [frozenset(quoted.get(name, name) for name in names) for names in (typed, counted, alone)]
    return Usage(found[0], found[1], found[2], tuple(trees))


def _expressions(text: str) -> Iterator[str]:
    """Yield the calls and the {expressions} of a formula, each as a whole."""
    place = 0
    while match := OPENING.search(text, place):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(text[end], 0)
            end += 1
        yield text[match.start() : end]
        place = end


def _direct(node: ast.AST) -> set[str]:
    return {node.id} if isinstance(node, ast.Name) else set()


def _is_truth(node: ast.AST, truths: Collection[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in truths
    if isinstance(node, ast.BinOp):
        bits = isinstance(node.op, (ast.BitAnd, ast.BitOr, ast.BitXor))
        return bits and _is_truth(node.left, truths) and _is_truth(node.right, truths)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.Not, ast.Invert)) and _is_truth(node.operand, truths)
    return isinstance(node, ast.Compare)
