"""Command lines of steps, as people would type them."""

from __future__ import annotations

import shlex
from typing import Any

from ...core.signatures import field_names


def command(verb: str, *positional: object, **options: Any) -> str:
    """A command line; options that are None or empty are left out, and so is the device "auto"."""
    words = ["clipdistill", *verb.split(), *map(str, positional)]
    for name, value in options.items():
        if (name, value) != ("device", "auto"):
            words += _words(name, value)
    return shlex.join(words)


def changed(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options that differ from their defaults."""
    usual = type(options)()
    return {
        name: getattr(options, name)
        for name in field_names(type(options))
        if getattr(options, name) != getattr(usual, name)
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
