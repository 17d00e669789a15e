"""Settings of `run` in a flat TOML file: read, checked, and written."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..core.errors import FormatError, InputError, did_you_mean
from ..core.files import write_bytes
from .options import RunOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HEAD = "# Settings of: clipdistill run PROMPTS OUT --config THIS_FILE\n"


def load_settings(path: Path) -> RunOptions:
    """Read settings; what the file does not name was not given.

    Raises:
        InputError: no such file, an unknown setting, or a value of another kind.
        FormatError: not TOML.
    """
    try:
        found = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{path}: no readable file of settings ({error.strerror or error}). Make one with: "
            "clipdistill run ... --save-config FILE.toml"
        ) from error
    except ValueError as error:
        raise FormatError(
            f"{path}: settings should be UTF-8 TOML, a line each like: num_epochs = 20 ({error})."
        ) from error
    return settings_from(found, path)


def settings_from(found: Mapping[str, Any], path: Path) -> RunOptions:
    """Convert plain values; settings that are not among them were not given.

    Args:
        found: name of a setting -> its value, as `RunOptions.to_settings` gives it.
        path: of the file that they are from, for messages.

    Raises:
        InputError: an unknown setting, or a value of another kind.
    """
    kinds = get_type_hints(RunOptions)
    known = [field.name for field in fields(RunOptions)]
    given = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in known:
            raise InputError(
                f"{path}: {key!r} is not a setting of run.{did_you_mean(name, known)} "
                "`clipdistill run --help` lists them."
            )
        given[name] = _converted(path, key, value, kinds[name])
    return RunOptions(**given)


def save_settings(path: Path, options: RunOptions) -> None:
    """Write every setting that has a value, atomically.

    Raises:
        InputError: a name in them is not Unicode, which TOML cannot hold.
        OutputError: it cannot be written.
    """
    lines = [f"{name} = {_toml(value)}\n" for name, value in options.to_settings().items()]
    try:
        data = "".join([HEAD, *lines]).encode()
    except UnicodeEncodeError as error:
        name = ascii(error.object[error.start : error.end])
        raise InputError(
            f"{path}: a name with the byte {name} is not Unicode and cannot stand in a TOML file. "
            "Rename it, or give it on the command line only."
        ) from error
    write_bytes(path, data)


def _toml(value: Any) -> str:
    """A text, number, boolean or list of texts in TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _converted(path: Path, key: str, value: Any, kind: Any) -> Any:
    """A value as the setting's type.

    Raises:
        InputError: it is of another kind.
    """
    if get_origin(kind) in (Union, UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value in choices:
            return value
        guess = did_you_mean(str(value), [str(one) for one in choices])
        raise _wrong(path, key, value, f"one of {', '.join(map(str, choices))}", guess)
    if get_origin(kind) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise _wrong(path, key, value, "a list of texts")
    what, accepted = {
        bool: ("true or false", (bool,)),
        int: ("a whole number", (int,)),
        float: ("a number", (int, float)),
        str: ("a text in quotes", (str,)),
        Path: ("a path in quotes", (str,)),
    }[kind]
    if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
        raise _wrong(path, key, value, what)
    return kind(value)


def _wrong(path: Path, key: str, value: Any, expected: str, guess: str = "") -> InputError:
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return InputError(f"{path}: {key} = {shown}: expected {expected}.{guess}")
