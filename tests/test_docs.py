"""The documents say what the program does: commands, options, calls, links, exit codes."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import clipdistill
from clipdistill import cli
from clipdistill.core import errors
from clipdistill.formats.prompts import parse_prompts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "clipdistill"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
FORMS = sorted(ROOT.glob(".github/**/*.md"))
GENERATED = ROOT / "docs" / "cli.md"
README = ROOT / "README.md"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(
        rf"^ *```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S
    )


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The commands of a page's `sh` blocks, as tokens; continued lines are joined."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            tokens = shlex.split(line, comments=True)
            if tokens:
                yield tokens


def calls(page: Path) -> Iterator[ast.Call]:
    """The calls `clipdistill.NAME(...)` of a page's `python` blocks and of its text."""
    texts = [*blocks(page, "python")]
    texts += re.findall(r"`(clipdistill\.\w+\([^`\n]*\))`", page.read_text(encoding="utf-8"))
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("clipdistill."):
                yield node


CALLS = [
    pytest.param(call, id=f"{page.name}: {ast.unparse(call)[:60]}")
    for page in PAGES
    for call in calls(page)
]
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
        own = [token for token in rest if token not in ("--json", "--quiet", "--debug")]
        command, _, _ = app.parse_args(own, exit_on_error=False, print_error=False)
        assert command.__module__.startswith("clipdistill.")
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        assert rest[0] in targets
    elif program == "python3":
        files = [ROOT / "scripts" / name for name in (rest[0], "_older.py")]
        script = "".join(path.read_text(encoding="utf-8") for path in files)
        for option in (token for token in rest if token.startswith("--")):
            assert f'"{option}"' in script
    elif program == "git":
        assert rest[0] == "clone"
    else:
        assert program in ("pip", "printf", "cd")


@pytest.mark.parametrize("call", CALLS)
def test_every_call_in_the_documents_can_be_made(call: ast.Call) -> None:
    name = ast.unparse(call.func).removeprefix("clipdistill.")
    function = getattr(clipdistill, name)
    keywords = {keyword.arg or "": None for keyword in call.keywords}
    inspect.signature(function).bind(*call.args, **keywords)


def test_the_documents_show_calls() -> None:
    assert {"embed", "embed_text", "distill", "export", "predict", "run", "progress"} <= {
        ast.unparse(param.values[0].func).removeprefix("clipdistill.") for param in CALLS
    }


def anchors(page: Path) -> set[str]:
    """What a link into a page may name: its headings, as GitHub writes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            file, _, anchor = target.partition("#")
            where = page.parent / file if file else page
            assert where.exists(), target
            assert not anchor or anchor in anchors(where), target


@pytest.mark.parametrize("page", [*PAGES, *FORMS], ids=lambda page: page.name)
def test_no_page_names_this_machine(page: Path) -> None:
    assert not re.search(r"/(home|root|work|opt|tmp)/", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_text_are_there(page: Path) -> None:
    named = re.findall(r"(?:^|[`\s(])((?:\w+/)+\w*(?:\.py)?)`", page.read_text(encoding="utf-8"))
    owners = {one.name for one in [*SOURCE.iterdir(), *ROOT.iterdir()] if one.is_dir()}
    for name in named:
        if name.partition("/")[0] in owners - {"runs"}:
            assert (SOURCE / name).exists() or (ROOT / name).exists(), name


def test_every_page_is_found_from_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    wanted = [path for path in PAGES if path != README]
    missing = [path for path in wanted if f"]({path.relative_to(ROOT).as_posix()})" not in text]
    assert not missing


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 120


def test_the_readme_starts_with_labels() -> None:
    command = next(tokens for tokens in shell_lines(README) if tokens[0] == "printf")
    written = subprocess.run(
        command[:2], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    assert parse_prompts(written).labels == ("cat", "dog", "sofa")


def test_the_architecture_is_one_page_with_every_folder() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    folders = [path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()]
    rows = re.findall(r"^\| `(\w+)/` \|", text, re.M)
    assert sorted(rows) == sorted(folders)
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    assert rows == [layer for layer in layers if layer in folders]  # from top to bottom


def test_every_exit_code_is_explained() -> None:
    page = (ROOT / "docs/cli_use.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|", page, re.M)
    kinds = errors.ClipDistillError.__subclasses__()
    own = {0, cli.UNEXPECTED, cli.WRONG_COMMAND_LINE, cli.INTERRUPTED}
    assert {int(row) for row in rows} == own | {kind.exit_code for kind in kinds}


def test_checks_run_the_same_everywhere() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["check"]
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.12"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for repository in hooks["repos"]:
        assert repository["repo"] == "local"  # nothing of third parties is downloaded
        for hook in repository["hooks"]:
            program, target = hook["entry"].split()
            assert program == "make"
            assert target in targets


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert {"cff-version", "message", "title", "authors"} <= set(cited)


def test_constraints_are_exact_pins() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line), line
