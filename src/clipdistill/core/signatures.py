"""Verbs with one flat list of options, for Python and for the command line.

A verb such as `distill(arch, images, embeddings, out, options=DistillOptions())` keeps many options
in one frozen dataclass.  Here the fields of that dataclass become options of the verb, with the
dataclass's defaults and descriptions, so that nothing is written twice.  From the flat list come
the functions of `import clipdistill` (`public`), the commands (`command`) and the type stub
(`tools/make_stub.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import OptionError, did_you_mean
from .ranges import check_numbers
from .storage import location

EMPTY = inspect.Parameter.empty
POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
KEYWORD = inspect.Parameter.KEYWORD_ONLY
VARIADIC = inspect.Parameter.VAR_POSITIONAL


class OrPath:
    """Marks a text that Python callers may also pass as a path; see `NameOrPath`."""


NameOrPath = Annotated[str, OrPath()]
"""A text that names a model, a file or a folder; Python callers may pass a `Path`."""


class OrUrl:
    """Marks a path that may lie in object storage; see `PathOrUrl`."""


PathOrUrl = Annotated[Path, OrUrl()]
"""A path of this machine or a URL of object storage; other paths refuse URLs."""


@dataclass(frozen=True)
class Option:
    """One argument of a verb.

    Attributes:
        name: the keyword.
        kind: kind of `inspect.Parameter`: positional, keyword-only or variadic.
        hint: its type, with `Annotated` metadata.
        default: its default; `EMPTY` when it is required.
        group: parameter of the verb's function whose dataclass has this field; empty for the
            function's own parameters.
    """

    name: str
    kind: Any
    hint: Any
    default: Any
    group: str = ""


def options_of(function: Callable[..., Any]) -> list[Option]:
    """List the arguments of a verb, with dataclasses of options expanded; positional ones first."""
    hints = get_type_hints(function, include_extras=True)
    own: list[Option] = []
    fields: list[Option] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(parameter.default):
            fields += _fields(name, parameter.default)
            continue
        kind = parameter.kind
        if kind is inspect.Parameter.POSITIONAL_ONLY:
            kind = POSITIONAL
        own.append(Option(name, kind, hints[name], parameter.default))
    named = [option for option in own if option.kind is KEYWORD]
    return [*(option for option in own if option.kind is not KEYWORD), *fields, *named]


def _fields(group: str, default: Any) -> list[Option]:
    hints = get_type_hints(type(default), include_extras=True)
    return [
        Option(name, KEYWORD, hints[name], getattr(default, name), group)
        for name in field_names(type(default))
    ]


def field_names(kind: type) -> list[str]:
    """The fields of a dataclass in the order in which people read them.

    Those that the class itself declares come first, then those of its bases in their order.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    declared = (name for one in kind.__mro__ for name in inspect.get_annotations(one))
    return [name for name in dict.fromkeys(declared) if name in known]


def call(function: Callable[..., Any], args: Sequence[Any], given: Mapping[str, Any]) -> Any:
    """Call a verb's function with flat keywords; fields of a dataclass are gathered into it.

    Raises:
        InputError: a number is out of range (`ranges.RANGES`).
    """
    check_numbers(given)
    own = dict(given)
    grouped: dict[str, dict[str, Any]] = {}
    for option in options_of(function):
        if option.group and option.name in own:
            grouped.setdefault(option.group, {})[option.name] = own.pop(option.name)
    defaults = inspect.signature(function).parameters
    for group, values in grouped.items():
        own[group] = type(defaults[group].default)(**values)
    bound = inspect.signature(function)
    positional = [
        own.pop(name)
        for name, parameter in bound.parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and name in own
    ]
    return function(*positional, *args, **own)


def public(function: Callable[..., Any], name: str = "") -> Callable[..., Any]:
    """Make the function of a verb for Python callers.

    It takes every option as a keyword, and a text or a `Path` for every path.  It refuses a value
    of another type before anything is done.

    Args:
        function: function of the verb.
        name: name of the verb in messages; default: the function's name.
    """
    options = options_of(function)
    shown = [_python_parameter(option) for option in options]
    signature = inspect.Signature(shown, return_annotation=_returns(function))
    known = [option.name for option in options]
    by_name = {option.name: option for option in options}
    title = f"clipdistill.{name or function.__name__}()"

    @functools.wraps(function)
    def verb(*args: Any, **kwargs: Any) -> Any:
        for keyword in kwargs:
            if keyword not in known:
                raise TypeError(f"{title} has no option {keyword!r}.{did_you_mean(keyword, known)}")
        bound = signature.bind(*args, **kwargs).arguments
        many: Sequence[Any] = ()
        given = {}
        for key, value in bound.items():
            option = by_name[key]
            if option.kind is VARIADIC:
                many = [converted(key, one, option.hint) for one in value]
            else:
                given[key] = converted(key, value, option.hint)
        return call(function, many, given)

    verb.__signature__ = signature  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in shown}
    verb.__doc__ = documentation(function)
    verb.__module__ = "clipdistill"
    del verb.__wrapped__
    return verb


def command(
    function: Callable[..., Any],
    groups: Mapping[str, Any],
    more: Sequence[inspect.Parameter] = (),
) -> Callable[..., Any]:
    """Make the function of a verb for cyclopts.

    Args:
        function: function of the verb.
        groups: option -> the cyclopts `Parameter` that is added to its annotation.
        more: options of the command that the function does not get.
    """
    shown = []
    for option in options_of(function):
        extra = groups.get(option.name)
        hint = option.hint if extra is None else Annotated[option.hint, extra]
        shown.append(
            inspect.Parameter(option.name, option.kind, default=option.default, annotation=hint)
        )
    shown += more
    signature = inspect.Signature(shown)

    @functools.wraps(function)
    def verb(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for option in more:
            bound.arguments.pop(option.name, None)
        for name, value in bound.arguments.items():
            keyword = signature.parameters[name].kind is KEYWORD
            if isinstance(value, Path) and _takes_url(signature.parameters[name].annotation):
                bound.arguments[name] = location(value)
                continue
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, Path):
                    title = f"--{name.replace('_', '-')}" if keyword else name.upper()
                    check_no_url(title, str(one))
        many = next((bound.arguments.pop(p.name, ()) for p in shown if p.kind is VARIADIC), ())
        return call(function, many, bound.arguments)

    verb.__signature__ = signature  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in shown}
    verb.__doc__ = documentation(function)
    del verb.__wrapped__
    return verb


def check_ranges(options: Any, ranges: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse options out of range, in the words of the command line.

    Args:
        options: a dataclass of options.
        ranges: name of an option -> (whether its value is in range, the range in words).

    Raises:
        OptionError: a value is out of range.
    """
    for name, (fine, expected) in ranges.items():
        if not fine:
            option = "--" + name.replace("_", "-")
            raise OptionError(f"{option} {getattr(options, name)}: expected {expected}.")


def documentation(function: Callable[..., Any]) -> str:
    """Return a verb's docstring with each dataclass of options replaced by its attributes."""
    text = inspect.getdoc(function) or ""
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(parameter.default):
            entries = "".join(
                f"    {line}\n" if line else "\n" for line in _attributes(type(parameter.default))
            )
            entry = re.compile(rf"^    {name}: .*\n(?:     .*\n)*", re.MULTILINE)
            text, found = entry.subn(entries.replace("\\", r"\\"), text + "\n")
            if not found:
                raise ValueError(f"{function.__name__}: its docstring does not mention {name!r}")
    return text.strip("\n")


def _attributes(kind: type) -> list[str]:
    """The lines that describe a dataclass's fields, in the fields' order.

    They come from the section "Attributes" of the class and its bases; a class overrides its bases.
    """
    entries: dict[str, list[str]] = {}
    for one in reversed(kind.__mro__):
        section = re.search(r"^Attributes:\n((?:    .*\n|\n)+)", _own_doc(one), re.MULTILINE)
        name = ""
        for line in section[1].splitlines() if section else ():
            starts = re.match(r"    (\w+): ", line)
            if starts:
                name = starts[1]
                entries[name] = []
            if line:
                entries[name].append(line[4:])
    return [line for name in field_names(kind) for line in entries.get(name, [])]


def _own_doc(kind: type) -> str:
    doc = kind.__dict__.get("__doc__")
    return inspect.cleandoc(doc) + "\n" if isinstance(doc, str) else ""


def _python_parameter(option: Option) -> inspect.Parameter:
    hint = python_hint(option.hint)
    return inspect.Parameter(option.name, option.kind, default=option.default, annotation=hint)


def _returns(function: Callable[..., Any]) -> Any:
    return get_type_hints(function).get("return", EMPTY)


def python_hint(hint: Any) -> Any:
    """Convert a type to the one for Python callers: also texts for paths, one text for several."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if any(isinstance(mark, OrPath) for mark in hint.__metadata__):
            return str | Path
        return python_hint(inner[0])
    if origin in (Union, types.UnionType):
        return Union[tuple(python_hint(one) for one in inner)]  # noqa: UP007
    if origin is tuple or origin is Sequence or hint is Sequence:
        return str | Sequence[python_hint(inner[0])]  # type: ignore[misc]
    return str | Path if hint is Path else hint


def plain_hint(hint: Any) -> Any:
    """Remove `Annotated` and None from a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return plain_hint(inner[0])
    if origin in (Union, types.UnionType):
        return plain_hint(next(one for one in inner if one is not type(None)))
    return hint


def converted(name: str, value: Any, hint: Any) -> Any:
    """Convert a value to the option's type.

    Raises:
        OptionError: the value is of another type, or none of the choices.
    """
    kind, origin = plain_hint(hint), get_origin(plain_hint(hint))
    if value is None and _takes_none(hint):
        return None
    if origin is Literal:
        return _choice(name, value, get_args(kind))
    if origin is tuple or origin is Sequence:
        return _several(name, value, get_args(kind)[0])
    if isinstance(value, os.PathLike) and kind in (str, Path):
        value = str(value) if isinstance(value, Path) else os.fspath(value)
    if kind is Path and _takes_url(hint) and isinstance(value, str) and value:
        return location(value)
    return _plain(name, value, kind)


URL = re.compile(r"(https?|ftp|s3a?|gc?s|hf|az|abfss?|hdfs|memory|file):/+", re.IGNORECASE)


def check_no_url(name: str, text: str) -> None:
    """Refuse a URL where a path of this machine is expected.

    Raises:
        OptionError: it is a URL, even one whose slashes a `Path` has joined.
    """
    if URL.match(text):
        url = URL.sub(r"\1://", text, count=1)
        raise OptionError(
            f"{name} {url}: expected a file or folder of this machine, found a URL. Give a path, "
            "and copy from or to object storage with its own tools (the images of a list of URLs: "
            "clipdistill download)."
        )


def _plain(name: str, value: Any, kind: Any) -> Any:
    """Convert a value to a truth value, number, text or path."""
    expected, accepted = _KINDS.get(kind, ("", (object,)))
    if hasattr(value, "item") and kind in (int, float) and getattr(value, "ndim", 1) == 0:
        value = value.item()  # NumPy's numbers
    if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
        raise OptionError(f"{name}={value!r}: expected {expected}.")
    if kind is Path and not value:
        raise OptionError(f"{name}={value!r}: expected the path of a file or folder.")
    if kind is Path:
        check_no_url(name, str(value))
    if kind in (float, Path):
        return kind(value)
    return value


_KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("True or False", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str,)),
    Path: ("a path", (str,)),
}


def _takes_url(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return any(isinstance(mark, OrUrl) for mark in hint.__metadata__) or _takes_url(
            get_args(hint)[0]
        )
    return any(_takes_url(one) for one in get_args(hint))


def _takes_none(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _takes_none(get_args(hint)[0])
    return type(None) in get_args(hint)


def _choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    if value in choices and not isinstance(value, bool):
        return value
    listed = ", ".join(map(repr, choices))
    hint = did_you_mean(str(value), [str(one) for one in choices])
    raise OptionError(f"{name}={value!r}: expected one of {listed}.{hint}")


def _several(name: str, value: Any, kind: Any) -> tuple[Any, ...]:
    if isinstance(value, str | os.PathLike):
        value = (value,)
    if not isinstance(value, Iterable):
        raise OptionError(f"{name}={value!r}: expected a text or a list of texts.")
    return tuple(converted(name, one, kind) for one in value)
