"""Command lines that do one step alone, for the record and the report."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any


def command(verb: str, *positional: object, **options: Any) -> str:
    """A command line; options that are None or empty are left out."""
    words = ["clipdistill", *verb.split(), *map(str, positional)]
    for name, value in options.items():
        words += _words(name, value)
    return shlex.join(words)


def changed(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options that have not their default."""
    usual = type(options)()
    return {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if getattr(options, field.name) != getattr(usual, field.name)
    }


def _words(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if value is True:
        return [option]
    if value is False:
        return ["--no-" + name.replace("_", "-")]
    if value is None or value == "":
        return []
    if isinstance(value, tuple):
        return [word for item in value for word in (option, str(item))]
    return [option, str(value)]
