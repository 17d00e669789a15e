"""The documents say what the program does: commands, options, links, exit codes."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from clipdistill import cli
from clipdistill.core import errors

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
GENERATED = ROOT / "docs" / "cli.md"


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The commands of a page's `sh` blocks, as tokens; continued lines are joined."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            tokens = shlex.split(line, comments=True)
            if tokens:
                yield tokens


COMMANDS = [
    pytest.param(tokens, id=f"{page.name}: {shlex.join(tokens)[:60]}")
    for page in PAGES
    for tokens in shell_lines(page)
]


@pytest.mark.skipif(
    version("cyclopts").partition(".")[0] != "5", reason="the page is made with cyclopts 5"
)
def test_the_page_of_the_command_line_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("make_cli_docs", ROOT / "tools/make_cli_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert GENERATED.read_text(encoding="utf-8") == module.page(), "stale; run: make docs"


@pytest.mark.parametrize("tokens", COMMANDS)
def test_every_command_in_the_documents_exists(tokens: list[str]) -> None:
    program, *rest = tokens
    if program == "clipdistill":
        app = cli.build_app(cli.Output())
        command, _, _ = app.parse_args(rest, exit_on_error=False, print_error=False)
        assert command.__module__.startswith("clipdistill.")
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        assert rest[0] in targets
    elif program == "python3":
        script = (ROOT / "scripts" / rest[0]).read_text(encoding="utf-8")
        for option in (token for token in rest if token.startswith("--")):
            assert f'"{option}"' in script
    else:
        assert program in ("pip", "printf", "cd")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_this_machine(page: Path) -> None:
    assert not re.search(r"/(home|root|work|opt|tmp)/", page.read_text(encoding="utf-8"))


def test_the_readme_lists_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    kinds = errors.ClipDistillError.__subclasses__()
    own = {0, cli.UNEXPECTED, cli.WRONG_COMMAND_LINE, cli.INTERRUPTED}
    assert {int(row) for row in rows} == own | {kind.exit_code for kind in kinds}


def test_constraints_are_exact_pins() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line), line
