"""Every message in the sources that names an option, and which modules may show it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import clipdistill
from clipdistill.verbs import Verb

SOURCES = Path(clipdistill.__file__).parent


@cache
def parsed(path: Path) -> tuple[tuple[str, ...], frozenset[Path]]:
    """The messages of a module that name an option, and the modules that it imports anywhere."""
    tree = ast.parse(path.read_text())
    inner, texts, imported = set(), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            found = [base / name.name for name in node.names] + [base]
            imported |= {one.with_suffix(".py") for one in found}
            imported |= {one / "__init__.py" for one in found}
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inner.add(node.value)  # a docstring
        if isinstance(node, ast.JoinedStr):
            inner |= set(node.values)
            texts.append(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node)
    shown = [text_of(node) for node in texts if node not in inner]
    named = tuple(text for text in shown if len(text.split()) > 2 and re.search(r"--[a-z]", text))
    return named, frozenset(one for one in imported if one.is_file())


def text_of(node: ast.AST) -> str:
    """A text of the source; X for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(one) for one in node.values)
    return node.value if isinstance(node, ast.Constant) else "X"


def module_of(verb: Verb) -> Path:
    """The file of a verb's function."""
    return SOURCES.parent.joinpath(*verb.target.partition(":")[0].split(".")).with_suffix(".py")


def reachable(*start: Path) -> list[Path]:
    """The modules that some modules may use, and those modules themselves."""
    todo, seen = list(start), set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += parsed(path)[1]
    return sorted(seen)
