"""The command line as people and programs meet it, mostly in real subprocesses."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipdistill import cli
from clipdistill.core import errors
from terminals import environment, on_terminal

HEAVY = ("numpy", "torch", "PIL", "pyarrow", "timm", "open_clip", "onnx", "onnxruntime")
NOT_BASE = (
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "accelerate",
    "safetensors",
    "pyarrow",
    "tensorboard",
    "onnx",
    "onnxscript",
    "modelopt",
    "openvino",
    "ai_edge_litert",
    "litert_torch",
    "tensorrt",
    "cuda",
    "matplotlib",
    "cv2",
    "aiohttp",
    "urllib3",
    "starlette",
    "uvicorn",
)
NEEDS_EXTRA = (
    "collect.service",
    "collect.sources",
    "collect.web",
    "core.serving",
    "deploy.graph",
    "deploy.litert_int8",
    "distillation.augmentation",
    "distillation.batches",
    "distillation.fine_tuning",
    "distillation.projection",
    "distillation.losses",
    "distillation.optimizer",
    "distillation.trainer",
    "distillation.validation",
    "models.architecture",
    "models.compression",
    "models.student",
    "models.teacher",
    "models.torch_embedder",
    "models.tracing",
    "show.web.server",
)

FAKE_STAGES = '''
import sys, time, warnings, logging
from dataclasses import dataclass
from pathlib import Path
from clipdistill.core import progress
from clipdistill.core.results import Table

@dataclass(frozen=True)
class Done:
    path: Path
    value: float

    def summary(self):
        rows = (("[red]cell[/red]", "1"), ("a wide cell " * 30, "2"))
        table = Table("A [title]", ("name", ">figure"), rows)
        return [f"Written: {self.path}", table]

def noisy(seconds: float = 0.0, *, value: float = 0.5) -> Done:
    """Make noise.

    Args:
        seconds: how long.
        value: what to return.
    """
    print("a library prints")
    warnings.warn("a library warns")
    logging.getLogger("library").warning("a library logs")
    progress.message("the cache lies in /here")
    with progress.track("working", 10, "things") as step:
        for _ in range(10):
            time.sleep(seconds / 10)
            step(1, "a note")
    return Done(Path("/a/very/long/path" * 8), value)

def slow(ready: Path) -> Done:
    """Sleep."""
    ready.touch()
    time.sleep(60)

def broken() -> Done:
    """Break."""
    raise TypeError("unforeseen")

def many() -> Done:
    """Give a long summary."""
    class Long(Done):
        def summary(self):
            return ["a line"] * 200_000
    return Long(Path("x"), 0.0)
'''
PROLOGUE = """
import sys
from clipdistill import cli
from clipdistill.verbs import Verb
for name in ("noisy", "slow", "broken", "many"):
    cli.VERBS += (Verb(name, f"fake_stages:{name}", name, ()),)
sys.exit(cli.main())
"""


def run(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in a pipe."""
    return subprocess.run(
        [sys.executable, "-m", "clipdistill", *args],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**more),
    )


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python."""
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


@pytest.fixture
def fake(tmp_path: Path) -> list[str]:
    """The start of a command line whose verbs include those of `FAKE_STAGES`."""
    (tmp_path / "fake_stages.py").write_text(FAKE_STAGES)
    main = tmp_path / "main.py"
    main.write_text(PROLOGUE)
    return [sys.executable, str(main)]


def call(command: list[str], *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a fake command in a pipe."""
    return subprocess.run(
        [*command, *args], capture_output=True, text=True, check=False, env=environment(**more)
    )


# Start-up


@pytest.mark.parametrize("args", [["--help"], ["--version"], []])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    done = python(
        "import sys; from clipdistill.cli import main; assert main(sys.argv[2:]) == 0;"
        "print([name for name in sys.argv[1].split(',') if name in sys.modules])",
        ",".join(HEAVY),
        *args,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_package_imports_lazily() -> None:
    done = python(
        "import sys, clipdistill; dir(clipdistill); clipdistill.InputError;"
        "print([name for name in sys.argv[1].split(',') if name in sys.modules])",
        ",".join([*HEAVY, "cyclopts", "importlib.metadata"]),
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_help_is_instant() -> None:
    """Within 0.3 s of Python's own start-up (processor time, as others use this machine too)."""

    def least(command: list[str]) -> float:
        taken = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, capture_output=True, env=environment())
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(taken)

    bare = least([sys.executable, "-c", "pass"])
    assert least([sys.executable, "-m", "clipdistill", "--help"]) - bare < 0.3


def test_the_base_needs_no_extra() -> None:
    """Every module but those that are about torch or onnx imports where the extras are missing."""
    code = """
import importlib, pkgutil, sys
missing, exempt = sys.argv[1].split(","), sys.argv[2].split(",")
for name in missing:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
import clipdistill
for found in pkgutil.walk_packages(clipdistill.__path__, "clipdistill.", lambda name: None):
    if not f"{found.name}.".startswith(tuple(f"clipdistill.{one}." for one in exempt)):
        importlib.import_module(found.name)
        print(found.name)
"""
    done = python(code, ",".join(NOT_BASE), ",".join([*NEEDS_EXTRA, "__main__"]))
    assert done.returncode == 0, done.stderr
    assert "clipdistill.show.predict" in done.stdout


def test_a_missing_extra_says_what_to_install(tmp_path: Path, pictures) -> None:
    pictures(tmp_path / "photos", 1)
    code = """
import sys
sys.modules["torch"] = None
from clipdistill.cli import main
sys.exit(main(["embed", sys.argv[1], sys.argv[2]]))
"""
    done = python(code, str(tmp_path / "photos"), str(tmp_path / "out"))
    assert done.returncode == errors.MissingExtraError.exit_code
    assert "pip install 'clipdistill[train]'" in done.stderr


def test_the_public_names_are_there() -> None:
    import clipdistill

    assert set(clipdistill.__all__) == set(dir(clipdistill))
    for name in clipdistill.__all__:
        assert getattr(clipdistill, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = clipdistill.nothing


# Help


@pytest.mark.parametrize("verb", cli.VERBS, ids=lambda verb: verb.name)
def test_every_example_is_in_the_help_and_parses(verb: cli.Verb) -> None:
    page = cli.help_text(verb.name.split())
    assert verb.examples
    for example in verb.examples:
        assert example in page
        program, *tokens = shlex.split(example)
        assert program == "clipdistill"
        app = cli.build_app(cli.Output())
        command, _, unknown = app.parse_args(tokens, exit_on_error=False, print_error=False)
        assert command.__name__ == re.sub("[- ]", "_", verb.name)
        assert not unknown


@pytest.mark.parametrize("verb", cli.VERBS, ids=lambda verb: verb.name)
def test_every_help_fits_80_columns_and_explains_every_option(verb: cli.Verb) -> None:
    page = cli.help_text(verb.name.split())
    assert max(map(len, page.splitlines())) <= 80
    for option in ("--json", "--quiet", "--debug"):
        assert option in page
    app = cli.build_app(cli.Output())
    for word in verb.name.split():
        app = app[word]
    for argument in app.assemble_argument_collection(parse_docstring=True):
        if argument.show and not argument.children:
            assert argument.parameter.help, f"{verb.name}: {argument.name} is not explained"


def test_help_lists_every_verb() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f" {verb.name.split()[0]} " in done.stdout for verb in cli.VERBS)
    assert done.stderr == ""


def test_version_works_on_every_verb() -> None:
    from importlib.metadata import version

    for args in (["--version"], ["embed", "--version"]):
        assert run(*args).stdout.strip() == version("clipdistill")


# Wrong command lines


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["embd", "a", "b"], "Did you mean embed"),
        (["embed", "a", "b", "--layut", "npy"], "Did you mean --layout?"),
        (["embed", "a", "b", "--layout", "np"], "one of clip-retrieval, npy. Did you mean npy?"),
        (["embed", "a"], "OUT is missing: folder for"),
        (["embed", "a"], "Expected: clipdistill embed IMAGES OUT."),
        (["embed", "a", "b", "--batch-size"], "--batch-size needs a value: "),
        (["embed", "a", "b", "--batch-size", "x"], "--batch-size 'x': expected a whole number."),
        (["embed", "a", "b", "--batch-size", "1.5"], "'1.5': expected a whole number."),
        (["distill", "a", "b", "c", "d", "--lr", "x"], "--lr 'x': expected a number."),
        (
            ["embed", "a", "b", "c"],
            "Too many arguments: c. Expected: clipdistill embed IMAGES OUT.",
        ),
        (["--layout", "npy"], "Unknown option --layout, or it stands before the command"),
        (["embed", "a", "b", "--prec", "fp32"], "option --prec. Did you mean --precision?"),
        (["embed", "a", "b", "--json=x"], "--json"),
    ],
)
def test_a_wrong_command_line_exits_2(args: list[str], said: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Try: clipdistill" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["embed", "a", "b", "--batch-size", "0"], "--batch-size 0: expected 1 or more."),
        (["embed", "a", "b", "--batch-size", "9" * 400], "expected 1 or more."),
        (["search", "p.txt", "u.txt"], "Give --source."),
        (["search", "p.txt", "u.txt", "--source", "knn"], "needs --url"),
        (["search", "p.txt", "u.txt", "--source", "commons"], "--contact"),
        (["serve", "pool", "--port", "99999"], "0 to 65535"),
        (["download", "u.txt", "s3://bucket/b"], "Use --layout webdataset."),
        (["embed", "https://a.org/b", "out"], "https://a.org/b: expected a path, or a URL that"),
        (["serve", "s3://bucket/b"], "s3://bucket/b: expected a file or folder"),
    ],
)
def test_a_wrong_value_or_a_missing_option_exits_2(args: list[str], said: str, tmp_path) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    done = subprocess.run(
        [sys.executable, "-m", "clipdistill", *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment(),
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("error: ")


# Errors and exit codes


@pytest.mark.parametrize("kind", errors.ClipDistillError.__subclasses__())
def test_each_error_has_its_own_exit_code(kind: type[errors.ClipDistillError], capsys) -> None:
    error = kind("torch", "train", "x") if kind is errors.MissingExtraError else kind("why")

    def stage() -> None:
        raise error

    assert cli.run_script(stage) == kind.exit_code
    assert capsys.readouterr() == ("", f"error: {error}\n")
    codes = [other.exit_code for other in errors.ClipDistillError.__subclasses__()]
    assert len(set(codes)) == len(codes)
    assert not {0, cli.UNEXPECTED, cli.WRONG_COMMAND_LINE, cli.INTERRUPTED} & set(codes)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_an_error_as_json_wherever_the_option_stands(place: int, tmp_path: Path) -> None:
    args = ["embed", str(tmp_path / "none"), str(tmp_path / "out")]
    args.insert(place, "--json")
    done = run(*args)
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["exit_code"]) == ("InputError", 3)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


def test_a_wrong_command_line_as_json() -> None:
    done = run("embed", "--json", "--nonsense", "1")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


def test_prompts_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("caf\xe9\n".encode("latin1"))
    done = run("embed-text", str(tmp_path / "prompts.txt"), str(tmp_path / "text.npy"))
    assert done.returncode == 4
    assert "UTF-8" in done.stderr


def test_the_unforeseen_asks_for_a_report(fake: list[str]) -> None:
    done = call(fake, "broken")
    assert done.returncode == cli.UNEXPECTED
    assert done.stderr.startswith("error: Unexpected TypeError: unforeseen")
    assert "--debug" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in call(fake, "broken", "--debug").stderr


def test_too_little_memory_is_no_fault_of_ours(capsys) -> None:
    def hungry() -> None:
        raise MemoryError

    assert cli.run_script(hungry) == cli.UNEXPECTED
    assert "error: There is not enough memory" in capsys.readouterr().err


def test_file_names_that_are_not_utf8_are_named_anyway(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    done = run("embed", str(tmp_path / name), str(tmp_path / "out"))
    assert done.returncode == 3
    assert "\\udcff" in done.stderr


def test_ctrl_c_exits_130(fake: list[str], tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [*fake, "slow", str(ready)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # A shell's background jobs ignore Ctrl-C, and so would this test's child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == cli.INTERRUPTED
    assert (out, err) == ("", "stopped; run the same command again to go on\n")


def test_a_reader_that_leaves_is_no_error(fake: list[str]) -> None:
    process = subprocess.Popen(
        [*fake, "many"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(timeout=30)


# What is printed where


def test_json_is_alone_on_stdout(fake: list[str]) -> None:
    done = call(fake, "noisy", "--json", "--value", "nan")
    assert json.loads(done.stdout) == {"path": "/a/very/long/path" * 8, "value": None}
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_full_stdout_is_an_error_in_a_sentence(fake: list[str], more: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        command = [*fake, "noisy", *more]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment()
        )
        assert done.returncode == errors.OutputError.exit_code
        assert "error: The result cannot be written to stdout (No space left" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=full, text=True, check=False, env=environment()
        )
        assert done.returncode == 0  # a lost message is no reason to lose the run
        assert "/a/very/long/path" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nobody_who_listens(fake: list[str], closed: str) -> None:
    done = subprocess.run(
        f"{shlex.join([*fake, 'noisy', '--json'])} {closed}",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    if not closed.startswith((">", "<")):
        assert json.loads(done.stdout)["value"] == 0.5


def test_a_pipe_gets_plain_text(fake: list[str]) -> None:
    done = call(fake, "noisy", "2.5")
    assert "\x1b" not in done.stdout + done.stderr
    assert "Written: " + "/a/very/long/path" * 8 in done.stdout  # never broken
    assert "A [title]" in done.stdout
    assert "[red]cell[/red]" in done.stdout
    assert "a wide cell " * 30 in done.stdout  # a cell is never wrapped
    assert "working" not in done.stdout
    first, second, *lines, last = done.stderr.splitlines()
    assert [first, second] == ["a library prints", "the cache lies in /here"]
    assert all(line.startswith("working: ") for line in lines)
    assert last.startswith("working: 10 things in 0:0")


def test_quiet_leaves_the_result(fake: list[str]) -> None:
    done = call(fake, "-q", "noisy")
    assert "Written" in done.stdout
    assert "cache" not in done.stderr


def test_debug_shows_warnings_and_logs(fake: list[str]) -> None:
    done = call(fake, "noisy", "--debug")
    assert "a library warns" in done.stderr
    assert "a library logs" in done.stderr
    assert "a library warns" not in call(fake, "noisy").stderr


def test_a_terminal_gets_a_bar_after_two_seconds(fake: list[str]) -> None:
    drawn = on_terminal([*fake, "noisy", "3.5"])
    assert "things/s" in drawn
    assert "left" in drawn
    assert "\x1b[" in drawn
    assert "working: 10 things in 0:0" in drawn
    assert "working" not in on_terminal([*fake, "noisy", "0.2"])


def test_no_color_is_respected(fake: list[str]) -> None:
    assert "\x1b[1m" in on_terminal([*fake, "noisy"])  # a bold title
    drawn = on_terminal([*fake, "noisy"], NO_COLOR="1")
    assert "\x1b[3" not in drawn  # no colour
    assert "\x1b[9" not in drawn


def test_only_the_first_process_of_several_speaks(fake: list[str]) -> None:
    done = call(fake, "noisy", RANK="1")
    assert done.stdout == ""
    assert "cache" not in done.stderr


def test_completion_is_installed_by_one_command(tmp_path: Path) -> None:
    done = run("--install-completion", HOME=str(tmp_path), SHELL="/bin/bash")
    assert done.returncode == 0, done.stderr
    (script,) = tmp_path.rglob("completions/clipdistill")
    text = script.read_text()
    assert "embed-text" in text
    assert "--model-name" in text
