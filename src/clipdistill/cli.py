"""The command line: the verbs, the options that all of them take, what is printed, exit codes.

This is the only place that prints, sets up logging or exits.  The
options of a command are derived from the verb's function (`core.signatures`), which is imported
only when the command runs.

With `--json` exactly one JSON object goes to stdout, whatever happens: the result, or
`{"error": {"type", "message", "exit_code"}}`.  A sentence for people goes to stderr as well.

Exit codes: 0 done; 2 wrong command line; 130, 143 and 129 stopped by Ctrl-C, SIGTERM and SIGHUP;
the others are in `errors`.
"""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from .core.errors import ClipDistillError, MissingExtraError, OptionError, OutputError, did_you_mean
from .core.hints import option_names, reworded
from .core.launch import first_process
from .core.packages import EXTRA_PACKAGES
from .core.progress import reporting
from .core.signatures import EMPTY, KEYWORD, command, documentation, options_of, plain_hint
from .core.stopping import exit_at_once, signals_as_ctrl_c, stopped_by
from .core.wording import HIDDEN, drawn, escaped
from .verbs import GROUPS, VERBS, Verb

if TYPE_CHECKING:
    from .core.results import Result

log = logging.getLogger(__name__)

ABOUT = "Prompts in, a small, fast image classifier out, with no labels."
WRONG_COMMAND_LINE = 2
SIGNALLED = 128
"""Added to a signal's number: the exit code of a command that the signal stopped."""
INTERRUPTED = SIGNALLED + 2
"""Exit code after Ctrl-C."""
UNEXPECTED = 1


@dataclass
class Output:
    """How results and errors are shown.

    Attributes:
        json: one JSON object on stdout instead of tables.
        csv: comma-separated values on stdout instead of tables.
        quiet: no progress and no messages; the result and errors only.
        debug: tracebacks, log messages and warnings; no bars, which would tear them.
        reword: every text that is shown -> the text in the words of what was typed.
    """

    json: bool = False
    csv: bool = False
    quiet: bool = False
    debug: bool = False
    reword: Callable[[str], str] = str


ARGUMENTS = Group("Arguments", sort_key=1)
COMMON = Group("Options", sort_key=2)
ADVANCED = Group("Advanced options", sort_key=3)
EVERY = Group("Every command", sort_key=9)
"""Sections of a help page."""


def _flag(name: str | Sequence[str], text: str) -> Parameter:
    return Parameter(name, negative="", group=EVERY, help=text, show_default=False)


_Json = Annotated[bool, _flag("--json", "Print one JSON object, the result or the error.")]
_Quiet = Annotated[bool, _flag(("--quiet", "-q"), "No progress, no messages.")]
_Debug = Annotated[bool, _flag("--debug", "Show tracebacks, logs and warnings.")]


FORMAT = inspect.Parameter(
    "format",
    KEYWORD,
    default="table",
    annotation=Annotated[
        Literal["table", "json", "csv"],
        Parameter(
            group=COMMON,
            help="how the result is printed; csv: a row per model, or with predict per image "
            "and label.",
        ),
    ],
)
"""Option of the verbs with `rows`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    output = Output()
    return _guarded(lambda: _run_app(tokens, output), output)


def run_script(action: Callable[[], Result | None], reword: Callable[[str], str] = str) -> int:
    """Run a function and show its result or error as a verb's; returns the exit code.

    `reword` turns messages, which name the command line's options, into those of the script.
    """
    output = Output(reword=reword)
    return _guarded(lambda: _run_stage(action, output), output)


def build_app(output: Output) -> App:
    """The cyclopts application; what its global options say goes to `output`."""
    app = App(
        name="clipdistill",
        help=ABOUT,
        group_arguments=ARGUMENTS,
        group_parameters=COMMON,
        help_epilogue=(
            "Start with `clipdistill quickstart`. What works here: `clipdistill doctor`. "
            "More help: `clipdistill run -h`"
        ),
        help_format="markdown",
        version=_version,
        version_flags=("--version", "-V"),
        default_parameter=Parameter(negative_iterable=(), show_default=_default_text),
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    app.meta.suppress_keyboard_interrupt = False
    app["--help"].group = app["--version"].group = EVERY
    app.register_install_completion_command(
        name="--install-completion", group=EVERY, help="Install completion for this shell."
    )
    for place, verb in enumerate(VERBS):
        _home(app, verb, place).command(
            f"{__name__}:{PREFIX}{verb.function_name}",
            name=verb.name.split()[-1],
            help=verb.help,
            help_epilogue=verb.epilogue(),
            sort_key=place,
        )

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        json: _Json = False,
        quiet: _Quiet = False,
        debug: _Debug = False,
    ) -> Any:
        output.json, output.quiet, output.debug = json, quiet, debug
        command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        output.reword = _words_of(command)
        form = bound.arguments.pop(FORMAT.name, "table")
        if json and form == "csv":
            raise OptionError("--json and --format csv exclude each other. Leave one away.")
        output.json, output.csv = json or form == "json", form == "csv"
        if command.__module__.startswith("cyclopts."):
            command(*bound.args, **bound.kwargs)  # help and version
            return 0
        return _run_stage(lambda: command(*bound.args, **bound.kwargs), output)

    return app


PREFIX = "command_"
EVERYWHERE = {"--json", "--quiet", "--debug", "--help", "--version"}
"""Options that every verb has."""


def _words_of(command: Callable[..., Any]) -> Callable[[str], str]:
    """Turn messages into the words of the verb that was typed."""
    verb = next((one for one in VERBS if one.function_name == command.__name__), None)
    if verb is None:
        return str
    options = option_names(verb.function()) | EVERYWHERE | ({"--format"} if verb.rows else set())
    return lambda text: reworded(text, options, dict(verb.words), dict(verb.renamed))


def __getattr__(name: str) -> Any:
    """Make the function of a command when cyclopts imports it (PEP 562): `command_embed`."""
    for verb in VERBS:
        if name == PREFIX + verb.function_name:
            return _command(verb)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _command(verb: Verb) -> Callable[..., Any]:
    """The function behind a verb, its options flat and in the groups of its help page."""
    function = verb.function()
    groups = {}
    for option in options_of(function):
        group = ARGUMENTS
        if option.kind is KEYWORD:
            common = not verb.common or option.name in verb.common or option.default is EMPTY
            group = COMMON if common else ADVANCED
        whole = _whole_number if plain_hint(option.hint) is int else None
        groups[option.name] = Parameter(group=group, converter=whole)
    return command(function, groups, [FORMAT] if verb.rows else [])


def _whole_number(kind: type, tokens: Sequence[Any]) -> int:
    """Convert a text to a whole number; cyclopts itself would round 1.5."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _home(app: App, verb: Verb, place: int) -> App:
    """Where a verb is registered: the application, or the group that its first word names."""
    group, _, rest = verb.name.partition(" ")
    if not rest:
        return app
    if group not in app:
        app.command(App(name=group, help=GROUPS[group], sort_key=place))
    home: App = app[group]
    return home


def help_text(tokens: Sequence[str], width: int = 80) -> str:
    """The help page of a command as plain text; `tokens` such as ["embed"], or none for the first.

    For `docs/cli.md` and its test.
    """
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, force_terminal=False)
    app = build_app(Output())
    _prefer_docstrings(app, tokens)
    app.help_print(list(tokens), console=console)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().strip().splitlines())


def _run_app(tokens: list[str], output: Output) -> int:
    app = build_app(output)
    _prefer_docstrings(app, tokens)
    code: int | None = app.meta(
        tokens, exit_on_error=False, print_error=False, result_action="return_value"
    )
    return code or 0  # None: the help


def _prefer_docstrings(app: App, tokens: Sequence[str]) -> None:
    """Let a verb's own page show its docstring instead of the one line of the list."""
    _, path, _ = app.meta.parse_commands(tokens)
    for page in path:
        if page.name[0] in {verb.name.split()[-1] for verb in VERBS}:
            page.help = None


def _run_stage(action: Callable[[], Result | None], output: Output) -> int:
    """Run a stage with progress shown, then show its result; returns the result's exit code."""
    _set_up(output)
    helper = not first_process()
    with contextlib.ExitStack() as stack:
        # Whatever a library prints must not end up in the result.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if not (output.quiet or helper):
            from .core.console import ConsoleReporter

            reporter = ConsoleReporter(bars=not output.debug, reword=output.reword)
            stack.enter_context(reporting(reporter))
        result = action()
    if result is not None and not helper:
        _show(result, output)
    return int(getattr(result, "exit_code", 0))


class _LogLines(logging.Formatter):
    """Log messages, which may quote what strangers wrote."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a message and its traceback."""
        return drawn(super().format(record))


def _set_up(output: Output) -> None:
    """Logging, warnings and the hub's bars, for this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogLines("%(levelname)s %(name)s: %(message)s"))
    level = logging.INFO if output.debug else logging.ERROR
    logging.basicConfig(handlers=[handler], level=level)
    logging.captureWarnings(True)
    if output.debug:
        logging.getLogger("clipdistill").setLevel(logging.DEBUG)
    elif not sys.warnoptions:
        warnings.simplefilter("ignore")
    if output.quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _show(result: Result, output: Output) -> None:
    if output.json:
        from .core.results import to_json

        _print_json(to_json(result))
    elif output.csv:
        _print_csv(result.records())
    else:
        from .core.console import show

        parts = result.summary()
        with _answering():
            show([output.reword(part) if isinstance(part, str) else part for part in parts])


def _print_json(value: Any) -> None:
    """Print valid JSON whatever the encoding of stdout is; it cannot steer a terminal either."""
    utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    text = json.dumps(_finite(value), indent=2, ensure_ascii=not utf8, allow_nan=False)
    # The only line breaks are those between the fields: in a text they are escaped already.
    lines = (HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in text.split("\n"))
    with _answering():
        print("\n".join(lines))


def _print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a head and a line per row; a text cannot break a line or steer a terminal."""
    with _answering():
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows[0] if rows else ())
        for row in rows:
            cells = (_finite(value) for value in row.values())
            writer.writerow([escaped(one) if isinstance(one, str) else one for one in cells])


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _guarded(action: Callable[[], int], output: Output) -> int:
    """Run `action`; turn whatever it raises into a message and an exit code."""
    _prepare_streams()
    try:
        with signals_as_ctrl_c():
            try:
                code = action()
                with _answering():
                    pass
            except BrokenPipeError:
                raise
            except BaseException as error:
                return _explain(error, output)
    except BrokenPipeError:
        _give_up(sys.stdout)  # nobody reads on (`| head`)
        return UNEXPECTED
    return code


class _Messages(io.TextIOWrapper):
    """A stderr that loses messages when its disk is full, instead of ending the run."""

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush, or give up."""
        try:
            super().flush()
        except BrokenPipeError:
            raise
        except OSError:
            return


def _prepare_streams() -> None:
    """Open closed streams (`>&-`, pythonw) to nowhere, so that no file gets their number.

    Characters that a stream's encoding does not have are escaped.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        messages = _Messages(sys.stderr.buffer, encoding=sys.stderr.encoding, line_buffering=True)
        sys.stderr = messages
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Flush stdout, and convert the errors of writing to it.

    Raises:
        OutputError: the disk that stdout goes to is full.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up(sys.stdout)
        raise OutputError(
            f"The result cannot be written to stdout ({error.strerror or error}). What the command "
            "did is kept. Free some space, or send the output elsewhere."
        ) from error


def _give_up(stream: Any) -> None:
    """Let what is left in a stream's buffer go nowhere; Python would fail to flush it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _explain(error: BaseException, output: Output) -> int:
    """Say what went wrong, and return the exit code."""
    if isinstance(error, SystemExit):
        raise error
    error = _missing_extra(error)
    if isinstance(error, ClipDistillError):
        code, text = error.exit_code, str(error)
    elif isinstance(error, CycloptsError):
        code, text = WRONG_COMMAND_LINE, _usage_text(error)
    elif isinstance(error, KeyboardInterrupt):
        signal = stopped_by()
        code = SIGNALLED + signal
        exit_at_once(code)
        by = "" if code == INTERRUPTED else f" by {signal.name}"
        text = f"stopped{by}; run the same command again to go on"
    elif isinstance(error, MemoryError):
        code = UNEXPECTED
        text = (
            "There is not enough memory for this. Close other programs, allow this one more "
            "(ulimit -v), or give it less at a time."
        )
    else:
        code = UNEXPECTED
        text = (
            f"Unexpected {type(error).__name__}: {error}\nThis is a fault in clipdistill. Please "
            "report it with what the same command says when --debug is added."
        )
    text = output.reword(text)
    if output.debug:
        log.error("traceback:", exc_info=error)
    if output.json:
        about = {"type": type(error).__name__, "message": text, "exit_code": code}
        with contextlib.suppress(OutputError):  # it is what `text` says, or less important
            _print_json({"error": about})
    from .core.console import show_error

    show_error(text, label="" if isinstance(error, KeyboardInterrupt) else "error: ")
    return code


def _missing_extra(error: BaseException) -> BaseException:
    """Name the extra to install when one of its packages is what could not be imported."""
    cause: BaseException | None = None if isinstance(error, MissingExtraError) else error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError):
            found = EXTRA_PACKAGES.get((cause.name or "").partition(".")[0])
            if found:
                return MissingExtraError(*found, "This command")
        cause = cause.__cause__
    return error


def _usage_text(error: CycloptsError) -> str:
    """What is wrong with the command line, and which help to read."""
    chain = [name for name in error.command_chain or () if not name.startswith("-")]
    if isinstance(error, UnknownCommandError):
        # cyclopts' own text would import every verb to list them.
        names = [verb.name.split() for verb in VERBS]
        # The first words, or within a group the second.
        known = {words[len(chain)] for words in names if words[: len(chain)] == chain}
        token = (error.unused_tokens or [""])[0]
        text = f"Unknown command {token!r}.{did_you_mean(token, sorted(known))}"
        if token.startswith("-"):
            text = f"Unknown option {token}, or it stands before the command it belongs to."
    else:
        text = _argument_text(error, chain)
    return f"{text}\nTry: {' '.join(['clipdistill', *chain, '--help'])}"


def _argument_text(error: CycloptsError, chain: Sequence[str]) -> str:
    """What is wrong with the arguments of a command."""
    names = [] if error.argument is None else [n for n in error.argument.names if n[:2] == "--"]
    name = names[0] if names else ""
    if isinstance(error, MissingArgumentError) and name:
        field = name.lstrip("-").replace("-", "_")
        about = _about(chain, field)
        if error.keyword:
            return f"{error.keyword} needs a value{about}."
        shown = field.upper() if field in _positional(chain) else name
        return f"{shown} is missing{about}.{_order(chain)}"
    if isinstance(error, CoercionError) and error.token is not None and error.argument is not None:
        hint = plain_hint(error.argument.hint)
        choices = [str(one) for one in get_args(hint)] if get_origin(hint) is Literal else []
        kind = {int: "a whole number", float: "a number", bool: "no value"}.get(
            hint, "another value"
        )
        expected = f"one of {', '.join(choices)}" if choices else kind
        near = did_you_mean(error.token.value, choices, 1)
        return f"{error.token.keyword or name} {error.token.value!r}: expected {expected}.{near}"
    if isinstance(error, UnknownOptionError):
        given = error.token.keyword or error.token.value
        known = [n.lstrip("-") for one in error.argument_collection for n in one.names]
        near = did_you_mean(given.partition("=")[0].lstrip("-"), known, 1)
        return f"Unknown option {given}.{near.replace('mean ', 'mean --')}"
    if isinstance(error, UnusedCliTokensError):
        more = " ".join(error.unused_tokens or ())
        return f"Too many arguments: {more}.{_order(chain)} Put quotes around what contains blanks."
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword or name} is given more than once."
    return str(error)


def _verb(chain: Sequence[str]) -> Verb | None:
    return next((one for one in VERBS if one.name.split() == list(chain)), None)


def _positional(chain: Sequence[str]) -> list[str]:
    verb = _verb(chain)
    found = options_of(verb.function()) if verb else []
    return [option.name for option in found if option.kind is not KEYWORD]


def _about(chain: Sequence[str], name: str) -> str:
    """The description of an argument in its verb's help, after a colon; "" without one."""
    verb = _verb(chain)
    text = documentation(verb.function()) if verb else ""
    found = re.search(rf"^    {name}: (.*(?:\n     .*)*)", text, re.MULTILINE)
    return f": {' '.join(found[1].split()).rstrip('.')}" if found else ""


def _order(chain: Sequence[str]) -> str:
    names = " ".join(name.upper() for name in _positional(chain))
    return f" Expected: clipdistill {' '.join(chain)} {names}".rstrip() + "."


def _default_text(value: Any) -> str | None:
    """A default as the help shows it; nothing for None and empty lists."""
    if value is None or value == () or value == "":
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _version() -> str:
    from . import __version__

    return str(__version__)
