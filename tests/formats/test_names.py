"""Only formats/ contains names of files; other modules import them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import clipdistill
from clipdistill.formats import cards, embeddings, ledger, selection, student
from clipdistill.formats.run import RunFolder, _Inside

SOURCES = Path(clipdistill.__file__).parent
EXAMPLES = {"verbs.py"}
"""Commands as a user may type them, with names that a user may choose."""
OF_A_RUN = [
    getattr(RunFolder(Path()), name).name
    for name, one in vars(RunFolder).items()
    if isinstance(one, _Inside)
]
NAMES = {
    name
    for name in (
        *OF_A_RUN,
        *(cards.TEACHER_CONFIG, cards.TEACHER_WEIGHTS),
        *(embeddings.META, embeddings.FAILURES, embeddings.VECTORS),
        *(ledger.INDEX, ledger.JOURNAL),
        *(selection.LIST, selection.TABLE, selection.CARD),
        *(student.CARD, student.WEIGHTS, student.CHECKPOINT, student.METRICS, student.SAMPLES),
    )
    if re.search(r"[._]", name)  # "images" is a word as well
}
SPELLED = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, sorted(NAMES)))})(?!\w|\.\w)")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every string literal that is no docstring, with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.lineno, node.value


def test_names_of_files_stand_in_formats_only() -> None:
    assert {"run.json", "index.parquet", "checkpoint.pth", "README.md", "img_emb"} <= NAMES
    found = [
        f"{path.relative_to(SOURCES)}:{line}: {match[0]}"
        for path in sorted(SOURCES.rglob("*.py"))
        if path.parent.name != "formats" and path.name not in EXAMPLES
        for line, text in texts(path)
        for match in SPELLED.finditer(text)
    ]
    assert not found, found
